//! Tasks that wait for approvals, submitted at any coordinator.

use std::sync::Arc;

use prost_types::Duration as WireDuration;
use robeing_fleet::{
    BallotId, BallotOutcome, FailureKind, Fraction, Task, TaskId, TaskState, limits::MAX_OPEN_BALLOTS_OF_ONE,
};
use robeing_net::gate::Caller;
use robeing_proto::{
    internal::v1::completion::Outcome,
    v1::{self, CastVoteRequest, ElectorAddress, RequiredApproval, TaskSpec, VoteChoice},
};
use robeing_settings::BallotDefaults;

use crate::{
    policies::stored,
    tests::{
        agent::TestAgent,
        fleet::{TestFleet, task},
        mail::mailbox::{in_force, start},
    },
};

/// A task that these members must approve within ten minutes.
fn asked(id: u128, electorate: &[&str]) -> TaskSpec {
    let address = |address: &&str| ElectorAddress { address: (*address).to_owned(), weight: 0 };
    let approval = RequiredApproval {
        electorate: electorate.iter().map(address).collect(),
        deadline: Some(WireDuration { seconds: 600, nanos: 0 }),
        ..RequiredApproval::default()
    };
    TaskSpec { requires_approval: Some(approval), ..task(id) }
}

async fn submit(fleet: &TestFleet, at: usize, spec: TaskSpec) -> v1::SubmitResult {
    let results = fleet.tested(at).submissions.submit(vec![spec], &Caller::Plaintext).await.expect("somebody leads");
    results.into_iter().next().expect("one result")
}

async fn accepts(fleet: &TestFleet, at: usize, spec: TaskSpec) -> v1::SubmitResult {
    let result = submit(fleet, at, spec).await;
    assert_eq!(result.refusal, None);
    result
}

async fn vote(fleet: &TestFleet, at: usize, id: u128, member: &str, choice: VoteChoice) {
    let request = CastVoteRequest {
        ballot: BallotId(id).to_string(),
        choice: choice.into(),
        member: member.to_owned(),
        ..CastVoteRequest::default()
    };
    fleet.tested(at).ballots.ballots.cast(&Caller::Plaintext, request).await.expect("it counts");
}

fn look(fleet: &TestFleet, at: usize, id: u128) -> Option<Arc<Task>> {
    fleet.tested(at).state.look(|fleet| fleet.task(TaskId(id)).cloned())
}

async fn until(fleet: &TestFleet, at: usize, id: u128, state: TaskState) -> Arc<Task> {
    let is = |fleet: &TestFleet| look(fleet, at, id).is_some_and(|task| task.state == state);
    fleet.until("the state of the task", is).await;
    look(fleet, at, id).expect("it is kept")
}

#[tokio::test(start_paused = true)]
async fn a_task_is_started_when_those_have_approved_it_whom_its_submitter_named() {
    let (fleet, leader) = start().await;
    let at = fleet.followers(leader)[0];
    let _agent = TestAgent::join_to_work(&fleet, leader, "w-0", |_| Some(Outcome::Output("done".into()))).await;
    accepts(&fleet, at, asked(1, &["client:ann", "client:bob", "role:worker"])).await;
    let waits = until(&fleet, at, 1, TaskState::Queued).await;
    assert_eq!(waits.awaited_ballot(), Some(BallotId(1)));
    let ballot = fleet.tested(at).state.look(|fleet| fleet.ballot(BallotId(1)).cloned()).expect("it is open");
    let members: Vec<&str> = ballot.electorate.iter().map(|member| &*member.name).collect();
    assert_eq!((members, &*ballot.opened_by), (vec!["client:ann", "client:bob", "w-0"], "client:anonymous"));
    assert!(ballot.question.starts_with("May task "), "{}", ballot.question);
    let why = fleet.tested(at).state.look(|fleet| fleet.waiting_for(TaskId(1), fleet.now().fleet));
    assert_eq!(why, Some(format!("approval by ballot {}", BallotId(1))));
    vote(&fleet, leader, 1, "client:ann", VoteChoice::Approve).await;
    vote(&fleet, at, 1, "client:bob", VoteChoice::Approve).await;
    let done = until(&fleet, at, 1, TaskState::Succeeded).await;
    assert_eq!(done.output.as_deref(), Some(&b"done"[..]));
    // Another submission of the same is the same task, whomever it names.
    assert!(accepts(&fleet, leader, asked(1, &["client:eve"])).await.existing);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_rejected_fails_and_nobody_approves_for_an_electorate_that_does_not_exist() {
    let (fleet, leader) = start().await;
    accepts(&fleet, leader, asked(1, &["client:ann"])).await;
    vote(&fleet, leader, 1, "client:ann", VoteChoice::Reject).await;
    let failed = until(&fleet, leader, 1, TaskState::Failed).await;
    assert_eq!(failed.failure.as_ref().map(|failure| failure.kind), Some(FailureKind::NotApproved));
    for (electorate, code) in [(&["pool:nobodys"][..], "NOT_FOUND"), (&[][..], "INVALID_ARGUMENT")] {
        let refusal = submit(&fleet, leader, asked(2, electorate)).await.refusal.expect("nobody can approve it");
        assert_eq!(refusal.code, code, "{refusal:?}");
        assert!(look(&fleet, leader, 2).is_none());
    }
    let deadline = Some(WireDuration { seconds: 5, nanos: 0 });
    let soon = asked(3, &["client:bob"]).requires_approval.map(|approval| RequiredApproval { deadline, ..approval });
    accepts(&fleet, leader, TaskSpec { requires_approval: soon, ..task(3) }).await;
    let expired = until(&fleet, leader, 3, TaskState::Failed).await;
    let failure = expired.failure.as_ref().expect("nobody has voted");
    assert!(failure.message.contains("expired"), "{failure:?}");
    let ballot = fleet.tested(leader).state.look(|fleet| fleet.ballot(BallotId(3)).cloned());
    assert_eq!(ballot.and_then(|ballot| ballot.outcome()), Some(BallotOutcome::Expired));
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_ballot_has_no_room_is_refused_before_its_members_are_searched() {
    let (fleet, leader) = start().await;
    let most = MAX_OPEN_BALLOTS_OF_ONE as u128;
    let mut tasks: Vec<TaskSpec> = (1..=most).map(|id| asked(id, &["client:ann"])).collect();
    // This one's members would not be found, and it is not known when it is refused.
    tasks.push(asked(most + 1, &["pool:nobodys"]));
    tasks.push(task(most + 2));
    let submissions = &fleet.tested(leader).submissions;
    let results = submissions.submit(tasks, &Caller::Plaintext).await.expect("it leads");
    let refused: Vec<(usize, &str)> =
        results.iter().enumerate().filter_map(|(n, of)| Some((n, &*of.refusal.as_ref()?.code))).collect();
    assert_eq!(refused, [(MAX_OPEN_BALLOTS_OF_ONE, "RESOURCE_EXHAUSTED")]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_names_who_approves_whatever_the_submitter_asks_for() {
    let (fleet, leader) = start().await;
    let policies = [r#"{"name": "large", "events": ["Submission"], "rule": "size > 3", "action": "requireApproval",
        "message": "it is large", "approval": {"electorate": ["client:ann=2", "client:bob"], "deadlineSeconds": 60}}"#];
    let policies = stored(&policies.map(str::to_owned)).expect("they are right");
    let command = robeing_fleet::PolicyCommand::Set { policies, by: "ann".to_owned() };
    fleet.tested(leader).proposer.propose_one(robeing_fleet::Command::Policy(command)).await.expect("it leads");
    for (id, spec) in [(1, task(1)), (2, asked(2, &["client:eve"]))] {
        accepts(&fleet, leader, spec).await;
        let ballot = fleet.tested(leader).state.look(|fleet| fleet.ballot(BallotId(id)).cloned()).expect("it is open");
        let members: Vec<(&str, u32)> = ballot.electorate.iter().map(|of| (&*of.name, of.weight)).collect();
        assert_eq!((members, ballot.ttl), (vec![("client:ann", 2), ("client:bob", 1)], 60_000));
        assert!(ballot.question.contains("policy large requires an approval: it is large"), "{}", ballot.question);
    }
    let small = TaskSpec { input: "abc".into(), ..task(3) };
    accepts(&fleet, leader, small).await;
    assert!(look(&fleet, leader, 3).is_some_and(|task| task.approval.is_none()));
    let wrong = r#"{"name": "a", "events": ["Submission"], "rule": "true", "action": "requireApproval",
        "approval": {"electorate": ["role:coordinator"]}}"#;
    let problem = stored(&[wrong.to_owned()]).expect_err("coordinators don't vote");
    assert!(problem.starts_with("policy \"a\", approval: requires_approval: electorate: "), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn a_task_waits_for_its_approval_at_every_leader() {
    let (mut fleet, leader) = start().await;
    let at = fleet.followers(leader)[0];
    accepts(&fleet, at, asked(1, &["client:ann"])).await;
    fleet.take_away(leader);
    let next = fleet.led().await;
    let waits = until(&fleet, next, 1, TaskState::Queued).await;
    assert_eq!(waits.awaited_ballot(), Some(BallotId(1)));
    vote(&fleet, next, 1, "client:ann", VoteChoice::Approve).await;
    let is_ready = |fleet: &TestFleet| look(fleet, next, 1).is_some_and(|task| task.is_ready());
    fleet.until("the task waits for an agent", is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn the_approval_of_a_task_has_the_threshold_and_the_deadline_of_the_fleet_unless_it_sets_them() {
    let threshold = Fraction { numerator: 1, denominator: 2 };
    let deadline = std::time::Duration::from_secs(90);
    let fleet = TestFleet::start_with_ballots(BallotDefaults { threshold, deadline });
    let leader = fleet.led().await;
    in_force(&fleet).await;
    let unset = asked(1, &["client:ann"]);
    let approval = unset.requires_approval.clone().map(|approval| RequiredApproval { deadline: None, ..approval });
    accepts(&fleet, leader, TaskSpec { requires_approval: approval, ..unset }).await;
    accepts(&fleet, leader, asked(2, &["client:ann"])).await;
    for (id, ttl) in [(1, 90_000), (2, 600_000)] {
        until(&fleet, leader, id, TaskState::Queued).await;
        let ballot = fleet.tested(leader).state.look(|fleet| fleet.ballot(BallotId(id)).cloned()).expect("it is open");
        assert_eq!((ballot.threshold, ballot.ttl), (threshold, ttl), "{id}");
    }
}
