//! Policies at work: set at one coordinator, evaluated at each before anything is proposed.

use std::time::Duration;

use robeing_fleet::{
    Command, FailureKind, KindCommand, Refusal, Reply, SplitBy, Splitter, TaskId, TaskKind, TaskState, known_version,
};
use robeing_identity::PeerRole;
use robeing_net::gate::Caller;
use robeing_policy::{Checked, Event, Message};
use robeing_proto::{
    internal::v1::completion::Outcome,
    v1::{self, TaskSpec},
};
use robeing_settings::Enrolment;
use tonic::Code;

use crate::{
    api::convert::{submission, task_id},
    policies::{Held, stored},
    tests::{
        agent::TestAgent,
        fleet::{TestFleet, task},
        member::{TestMember, code, retried},
    },
};

const NO_DEPLOYS: &str = r#"{"name": "no-deploys", "events": ["Submission"], "rule": "object.kind == 'deploy'",
    "action": "deny", "message": "deploy elsewhere"}"#;
const NO_TOKENS: &str = r#"{"name": "no-tokens", "events": ["Submission", "Result", "Message"], "match": "type(json) == map",
    "rule": "has(json.token)", "action": "redact", "fields": ["/token"]}"#;
const NO_SECRETS: &str = r#"{"name": "no-secrets", "events": ["Result", "Message"], "rule": "text.contains('secret')",
    "action": "deny"}"#;

/// A fleet without TLS in which policies can be set.
async fn fleet() -> (TestFleet, usize) {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    in_force(&fleet, leader).await;
    (fleet, leader)
}

async fn in_force(fleet: &TestFleet, leader: usize) {
    let in_force = |fleet: &TestFleet| fleet.tested(leader).state.look(|state| state.version()) == known_version();
    fleet.until("policies in force", in_force).await;
}

/// Sets policies at a coordinator, and waits until all have them.
pub async fn set(fleet: &TestFleet, at: usize, policies: &[&str]) {
    let texts: Vec<String> = policies.iter().map(|policy| (*policy).to_owned()).collect();
    let policies = stored(&texts).expect("they are right");
    let command = robeing_fleet::PolicyCommand::Set { policies: policies.clone(), by: "ann".to_owned() };
    let reply = fleet.tested(at).proposer.propose_one(robeing_fleet::Command::Policy(command)).await;
    assert!(matches!(reply, Ok(robeing_fleet::Reply::PoliciesSet { .. })), "{reply:?}");
    let has = |fleet: &TestFleet, n: usize| {
        fleet.tested(n).state.look(|fleet| fleet.policies().is_some_and(|list| list.policies == policies))
    };
    fleet.until("the policies at all", |fleet| fleet.running().into_iter().all(|n| has(fleet, n))).await;
}

async fn submit(fleet: &TestFleet, at: usize, spec: TaskSpec) -> Result<TaskId, v1::Refusal> {
    let results = fleet.tested(at).submissions.submit(vec![spec], &Caller::Plaintext).await.expect("somebody leads");
    match results.into_iter().next().expect("one result") {
        v1::SubmitResult { refusal: Some(refusal), .. } => Err(refusal),
        accepted => Ok(task_id(&accepted.task_id).expect("an id")),
    }
}

fn of(id: u128, kind: &str, input: &'static str) -> TaskSpec {
    TaskSpec { kind: kind.into(), input: input.into(), ..task(id) }
}

fn refused(code: &str, message: &str) -> Result<TaskId, v1::Refusal> {
    Err(v1::Refusal { code: code.to_owned(), message: message.to_owned() })
}

fn input(fleet: &TestFleet, at: usize, id: u128) -> bytes::Bytes {
    fleet.tested(at).state.look(|fleet| fleet.task(TaskId(id)).expect("it is kept").input.clone())
}

#[tokio::test(start_paused = true)]
async fn a_submission_is_denied_redacted_or_taken_at_any_coordinator_and_the_log_has_the_outcome_alone() {
    let (fleet, leader) = fleet().await;
    let follower = fleet.followers(leader)[0];
    set(&fleet, follower, &[NO_DEPLOYS, NO_TOKENS]).await;
    for (at, id) in [(leader, 10), (follower, 20)] {
        let denied = refused("PERMISSION_DENIED", "policy no-deploys denies this: deploy elsewhere");
        assert_eq!(submit(&fleet, at, of(id, "deploy", "x")).await, denied);
        assert!(fleet.tested(at).state.look(|fleet| fleet.task(TaskId(id)).is_none()));
        let taken = submit(&fleet, at, of(id + 1, "report", r#"{"token": "t", "n": 1.0}"#)).await;
        assert_eq!(taken, Ok(TaskId(id + 1)));
        fleet
            .until("the task at all", |fleet| {
                let has = |n| fleet.tested(n).state.look(|fleet| fleet.task(TaskId(id + 1)).is_some());
                fleet.running().into_iter().all(has)
            })
            .await;
        for n in fleet.running() {
            assert_eq!(input(&fleet, n, id + 1), r#"{"token": "[redacted]", "n": 1.0}"#);
        }
        // Another submission of the same is the same task.
        assert_eq!(submit(&fleet, at, of(id + 1, "report", r#"{"token": "t", "n": 1.0}"#)).await, Ok(TaskId(id + 1)));
    }
    let verify = Some(v1::Verify { agents: 3, agree: 2, pointer: None, compare: "deploy".to_owned() });
    let hidden = submit(&fleet, leader, TaskSpec { verify, ..of(25, "report", "x") }).await;
    assert_eq!(hidden, refused("PERMISSION_DENIED", "policy no-deploys denies this: deploy elsewhere"));
    set(&fleet, leader, &[]).await;
    assert_eq!(submit(&fleet, leader, of(30, "deploy", "x")).await, Ok(TaskId(30)));
    set(&fleet, leader, &[NO_DEPLOYS]).await;
    assert_eq!(submit(&fleet, follower, of(30, "deploy", "x")).await, Ok(TaskId(30)), "it was accepted before");
    // It is not proposed: if it expired meanwhile, it would be a new task.
    let submission = |input| {
        let retry = fleet.tested(leader).state.look(|fleet| fleet.config().retry);
        submission(of(30, "deploy", input), retry, || 0).expect("it is right")
    };
    let mut again = vec![submission("x"), submission("y")];
    let answered = fleet.tested(leader).policies.check_submissions(&mut again, &Caller::Plaintext).await;
    let known = Reply::Submitted { task: TaskId(30), existing: true };
    assert!(matches!(&answered[&0], Held::Answered(Ok(reply)) if *reply == known), "{:?}", answered[&0]);
    let is_conflict = matches!(&answered[&1], Held::Answered(Ok(Reply::Refused(Refusal::Conflict { .. }))));
    assert!(is_conflict, "{:?}", answered[&1]);
}

/// Sets kinds of tasks whose input is divided by attempts that are run as other kinds.
async fn set_divided(fleet: &TestFleet, at: usize, kinds: &[(&str, &str)]) {
    let kind = |(name, divided_as): &(&str, &str)| {
        let splitter = Splitter { by: SplitBy::Command, kind: (*divided_as).to_owned(), ..Splitter::default() };
        TaskKind { name: (*name).to_owned(), splitter: Some(Box::new(splitter)), ..TaskKind::default() }
    };
    let kinds = kinds.iter().map(kind).collect();
    let command = Command::Kind(KindCommand::Set { kinds, by: "ann".to_owned() });
    let reply = fleet.tested(at).proposer.propose_one(command).await;
    assert!(matches!(reply, Ok(Reply::KindsSet { .. })), "{reply:?}");
}

/// Returns a task of such a kind, with parts of this kind.
fn divided(id: u128, kind: &str, part_kind: &str) -> TaskSpec {
    let split = Some(v1::Split { part_kind: part_kind.to_owned(), ..v1::Split::default() });
    TaskSpec { agents: 2, split, ..of(id, kind, "x") }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_an_attempt_divides_entails_no_kinds_that_its_submitter_may_not_submit() {
    let (fleet, leader) = fleet().await;
    set(&fleet, leader, &[NO_DEPLOYS]).await;
    set_divided(&fleet, leader, &[("report", "cut"), ("release", "deploy")]).await;
    let denied = refused("PERMISSION_DENIED", "policy no-deploys denies this: deploy elsewhere");
    assert_eq!(submit(&fleet, leader, divided(10, "release", "")).await, denied, "what divides it");
    assert_eq!(submit(&fleet, leader, divided(20, "report", "deploy")).await, denied, "its parts");
    assert_eq!(submit(&fleet, leader, divided(30, "report", "")).await, Ok(TaskId(30)));
}

#[tokio::test(start_paused = true)]
async fn what_divides_an_input_is_a_result_of_the_kind_that_is_run() {
    let (fleet, leader) = fleet().await;
    let no_lists = r#"{"name": "no-lists", "events": ["Result"], "rule":
        "object.kind == 'report' && text.contains('[')", "action": "deny"}"#;
    set(&fleet, leader, &[no_lists]).await;
    set_divided(&fleet, leader, &[("report", "cut")]).await;
    let _agent = TestAgent::join_to_work(&fleet, leader, "w-0", |given| {
        let output = if given.kind == "cut" { r#"["a", "b"]"# } else { "done" };
        Some(Outcome::Output(output.into()))
    })
    .await;
    submit(&fleet, leader, divided(10, "report", "")).await.expect("it is accepted");
    fleet.until("the end of the task", |fleet| ends(fleet, leader, 10)).await;
    let state = fleet.tested(leader).state.look(|fleet| fleet.task(TaskId(10)).map(|task| task.state));
    assert_eq!(state, Some(TaskState::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn many_tasks_of_one_call_are_decided_one_by_one() {
    let (fleet, leader) = fleet().await;
    set(&fleet, leader, &[NO_DEPLOYS]).await;
    let kind = |id: u128| if id.is_multiple_of(3) { "deploy" } else { "report" };
    let specs = (0..200).map(|id| of(id, kind(id), "x")).collect();
    let results = fleet.tested(leader).submissions.submit(specs, &Caller::Plaintext).await.expect("it leads");
    for (id, result) in (0..).zip(&results) {
        assert_eq!(result.task_id, TaskId(id).to_string());
        assert_eq!(result.refusal.is_some(), id % 3 == 0, "{result:?}");
    }
    assert_eq!(results.len(), 200);
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_nobody_can_give_is_a_refusal_and_failures_are_closed_or_open() {
    let (fleet, leader) = fleet().await;
    let approve = r#"{"name": "large", "events": ["Submission"], "rule": "size > 3", "action": "requireApproval",
        "message": "it is large"}"#;
    let closed = r#"{"name": "closed", "events": ["Submission"], "match": "object.kind == 'closed'", "rule": "json.x > 1",
        "action": "deny"}"#;
    let open = r#"{"name": "open", "events": ["Submission"], "match": "object.kind == 'open'", "rule": "json.x > 1",
        "action": "deny", "failurePolicy": "Open"}"#;
    set(&fleet, leader, &[approve, closed, open]).await;
    assert_eq!(
        submit(&fleet, leader, of(1, "any", "long")).await,
        refused(
            "FAILED_PRECONDITION",
            "policy large requires an approval, and names nobody who could give it: it is large"
        )
    );
    assert_eq!(
        submit(&fleet, leader, of(2, "closed", "{}")).await,
        refused(
            "PERMISSION_DENIED",
            "policy closed can't be evaluated (rule: there is no field \"x\"; test for it with has()), and fails closed"
        )
    );
    assert_eq!(submit(&fleet, leader, of(3, "open", "{}")).await, Ok(TaskId(3)));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_object_store_is_denied_where_it_would_have_to_be_redacted() {
    let (fleet, leader) = fleet().await;
    let hide = r#"{"name": "hide", "events": ["Submission", "Result"], "rule": "object.kind == 'stored'",
        "action": "redact"}"#;
    set(&fleet, leader, &[hide]).await;
    let blob = || v1::BlobRef { sha256: vec![7; 32].into(), bytes: 70 };
    let stored = TaskSpec { input_ref: Some(blob()), ..of(1, "stored", "") };
    let denied = "a policy redacts the input, and can't, because it is in the object store";
    assert_eq!(submit(&fleet, leader, stored).await, refused("PERMISSION_DENIED", denied));
    let _agent = TestAgent::join_with_store(&fleet, leader, "w-0", 1, |_| {
        Some(Outcome::OutputRef(v1::BlobRef { sha256: vec![7; 32].into(), bytes: 70 }))
    })
    .await;
    submit(&fleet, leader, of(2, "stored", "x")).await.expect("it is accepted");
    submit(&fleet, leader, TaskSpec { input_ref: Some(blob()), ..of(3, "seen", "") }).await.expect("it is accepted");
    for (id, state) in [(2, TaskState::Failed), (3, TaskState::Succeeded)] {
        fleet.until("the end of the task", |fleet| ends(fleet, leader, id)).await;
        let task = fleet.tested(leader).state.look(|fleet| fleet.task(TaskId(id)).expect("it is kept").clone());
        assert_eq!((task.state, task.output_ref.is_some()), (state, state == TaskState::Succeeded));
        assert!(task.failure.iter().all(|failure| failure.kind == FailureKind::Denied), "{:?}", task.failure);
    }
}

fn ends(fleet: &TestFleet, at: usize, id: u128) -> bool {
    fleet.tested(at).state.look(|fleet| fleet.task(TaskId(id)).is_some_and(|task| task.state.is_final()))
}

#[tokio::test(start_paused = true)]
async fn a_result_is_denied_or_redacted_before_it_gets_into_the_log() {
    let (fleet, leader) = fleet().await;
    set(&fleet, leader, &[NO_SECRETS, NO_TOKENS]).await;
    let _agent =
        TestAgent::join_to_work(&fleet, leader, "w-0", |given| Some(Outcome::Output(given.input.clone()))).await;
    for (id, input) in [(1, "the secret"), (2, "the rest")] {
        submit(&fleet, leader, of(id, "echo", input)).await.expect("it is accepted");
        fleet.until("the end of the task", |fleet| ends(fleet, leader, id)).await;
    }
    let result = |id| fleet.tested(leader).state.look(|fleet| fleet.task(TaskId(id)).expect("it is kept").clone());
    let denied = result(1);
    let failure = denied.failure.as_ref().expect("it failed");
    assert_eq!((denied.state, failure.kind, denied.attempts.len()), (TaskState::Failed, FailureKind::Denied, 1));
    assert_eq!(failure.message, "policy no-secrets refuses what fulfils its rule: text.contains('secret')");
    assert_eq!(denied.output, None);
    assert_eq!(result(2).output.as_deref(), Some(&b"the rest"[..]));
}

#[tokio::test(start_paused = true)]
async fn the_output_of_a_result_is_redacted_and_a_failure_can_become_final() {
    let (fleet, leader) = fleet().await;
    let no_retries = r#"{"name": "no-retries", "events": ["Result"], "rule":
        "!object.succeeded && object.failure.kind == 'exit' && object.agent == 'w-0' && object.role == 'worker' && \
        request.user == 'worker/w-0' && object.attempt == 1", "action": "deny", "message": "once is enough"}"#;
    set(&fleet, leader, &[NO_TOKENS, &no_retries.replace("\\\n", "")]).await;
    let _agent = TestAgent::join_to_work(&fleet, leader, "w-0", |given| {
        Some(match &given.kind[..] {
            "token" => Outcome::Output(r#"{"token": 7}"#.into()),
            _ => Outcome::Failure(v1::Failure {
                kind: v1::FailureKind::Exit.into(),
                retryable: true,
                ..v1::Failure::default()
            }),
        })
    })
    .await;
    for (id, kind) in [(1, "token"), (2, "fail")] {
        submit(&fleet, leader, of(id, kind, "x")).await.expect("it is accepted");
        fleet.until("the end of the task", |fleet| ends(fleet, leader, id)).await;
    }
    let result = |id| fleet.tested(leader).state.look(|fleet| fleet.task(TaskId(id)).expect("it is kept").clone());
    assert_eq!(result(1).output.as_deref(), Some(&br#"{"token": "[redacted]"}"#[..]));
    let failure = result(2).failure.clone().expect("it failed");
    assert_eq!(
        (failure.kind, &*failure.message),
        (FailureKind::Denied, "policy no-retries denies this: once is enough")
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_is_checked_for_its_sender_and_agents_get_the_policies_on_messages() {
    let (fleet, leader) = fleet().await;
    let policies = fleet.tested(leader).policies;
    let (book, mut changes) = (policies.book().clone(), policies.book().changes());
    assert_eq!(*book.current(), v1::Policies::default());
    changes.mark_unchanged();
    let guardians =
        r#"{"name": "guardians", "events": ["Message"], "rule": "request.user == 'guardian/g'", "action": "allow"}"#;
    set(&fleet, leader, &[guardians, NO_DEPLOYS, NO_SECRETS]).await;
    assert!(changes.has_changed().expect("the coordinator runs"));
    let told = book.current();
    assert_eq!((told.policies.len(), told.revision > 0), (2, true), "not the one on submissions");
    let check = async |sender_role, sender, payload: &'static str| {
        let message = Message { sender_role, sender, priority: 5, message_type: "t", ..Message::default() };
        policies.check_message(message, &payload.into()).await
    };
    assert!(matches!(check("worker", "g", "a secret").await, Checked::Refused(_)));
    assert!(matches!(check("client", "g", "a secret").await, Checked::Refused(_)));
    assert_eq!(check("guardian", "g", "a secret").await, Checked::Allowed);
    assert_eq!(check("worker", "w-0", "nothing").await, Checked::Allowed);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_goes_through_a_coordinator_is_denied_or_redacted_before_it_gets_into_the_log() {
    let (fleet, leader) = fleet().await;
    let no_ada = r#"{"name": "no-ada", "events": ["Message"], "rule": "request.user == 'ada' && object.type == 'x'",
        "action": "deny"}"#;
    set(&fleet, leader, &[NO_SECRETS, NO_TOKENS, no_ada]).await;
    let _agent = TestAgent::join_to_work(&fleet, leader, "w-0", |_| None).await;
    let sending = fleet.tested(leader).messages.sending;
    let letter = |id: u128| fleet.tested(leader).state.look(|fleet| fleet.letter(robeing_fleet::LetterId(id)).cloned());
    let send = async |id: u128, sender: &str, kind: &str, payload: &'static str, key_id: &str| {
        let request = v1::SendMessageRequest {
            id: robeing_fleet::LetterId(id).to_string(),
            to: "w-0".into(),
            r#type: kind.into(),
            payload: payload.into(),
            durable: true,
            key_id: key_id.into(),
            ..v1::SendMessageRequest::default()
        };
        sending.send(sender, request).await.expect("it is decided").remove(0)
    };
    let refused = send(1, "client:ann", "t", "a secret", "").await;
    assert_eq!(refused.code(), v1::MessageCode::Refused);
    assert!(refused.reason.contains("no-secrets") && letter(1).is_none(), "{refused:?}");
    let kept = send(2, "client:ann", "t", r#"{"token": 7}"#, "").await;
    assert_eq!(kept.code(), v1::MessageCode::Kept, "{kept:?}");
    assert_eq!(letter(2).expect("it is kept").payload, r#"{"token": "[redacted]"}"#);
    assert_eq!(send(2, "client:ann", "t", r#"{"token": 7}"#, "").await.code(), v1::MessageCode::Kept, "the same one");
    assert_eq!(send(3, "client:ann", "t", "a sealed secret", "k").await.code(), v1::MessageCode::Kept);
    // An agent that is named like a client is not taken for it.
    assert_eq!(send(4, "ada", "x", "hello", "").await.code(), v1::MessageCode::Kept);
    assert_eq!(send(5, "client:ada", "x", "hello", "").await.code(), v1::MessageCode::Refused);
    // What was accepted before is the same message, whatever is allowed now.
    let sent = send(6, "client:ann", "t", "hello", "").await;
    assert_eq!(sent.code(), v1::MessageCode::Kept);
    set(&fleet, leader, &[&NO_SECRETS.replace("secret", "hello")]).await;
    assert_eq!(send(6, "client:ann", "t", "hello", "").await.code(), v1::MessageCode::Kept);
    assert_eq!(send(7, "client:ann", "t", "hello", "").await.code(), v1::MessageCode::Refused);
}

#[tokio::test(start_paused = true)]
async fn without_policies_on_an_event_nothing_is_evaluated() {
    let (fleet, leader) = fleet().await;
    let news = |event| fleet.tested(leader).policies.concerns(event);
    submit(&fleet, leader, of(1, "deploy", "x")).await.expect("it is accepted");
    assert!(!Event::ALL.into_iter().any(news), "the first submission has looked");
    set(&fleet, leader, &[NO_DEPLOYS]).await;
    submit(&fleet, leader, of(2, "deploy", "x")).await.expect_err("it is denied");
    assert_eq!(Event::ALL.map(news), [true, false, false]);
    set(&fleet, leader, &[]).await;
    submit(&fleet, leader, of(3, "deploy", "x")).await.expect("it is accepted");
    assert!(!Event::ALL.into_iter().any(news));
}

#[tokio::test(start_paused = true)]
async fn who_may_set_policies_sets_them_and_expressions_know_who_submits() {
    let fleet = TestFleet::start_secured(Enrolment::Proof);
    let leader = fleet.led().await;
    in_force(&fleet, leader).await;
    let at = fleet.followers(leader)[0];
    let set = async |role, name: &str, policy: &str| {
        let member = TestMember::certified(&fleet, role, name);
        let request = v1::SetPoliciesRequest { policies: vec![policy.to_owned()] };
        retried(async || member.admin(&fleet, at).set_policies(request.clone()).await).await
    };
    let not_bob = r#"{"name": "not-bob", "events": ["Submission"], "rule":
        "request.user == 'bob' || !('submit' in request.rights)", "action": "deny"}"#;
    for role in [PeerRole::Worker, PeerRole::Guardian, PeerRole::Messenger] {
        assert_eq!(code(set(role, "x", not_bob).await), Code::PermissionDenied, "{role}");
    }
    let wrong = set(PeerRole::Client, "root", &not_bob.replace("bob'", "bob")).await.expect_err("it is no CEL");
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().starts_with("policy \"not-bob\", rule: "), "{wrong}");
    let revision = set(PeerRole::Client, "root", not_bob).await.expect("it is right").into_inner().revision;
    let get = async |role| {
        let member = TestMember::enrolled(&fleet, leader, role, "y").await;
        let get = async || member.admin(&fleet, at).get_policies(v1::GetPoliciesRequest {}).await;
        retried(get).await.map(tonic::Response::into_inner)
    };
    let known = get(PeerRole::Guardian).await.expect("guardians may see them");
    assert_eq!((known.revision, known.policies.len()), (revision, 1));
    assert_eq!(get(PeerRole::Worker).await.map_err(|status| status.code()), Err(Code::PermissionDenied));
    for (name, is_denied) in [("bob", true), ("ann", false)] {
        let member = TestMember::certified(&fleet, PeerRole::Client, name);
        let request = v1::SubmitRequest { tasks: vec![TaskSpec { id: String::new(), ..task(1) }] };
        let submit = async || member.fleet(&fleet, at).submit(request.clone()).await;
        let result = retried(submit).await.expect("it may submit").into_inner().results.remove(0);
        assert_eq!(result.refusal.is_some(), is_denied, "{name}: {result:?}");
    }
    let root = TestMember::certified(&fleet, PeerRole::Client, "root");
    let mut waited = Duration::ZERO;
    loop {
        let list = async || root.admin(&fleet, at).list_audit_records(v1::ListAuditRecordsRequest::default()).await;
        let records = retried(list).await.expect("she may read them").into_inner().records;
        let has = |actor: &str, action: &str, subject: &str| {
            records.iter().any(|told| (&*told.actor, &*told.action, &*told.subject) == (actor, action, subject))
        };
        assert!(has("client/root", "policies.set", "policies"), "{records:?}");
        if has("bob", "policy.denied", "not-bob") {
            break;
        }
        assert!(waited < Duration::from_secs(60), "{records:?}");
        waited += Duration::from_secs(1);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
