//! The arguments of `dev`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `dev`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The fleet's endpoints are written to a file that only this user can read, in $XDG_RUNTIME_DIR/robeing or \
/run/user/UID/robeing or, if the user has no such directory, in $TMPDIR/robeing-UID or /tmp/robeing-UID. Other \
commands with the same values of these variables find the newest running fleet automatically; --fleet NAME selects \
one of several, and --endpoint reaches any.

Commands run directly on this machine: a pool's `container` only applies on Kubernetes.

Ctrl-C and SIGTERM stop the fleet gracefully: agents get some seconds to finish running tasks and hand back the rest, \
then the coordinators stop. A second Ctrl-C kills everything at once. Either way, and even if this process is killed \
with SIGKILL, no coordinator, agent or process group of a command keeps running; only a process that left its group \
with setsid does. A temporary directory that is left behind after SIGKILL is removed by the next `robeing dev`.

Each messenger serves a gateway on a port of its own; its URL is printed.

Header values that an http executor takes from Secrets, and the secrets of webhooks, come from the Secrets in the \
manifest; webhooks without one are not called. A manifest contains one RobeingCluster; other resources in it are \
ignored.")]
pub struct DevArgs {
    /// The manifest of a RobeingCluster; - reads standard input
    #[arg(short, long = "filename", value_name = "MANIFEST")]
    pub filename: PathBuf,

    /// The directory for the fleet's data, so that the fleet continues where it was when it is restarted: a new or
    /// empty directory, or one from an earlier run. Without it, a temporary directory that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// The name of the fleet, instead of the manifest's
    #[arg(long)]
    pub name: Option<String>,

    /// The port of the first coordinator. The other coordinators use the ports after it, followed by the agents that
    /// your processes attach to, and by the gateways of messengers. Without it, free ports
    #[arg(long, value_name = "BASE", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// Run the fleet without TLS and certificates: anyone on this machine can take part in it
    #[arg(long)]
    pub plaintext: bool,

    /// The robeing-agent program. Without it, the one beside this program, else the one in PATH
    #[arg(long, env = "ROBEING_AGENT_BIN", hide_env_values = true, value_name = "PATH")]
    pub agent_bin: Option<PathBuf>,

    /// Print events as lines, even on a terminal
    #[arg(long)]
    pub plain: bool,
}
