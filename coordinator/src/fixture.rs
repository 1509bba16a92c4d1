//! Fleets for unit tests, built by applying commands as the state machine does.

use std::sync::Arc;

use bytes::Bytes;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, Ballot, BallotCommand, BallotId, CastVote, Choice, Command, Completion,
    ControlCommand, Elector, Failure, FailureKind, Fleet, FleetConfig, Fraction, Letter, LetterId, LetterOutcome,
    LetterState, MailCommand, OpenBallot, Outcome, PostLetter, Reply, Role, SessionId, Stamp, SubmitTask, TaskCommand,
    TaskId, known_version,
};

/// What a worker of this name reports when it joins.
pub fn join(name: &str, slots: u32) -> AgentJoin {
    AgentJoin {
        name: name.into(),
        incarnation: 1,
        role: Role::Worker,
        pool: None,
        specializations: Vec::new(),
        slots,
        address: "127.0.0.1:1".into(),
        process: None,
        pid: 1,
        version: String::new(),
        sealing_key: None,
        contributed: None,
        lacks_store: false,
    }
}

/// A task that any worker can run.
pub fn task(id: u128, input: Bytes) -> SubmitTask {
    SubmitTask::new(TaskId(id), "kind", input)
}

/// A fleet with one agent that has the maximum number of slots.
pub fn fleet_with_agent() -> (Fleet, AgentId, SessionId) {
    let mut fleet = Fleet::new(FleetConfig::default());
    let reply = fleet.apply(
        Stamp::at(1),
        Command::Agent(AgentCommand::Joined(join("agent", robeing_fleet::limits::MAX_SLOTS))),
        &mut Vec::new(),
    );
    let Reply::Joined { agent, session } = reply else { panic!("{reply:?}") };
    (fleet, agent, session)
}

/// A fleet with tasks 1 to `count`, each of which ended with `outcome`.
pub fn fleet_with_ended(count: u128, outcome: &Outcome) -> Fleet {
    let (mut fleet, agent, session) = fleet_with_agent();
    for id in 1..=count {
        fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task(id, Bytes::new()))), &mut Vec::new());
        let completion =
            Completion { agent, session, task: TaskId(id), attempt: 1, ran_us: 1, outcome: outcome.clone() };
        let reply = fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Complete(completion)), &mut Vec::new());
        assert_eq!(reply, Reply::Completed);
    }
    fleet
}

/// A failure that is not retryable, with texts of the maximum size.
pub fn wordy_failure() -> Outcome {
    let text = "x".repeat(robeing_fleet::limits::MAX_TEXT_BYTES);
    Outcome::Failed(Failure {
        kind: FailureKind::Exit,
        message: text.clone(),
        code: Some(1),
        stderr_tail: text,
        retryable: false,
        retry_after_ms: 0,
        name: String::new(),
    })
}

/// A letter from `a` to `b` that waits for a minute.
pub fn post_letter(id: u128) -> PostLetter {
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
        to: "agent:b".to_owned(),
    }
}

/// A fleet with these letters.
pub fn fleet_with_letters(letters: impl IntoIterator<Item = PostLetter>) -> Fleet {
    let mut fleet = Fleet::new(FleetConfig::default());
    let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
    assert_eq!(fleet.apply(Stamp::at(1), raise, &mut Vec::new()), Reply::Done);
    for letter in letters {
        let reply = fleet.apply(Stamp::at(1), Command::Mail(MailCommand::Post(letter)), &mut Vec::new());
        assert_eq!(reply, Reply::Posted { existing: false });
    }
    fleet
}

/// A letter with this outcome, or one that waits.
pub fn letter(id: u128, outcome: Option<LetterOutcome>) -> Letter {
    let fleet = fleet_with_letters([post_letter(id)]);
    let letter = fleet.letter(LetterId(id)).expect("it was posted");
    let state = outcome.map_or(LetterState::Waiting, |outcome| LetterState::Settled { outcome, at: Stamp::at(1) });
    Letter { state, ..(**letter).clone() }
}

/// A ballot that the only member of its electorate, a user, has approved.
pub fn closed_ballot(id: u128) -> Arc<Ballot> {
    let (ballot, member) = (BallotId(id), "client:ann".to_owned());
    let mut fleet = fleet_with_letters([]);
    let open = OpenBallot {
        id: ballot,
        opened_by: member.clone(),
        question: "Ship it?".to_owned(),
        options: Vec::new(),
        electorate: vec![Elector { name: member.clone(), weight: 1, letter: None, signs: false }],
        threshold: Fraction::TWO_THIRDS,
        ttl: 60_000,
        digest: [1; 32],
        notice: Bytes::from_static(b"{}"),
        fleet: "fleet".to_owned(),
        asked: [2; 32],
    };
    let (choice, reason, attested_by) = (Choice::Approve, String::new(), "c-0".to_owned());
    let cast = CastVote { ballot, member, choice, option: 0, reason, evidence: None, attested_by };
    for command in [BallotCommand::Open(open), BallotCommand::Cast(cast)] {
        fleet.apply(Stamp::at(1), Command::Ballot(command), &mut Vec::new());
    }
    Arc::clone(fleet.ballot(ballot).expect("it was opened"))
}
