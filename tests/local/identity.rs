//! Who may be in a fleet with TLS, and who may use it: agents that are barred and released, join tokens, certificates of
//! clients, rights, and the audit log, with the command line that administrators use.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::sys::signal::Signal;
use robeing::dev::DevIdentity;
use robeing_client::ClientIdentity;
use robeing_proto::v1::{AgentState, TaskState};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    processes::Process,
    program::{AGENT, CLI, program},
    script::{answer, task},
    terminal::{Ended, Terminal},
    wait::{check, eventually},
};
use serde_json::Value;

/// How long the join token can be used that expires.
const SHORT: Duration = Duration::from_secs(1);

/// An administrator of a fleet at a terminal, who has the fleet's authority.
struct Administrator {
    terminal: Terminal,
    endpoint: String,
    authority: String,
}

impl Administrator {
    fn of(fleet: &Fleet) -> Self {
        Self {
            terminal: Terminal::default(),
            endpoint: fleet.address("coordinator-0"),
            authority: authority(fleet.dir()).display().to_string(),
        }
    }

    /// Runs a command with the authority's credentials.
    async fn run(&self, line: &[&str]) -> Ended {
        self.run_with(line, &["--ca", &self.authority]).await
    }

    /// Runs a command with other credentials.
    async fn run_with(&self, line: &[&str], credentials: &[&str]) -> Ended {
        self.terminal.run(&[line, &["--endpoint", &self.endpoint], credentials].concat()).await
    }

    /// Returns the records of the audit log.
    async fn audit(&self, more: &[&str]) -> Vec<Value> {
        let ended = self.run(&[&["audit", "-o", "json"], more].concat()).await;
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        ended.success().lines().map(parse).collect()
    }

    /// Waits for a record of the audit log whose fields contain these texts.
    async fn recorded(&self, action: &str, actor: &str, subject: &str, outcome: &str) -> Value {
        eventually(&format!("a record {action} of {subject} by {actor}, {outcome}"), async || {
            let records = self.audit(&[]).await;
            let is_it = |record: &&Value| {
                let holds = |field: &str, text: &str| record[field].as_str().is_some_and(|is| is.contains(text));
                holds("action", action)
                    && holds("actor", actor)
                    && holds("subject", subject)
                    && holds("outcome", outcome)
            };
            records.iter().find(is_it).cloned().ok_or(records)
        })
        .await
    }
}

/// Returns the folder of the authority in a data directory of `robeing dev`.
fn authority(data: &Path) -> PathBuf {
    data.join("identity")
}

/// Starts an agent by hand, as a user does elsewhere: with a join token, and with the file of the trusted authorities.
fn start_agent(fleet: &Fleet, name: &str, token: &str) -> Process {
    let line = [
        format!("ROBEING_JOIN_TOKEN={token}"),
        program(AGENT).display().to_string(),
        "--role=worker".into(),
        format!("--name={name}"),
        "--cluster-id=tested".into(),
        format!("--coordinators={}", fleet.address("coordinator-0")),
        "--listen=127.0.0.1:0".into(),
        "--executor={\"echo\":{}}".into(),
        format!("--trust={}", authority(fleet.dir()).join("ca.crt").display()),
        "--exit-with-parent".into(),
    ];
    Process::start(name, Path::new("/usr/bin/env"), &line, &fleet.dir().join(format!("{name}.log")))
}

/// Waits until a process has written these words.
async fn has_logged(process: &Process, words: &str) {
    eventually(&format!("{words:?} in a log"), async || {
        let log = process.log();
        check(log.contains(words), (), log)
    })
    .await;
}

fn spec(agents: u32) -> FleetSpec {
    FleetSpec::new(1).pool(PoolSpec::new("work", agents)).session_timeout("10s").with_tls()
}

#[tokio::test]
async fn a_barred_agent_is_refused_until_it_is_released_and_its_tasks_run_elsewhere() {
    let mut fleet = Fleet::start(spec(2)).await;
    let admin = Administrator::of(&fleet);
    let gate = fleet.gate("held");
    let id = fleet.submit_one(task(&format!("{}\n{}", gate.wait(), answer("done")))).await;
    fleet.executing(&id, 1).await;
    let holder = fleet.task(&id).await.attempts[0].agent.clone();
    let other = if holder == "work-0" { "work-1" } else { "work-0" };

    let barred = admin.run(&["quarantine", &holder, "--reason", "it answers nonsense"]).await;
    let told = format!("agent {holder} is quarantined: its tasks run elsewhere, and its certificate is refused");
    assert!(barred.success().starts_with(&told), "{barred:?}");
    fleet.agent_is(&holder, AgentState::Lost).await;
    let why = admin.run(&["agents", "--why", &holder]).await;
    assert!(why.success().contains("by client/cli: it answers nonsense"), "{why:?}");
    fleet.executing(&id, 2).await;
    assert_eq!(fleet.task(&id).await.attempts[1].agent, other);
    has_logged(fleet.process(&holder), "quarantined (it answers nonsense)").await;
    // A new process with a new proof does not get in, either.
    fleet.kill(&holder);
    fleet.start_one(&holder);
    has_logged(fleet.process(&holder), "release it to let it in").await;
    assert_eq!(fleet.agent_is(&holder, AgentState::Lost).await.name, holder);
    gate.open();
    assert!(fleet.finished(&id, TaskState::Succeeded).await.output.ends_with(b"done\n"));

    let released = admin.run(&["release", &holder]).await;
    assert_eq!(released.success(), format!("agent {holder} is released: it may be in the fleet again\n"));
    fleet.agent_is(&holder, AgentState::Live).await;
    let again = admin.run(&["release", &holder]).await;
    assert_eq!(again.success(), format!("agent {holder} is not barred, so nothing has changed\n"));

    let removed = admin.run(&["remove", &holder, "--reason", "it is not needed"]).await;
    assert!(removed.success().contains("and the fleet forgets it"), "{removed:?}");
    eventually("the fleet without the removed agent", async || {
        let agents = fleet.agents().await;
        check(agents.iter().all(|agent| agent.name != holder), (), agents)
    })
    .await;
    has_logged(fleet.process(&holder), "removed from the fleet (it is not needed)").await;
    let again = admin.run(&["remove", &holder, "--reason", "it is not needed"]).await;
    assert!(again.success().contains("will refuse one that comes"), "it is barred as asked: {again:?}");
    let mistyped = admin.run(&["quarantine", "ghost", "--reason", "a test"]).await;
    mistyped.assert_failed(4, "the fleet has no agent \"ghost\", so nothing has changed");
    let stranger = admin.run(&["remove", "ghost", "--unknown", "--reason", "a test", "-o", "json"]).await.json();
    assert!(stranger["revision"].is_string(), "{stranger}");
    let stranger = admin.run(&["quarantine", "ghost", "--unknown", "--reason", "a test"]).await;
    assert!(stranger.success().contains("the fleet knows no agent of this name now"), "{stranger:?}");

    admin.recorded("agent.enrol", other, other, "allowed").await;
    let quarantine = admin.recorded("agent.quarantine", "client/cli", &holder, "done").await;
    assert_eq!(quarantine["detail"], "it answers nonsense");
    admin.recorded("agent.release", "client/cli", &holder, "done").await;
    let last = admin.recorded("agent.quarantine", "client/cli", "ghost", "done").await;
    admin.recorded("call", "", "Enrol", "denied").await;
    follows_the_audit_log(&admin, &last).await;
}

/// The log is followed from a record on, until Ctrl-C.
async fn follows_the_audit_log(admin: &Administrator, last: &Value) {
    let after: u64 = last["seq"].as_str().and_then(|seq| seq.parse().ok()).expect("64 bits are text");
    let later = admin.audit(&["--after", &after.to_string()]).await;
    assert!(later.iter().all(|record| record["seq"] != last["seq"]), "{later:?}");
    let table = admin.run(&["audit"]).await;
    assert!(table.success().starts_with("SEQ   TIME"), "{table:?}");

    let after = after.to_string();
    let line = ["audit", "--follow", "--after", &after, "--endpoint", &admin.endpoint, "--ca", &admin.authority];
    let line: Vec<String> = line.map(str::to_owned).to_vec();
    let mut following = Process::start("audit", &program(CLI), &line, &admin.terminal.dir().join("followed"));
    admin.run(&["release", "ghost"]).await.success();
    has_logged(&following, "client/cli   agent.release   ghost").await;
    following.signal(Signal::SIGINT);
    assert_eq!(following.wait().await.code(), Some(130), "{}", following.log());
}

#[tokio::test]
async fn a_join_token_lets_one_agent_in_once() {
    let fleet = Fleet::start(spec(1)).await;
    let admin = Administrator::of(&fleet);
    let created = admin.run(&["token", "create"]).await;
    let token = created.success().trim();
    assert!(token.starts_with("robeing-join-1.") && !token.contains(char::is_whitespace), "{created:?}");
    assert!(created.stderr.starts_with("note: one agent can enrol with this token, once, until "), "{created:?}");
    let joined = start_agent(&fleet, "hand-0", token);
    fleet.agent_is("hand-0", AgentState::Live).await;
    let second = start_agent(&fleet, "hand-1", token);
    has_logged(&second, "the proof of agent hand-1 was used before").await;

    let named = admin.run(&["token", "create", "--name", "hand-2", "--quiet"]).await;
    assert_eq!(named.stderr, "");
    let other = start_agent(&fleet, "hand-3", named.success().trim());
    has_logged(&other, "refused the enrolment").await;
    let rightful = start_agent(&fleet, "hand-2", named.success().trim());
    fleet.agent_is("hand-2", AgentState::Live).await;

    let short = admin.run(&["token", "create", "--valid-for", "1s"]).await.success().trim().to_owned();
    let expired = SystemTime::now() + 2 * SHORT;
    eventually("the end of the token", async || {
        let now = SystemTime::now();
        check(now > expired, (), now)
    })
    .await;
    let late = start_agent(&fleet, "hand-4", &short);
    has_logged(&late, "the join token has expired").await;
    admin.run(&["token", "create", "--valid-for", "25h"]).await.assert_failed(3, "valid_for must be from 1s to");

    let names: Vec<String> = fleet.agents().await.into_iter().map(|agent| agent.name).collect();
    assert_eq!(names, ["hand-0", "hand-2", "work-0"], "the others are not in the fleet");
    admin.recorded("agent.enrol", "hand-0", "hand-0", "allowed").await;
    admin.recorded("call", "", "Enrol", "denied").await;
    drop((joined, second, other, rightful, late));
}

/// Returns the flags of credentials in these files.
fn flags<'a>(trust: &'a str, certificate: &'a str, key: &'a str) -> [&'a str; 6] {
    ["--trust", trust, "--certificate", certificate, "--private-key", key]
}

#[tokio::test]
async fn clients_are_known_by_their_certificates_and_may_do_what_they_have_a_right_to() {
    let rights = tempfile::NamedTempFile::new().expect("a temporary file");
    let list = "clients:\n- {name: dev, rights: [submit, read, admin]}\n- {name: cli, rights: [read, admin]}\n- {name: \
                ada, rights: [read]}\n";
    fs::write(rights.path(), list).expect("written");
    let fleet = Fleet::start(spec(1).flag("rights", &rights.path().display().to_string())).await;
    let admin = Administrator::of(&fleet);
    admin.run_with(&["status"], &[]).await.assert_failed(3, "(`robeing client create` makes them)");

    let made = admin.run(&["client", "create", "ada", "--out", "ids"]).await;
    assert!(made.success().starts_with("ada is certified until "), "{made:?}");
    let ada = flags("ids/trust.crt", "ids/ada.crt", "ids/ada.key");
    admin.run_with(&["status"], &ada).await.success();
    let refused = admin.run_with(&["quarantine", "work-0", "--reason", "a test"], &ada).await;
    refused.assert_failed(3, "client/ada may not call this; clients with the right admin");
    refused.assert_failed(3, "an administrator of the fleet can give you the right");
    admin.recorded("call", "client/ada", "Admin/BarAgent", "denied").await;
    admin.run(&["client", "create", "ada", "--out", "ids"]).await.assert_failed(2, "ids/ada.crt exists: give --force");
    admin.run(&["client", "create", "ada", "--out", "ids", "--force"]).await.success();
    admin.run_with(&["status"], &ada).await.success();
    admin.run(&["client", "create", "bob", "--out", "bob", "--valid-for", "1s"]).await.assert_failed(3, "valid_for");
    assert!(!admin.terminal.dir().join("bob").exists(), "nothing is written for a certificate that there is not");

    another_fleet_is_refused(&admin, fleet.dir()).await;
}

/// The authority of another fleet, and a client that it certified, are refused, although all names are the same.
async fn another_fleet_is_refused(admin: &Administrator, data: &Path) {
    let other = tempfile::tempdir().expect("a temporary directory");
    let identity = DevIdentity::open(other.path(), "tested").expect("certificates can be made");
    let theirs = authority(other.path()).display().to_string();
    let refused = admin.run_with(&["status"], &["--ca", &theirs]).await;
    refused.assert_failed(5, &format!("is not trusted: its certificate is not from an authority in {theirs}"));
    refused.assert_failed(5, "give the certificates of its authorities with --trust");

    let ClientIdentity { certificate: Some((certificate, key)), .. } = identity.client().clone() else {
        panic!("the client has a certificate");
    };
    admin.terminal.write("their.crt", &certificate);
    admin.terminal.write("their.key", &key);
    let ours = authority(data).join("ca.crt").display().to_string();
    let refused = admin.run_with(&["status"], &flags(&ours, "their.crt", "their.key")).await;
    refused.assert_failed(3, "refused the client's certificate: it is not from an authority of this fleet");
}
