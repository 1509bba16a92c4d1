//! Ballots: agents and a person vote, and anybody can verify how. All processes are real, with TLS.

use std::{fs, path::Path, time::Duration};

use futures::future::try_join_all;
use robeing_client::Voting;
use robeing_proto::v1::{
    AgentState, Ballot, BallotState, CastVoteRequest, ElectorAddress, GetBallotRequest, OpenBallotRequest, TaskState,
    VoteChoice,
};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    terminal::{Ended, Terminal},
    wait::{check, eventually},
};
use serde_json::{Value, json};

/// Decides ballots: it has no opinion on what has to do with silence, prefers blue, and else approves.
const DECIDER: &str = r#"case $(cat) in
*silence*) exit 0 ;;
*colour*) echo '{"vote": "approve", "option": "blue", "reason": "it is the calmest"}' ;;
*risky*) echo '{"vote": "reject"}' ;;
*) echo '{"vote": "approve", "reason": "it is right"}' ;;
esac"#;

/// A person at a terminal who has the fleet's authority: the client `cli`.
struct Person {
    terminal: Terminal,
    endpoints: String,
    authority: String,
}

impl Person {
    fn of(fleet: &Fleet) -> Self {
        Self {
            terminal: Terminal::default(),
            endpoints: fleet.endpoints().join(","),
            authority: fleet.dir().join("identity").display().to_string(),
        }
    }

    async fn run(&self, line: &[&str]) -> Ended {
        self.terminal.run(&[line, &["--endpoint", &self.endpoints, "--ca", &self.authority]].concat()).await
    }

    /// Runs a command until it succeeds, and returns its output: the fleet's version may only be about to have ballots,
    /// or its leader about to be elected.
    async fn succeeds(&self, line: &[&str]) -> String {
        eventually(&format!("{line:?} succeeds"), async || {
            let ended = self.run(line).await;
            check(ended.code == Some(0), ended.stdout.clone(), ended)
        })
        .await
    }

    /// Opens a ballot with this number, and returns its id.
    async fn opens(&self, number: u32, line: &[&str]) -> String {
        let id = format!("00000000-0000-4000-8000-{number:012}");
        let opened = self.succeeds(&[&["vote", "open", "--id", &id], line].concat()).await;
        assert_eq!(opened, format!("{id}\n"));
        id
    }

    /// Returns a ballot once `holds` returns true for it.
    async fn sees(&self, id: &str, expected: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(expected, async || {
            let ended = self.run(&["vote", "show", id, "-o", "json"]).await;
            let shown: Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
            check(holds(&shown), shown.clone(), (shown, ended))
        })
        .await
    }
}

fn is(ballot: &Value, state: BallotState) -> bool {
    ballot["state"] == json!(state.as_str_name())
}

fn votes(ballot: &Value) -> &[Value] {
    ballot["votes"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A fleet with this many agents that vote.
fn spec(agents: u32) -> FleetSpec {
    let decider = json!({"command": {"argv": ["/bin/sh", "-c", DECIDER]}}).to_string();
    FleetSpec::new(3).pool(PoolSpec::new("voters", agents).flag("messages", &decider)).session_timeout("1s").with_tls()
}

#[tokio::test]
async fn agents_and_a_person_decide_and_anybody_can_verify_how() {
    let fleet = Fleet::start(spec(3)).await;
    let person = Person::of(&fleet);
    let line = ["deploy?", "--to", "pool:voters,client:cli=2", "--threshold", "100%", "--deadline", "10m"];
    let id = person.opens(1, &line).await;
    // The same ballot again is the same ballot.
    person.opens(1, &line).await;
    let open = person.sees(&id, "the votes of the agents", |ballot| votes(ballot).len() == 3).await;
    assert!(is(&open, BallotState::Open), "the person has not voted: {open}");
    assert!(votes(&open).iter().all(|vote| vote["signed"] == json!(true)), "{open}");
    assert!(votes(&open).iter().all(|vote| vote["reason"] == json!("it is right")), "{open}");
    person.run(&["vote", "show", &id, "--wait", "100ms"]).await.assert_failed(6, "");

    let cast = person.run(&["vote", "cast", &id, "approve", "--reason", "I have looked at it"]).await;
    assert!(cast.success().contains("State:          Approved\n"), "{cast:?}");
    assert!(cast.success().contains("5 approve, 0 reject, 0 abstain, 0 not voted, of 5"), "{cast:?}");
    let late = person.run(&["vote", "cast", &id, "reject"]).await;
    late.assert_failed(3, "the fleet refused");
    person.run(&["vote", "show", &id, "--wait", "30s"]).await.success();
    let list = person.run(&["vote", "list"]).await;
    assert!(list.success().contains("deploy?") && list.success().contains("Approved"), "{list:?}");
    assert_eq!(person.run(&["vote", "list", "--open"]).await.success(), "no ballots\n");
    is_verified(&person, &id).await;
}

/// The file of a ballot is right, until a byte of it is changed.
async fn is_verified(person: &Person, id: &str) {
    person.run(&["vote", "show", id, "--file", "ballot.json"]).await.success();
    let verified = person.run(&["vote", "verify", "ballot.json"]).await;
    assert_eq!(verified.success().matches("   signed\n").count(), 4, "{verified:?}");
    assert!(verified.success().contains("Outcome:        approved, as follows from the votes\n"), "{verified:?}");
    // Without the fleet's authority, those in the file are shown.
    let alone = person.terminal.run(&["vote", "verify", "ballot.json"]).await;
    assert!(alone.success().contains("to be compared with the fleet's: sha256:"), "{alone:?}");

    let text = fs::read_to_string(person.terminal.dir().join("ballot.json")).expect("it was written");
    for (from, to, words) in [
        ("it is right", "it is Right", "WRONG"),
        ("deploy?", "delete?", "WRONG: the ballot was changed"),
        ("\"approve\"", "\"reject\"", "WRONG"),
    ] {
        assert!(text.contains(from), "{from} is in {text}");
        person.terminal.write("changed.json", &text.replacen(from, to, 1));
        let refused = person.run(&["vote", "verify", "changed.json"]).await;
        refused.assert_failed(1, "the file is not right");
        assert!(refused.stdout.contains(words), "{from} became {to}: {refused:?}");
    }
    // Whoever takes the evidence away can write what it likes, and proves nothing.
    let mut bare: Value = serde_json::from_str(&text).expect("JSON");
    for vote in bare["votes"].as_array_mut().expect("votes") {
        vote.as_object_mut().expect("a vote").remove("evidence");
    }
    person.terminal.write("bare.json", &bare.to_string());
    let refused = person.terminal.run(&["vote", "verify", "bare.json"]).await;
    refused.assert_failed(1, "the file proves nothing of 4 votes not signed");
    person.terminal.run(&["vote", "verify", "bare.json", "--attested"]).await.success();
    let refused = person.run(&["vote", "verify", "bare.json", "--attested"]).await;
    refused.assert_failed(1, "the file is not right: 4 votes of no worth");
    // Of an authority that is not trusted, no certificate proves anything.
    let other = tempfile::tempdir().expect("a temporary directory");
    robeing::dev::DevIdentity::open(other.path(), "tested").expect("certificates can be made");
    let theirs = other.path().join("identity").display().to_string();
    let refused = person.terminal.run(&["vote", "verify", "ballot.json", "--ca", &theirs]).await;
    refused.assert_failed(1, "the file is not right: 4 votes of no worth");
    person.terminal.write("no.json", &text[..text.len() / 2]);
    person.run(&["vote", "verify", "no.json"]).await.assert_failed(2, "no.json is no file of a ballot");
}

#[tokio::test]
async fn many_ballots_are_decided_at_once_and_each_is_verified_without_the_others() {
    let fleet = Fleet::start(spec(2)).await;
    let person = Person::of(&fleet);
    // From then on the fleet has ballots.
    person.opens(1, &["deploy?", "--to", "client:dev"]).await;
    let (client, within) = (fleet.client(), || Some(prost_types::Duration { seconds: 120, nanos: 0 }));
    let voting = Voting::new(client.clone()).expect("there is a key");
    let address = |address: &str| ElectorAddress { address: address.to_owned(), weight: 1 };
    let opening = |number: u32| OpenBallotRequest {
        id: format!("00000000-0000-4000-8000-{number:012}"),
        question: "deploy?".to_owned(),
        electorate: vec![address("pool:voters"), address("client:dev")],
        threshold: "1/1".to_owned(),
        deadline: within(),
        ..OpenBallotRequest::default()
    };
    let opened = try_join_all((2..42).map(|number| voting.open(opening(number)))).await.expect("all are opened");
    let vote = |ballot: &Ballot| CastVoteRequest {
        ballot: ballot.id.clone(),
        choice: VoteChoice::Approve.into(),
        reason: "it is right".to_owned(),
        ..CastVoteRequest::default()
    };
    try_join_all(opened.iter().map(|ballot| voting.cast(ballot, vote(ballot)))).await.expect("all votes count");
    let end = |ballot: &Ballot| {
        client.get_ballot(GetBallotRequest { id: ballot.id.clone(), wait: within(), evidence: false })
    };
    for ballot in try_join_all(opened.iter().map(end)).await.expect("all are known") {
        let signed = ballot.votes.iter().filter(|vote| vote.signed).count();
        assert_eq!((ballot.state(), signed), (BallotState::Approved, 3), "{ballot:?}");
    }
    for ballot in [&opened[0], &opened[39]] {
        person.run(&["vote", "show", &ballot.id, "--file", "ballot.json"]).await.success();
        let verified = person.run(&["vote", "verify", "ballot.json"]).await;
        assert_eq!(verified.success().matches("   signed\n").count(), 3, "{verified:?}");
    }
}

#[tokio::test]
async fn every_member_has_one_vote_and_nobody_else_has_any() {
    let fleet = Fleet::start(spec(3)).await;
    let person = Person::of(&fleet);
    let line = ["which colour?", "--to", "pool:voters", "--option", "red", "--option", "blue", "--wait", "-o", "json"];
    let decided = person.succeeds(&[&["vote", "open"][..], &line].concat()).await;
    let decided: Value = serde_json::from_str(&decided).expect("JSON");
    assert!(is(&decided, BallotState::Approved), "{decided}");
    assert_eq!(decided["option"], json!(2), "they prefer blue: {decided}");
    assert!(votes(&decided).len() >= 2, "two of three are two thirds: {decided}");

    let ended = person.run(&["vote", "open", "is it risky?", "--to", "pool:voters", "--wait", "-o", "json"]).await;
    let rejected: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((ended.code, is(&rejected, BallotState::Rejected)), (Some(1), true), "{rejected}");

    let line = ["is silence consent?", "--to", "everyone", "--to", "client:cli", "--deadline", "10m"];
    let id = person.opens(1, &line).await;
    for _ in 0..2 {
        person.run(&["vote", "cast", &id, "approve", "--reason", "a first one"]).await.success();
    }
    for again in ["reject", "approve"] {
        let second = person.run(&["vote", "cast", &id, again, "--reason", "a second one"]).await;
        second.assert_failed(3, "the fleet refused (ALREADY_EXISTS)");
    }
    let shown = person.sees(&id, "one vote", |ballot| !votes(ballot).is_empty()).await;
    assert_eq!((votes(&shown).len(), &votes(&shown)[0]["reason"]), (1, &json!("a first one")), "{shown}");
    assert!(is(&shown, BallotState::Open), "who is silent has not voted: {shown}");

    let id = person.opens(2, &["is silence golden?", "--to", "voters-0", "--deadline", "10m"]).await;
    let stranger = person.run(&["vote", "cast", &id, "approve"]).await;
    stranger.assert_failed(3, "the fleet refused (PERMISSION_DENIED)");
    let impostor = person.run(&["vote", "cast", &id, "approve", "--member", "voters-0"]).await;
    impostor.assert_failed(3, "the fleet refused (PERMISSION_DENIED)");
    let unknown = "00000000-0000-4000-8000-000000000099";
    assert_eq!(person.run(&["vote", "cast", unknown, "approve"]).await.code, Some(4));
    let nobody = person.run(&["vote", "open", "who?", "--to", "pool:nobodys"]).await;
    assert_eq!(nobody.code, Some(4), "{nobody:?}");
}

#[tokio::test]
async fn a_ballot_survives_its_leader_and_a_restart_of_all_and_expires_without_its_members() {
    let mut fleet = Fleet::start(spec(1)).await;
    let person = Person::of(&fleet);
    fleet.kill("voters-0");
    fleet.agent_is("voters-0", AgentState::Lost).await;
    let both = "voters-0,client:cli";
    let line = ["deploy?", "--to", both, "--threshold", "1/1", "--deadline", "1h"];
    let id = person.opens(1, &line).await;
    person.run(&["vote", "cast", &id, "approve"]).await.success();

    // One member is away, and its silence is no consent.
    let line = ["vote", "open", "now?", "--to", both, "--threshold", "100%", "--deadline", "500ms"];
    let ended = person.run(&[&line[..], &["--wait", "-o", "json"]].concat()).await;
    let expired: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((ended.code, is(&expired, BallotState::Expired)), (Some(1), true), "{expired}");

    let leader = fleet.leader().await;
    fleet.kill(&leader);
    fleet.leader_other_than(&leader).await;
    let kept = |ballot: &Value| is(ballot, BallotState::Open) && votes(ballot).len() == 1;
    person.sees(&id, "the ballot at another leader", kept).await;
    for coordinator in fleet.coordinators() {
        fleet.kill(&coordinator);
    }
    for coordinator in fleet.coordinators() {
        fleet.start_one(&coordinator);
    }
    fleet.leader().await;
    person.sees(&id, "the ballot after a restart", kept).await;
    // The notice has waited for its agent.
    fleet.start_one("voters-0");
    let decided = person.sees(&id, "the vote of the agent", |ballot| is(ballot, BallotState::Approved)).await;
    assert_eq!(votes(&decided).len(), 2, "{decided}");
    let second = person.run(&["vote", "cast", &id, "reject"]).await;
    assert_eq!(second.code, Some(3), "an outcome never changes: {second:?}");
}

#[tokio::test]
async fn a_task_waits_for_its_approval_through_a_restart_of_all_coordinators() {
    let mut fleet = Fleet::start(spec(1)).await;
    let person = Person::of(&fleet);
    person.terminal.write("input", "printf done");
    let approval = ["--require-approval", "pool:voters,client:cli=2", "--approval-threshold", "100%"];
    let line = ["submit", "--kind", "shell", "--input", "input", "--approval-deadline", "10m"];
    let submitted = person.succeeds(&[&line[..], &approval].concat()).await;
    let id = submitted.trim();
    // The agent approves; the person is still asked.
    person.sees(id, "the vote of the agent", |ballot| votes(ballot).len() == 1).await;
    let waits = format!("Waiting for: approval by ballot {id}");
    let why = person.run(&["task", id, "--why"]).await;
    assert!(why.success().contains(&waits), "{why:?}");
    for coordinator in fleet.coordinators() {
        fleet.kill(&coordinator);
    }
    for coordinator in fleet.coordinators() {
        fleet.start_one(&coordinator);
    }
    fleet.leader().await;
    person.sees(id, "the ballot after a restart", |ballot| is(ballot, BallotState::Open)).await;
    assert_eq!(fleet.task(id).await.state(), TaskState::Queued);
    person.succeeds(&["vote", "cast", id, "approve"]).await;
    let done = fleet.finished(id, TaskState::Succeeded).await;
    assert_eq!((&done.output[..], done.approval.is_some_and(|approval| approval.approved)), (&b"done"[..], true));

    let line = ["submit", "--kind", "risky", "--input", "input", "--require-approval", "pool:voters", "--wait"];
    let refused = person.run(&line).await;
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stderr.contains("the task needs an approval, and ballot"), "{refused:?}");
    assert!(refused.stderr.contains("was rejected"), "{refused:?}");
}

#[tokio::test]
async fn without_tls_members_vote_by_the_names_that_they_say() {
    let decider = json!({"command": {"argv": ["/bin/sh", "-c", DECIDER]}}).to_string();
    let fleet = Fleet::start(FleetSpec::new(1).pool(PoolSpec::new("voters", 2).flag("messages", &decider))).await;
    let (terminal, endpoint) = (Terminal::default(), fleet.endpoints().join(","));
    let run = async |line: &[&str]| terminal.run(&[line, &["--endpoint", &endpoint]].concat()).await;
    let id = "00000000-0000-4000-8000-000000000001";
    let line = ["vote", "open", "go?", "--to", "pool:voters,client:ada", "--threshold", "1/1", "--deadline", "10m"];
    eventually("a ballot is opened", async || {
        let ended = run(&[&line[..], &["--id", id]].concat()).await;
        check(ended.code == Some(0), (), ended)
    })
    .await;
    run(&["vote", "cast", id, "approve", "--member", "client:ada"]).await.success();
    run(&["vote", "show", id, "--wait", "30s", "--file", "ballot.json"]).await.success();
    let verified = run(&["vote", "verify", "ballot.json"]).await;
    verified.assert_failed(1, "the file proves nothing of 3 votes not signed");
    let believed = run(&["vote", "verify", "ballot.json", "--attested"]).await;
    assert_eq!(believed.success().matches("attested by coordinator-0").count(), 3, "{believed:?}");
    assert!(believed.stderr.contains("3 votes not signed"), "{believed:?}");
}

/// Splits a line of a shell, in which words with spaces are in double quotes.
fn words(line: &str) -> Vec<&str> {
    let words = line.split('"').enumerate().flat_map(|(index, part)| match index % 2 {
        1 => vec![part],
        _ => part.split_whitespace().collect(),
    });
    words.collect()
}

#[tokio::test]
async fn the_first_ballot_of_the_documentation_is_decided_and_verified() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guide = fs::read_to_string(root.join("docs/decisions.md")).expect("it can be read");
    let block = guide.split("```sh\n").nth(1).and_then(|rest| rest.split("\n```").next()).expect("it shows commands");
    let terminal = Terminal::default();
    let dev = terminal.dev(&["-f", &root.join("examples/jury.yaml").display().to_string()]);
    dev.line_with(&["ready"]).await;
    let mut shown = String::new();
    for line in block.lines() {
        let words = words(line);
        let (program, words) = words.split_first().expect("a command");
        assert_eq!(*program, "robeing");
        shown = eventually(&format!("{line} succeeds"), async || {
            let ended = tokio::time::timeout(Duration::from_secs(40), terminal.run(words)).await;
            let ended = ended.expect("it ends");
            check(ended.code == Some(0), ended.stdout.clone(), ended)
        })
        .await;
    }
    assert!(shown.contains("approved, as follows from the votes"), "{shown}");
}
