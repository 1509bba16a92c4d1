//! Shared by the tests: agents on loopback that know each other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use robeing_agent::messaging::{
    Address, Directory, Entry, MessagePolicy, Messenger, NoPolicies, Outcome, Outgoing, Presence, Role, Snapshot,
    driver::{Authentication, Deps, MessagingMetrics, Plaintext},
    handlers::{Handler, InboxHandler},
};
use robeing_net::Transport;
use robeing_platform::Platform;
use robeing_telemetry::Metrics;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;

/// How long these tests wait for anything at most, on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// The agents of a test.
#[derive(Default)]
pub struct Known(Mutex<BTreeMap<Arc<str>, Entry>>);

impl Directory for Known {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(self.0.lock().unwrap().values().cloned().collect())
    }
}

/// An agent.
pub struct Agent {
    pub messenger: Messenger,
    _stop: DropGuard,
}

impl Agent {
    /// Starts an agent with this handler.
    pub async fn new(known: &Arc<Known>, name: &str, handler: Arc<dyn Handler>) -> Self {
        Self::with_policy(known, name, handler, Arc::new(NoPolicies)).await
    }

    /// Starts an agent with this handler and these policies.
    pub async fn with_policy(
        known: &Arc<Known>,
        name: &str,
        handler: Arc<dyn Handler>,
        policy: Arc<dyn MessagePolicy>,
    ) -> Self {
        let platform = Platform::real();
        let transport = Transport::new(Arc::clone(&platform.network));
        let bound = transport.bind("127.0.0.1:0").await.expect("a free port");
        let address = bound.local_addr().expect("an address").to_string();
        let stop = CancellationToken::new();
        let deps = Deps {
            name: name.into(),
            role: Role::Worker,
            directory: Arc::clone(known) as Arc<dyn Directory>,
            connect: Arc::new(Plaintext(transport)),
            platform,
            handler,
            policy,
            keys: Vec::new(),
            data: None,
            metrics: MessagingMetrics::new(&Metrics::default()),
            stop: stop.clone(),
        };
        let messenger = Messenger::start(deps).await.expect("a messenger");
        tokio::spawn(bound.serve(Routes::new(messenger.service(Authentication::Hello)), stop.clone()));
        let entry = Entry {
            name: name.into(),
            role: Role::Worker,
            pool: "".into(),
            skills: Default::default(),
            address: address.into(),
            presence: Presence::Active,
            score: 0.0,
            spiffe_id: "".into(),
            sealing_key: None,
            team: "".into(),
        };
        known.0.lock().unwrap().insert(name.into(), entry);
        Self { messenger, _stop: stop.drop_guard() }
    }

    pub async fn send(&self, to: &str, kind: &str, payload: &'static str) -> Outcome {
        tokio::time::timeout(SOON, self.messenger.send(outgoing(to, kind, payload))).await.expect("an outcome in time")
    }
}

/// Returns a message to this agent.
pub fn outgoing(to: &str, kind: &str, payload: &'static str) -> Outgoing {
    Outgoing::new(to.parse::<Address>().expect("an address"), kind, payload)
}

/// Starts an agent that sends, `sender`, and one with this handler, `receiver`.
pub async fn pair(handler: impl Handler) -> (Agent, Agent) {
    let known = Arc::new(Known::default());
    let sender = Agent::new(&known, "sender", Arc::new(InboxHandler::default())).await;
    (sender, Agent::new(&known, "receiver", Arc::new(handler)).await)
}

/// Returns the acceptance with this reply.
pub fn accepted(reply: &'static str) -> Outcome {
    Outcome::accepted(Some(reply.into()))
}
