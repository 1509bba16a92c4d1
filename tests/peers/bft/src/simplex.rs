//! A group of commonware's simplex, on its own runtime, with ed25519 signatures, and wires between the replicas. Its
//! journals are in a folder like the records of robeing-bft.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use commonware_consensus::{
    simplex::{
        Config as EngineConfig, Engine, Floor, ForwardPolicy, SkipPolicy, elector::RoundRobin, scheme::ed25519::Scheme,
    },
    types::{Epoch as EngineEpoch, TermLength, ViewDelta},
};
use commonware_cryptography::{
    Hasher as _, Sha256, Signer as _,
    ed25519::{PrivateKey, PublicKey},
};
use commonware_parallel::Sequential;
use commonware_runtime::{
    Runner as _, Supervisor as _,
    buffer::paged::CacheRef,
    tokio::{Config as RuntimeConfig, Context as Runtime, Runner},
};
use commonware_utils::{NZDuration, NZU16, NZU32, NZUsize, channel::oneshot, ordered::Set};
use robeing_bft::{
    epoch::{Epoch, Parameters},
    message::Request,
};
use tempfile::TempDir;

use crate::{
    application::{Replica, Shared},
    common::{Group, Report},
    network::{NoBlocks, connect},
};

const NAMESPACE: &[u8] = b"robeing-bft-peers";
/// Longer than anything takes while nobody fails, so that no view is skipped.
const LEADER_TIMEOUT: Duration = Duration::from_secs(20);
const CERTIFICATION_TIMEOUT: Duration = Duration::from_secs(30);
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Who leads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leader {
    /// Another replica in each view, as simplex does by default. Each proposal waits for the one before it.
    Rotating,
    /// One replica, which proposes as many batches at once as the primary of robeing-bft.
    Stable,
}

impl Leader {
    fn elector(self) -> RoundRobin<Sha256> {
        match self {
            Self::Rotating => RoundRobin::default(),
            Self::Stable => {
                let ahead = ViewDelta::new(Parameters::default().in_flight);
                // Longer than any run.
                RoundRobin::default().with_term(TermLength::new(NZU32!(100_000_000)), STALL_TIMEOUT, ahead)
            }
        }
    }
}

/// A group of simplex.
pub struct Simplex {
    shared: Arc<Shared>,
    reports: Receiver<Report>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Simplex {
    /// Starts a group whose replicas have their files in this folder, and whose messages take this long. It has as many
    /// members as the epoch, against which requests are checked.
    pub fn start(epoch: Epoch, batch: u32, leader: Leader, folder: TempDir, delay: Duration) -> Self {
        let (report, reports) = channel();
        let members = epoch.members.len() as u64;
        let shared = Arc::new(Shared::new(epoch, batch, report, folder.path(), delay));
        let (stop, stopped) = oneshot::channel();
        let state = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let config = RuntimeConfig::new().with_worker_threads(workers).with_storage_directory(folder.path());
            Runner::new(config).start(|runtime| async move {
                start_replicas(&runtime, members, leader, delay, &state);
                let _ = stopped.await;
            });
        });
        Self { shared, reports, stop: Some(stop), thread: Some(thread) }
    }
}

impl Group for Simplex {
    fn submit(&self, request: Request) {
        self.shared.submit(request);
    }

    fn reports(&self) -> &Receiver<Report> {
        &self.reports
    }
}

impl Drop for Simplex {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no replica panics");
        }
    }
}

fn start_replicas(runtime: &Runtime, members: u64, leader: Leader, delay: Duration, shared: &Arc<Shared>) {
    let mut keys: Vec<PrivateKey> = (0..members).map(PrivateKey::from_seed).collect();
    keys.sort_by_key(|key| key.public_key());
    let public: Vec<PublicKey> = keys.iter().map(|key| key.public_key()).collect();
    let set = Set::from_iter_dedup(public.iter().cloned());
    let connect = || connect(&public, delay);
    let ends = connect().into_iter().zip(connect()).zip(connect());
    for (me, (key, ((votes, certificates), fetches))) in keys.into_iter().zip(ends).enumerate() {
        let replica = Replica { shared: Arc::clone(shared), me };
        let config = EngineConfig {
            scheme: Scheme::signer(NAMESPACE, set.clone(), key).expect("it is a member"),
            elector: leader.elector(),
            blocker: NoBlocks::default(),
            automaton: replica.clone(),
            relay: replica.clone(),
            reporter: replica,
            track_historical_votes: false,
            strategy: Sequential,
            partition: format!("replica-{me}"),
            mailbox_size: NZUsize!(1024),
            epoch: EngineEpoch::new(0),
            floor: Floor::Genesis(Sha256::hash(&[NAMESPACE])),
            replay_buffer: NZUsize!(1_048_576),
            write_buffer: NZUsize!(1_048_576),
            page_cache: CacheRef::new(NZU16!(4096), NZUsize!(64)),
            leader_timeout: LEADER_TIMEOUT,
            certification_timeout: CERTIFICATION_TIMEOUT,
            timeout_retry: Duration::from_secs(10),
            view_retention: ViewDelta::new(64),
            skip: SkipPolicy::Disabled,
            fetch_timeout: NZDuration!(Duration::from_secs(1)),
            fetch_retry_delay: Duration::from_millis(100),
            forward: ForwardPolicy::Disabled,
        };
        let context = runtime.child("replica").with_attribute("index", me);
        // It runs until the runtime ends.
        drop(Engine::new(context.child("engine"), config).start(votes, certificates, fetches));
    }
}
