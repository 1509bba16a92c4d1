//! What the processes of a crowd of agents say to each other, and what they remember of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use robeing_proto::worker::v1::{Message, SendCode, SendMessage, SendOutcome, to_process};
use robeing_tests::attached::Attached;
use tokio::{
    sync::Barrier,
    time::{MissedTickBehavior, interval},
};

/// How often each agent sends a message.
const EVERY: Duration = Duration::from_millis(1_000);
/// How long a message may take, in milliseconds: longer than it takes to open a connection on a busy machine.
const DEADLINE_MS: u64 = 20_000;
/// To how many others each agent sends, in turn: in as many pods.
const PEERS: usize = 8;
/// The largest number of messages of an agent that wait for their outcome.
const UNDER_WAY: usize = 30;

/// An agent: its name, and where its process attaches in the network of its pod.
#[derive(Clone, Debug)]
pub struct Member {
    pub name: String,
    pub attaches_at: String,
}

/// What happened at one agent.
#[derive(Debug, Default)]
struct Record {
    /// The sender and the number of each message that was handled, in order.
    handled: Vec<(String, u64)>,
    /// The receiver and the number of each message that was accepted.
    accepted: Vec<(String, u64)>,
    /// How often each other outcome came.
    others: BTreeMap<SendCode, usize>,
    under_way: usize,
}

/// Agents that send messages to each other until this is over.
#[derive(Debug)]
pub struct Talk {
    members: Vec<Member>,
    records: Vec<Mutex<Record>>,
    /// All processes are attached: before that, agents keep messages in their inboxes.
    attached: Barrier,
    over: AtomicBool,
}

impl Talk {
    /// A conversation of these agents, which [`Talk::attach`] begins.
    pub fn of(members: Vec<Member>) -> Arc<Self> {
        let records = members.iter().map(|_| Mutex::default()).collect();
        let attached = Barrier::new(members.len());
        Arc::new(Self { members, records, attached, over: AtomicBool::new(false) })
    }

    /// Attaches a process to each of these agents, which run in the network namespace of the process `pid`. Returns the
    /// thread that is these processes; it panics if an agent is gone.
    pub fn attach(self: &Arc<Self>, pid: i32, agents: Vec<usize>) -> JoinHandle<()> {
        let talk = Arc::clone(self);
        thread::spawn(move || {
            let network = File::open(format!("/proc/{pid}/ns/net")).expect("root may open a namespace");
            setns(network, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let agents = agents.into_iter().map(|agent| talk.take_part(agent));
                futures::future::join_all(agents).await;
            });
        })
    }

    /// Ends the conversation: no further messages are sent, and the threads end once each message has its outcome.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Returns how many messages of each agent were accepted so far.
    pub fn accepted(&self) -> Vec<usize> {
        (0..self.members.len()).map(|agent| self.record(agent).accepted.len()).collect()
    }

    /// Returns how many messages each agent has handled so far.
    pub fn handled(&self) -> Vec<usize> {
        (0..self.members.len()).map(|agent| self.record(agent).handled.len()).collect()
    }

    /// Returns how often each outcome came.
    pub fn outcomes(&self) -> BTreeMap<SendCode, usize> {
        let mut outcomes = BTreeMap::new();
        for agent in 0..self.members.len() {
            let record = self.record(agent);
            *outcomes.entry(SendCode::Accepted).or_default() += record.accepted.len();
            for (code, count) in &record.others {
                *outcomes.entry(*code).or_default() += count;
            }
        }
        outcomes
    }

    /// Checks that each agent has handled no message twice, all that were accepted, and those of each sender in order.
    pub fn check(&self) {
        let mut handled = BTreeMap::new();
        for (agent, member) in self.members.iter().enumerate() {
            let mut last: BTreeMap<String, u64> = BTreeMap::new();
            for (sender, number) in &self.record(agent).handled {
                let before = last.insert(sender.clone(), *number);
                let in_order = before.is_none_or(|before| before < *number);
                assert!(in_order, "{} handled {number} of {sender} after {before:?}", member.name);
            }
            let of_this: BTreeSet<(String, u64)> = self.record(agent).handled.iter().cloned().collect();
            handled.insert(member.name.clone(), of_this);
        }
        for (agent, member) in self.members.iter().enumerate() {
            for (receiver, number) in &self.record(agent).accepted {
                let was = handled[receiver].contains(&(member.name.clone(), *number));
                assert!(was, "{receiver} accepted {number} of {}, but did not handle it", member.name);
            }
        }
    }

    fn record(&self, agent: usize) -> MutexGuard<'_, Record> {
        self.records[agent].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends messages to some other agents in turn, and accepts those of the others.
    async fn take_part(&self, agent: usize) {
        let mut process = Attached::to(&self.members[agent].attaches_at).await;
        self.attached.wait().await;
        let (mut ticks, mut number) = (interval(EVERY), 0);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.over.load(Ordering::Relaxed) || self.record(agent).under_way > 0 {
            tokio::select! {
                _ = ticks.tick() => {
                    let more = !self.over.load(Ordering::Relaxed) && self.record(agent).under_way < UNDER_WAY;
                    if more {
                        number += 1;
                        self.record(agent).under_way += 1;
                        process.post(self.message(agent, number)).await;
                    }
                }
                next = process.next() => match next.expect("the agent lives") {
                    to_process::Message::Incoming(message) => {
                        self.handle(agent, &message);
                        process.accept(&message, "").await;
                    }
                    to_process::Message::SendOutcome(outcome) => self.note(agent, &outcome),
                    _ => {}
                },
            }
        }
    }

    fn receiver(&self, agent: usize, number: u64) -> &str {
        let which = usize::try_from(number).expect("few messages") % PEERS;
        &self.members[(agent + 1 + which * self.members.len() / PEERS) % self.members.len()].name
    }

    fn message(&self, agent: usize, number: u64) -> SendMessage {
        SendMessage {
            seq: number,
            to: self.receiver(agent, number).to_owned(),
            r#type: "test".into(),
            payload: number.to_string().into(),
            deadline_in_ms: DEADLINE_MS,
            ..SendMessage::default()
        }
    }

    fn handle(&self, agent: usize, message: &Message) {
        // The client's broadcasts have no number.
        let Ok(number) = String::from_utf8_lossy(&message.payload).parse() else { return };
        self.record(agent).handled.push((message.sender.clone(), number));
    }

    fn note(&self, agent: usize, outcome: &SendOutcome) {
        let receiver = self.receiver(agent, outcome.seq).to_owned();
        let mut record = self.record(agent);
        record.under_way -= 1;
        match outcome.code() {
            SendCode::Accepted => record.accepted.push((receiver, outcome.seq)),
            code => *record.others.entry(code).or_default() += 1,
        }
    }
}
