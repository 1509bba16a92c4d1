//! Groups that decide by Byzantine agreement: four agents, of which one at a time is killed or stopped. All processes
//! are real, with TLS.

use std::{fs, path::PathBuf};

use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    terminal::{Ended, Terminal},
    wait::{check, eventually},
};

const MEMBERS: &str = "council-0,council-1,council-2,council-3";

/// Decides ballots: what is risky is rejected, and else blue is approved.
const DECIDER: &str = r#"case $(cat) in
*risky*) echo '{"vote": "reject", "reason": "it is risky"}' ;;
*) echo '{"vote": "approve", "option": "blue", "reason": "it is calm"}' ;;
esac"#;

fn member(number: usize) -> String {
    format!("council-{}", number % 4)
}

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

    /// Runs a command until it succeeds, and returns its output.
    async fn succeeds(&self, line: &[&str]) -> String {
        eventually(&format!("{line:?} succeeds"), async || {
            let ended = self.run(line).await;
            check(ended.code == Some(0), ended.stdout.clone(), ended)
        })
        .await
    }

    /// Returns what a member says was decided, without what may differ from member to member: who signed.
    async fn log(&self, member: &str) -> Vec<String> {
        let line = ["pbft", "log", "council", "--via", member, "--file", &format!("{member}.json")];
        let table = self.run(&line).await.stdout;
        let columns = |line: &str| {
            let columns: Vec<&str> = line.split("   ").map(str::trim).filter(|column| !column.is_empty()).collect();
            let kept = [columns.first(), columns.get(1), columns.last()];
            kept.into_iter().flatten().copied().collect::<Vec<_>>().join(" ")
        };
        table.lines().skip(1).map(columns).collect()
    }

    /// Waits until all members have the same decisions, with these texts at the end of their lines.
    async fn all_agree(&self, texts: &[String]) {
        eventually("all members have the same decisions", async || {
            let mut logs = Vec::new();
            for number in 0..4 {
                logs.push(self.log(&member(number)).await);
            }
            let has_all = texts.iter().all(|text| logs[0].iter().any(|line| line.ends_with(text.as_str())));
            let agree = logs.iter().all(|log| *log == logs[0]);
            check(has_all && agree, (), logs)
        })
        .await;
    }
}

/// The folder in which an agent keeps what it must not forget.
fn data(fleet: &Fleet, name: &str) -> PathBuf {
    fleet.dir().join("agents").join(name)
}

fn spec() -> FleetSpec {
    FleetSpec::new(3).pool(PoolSpec::new("council", 4)).session_timeout("1s").with_tls()
}

#[tokio::test]
async fn a_group_decides_while_its_members_are_killed_and_stopped_in_turn_and_forgets_nothing() {
    let mut fleet = Fleet::start(spec()).await;
    let person = Person::of(&fleet);
    let formed = person.succeeds(&["pbft", "form", "council", "--members", MEMBERS]).await;
    assert!(formed.contains("May lie:      1 of 4\n"), "{formed}");
    assert_eq!(person.succeeds(&["pbft", "propose", "council", "first"]).await, "1\n");
    let mut texts = vec!["first".to_owned()];
    for number in 0..4 {
        let (gone, other) = (member(number), member(number + 1));
        let is_killed = number % 2 == 0;
        if is_killed {
            fleet.kill(&gone)
        } else {
            fleet.freeze(&gone)
        }
        let text = format!("without-{gone}");
        person.succeeds(&["pbft", "propose", "council", &text, "--via", &other]).await;
        texts.push(text);
        if is_killed {
            fleet.start_one(&gone)
        } else {
            fleet.thaw(&gone)
        }
        // Before the next one goes: only one may be away.
        person.all_agree(&texts).await;
    }
    is_verified(&person).await;
    does_not_come_back(&mut fleet, &person).await;
}

#[tokio::test]
async fn a_proposal_gets_past_a_frozen_member_and_the_status_says_who_does_not_answer() {
    // The coordinators don't notice so soon that a member is frozen, and pass on what it is asked.
    let pool = PoolSpec::new("council", 4);
    let mut fleet = Fleet::start(FleetSpec::new(3).pool(pool).session_timeout("20s").with_tls()).await;
    let person = Person::of(&fleet);
    person.succeeds(&["pbft", "form", "council", "--members", MEMBERS]).await;
    person.succeeds(&["pbft", "propose", "council", "first"]).await;
    let all = person.run(&["pbft", "status", "council"]).await;
    assert!(all.success().contains("Can decide:   yes, 4 of 4 members running and 3 needed\n"), "{all:?}");

    // The one that is asked first, and the primary of the first view.
    fleet.freeze("council-0");
    let proposed = person.run(&["pbft", "propose", "council", "second"]).await;
    proposed.success();
    assert!(proposed.stderr.contains("no answer of council-0 within 2 s"), "{proposed:?}");
    let log = person.run(&["pbft", "log", "council", "-o", "json"]).await.json();
    let decisions = log.as_array().expect("a list").iter();
    let texts: Vec<&serde_json::Value> = decisions.map(|decision| &decision["proposals"][0]["text"]).collect();
    assert!(texts.iter().any(|text| **text == "second"), "{log}");
    let status = person.run(&["pbft", "status", "council", "-o", "json"]).await.json();
    let states: Vec<&serde_json::Value> = (0..4).map(|number| &status["members"][number]["state"]).collect();
    assert_eq!((states[0].as_str(), states[1].as_str() == Some("silent")), (Some("silent"), false), "{status}");

    fleet.freeze("council-1");
    let few = person.run(&["pbft", "status", "council"]).await;
    assert_eq!(few.code, Some(1), "{few:?}");
    assert!(few.stdout.contains("Can decide:   no, 2 of 4 members running and 3 needed\n"), "{few:?}");
    for member in ["council-0", "council-1"] {
        fleet.thaw(member);
    }
    person.succeeds(&["pbft", "propose", "council", "third"]).await;
}

/// The file of decisions is right, until something in it is changed.
async fn is_verified(person: &Person) {
    for number in 0..4 {
        let file = format!("{}.json", member(number));
        let verified = person.run(&["pbft", "verify", &file]).await;
        assert!(verified.success().contains("decisions, all proved"), "{verified:?}");
        assert!(verified.success().contains("client:cli"), "{verified:?}");
    }
    let document = person.run(&["pbft", "verify", "council-0.json", "-o", "json"]).await.json();
    assert_eq!((&document["missing"], &document["decisions"][0]["decision"]), (&0.into(), &1.into()), "{document}");
    let alone = person.terminal.run(&["pbft", "verify", "council-0.json"]).await;
    assert!(alone.success().contains("to be compared with the fleet's: sha256:"), "{alone:?}");
    let text = fs::read_to_string(person.terminal.dir().join("council-0.json")).expect("it was written");
    let at = text.rfind('"').expect("it is JSON") - 40;
    let mut changed = text.into_bytes();
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    person.terminal.write("changed.json", &String::from_utf8(changed).expect("it is text"));
    person.run(&["pbft", "verify", "changed.json"]).await.assert_failed(1, "the file is not right");
    let other = tempfile::tempdir().expect("a temporary directory");
    robeing::dev::DevIdentity::open(other.path(), "tested").expect("certificates can be made");
    let theirs = other.path().join("identity").display().to_string();
    let refused = person.terminal.run(&["pbft", "verify", "council-0.json", "--ca", &theirs]).await;
    refused.assert_failed(1, "authority that is not trusted");
}

/// A member whose disk was wiped is none any more, and the others go on.
async fn does_not_come_back(fleet: &mut Fleet, person: &Person) {
    fleet.kill("council-2");
    fs::remove_dir_all(data(fleet, "council-2")).expect("it is the test's");
    fleet.start_one("council-2");
    let again = ["pbft", "form", "council", "--members", MEMBERS];
    eventually("the member is refused", async || {
        let ended = person.run(&again).await;
        check(ended.stderr.contains("does not come back under its old identity"), (), ended)
    })
    .await;
    let refused = person.run(&["pbft", "log", "council", "--via", "council-2"]).await;
    refused.assert_failed(3, "is no member of a group");
    person.succeeds(&["pbft", "propose", "council", "without-a-disk", "--via", "council-0"]).await;
}

/// Opens a ballot of the group and waits for it. Returns how that ended.
async fn opens(person: &Person, question: &str, options: &[&str]) -> Ended {
    let line = ["vote", "open", question, "--mode", "byzantine", "--group", "council", "--deadline", "20s", "--wait"];
    person.run(&[&line[..], options].concat()).await
}

#[tokio::test]
async fn members_count_a_ballot_themselves_though_one_is_away_and_anybody_verifies_it() {
    let decider = serde_json::json!({"command": {"argv": ["/bin/sh", "-c", DECIDER]}}).to_string();
    let pool = PoolSpec::new("council", 4).flag("messages", &decider);
    let mut fleet = Fleet::start(FleetSpec::new(3).pool(pool).session_timeout("1s").with_tls()).await;
    let person = Person::of(&fleet);
    person.succeeds(&["pbft", "form", "council", "--members", MEMBERS]).await;
    let colours = ["--option", "red", "--option", "blue"];
    let approved = opens(&person, "which colour?", &colours).await;
    assert!(approved.success().contains("Outcome:        approved\nApproved:       2 (blue)\n"), "{approved:?}");
    assert!(approved.success().contains("Opened by:      client:cli\n"), "{approved:?}");
    let id = approved.stdout.lines().find_map(|line| line.strip_prefix("ID:")).expect("it is shown").trim().to_owned();
    let rejected = opens(&person, "drop the risky table?", &colours).await;
    assert_eq!(rejected.code, Some(1), "{rejected:?}");
    assert!(rejected.stdout.contains("Outcome:        rejected\n"), "{rejected:?}");
    // One is away, and all must approve: the others say that the deadline is over.
    fleet.kill("council-3");
    let line = ["vote", "open", "which?", "--group", "council", "--deadline", "3s", "--threshold", "1/1"];
    let opened = person.succeeds(&[&line[..], &colours].concat()).await;
    let show = ["vote", "show", opened.trim(), "--group", "council", "--wait", "60s"];
    let expired = person.run(&show).await;
    assert_eq!(expired.code, Some(1), "{expired:?}");
    assert!(expired.stdout.contains("Outcome:        expired\n"), "{expired:?}");
    is_verified_as_a_file(&person, &id).await;
}

/// The file of a closed ballot is right, until something in it is changed.
async fn is_verified_as_a_file(person: &Person, id: &str) {
    let shown = person.run(&["vote", "show", id, "--group", "council", "--file", "ballot.json"]).await;
    assert!(shown.success().contains("Proved by:"), "{shown:?}");
    for command in ["vote", "pbft"] {
        let trusted = person.run(&[command, "verify", "ballot.json"]).await;
        assert!(trusted.success().contains("Authorities:    trusted, from"), "{trusted:?}");
    }
    let alone = person.terminal.run(&["vote", "verify", "ballot.json"]).await;
    assert!(alone.success().contains("to be compared with the fleet's: sha256:"), "{alone:?}");
    let document = person.run(&["vote", "show", id, "--group", "council", "-o", "json"]).await.json();
    assert_eq!((document["id"].as_str(), document["outcome"].as_str()), (Some(id), Some("approved")), "{document}");
    let checked = person.run(&["vote", "verify", "ballot.json", "-o", "json"]).await.json();
    assert_eq!((&checked["votes"], &checked["option"]), (&document["votes"], &serde_json::json!(2)), "{checked}");
    let text = fs::read_to_string(person.terminal.dir().join("ballot.json")).expect("it was written");
    let mut file: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let attestations = file["attestations"].as_array_mut().expect("a list");
    attestations.truncate(2);
    person.terminal.write("few.json", &file.to_string());
    person.run(&["vote", "verify", "few.json"]).await.assert_failed(1, "2 members have signed it, and 3 must");
    // Its opening and its votes are in the log, too.
    let log = person.run(&["pbft", "log", "council"]).await;
    assert!(log.success().contains(&format!("(ballot {id} opened: which colour?)")), "{log:?}");
    assert!(log.success().contains("(approve option 2 in ballot "), "{log:?}");
    let unknown = person.run(&["vote", "show", &"00".repeat(32), "--group", "council", "--wait", "1s"]).await;
    unknown.assert_failed(3, "knows no such ballot");
}

#[tokio::test]
async fn a_member_that_lost_its_disk_comes_back_by_a_decision_of_the_others() {
    let decider = serde_json::json!({"command": {"argv": ["/bin/sh", "-c", "echo '{\"vote\": \"approve\"}'"]}});
    let pool = PoolSpec::new("council", 5).flag("messages", &decider.to_string());
    let mut fleet = Fleet::start(FleetSpec::new(3).pool(pool).session_timeout("1s").with_tls()).await;
    let person = Person::of(&fleet);
    person.succeeds(&["pbft", "form", "council", "--members", MEMBERS]).await;
    assert_eq!(person.succeeds(&["pbft", "propose", "council", "first"]).await, "1\n");
    fleet.kill("council-2");
    fs::remove_dir_all(data(&fleet, "council-2")).expect("it is the test's");
    fleet.start_one("council-2");
    let changed = person.succeeds(&["pbft", "epoch", "council", "--add", "council-4", "--remove", "council-3"]).await;
    assert!(changed.contains("Members:      council-0, council-1, council-2, council-4\n"), "{changed}");
    person.succeeds(&["pbft", "propose", "council", "second", "--via", "council-2"]).await;
    eventually("the newcomers have the whole log", async || {
        let line = ["pbft", "log", "council", "--via", "council-4", "--file", "all.json"];
        let log = person.run(&line).await;
        let has_all = log.code == Some(0) && log.stdout.contains("first") && log.stdout.contains("second");
        check(has_all, (), log)
    })
    .await;
    let verified = person.run(&["pbft", "verify", "all.json"]).await;
    assert!(verified.success().contains("decisions, all proved"), "{verified:?}");
    assert!(!verified.success().contains("Missing:"), "{verified:?}");
    let stranger = person.run(&["pbft", "epoch", "council", "--remove", "council-9"]).await;
    assert!(stranger.code != Some(0) && stranger.stderr.contains("no member \"council-9\""), "{stranger:?}");
}

#[tokio::test]
async fn the_members_of_a_team_form_a_group() {
    let fleet = Fleet::start(FleetSpec::new(1).pool(PoolSpec::new("council", 5)).with_tls()).await;
    let person = Person::of(&fleet);
    let form = async |id: &str, size: &str| {
        person.succeeds(&["team", "form", "--purpose", "review", "--size", size, "--id", id]).await.trim().to_owned()
    };
    let four = form("00000000-0000-4000-8000-000000000001", "4").await;
    let formed = person.succeeds(&["pbft", "form", "review", "--team", &four]).await;
    assert!(formed.contains("May lie:      1 of 4\n"), "{formed}");
    assert_eq!(person.succeeds(&["pbft", "propose", "review", "first"]).await, "1\n");
    let one = form("00000000-0000-4000-8000-000000000002", "1").await;
    person.run(&["pbft", "form", "few", "--team", &one]).await.assert_failed(2, "4 to 16 different members");
}

#[tokio::test]
async fn a_group_that_can_not_be_is_refused() {
    let fleet = Fleet::start(FleetSpec::new(1).pool(PoolSpec::new("council", 3)).with_tls()).await;
    let person = Person::of(&fleet);
    let form = async |name: &str, members: &str| person.run(&["pbft", "form", name, "--members", members]).await;
    form("council", "council-0,council-1").await.assert_failed(2, "4 to 16 different members");
    form("Council", MEMBERS).await.assert_failed(2, "is no name of a group");
    let away = form("council", MEMBERS).await;
    assert!(away.code != Some(0) && away.stderr.contains("council-3"), "{away:?}");
    person.run(&["pbft", "propose", "nobodys", "x"]).await.assert_failed(2, "no description of the group");
}
