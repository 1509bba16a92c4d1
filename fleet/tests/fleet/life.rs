//! What may become of tasks and agents from one command to the next, in the simplest form, as a check of every history.

use std::collections::BTreeMap;

use robeing_fleet::{
    Agent, AgentCommand, AgentId, AgentState, Attempt, AttemptEnd, BarKind, Command, ControlCommand, Effect, Failure,
    FailureKind, Fleet, Held, IdentityCommand, Join, LossReason, Reply, Role, Task, TaskState,
    limits::{ATTEMPT_GRACE_MS, DEAD_LETTER_TTL_MS, MAX_FREE_HAND_BACKS, MAX_RETRY_AFTER_MS},
};

use crate::{dead, graph_twin, naive, verification};

/// The tasks, by acceptance number, and the agents before a command.
#[derive(Default)]
pub struct Before {
    pub tasks: BTreeMap<u64, Task>,
    pub agents: BTreeMap<AgentId, Agent>,
    /// The highest numbers assigned to an agent and to a session.
    newest: (u32, u64),
}

/// The backoff after `used` counted attempts, as documented.
fn backoff(task: &Task, used: u32) -> u64 {
    let policy = task.retry;
    let mut pause = u128::from(policy.initial_backoff);
    for _ in 1..used {
        pause = (pause * u128::from(policy.multiplier_percent) / 100).min(u128::from(policy.max_backoff));
    }
    pause.min(u128::from(policy.max_backoff)) as u64
}

/// The least pause that jitter may make of a backoff.
fn shortened(task: &Task, pause: u64) -> u64 {
    let jitter = task.timing.as_ref().and_then(|timing| timing.asked.jitter);
    let percent = jitter.map_or(0, |jitter| u128::from(jitter.percent));
    pause - (u128::from(pause) * percent / 100) as u64
}

/// Returns whether a task's rules say that it is not tried again after this failure.
fn is_named(task: &Task, failure: &Failure) -> bool {
    let mut rules = task.timing.iter().flat_map(|timing| &timing.asked.non_retryable);
    rules.any(|of| {
        let differs = of.kind.is_some_and(|kind| kind != failure.kind)
            || of.code.is_some() && of.code != failure.code
            || of.name.as_ref().is_some_and(|name| *name != failure.name);
        !differs
    })
}

fn failure_of(attempt: &Attempt) -> &Failure {
    attempt.failure.as_ref().expect("a failed attempt has a failure")
}

/// What is derived about a task while its attempts are replayed.
struct Told {
    used: u32,
    hand_backs: u32,
    /// When the task may be given to an agent at the earliest, if a delay or backoff holds it back.
    not_before: Option<u64>,
    /// The same at the latest, which is another time only if there is jitter.
    latest: Option<u64>,
    /// Until when the task may wait for its first attempt.
    queue_until: Option<u64>,
    /// The last attempt ended in a way that allows no further one.
    last: bool,
    /// The command is a tick, so nothing happened except that time passed.
    is_tick: bool,
}

impl Told {
    /// An attempt ended now.
    fn ended(&mut self, task: &Task, attempt: &Attempt, now: u64) {
        assert_eq!(attempt.ended_at.map(|at| at.fleet), Some(now), "{attempt:?}");
        let (mut least, mut most) = (0, 0);
        // An agent reports a timeout by a completion, not by a tick.
        let by_timer = self.is_tick && attempt.end == Some(AttemptEnd::TimedOut);
        let due = task.attempt_timeout.map(|most| attempt.assigned_at.fleet + most + ATTEMPT_GRACE_MS);
        assert!(!by_timer || due.into_iter().chain(task.deadline).any(|at| at <= now), "too early: {attempt:?}");
        match attempt.end.expect("it has ended") {
            AttemptEnd::Succeeded | AttemptEnd::Cancelled | AttemptEnd::Outvoted => self.last = true,
            AttemptEnd::Failed | AttemptEnd::TimedOut => {
                let failure = failure_of(attempt);
                self.last = !failure.retryable || failure.kind == FailureKind::Deadline;
                if failure.kind != FailureKind::Stalled {
                    let (pause, asked) = (backoff(task, self.used), failure.retry_after_ms.min(MAX_RETRY_AFTER_MS));
                    (least, most) = (shortened(task, pause).max(asked), pause.max(asked));
                }
            }
            AttemptEnd::Lost => self.last = !failure_of(attempt).retryable,
            AttemptEnd::Suspended => self.used -= 1,
            AttemptEnd::HandedBack => {
                self.hand_backs += 1;
                self.used -= u32::from(self.hand_backs <= MAX_FREE_HAND_BACKS);
            }
        }
        [self.not_before, self.latest] = [least, most].map(|pause| (pause > 0).then_some(now + pause));
        self.last |= self.used >= task.retry.max_attempts;
        let named = attempt.failure.as_ref().is_some_and(|failure| failure.retryable && is_named(task, failure));
        assert!(!named, "it may be tried again after a failure after which it must not: {attempt:?}");
    }

    /// An attempt began now.
    fn began(&mut self, task: &Task, attempt: &Attempt, now: u64) {
        assert_eq!(attempt.assigned_at.fleet, now);
        assert!(!self.last, "{} has another attempt after its last: {:?}", task.id, task.attempts);
        assert!(self.not_before.is_none_or(|at| at <= now), "{} was not due: {attempt:?}", task.id);
        assert!(self.queue_until.is_none_or(|at| at > now), "{} has expired: {attempt:?}", task.id);
        (self.not_before, self.latest, self.queue_until) = (None, None, None);
        self.used += 1;
    }
}

/// Replays what happened to a task since `before`, and compares.
fn check_task(before: Option<&Task>, task: &Task, command: &Command, now: u64) {
    let not_before = before.map_or(task.not_before.filter(|at| *at > now), |task| task.not_before);
    let mut told = Told {
        used: before.map_or(0, |task| task.attempts_used),
        hand_backs: before.map_or(0, |task| task.hand_backs),
        not_before,
        latest: not_before,
        queue_until: before.and_then(Task::queue_until),
        last: false,
        is_tick: *command == Command::Control(ControlCommand::Tick),
    };
    let current = before.and_then(Task::current).map(|attempt| attempt.number);
    let floor = before.map(|task| task.attempt);
    let mut newest = floor;
    for attempt in &task.attempts {
        let begins = floor.is_none_or(|floor| attempt.number > floor);
        if begins {
            assert!(newest.is_none_or(|last| attempt.number == last + 1), "{:?}", task.attempts);
            newest = Some(attempt.number);
            told.began(task, attempt, now);
        }
        if (begins || current == Some(attempt.number)) && attempt.end.is_some() {
            told.ended(task, attempt, now);
        }
    }
    assert_eq!((task.attempts_used, task.hand_backs), (told.used, told.hand_backs), "{task:?}");
    assert!(task.attempts_used <= task.retry.max_attempts);
    if task.state.is_final() {
        check_end(task, told.last, before.and_then(Task::queue_until), now);
        return;
    }
    assert!(task.queue_until().is_none_or(|at| at > now), "it has waited for too long: {task:?}");
    assert!(!told.last, "its attempts are used up: {task:?}");
    assert!(task.deadline.is_none_or(|at| at > now), "its deadline has passed: {task:?}");
    assert!(
        task.attempt_timeout
            .zip(task.current())
            .is_none_or(|(most, attempt)| { attempt.assigned_at.fleet + most + ATTEMPT_GRACE_MS > now })
    );
    let as_told = match task.not_before {
        Some(at) if task.state == TaskState::Queued => {
            at > now && told.not_before.is_none_or(|least| least <= at) && told.latest.is_some_and(|most| at <= most)
        }
        Some(_) => false,
        None => task.state != TaskState::Queued || told.not_before.is_none_or(|at| at <= now),
    };
    assert!(as_told, "its pause is {:?} to {:?}: {task:?}", told.not_before, told.latest);
}

/// Checks a task that ended now: its last attempt, its deadline, its queue expiry or a cancellation must allow this
/// end.
fn check_end(task: &Task, last: bool, queue_until: Option<u64>, now: u64) {
    let end = task.attempts.last().and_then(|attempt| attempt.end);
    let deadline = task.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::Deadline);
    let because_of_others = matches!(
        task.failure.as_ref().map(|failure| failure.kind),
        Some(FailureKind::Dependency | FailureKind::Subtask | FailureKind::ResultsTooLarge)
    );
    let allowed = match task.state {
        TaskState::Succeeded if task.children().is_some_and(|children| children.join != Join::Resume) => {
            task.output.is_some()
        }
        // What that means is checked elsewhere.
        TaskState::Failed if because_of_others && task.links.is_some() => true,
        TaskState::Succeeded => end == Some(AttemptEnd::Succeeded),
        TaskState::Cancelled => task.cancel_reason.is_some() && task.attempts.iter().all(|a| a.end.is_some()),
        // The agent measures the remaining time by its own clock.
        TaskState::Failed if deadline => task.deadline.is_some_and(|at| at <= now) || end == Some(AttemptEnd::TimedOut),
        TaskState::Failed if task.failure.as_ref().is_some_and(|f| f.kind == FailureKind::Expired) => {
            queue_until.is_some_and(|at| at <= now)
        }
        // Its ballot is checked elsewhere.
        TaskState::Failed if task.failure.as_ref().is_some_and(|f| f.kind == FailureKind::NotApproved) => {
            task.attempts.is_empty() && task.approval.is_some_and(|approval| !approval.approved)
        }
        TaskState::Failed => {
            last && (end == Some(AttemptEnd::Failed) || task.failure.as_ref().is_some_and(|f| !f.retryable))
        }
        TaskState::DeadLettered => last && matches!(end, Some(AttemptEnd::Lost | AttemptEnd::TimedOut)),
        TaskState::Queued | TaskState::Assigned => false,
    };
    assert!(allowed, "it must not end this way: {task:?}");
    assert_eq!(task.finished_at.map(|at| at.fleet), Some(now));
    let kept = task.result_ttl.max(if task.dead { DEAD_LETTER_TTL_MS } else { 1 });
    assert_eq!(task.expires_at, Some(now + kept));
}

/// Returns whether this agent takes the one task before the other. Of different queues, or submitters, either may be
/// next, and limits may hold back those of one key.
fn goes_before(fleet: &Fleet, agent: &Agent, one: &Task, other: &Task) -> bool {
    let group =
        |task: &Task| (task.queue().to_owned(), task.limit_key().to_owned(), fleet.submitter_of(task).to_owned());
    let rank = |task: &Task| {
        let own = agent.role == Role::Specialist && naive::Wanted::by(task).matches(agent);
        (!own, naive::rank(task))
    };
    group(one) == group(other) && rank(one) < rank(other)
}

/// Checks that no task that waited all the time was passed over. Tasks that lost their agent are placed in the order of
/// the queue, so none of them is passed over for a later one.
fn check_order(before: &Before, fleet: &Fleet, command: &Command, effects: &[Effect]) {
    let requeues = matches!(
        command,
        Command::Agent(AgentCommand::Lost { .. })
            | Command::Agent(AgentCommand::Left { .. })
            | Command::Agent(AgentCommand::Joined(_))
            | Command::Identity(IdentityCommand::Bar { .. })
    );
    let assigned = |task: &&Task| requeues && task.state == TaskState::Assigned;
    let held = before.tasks.values().filter(assigned).filter_map(|task| fleet.task(task.id));
    // Not every agent may take a member, what needs resources waits for its queue's turn, and what takes several slots until
    // an agent has them free.
    let is_plain =
        |task: &&Task| task.is_ready() && task.member_of.is_none() && task.resources.is_none() && task.demand.is_none();
    let requeued: Vec<&Task> = held.map(AsRef::as_ref).filter(is_plain).collect();
    let waited: Vec<&Task> =
        before.tasks.values().filter(|t| is_plain(t) && fleet.task(t.id).is_some_and(|now| **now == **t)).collect();
    for effect in effects {
        let Effect::Assign { agent, task, .. } = effect else { continue };
        let (Some(agent), Some(task)) = (fleet.agent(*agent), fleet.task(*task)) else { continue };
        let passed =
            waited.iter().find(|t| naive::Wanted::by(t).fits(fleet, agent) && goes_before(fleet, agent, t, task));
        assert!(passed.is_none(), "{} takes {task:?} before {passed:?}", agent.name);
        let first = |t: &Task| (10 - t.priority, t.seq) < (10 - task.priority, task.seq);
        let lost =
            |t: &&&Task| naive::Wanted::by(t).fits(fleet, agent) && goes_before(fleet, agent, t, task) && first(t);
        let passed = requeued.iter().find(lost);
        assert!(passed.is_none(), "{} takes {task:?} before {passed:?}, which lost its agent", agent.name);
    }
}

/// Checks that standbys are activated in the order of their numbers and only as many as needed, or because they no
/// longer have a pool.
fn check_standbys(before: &Before, fleet: &Fleet, effects: &[Effect]) {
    let waited = |id: &AgentId| before.agents.get(id).is_some_and(|agent| agent.state == AgentState::Standby);
    for effect in effects {
        let Effect::StandbyActivated { agent: id } = effect else { continue };
        let Some(agent) = fleet.agent(*id).filter(|agent| agent.pool.is_some()) else { continue };
        let others = fleet.agents().filter(|other| other.pool == agent.pool && other.state == AgentState::Standby);
        let first = others.filter(|other| waited(&other.id) && waited(id)).all(|other| other.id > *id);
        assert!(first, "{} begins before a standby with a lower number", agent.name);
        let pool = fleet.pools().into_iter().find(|pool| agent.pool.as_ref() == Some(&pool.name));
        assert!(pool.as_ref().is_some_and(|pool| pool.live <= pool.desired), "{} is not needed: {pool:?}", agent.name);
    }
}

fn moved(success: u32, sample: i64) -> u32 {
    let success = i64::from(success);
    (success + (sample - success) / 8) as u32
}

/// Checks that results, failures, timeouts and losses count for an agent, and that deadlines, cancellations, hand-backs
/// and bars do not.
fn check_record(before: &Agent, agent: &Agent, ends: &[&Attempt]) {
    let (mut succeeded, mut failed, mut lost) = (0, 0, 0);
    let barred = agent.lost.is_some_and(|loss| loss.reason == LossReason::Barred);
    for attempt in ends.iter().filter(|attempt| attempt.agent_name == agent.name) {
        match attempt.end {
            Some(AttemptEnd::Succeeded) => succeeded += 1,
            Some(AttemptEnd::Outvoted) => failed += 1,
            Some(AttemptEnd::Failed | AttemptEnd::TimedOut) => {
                failed += u64::from(failure_of(attempt).kind != FailureKind::Deadline);
            }
            Some(AttemptEnd::Lost) => lost += u64::from(!barred),
            _ => {}
        }
    }
    let (was, is) = (before.record, agent.record);
    assert_eq!((is.succeeded, is.failed), (was.succeeded + succeeded, was.failed + failed + lost), "{ends:?}");
    match (succeeded, failed, lost) {
        (0, 0, 0) => assert!(is.success == was.success || before.session != agent.session || agent.lost.is_some()),
        (1, 0, 0) => assert_eq!(is.success, moved(was.success, 1_000_000)),
        (0, 1, 0) | (0, 0, 1..) => assert_eq!(is.success, moved(was.success, 0), "{ends:?}"),
        _ => {}
    }
    assert!(is.speed == was.speed || succeeded > 0);
}

/// Checks what may become of an agent within a session.
fn check_agent(before: &Agent, agent: &Agent) {
    assert_eq!(before.name, agent.name, "numbers are not reused");
    if before.session != agent.session {
        return;
    }
    let allowed = match before.state {
        AgentState::Live => agent.state != AgentState::Standby,
        AgentState::Standby | AgentState::Unhealthy => true,
        AgentState::Draining => matches!(agent.state, AgentState::Draining | AgentState::Lost),
        AgentState::Lost => agent.state == AgentState::Lost,
    };
    assert!(allowed, "{} was {:?} and is {:?}", agent.name, before.state, agent.state);
}

/// Returns whether no task tells what became of an attempt: its task, a member of one that has ended in this step, is gone
/// with its earlier attempts.
fn is_untold(before: &Before, fleet: &Fleet, held: Held) -> bool {
    let Some(was) = before.tasks.values().find(|task| task.id == held.task) else { return false };
    if fleet.task(held.task).is_some() {
        return false;
    }
    let parent = was.member_of.and_then(|parent| before.tasks.get(&parent));
    let verification = parent.and_then(|parent| parent.verification.as_ref());
    // What became of a comparison is only told by what it has found.
    if verification.is_some_and(|verification| verification.comparing == Some(was.seq)) {
        return true;
    }
    parent.and_then(|parent| fleet.task(parent.id)).is_none_or(|parent| parent.state.is_final())
}

fn check_agents(before: &Before, fleet: &Fleet, command: &Command, ends: &[&Attempt]) {
    let now = fleet.now().fleet;
    for (id, was) in &before.agents {
        match fleet.agent(*id) {
            Some(agent) => {
                check_agent(was, agent);
                if !was.held().any(|held| is_untold(before, fleet, held)) {
                    check_record(was, agent, ends);
                }
            }
            None => {
                let left = matches!(command, Command::Agent(AgentCommand::Left { agent, .. }) if agent == id);
                let due = was.lost.is_some_and(|loss| loss.forget_at <= now);
                let removed = fleet.bar_of(&was.name).is_some_and(|bar| bar.kind == BarKind::Removed);
                assert!(left || due || removed, "{} is forgotten", was.name);
            }
        }
    }
    for agent in fleet.agents() {
        assert!(agent.lost.is_none_or(|loss| loss.forget_at > now), "{} is still remembered", agent.name);
        let was_lost = before.agents.get(&agent.id).is_some_and(|was| was.lost.is_some());
        let until = now + fleet.config().lost_agent_ttl.max(1);
        assert!(was_lost || agent.lost.is_none_or(|loss| loss.forget_at == until));
    }
}

/// Checks that a process that joins again resumes its session, and that another process, or a lost one, gets a new
/// session.
fn check_join(before: &Before, fleet: &Fleet, command: &Command, reply: &Reply) {
    let (Command::Agent(AgentCommand::Joined(join)), Reply::Joined { agent, session }) = (command, reply) else {
        return;
    };
    let is = fleet.agent(*agent).expect("an agent that joined is known");
    let was = before.agents.values().find(|agent| *agent.name == *join.name);
    assert_eq!(is.session, *session);
    let goes_on = was.filter(|agent| agent.state != AgentState::Lost && agent.incarnation == join.incarnation);
    let used = goes_on.map_or(0, Agent::used_slots);
    assert_eq!(is.slots, join.slots.max(used));
    match (was, goes_on) {
        (_, Some(was)) => {
            assert_eq!((was.id, was.session), (*agent, *session), "its session continues");
            assert!(was.held().all(|held| is.held().any(|other| other == held)), "it keeps what it holds");
        }
        (Some(was), None) => {
            assert_eq!(was.id, *agent);
            assert!(before.newest.1 < session.0);
        }
        (None, None) => assert!(before.newest.0 < agent.0 && before.newest.1 < session.0),
    }
}

/// Records the state before a command.
pub fn look(fleet: &Fleet, before: &mut Before) {
    before.tasks = fleet.changed_tasks_since(0).map(|task| (task.seq, Task::clone(task))).collect();
    before.agents = fleet.agents().map(|agent| (agent.id, Agent::clone(agent))).collect();
    let (agents, sessions) = (before.agents.keys().map(|id| id.0), before.agents.values().map(|agent| agent.session.0));
    before.newest.0 = agents.fold(before.newest.0, u32::max);
    before.newest.1 = sessions.fold(before.newest.1, u64::max);
}

/// Checks one command against all rules.
pub fn check(before: &Before, fleet: &Fleet, command: &Command, reply: &Reply, effects: &[Effect]) {
    let now = fleet.now().fleet;
    let tasks: Vec<&Task> = fleet.changed_tasks_since(0).map(AsRef::as_ref).collect();
    let mut ends: Vec<&Attempt> = Vec::new();
    for task in &tasks {
        let was = before.tasks.get(&task.seq);
        let revived = was.filter(|was| was.epoch() < task.epoch()).map(dead::revived);
        if task.verification.is_none() && (revived.is_some() || was.is_none_or(|was| !was.state.is_final())) {
            check_task(revived.as_ref().or(was), task, command, now);
        }
        // What the command's own task let go of is forgotten with the next command.
        let is_needed = || graph_twin::is_needed(before.tasks.values().chain(tasks.iter().copied()), task);
        let is_kept = task.expires_at.is_none_or(|at| at > now) || is_needed();
        assert!(is_kept, "it is still there: {task:?}");
        let known = |attempt: &&Attempt| {
            let was = was.and_then(|was| was.attempts.iter().find(|was| was.number == attempt.number));
            was.is_some_and(|was| was.end.is_some())
        };
        match task.verification {
            None => ends.extend(task.attempts.iter().filter(|attempt| attempt.end.is_some() && !known(attempt))),
            Some(_) => ends.extend(verification::ends(was, task)),
        }
    }
    check_order(before, fleet, command, effects);
    check_standbys(before, fleet, effects);
    check_agents(before, fleet, command, &ends);
    check_join(before, fleet, command, reply);
}
