//! The command `devkube`: a cluster of this library, held by a background process until `down`.

mod background;
mod image;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use devkube::{Cluster, Error, NODES, Options, Result, Tools, VOLUMES_PER_NODE, Wanted};

/// A throwaway Kubernetes cluster of several nodes on one machine, for tests and demos.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build the missing programs, and nothing else
    Build,
    /// Create a cluster; it runs in the background until `down`
    Up(Up),
    /// Remove a cluster and everything that it created
    Down {
        #[command(flatten)]
        which: Which,
        /// Remove all clusters in the temporary folder
        #[arg(long, conflicts_with = "run")]
        all: bool,
        /// Remove clusters in the temporary folder whose holding process is gone, such as those of interrupted tests
        #[arg(long, conflicts_with_all = ["run", "all"])]
        abandoned: bool,
    },
    /// Load images from OCI archives on every node
    Load {
        #[command(flatten)]
        which: Which,
        /// The archives, as `devkube image`, `docker save` or `podman save --format oci-archive` write them
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Cut a node off from all others
    Partition(Node),
    /// Power a node off abruptly: everything that runs on it is killed
    Crash(Node),
    /// Reconnect a node, and power it on if it is off
    Heal(Node),
    /// Print the shell settings for kubectl and helm: eval "$(devkube env)"
    Env {
        #[command(flatten)]
        which: Which,
    },
    /// Write an OCI archive of one layer, from files
    Image(image::Arguments),
    /// Hold a cluster; `up` runs this in the background
    #[command(hide = true)]
    Supervise(Up),
}

/// The cluster to create.
#[derive(Args, Clone)]
struct Up {
    /// Number of nodes
    #[arg(long, default_value_t = NODES)]
    nodes: usize,
    /// Number of local volumes on each node
    #[arg(long, default_value_t = VOLUMES_PER_NODE)]
    volumes: usize,
    /// Its folder, empty or new [default: a new one in the temporary folder]
    #[arg(long, env = "DEVKUBE_RUN")]
    run: Option<PathBuf>,
    /// If the cluster doesn't come up, keep it so that its logs can be read; remove it with `down`
    #[arg(long)]
    keep_failed: bool,
}

/// The cluster to act on.
#[derive(Args)]
struct Which {
    /// Its folder [default: the only one in the temporary folder]
    #[arg(long, env = "DEVKUBE_RUN")]
    run: Option<PathBuf>,
}

#[derive(Args)]
struct Node {
    #[command(flatten)]
    which: Which,
    /// Name of the node, such as n2; or cp for the control plane
    node: String,
}

impl From<Up> for Options {
    fn from(up: Up) -> Self {
        Self {
            nodes: up.nodes,
            volumes_per_node: up.volumes,
            run: up.run,
            supervised: true,
            keep_failed: up.keep_failed,
        }
    }
}

impl Which {
    fn cluster(&self) -> Result<Cluster> {
        match &self.run {
            Some(run) => Cluster::attach(run),
            None => match &Cluster::list()[..] {
                [] => Err(Error::NoCluster),
                [only] => Cluster::attach(only),
                several => Err(Error::SeveralClusters(several.to_vec())),
            },
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("devkube: no threads could be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(act(arguments.action)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("devkube: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn act(action: Action) -> Result<ExitCode> {
    match action {
        Action::Build => {
            let mut ends = background::Ends::new()?;
            tokio::select! {
                tools = Tools::ensure(Wanted::Cluster, &say) => println!("{}", tools?.path().display()),
                // Dropping an unfinished build stops it.
                () = ends.next() => {
                    say("interrupted: the build is stopped");
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Action::Up(up) => return background::start(&up).await,
        Action::Supervise(up) => background::hold(up.into()).await?,
        Action::Down { all: true, .. } => {
            for run in Cluster::list() {
                Cluster::attach(&run)?.down().await?;
            }
        }
        Action::Down { abandoned: true, .. } => Cluster::remove_abandoned(&say).await?,
        Action::Down { which, .. } => which.cluster()?.down().await?,
        Action::Load { which, archives } => {
            let cluster = which.cluster()?;
            for archive in archives {
                cluster.load(&archive).await?;
            }
        }
        Action::Partition(node) => node.which.cluster()?.partition(&node.node).await?,
        Action::Crash(node) => node.which.cluster()?.crash(&node.node).await?,
        Action::Heal(node) => node.which.cluster()?.heal(&node.node).await?,
        Action::Env { which } => {
            let clients = which.cluster()?.clients();
            println!("export KUBECONFIG='{}'", clients.kubeconfig().display());
            println!("export PATH='{}':\"$PATH\"", clients.path().display());
        }
        Action::Image(arguments) => image::write(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn say(text: &str) {
    eprintln!("devkube: {text}");
}
