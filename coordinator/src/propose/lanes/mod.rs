//! Defines the order in which waiting commands go into the log. Pure: it knows nothing of consensus, time or tasks.
//!
//! There are three lanes. Commands that keep the fleet consistent (losses, joins, ticks) come first, completions of
//! attempts second, users' commands last, with a share of each entry that completions can't take. Within a lane the
//! senders take turns by bytes (deficit round robin), so a sender of many bytes does not delay the others.

use std::collections::{BTreeMap, VecDeque};

use robeing_fleet::{
    AgentCommand, AuditCommand, BallotCommand, Command, ControlCommand, IdentityCommand, KindCommand, MailCommand,
    PolicyCommand, PoolCommand, QueueCommand, ResourceCommand, ScheduleCommand, TaskCommand, TeamCommand,
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
    /// What keeps the fleet consistent: joins, losses, stalls, drains, health, ticks, settings, and who may be in it; and
    /// the firings of schedules, which are few and due at a moment.
    Fleet,
    /// Completions, which free slots; answers to durable messages, and releases and renewals of resources.
    Completions,
    /// Users' commands: submissions, cancellations, what is done with dead letters, durable messages, ballots, votes,
    /// teams with their paths, requests for resources, and schedules as they are set; and audit records of refused calls
    /// and of what one is given.
    Users,
}

impl Lane {
    /// All lanes, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Fleet, Self::Completions, Self::Users];

    /// Returns the lane of this command.
    pub fn of(command: &Command) -> Self {
        match command {
            Command::Task(TaskCommand::Submit(_) | TaskCommand::Cancel { .. } | TaskCommand::RetryDead(_))
            | Command::Task(TaskCommand::DropDead(_))
            | Command::Mail(MailCommand::Post(_))
            | Command::Ballot(BallotCommand::Open(_) | BallotCommand::Cast(_) | BallotCommand::CastAll(_))
            | Command::Team(TeamCommand::Form(_) | TeamCommand::Disband { .. } | TeamCommand::Paths { .. })
            | Command::Resource(ResourceCommand::Request(_))
            | Command::Schedule(ScheduleCommand::Set(_) | ScheduleCommand::Remove { .. })
            | Command::Schedule(ScheduleCommand::Suspend { .. } | ScheduleCommand::Run { .. })
            | Command::Audit(AuditCommand::Record(_)) => Self::Users,
            Command::Task(TaskCommand::Complete(_))
            | Command::Mail(MailCommand::Settle { .. })
            | Command::Resource(ResourceCommand::Release { .. } | ResourceCommand::Renew { .. }) => Self::Completions,
            Command::Task(TaskCommand::Stalled { .. })
            | Command::Agent(AgentCommand::Joined(_) | AgentCommand::Lost { .. } | AgentCommand::Draining { .. })
            | Command::Agent(AgentCommand::Left { .. } | AgentCommand::Unhealthy { .. })
            | Command::Agent(AgentCommand::Healthy { .. } | AgentCommand::Describe { .. })
            | Command::Control(ControlCommand::Tick | ControlCommand::Configure(_) | ControlCommand::RaiseVersion(_))
            | Command::Pool(PoolCommand::Set(_))
            | Command::Policy(PolicyCommand::Set { .. })
            | Command::Kind(KindCommand::Set { .. })
            | Command::Resource(ResourceCommand::Contribute { .. } | ResourceCommand::SetQueues(_))
            | Command::Queue(QueueCommand::Update { .. })
            | Command::Schedule(ScheduleCommand::Fire(_))
            | Command::Identity(IdentityCommand::Configure(_) | IdentityCommand::Enrol(_))
            | Command::Identity(IdentityCommand::Bar { .. } | IdentityCommand::Release { .. }) => Self::Fleet,
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
mod tests;
