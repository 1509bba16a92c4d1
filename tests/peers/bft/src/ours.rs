//! A group of robeing-bft: a thread for each replica, and wires with encoded messages between them. Each replica writes
//! its records to a file, and syncs it before it sends anything. Messages that wait share a sync, as in an agent.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use robeing_bft::{
    Verified,
    crypto::{Ed25519, Ed25519Signer},
    epoch::{Epoch, ReplicaId},
    message::{Message, Request},
    record::Record,
    replica::{Input, Outputs, Replica, Sync, Timer, TimerChange, TimerId, To},
    state::State,
};
use tempfile::TempDir;

use crate::{
    common::{Count, Group, Report, signer},
    wire::{Wire, wire},
};

/// How long a replica waits at once, so that it notices the end.
const LOOK: Duration = Duration::from_millis(50);
/// Most messages that share one sync, as in an agent. No more than can be taken in the time of a sync do.
const STEPS_PER_SYNC: usize = 64;

/// A group of robeing-bft.
pub struct Ours {
    primary: Sender<Bytes>,
    reports: Receiver<Report>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _folder: TempDir,
}

impl Ours {
    /// Starts a group whose replicas have their files in this folder, and whose messages take this long.
    pub fn start(epoch: &Epoch, initial: &State, folder: TempDir, delay: Duration) -> Self {
        let (senders, inboxes): (Vec<Sender<Bytes>>, Vec<_>) = epoch.members.iter().map(|_| channel()).unzip();
        let primary = senders[0].clone();
        let to = |inbox: Sender<Bytes>| wire(delay, move |message| drop(inbox.send(message)));
        let peers: Vec<Wire<Bytes>> = senders.into_iter().map(to).collect();
        let (report, reports) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (inbox, index) in inboxes.into_iter().zip(0_u16..) {
            let records = vec![Record::Identity(epoch.members[usize::from(index)].incarnation)];
            let signer = signer(index);
            let (replica, outputs) = Replica::start(epoch, Count(0), initial, records, &signer).expect("it starts");
            let mut host = Host {
                index,
                replica,
                signer,
                peers: peers.clone(),
                report: (index == 0).then(|| report.clone()),
                timers: BTreeMap::new(),
                records: Records::create(&folder.path().join(format!("replica-{index}"))),
            };
            host.set_timers(&outputs);
            host.carry_out(outputs);
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || host.run(&inbox, &stop)));
        }
        Self { primary, reports, stop, threads, _folder: folder }
    }
}

impl Group for Ours {
    fn submit(&self, request: Request) {
        let _ = self.primary.send(Message::Request(request).encode().into());
    }

    fn reports(&self) -> &Receiver<Report> {
        &self.reports
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("no replica panics"));
    }
}

/// The file of a replica's records.
struct Records {
    file: File,
    /// How long the last sync took.
    took: Duration,
}

impl Records {
    fn create(path: &Path) -> Self {
        let file = File::create(path).expect("the folder can be written to");
        Self { file, took: Duration::ZERO }
    }

    fn write(&mut self, changes: &[Sync]) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut appended = Vec::new();
        for change in changes {
            match change {
                Sync::Append(record) => appended.extend(record.encode()),
                // A host would write another file and rename it, which writes as much.
                Sync::Replace(records) => {
                    appended.clear();
                    self.file.set_len(0)?;
                    self.file.seek(SeekFrom::Start(0))?;
                    records.iter().for_each(|record| appended.extend(record.encode()));
                }
            }
        }
        self.file.write_all(&appended)?;
        let began = Instant::now();
        self.file.sync_data()?;
        self.took = began.elapsed();
        Ok(())
    }
}

struct Host {
    index: u16,
    replica: Replica<Count>,
    signer: Ed25519Signer,
    peers: Vec<Wire<Bytes>>,
    report: Option<Sender<Report>>,
    timers: BTreeMap<Timer, (Instant, TimerId)>,
    records: Records,
}

impl Host {
    /// Syncs, then sends, then reports.
    fn carry_out(&mut self, outputs: Outputs) {
        self.records.write(&outputs.sync).expect("the records can be written");
        for (to, message) in outputs.messages {
            let message = Bytes::from(message.encode());
            match to {
                To::All => {
                    let others = self.peers.iter().enumerate().filter(|(index, _)| *index != usize::from(self.index));
                    others.for_each(|(_, peer)| peer(message.clone()));
                }
                To::One(ReplicaId(index)) => self.peers[usize::from(index)](message),
            }
        }
        if let Some(report) = &self.report {
            outputs.decided.iter().for_each(|_| drop(report.send(Report::Decided)));
            outputs.outcomes.iter().for_each(|one| drop(report.send(Report::Done(one.client, one.id))));
        }
    }

    fn set_timers(&mut self, outputs: &Outputs) {
        for change in &outputs.timers {
            match *change {
                TimerChange::Set { id, after_ms, .. } => {
                    self.timers.insert(id.timer, (Instant::now() + Duration::from_millis(after_ms), id));
                }
                TimerChange::Cancel(timer) => {
                    self.timers.remove(&timer);
                }
            }
        }
    }

    fn step(&mut self, input: Input, outputs: &mut Outputs) {
        let step = self.replica.step(input, &self.signer);
        self.set_timers(&step);
        outputs.sync.extend(step.sync);
        outputs.messages.extend(step.messages);
        outputs.decided.extend(step.decided);
        outputs.outcomes.extend(step.outcomes);
    }

    /// Takes what arrived, if it is right and of use.
    fn take(&mut self, bytes: &[u8], outputs: &mut Outputs) {
        let message = Message::decode(bytes).expect("no replica writes what can't be read");
        if self.replica.wants(&message)
            && let Ok(message) = Verified::check(message, self.replica.epoch(), &Ed25519)
        {
            self.step(Input::Message(Box::new(message)), outputs);
        }
    }

    fn fire(&mut self, outputs: &mut Outputs) {
        let now = Instant::now();
        let due: Vec<TimerId> = self.timers.values().filter(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        for id in due {
            self.timers.remove(&id.timer);
            self.step(Input::Timer(id), outputs);
        }
    }

    fn run(mut self, inbox: &Receiver<Bytes>, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let due = self.timers.values().map(|(at, _)| *at).min();
            let wait = due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()));
            let mut outputs = Outputs::default();
            match inbox.recv_timeout(wait.min(LOOK)) {
                Ok(bytes) => {
                    let until = Instant::now() + self.records.took;
                    self.take(&bytes, &mut outputs);
                    for _ in 1..STEPS_PER_SYNC {
                        if Instant::now() >= until {
                            break;
                        }
                        let Ok(bytes) = inbox.try_recv() else { break };
                        self.take(&bytes, &mut outputs);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.fire(&mut outputs);
            self.carry_out(outputs);
        }
    }
}
