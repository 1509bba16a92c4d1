//! Commands and replies of every kind, whose bytes are recorded.

use bytes::Bytes;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, AllocationId, Amounts, AuditCommand, AuditEntry, AuditOutcome, BallotCommand,
    BallotId, BallotOutcome, BarKind, CastVote, Choice, Command, Completion, ControlCommand, CountedVote, Enrol,
    EnrolmentMode, Failure, FailureKind, FleetConfig, FormTeam, Holder, IdentityCommand, IdentityConfig, Join,
    LetterAnswer, LetterId, LetterOutcome, LossReason, MailCommand, OnFailure, OpenBallot, Outcome, Passing,
    PolicyCommand, PoolCommand, PoolShape, PoolTrust, PostLetter, ProofKind, QueueShape, Quota, Refusal, Reply,
    RequestResources, Resource, ResourceCommand, Role, SessionId, Shortage, StaleReason, StoredPolicy, SubmitTask,
    TaskCommand, TaskId, TaskState, TeamCommand, TeamId, TeamNeeds, TokenIssuer, Verify,
};

use crate::{
    blobs::blob_commands,
    fixture::{
        amounts, answered, ballot, enrolment, evidence, letter, pooled, request, retry, signing, specialist, success,
        task, team, to_approve, to_compare, to_verify, vote, with_key, worker,
    },
    kind_samples::kind_commands,
    links::{after, part, split, suspended},
    queue_samples::{queue_commands, queue_replies},
    schedule_samples::{schedule_commands, schedule_replies},
    time_samples::{dead_letter_commands, dead_letter_replies, timing_commands},
};

pub fn trusted() -> IdentityConfig {
    let issuer =
        TokenIssuer { issuer: "https://api".to_owned(), audience: "robeing".to_owned(), jwks: "{}".to_owned() };
    let pool = PoolTrust {
        pool: "data".to_owned(),
        role: Role::Specialist,
        service_accounts: vec!["default/agents".to_owned()],
        secrets: vec![[1; 32], [2; 32]],
    };
    IdentityConfig {
        bundle: "PEM".to_owned(),
        enrolment: EnrolmentMode::Open,
        issuers: vec![issuer],
        pools: vec![pool],
    }
}

pub fn recorded() -> Vec<AuditEntry> {
    let entry = AuditEntry {
        actor: "eve".to_owned(),
        action: "message.send".to_owned(),
        subject: "bob".to_owned(),
        outcome: AuditOutcome::Denied,
        detail: "spoofed".to_owned(),
    };
    vec![entry.clone(), AuditEntry { outcome: AuditOutcome::Allowed, ..entry }]
}

pub fn identity_commands() -> Vec<Command> {
    let (agent, reason, by) = ("a".to_owned(), "it lied".to_owned(), "carol".to_owned());
    vec![
        Command::Identity(IdentityCommand::Configure(trusted())),
        Command::Identity(IdentityCommand::Enrol(enrolment("a", 1, 2))),
        Command::Identity(IdentityCommand::Enrol(Enrol {
            role: Role::Guardian,
            pool: None,
            proof: ProofKind::ServiceAccount,
            single_use: None,
            names_agent: true,
            ..enrolment("b", 3, 0)
        })),
        Command::Identity(IdentityCommand::Bar { agent: agent.clone(), kind: BarKind::Quarantined, reason, by }),
        Command::Identity(IdentityCommand::Bar {
            agent: "b".to_owned(),
            kind: BarKind::Removed,
            reason: String::new(),
            by: String::new(),
        }),
        Command::Identity(IdentityCommand::Release { agent, by: "dave".to_owned() }),
        Command::Audit(AuditCommand::Record(recorded())),
        Command::Agent(AgentCommand::Lost { agent: AgentId(7), session: SessionId(300), reason: LossReason::Barred }),
    ]
}

pub fn mail_commands() -> Vec<Command> {
    let settle =
        |id: u128, answer| Command::Mail(MailCommand::Settle { id: LetterId(id), receiver: "b".to_owned(), answer });
    vec![
        Command::Mail(MailCommand::Post(letter(1))),
        Command::Mail(MailCommand::Post(PostLetter { key_id: "k".to_owned(), priority: 10, ..letter(u128::MAX) })),
        settle(1, LetterAnswer::Accepted),
        settle(u128::MAX, LetterAnswer::Refused { reason: "full".to_owned() }),
        settle(3, LetterAnswer::Replied { reply: Bytes::from_static(b"yes") }),
        settle(4, LetterAnswer::ReplyDropped),
    ]
}

pub fn policy(name: &str) -> StoredPolicy {
    StoredPolicy { name: name.to_owned(), json: format!(r#"{{"name":"{name}"}}"#) }
}

pub fn policy_commands() -> Vec<Command> {
    let set = |policies| Command::Policy(PolicyCommand::Set { policies, by: "carol".to_owned() });
    let denied = Failure {
        kind: FailureKind::Denied,
        message: "a policy".to_owned(),
        code: None,
        stderr_tail: String::new(),
        retryable: false,
        retry_after_ms: 0,
        name: String::new(),
    };
    vec![
        set(vec![policy("a"), policy("b")]),
        set(Vec::new()),
        Command::Task(TaskCommand::Complete(Completion {
            agent: AgentId(7),
            session: SessionId(300),
            task: TaskId(5),
            attempt: 1,
            ran_us: 10,
            outcome: Outcome::Failed(denied),
        })),
    ]
}

/// Returns the command that casts votes of one member.
fn cast_together(votes: Vec<CastVote>) -> Command {
    let mut commands = BallotCommand::cast_all(votes);
    let command = commands.pop().expect("there are votes");
    assert!(commands.is_empty() && matches!(command, BallotCommand::CastAll(_)), "one command casts all");
    Command::Ballot(command)
}

pub fn ballot_commands() -> Vec<Command> {
    let options = vec!["left".to_owned(), "right".to_owned()];
    let signed = |authority: &[u8]| Some(evidence(authority));
    vec![
        Command::Ballot(BallotCommand::Open(ballot(1))),
        Command::Ballot(BallotCommand::Open(OpenBallot { options, notice: Bytes::new(), ..ballot(2) })),
        Command::Ballot(BallotCommand::Open(signing(ballot(3), "b"))),
        Command::Ballot(BallotCommand::Cast(vote(1, "a", Choice::Approve))),
        Command::Ballot(BallotCommand::Cast(CastVote { evidence: signed(b"one"), ..vote(1, "b", Choice::Approve) })),
        Command::Ballot(BallotCommand::Cast(CastVote { option: 2, ..vote(2, "a", Choice::Approve) })),
        Command::Ballot(BallotCommand::Cast(CastVote {
            reason: String::new(),
            evidence: signed(b"other"),
            ..vote(2, "client:c", Choice::Reject)
        })),
        Command::Ballot(BallotCommand::Cast(CastVote { evidence: signed(b"one"), ..vote(3, "b", Choice::Abstain) })),
        cast_together(vec![vote(1, "a", Choice::Approve), vote(2, "a", Choice::Reject)]),
        cast_together(vec![
            CastVote { evidence: signed(b"one"), ..vote(3, "b", Choice::Abstain) },
            CastVote { evidence: signed(b"one"), option: 2, reason: String::new(), ..vote(2, "b", Choice::Approve) },
        ]),
    ]
}

pub fn approval_commands() -> Vec<Command> {
    let failed = Failure { kind: FailureKind::NotApproved, retryable: false, ..failure() };
    vec![
        Command::Task(TaskCommand::Submit(to_approve(101))),
        Command::Task(TaskCommand::Complete(Completion {
            agent: AgentId(7),
            session: SessionId(300),
            task: TaskId(5),
            attempt: 1,
            ran_us: 10,
            outcome: Outcome::Failed(failed),
        })),
    ]
}

pub fn verification_commands() -> Vec<Command> {
    let complete = |outcome| {
        Command::Task(TaskCommand::Complete(Completion {
            agent: AgentId(7),
            session: SessionId(300),
            task: TaskId(5),
            attempt: 1,
            ran_us: 10,
            outcome,
        }))
    };
    let failed = Failure { kind: FailureKind::Disagreement, retryable: false, ..failure() };
    let verify = Some(Box::new(Verify { agents: 5, agree: 4, pointer: Some("/total".to_owned()), compare: None }));
    vec![
        Command::Task(TaskCommand::Submit(to_verify(201))),
        Command::Task(TaskCommand::Submit(SubmitTask { verify, delay: Some(5), ..to_verify(301) })),
        complete(answered("x")),
        complete(Outcome::Failed(failed)),
        Command::Task(TaskCommand::Submit(to_compare(401))),
    ]
}

/// The agents with the numbers 1 and 2 are in the first team if there are such.
pub fn team_commands() -> Vec<Command> {
    let needs = TeamNeeds { role: Some(Role::Specialist), skills: vec!["law".to_owned(), "ocr".to_owned()] };
    let (agent, session) = (AgentId(1), SessionId(1));
    let reaches = vec![AgentId(2), AgentId(300)];
    let by = "client:c".to_owned();
    vec![
        Command::Team(TeamCommand::Form(FormTeam { partial: true, ..team(1, 2) })),
        Command::Team(TeamCommand::Form(FormTeam { needs, ..team(2, 64) })),
        Command::Team(TeamCommand::Paths { team: TeamId(1), agent, session, reaches }),
        Command::Task(TaskCommand::Submit(SubmitTask { team: Some(TeamId(1)), team_term: Some(1), ..task(50) })),
        Command::Team(TeamCommand::Disband { team: TeamId(2), term: None, by: by.clone() }),
        Command::Team(TeamCommand::Disband { team: TeamId(2), term: Some(300), by }),
    ]
}

pub fn resource_commands() -> Vec<Command> {
    let (agent, session) = (AgentId(1), SessionId(1));
    let contribute = |amounts| ResourceCommand::Contribute { agent, session, amounts };
    let quota = Quota { cpu: Some(9_000), memory: None, storage: Some(0), bandwidth: None };
    let gang = |holder| RequestResources {
        holder,
        queue: "batch".to_owned(),
        parts: vec![amounts(1_000, 5), amounts(2_000, 0)],
        spread: true,
        wait: 1_000,
        ..request(2, Amounts::NONE)
    };
    let (first, second) = (AllocationId(1), AllocationId(2));
    let commands = vec![
        contribute(Amounts { cpu: 4_000, memory: 1 << 33, storage: 1 << 40, bandwidth: 1_000_000_000 }),
        ResourceCommand::SetQueues(vec![QueueShape { name: "batch".to_owned(), weight: 3, quota }]),
        ResourceCommand::Request(request(1, amounts(500, 1 << 20))),
        ResourceCommand::Request(gang(Holder::Task(TaskId(7)))),
        ResourceCommand::Request(gang(Holder::Agent("a".to_owned()))),
        ResourceCommand::Request(RequestResources { id: AllocationId(3), ..gang(Holder::Team(TeamId(5))) }),
        ResourceCommand::Renew { id: first, token: 1 },
        ResourceCommand::Release { id: second, token: None },
        ResourceCommand::Release { id: second, token: Some(300) },
        ResourceCommand::SetQueues(Vec::new()),
        contribute(Amounts::NONE),
    ];
    let contributed = Some(Box::new(amounts(4_000, 8)));
    let joined = Command::Agent(AgentCommand::Joined(AgentJoin { contributed, ..worker("r") }));
    commands.into_iter().map(Command::Resource).chain([joined]).collect()
}

pub fn graph_commands() -> Vec<Command> {
    let complete = |outcome| {
        Command::Task(TaskCommand::Complete(Completion {
            agent: AgentId(7),
            session: SessionId(300),
            task: TaskId(5),
            attempt: 1,
            ran_us: 10,
            outcome,
        }))
    };
    let failed = |kind| complete(Outcome::Failed(Failure { kind, retryable: false, ..failure() }));
    let mut graph = vec![
        Command::Task(TaskCommand::Submit(split(401, 2, Join::Quorum))),
        Command::Task(TaskCommand::Submit(part(402, 401, 1))),
        Command::Task(TaskCommand::Submit(after(403, &[401, 402], OnFailure::Skip))),
        Command::Task(TaskCommand::Submit(split(404, 300, Join::Reduce))),
        complete(suspended(2)),
        failed(FailureKind::Dependency),
        failed(FailureKind::Subtask),
        failed(FailureKind::ResultsTooLarge),
    ];
    if let Some(Command::Task(TaskCommand::Submit(task))) = graph.get_mut(2)
        && let Some(links) = &mut task.links
    {
        links.passing = Passing::AsInput;
    }
    graph
}

pub fn failure() -> Failure {
    Failure {
        kind: FailureKind::Exit,
        message: "exit code 2".to_owned(),
        code: Some(2),
        stderr_tail: "no such file".to_owned(),
        retryable: true,
        retry_after_ms: 0,
        name: String::new(),
    }
}

pub fn commands() -> Vec<Command> {
    let agent = AgentId(7);
    let session = SessionId(300);
    let complete = |outcome| {
        Command::Task(TaskCommand::Complete(Completion {
            agent,
            session,
            task: TaskId(0x1234_5678_9abc),
            attempt: 3,
            ran_us: 1_500,
            outcome,
        }))
    };
    vec![
        Command::Task(TaskCommand::Submit(task(1))),
        Command::Task(TaskCommand::Submit(SubmitTask {
            deadline_in: Some(60_000),
            delay: Some(5),
            attempt_timeout: Some(1_000),
            retry: retry(3),
            required_role: Some(Role::Guardian),
            required_specialization: Some("parse".to_owned()),
            idempotency_key: Some("key".to_owned()),
            result_ttl: Some(0),
            ..task(u128::MAX)
        })),
        Command::Task(TaskCommand::Cancel { task: TaskId(2), reason: "why not".to_owned() }),
        Command::Agent(AgentCommand::Joined(worker("a"))),
        Command::Agent(AgentCommand::Joined(pooled("b", Some(3), 1))),
        Command::Agent(AgentCommand::Joined(specialist("c", "parse"))),
        Command::Agent(AgentCommand::Lost { agent, session, reason: LossReason::Replaced }),
        Command::Agent(AgentCommand::Draining { agent, session }),
        Command::Agent(AgentCommand::Left { agent, session }),
        complete(success()),
        complete(Outcome::Failed(failure())),
        complete(Outcome::Stopped),
        complete(Outcome::HandedBack),
        Command::Control(ControlCommand::Tick),
        Command::Control(ControlCommand::Configure(FleetConfig::default())),
        Command::Control(ControlCommand::RaiseVersion(2)),
        Command::Agent(AgentCommand::Lost { agent, session, reason: LossReason::Failed }),
        Command::Agent(AgentCommand::Unhealthy { agent, session, reason: "503".to_owned() }),
        Command::Agent(AgentCommand::Healthy { agent, session, readmit: true }),
        Command::Pool(PoolCommand::Set(vec![
            shape(Some(3), 1),
            PoolShape { name: "mail".to_owned(), ..shape(None, 0) },
        ])),
    ]
    .into_iter()
    .chain(identity_commands())
    .chain(mail_commands())
    .chain([Command::Agent(AgentCommand::Joined(with_key("k", 9)))])
    .chain(policy_commands())
    .chain([Command::Agent(AgentCommand::Describe { agent, session, sealing_key: [9; 32] })])
    .chain(ballot_commands())
    .chain(approval_commands())
    .chain(verification_commands())
    .chain([team_commands(), resource_commands(), timing_commands(), dead_letter_commands(), graph_commands()].concat())
    .chain([queue_commands(), kind_commands(), schedule_commands(), blob_commands()].concat())
    .collect()
}

pub fn shape(replicas: Option<u32>, standby: u32) -> PoolShape {
    PoolShape { name: "data".to_owned(), replicas, standby }
}

pub fn replies() -> Vec<Reply> {
    let task = TaskId(5);
    vec![
        Reply::Submitted { task, existing: true },
        Reply::Cancelled(TaskState::DeadLettered),
        Reply::Joined { agent: AgentId(1), session: SessionId(2) },
        Reply::Completed,
        Reply::Stale(StaleReason::SessionEnded),
        Reply::Done,
        Reply::Refused(Refusal::QueueFull { limit: 9 }),
        Reply::Refused(Refusal::TooManyTasks { limit: 9 }),
        Reply::Refused(Refusal::StorageFull { limit: 9 }),
        Reply::Refused(Refusal::InputTooLarge { bytes: 10, limit: 9 }),
        Reply::Refused(Refusal::Invalid { field: "kind".to_owned(), problem: "empty".to_owned() }),
        Reply::Refused(Refusal::Conflict { what: "the id".to_owned(), task }),
        Reply::Refused(Refusal::UnknownTask { task }),
        Reply::Refused(Refusal::TooManyAgents { limit: 9 }),
        Reply::Refused(Refusal::StaleSession),
        Reply::Refused(Refusal::Version { asked: 3, current: 1, known: 2 }),
        Reply::Refused(Refusal::NotInForce { feature: "mail".to_owned(), since: 3, current: 1 }),
        Reply::Refused(Refusal::Unreadable { problem: "too new".to_owned() }),
        Reply::PoolsSet { revision: 300 },
        Reply::Unreadable { problem: "too new".to_owned() },
        Reply::Enrolled { epoch: 300 },
        Reply::Refused(Refusal::ProofSpent { agent: "a".to_owned() }),
        Reply::Refused(Refusal::ProofExpired { expired: 300 }),
        Reply::Refused(Refusal::OpenEnrolmentOff),
        Reply::Refused(Refusal::Barred {
            agent: "a".to_owned(),
            kind: BarKind::Quarantined,
            since: 300,
            reason: "it lied".to_owned(),
            by: "carol".to_owned(),
        }),
        Reply::Refused(Refusal::NameHeld { agent: "a".to_owned(), since: 300 }),
        Reply::Refused(Refusal::Full { what: "bars".to_owned(), limit: 9, remedy: "wait".to_owned() }),
        Reply::Posted { existing: true },
        Reply::Posted { existing: false },
        Reply::Settled(LetterOutcome::Accepted),
        Reply::Settled(LetterOutcome::Refused { reason: "full".to_owned() }),
        Reply::Settled(LetterOutcome::Expired),
        Reply::Settled(LetterOutcome::Replied { reply: Bytes::from_static(b"yes") }),
        Reply::Settled(LetterOutcome::ReplyDropped),
        Reply::Refused(Refusal::LetterConflict { letter: LetterId(5) }),
        Reply::Refused(Refusal::UnknownLetter { letter: LetterId(5) }),
        Reply::Refused(Refusal::OtherReceiver { letter: LetterId(5), by: "c".to_owned() }),
        Reply::PoliciesSet { revision: 300 },
    ]
    .into_iter()
    .chain(ballot_replies())
    .chain(team_replies())
    .chain(resource_replies())
    .chain(dead_letter_replies())
    .chain([
        Reply::Refused(Refusal::UnknownDependency { task }),
        Reply::Refused(Refusal::NoPart { task, index: 3, problem: "it has ended".to_owned() }),
    ])
    .chain(queue_replies())
    .chain([Reply::KindsSet { revision: 300 }])
    .chain(schedule_replies())
    .collect()
}

fn ballot_replies() -> Vec<Reply> {
    vec![
        Reply::BallotOpened { existing: true },
        Reply::BallotOpened { existing: false },
        Reply::VoteCast { existing: false, outcome: None },
        Reply::VoteCast { existing: true, outcome: Some(BallotOutcome::Expired) },
        Reply::VoteCast { existing: false, outcome: Some(BallotOutcome::Approved { option: 0 }) },
        Reply::VoteCast { existing: false, outcome: Some(BallotOutcome::Approved { option: 2 }) },
        Reply::VoteCast { existing: false, outcome: Some(BallotOutcome::Rejected) },
        Reply::VotesCast {
            votes: vec![
                CountedVote { existing: true, outcome: None, refusal: None },
                CountedVote { existing: false, outcome: Some(BallotOutcome::Expired), refusal: None },
                CountedVote {
                    existing: false,
                    outcome: None,
                    refusal: Some(Refusal::UnknownBallot { ballot: BallotId(5) }),
                },
            ],
        },
        Reply::Refused(Refusal::UnknownBallot { ballot: BallotId(5) }),
        Reply::Refused(Refusal::BallotConflict { ballot: BallotId(5) }),
        Reply::Refused(Refusal::NotElector { ballot: BallotId(5), member: "c".to_owned() }),
        Reply::Refused(Refusal::AlreadyVoted { ballot: BallotId(5), member: "a".to_owned() }),
        Reply::Refused(Refusal::BallotClosed { ballot: BallotId(5) }),
        Reply::Refused(Refusal::BallotTaken { ballot: BallotId(5) }),
    ]
}

fn team_replies() -> Vec<Reply> {
    vec![
        Reply::TeamFormed { existing: false, members: 5 },
        Reply::TeamFormed { existing: true, members: 0 },
        Reply::TeamDisbanded { existing: true },
        Reply::Refused(Refusal::UnknownTeam { team: TeamId(5) }),
        Reply::Refused(Refusal::TeamConflict { team: TeamId(5) }),
        Reply::Refused(Refusal::TeamDisbanded { team: TeamId(5) }),
        Reply::Refused(Refusal::TooFewAgents { wanted: 5, free: 3 }),
        Reply::Refused(Refusal::StaleTerm { team: TeamId(5), term: 1, current: 300 }),
    ]
}

fn resource_replies() -> Vec<Reply> {
    let allocation = AllocationId(5);
    let short = |of_one| Shortage { resource: Resource::Memory, asked: 300, free: 7, of_one };
    vec![
        Reply::Allocated { existing: false, token: Some(300) },
        Reply::Allocated { existing: true, token: None },
        Reply::LeaseRenewed { ttl: 60_000 },
        Reply::Refused(Refusal::InsufficientResources {
            short: vec![short(false), short(true)],
            others_wait: false,
            contributed: false,
        }),
        Reply::Refused(Refusal::InsufficientResources { short: Vec::new(), others_wait: true, contributed: false }),
        Reply::Refused(Refusal::UnknownAllocation { allocation }),
        Reply::Refused(Refusal::AllocationConflict { allocation }),
        Reply::Refused(Refusal::StaleToken { allocation }),
        Reply::Refused(Refusal::OverQuota {
            queue: "batch".to_owned(),
            resource: Resource::Cpu,
            asked: 3_000,
            used: 8_000,
            quota: 9_000,
        }),
        Reply::Refused(Refusal::HolderGone { holder: "agent:a".to_owned() }),
        Reply::Refused(Refusal::InsufficientResources {
            short: vec![short(true)],
            others_wait: false,
            contributed: true,
        }),
    ]
}
