//! A sender and a receiver, joined by streams that break at any time and lose what is under way, and both of which
//! restart. Every history of such events keeps the invariants of the module.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use proptest::prelude::*;

use crate::messaging::{
    Outcome, Packet, PacketId, Priority,
    inbox::{Handed, Inbox, MAX_HANDLING, Received, is_handled},
    memory::Memory,
    outbox::Outbox,
    tests::fixture::packet,
};

/// Maximum size of a payload in a history, large enough that credits run out.
const LARGE: usize = 1 << 20;

#[derive(Clone, Debug)]
enum Step {
    Offer {
        priority: u32,
        deadline: u64,
        ack: bool,
        large: bool,
    },
    Connect,
    Cut,
    /// The sender writes a frame.
    Write,
    /// The next frame arrives at the receiver; at the sender.
    Arrive,
    Return,
    Handle,
    /// The handler ends with one of the packets it has, and its outcome is recorded.
    Finish {
        which: usize,
        accepts: bool,
    },
    /// As above, but the receiver dies before the outcome is recorded.
    FinishAndDie {
        which: usize,
    },
    Pass {
        ms: u64,
    },
    /// The receiver restarts, with its journal or without.
    RestartReceiver {
        remembers: bool,
    },
    RestartSender,
}

fn step() -> impl Strategy<Value = Step> {
    let offer =
        (1_u32..=10, prop_oneof![1_u64..100, 1_000_u64..100_000], prop::bool::weighted(0.8), prop::bool::weighted(0.1));
    prop_oneof![
        8 => offer.prop_map(|(priority, deadline, ack, large)| Step::Offer { priority: priority / 4 + 1, deadline, ack, large }),
        3 => Just(Step::Connect),
        1 => Just(Step::Cut),
        6 => Just(Step::Write),
        6 => Just(Step::Arrive),
        6 => Just(Step::Return),
        6 => Just(Step::Handle),
        8 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, accepts)| Step::Finish { which, accepts }),
        1 => any::<usize>().prop_map(|which| Step::FinishAndDie { which }),
        2 => (1_u64..60).prop_map(|ms| Step::Pass { ms }),
        1 => any::<bool>().prop_map(|remembers| Step::RestartReceiver { remembers }),
        1 => Just(Step::RestartSender),
    ]
}

/// What is under way from the receiver to the sender.
#[derive(Default)]
struct Back {
    outcomes: Vec<(PacketId, Outcome)>,
    credits: Vec<(Priority, u64)>,
}

struct World {
    now: u64,
    next_id: u128,
    sender: Arc<str>,
    outbox: Outbox,
    inbox: Inbox,
    is_connected: bool,
    forth: VecDeque<Vec<(Arc<Packet>, u64)>>,
    back: VecDeque<Back>,
    handling: Vec<Handed>,
    /// What the receiver's journal has.
    journal: Vec<(PacketId, Outcome)>,
    /// Messages of the sender's current run that have no outcome yet, and outcomes so far.
    open: HashSet<PacketId>,
    outcomes: HashMap<PacketId, Outcome>,
    /// How often each packet was handled, and how often that may be.
    handled: HashMap<PacketId, usize>,
    excused: usize,
    /// The latest number of each lane, of this run of the sender, that was handled for the first time.
    latest: BTreeMap<(u64, Priority), u64>,
    run: u64,
    runs: HashMap<PacketId, u64>,
}

impl World {
    fn new() -> Self {
        Self {
            now: 0,
            next_id: 0,
            sender: "a".into(),
            outbox: Outbox::default(),
            inbox: Inbox::new(Memory::default(), MAX_HANDLING),
            is_connected: false,
            forth: VecDeque::new(),
            back: VecDeque::new(),
            handling: Vec::new(),
            journal: Vec::new(),
            open: HashSet::new(),
            outcomes: HashMap::new(),
            handled: HashMap::new(),
            excused: 0,
            latest: BTreeMap::new(),
            run: 0,
            runs: HashMap::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Offer { priority, deadline, ack, large } => self.offer(priority, deadline, ack, large),
            Step::Connect => self.connect(),
            Step::Cut => self.cut(),
            Step::Write => self.write(),
            Step::Arrive => self.arrive(),
            Step::Return => self.come_back(),
            Step::Handle => self.handling.extend(self.inbox.hand_out()),
            Step::Finish { which, accepts } => self.finish(which, accepts, true),
            Step::FinishAndDie { which } => {
                self.finish(which, true, false);
                self.excused += 1;
                self.restart_receiver(true);
            }
            Step::Pass { ms } => self.now += ms,
            Step::RestartReceiver { remembers } => {
                self.excused += usize::from(!remembers);
                self.restart_receiver(remembers);
            }
            Step::RestartSender => {
                self.cut();
                self.outbox = Outbox::default();
                self.open.clear();
                self.run += 1;
            }
        }
        self.settle();
    }

    fn offer(&mut self, priority: u32, deadline_in_ms: u64, requires_ack: bool, large: bool) {
        self.next_id += 1;
        let id = PacketId(self.next_id);
        let payload = if large { vec![0; LARGE].into() } else { packet(0).payload };
        let priority = Priority::new(priority).unwrap();
        let packet = Packet { priority, requires_ack, deadline_in_ms, payload, ..packet(id.0) };
        if self.outbox.offer(self.now, packet).is_ok() {
            self.open.insert(id);
            self.runs.insert(id, self.run);
        }
    }

    fn connect(&mut self) {
        self.cut();
        self.outbox.connected(self.inbox.connect(&self.sender));
        self.inbox.identify(&self.sender, self.run + 1, true);
        self.is_connected = true;
    }

    fn cut(&mut self) {
        self.is_connected = false;
        self.forth.clear();
        self.back.clear();
        self.outbox.disconnected("cut");
        self.inbox.disconnect(&self.sender);
    }

    fn write(&mut self) {
        let batch = self.outbox.next_batch(self.now);
        if !batch.is_empty() {
            self.forth.push_back(batch);
        }
    }

    fn arrive(&mut self) {
        let Some(batch) = self.forth.pop_front() else { return };
        let mut back = Back::default();
        for (packet, deadline_in_ms) in batch {
            let (id, requires_ack) = (packet.id, packet.requires_ack);
            let packet = Packet { deadline_in_ms: deadline_in_ms.max(1), ..Packet::clone(&packet) };
            let received = self.inbox.receive(self.now, &self.sender, packet).expect("no violation");
            if let Received::Repeated(outcome) = received
                && requires_ack
            {
                back.outcomes.push((id, outcome));
            }
        }
        back.credits = self.inbox.credits(&self.sender);
        self.back.push_back(back);
    }

    fn finish(&mut self, which: usize, accepts: bool, records: bool) {
        if self.handling.is_empty() {
            return;
        }
        let handed = self.handling.swap_remove(which % self.handling.len());
        let id = handed.packet.id;
        let outcome = if handed.deadline <= self.now {
            Outcome::DeadlinePassed { maybe_handled: false }
        } else {
            self.handle(&handed.packet);
            if accepts { Outcome::accepted(None) } else { Outcome::refused("no") }
        };
        self.inbox.finish(&handed.peer, handed.packet.priority);
        if !records {
            return;
        }
        if is_handled(&outcome) {
            self.journal.push((id, outcome.clone()));
        }
        let waiting = self.inbox.conclude(self.now, &self.sender, id, &outcome);
        let outcomes = if waiting.peers().next().is_none() { Vec::new() } else { vec![(id, outcome)] };
        let credits = self.inbox.credits(&self.sender);
        if self.is_connected {
            self.back.push_back(Back { outcomes, credits });
        }
    }

    fn handle(&mut self, packet: &Packet) {
        let times = self.handled.entry(packet.id).or_default();
        *times += 1;
        assert!(*times <= 1 + self.excused, "{} is handled again", packet.id);
        assert!(*times == 1 || packet.resent, "{} is not marked as a repetition", packet.id);
        if *times == 1 {
            let lane = (self.runs[&packet.id], packet.priority);
            let latest = self.latest.entry(lane).or_default();
            assert!(packet.seq > *latest, "number {} of {lane:?} is handled after {latest}", packet.seq);
            *latest = packet.seq;
        }
    }

    fn come_back(&mut self) {
        let Some(Back { outcomes, credits }) = self.back.pop_front() else { return };
        for (id, outcome) in outcomes {
            self.outbox.outcome(id, outcome);
        }
        for (priority, limit) in credits {
            self.outbox.credit(priority, limit).expect("credits increase");
        }
    }

    fn restart_receiver(&mut self, remembers: bool) {
        self.cut();
        self.handling.clear();
        if !remembers {
            self.journal.clear();
        }
        let mut memory = Memory::default();
        for (id, outcome) in &self.journal {
            memory.done(self.now, &self.sender, *id, outcome);
        }
        self.inbox = Inbox::new(memory, MAX_HANDLING);
    }

    fn settle(&mut self) {
        self.outbox.expire(self.now);
        for (id, outcome) in self.outbox.take_settled() {
            assert!(self.open.remove(&id), "{id} has a second outcome");
            let times = self.handled.get(&id).copied().unwrap_or_default();
            match outcome {
                Outcome::Accepted { .. } | Outcome::Refused { .. } => assert!(times > 0, "{id} was not handled"),
                Outcome::Away { .. } | Outcome::DeadlinePassed { maybe_handled: false } => assert_eq!(times, 0, "{id}"),
                _ => {}
            }
            self.outcomes.insert(id, outcome);
        }
    }

    /// Lets everything come to its end.
    fn drain(&mut self) {
        self.connect();
        for _ in 0..10_000 {
            for step in
                [Step::Write, Step::Arrive, Step::Handle, Step::Finish { which: 0, accepts: true }, Step::Return]
            {
                self.step(&step);
            }
            if self.open.is_empty() && self.inbox.waiting() == 0 && self.handling.is_empty() {
                break;
            }
        }
        assert!(self.open.is_empty(), "without an outcome: {:?}", self.open);
        assert_eq!((self.outbox.len(), self.outbox.bytes(), self.inbox.waiting()), (0, 0, 0));
        for (id, outcome) in &self.outcomes {
            let is_undelivered =
                matches!(outcome, Outcome::Away { .. } | Outcome::DeadlinePassed { maybe_handled: false });
            assert!(!is_undelivered || !self.handled.contains_key(id), "{id} was handled after all");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_breaks_each_message_has_one_outcome_and_is_handled_once_in_order(
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.drain();
    }
}

/// Histories that once broke an invariant.
#[test]
fn what_a_restarted_sender_left_behind_and_what_came_too_late_keep_the_order() {
    let offer = |priority, deadline, ack| Step::Offer { priority, deadline, ack, large: false };
    let finish = || Step::Finish { which: 0, accepts: false };
    let too_late = [
        vec![offer(1, 59, true), Step::Connect, offer(1, 1_000, false), Step::Write, Step::Arrive, Step::Connect],
        vec![Step::Handle, Step::Pass { ms: 19 }, Step::Write, Step::Pass { ms: 40 }, finish(), Step::Arrive],
    ];
    let left_behind = [
        vec![offer(1, 1, false), offer(1, 1, false), offer(1, 1, false), Step::Connect, Step::Write, Step::Arrive],
        vec![Step::RestartSender, offer(1, 1, true), Step::Connect, Step::Handle, finish(), offer(1, 1, false)],
        vec![Step::Handle, finish(), Step::Write, Step::Write, Step::Arrive, Step::Handle, finish(), Step::Handle],
        vec![Step::FinishAndDie { which: 0 }],
    ];
    for history in [too_late.concat(), left_behind.concat()] {
        let mut world = World::new();
        history.iter().for_each(|step| world.step(step));
        world.drain();
    }
}

#[test]
fn a_history_without_faults_delivers_everything_once() {
    let mut world = World::new();
    world.connect();
    for n in 0..500 {
        world.step(&Step::Offer { priority: n % 10 + 1, deadline: 100_000, ack: true, large: n % 99 == 0 });
    }
    world.drain();
    assert_eq!(world.handled.len(), 500);
    assert!(world.handled.values().all(|times| *times == 1) && world.outcomes.values().all(Outcome::is_accepted));
}
