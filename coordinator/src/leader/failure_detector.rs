//! The leader's watch over its agents: looks after those that [`sessions`](super::sessions) finds silent or whose process is gone, and
//! has their loss written.

use std::{sync::Arc, time::Duration};

use robeing_fleet::{
    AgentId, AgentState, Command, LossReason, SessionId,
    sabotage::{Mistake, planted},
};
use tokio::{task::JoinSet, time::Instant};
use tracing::{info, warn};

use crate::{
    leader::{
        evidence::{GUARD_FIRST, Verdict},
        role::{until_leading, until_not_leading},
        sessions::{SessionTable, Suspicion},
    },
    node::Node,
    propose::ProposeError,
};

/// How often agents are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a process may take to accept or refuse a connection.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// Agents whose loss is being found out or written at once.
const MAX_AT_ONCE: usize = 1_024;

/// Watches as long as this coordinator leads; runs until the node stops.
pub async fn run(node: Arc<Node>) {
    let mut raft_role = node.raft_role.clone();
    loop {
        let Some(term) = until_leading(&mut raft_role).await else { return };
        node.observer.sessions.begin(term);
        note_sessions(&node).await;
        watch(&node, term).await;
        node.observer.sessions.end(term);
    }
}

/// Notes every session of the state, so that agents that never come to this leader are missed, too. Those that begin
/// meanwhile are noted when they are applied.
async fn note_sessions(node: &Node) {
    let mut after = None;
    while let Some(agents) = node.agents_after(after).await {
        after = agents.last().map(|agent| agent.id);
        let now = Instant::now();
        for agent in agents.iter().filter(|agent| agent.state != AgentState::Lost) {
            node.observer.sessions.started(agent.id, agent.session, agent.process, now);
        }
    }
}

async fn watch(node: &Arc<Node>, term: u64) {
    let mut raft_role = node.raft_role.clone();
    let mut pursuits: JoinSet<()> = JoinSet::new();
    let mut looked = Instant::now();
    loop {
        tokio::select! {
            // Pursuits in flight end with the set; what they proposed is decided by the log.
            () = until_not_leading(&mut raft_role, term) => return,
            Some(_) = pursuits.join_next() => {}
            () = next_look(&node.observer.sessions, looked), if pursuits.len() < MAX_AT_ONCE => {
                let now = Instant::now();
                let pause = now.duration_since(looked);
                looked = now;
                // Held up itself (a stopped process, a starved machine), it heard nobody: that is no agent's fault.
                if pause > node.observer.sessions.timing.timeout / 8 {
                    node.observer.sessions.excuse(pause);
                }
                if !node.has_contact(term) {
                    node.observer.sessions.without_contact(now);
                }
                let judged_at = if planted(Mistake::SilenceByWallClock) { by_wall_clock(node, now) } else { now };
                for suspicion in node.observer.sessions.suspicions(judged_at, MAX_AT_ONCE - pursuits.len()) {
                    pursuits.spawn(pursue(Arc::clone(node), term, suspicion));
                }
            }
        }
    }
}

/// A moment as this machine's wall clock has it, which may be wrong.
fn by_wall_clock(node: &Node, now: Instant) -> Instant {
    let ahead = node.clock.offset().and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
    now + Duration::from_millis(ahead)
}

/// Waits until it is time to look, which is at once when somebody's process may be gone.
async fn next_look(sessions: &SessionTable, looked: Instant) {
    tokio::select! {
        () = sessions.hurried() => {}
        () = tokio::time::sleep_until(looked + LOOK_EVERY) => {}
    }
}

async fn pursue(node: Arc<Node>, term: u64, suspicion: Suspicion) {
    match suspicion {
        Suspicion::Silent(agent, session) => {
            lose(&node, term, agent, session, LossReason::Silent).await;
        }
        Suspicion::Failed(agent, session) => {
            lose(&node, term, agent, session, LossReason::Failed).await;
        }
        Suspicion::Probe(agent, session, process) => {
            let probed = async |waited| {
                let accepted = node.transport.probe(&process.to_string(), PROBE_TIMEOUT).await;
                node.observer.sessions.probed(agent, session, accepted, waited, Instant::now())
            };
            let mut verdict = probed(false).await;
            if verdict == Verdict::GoneUnlessGuarded {
                tokio::time::sleep(GUARD_FIRST).await;
                verdict = probed(true).await;
            }
            if verdict == Verdict::Gone {
                lose(&node, term, agent, session, LossReason::Disconnected).await;
            }
        }
    }
}

/// Proposes the loss of an agent, which the session table has taken note of. Whether it was written.
pub(crate) async fn lose(node: &Node, term: u64, agent: AgentId, session: SessionId, reason: LossReason) -> bool {
    let name = node.look(|fleet| fleet.agent(agent).map(|agent| agent.name.to_string())).unwrap_or_default();
    info!(agent = name, ?reason, "agent lost");
    node.observer.recoveries.began(agent, Instant::now());
    match node.proposer.propose_in(term, Command::AgentLost { agent, session, reason }).await {
        // The session was ended when the command was applied, too.
        Ok(_) => {
            node.observer.sessions.ended(agent, session);
            true
        }
        // The term is over, and with it every session of it here. The next leader finds what was written.
        Err(ProposeError::NotLeader | ProposeError::Stopping) => false,
        Err(error) => {
            warn!(agent = name, %error, "the loss could not be written; it will be tried again");
            node.observer.sessions.take_back(agent, session, Instant::now());
            false
        }
    }
}
