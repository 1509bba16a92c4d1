//! What both groups have in common: signed requests of clients, and the load.

use std::{
    collections::BTreeMap,
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use bytes::Bytes;
use robeing_bft::{
    application::Application,
    certificate::Seq,
    crypto::{Ed25519Signer, PublicKey, Signer},
    epoch::{Epoch, Incarnation, Member, Membership, Parameters},
    limits::MAX_PENDING_PER_CLIENT,
    message::{Operation, Request},
    state::State,
};

/// Number of clients.
const CLIENTS: u16 = 32;
/// Number of requests that wait for their decisions if each decision is one request.
const OUTSTANDING: usize = 16;
/// How long a group may take for the next decision.
const PATIENCE: Duration = Duration::from_secs(20);

/// The application of both groups: it counts.
#[derive(Clone)]
pub struct Count(pub u64);

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

/// Returns the key of a member or client.
pub fn signer(number: u16) -> Ed25519Signer {
    let mut seed = [5; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    Ed25519Signer::from_seed(&seed).expect("a seed of 32 bytes")
}

fn client(number: u16) -> Ed25519Signer {
    signer(1_000 + number)
}

/// Returns the epoch of a group, against which requests are checked, and its first state.
pub fn group(members: u16, batch_requests: u32) -> (Epoch, State) {
    let member = |number: u16| Member {
        name: format!("agent-{number}"),
        incarnation: Incarnation(u128::from(number).to_be_bytes()),
        key: signer(number).public_key(),
    };
    let mut clients: Vec<PublicKey> = (0..CLIENTS).map(|number| client(number).public_key()).collect();
    clients.sort();
    let parameters = Parameters { batch_requests, view_timeout_ms: 60_000, ..Parameters::default() };
    let (fleet, group) = ("fleet".to_owned(), "group".to_owned());
    let members = (0..members).map(member).collect();
    let membership = Membership { fleet, group, number: 0, members, clients, parameters };
    let initial = State::genesis(&Count(0)).expect("the state is small");
    (Epoch::first(membership, &initial).expect("the membership is allowed"), initial)
}

/// What a group reports of its decisions.
pub enum Report {
    /// A batch is decided.
    Decided,
    /// A request of it: whose, and its id.
    Done(PublicKey, u64),
}

/// A group that decides requests. Dropping it ends its threads.
pub trait Group {
    /// Gives the group a request.
    fn submit(&self, request: Request);

    /// Returns where the group reports what it has decided.
    fn reports(&self) -> &Receiver<Report>;
}

/// What was measured of a group in one round.
#[derive(Clone, Copy)]
pub struct Sample {
    /// Decided batches per second.
    pub decisions_per_s: f64,
    /// Decided requests per second.
    pub requests_per_s: f64,
    /// The median time from a request's submission to its decision, in milliseconds.
    pub p50_ms: f64,
    /// The time within which 99 of 100 requests are decided, in milliseconds.
    pub p99_ms: f64,
}

/// Returns how many requests are kept waiting for their decisions, for batches of this size.
pub fn outstanding(batch: u32) -> usize {
    if batch == 1 { OUTSTANDING } else { usize::from(CLIENTS) * MAX_PENDING_PER_CLIENT }
}

/// Keeps requests with calls of so many bytes outstanding, and measures a group for some time, after a tenth of that as
/// warm-up.
pub fn drive(epoch: &Epoch, group: &dyn Group, batch: u32, call_bytes: usize, time: Duration) -> Sample {
    let signers: Vec<Ed25519Signer> = (0..CLIENTS).map(client).collect();
    let index: BTreeMap<PublicKey, usize> = signers.iter().map(Signer::public_key).zip(0..).collect();
    let mut ids = vec![0_u64; signers.len()];
    let mut sent: BTreeMap<(usize, u64), Instant> = BTreeMap::new();
    let call = Bytes::from(vec![7; call_bytes]);
    let mut submit = |client: usize, sent: &mut BTreeMap<(usize, u64), Instant>| {
        ids[client] += 1;
        let request = Request::sign(epoch, ids[client], Operation::Call(call.clone()), &signers[client]);
        sent.insert((client, ids[client]), Instant::now());
        group.submit(request);
    };
    (0..outstanding(batch)).for_each(|number| submit(number % usize::from(CLIENTS), &mut sent));
    let counted_from = Instant::now() + time / 10;
    let (mut decisions, mut latencies) = (0_u64, Vec::new());
    while counted_from.elapsed() < time {
        let report = group.reports().recv_timeout(PATIENCE).expect("the group decides");
        let counts = Instant::now() >= counted_from;
        match report {
            Report::Decided => decisions += u64::from(counts),
            Report::Done(client, id) => {
                let client = index[&client];
                if let Some(at) = sent.remove(&(client, id)) {
                    if counts {
                        latencies.push(at.elapsed());
                    }
                    submit(client, &mut sent);
                }
            }
        }
    }
    let seconds = counted_from.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let part = |hundredths: usize| latencies.get(latencies.len() * hundredths / 100);
    let milliseconds = |hundredths| part(hundredths).map_or(0.0, |latency| latency.as_secs_f64() * 1e3);
    Sample {
        decisions_per_s: decisions as f64 / seconds,
        requests_per_s: latencies.len() as f64 / seconds,
        p50_ms: milliseconds(50),
        p99_ms: milliseconds(99),
    }
}
