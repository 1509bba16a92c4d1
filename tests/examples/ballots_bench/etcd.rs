//! The same ballots in etcd, as one would keep them there: a transaction that creates the ballot's key, and one for each
//! vote, which writes the vote's key if the ballot exists and the member has not voted. A cluster of three members with
//! its defaults, which syncs what it has committed. It counts nothing and verifies no signature.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::uri::PathAndQuery;
use prost::Message;
use robeing_client::new_ballot_id;
use robeing_identity::PeerRole;
use robeing_net::{CONNECT_TIMEOUT, Transport, security::Expected};
use robeing_platform::Platform;
use robeing_tests::{ports::Ports, processes::Process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::{Request, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{
    messages::{Compare, Put, Status, StatusRequest, Transaction, TransactionResult},
    voters::{FleetAuthority, Voter, opening},
};

const MEMBERS: usize = 3;
/// How long the members may take to elect a leader.
const READY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// A member of the cluster.
struct Place {
    name: String,
    /// Ports for gRPC, for HTTP, and for the other members. HTTP has a port of its own, as etcd recommends: a port for
    /// both serves gRPC with TLS more slowly.
    ports: [u16; 3],
}

impl Place {
    fn client(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    fn peer(&self) -> String {
        format!("127.0.0.1:{}", self.ports[2])
    }

    /// Returns the command line.
    fn arguments(&self, folder: &Path, all: &[Self], tls: bool) -> Vec<String> {
        let scheme = if tls { "https" } else { "http" };
        let peers = all.iter().map(|one| format!("{}={scheme}://{}", one.name, one.peer())).collect::<Vec<_>>();
        let mut arguments = vec![
            format!("--name={}", self.name),
            format!("--data-dir={}", folder.join(&self.name).display()),
            format!("--listen-client-urls={scheme}://{}", self.client()),
            format!("--listen-client-http-urls={scheme}://127.0.0.1:{}", self.ports[1]),
            format!("--advertise-client-urls={scheme}://{}", self.client()),
            format!("--listen-peer-urls={scheme}://{}", self.peer()),
            format!("--initial-advertise-peer-urls={scheme}://{}", self.peer()),
            format!("--initial-cluster={}", peers.join(",")),
            "--initial-cluster-state=new".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        if tls {
            let file = |ending: &str| folder.join(format!("{}.{ending}", self.name)).display().to_string();
            let (certificate, key, authority) = (file("pem"), file("key"), folder.join("ca.pem").display().to_string());
            for prefix in ["", "peer-"] {
                arguments.push(format!("--{prefix}cert-file={certificate}"));
                arguments.push(format!("--{prefix}key-file={key}"));
                arguments.push(format!("--{prefix}trusted-ca-file={authority}"));
                arguments.push(format!("--{prefix}client-cert-auth"));
            }
        }
        arguments
    }
}

/// A cluster, and the members of the ballots.
pub struct Etcd {
    processes: Vec<Process>,
    voters: Vec<Voter>,
    /// To the leader, one for each member of the ballots.
    channels: Vec<Channel>,
    next: AtomicUsize,
    _ports: Ports,
    _folder: TempDir,
}

impl Etcd {
    /// Starts a cluster in a directory, with mutual TLS if there is an authority, and waits until a ballot is written.
    ///
    /// # Errors
    /// If the cluster does not start.
    pub async fn start(program: &Path, data: &Path, authority: Option<&FleetAuthority>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("etcd-").tempdir_in(data)?;
        let ports = Ports::take(3 * MEMBERS);
        let places = ports.numbers().chunks_exact(3).enumerate();
        let place = |(number, ports): (usize, &[u16])| Place {
            name: format!("etcd-{number}"),
            ports: [ports[0], ports[1], ports[2]],
        };
        let places: Vec<Place> = places.map(place).collect();
        if let Some(authority) = authority {
            write_certificates(authority, &places, folder.path())?;
        }
        let start = |place: &Place| {
            let arguments = place.arguments(folder.path(), &places, authority.is_some());
            Process::start(&place.name, program, &arguments, &folder.path().join("etcd.log"))
        };
        let processes: Vec<Process> = places.iter().map(start).collect();
        let voters = Voter::all(authority)?;
        let channels = match connect_to_leader(&voters, &places).await {
            Ok(channels) => channels,
            Err(error) => {
                // All members have one log.
                let log = processes.first().map(Process::log).unwrap_or_default();
                bail!("{error:#}; the log of etcd:\n{log}");
            }
        };
        let etcd = Self { processes, voters, channels, next: AtomicUsize::new(0), _ports: ports, _folder: folder };
        etcd.ballot().await?;
        Ok(etcd)
    }

    /// Writes a ballot, and all votes at once.
    ///
    /// # Errors
    /// If a transaction fails, or its comparison does.
    pub async fn ballot(&self) -> Result<()> {
        let id = new_ballot_id();
        let ballot = Bytes::from(format!("ballots/{id}"));
        let opener = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        let open = Transaction::put_if(
            vec![Compare::is_absent(ballot.clone())],
            Put { key: ballot.clone(), value: opening(&id, &self.voters).encode_to_vec().into() },
        );
        write(&self.channels[opener], open).await?;
        let votes = self.voters.iter().zip(&self.channels).enumerate().map(|(number, (voter, channel))| {
            let (value, ballot) = (voter.written(), ballot.clone());
            let key = Bytes::from(format!("ballots/{id}/votes/{number}"));
            async move {
                let compare = vec![Compare::exists(ballot), Compare::is_absent(key.clone())];
                write(channel, Transaction::put_if(compare, Put { key, value })).await
            }
        });
        try_join_all(votes).await?;
        Ok(())
    }

    /// Returns the process ids of the members.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }
}

/// Writes the certificates of all members.
fn write_certificates(authority: &FleetAuthority, places: &[Place], folder: &Path) -> Result<()> {
    fs::write(folder.join("ca.pem"), authority.certificate_pem())?;
    for place in places {
        let certified = authority.certify(PeerRole::Worker, &place.name, &["127.0.0.1".to_owned()])?;
        let (certificate, key) = certified.to_pem();
        fs::write(folder.join(format!("{}.pem", place.name)), certificate)?;
        fs::write(folder.join(format!("{}.key", place.name)), key)?;
    }
    Ok(())
}

/// Waits until the cluster has a leader, and connects every member of the ballots to it.
async fn connect_to_leader(voters: &[Voter], places: &[Place]) -> Result<Vec<Channel>> {
    let first = voters.first().context("there are no members")?;
    let deadline = Instant::now() + READY;
    let leader = loop {
        match leader(first, places).await {
            Ok(leader) => break leader,
            Err(error) if Instant::now() >= deadline => return Err(error.context("etcd has no leader")),
            Err(_) => sleep(POLL).await,
        }
    };
    try_join_all(voters.iter().map(|voter| connect(voter, leader))).await
}

/// Returns the member that leads.
async fn leader<'a>(voter: &Voter, places: &'a [Place]) -> Result<&'a Place> {
    for place in places {
        let channel = connect(voter, place).await?;
        let status: Status = call(&channel, "/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
        let own = status.header.context("the status has no header")?.member_id;
        if status.leader != 0 && status.leader == own {
            return Ok(place);
        }
    }
    bail!("no member leads")
}

async fn connect(voter: &Voter, place: &Place) -> Result<Channel> {
    let network = Platform::real().network;
    let transport = match voter.security().tls() {
        Some(tls) => Transport::secured(network, tls.clone()),
        None => Transport::new(network),
    };
    let expected = Expected::Agent(place.name.clone());
    Ok(transport.connect_to(&place.client(), expected, CONNECT_TIMEOUT).await?)
}

/// Carries out a transaction.
async fn write(channel: &Channel, transaction: Transaction) -> Result<()> {
    let result: TransactionResult = call(channel, "/etcdserverpb.KV/Txn", transaction).await?;
    ensure!(result.succeeded, "the comparison of a transaction has failed");
    Ok(())
}

async fn call<Q, A>(channel: &Channel, path: &'static str, request: Q) -> Result<A>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await?;
    let codec = ProstCodec::<Q, A>::default();
    Ok(client.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
}
