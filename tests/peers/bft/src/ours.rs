//! A group of robeing-bft: a thread for each replica, and channels of encoded messages between them. Each replica
//! writes its records to a file, and syncs it before it sends anything.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Seek, SeekFrom, Write},
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

use crate::common::{Count, Group, Report, signer};

/// How long a replica waits at once, so that it notices the end.
const LOOK: Duration = Duration::from_millis(50);

/// A group of robeing-bft.
pub struct Ours {
    primary: Sender<Bytes>,
    reports: Receiver<Report>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _folder: TempDir,
}

impl Ours {
    /// Starts a group whose replicas have their files in this folder.
    pub fn start(epoch: &Epoch, initial: &State, folder: TempDir) -> Self {
        let members = u16::try_from(epoch.members.len()).expect("groups are small");
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..members).map(|_| channel()).unzip();
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
                peers: senders.clone(),
                report: (index == 0).then(|| report.clone()),
                timers: BTreeMap::new(),
                records: Records::create(&folder.path().join(format!("replica-{index}"))),
            };
            host.carry_out(outputs);
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || host.run(&inbox, &stop)));
        }
        Self { primary: senders[0].clone(), reports, stop, threads, _folder: folder }
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
struct Records(File);

impl Records {
    fn create(path: &Path) -> Self {
        Self(File::create(path).expect("the folder can be written to"))
    }

    fn write(&mut self, changes: &[Sync]) -> std::io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        for change in changes {
            match change {
                Sync::Append(record) => self.0.write_all(&record.encode())?,
                // A host would write another file and rename it; this costs no less.
                Sync::Replace(records) => {
                    self.0.set_len(0)?;
                    self.0.seek(SeekFrom::Start(0))?;
                    records.iter().try_for_each(|record| self.0.write_all(&record.encode()))?;
                }
            }
        }
        self.0.sync_data()
    }
}

struct Host {
    index: u16,
    replica: Replica<Count>,
    signer: Ed25519Signer,
    peers: Vec<Sender<Bytes>>,
    report: Option<Sender<Report>>,
    timers: BTreeMap<Timer, (Instant, TimerId)>,
    records: Records,
}

impl Host {
    fn carry_out(&mut self, outputs: Outputs) {
        self.records.write(&outputs.sync).expect("the records can be written");
        for (to, message) in outputs.messages {
            let message = Bytes::from(message.encode());
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

    /// Returns what arrived, if it is right and of use.
    fn checked(&self, bytes: &[u8]) -> Option<Input> {
        let message = Message::decode(bytes).expect("no replica writes what can't be read");
        if !self.replica.wants(&message) {
            return None;
        }
        Verified::check(message, self.replica.epoch(), &Ed25519).ok().map(Box::new).map(Input::Message)
    }

    fn fired(&mut self) -> Option<Input> {
        let fired = self.timers.values().find(|(at, _)| *at <= Instant::now()).map(|(_, id)| *id)?;
        self.timers.remove(&fired.timer);
        Some(Input::Timer(fired))
    }

    fn run(mut self, inbox: &Receiver<Bytes>, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let due = self.timers.values().map(|(at, _)| *at).min();
            let wait = due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()));
            let input = match inbox.recv_timeout(wait.min(LOOK)) {
                Ok(bytes) => self.checked(&bytes),
                Err(RecvTimeoutError::Timeout) => self.fired(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(input) = input {
                let outputs = self.replica.step(input, &self.signer);
                self.carry_out(outputs);
            }
        }
    }
}
