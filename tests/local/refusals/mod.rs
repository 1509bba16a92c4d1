//! Attacks on a running fleet with TLS. Each is refused with the right code, or by the right alert, and counted by the
//! process that refused it; the fleet keeps working.

mod calls;
mod connections;
mod enrolment;
mod flood;
mod frames;
mod liar;
mod packets;

use robeing_identity::PeerRole;
use robeing_proto::{
    internal::v1::{EnrolRequest, enrol_request::Proof, enrolment_client::EnrolmentClient},
    v1::Role,
};
use robeing_tests::{
    attached::Attached,
    counter::Counter,
    fleet::{Fleet, FleetSpec, PoolSpec},
    ports::Ports,
    thief::{CLUSTER, Stolen, Thief, now},
};
use serde_json::json;
use tonic::Code;

/// The agent of a scene.
const VICTIM: &str = "victim-0";
/// The pool of this agent.
const POOL: &str = "victim";

/// A fleet under attack: coordinators, and one agent whose metrics can be read.
struct Scene {
    fleet: Fleet,
    thief: Thief,
    /// The address of the first coordinator, and that of the agent.
    coordinator: String,
    agent: String,
    /// Where the agent serves its metrics.
    agent_metrics: String,
    _ports: Ports,
}

impl Scene {
    /// Starts a fleet whose agent runs tasks as scripts.
    async fn start(coordinators: u32) -> Self {
        let (spec, ports) = spec(coordinators, PoolSpec::new(POOL, 1));
        Self::of(Fleet::start(spec).await, ports).await
    }

    /// Starts a fleet of one coordinator, whose agent has a process that handles messages.
    async fn with_process() -> (Self, Attached) {
        let (spec, ports) = spec(1, PoolSpec::new(POOL, 1).executor(json!({"worker": {}})));
        let mut fleet = Fleet::prepare(spec);
        fleet.start_all();
        let attached = Attached::to(&fleet.attach_address(VICTIM)).await;
        fleet.ready().await;
        (Self::of(fleet, ports).await, attached)
    }

    /// Enrols another agent with this role, by a token for this name and pool.
    async fn enrolled(&self, (certified, role): (PeerRole, Role), name: &str, pool: &str) -> Stolen {
        let identity = self.thief.nobody();
        let request = EnrolRequest {
            cluster_id: CLUSTER.into(),
            name: name.into(),
            role: role.into(),
            pool: pool.into(),
            signing_request: identity.signing_request().into(),
            proof: Some(Proof::JoinToken(self.thief.token(certified, pool, Some(name), now()))),
        };
        let enrolled = EnrolmentClient::new(identity.channel(&self.coordinator)).enrol(request).await;
        identity.certified_by(&enrolled.expect("it has a token").into_inner().certificate)
    }

    async fn of(fleet: Fleet, ports: Ports) -> Self {
        let agent = fleet.agent_such(VICTIM, "the agent", |_| true).await.address;
        Self {
            thief: Thief::in_dir(fleet.dir()),
            coordinator: fleet.address("coordinator-0"),
            agent,
            agent_metrics: metrics(&ports),
            fleet,
            _ports: ports,
        }
    }

    /// Returns the same fleet after its agent has restarted, which has another address since.
    async fn refreshed(self) -> Self {
        let agent = self.fleet.agent_such(VICTIM, "the agent elsewhere", |agent| agent.address != self.agent).await;
        Self { agent: agent.address, ..self }
    }

    /// Begins to look at a counter of the first coordinator.
    async fn at_coordinator(&self, name: &str) -> Counter {
        Counter::of(&self.fleet.metrics_address("coordinator-0"), name).await
    }

    /// Begins to look at a counter of the agent.
    async fn at_agent(&self, name: &str) -> Counter {
        Counter::of(&self.agent_metrics, name).await
    }
}

fn spec(coordinators: u32, pool: PoolSpec) -> (FleetSpec, Ports) {
    let ports = Ports::take(1);
    let pool = pool.flag("metrics-listen", &metrics(&ports));
    // Long, because scripted agents send no heartbeats.
    (FleetSpec::new(coordinators).pool(pool).session_timeout("60s").with_tls(), ports)
}

fn metrics(ports: &Ports) -> String {
    format!("127.0.0.1:{}", ports.numbers()[0])
}

/// Returns the name of the counter of refused connections.
fn refused_connections(reason: &str) -> String {
    format!("robeing_connections_refused_total{{reason=\"{reason}\"}}")
}

/// Returns the name of the counter of refused calls of a method, `package.Service/Method`.
fn refused_calls(method: &str, code: Code) -> String {
    format!("robeing_calls_refused_total{{method=\"{method}\",code=\"{code:?}\"}}")
}

/// Returns the name of the counter of failed calls of a method, `package.Service/Method`.
fn failed_calls(method: &str, code: Code) -> String {
    format!("robeing_calls_failed_total{{method=\"{method}\",code=\"{code:?}\"}}")
}

/// Returns the name of an agent's counter of rejected packets and streams.
fn rejections(reason: &str) -> String {
    format!("robeing_agent_message_rejections_total{{reason=\"{reason}\"}}")
}
