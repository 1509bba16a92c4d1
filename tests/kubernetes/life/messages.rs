//! Messages of a client to the agents of a fleet on Kubernetes, while it is hurt.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use robeing_client::{FleetClient, new_message_id};
use robeing_proto::v1::{MessageCode, MessageStatus, SendMessageRequest};
use robeing_tests::wait::{check, eventually};
use tokio::{task::JoinHandle, time::interval};

/// How often a message is sent.
const EVERY: Duration = Duration::from_millis(250);
/// How long a message may take: longer than an election, and than it takes to notice a node that is gone.
const DEADLINE_SECONDS: i64 = 20;

/// Messages that are sent one after another, each to the best agent.
pub struct Sent {
    accepted: Arc<AtomicUsize>,
    sending: JoinHandle<()>,
}

impl Sent {
    /// Begins to send messages.
    pub fn start(client: &FleetClient) -> Self {
        let (client, accepted) = (client.clone(), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&accepted);
        let sending = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            loop {
                ticks.tick().await;
                let sent = client.send_message(request("role:worker", false)).await;
                let all = sent.is_ok_and(|sent| sent.outcomes.iter().all(is_accepted) && !sent.outcomes.is_empty());
                counter.fetch_add(usize::from(all), Ordering::Relaxed);
            }
        });
        Self { accepted, sending }
    }

    /// Waits until further messages are accepted.
    pub async fn go_on(&self) {
        let before = self.accepted.load(Ordering::Relaxed);
        eventually("agents accept further messages", async || {
            let accepted = self.accepted.load(Ordering::Relaxed);
            check(accepted > before + 2, (), accepted)
        })
        .await;
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.sending.abort();
    }
}

/// Sends a message to all agents, and waits until this many have accepted one.
pub async fn all_accept(client: &FleetClient, agents: usize) {
    eventually(&format!("{agents} agents accept a message"), async || {
        match client.send_message(request("everyone", true)).await {
            Ok(sent) => {
                let all = sent.outcomes.len() == agents && sent.outcomes.iter().all(is_accepted);
                check(all, (), format!("{:?}", sent.outcomes))
            }
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

fn is_accepted(status: &MessageStatus) -> bool {
    status.code() == MessageCode::Accepted
}

fn request(to: &str, broadcast: bool) -> SendMessageRequest {
    SendMessageRequest {
        id: new_message_id(),
        to: to.into(),
        r#type: "test".into(),
        payload: "hello".into(),
        deadline: Some(prost_types::Duration { seconds: DEADLINE_SECONDS, nanos: 0 }),
        broadcast,
        ..SendMessageRequest::default()
    }
}
