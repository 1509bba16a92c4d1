//! Messages between agents, and from people to agents. All processes are real, with TLS.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use robeing_proto::{
    v1::{AgentState, MessageCode},
    worker::v1::{SendCode, SendMessage},
};
use robeing_tests::{
    attached::Attached,
    fleet::{Fleet, FleetSpec, PoolSpec},
    terminal::{Ended, Terminal},
    wait::{check, eventually, in_time},
};
use serde_json::{Value, json};

/// Number of messages that are sent while a receiver is killed.
const MANY: u64 = 300;
/// How many of them are under way at once.
const AT_ONCE: u64 = 32;

/// Someone at a terminal who has the fleet's authority.
struct User {
    terminal: Terminal,
    endpoints: String,
    authority: String,
}

impl User {
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
}

fn worker() -> Value {
    json!({"worker": {}})
}

fn message(seq: u64, to: &str, payload: &str) -> SendMessage {
    SendMessage {
        seq,
        to: to.into(),
        r#type: "test".into(),
        payload: payload.to_owned().into(),
        deadline_in_ms: 60_000,
        ..SendMessage::default()
    }
}

#[tokio::test]
async fn messages_reach_agents_by_their_names_or_by_what_they_can_do() {
    let spec = FleetSpec::new(3)
        .pool(PoolSpec::new("work", 2))
        .pool(PoolSpec::new("count", 1).specialists("counting").flag(
            "messages",
            r#"{"command":{"argv":["/bin/sh","-c","wc -c; test $ROBEING_MESSAGE_TYPE != bad || exit 3"]}}"#,
        ))
        .with_tls();
    let fleet = Fleet::start(spec).await;
    let user = User::of(&fleet);
    assert_eq!(user.succeeds(&["send", "work-0", "hello"]).await, "accepted by work-0\n");
    assert_eq!(user.run(&["ask", "skill:counting", "hello"]).await.success().trim(), "5");
    user.run(&["send", "skill:counting", "x", "--type", "bad"]).await.assert_failed(1, "");
    let nobody = user.run(&["send", "nobody", "x"]).await;
    assert_eq!(nobody.code, Some(4), "{nobody:?}");
    let read = user.run(&["inbox", "work-0", "-o", "json"]).await.json();
    assert_eq!((read.as_array().map(Vec::len), &read[0]["payloadText"]), (Some(1), &json!("hello")), "{read}");
    assert_eq!(user.run(&["inbox", "work-0"]).await.success(), "no messages\n");
    let all = user.run(&["broadcast", "to all", "-o", "json"]).await.json();
    let outcomes: BTreeMap<&str, &Value> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(|outcome| (outcome["agent"].as_str().expect("a name"), &outcome["code"]))
        .collect();
    let accepted = json!(MessageCode::Accepted.as_str_name());
    assert_eq!(outcomes, BTreeMap::from([("count-0", &accepted), ("work-0", &accepted), ("work-1", &accepted)]));
}

/// Returns a message with an id of its own, so that it can be sent again.
fn numbered(number: u64, to: &str) -> SendMessage {
    SendMessage { id: format!("00000000-0000-4000-8000-{number:012}"), ..message(number, to, &number.to_string()) }
}

/// Sends messages to another agent, again if it is away. Returns the outcomes by their numbers, and which were sent again.
async fn send_all(sender: &mut Attached, to: &str) -> (BTreeMap<u64, SendCode>, BTreeSet<u64>) {
    let (mut outcomes, mut again) = (BTreeMap::new(), BTreeSet::new());
    let mut next = 1;
    while outcomes.len() < MANY as usize {
        while next <= MANY && next - 1 - (outcomes.len() as u64) < AT_ONCE {
            sender.post(numbered(next, to)).await;
            next += 1;
        }
        let outcome = sender.outcome().await.expect("the sender's agent lives");
        if outcome.code() == SendCode::Away {
            again.insert(outcome.seq);
            sender.post(numbered(outcome.seq, to)).await;
        } else {
            outcomes.insert(outcome.seq, outcome.code());
        }
    }
    (outcomes, again)
}

/// Accepts messages until there have been enough, or the agent is gone. Returns whether it is.
async fn receive(receiver: &mut Attached, handled: &mut Vec<(u64, bool)>, enough: usize) -> bool {
    while handled.iter().map(|(number, _)| number).collect::<BTreeSet<_>>().len() < enough {
        let Ok(message) = receiver.message().await else { return true };
        let number = String::from_utf8_lossy(&message.payload).parse().expect("a number");
        handled.push((number, message.resent));
        receiver.accept(&message, "").await;
    }
    false
}

#[tokio::test]
async fn messages_are_handled_once_and_in_order_though_their_receiver_is_killed() {
    let spec = FleetSpec::new(3).pool(PoolSpec::new("own", 2).executor(worker())).session_timeout("1s").with_tls();
    let mut fleet = Fleet::prepare(spec);
    fleet.start_all();
    fleet.leader().await;
    let (from, to) = (fleet.attach_address("own-0"), fleet.attach_address("own-1"));
    let (mut sender, mut receiver) = (Attached::to(&from).await, Attached::to(&to).await);
    eventually("own-0 reaches own-1", async || {
        let (sent, received) = tokio::join!(sender.send(message(0, "own-1", "0")), async {
            match tokio::time::timeout(Duration::from_secs(2), receiver.message()).await {
                Ok(Ok(message)) => receiver.accept(&message, "yes").await,
                _ => return false,
            }
            true
        });
        check(received && sent.code() == SendCode::Accepted, (), sent)
    })
    .await;
    let sending = tokio::spawn(async move { send_all(&mut sender, "own-1").await });
    let mut handled = Vec::new();
    receive(&mut receiver, &mut handled, MANY as usize / 3).await;
    fleet.kill("own-1");
    receive(&mut receiver, &mut handled, MANY as usize).await;
    fleet.start_one("own-1");
    let mut receiver = Attached::to(&to).await;
    let mut after = Vec::new();
    let before: BTreeSet<u64> = handled.iter().map(|(number, _)| *number).collect();
    in_time("the rest is handled", async {
        while before.iter().chain(after.iter().map(|(number, _)| number)).collect::<BTreeSet<_>>().len() < MANY as usize
        {
            let done = after.len() + 1;
            assert!(!receive(&mut receiver, &mut after, done).await, "the agent is gone again");
        }
    })
    .await;
    let (outcomes, again) = in_time("all outcomes", sending).await.expect("the sender lives");
    assert!(outcomes.values().all(|code| *code == SendCode::Accepted), "{outcomes:?}");
    // Only what was being handled when the agent died may come again, and says so.
    for (number, resent) in &after {
        assert!(!before.contains(number) || *resent, "{number} came again without saying so");
    }
    for handled in [&handled, &after] {
        // One that was sent again came after others that were sent later.
        let numbers = handled.iter().map(|(number, _)| *number).filter(|number| !again.contains(number));
        let numbers: Vec<u64> = numbers.collect();
        assert!(numbers.is_sorted(), "out of order: {numbers:?}");
    }
}

#[tokio::test]
async fn a_durable_message_waits_for_its_receiver_and_survives_the_leader() {
    let spec = FleetSpec::new(3).pool(PoolSpec::new("work", 2)).session_timeout("1s").with_tls();
    let mut fleet = Fleet::start(spec).await;
    let user = User::of(&fleet);
    user.succeeds(&["send", "work-1", "first"]).await;
    fleet.kill("work-1");
    fleet.agent_is("work-1", AgentState::Lost).await;
    user.run(&["send", "work-1", "x"]).await.assert_failed(1, "");
    let kept = user.run(&["send", "work-1", "for later", "--durable", "-o", "json"]).await.json();
    assert_eq!(kept["code"], json!(MessageCode::Kept.as_str_name()), "{kept}");
    let id = kept["id"].as_str().expect("it has an id").to_owned();
    let leader = fleet.leader().await;
    fleet.kill(&leader);
    fleet.leader_other_than(&leader).await;
    fleet.start_one("work-1");
    let ended = user.succeeds(&["message", &id, "--wait", "30s"]).await;
    assert_eq!(ended, "accepted by work-1\n");
    let read: Value = serde_json::from_str(&user.succeeds(&["inbox", "work-1", "-o", "json"]).await).expect("JSON");
    assert_eq!(read[0]["payloadText"], json!("for later"), "{read}");
    // The same message again is the same message.
    let again = ["send", "work-1", "for later", "--durable", "--id", &id];
    user.succeeds(&again).await;
    assert_eq!(user.succeeds(&["inbox", "work-1"]).await, "no messages\n");
}

/// Returns the files in a folder that contain these bytes.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be listed") {
        let path = entry.expect("the folder can be listed").path();
        if path.is_dir() {
            found.extend(files_with(&path, bytes));
        } else if fs::read(&path).is_ok_and(|read| read.windows(bytes.len()).any(|window| window == bytes)) {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn messages_of_people_and_their_replies_are_not_in_the_coordinators_data() {
    let secret = |n: u32| format!("nobody-else-reads-this-{n}");
    let spec = FleetSpec::new(3)
        .pool(PoolSpec::new("work", 2))
        .pool(PoolSpec::new("echo", 1).flag("messages", r#"{"command":{"argv":["/usr/bin/tr","a-z","A-Z"]}}"#))
        .session_timeout("1s")
        .with_tls();
    let mut fleet = Fleet::start(spec).await;
    let user = User::of(&fleet);
    user.succeeds(&["send", "work-0", &secret(1)]).await;
    assert_eq!(user.succeeds(&["ask", "pool:echo", &secret(2)]).await, secret(2).to_uppercase());
    let id = "00000000-0000-4000-8000-000000000077";
    user.succeeds(&["send", "echo-0", &secret(3), "--id", id]).await;
    let told = user.succeeds(&["message", id]).await;
    assert_eq!(told, "accepted by echo-0, whose reply is sealed for whoever sent the message\n");
    user.succeeds(&["broadcast", &secret(4), "--to", "pool:work"]).await;
    fleet.kill("work-1");
    fleet.agent_is("work-1", AgentState::Lost).await;
    let kept = user.run(&["send", "work-1", &secret(5), "--durable", "-o", "json"]).await.json();
    assert_eq!(kept["code"], json!(MessageCode::Kept.as_str_name()), "{kept}");
    // They have the letters: the name of one's type is there, and it is not sealed.
    user.succeeds(&["send", "work-0", "x", "--type", "a-type-that-is-seen"]).await;
    for coordinator in fleet.coordinators() {
        let data = fleet.data(&coordinator);
        eventually("the letters are on the disk", async || {
            let found = files_with(&data, b"a-type-that-is-seen");
            check(!found.is_empty(), (), "no file has the type")
        })
        .await;
        for n in 1..=5 {
            for text in [secret(n), secret(n).to_uppercase()] {
                let found = files_with(&data, text.as_bytes());
                assert!(found.is_empty(), "{text} is in {found:?}");
            }
        }
    }
    let read: Value = serde_json::from_str(&user.succeeds(&["inbox", "work-0", "-o", "json"]).await).expect("JSON");
    let texts: Vec<_> = read.as_array().expect("a list").iter().map(|message| message["payloadText"].clone()).collect();
    assert_eq!(texts, [json!(secret(1)), json!(secret(4)), json!("x")]);
    fleet.start_one("work-1");
    let read = eventually("the message that was kept is read", async || {
        let read = user.run(&["inbox", "work-1"]).await;
        check(read.stdout.contains(&secret(5)), (), read)
    });
    read.await;
}

#[tokio::test]
async fn a_quarantined_agent_neither_sends_nor_receives() {
    let spec = FleetSpec::new(1).pool(PoolSpec::new("own", 2).executor(worker())).with_tls();
    let mut fleet = Fleet::prepare(spec);
    fleet.start_all();
    fleet.leader().await;
    let user = User::of(&fleet);
    let (mut good, mut bad) =
        (Attached::to(&fleet.attach_address("own-0")).await, Attached::to(&fleet.attach_address("own-1")).await);
    eventually("the agents reach each other", async || {
        let (sent, ()) = tokio::join!(bad.send(message(1, "own-0", "x")), async {
            if let Ok(Ok(message)) = tokio::time::timeout(Duration::from_secs(2), good.message()).await {
                good.accept(&message, "").await;
            }
        });
        check(sent.code() == SendCode::Accepted, (), sent)
    })
    .await;
    user.run(&["quarantine", "own-1", "--reason", "it misbehaves"]).await.success();
    let soon = |message| SendMessage { deadline_in_ms: 1_000, ..message };
    eventually("own-1 is refused", async || {
        let sent = bad.send(soon(message(2, "own-0", "x"))).await;
        check(sent.code() != SendCode::Accepted, (), sent)
    })
    .await;
    let sent = good.send(soon(message(3, "own-1", "x"))).await;
    assert!(matches!(sent.code(), SendCode::Away | SendCode::NoSuchAgent), "{sent:?}");
}
