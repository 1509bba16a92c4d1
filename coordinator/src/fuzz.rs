//! What fuzz targets run of the parsers that only this crate uses. Each function takes one input, and panics if the input
//! is not handled as it must be.

use std::{
    fmt::Display,
    pin::pin,
    task::{Context, Poll, Waker},
};

use prost::Message;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, Command, ControlCommand, EnrolmentMode, Fleet, FleetConfig, IdentityConfig,
    MailCommand, PoolTrust, Reply, RetryPolicy, Role, SessionId, Stamp, TaskCommand, decode_command, encode_command,
    known_version,
    limits::{MAX_LETTER_BYTES, MAX_LETTER_REPLY_BYTES, MAX_LETTER_TTL_MS},
};
use robeing_identity::{JoinKey, JoinSecret, PeerRole, jwt::TokenIssuer};
use robeing_proto::{
    internal::v1::{AgentMessage, EnrolRequest, FromMailbox, agent_message, enrol_request::Proof, from_mailbox},
    v1::{SendMessageRequest, TaskSpec},
};
use robeing_settings::Enrolment;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::{
    api::{convert, session::reported},
    identity::{
        kubernetes::{
            Decision,
            messages::{MAX_REASON, accessed, reviewed},
        },
        proofs::{Claim, Verifier},
        rights::{Client, ClientRights, Right},
    },
    leader::sessions::{
        opening::join,
        reconcile::{self, MAX_HELD},
    },
    logs::kept::{KeptLogs, MAX_LINE_BYTES, MAX_LINES, MAX_PROGRESS_TEXT},
    mail::{address::Address, draft::Draft},
};

/// The agent that the fleet of these functions has.
const AGENT: &str = "w-0";
/// The time at which messages arrive, Unix milliseconds.
const NOW: u64 = 1_800_000_000_000;

/// Checks that a refusal is a sentence.
fn check_sentence(refusal: impl Display) {
    let text = refusal.to_string();
    assert!(text.contains(' '), "a refusal says what is wrong: {text:?}");
}

/// Checks that a status is a refusal, and no failure of the coordinator.
fn check_refusal(status: &Status) {
    check_sentence(status.message());
    assert!(!matches!(status.code(), Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss), "{status:?}");
}

/// Runs a future that waits for nothing but its own turn.
fn finished<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
}

/// Applies a command that was made of an input to a fleet with one agent, as the log would carry it.
fn applied(command: Command) -> Reply {
    let mut bytes = Vec::new();
    encode_command(&command, &mut bytes);
    assert_eq!(decode_command(&bytes).as_ref(), Ok(&command), "the log carries it");
    let mut fleet = Fleet::new(FleetConfig::default());
    let agent = AgentJoin {
        name: AGENT.to_owned(),
        incarnation: 1,
        role: Role::Worker,
        pool: None,
        specializations: Vec::new(),
        slots: 1,
        address: "127.0.0.1:1".to_owned(),
        process: None,
        pid: 1,
        version: "0.1.0".to_owned(),
        sealing_key: None,
        contributed: None,
        lacks_store: false,
    };
    let newest = Command::Control(ControlCommand::RaiseVersion(known_version()));
    for command in [newest, Command::Agent(AgentCommand::Joined(agent))] {
        fleet.apply(Stamp::at(1), command, &mut Vec::new());
    }
    let reply = fleet.apply(Stamp::at(2), command, &mut Vec::new());
    fleet.audit().expect("the invariants hold");
    if let Reply::Refused(refusal) = &reply {
        check_sentence(refusal);
    }
    reply
}

/// A list of clients' rights: whoever has less of a name has no more rights, and anonymous clients never more than two.
pub fn rights(text: &[u8]) {
    let rights = match ClientRights::parse(text) {
        Ok(rights) => rights,
        Err(refused) => return check_sentence(refused),
    };
    for right in Right::ALL {
        let [anonymous, token, named] =
            [Client::Anonymous, Client::Token, Client::Named("ann")].map(|client| rights.allow(client, right));
        assert!(!anonymous || (token && right.is_for_anonymous()), "{right}");
        assert!(!token || named, "{right}");
    }
}

/// The API server's answer who a token is, and whether a user has a right.
pub fn kubernetes_answer(json: &[u8]) {
    match reviewed(json) {
        Ok(Decision::Allowed(user)) => assert!(!user.name.is_empty() && user.is_bounded()),
        Ok(Decision::Denied(reason)) => assert!((1..=MAX_REASON).contains(&reason.chars().count())),
        Err(error) => check_sentence(error),
    }
    match accessed(json) {
        Ok(Decision::Allowed(())) => {}
        Ok(Decision::Denied(reason)) => assert!((1..=MAX_REASON).contains(&reason.chars().count())),
        Err(error) => check_sentence(error),
    }
}

/// Returns whether coordinators take this text as the address of a message.
pub fn is_address(text: &str) -> bool {
    Address::parse(text).map_err(check_sentence).is_ok()
}

/// A message that a client sends: what is taken is within the limits, and is a letter that the fleet's log takes.
pub fn send_message(bytes: &[u8]) {
    let Ok(request) = SendMessageRequest::decode(bytes) else { return };
    let draft = match Draft::check(request.clone(), "client/ann", || 7, NOW) {
        Ok(draft) => draft,
        Err(refused) => return check_sentence(refused),
    };
    assert!(draft.letter_bytes() <= MAX_LETTER_BYTES && (1..=MAX_LETTER_TTL_MS).contains(&draft.ttl));
    let again = Draft::check(request, "client/ann", || 7, NOW + 1).expect("it was taken");
    assert_eq!(again.id_to(AGENT), draft.id_to(AGENT), "a repetition has the same id");
    let reply = applied(Command::Mail(MailCommand::Post(draft.letter_to(AGENT))));
    assert!(!matches!(reply, Reply::Refused(_)), "what the API takes, the log takes: {reply:?}");
}

/// A task that a client submits.
pub fn submission(bytes: &[u8]) {
    let Ok(mut spec) = TaskSpec::decode(bytes) else { return };
    if let Err(refused) = convert::start_after(&mut spec, || Stamp::at(NOW)) {
        return check_sentence(refused);
    }
    match convert::submission(spec, RetryPolicy::default(), || 7) {
        Ok(task) => drop(applied(Command::Task(TaskCommand::Submit(task)))),
        Err(refused) => check_sentence(refused),
    }
}

/// A message of an agent in its session: its Hello becomes a member, its completions results, and of its lines no more is
/// kept than may be.
pub fn session(bytes: &[u8]) {
    let Ok(AgentMessage { message: Some(message) }) = AgentMessage::decode(bytes) else { return };
    match message {
        agent_message::Message::Hello(hello) => {
            match finished(reconcile::held(&hello.held)) {
                Ok(held) => {
                    assert!(held.len() <= MAX_HELD && held.is_sorted());
                    assert_eq!(reconcile::differences(&[], &held), (Vec::new(), held), "all of it is to be stopped");
                }
                Err(refused) => check_refusal(&refused),
            }
            match join(&hello, None) {
                Ok(join) if join.check().is_ok() => {
                    let reply = applied(Command::Agent(AgentCommand::Joined(join)));
                    assert!(matches!(reply, Reply::Joined { .. } | Reply::Refused(_)), "{reply:?}");
                }
                Ok(join) => join.check().err().into_iter().for_each(check_sentence),
                Err(refused) => check_refusal(&refused),
            }
        }
        agent_message::Message::Completions(completions) => {
            for completion in completions.completions {
                match reported(AgentId(1), SessionId(1), completion, |_| RetryPolicy::default()) {
                    Ok(result) => drop(applied(Command::Task(TaskCommand::Complete(result)))),
                    Err(refused) => check_sentence(refused),
                }
            }
        }
        agent_message::Message::AttemptLog(log) => {
            let Ok(task) = convert::task_id(&log.task_id) else { return };
            let (logs, key) = (KeptLogs::default(), (task, log.attempt));
            assert!(logs.begin(key, AgentId(1), Instant::now(), |_| true).is_some(), "nobody else follows anything");
            logs.received(AgentId(1), log);
            let kept = logs.read(key, 0, 0, usize::MAX);
            assert!(kept.lines.len() <= MAX_LINES && kept.lines.iter().all(|line| line.text.len() <= MAX_LINE_BYTES));
            if let Some((progress, _)) = kept.progress {
                assert!((0.0..=1.0).contains(&progress.fraction) && progress.text.len() <= MAX_PROGRESS_TEXT);
            }
        }
        _ => {}
    }
}

/// A message of an agent in its mailbox: an answer that is taken is within the limits.
pub fn mailbox(bytes: &[u8]) {
    let Ok(FromMailbox { message: Some(message) }) = FromMailbox::decode(bytes) else { return };
    let from_mailbox::Message::Answers(answers) = message else { return };
    for answer in answers.answers {
        let is_id = answer.id.len() == size_of::<u128>();
        let Some((id, answer)) = convert::settle_answer(answer) else {
            assert!(!is_id, "only a wrong id is no answer");
            continue;
        };
        assert!(is_id);
        if let robeing_fleet::LetterAnswer::Replied { reply } = &answer {
            assert!(reply.len() <= MAX_LETTER_REPLY_BYTES);
        }
        applied(Command::Mail(MailCommand::Settle { id, receiver: AGENT.to_owned(), answer }));
    }
}

/// What the fleet of [`enrolment`] trusts.
#[derive(Debug)]
pub struct Trust {
    /// The issuers of service-account tokens.
    pub issuers: Vec<TokenIssuer>,
    /// The service account of the pool `data`, `namespace/name`.
    pub service_account: String,
    /// What join tokens are signed with.
    pub join_key: JoinKey,
    /// The join secret of the pool `data`.
    pub join_secret: JoinSecret,
}

/// A request to enrol, at a fleet with a pool `data` of workers: a proof that is accepted is one for that pool and role, and
/// without a proof nobody is enrolled.
pub fn enrolment(bytes: &[u8], trust: &Trust) {
    let Ok(request) = EnrolRequest::decode(bytes) else { return };
    let role = match convert::agent_role(request.role()) {
        Ok(role) => role,
        Err(refused) => return check_sentence(refused),
    };
    let pool = PoolTrust {
        pool: "data".to_owned(),
        role: Role::Worker,
        service_accounts: vec![trust.service_account.clone()],
        secrets: vec![trust.join_secret.digest()],
    };
    let (bundle, enrolment) = (String::new(), EnrolmentMode::Proof);
    let config = IdentityConfig { bundle, enrolment, issuers: Vec::new(), pools: vec![pool] };
    let verifier = Verifier {
        config: Some(&config),
        issuers: &trust.issuers,
        enrolment: Enrolment::Proof,
        join_key: &trust.join_key,
        join_secret: None,
        now: NOW,
    };
    let peer_role: PeerRole = convert::peer_role(role);
    let (cluster, name, pool) = (&*request.cluster_id, &*request.name, &*request.pool);
    let claim = Claim { cluster, name, role, role_name: peer_role.as_str(), pool };
    match verifier.verify(claim, request.proof.as_ref()) {
        Ok(proved) => {
            assert_eq!((role, pool), (Role::Worker, "data"), "nothing else is trusted here");
            match request.proof.expect("a proof is needed") {
                Proof::JoinSecret(secret) => assert_eq!(*secret, *trust.join_secret.bytes()),
                Proof::JoinToken(_) => assert!(proved.single_use.is_some_and(|used| used.expires > NOW)),
                Proof::ServiceAccountToken(_) => assert!(!trust.issuers.is_empty()),
            }
        }
        Err(refused) => check_sentence(refused),
    }
}
