//! The leader's failure detector: it resolves the suspicions of [`sessions`](super::sessions) about agents that are
//! silent, have failed or whose process is gone, and proposes their loss.

use std::{sync::Arc, time::Duration};

use robeing_fleet::{
    AgentCommand, AgentId, AgentState, Command, LossReason, SessionId,
    sabotage::{Mistake, planted},
};
use robeing_net::Transport;
use tokio::{task::JoinSet, time::Instant};
use tracing::{info, warn};

use crate::{
    apply::observer::ApplyObserver,
    clock::FleetClock,
    leader::{
        evidence::{GUARD_FIRST, Verdict},
        role::{until_leading, until_not_leading},
        sessions::{SessionTable, Suspicion},
        standing::Standing,
    },
    propose::{ProposeError, Proposer},
    read::StateReader,
};

/// How often agents are checked.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a process may take to accept or refuse a connection.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// Maximum number of agents whose loss is being confirmed or written at once.
const MAX_AT_ONCE: usize = 1_024;

/// The leader's failure detector. Cheap to clone.
#[derive(Clone)]
pub struct FailureDetector {
    pub standing: Standing,
    pub state: StateReader,
    pub proposer: Proposer,
    pub observer: Arc<ApplyObserver>,
    /// Probes agents' processes.
    pub transport: Transport,
    /// Used only if [`Mistake::SilenceByWallClock`] is planted.
    pub clock: FleetClock,
}

impl FailureDetector {
    /// Watches the agents while this coordinator leads. Runs until it stops.
    pub async fn run(self) {
        let mut raft_role = self.standing.roles();
        loop {
            let Some(term) = until_leading(&mut raft_role).await else { return };
            self.observer.sessions.begin(term);
            self.note_sessions().await;
            self.watch(term).await;
            self.observer.sessions.end(term);
        }
    }

    /// Registers every session of the state, so that agents that never connect to this leader are detected as silent,
    /// too. Sessions that begin meanwhile are registered when they are applied.
    async fn note_sessions(&self) {
        let mut after = None;
        while let Some(agents) = self.state.agents_after(after).await {
            after = agents.last().map(|agent| agent.id);
            let now = Instant::now();
            for agent in agents.iter().filter(|agent| agent.state != AgentState::Lost) {
                self.observer.sessions.started(agent.id, agent.session, agent.process, now);
            }
        }
    }

    async fn watch(&self, term: u64) {
        let (mut raft_role, sessions) = (self.standing.roles(), &self.observer.sessions);
        let mut pursuits: JoinSet<()> = JoinSet::new();
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                // Dropping the set cancels the tasks that resolve suspicions; the log decides about the losses that
                // they have proposed.
                () = until_not_leading(&mut raft_role, term) => return,
                Some(_) = pursuits.join_next() => {}
                () = next_look(sessions, looked), if pursuits.len() < MAX_AT_ONCE => {
                    let now = Instant::now();
                    let pause = now.duration_since(looked);
                    looked = now;
                    // This process stalled (it was stopped, or the machine was starved) and could not receive
                    // heartbeats; don't count that against the agents.
                    if pause > sessions.timing.timeout / 8 {
                        sessions.extend_all(pause);
                    }
                    if !self.standing.has_contact(term) {
                        sessions.without_contact(now);
                    }
                    let judged_at = if planted(Mistake::SilenceByWallClock) { self.by_wall_clock(now) } else { now };
                    for suspicion in sessions.suspicions(judged_at, MAX_AT_ONCE - pursuits.len()) {
                        pursuits.spawn(self.clone().resolve(term, suspicion));
                    }
                }
            }
        }
    }

    /// Returns `now`, moved by as much as this machine's wall clock is ahead of the fleet's.
    fn by_wall_clock(&self, now: Instant) -> Instant {
        let ahead = self.clock.offset().and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
        now + Duration::from_millis(ahead)
    }

    async fn resolve(self, term: u64, suspicion: Suspicion) {
        match suspicion {
            Suspicion::Silent(agent, session) => {
                self.lose(term, agent, session, LossReason::Silent).await;
            }
            Suspicion::Failed(agent, session) => {
                self.lose(term, agent, session, LossReason::Failed).await;
            }
            Suspicion::Probe(agent, session, process) => {
                let probed = async |waited| {
                    let accepted = self.transport.probe(&process.to_string(), PROBE_TIMEOUT).await;
                    self.observer.sessions.probed(agent, session, accepted, waited, Instant::now())
                };
                let mut verdict = probed(false).await;
                if verdict == Verdict::GoneUnlessGuarded {
                    tokio::time::sleep(GUARD_FIRST).await;
                    verdict = probed(true).await;
                }
                if verdict == Verdict::Gone {
                    self.lose(term, agent, session, LossReason::Disconnected).await;
                }
            }
        }
    }

    /// Proposes the loss of an agent, which the session table has already noted. Returns whether it was written.
    pub async fn lose(&self, term: u64, agent: AgentId, session: SessionId, reason: LossReason) -> bool {
        let name = self.state.look(|fleet| fleet.agent(agent).map(|agent| agent.name.to_string())).unwrap_or_default();
        info!(agent = name, ?reason, "agent lost");
        self.observer.recoveries.began(agent, Instant::now());
        match self.proposer.propose_in(term, Command::Agent(AgentCommand::Lost { agent, session, reason })).await {
            // The observer also ends the session when the command is applied.
            Ok(_) => {
                self.observer.sessions.ended(agent, session);
                true
            }
            // The term is over, and with it all of its sessions here. The next leader finds what was written.
            Err(ProposeError::NotLeader | ProposeError::Stopping) => false,
            Err(error) => {
                warn!(agent = name, %error, "the loss could not be written; it will be retried");
                self.observer.sessions.take_back(agent, session, Instant::now());
                false
            }
        }
    }
}

/// Waits until the next check, which is due at once when a process may be gone.
async fn next_look(sessions: &SessionTable, looked: Instant) {
    tokio::select! {
        () = sessions.hurried() => {}
        () = tokio::time::sleep_until(looked + LOOK_EVERY) => {}
    }
}
