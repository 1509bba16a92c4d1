//! The leader's watch over its agents: whose process is gone, and who is silent for too long.

use std::{sync::Arc, time::Duration};

use robeing_fleet::{AgentId, Command, LossReason, SessionId};
use tokio::{task::JoinSet, time::Instant};
use tracing::{info, warn};

use super::{
    leadership::{until_leading, until_not_leading},
    node::Node,
    registry::Suspicion,
};

/// How often agents are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked for agents that have a session and were never connected here.
const ADOPT_EVERY: Duration = Duration::from_millis(200);
/// How long a process may take to accept or refuse a connection.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// Agents whose loss is being found out or written at once.
const MAX_AT_ONCE: usize = 1_024;

/// Watches as long as this coordinator leads; runs until the node stops.
pub async fn run(node: Arc<Node>) {
    let mut standing = node.standing.clone();
    loop {
        let Some(term) = until_leading(&mut standing).await else { return };
        let now = Instant::now();
        node.look(|fleet| node.hub.registry.begin(term, fleet, now));
        watch(&node, term).await;
        node.hub.registry.end(term);
    }
}

async fn watch(node: &Arc<Node>, term: u64) {
    let mut standing = node.standing.clone();
    let mut pursuits: JoinSet<()> = JoinSet::new();
    let mut looked = Instant::now();
    let mut adopted = looked;
    loop {
        tokio::select! {
            // Pursuits in flight end with the set; what they proposed is decided by the log.
            () = until_not_leading(&mut standing, term) => return,
            Some(_) = pursuits.join_next() => {}
            () = tokio::time::sleep_until(looked + LOOK_EVERY), if pursuits.len() < MAX_AT_ONCE => {
                let now = Instant::now();
                let pause = now.duration_since(looked);
                looked = now;
                // Held up itself (a stopped process, a starved machine), it heard nobody: that is no agent's fault.
                if pause > node.hub.registry.timing.timeout / 8 {
                    node.hub.registry.excuse(pause);
                }
                if !node.has_contact(term) {
                    node.hub.registry.without_contact(now);
                }
                if now.duration_since(adopted) >= ADOPT_EVERY {
                    adopted = now;
                    node.look(|fleet| node.hub.registry.adopt(term, fleet, now));
                }
                for suspicion in node.hub.registry.suspicions(now) {
                    pursuits.spawn(pursue(Arc::clone(node), suspicion));
                }
            }
        }
    }
}

async fn pursue(node: Arc<Node>, suspicion: Suspicion) {
    match suspicion {
        Suspicion::Silent(agent, session) => lose(&node, agent, session, LossReason::Silent).await,
        Suspicion::Probe(agent, session, process) => {
            let alive = node.transport.probe(process, PROBE_TIMEOUT).await;
            if node.hub.registry.probed(agent, session, alive, Instant::now()) {
                lose(&node, agent, session, LossReason::Disconnected).await;
            }
        }
    }
}

async fn lose(node: &Node, agent: AgentId, session: SessionId, reason: LossReason) {
    let name = node.look(|fleet| fleet.agent(agent).map(|agent| agent.name.to_string())).unwrap_or_default();
    info!(agent = name, ?reason, "agent lost");
    if let Err(error) = node.proposer.propose_one(Command::AgentLost { agent, session, reason }).await {
        warn!(agent = name, %error, "the loss could not be written; it will be tried again");
        node.hub.registry.take_back(agent, session);
    }
}
