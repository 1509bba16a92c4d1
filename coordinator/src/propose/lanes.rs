//! Defines the order in which waiting commands go into the log. Pure: it knows nothing of consensus, time or tasks.
//!
//! There are three lanes. Commands that keep the fleet consistent (losses, joins, ticks) come first, completions of
//! attempts second, users' commands last, with a share of each entry that completions can't take. Within a lane the
//! senders take turns by bytes (deficit round robin), so a sender of many bytes does not delay the others.

use std::collections::{BTreeMap, VecDeque};

use robeing_fleet::{
    AgentCommand, AuditCommand, BallotCommand, Command, ControlCommand, IdentityCommand, MailCommand, PolicyCommand,
    PoolCommand, TaskCommand,
};
use robeing_proto::internal::v1 as internal;

/// Bytes that a sender may send in one turn. A larger request waits until the unused bytes of several turns add up.
const QUANTUM: usize = 64 * 1024;
/// Number of consecutive entries without users' commands, while some wait, after which the next entry gives them
/// priority over completions.
const MAX_PASSED_OVER: u32 = 3;

/// The priority class that a command waits in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// What keeps the fleet consistent: joins, losses, drains, health, ticks, settings, and who may be in the fleet.
    Fleet,
    /// Completions of attempts, which free slots, and answers to durable messages, which free their room.
    Completions,
    /// Users' commands: submissions, cancellations, durable messages, ballots and votes; and records of the audit log: of
    /// refused calls, and of what an administrator is given.
    Users,
}

impl Lane {
    /// All lanes, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Fleet, Self::Completions, Self::Users];

    /// Returns the lane of this command.
    pub fn of(command: &Command) -> Self {
        match command {
            Command::Task(TaskCommand::Submit(_))
            | Command::Task(TaskCommand::Cancel { .. })
            | Command::Mail(MailCommand::Post(_))
            | Command::Ballot(BallotCommand::Open(_) | BallotCommand::Cast(_))
            | Command::Audit(AuditCommand::Record(_)) => Self::Users,
            Command::Task(TaskCommand::Complete(_)) | Command::Mail(MailCommand::Settle { .. }) => Self::Completions,
            Command::Agent(AgentCommand::Joined(_))
            | Command::Agent(AgentCommand::Lost { .. } | AgentCommand::Draining { .. })
            | Command::Agent(AgentCommand::Left { .. })
            | Command::Agent(AgentCommand::Unhealthy { .. })
            | Command::Agent(AgentCommand::Healthy { .. } | AgentCommand::Describe { .. })
            | Command::Control(ControlCommand::Tick)
            | Command::Control(ControlCommand::Configure(_))
            | Command::Control(ControlCommand::RaiseVersion(_))
            | Command::Pool(PoolCommand::Set(_))
            | Command::Policy(PolicyCommand::Set { .. })
            | Command::Identity(IdentityCommand::Configure(_))
            | Command::Identity(IdentityCommand::Enrol(_))
            | Command::Identity(IdentityCommand::Bar { .. })
            | Command::Identity(IdentityCommand::Release { .. }) => Self::Fleet,
        }
    }

    /// Bytes of commands that may wait or be in flight at once, for all senders together.
    pub const fn room(self) -> usize {
        match self {
            Self::Fleet => 4 * 1024 * 1024,
            Self::Completions | Self::Users => 32 * 1024 * 1024,
        }
    }
}

impl From<internal::Lane> for Lane {
    fn from(lane: internal::Lane) -> Self {
        match lane {
            internal::Lane::Fleet => Self::Fleet,
            internal::Lane::Completions => Self::Completions,
            internal::Lane::Users | internal::Lane::Unspecified => Self::Users,
        }
    }
}

impl From<Lane> for internal::Lane {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Fleet => Self::Fleet,
            Lane::Completions => Self::Completions,
            Lane::Users => Self::Users,
        }
    }
}

/// A sender: a stream, a session, or another coordinator on behalf of several senders.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Sender {
    /// Distinguishes senders.
    pub id: u64,
    /// The number of senders it stands for, at least 1: it may send as many times the bytes in each turn.
    pub weight: u32,
}

/// A waiting request.
pub trait Waiting {
    /// Returns its sender.
    fn sender(&self) -> Sender;
    /// Returns the bytes of its commands.
    fn bytes(&self) -> usize;
    /// Returns the number of its commands.
    fn commands(&self) -> usize;
}

/// The limits of one entry.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Maximum bytes of commands. A single larger request gets an entry of its own.
    pub bytes: usize,
    /// Maximum number of commands, with the same exception.
    pub commands: usize,
}

impl Room {
    fn holds(&self, bytes: usize, commands: usize) -> bool {
        bytes <= self.bytes && commands <= self.commands
    }

    /// Returns these limits reduced by `1 / parts`.
    fn without_one_of(self, parts: usize) -> Self {
        Self { bytes: self.bytes - self.bytes / parts, commands: self.commands - self.commands / parts }
    }
}

/// The requests for one entry.
pub struct Batch<T> {
    /// The requests, in the order in which they go into the log.
    pub requests: Vec<T>,
    /// Bytes of their commands.
    pub bytes: usize,
    commands: usize,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { requests: Vec::new(), bytes: 0, commands: 0 }
    }
}

struct Queue<T> {
    waiting: VecDeque<T>,
    /// Bytes it may send before the next sender's turn.
    credit: usize,
}

/// The senders of one lane and the order of their turns.
struct Turns<T> {
    queues: BTreeMap<u64, Queue<T>>,
    order: VecDeque<u64>,
    /// Requests in all queues. Empty queues are removed when their turn comes.
    waiting: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { queues: BTreeMap::new(), order: VecDeque::new(), waiting: 0 }
    }
}

fn quantum(sender: Sender) -> usize {
    QUANTUM.saturating_mul(sender.weight.max(1) as usize)
}

impl<T: Waiting> Turns<T> {
    /// Returns the queue of a sender and counts the request that the caller is about to put into it.
    fn grown(&mut self, sender: Sender) -> &mut VecDeque<T> {
        self.waiting += 1;
        let order = &mut self.order;
        let queue = self.queues.entry(sender.id).or_insert_with(|| {
            order.push_back(sender.id);
            Queue { waiting: VecDeque::new(), credit: quantum(sender) }
        });
        &mut queue.waiting
    }

    /// Moves requests into the batch until it is full or the lane is empty. Returns whether it is full.
    fn fill(&mut self, batch: &mut Batch<T>, room: Room) -> bool {
        while let Some(id) = self.order.front() {
            let Some(queue) = self.queues.get_mut(id) else {
                self.order.pop_front();
                continue;
            };
            let Some(next) = queue.waiting.front() else {
                self.queues.remove(id);
                self.order.pop_front();
                continue;
            };
            let (bytes, commands) = (batch.bytes.saturating_add(next.bytes()), batch.commands + next.commands());
            if next.bytes() > queue.credit {
                queue.credit = queue.credit.saturating_add(quantum(next.sender()));
                self.order.rotate_left(1);
                continue;
            }
            if !room.holds(bytes, commands) && !batch.requests.is_empty() {
                return true;
            }
            queue.credit -= next.bytes();
            self.waiting -= 1;
            batch.requests.extend(queue.waiting.pop_front());
            (batch.bytes, batch.commands) = (bytes, commands);
        }
        false
    }
}

/// All waiting requests.
pub struct Lanes<T> {
    lanes: [Turns<T>; 3],
    passed_over: u32,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: Default::default(), passed_over: 0 }
    }
}

impl<T: Waiting> Lanes<T> {
    fn lane(&mut self, lane: Lane) -> &mut Turns<T> {
        &mut self.lanes[lane as usize]
    }

    /// Appends a request to its sender's queue.
    pub fn push(&mut self, lane: Lane, request: T) {
        self.lane(lane).grown(request.sender()).push_back(request);
    }

    /// Puts a request back to the front of its sender's queue. Put several back in reverse order.
    pub fn put_back(&mut self, lane: Lane, request: T) {
        self.lane(lane).grown(request.sender()).push_front(request);
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        Lane::ALL.into_iter().all(|lane| self.is_lane_empty(lane))
    }

    /// Whether no request waits in this lane.
    pub fn is_lane_empty(&self, lane: Lane) -> bool {
        self.lanes[lane as usize].waiting == 0
    }

    /// Removes requests from the front of each sender's queue while `unwanted` holds, and passes them to `dropped`.
    pub fn drop_oldest(&mut self, mut unwanted: impl FnMut(&T) -> bool, mut dropped: impl FnMut(T)) {
        for turns in &mut self.lanes {
            for queue in turns.queues.values_mut() {
                let oldest = queue.waiting.iter().take_while(|request| unwanted(request)).count();
                turns.waiting -= oldest;
                queue.waiting.drain(..oldest).for_each(&mut dropped);
            }
        }
    }

    /// Removes and returns all requests for which `wanted` holds.
    pub fn extract(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut extracted = Vec::new();
        for turns in &mut self.lanes {
            for queue in turns.queues.values_mut() {
                let (out, keep): (VecDeque<T>, VecDeque<T>) = queue.waiting.drain(..).partition(&mut wanted);
                queue.waiting = keep;
                turns.waiting -= out.len();
                extracted.extend(out);
            }
        }
        extracted
    }

    /// Whether enough entries have gone without users' commands while some waited.
    fn users_first(&self) -> bool {
        self.passed_over >= MAX_PASSED_OVER && !self.is_lane_empty(Lane::Users)
    }

    fn note_turn(&mut self, users_waited: bool, users_went: bool) {
        self.passed_over = if users_waited && !users_went { self.passed_over + 1 } else { 0 };
    }

    /// Returns the requests of the next entry, from all lanes.
    pub fn next_batch(&mut self, room: Room) -> Batch<T> {
        let mut batch = Batch::default();
        let (users_waited, users_first) = (!self.is_lane_empty(Lane::Users), self.users_first());
        self.lane(Lane::Fleet).fill(&mut batch, room);
        if users_first {
            self.lane(Lane::Users).fill(&mut batch, room);
        }
        let limited = if users_waited { room.without_one_of(4) } else { room };
        self.lane(Lane::Completions).fill(&mut batch, limited);
        let before = batch.requests.len();
        self.lane(Lane::Users).fill(&mut batch, room);
        let users_went = users_first || batch.requests.len() > before;
        self.note_turn(users_waited, users_went);
        batch
    }

    /// Returns the next requests of one lane: the most urgent one that is not empty, or the users' lane when it was
    /// passed over too often by completions.
    pub fn next_of_one_lane(&mut self, room: Room) -> (Lane, Batch<T>) {
        let users_waited = !self.is_lane_empty(Lane::Users);
        let lane = match Lane::ALL.into_iter().find(|lane| !self.is_lane_empty(*lane)) {
            Some(Lane::Completions) if self.users_first() => Lane::Users,
            lane => lane.unwrap_or(Lane::Users),
        };
        let mut batch = Batch::default();
        self.lane(lane).fill(&mut batch, room);
        self.note_turn(users_waited, lane == Lane::Users);
        (lane, batch)
    }

    /// Returns the next requests of the most urgent lane only; empty if none wait there.
    pub fn next_urgent(&mut self, room: Room) -> Batch<T> {
        let mut batch = Batch::default();
        self.lane(Lane::Fleet).fill(&mut batch, room);
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { bytes: 1_000_000, commands: 100 };

    #[derive(Debug, PartialEq)]
    struct Request {
        sender: u64,
        weight: u32,
        bytes: usize,
    }

    impl Waiting for Request {
        fn sender(&self) -> Sender {
            Sender { id: self.sender, weight: self.weight }
        }

        fn bytes(&self) -> usize {
            self.bytes
        }

        fn commands(&self) -> usize {
            1
        }
    }

    fn request(sender: u64, bytes: usize) -> Request {
        Request { sender, weight: 1, bytes }
    }

    fn senders(batch: &Batch<Request>) -> Vec<u64> {
        batch.requests.iter().map(|request| request.sender).collect()
    }

    #[test]
    fn what_keeps_the_fleet_whole_goes_first_and_users_last() {
        let mut lanes = Lanes::default();
        lanes.push(Lane::Users, request(1, 10));
        lanes.push(Lane::Completions, request(2, 10));
        lanes.push(Lane::Fleet, request(3, 10));
        assert_eq!(senders(&lanes.next_batch(ROOM)), [3, 2, 1]);
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_loss_goes_with_the_next_entry_however_much_waits() {
        let mut lanes = Lanes::default();
        for sender in 0..100 {
            lanes.push(Lane::Users, request(sender, ROOM.bytes));
            lanes.push(Lane::Completions, request(sender, ROOM.bytes));
        }
        lanes.next_batch(ROOM);
        lanes.push(Lane::Fleet, request(777, 10));
        assert_eq!(senders(&lanes.next_urgent(ROOM)), [777], "beside the entries in flight");
        lanes.push(Lane::Fleet, request(777, 10));
        assert_eq!(senders(&lanes.next_batch(ROOM))[0], 777);
        lanes.push(Lane::Fleet, request(777, 10));
        let (lane, batch) = lanes.next_of_one_lane(ROOM);
        assert_eq!((lane, senders(&batch)), (Lane::Fleet, vec![777]));
    }

    #[test]
    fn one_who_sends_much_delays_nobody_who_sends_little() {
        let mut lanes = Lanes::default();
        for _ in 0..50 {
            lanes.push(Lane::Users, request(1, 900_000));
        }
        lanes.push(Lane::Users, request(2, 100));
        lanes.push(Lane::Users, request(3, 100));
        let first = senders(&lanes.next_batch(ROOM));
        assert_eq!(first, [2, 3, 1], "the small ones did not wait behind fifty large ones");
    }

    #[test]
    fn senders_take_turns_by_bytes() {
        let mut lanes = Lanes::default();
        for _ in 0..40 {
            lanes.push(Lane::Users, request(1, 400_000));
        }
        for _ in 0..400 {
            lanes.push(Lane::Users, request(2, 40_000));
        }
        let mut sent = [0; 3];
        for _ in 0..12 {
            for request in lanes.next_batch(ROOM).requests {
                sent[request.sender as usize] += request.bytes;
            }
        }
        let [_, large, small] = sent;
        assert!(large.abs_diff(small) <= 1_000_000, "{large} bytes went for one, {small} for the other");
    }

    #[test]
    fn a_coordinator_that_stands_for_several_has_as_many_turns() {
        let mut lanes = Lanes::default();
        for _ in 0..400 {
            lanes.push(Lane::Users, Request { weight: 3, ..request(1, 50_000) });
            lanes.push(Lane::Users, request(2, 50_000));
        }
        let mut sent = [0_usize; 3];
        for _ in 0..10 {
            for request in lanes.next_batch(ROOM).requests {
                sent[request.sender as usize] += 1;
            }
        }
        assert!(sent[1] >= sent[2] * 5 / 2 && sent[1] <= sent[2] * 7 / 2, "{sent:?}");
    }

    #[test]
    fn an_entry_ends_at_its_limits_and_a_larger_request_goes_alone() {
        let mut lanes = Lanes::default();
        for bytes in [ROOM.bytes + 1, ROOM.bytes, 1] {
            lanes.push(Lane::Users, request(1, bytes));
        }
        assert_eq!(lanes.next_batch(ROOM).bytes, ROOM.bytes + 1);
        assert_eq!(lanes.next_batch(ROOM).bytes, ROOM.bytes);
        assert_eq!(lanes.next_batch(ROOM).bytes, 1);
        for _ in 0..=ROOM.commands {
            lanes.push(Lane::Users, request(1, 1));
        }
        assert_eq!(lanes.next_batch(ROOM).requests.len(), ROOM.commands);
        assert_eq!(lanes.next_batch(ROOM).requests.len(), 1);
        assert!(lanes.next_batch(ROOM).requests.is_empty());
    }

    #[test]
    fn users_are_not_starved_by_the_ends_of_attempts() {
        for one_lane in [false, true] {
            let mut lanes = Lanes::default();
            for _ in 0..20 {
                lanes.push(Lane::Completions, request(1, ROOM.bytes));
            }
            lanes.push(Lane::Users, request(2, ROOM.bytes));
            let went = (1..).find(|_| {
                let batch = if one_lane { lanes.next_of_one_lane(ROOM).1 } else { lanes.next_batch(ROOM) };
                senders(&batch).contains(&2)
            });
            assert_eq!(went, Some(MAX_PASSED_OVER + 1), "one lane at once: {one_lane}");
        }
        let mut lanes = Lanes::default();
        for _ in 0..200 {
            lanes.push(Lane::Completions, request(1, 10_000));
            lanes.push(Lane::Users, request(2, 10_000));
        }
        let batch = senders(&lanes.next_batch(ROOM));
        assert_eq!(batch.iter().filter(|sender| **sender == 2).count(), 25, "their share of an entry");
    }

    #[test]
    fn what_is_put_back_goes_first_in_its_old_order() {
        let mut lanes = Lanes::default();
        for bytes in 1..=4 {
            lanes.push(Lane::Users, request(1, bytes));
        }
        let batch = lanes.next_batch(Room { commands: 2, ..ROOM });
        for request in batch.requests.into_iter().rev() {
            lanes.put_back(Lane::Users, request);
        }
        let again: Vec<usize> = lanes.next_batch(ROOM).requests.iter().map(|request| request.bytes).collect();
        assert_eq!(again, [1, 2, 3, 4]);
    }

    #[test]
    fn what_nobody_wants_any_more_is_dropped_and_what_is_extracted_is_gone() {
        let mut lanes = Lanes::default();
        for bytes in 1..=4 {
            lanes.push(Lane::Users, request(1, bytes));
            lanes.push(Lane::Fleet, request(2, bytes));
        }
        let mut dropped = Vec::new();
        lanes.drop_oldest(|request| request.sender == 1 && request.bytes < 3, |request| dropped.push(request));
        assert_eq!(dropped, [request(1, 1), request(1, 2)]);
        assert_eq!(lanes.extract(|request| request.sender == 2).len(), 4);
        assert!(lanes.is_lane_empty(Lane::Fleet));
        assert_eq!(senders(&lanes.next_batch(ROOM)), [1, 1]);
        assert!(lanes.is_empty());
    }
}
