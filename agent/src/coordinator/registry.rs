//! The sessions that this coordinator serves as leader: who is connected, when each agent was last heard of, and what waits to
//! be sent to it. Heartbeats are noted here and nowhere else; only their absence becomes a command.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use robeing_fleet::{
    AgentId, AgentState, Fleet, FleetMillis, HeldState, SessionId, TaskId,
    sabotage::{Mistake, planted},
};
use robeing_proto::v1::{Assignment, AttemptRef, CompletionAck};
use tokio::{sync::Notify, time::Instant};

/// What waits to be sent to one agent. Bounded by the agent's slots and by the completions it has sent.
#[derive(Default)]
pub struct Outbox {
    /// Work.
    pub assignments: Vec<Assignment>,
    /// Attempts to stop.
    pub stops: Vec<AttemptRef>,
    /// Completions that were applied.
    pub acks: Vec<CompletionAck>,
    /// The newest heartbeat to be answered.
    pub heartbeat: Option<u64>,
    /// The drain was taken note of.
    pub drained: bool,
    /// The session is over, and why.
    pub ended: Option<String>,
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.assignments.is_empty()
            && self.stops.is_empty()
            && self.acks.is_empty()
            && self.heartbeat.is_none()
            && !self.drained
            && self.ended.is_none()
    }
}

/// One connection of an agent.
#[derive(Default)]
pub struct Link {
    outbox: Mutex<Outbox>,
    news: Notify,
}

impl Link {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what waits to be sent.
    pub fn put(&self, change: impl FnOnce(&mut Outbox)) {
        change(&mut self.outbox());
        self.news.notify_one();
    }

    /// Takes all that waits, when there is something. Cancellation-safe.
    pub async fn take(&self) -> Outbox {
        loop {
            let content = std::mem::take(&mut *self.outbox());
            if !content.is_empty() {
                return content;
            }
            self.news.notified().await;
        }
    }
}

/// An agent that has a session.
struct Entry {
    session: SessionId,
    /// Of the leadership that it is served under.
    term: u64,
    /// Where its process listens for certain.
    process: Option<SocketAddr>,
    heard: Instant,
    link: Option<Arc<Link>>,
    /// Since when there is no connection.
    dropped: Option<Instant>,
    /// When its process is to be looked for.
    probe_at: Option<Instant>,
    /// Its loss was proposed.
    losing: bool,
}

/// What is to be done about an agent that is not heard of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Suspicion {
    /// It had its time: lost.
    Silent(AgentId, SessionId),
    /// Its connection broke: look whether its process is still there.
    Probe(AgentId, SessionId, SocketAddr),
}

/// Timing of sessions.
#[derive(Clone, Copy, Debug)]
pub struct SessionTiming {
    /// How often agents send heartbeats.
    pub heartbeat_interval: Duration,
    /// After how long without one an agent is lost.
    pub timeout: Duration,
    /// How long after a connection broke the agent's process is looked for.
    pub grace: Duration,
}

impl SessionTiming {
    /// How old the leader's last contact with a majority may be when it answers a heartbeat: half of the quarter of the
    /// timeout by which an agent's lease ends early. So a leader that was replaced without knowing can't keep an agent working
    /// longer than the new leader waits for it, and the agent has the other half for stopping.
    pub fn lease_margin(&self) -> Duration {
        self.timeout / 8
    }
}

/// Pause between two looks at the same process.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// The sessions of one coordinator. Empty while it does not lead.
pub struct Registry {
    /// The timing.
    pub timing: SessionTiming,
    entries: Mutex<BTreeMap<AgentId, Entry>>,
    /// No agent counts as silent from before then: until then no heartbeat could be answered.
    unheard_until: Mutex<Option<Instant>>,
}

impl Registry {
    /// With no session.
    pub fn new(timing: SessionTiming) -> Self {
        Self { timing, entries: Mutex::default(), unheard_until: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<AgentId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This coordinator begins to lead: every agent has a whole session timeout to come back, and those whose processes died
    /// with the old leader are looked for soon. Agents that were quicker and have come back already stay as they are.
    pub fn begin(&self, term: u64, fleet: &Fleet, now: Instant) {
        self.entries().retain(|_, entry| entry.term >= term);
        self.adopt(term, fleet, now);
    }

    /// Takes note of agents whose sessions began without a connection here, as when a leader that is replaced hands the joining
    /// of an agent over with its last commands. Who never comes must be missed, too.
    pub fn adopt(&self, term: u64, fleet: &Fleet, now: Instant) {
        if planted(Mistake::AbsentAgentsForgotten) {
            return;
        }
        let known = fleet.agents().filter(|agent| agent.state != AgentState::Lost);
        let mut entries = self.entries();
        for agent in known {
            let missing = || Entry {
                session: agent.session,
                term,
                process: agent.process,
                heard: now,
                link: None,
                dropped: Some(now),
                probe_at: Some(now + self.timing.grace * 4),
                losing: false,
            };
            let entry = entries.entry(agent.id).or_insert_with(missing);
            // Sessions are numbered in the order of the log.
            if entry.session < agent.session {
                let old = std::mem::replace(entry, missing());
                if let Some(link) = old.link {
                    link.put(|outbox| outbox.ended = Some("the agent has another session".into()));
                }
            }
        }
    }

    /// This coordinator does not lead in this term any more: every session of it is over here, but goes on at the next leader.
    pub fn end(&self, term: u64) {
        self.entries().retain(|_, entry| entry.term > term);
    }

    /// A connection of an agent under the leadership of this term: replaces an earlier one.
    pub fn connected(
        &self,
        term: u64,
        agent: AgentId,
        session: SessionId,
        process: Option<SocketAddr>,
        now: Instant,
    ) -> Arc<Link> {
        let link = Arc::new(Link::default());
        let entry = Entry {
            session,
            term,
            process,
            heard: now,
            link: Some(Arc::clone(&link)),
            dropped: None,
            probe_at: None,
            losing: false,
        };
        let before = self.entries().insert(agent, entry);
        if let Some(old) = before.and_then(|entry| entry.link) {
            old.put(|outbox| outbox.ended = Some("the agent opened another connection".into()));
        }
        link
    }

    /// A connection broke.
    pub fn disconnected(&self, agent: AgentId, link: &Arc<Link>, now: Instant) {
        if let Some(entry) = self.entries().get_mut(&agent)
            && entry.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link))
        {
            entry.link = None;
            entry.dropped = Some(now);
            entry.probe_at = Some(now + self.timing.grace);
        }
    }

    /// An agent left in good order, or its session ended.
    pub fn ended(&self, agent: AgentId, session: SessionId) {
        let mut entries = self.entries();
        if entries.get(&agent).is_some_and(|entry| entry.session == session)
            && let Some(link) = entries.remove(&agent).and_then(|entry| entry.link)
        {
            link.put(|outbox| outbox.ended = Some("the session is over".into()));
        }
    }

    /// Something was heard of an agent on this connection.
    pub fn heard(&self, agent: AgentId, link: &Arc<Link>, now: Instant) {
        if let Some(entry) = self.entries().get_mut(&agent)
            && entry.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link))
        {
            entry.heard = now;
        }
    }

    /// This leader had no contact with a majority until `now`, so it renewed no lease: every agent has a whole session timeout from
    /// then on. An agent may rely on that to go on when coordinators cannot give its work away.
    pub fn without_contact(&self, now: Instant) {
        *self.unheard_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// What must be done about agents that are not heard of. Each suspicion is told once, until it is taken back.
    pub fn suspicions(&self, now: Instant) -> Vec<Suspicion> {
        let mut found = Vec::new();
        let unheard_until = *self.unheard_until.lock().unwrap_or_else(PoisonError::into_inner);
        for (&agent, entry) in self.entries().iter_mut().filter(|(_, entry)| !entry.losing) {
            let silent_since = unheard_until.map_or(entry.heard, |until| until.max(entry.heard));
            if now.saturating_duration_since(silent_since) >= self.timing.timeout {
                entry.losing = true;
                found.push(Suspicion::Silent(agent, entry.session));
            } else if let Some(process) = entry.process
                && entry.probe_at.is_some_and(|at| at <= now)
            {
                entry.probe_at = None;
                found.push(Suspicion::Probe(agent, entry.session, process));
            }
        }
        found
    }

    /// The process of a disconnected agent was looked for: whether the agent is lost.
    pub fn probed(&self, agent: AgentId, session: SessionId, alive: Option<bool>, now: Instant) -> bool {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&agent) else { return false };
        if entry.session != session || entry.link.is_some() || entry.losing {
            return false;
        }
        if alive == Some(false) || alive.is_none() && planted(Mistake::SilenceIsDeath) {
            entry.losing = true;
            return true;
        }
        entry.probe_at = Some(now + PROBE_PAUSE);
        false
    }

    /// A loss could not be proposed: to be suspected again.
    pub fn take_back(&self, agent: AgentId, session: SessionId) {
        if let Some(entry) = self.entries().get_mut(&agent)
            && entry.session == session
        {
            entry.losing = false;
        }
    }

    /// This coordinator was held up itself: nobody could be heard meanwhile.
    pub fn excuse(&self, pause: Duration) {
        for entry in self.entries().values_mut() {
            entry.heard += pause;
        }
    }

    fn link(&self, agent: AgentId, session: SessionId) -> Option<Arc<Link>> {
        let entries = self.entries();
        let entry = entries.get(&agent).filter(|entry| entry.session == session)?;
        entry.link.clone()
    }

    /// Hands an attempt to its agent, if it is connected here. Otherwise the agent gets it when it connects.
    pub fn assign(&self, fleet: &Fleet, agent: AgentId, session: SessionId, task: TaskId, attempt: u32) {
        let Some(link) = self.link(agent, session) else { return };
        if let Some(assignment) = assignment(fleet, task, attempt, fleet.now().fleet) {
            link.put(|outbox| outbox.assignments.push(assignment));
        }
    }

    /// Has an attempt stopped, if its agent is connected here. Otherwise the agent is told when it connects.
    pub fn stop(&self, agent: AgentId, session: SessionId, task: TaskId, attempt: u32) {
        if let Some(link) = self.link(agent, session) {
            link.put(|outbox| outbox.stops.push(AttemptRef { task_id: task.to_string(), attempt }));
        }
    }
}

/// An attempt as its agent gets it at this fleet time; `None` if it is not current (any more).
pub fn assignment(fleet: &Fleet, id: TaskId, attempt: u32, now: FleetMillis) -> Option<Assignment> {
    let task = fleet.task(id)?;
    let current = task.current().filter(|current| current.number == attempt)?;
    // An agent that gets it late has less time left. 0 would say that there is no limit.
    let left = |due: FleetMillis| due.saturating_sub(now).max(1);
    let assigned_at = current.assigned_at.fleet;
    Some(Assignment {
        task_id: id.to_string(),
        attempt,
        kind: task.kind.clone(),
        input: task.input.clone(),
        deadline_in_ms: task.deadline.map_or(0, left),
        time_limit_ms: task.attempt_timeout.map_or(0, |limit| left(assigned_at.saturating_add(limit))),
    })
}

/// What an agent that connects at this fleet time must be told, given what it holds: attempts it lacks, and attempts it must
/// stop.
pub fn reconcile(
    fleet: &Fleet,
    agent: AgentId,
    held: &[AttemptRef],
    now: FleetMillis,
) -> (Vec<Assignment>, Vec<AttemptRef>) {
    let has = |task: TaskId, attempt: u32| {
        let id = task.to_string();
        held.iter().any(|held| held.attempt == attempt && held.task_id == id)
    };
    let known: Vec<_> = fleet.held(agent).collect();
    let lacking = known
        .iter()
        .filter(|held| held.state == HeldState::Active && !has(held.task, held.attempt))
        .filter_map(|held| assignment(fleet, held.task, held.attempt, now))
        .collect();
    let active = |wanted: &AttemptRef| {
        let is = |held: &robeing_fleet::Held| held.attempt == wanted.attempt && held.task.to_string() == wanted.task_id;
        known.iter().any(|held| held.state == HeldState::Active && is(held))
    };
    let mut surplus: Vec<AttemptRef> = held.iter().filter(|held| !active(held)).cloned().collect();
    // Stops that were sent and lost with a connection, for attempts the agent never knew: it answers that they are stopped.
    let stopping = known.iter().filter(|held| held.state == HeldState::Stopping && !has(held.task, held.attempt));
    surplus.extend(stopping.map(|held| AttemptRef { task_id: held.task.to_string(), attempt: held.attempt }));
    (lacking, surplus)
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{AgentJoin, Command, FleetConfig, Reply, Role, Stamp};

    use super::*;

    const TIMING: SessionTiming = SessionTiming {
        heartbeat_interval: Duration::from_millis(500),
        timeout: Duration::from_secs(2),
        grace: Duration::from_millis(50),
    };

    const PROCESS: Option<SocketAddr> = Some(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1));

    fn fleet_with_agent() -> (Fleet, AgentId, SessionId) {
        let mut fleet = Fleet::new(FleetConfig::default());
        let join = AgentJoin {
            name: "a".into(),
            incarnation: 1,
            role: Role::Worker,
            pool: None,
            specializations: Vec::new(),
            slots: 1,
            address: "127.0.0.1:1".into(),
            process: PROCESS,
            pid: 1,
            version: String::new(),
        };
        match fleet.apply(Stamp::at(1), Command::AgentJoined(join), &mut Vec::new()) {
            Reply::Joined { agent, session } => (fleet, agent, session),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_agent_whose_session_began_elsewhere_is_missed_too() {
        let (fleet, agent, session) = fleet_with_agent();
        let registry = Registry::new(TIMING);
        let start = Instant::now();
        registry.begin(1, &Fleet::new(FleetConfig::default()), start);
        registry.adopt(1, &fleet, start);
        // Looking again takes nothing from the time it has.
        registry.adopt(1, &fleet, start + TIMING.timeout / 2);
        assert_eq!(registry.suspicions(start + TIMING.timeout), [Suspicion::Silent(agent, session)]);
        // One that is connected stays so.
        let link = registry.connected(1, agent, session, PROCESS, start);
        registry.adopt(1, &fleet, start);
        registry.heard(agent, &link, start + TIMING.timeout);
        assert_eq!(registry.suspicions(start + TIMING.timeout), []);
    }

    #[test]
    fn a_process_is_looked_for_where_it_listens_for_certain_and_nowhere_else() {
        let (fleet, agent, session) = fleet_with_agent();
        let registry = Registry::new(TIMING);
        let start = Instant::now();
        for process in [PROCESS, None] {
            let link = registry.connected(1, agent, session, process, start);
            registry.disconnected(agent, &link, start);
            let probes = process.map(|process| Suspicion::Probe(agent, session, process));
            assert_eq!(registry.suspicions(start + TIMING.grace), Vec::from_iter(probes));
        }
        // A leader that never had a connection to it knows from the state.
        registry.end(1);
        registry.begin(2, &fleet, start);
        let expected = [Suspicion::Probe(agent, session, PROCESS.unwrap())];
        assert_eq!(registry.suspicions(start + TIMING.grace * 4), expected);
    }

    #[test]
    fn nobody_is_silent_while_no_heartbeat_could_be_answered() {
        let (fleet, agent, session) = fleet_with_agent();
        let registry = Registry::new(TIMING);
        let start = Instant::now();
        registry.begin(1, &fleet, start);
        registry.connected(1, agent, session, PROCESS, start);
        let contact = start + TIMING.timeout * 3;
        registry.without_contact(contact);
        assert_eq!(registry.suspicions(contact + TIMING.timeout - Duration::from_millis(1)), []);
        assert_eq!(registry.suspicions(contact + TIMING.timeout), [Suspicion::Silent(agent, session)]);
    }

    #[test]
    fn an_agent_that_came_back_before_the_leader_began_keeps_its_connection() {
        let (fleet, agent, session) = fleet_with_agent();
        let registry = Registry::new(TIMING);
        let start = Instant::now();
        registry.begin(1, &fleet, start);
        registry.end(1);
        let link = registry.connected(2, agent, session, PROCESS, start);
        registry.begin(2, &fleet, start);
        let late = start + TIMING.timeout;
        registry.heard(agent, &link, late);
        assert_eq!(registry.suspicions(late), []);
        // Of an earlier term nothing stays, and an agent that does not come back is missed.
        registry.end(1);
        registry.heard(agent, &link, late);
        assert_eq!(registry.suspicions(late), [], "the end of an earlier term is none of this one's");
        registry.begin(3, &fleet, start);
        registry.heard(agent, &link, late);
        assert_eq!(registry.suspicions(late), [Suspicion::Silent(agent, session)]);
    }
}
