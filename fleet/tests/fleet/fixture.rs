//! A fleet with a clock that the test controls and short helpers for commands. Audits the fleet after every command.

use std::sync::Arc;

use bytes::Bytes;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, AllocationId, Amounts, AuditCommand, AuditEntry, BallotCommand, BallotId,
    BarKind, CastVote, Choice, Command, Completion, ControlCommand, Effect, Elector, Enrol, Failure, FailureKind,
    Fleet, FleetConfig, FormTeam, Fraction, HeldState, Holder, IdentityCommand, KindCommand, Letter, LetterAnswer,
    LetterId, LossReason, MailCommand, OpenBallot, Outcome, PolicyCommand, PoolCommand, PoolShape, PostLetter,
    ProofKind, RecoveryEvent, Reply, RequestResources, ResourceCommand, RetryPolicy, Role, SessionId, SingleUse, Stamp,
    StoredPolicy, SubmitTask, Task, TaskCommand, TaskId, TaskKind, TaskState, TeamCommand, TeamId, TeamNeeds, Verify,
    VoteEvidence, known_version,
};

pub struct Trial {
    pub fleet: Fleet,
    /// The current fleet time.
    pub now: u64,
    /// How far the wall time is ahead of the fleet time, ms.
    pub wall_ahead: i64,
    /// The effects of the last command.
    pub effects: Vec<Effect>,
}

/// An agent in one of its sessions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpenSession {
    pub agent: AgentId,
    pub session: SessionId,
}

pub fn task(n: u128) -> SubmitTask {
    SubmitTask { submitter: "test".to_owned(), ..SubmitTask::new(TaskId(n), "sum", Bytes::from_static(b"1 2")) }
}

/// Returns the letters that wait for a receiver, in its order.
pub fn letters_for<'a>(fleet: &'a Fleet, receiver: &str) -> Vec<&'a Arc<Letter>> {
    let senders = fleet.first_letters_for(receiver).map(|first| first.sender.as_str());
    let mut letters: Vec<_> = senders.flat_map(|sender| fleet.letters_from(sender, receiver, None)).collect();
    letters.sort_by_key(|letter| letter.cursor());
    letters
}

/// Returns the join of a worker with one slot and no pool.
pub fn worker(name: &str) -> AgentJoin {
    AgentJoin {
        name: name.to_owned(),
        incarnation: 1,
        role: Role::Worker,
        pool: None,
        specializations: Vec::new(),
        slots: 1,
        address: "127.0.0.1:1".to_owned(),
        process: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 1))),
        pid: 1,
        version: "0.1.0".to_owned(),
        sealing_key: None,
        contributed: None,
        lacks_store: false,
    }
}

pub fn specialist(name: &str, skill: &str) -> AgentJoin {
    AgentJoin { role: Role::Specialist, specializations: vec![skill.to_owned()], ..worker(name) }
}

/// Returns the join of a worker that has a key for sealed payloads.
pub fn with_key(name: &str, key: u8) -> AgentJoin {
    AgentJoin { sealing_key: Some([key; 32]), ..worker(name) }
}

pub fn pooled(name: &str, replicas: Option<u32>, standby: u32) -> AgentJoin {
    AgentJoin { pool: Some(PoolShape { name: "data".to_owned(), replicas, standby }), ..worker(name) }
}

/// Returns the enrolment of a worker of the pool `data` by a token that can be used once.
pub fn enrolment(agent: &str, key: u8, proof: u8) -> Enrol {
    Enrol {
        agent: agent.to_owned(),
        role: Role::Worker,
        pool: Some("data".to_owned()),
        key: [key; 32],
        proof: ProofKind::JoinToken,
        single_use: Some(SingleUse { id: [proof; 32], expires: 2_000_000 }),
        names_agent: false,
    }
}

/// Returns a letter from `a` to `b` that waits for a minute.
pub fn letter(id: u128) -> PostLetter {
    PostLetter {
        id: LetterId(id),
        sender: "a".to_owned(),
        receiver: "b".to_owned(),
        kind: "note".to_owned(),
        payload: Bytes::from_static(b"hello"),
        key_id: String::new(),
        priority: 5,
        sent: 7,
        digest: [1; 32],
        ttl: 60_000,
        to: "role:worker".to_owned(),
    }
}

/// Returns an agent of an electorate, which is told of the ballot by the letter with this id.
pub fn elector(name: &str, letter: u128) -> Elector {
    Elector { name: name.to_owned(), weight: 1, letter: Some(LetterId(letter)), signs: false }
}

/// Returns a ballot on which two of the agents `a` and `b` and a client must approve within a minute.
pub fn ballot(id: u128) -> OpenBallot {
    let client = Elector { letter: None, ..elector("client:c", 0) };
    OpenBallot {
        id: BallotId(id),
        opened_by: "client:c".to_owned(),
        question: "Now?".to_owned(),
        options: Vec::new(),
        electorate: vec![elector("a", id * 100 + 1), elector("b", id * 100 + 2), client],
        threshold: Fraction::TWO_THIRDS,
        ttl: 60_000,
        digest: [id as u8; 32],
        notice: Bytes::from_static(b"{}"),
        fleet: "one".to_owned(),
        asked: [7; 32],
    }
}

/// Returns the same ballot, in which this member has to sign its vote.
pub fn signing(mut ballot: OpenBallot, member: &str) -> OpenBallot {
    for elector in &mut ballot.electorate {
        elector.signs |= elector.name == member;
    }
    ballot
}

/// Returns a task that may start when a [`ballot`] approves it.
pub fn to_approve(n: u128) -> SubmitTask {
    SubmitTask { approval: Some(Box::new(ballot(n))), ..task(n) }
}

/// Returns a task that runs on three agents, two of which must agree.
pub fn to_verify(n: u128) -> SubmitTask {
    SubmitTask { verify: Some(Box::new(Verify { agents: 3, agree: 2, pointer: None, compare: None })), ..task(n) }
}

/// Returns a task that runs on three workers, two of which must agree as a task of the kind `near` says.
pub fn to_compare(n: u128) -> SubmitTask {
    let verify = Verify { agents: 3, agree: 2, pointer: None, compare: Some("near".to_owned()) };
    SubmitTask { verify: Some(Box::new(verify)), required_role: Some(Role::Worker), ..task(n) }
}

/// Returns an output with the digest that a test coordinator computes of it.
pub fn answered(output: &'static str) -> Outcome {
    let digest = [output.bytes().next().unwrap_or(0); 32];
    Outcome::Answered { output: Bytes::from_static(output.as_bytes()), digest }
}

/// Returns a vote that is not signed.
pub fn vote(ballot: u128, member: &str, choice: Choice) -> CastVote {
    CastVote {
        ballot: BallotId(ballot),
        member: member.to_owned(),
        choice,
        option: 0,
        reason: "because".to_owned(),
        evidence: None,
        attested_by: "c-0".to_owned(),
    }
}

/// Returns evidence of this authority.
pub fn evidence(authority: &[u8]) -> VoteEvidence {
    VoteEvidence {
        envelope: Bytes::from_static(b"signed"),
        binding: Bytes::from_static(b"bound"),
        certificate: Bytes::from_static(b"certified"),
        authority: Bytes::copy_from_slice(authority),
    }
}

/// Returns a team of so many workers or specialists.
pub fn team(id: u128, size: u32) -> FormTeam {
    FormTeam {
        id: TeamId(id),
        formed_by: "client:c".to_owned(),
        purpose: "review".to_owned(),
        size,
        partial: false,
        needs: TeamNeeds::default(),
    }
}

/// Returns this much processor time and memory.
pub fn amounts(cpu: u64, memory: u64) -> Amounts {
    Amounts { cpu, memory, ..Amounts::NONE }
}

/// Returns a request of a client for one part, which is refused if it can't be granted at once.
pub fn request(id: u128, part: Amounts) -> RequestResources {
    RequestResources {
        id: AllocationId(id),
        holder: Holder::Client("c".to_owned()),
        queue: "default".to_owned(),
        parts: vec![part],
        spread: false,
        ttl: 60_000,
        wait: 0,
        requested_by: "client:c".to_owned(),
    }
}

/// Returns the same request, which waits for a minute.
pub fn patient(id: u128, part: Amounts) -> RequestResources {
    RequestResources { wait: 60_000, ..request(id, part) }
}

pub fn retry(max_attempts: u32) -> Option<RetryPolicy> {
    Some(RetryPolicy { max_attempts, ..RetryPolicy::default() })
}

pub fn failure(retryable: bool) -> Outcome {
    Outcome::Failed(Failure {
        kind: FailureKind::Exit,
        message: "exit code 1".to_owned(),
        code: Some(1),
        stderr_tail: "oops".to_owned(),
        retryable,
        retry_after_ms: 0,
        name: String::new(),
    })
}

pub fn success() -> Outcome {
    Outcome::Succeeded(Bytes::from_static(b"3"))
}

fn in_words(event: &RecoveryEvent) -> String {
    match event {
        RecoveryEvent::Unhealthy { reason } => format!("unhealthy ({reason})"),
        RecoveryEvent::Lost { reason } => format!("lost ({reason:?})"),
        RecoveryEvent::Redistributed { tasks } => format!("redistributed {tasks}"),
        RecoveryEvent::StandbyActivated { agent } => format!("activated {agent}"),
        RecoveryEvent::Removed => "removed".to_owned(),
        RecoveryEvent::RecoveryAttempted => "attempted".to_owned(),
        RecoveryEvent::Readmitted { standby: true } => "readmitted as standby".to_owned(),
        RecoveryEvent::Readmitted { standby: false } => "readmitted".to_owned(),
    }
}

impl Trial {
    pub fn new() -> Trial {
        Trial::with(FleetConfig::default())
    }

    pub fn with(config: FleetConfig) -> Trial {
        Trial { fleet: Fleet::new(config), now: 1_000_000, wall_ahead: 0, effects: Vec::new() }
    }

    /// Returns a fleet of the newest version.
    pub fn newest() -> Trial {
        let mut trial = Trial::new();
        trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
        trial
    }

    pub fn stamp(&self) -> Stamp {
        Stamp { fleet: self.now, wall: self.now.saturating_add_signed(self.wall_ahead) }
    }

    pub fn apply(&mut self, command: Command) -> Reply {
        self.effects.clear();
        let reply = self.fleet.apply(self.stamp(), command, &mut self.effects);
        if let Err(problem) = self.fleet.audit() {
            panic!("after {reply:?}: {problem}");
        }
        reply
    }

    pub fn after(&mut self, ms: u64) -> &mut Trial {
        self.now += ms;
        self.apply(Command::Control(ControlCommand::Tick));
        self
    }

    pub fn submit(&mut self, task: SubmitTask) -> TaskId {
        match self.apply(Command::Task(TaskCommand::Submit(task))) {
            Reply::Submitted { task, .. } => task,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub fn identity(&mut self, command: IdentityCommand) -> Reply {
        self.apply(Command::Identity(command))
    }

    pub fn enrol(&mut self, enrol: Enrol) -> u64 {
        match self.identity(IdentityCommand::Enrol(enrol)) {
            Reply::Enrolled { epoch } => epoch,
            other => panic!("not enrolled: {other:?}"),
        }
    }

    pub fn bar(&mut self, agent: &str, kind: BarKind) -> Reply {
        let (agent, reason, by) = (agent.to_owned(), "it lied".to_owned(), "carol".to_owned());
        self.identity(IdentityCommand::Bar { agent, kind, reason, by })
    }

    pub fn release(&mut self, agent: &str) -> Reply {
        self.identity(IdentityCommand::Release { agent: agent.to_owned(), by: "dave".to_owned() })
    }

    pub fn record(&mut self, entries: Vec<AuditEntry>) -> Reply {
        self.apply(Command::Audit(AuditCommand::Record(entries)))
    }

    pub fn set_policies(&mut self, policies: Vec<StoredPolicy>) -> Reply {
        self.apply(Command::Policy(PolicyCommand::Set { policies, by: "carol".to_owned() }))
    }

    pub fn set_kinds(&mut self, kinds: Vec<TaskKind>) -> Reply {
        self.apply(Command::Kind(KindCommand::Set { kinds, by: "carol".to_owned() }))
    }

    pub fn post(&mut self, letter: PostLetter) -> Reply {
        self.apply(Command::Mail(MailCommand::Post(letter)))
    }

    pub fn settle(&mut self, id: u128, receiver: &str, answer: LetterAnswer) -> Reply {
        let (id, receiver) = (LetterId(id), receiver.to_owned());
        self.apply(Command::Mail(MailCommand::Settle { id, receiver, answer }))
    }

    pub fn open(&mut self, ballot: OpenBallot) -> Reply {
        self.apply(Command::Ballot(BallotCommand::Open(ballot)))
    }

    pub fn cast(&mut self, vote: CastVote) -> Reply {
        self.apply(Command::Ballot(BallotCommand::Cast(vote)))
    }

    pub fn team(&mut self, command: TeamCommand) -> Reply {
        self.apply(Command::Team(command))
    }

    pub fn form(&mut self, team: FormTeam) -> Reply {
        self.team(TeamCommand::Form(team))
    }

    pub fn disband(&mut self, team: u128) -> Reply {
        self.team(TeamCommand::Disband { team: TeamId(team), term: None, by: "client:c".to_owned() })
    }

    pub fn contribute(&mut self, stay: OpenSession, amounts: Amounts) -> Reply {
        let OpenSession { agent, session } = stay;
        self.apply(Command::Resource(ResourceCommand::Contribute { agent, session, amounts }))
    }

    pub fn request(&mut self, request: RequestResources) -> Reply {
        self.apply(Command::Resource(ResourceCommand::Request(request)))
    }

    pub fn free(&mut self, id: u128, token: Option<u64>) -> Reply {
        self.apply(Command::Resource(ResourceCommand::Release { id: AllocationId(id), token }))
    }

    pub fn renew(&mut self, id: u128, token: u64) -> Reply {
        self.apply(Command::Resource(ResourceCommand::Renew { id: AllocationId(id), token }))
    }

    pub fn cancel(&mut self, task: TaskId) -> Reply {
        let reason = "not needed".to_owned();
        self.apply(Command::Task(TaskCommand::Cancel { task, reason }))
    }

    pub fn join(&mut self, join: AgentJoin) -> OpenSession {
        match self.apply(Command::Agent(AgentCommand::Joined(join))) {
            Reply::Joined { agent, session } => OpenSession { agent, session },
            other => panic!("not joined: {other:?}"),
        }
    }

    pub fn set_pools(&mut self, shapes: Vec<PoolShape>) -> u64 {
        match self.apply(Command::Pool(PoolCommand::Set(shapes))) {
            Reply::PoolsSet { revision } => revision,
            other => panic!("not set: {other:?}"),
        }
    }

    pub fn lose(&mut self, stay: OpenSession) -> Reply {
        self.apply(Command::Agent(AgentCommand::Lost {
            agent: stay.agent,
            session: stay.session,
            reason: LossReason::Silent,
        }))
    }

    pub fn drain(&mut self, stay: OpenSession) -> Reply {
        let OpenSession { agent, session } = stay;
        self.apply(Command::Agent(AgentCommand::Draining { agent, session }))
    }

    pub fn leave(&mut self, stay: OpenSession) -> Reply {
        let OpenSession { agent, session } = stay;
        self.apply(Command::Agent(AgentCommand::Left { agent, session }))
    }

    pub fn unhealthy(&mut self, stay: OpenSession, reason: &str) -> Reply {
        let OpenSession { agent, session } = stay;
        self.apply(Command::Agent(AgentCommand::Unhealthy { agent, session, reason: reason.to_owned() }))
    }

    pub fn healthy(&mut self, stay: OpenSession, readmit: bool) -> Reply {
        let OpenSession { agent, session } = stay;
        self.apply(Command::Agent(AgentCommand::Healthy { agent, session, readmit }))
    }

    /// Returns the agent's recovery as text: each step and the ms since the beginning.
    pub fn recovery(&self, agent: AgentId) -> Vec<String> {
        let steps = self.fleet.agent(agent).expect("it is known").recovery.steps();
        steps.iter().map(|step| format!("{} {}", in_words(&step.event), step.took)).collect()
    }

    /// Completes `attempt` of `task` with this outcome, as reported in the session `stay`.
    pub fn complete(&mut self, stay: OpenSession, task: TaskId, attempt: u32, outcome: Outcome) -> Reply {
        self.complete_after(stay, task, attempt, outcome, 1000)
    }

    pub fn complete_after(
        &mut self,
        stay: OpenSession,
        task: TaskId,
        attempt: u32,
        outcome: Outcome,
        ran_us: u64,
    ) -> Reply {
        self.apply(Command::Task(TaskCommand::Complete(Completion {
            agent: stay.agent,
            session: stay.session,
            task,
            attempt,
            ran_us,
            outcome,
        })))
    }

    pub fn task(&self, id: TaskId) -> &Task {
        match self.fleet.task(id) {
            Some(task) => task,
            None => panic!("task {id} is not there"),
        }
    }

    pub fn state(&self, id: TaskId) -> TaskState {
        self.task(id).state
    }

    /// Returns the first task and attempt that an agent runs.
    pub fn held_by(&self, stay: OpenSession) -> (TaskId, u32) {
        let agent = self.fleet.agent(stay.agent).expect("it is known");
        let held = agent.held().find(|held| held.state == HeldState::Active).expect("it runs something");
        (held.task, held.attempt)
    }

    /// Returns the agent that has the task now.
    pub fn holder(&self, id: TaskId) -> Option<AgentId> {
        self.task(id).current().map(|a| a.agent)
    }

    /// Returns the tasks that the last command assigned, in that order, with their fencing numbers.
    pub fn assigned(&self) -> Vec<(TaskId, u32)> {
        let assigned = self.effects.iter().filter_map(|effect| match effect {
            Effect::Assign { task, attempt, .. } => Some((*task, *attempt)),
            _ => None,
        });
        assigned.collect()
    }
}
