//! Decisions per second of a group in one process: one thread for each replica, channels between them, real signatures,
//! calls of 1 KiB, no disk. Run with `cargo run --release -p robeing-bft --example throughput`; `SECONDS` sets how long
//! each part takes.

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use robeing_bft::{
    Verified,
    application::Application,
    certificate::Seq,
    crypto::{Ed25519, Ed25519Signer, PublicKey, Signer},
    epoch::{Epoch, Incarnation, Member, Membership, Parameters, ReplicaId},
    limits::MAX_PENDING_PER_CLIENT,
    message::{Message, Operation, Request},
    record::Record,
    replica::{Input, Outputs, Replica, Timer, TimerChange, TimerId, To},
    state::State,
};

const CALL_BYTES: usize = 1024;
const CLIENTS: u16 = 32;

#[derive(Clone)]
struct Count(u64);

impl Application for Count {
    fn execute(&mut self, _: Seq, _: &PublicKey, _: &Bytes) -> Bytes {
        self.0 += 1;
        Bytes::new()
    }

    fn snapshot(&self) -> Bytes {
        self.0.to_be_bytes().to_vec().into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let bytes = snapshot.first_chunk().ok_or("it is cut")?;
        self.0 = u64::from_be_bytes(*bytes);
        Ok(())
    }
}

fn signer(number: u16) -> Ed25519Signer {
    let mut seed = [5; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    Ed25519Signer::from_seed(&seed).expect("a seed of 32 bytes")
}

fn group(members: u16, batch_requests: u32) -> (Epoch, State) {
    let member = |number: u16| Member {
        name: format!("agent-{number}"),
        incarnation: Incarnation(u128::from(number).to_be_bytes()),
        key: signer(number).public_key(),
    };
    let mut clients: Vec<PublicKey> = (0..CLIENTS).map(|number| signer(1_000 + number).public_key()).collect();
    clients.sort();
    let parameters = Parameters { batch_requests, view_timeout_ms: 60_000, ..Parameters::default() };
    let (fleet, group) = ("fleet".to_owned(), "group".to_owned());
    let members = (0..members).map(member).collect();
    let membership = Membership { fleet, group, number: 0, members, clients, parameters };
    let initial = State::genesis(&Count(0)).expect("the state is small");
    (Epoch::first(membership, &initial).expect("the membership is allowed"), initial)
}

/// What the replica of the client's process reports.
enum Report {
    Decided,
    Done(PublicKey, u64),
}

struct Host {
    index: u16,
    replica: Replica<Count>,
    signer: Ed25519Signer,
    peers: Vec<Sender<Message>>,
    report: Option<Sender<Report>>,
    timers: BTreeMap<Timer, (Instant, TimerId)>,
}

impl Host {
    fn carry_out(&mut self, outputs: Outputs) {
        for (to, message) in outputs.messages {
            match to {
                To::All => {
                    for (index, peer) in self.peers.iter().enumerate() {
                        if index != usize::from(self.index) {
                            let _ = peer.send(message.clone());
                        }
                    }
                }
                To::One(ReplicaId(index)) => {
                    let _ = self.peers[usize::from(index)].send(message);
                }
            }
        }
        for change in outputs.timers {
            match change {
                TimerChange::Set { id, after_ms, .. } => {
                    self.timers.insert(id.timer, (Instant::now() + Duration::from_millis(after_ms), id));
                }
                TimerChange::Cancel(timer) => {
                    self.timers.remove(&timer);
                }
            }
        }
        if let Some(report) = &self.report {
            outputs.decided.iter().for_each(|_| drop(report.send(Report::Decided)));
            outputs.outcomes.iter().for_each(|one| drop(report.send(Report::Done(one.client, one.id))));
        }
    }

    fn run(mut self, inbox: &Receiver<Message>, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let due = self.timers.values().map(|(at, _)| *at).min();
            let wait = due.map_or(Duration::from_millis(50), |due| due.saturating_duration_since(Instant::now()));
            let input = match inbox.recv_timeout(wait.min(Duration::from_millis(50))) {
                Ok(message) if !self.replica.wants(&message) => None,
                Ok(message) => {
                    Verified::check(message, self.replica.epoch(), &Ed25519).ok().map(Box::new).map(Input::Message)
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let fired = self.timers.values().find(|(at, _)| *at <= Instant::now()).map(|(_, id)| *id);
                    if let Some(id) = fired {
                        self.timers.remove(&id.timer);
                    }
                    fired.map(Input::Timer)
                }
            };
            if let Some(input) = input {
                let outputs = self.replica.step(input, &self.signer);
                self.carry_out(outputs);
            }
        }
    }
}

/// Keeps requests outstanding, and returns the decisions, requests and median latency of a run.
fn drive(
    epoch: &Epoch,
    primary: &Sender<Message>,
    reports: &Receiver<Report>,
    outstanding: usize,
    time: Duration,
) -> (u64, u64, Duration) {
    let signers: Vec<Ed25519Signer> = (0..CLIENTS).map(|number| signer(1_000 + number)).collect();
    let index: BTreeMap<PublicKey, usize> = signers.iter().map(Signer::public_key).zip(0..).collect();
    let mut ids = vec![0_u64; signers.len()];
    let mut sent: BTreeMap<(usize, u64), Instant> = BTreeMap::new();
    let call = Bytes::from(vec![7; CALL_BYTES]);
    let mut submit = |client: usize, sent: &mut BTreeMap<(usize, u64), Instant>| {
        ids[client] += 1;
        let request = Request::sign(epoch, ids[client], Operation::Call(call.clone()), &signers[client]);
        sent.insert((client, ids[client]), Instant::now());
        let _ = primary.send(Message::Request(request));
    };
    (0..outstanding).for_each(|number| submit(number % usize::from(CLIENTS), &mut sent));
    let began = Instant::now();
    let (mut decisions, mut latencies) = (0, Vec::new());
    while began.elapsed() < time {
        match reports.recv_timeout(Duration::from_secs(5)).expect("the group decides") {
            Report::Decided => decisions += 1,
            Report::Done(client, id) => {
                let client = index[&client];
                if let Some(at) = sent.remove(&(client, id)) {
                    latencies.push(at.elapsed());
                    submit(client, &mut sent);
                }
            }
        }
    }
    latencies.sort();
    (decisions, latencies.len() as u64, latencies.get(latencies.len() / 2).copied().unwrap_or_default())
}

fn measure(members: u16, batch_requests: u32, time: Duration) {
    let (epoch, initial) = group(members, batch_requests);
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..members).map(|_| channel()).unzip();
    let (report, reports) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for (inbox, index) in inboxes.into_iter().zip(0_u16..) {
        let records = vec![Record::Identity(epoch.members[usize::from(index)].incarnation)];
        let signer = signer(index);
        let (replica, outputs) = Replica::start(&epoch, Count(0), &initial, records, &signer).expect("it starts");
        let report = (index == 0).then(|| report.clone());
        let mut host = Host { index, replica, signer, peers: senders.clone(), report, timers: BTreeMap::new() };
        host.carry_out(outputs);
        let stop = stop.clone();
        threads.push(thread::spawn(move || host.run(&inbox, &stop)));
    }
    let outstanding = if batch_requests == 1 { 16 } else { usize::from(CLIENTS) * MAX_PENDING_PER_CLIENT };
    let (decisions, requests, p50) = drive(&epoch, &senders[0], &reports, outstanding, time);
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("no replica panics"));
    let seconds = time.as_secs_f64();
    println!(
        "n = {members}, batches of up to {batch_requests}: {:.0} decisions/s, {:.0} requests/s, p50 {:.1} ms, {outstanding} outstanding",
        decisions as f64 / seconds,
        requests as f64 / seconds,
        p50.as_secs_f64() * 1_000.0
    );
}

fn main() {
    let seconds = env::var("SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(5);
    for (members, batch) in [(4, 1), (4, 100), (7, 1), (7, 100)] {
        measure(members, batch, Duration::from_secs(seconds));
    }
}
