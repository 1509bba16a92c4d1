//! The network between the simulated machines, as TCP appears to its users: a connection is two streams of bytes that
//! arrive late, in order and complete while it lasts. Each machine has its own kernel, which accepts connections and
//! bytes whatever the process does: a paused process finds them all when it resumes. While a link is cut nothing
//! arrives; what was sent in the meantime is retransmitted when the link is repaired. A connection breaks only when a
//! fault breaks it.

mod socket;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use robeing_platform::{Random, simulated::SeededRandom};

pub use self::socket::{Port, Socket};
use crate::clients::below;

/// The number of bytes in one direction of a connection that were sent and not read, beyond which the sender waits.
const WINDOW: usize = 256 * 1024;
/// The largest number of bytes that are sent at once.
const MAX_SEGMENT: usize = 64 * 1024;
/// The shortest latency.
const MIN_LATENCY: Duration = Duration::from_micros(200);
/// The minimum additional latency of lost segments; the maximum is twice that.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// One of this many segments is lost while the network is lossy.
const LOST_ONE_OF: u64 = 100;
/// The time that a peer has to read delivered bytes before its connection breaks.
const BREAK_AFTER: Duration = Duration::from_millis(5);
/// The maximum delay of bytes sent on a broken connection: they may arrive behind what their sender has since sent on
/// another one.
const STRAYS_FOR: Duration = Duration::from_millis(1_500);

/// The number of a machine on the network.
pub type HostId = usize;
/// One end of a connection: 0 is the one that connected.
type End = usize;

enum Unit {
    Data(Bytes),
    Fin,
}

/// The bytes from one end to the other.
#[derive(Default)]
struct Way {
    flying: VecDeque<(Duration, Unit)>,
    arrived: VecDeque<Bytes>,
    /// The number of bytes that were sent and not read.
    unread: usize,
    /// Whether the sender has shut it down.
    shut: bool,
    /// Whether the reader's kernel has received that.
    finished: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The progress of opening a connection.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// The request is in transit and arrives at this time.
    Asking(Duration),
    /// The response is in transit and arrives at this time; the flag is whether anything listens.
    Answering(Duration, bool),
    Refused,
    Open,
}

struct Conn {
    hosts: [HostId; 2],
    port: u16,
    phase: Phase,
    opener: Option<Waker>,
    /// What each end sends.
    ways: [Way; 2],
    /// Whether a process holds this end.
    held: [bool; 2],
    /// When this end learns that the connection is gone.
    reset_at: [Option<Duration>; 2],
    reset: [bool; 2],
}

#[derive(Default)]
struct Listening {
    queue: VecDeque<u64>,
    waker: Option<Waker>,
}

struct State {
    now: Duration,
    random: SeededRandom,
    max_latency: Duration,
    names: Vec<String>,
    off: BTreeSet<HostId>,
    cut: BTreeSet<(HostId, HostId)>,
    slow: BTreeMap<(HostId, HostId), Duration>,
    lossy: bool,
    listeners: BTreeMap<(HostId, u16), Listening>,
    conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    trace: u32,
    /// Woken after the lock is released: dropping or waking a waker may run other code.
    woken: Vec<Waker>,
}

/// The network. Clones share it.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<State>>);

/// Returns the address of a port of a machine.
pub fn address(host: HostId, port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, host as u8 + 1), port))
}

impl State {
    fn latency(&mut self, from: HostId, to: HostId) -> Duration {
        let share = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        // Mostly short.
        let usual = MIN_LATENCY + self.max_latency.mul_f64(share * share * share);
        let extra = self.slow.get(&(from, to)).map_or(Duration::ZERO, |most| most.mul_f64(0.5 + share / 2.0));
        let lost = self.lossy && below(&self.random, LOST_ONE_OF) == 0;
        usual + extra + if lost { RETRANSMISSION.mul_f64(1.0 + share) } else { Duration::ZERO }
    }

    fn wake(&mut self, waker: Option<Waker>) {
        self.woken.extend(waker);
    }

    fn passes(&self, from: HostId, to: HostId) -> bool {
        !self.cut.contains(&(from, to)) && !self.off.contains(&to)
    }

    /// Delivers everything that is due on one connection.
    fn deliver(&mut self, id: u64, conn: &mut Conn) {
        self.open(id, conn);
        for end in [0, 1] {
            let (from, to) = (conn.hosts[end], conn.hosts[1 - end]);
            if !self.passes(from, to) {
                continue;
            }
            while conn.ways[end].flying.front().is_some_and(|(at, _)| *at <= self.now) {
                // A kernel that does not know the connection sends a reset.
                if !conn.held[1 - end] && conn.phase == Phase::Open {
                    conn.ways[end].flying.clear();
                    let learns = self.now + self.latency(to, from);
                    conn.reset_at[end].get_or_insert(learns);
                    break;
                }
                match conn.ways[end].flying.pop_front() {
                    Some((_, Unit::Data(data))) => conn.ways[end].arrived.push_back(data),
                    Some((_, Unit::Fin)) => conn.ways[end].finished = true,
                    None => {}
                }
                let reader = conn.ways[end].reader.take();
                self.wake(reader);
            }
            if conn.reset_at[1 - end].is_some_and(|at| at <= self.now) && !conn.reset[1 - end] {
                conn.reset[1 - end] = true;
                let (reader, writer) = (conn.ways[end].reader.take(), conn.ways[1 - end].writer.take());
                self.wake(reader);
                self.wake(writer);
            }
        }
    }

    /// Advances the opening of a connection.
    fn open(&mut self, id: u64, conn: &mut Conn) {
        let [from, to] = conn.hosts;
        match conn.phase {
            Phase::Asking(at) if at <= self.now && self.passes(from, to) => {
                let answered = self.now + self.latency(to, from);
                let listening = self.listeners.get_mut(&(to, conn.port));
                conn.phase = Phase::Answering(answered, listening.is_some());
                if let Some(listening) = listening {
                    listening.queue.push_back(id);
                    let waker = listening.waker.take();
                    self.wake(waker);
                    conn.held[1] = true;
                }
            }
            Phase::Answering(at, listens) if at <= self.now && self.passes(to, from) => {
                conn.phase = if listens { Phase::Open } else { Phase::Refused };
                let opener = conn.opener.take();
                self.wake(opener);
            }
            _ => {}
        }
    }

    /// Sends in one direction of a connection, behind what is already in transit.
    fn send(&mut self, id: u64, end: End, unit: Unit) {
        let Some(mut conn) = self.conns.remove(&id) else { return };
        let (content, len) = match &unit {
            Unit::Data(data) => (crc32c::crc32c(data), data.len()),
            Unit::Fin => (0, 0),
        };
        for part in [id, end as u64, u64::from(content), self.now.as_millis() as u64] {
            self.trace = crc32c::crc32c_append(self.trace, &part.to_le_bytes());
        }
        let (from, to) = (conn.hosts[end], conn.hosts[1 - end]);
        let way = &mut conn.ways[end];
        way.unread += len;
        let arrives = self.now + self.latency(from, to);
        let arrives = way.flying.back().map_or(arrives, |(before, _)| arrives.max(*before));
        way.flying.push_back((arrives, unit));
        self.conns.insert(id, conn);
    }

    /// Releases a process's end.
    fn let_go(&mut self, id: u64, end: End) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.held[end] = false;
        let (on, shut) = (!self.off.contains(&conn.hosts[end]), conn.ways[end].shut);
        if !conn.held[1 - end] {
            let gone = self.conns.remove(&id);
            for way in gone.into_iter().flat_map(|conn| conn.ways) {
                self.woken.extend(way.reader.into_iter().chain(way.writer));
            }
        } else if on && !shut {
            conn.ways[end].shut = true;
            self.send(id, end, Unit::Fin);
        }
    }
}

impl Wire {
    /// Creates a network of machines with these names, numbered from 0. `max_latency` is the longest latency while
    /// nothing is wrong.
    pub fn new(seed: u64, names: Vec<String>, max_latency: Duration) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: Duration::ZERO,
            random: SeededRandom::new(seed),
            max_latency,
            names,
            off: BTreeSet::new(),
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            lossy: false,
            listeners: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            trace: 0,
            woken: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of the machine with this name or IP address.
    pub fn host(&self, name: &str) -> Option<HostId> {
        let names = &self.state().names;
        let named = names.iter().position(|known| known == name);
        named.or_else(|| (0..names.len()).find(|host| address(*host, 0).ip().to_string() == name))
    }

    /// Delivers everything that is due at this time.
    pub fn step(&self, now: Duration) {
        let woken = {
            let mut state = self.state();
            state.now = now;
            let mut conns = std::mem::take(&mut state.conns);
            for (id, conn) in &mut conns {
                state.deliver(*id, conn);
            }
            state.conns = conns;
            std::mem::take(&mut state.woken)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Returns a checksum of everything that was sent, when, and by which end.
    pub fn trace(&self) -> u32 {
        self.state().trace
    }

    /// Cuts the link from one machine to another: nothing arrives.
    pub fn cut(&self, from: HostId, to: HostId) {
        self.state().cut.insert((from, to));
    }

    /// Repairs a link that was cut or slowed. What was sent while it was cut is retransmitted, a little later.
    pub fn mend(&self, from: HostId, to: HostId) {
        let mut state = self.state();
        state.slow.remove(&(from, to));
        if !state.cut.remove(&(from, to)) {
            return;
        }
        let State { now, random, conns, .. } = &mut *state;
        for conn in conns.values_mut() {
            for end in [0, 1] {
                if (conn.hosts[end], conn.hosts[1 - end]) == (from, to) {
                    let again = *now + Duration::from_micros(below(random, RETRANSMISSION.as_micros() as u64));
                    conn.ways[end].flying.iter_mut().for_each(|(at, _)| *at = again.max(*at));
                }
            }
        }
    }

    /// Slows everything from one machine to another, by up to `most`.
    pub fn slow(&self, from: HostId, to: HostId, most: Duration) {
        self.state().slow.insert((from, to), most);
    }

    /// Sets whether segments are occasionally lost and retransmitted.
    pub fn set_lossy(&self, lossy: bool) {
        self.state().lossy = lossy;
    }

    /// Turns a machine's power off or on: without power it receives and sends nothing, and afterwards it does not know
    /// its connections.
    pub fn set_off(&self, host: HostId, off: bool) {
        let mut state = self.state();
        if off {
            state.off.insert(host)
        } else {
            state.off.remove(&host)
        };
    }

    /// Breaks every connection between two machines, as when a device between them forgets it. What the connecting end
    /// has sent is delivered before the break, or not at all, or long after that end knows of the break, so that it
    /// arrives behind what was sent again; what the other end sent is lost.
    pub fn break_all(&self, a: HostId, b: HostId) {
        let mut state = self.state();
        let State { now, random, conns, .. } = &mut *state;
        for conn in conns.values_mut().filter(|conn| conn.phase == Phase::Open) {
            if conn.hosts != [a, b] && conn.hosts != [b, a] {
                continue;
            }
            let arrives = match below(random, 3) {
                0 => Some(*now),
                1 => Some(*now + Duration::from_micros(below(random, STRAYS_FOR.as_micros() as u64))),
                _ => None,
            };
            match arrives {
                Some(arrives) => conn.ways[0].flying.iter_mut().for_each(|(at, _)| *at = arrives),
                None => conn.ways[0].flying.clear(),
            }
            conn.ways[1].flying.clear();
            conn.reset_at = [Some(*now + BREAK_AFTER), Some(arrives.unwrap_or(*now) + BREAK_AFTER)];
        }
    }

    /// Connects to a port of a machine. Waits until there is a response.
    pub async fn connect(&self, from: HostId, to: HostId, port: u16) -> io::Result<Socket> {
        let id = {
            let mut state = self.state();
            let arrives = state.now + state.latency(from, to);
            let id = state.next_conn;
            state.next_conn += 1;
            let conn = Conn {
                hosts: [from, to],
                port,
                phase: Phase::Asking(arrives),
                opener: None,
                ways: Default::default(),
                held: [true, false],
                reset_at: [None; 2],
                reset: [false; 2],
            };
            state.conns.insert(id, conn);
            id
        };
        // Releases the connection if this is dropped before there is a response.
        let socket = Socket { wire: self.clone(), conn: id, end: 0 };
        std::future::poll_fn(|cx| self.poll_opened(id, cx)).await?;
        Ok(socket)
    }

    fn poll_opened(&self, id: u64, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        let Some(conn) = state.conns.get_mut(&id) else { return Poll::Ready(Err(reset())) };
        match conn.phase {
            Phase::Open => Poll::Ready(Ok(())),
            Phase::Refused => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there")))
            }
            Phase::Asking(_) | Phase::Answering(..) => {
                let before = conn.opener.replace(cx.waker().clone());
                drop(state);
                drop(before);
                Poll::Pending
            }
        }
    }

    /// Listens on a port of a machine.
    pub fn listen(&self, host: HostId, port: u16) -> io::Result<Port> {
        let mut state = self.state();
        if state.listeners.contains_key(&(host, port)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.listeners.insert((host, port), Listening::default());
        Ok(Port { wire: self.clone(), host, port })
    }
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the simulated connection broke")
}

#[cfg(test)]
mod tests;
