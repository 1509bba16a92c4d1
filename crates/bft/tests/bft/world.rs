//! The simulator: replicas, their disks, clients and a network, all driven by one seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use robeing_bft::{
    Verified,
    crypto::Context,
    epoch::ReplicaId,
    message::{Message, Operation, Request},
    record::Record,
    replica::{Input, Outputs, Replica, Sync, Timer, TimerChange, TimerId, To},
};

use crate::{
    checks::Checks,
    fixture::{Group, Random},
    ledger::Ledger,
    liars::{Lie, Plot},
};

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub members: u64,
    /// How many members lie.
    pub liars: usize,
    /// What all of them do; different things if nothing.
    pub lie: Option<Lie>,
    /// When the network becomes quiet, in milliseconds.
    pub quiet_from: u64,
    /// How long after that everything must be decided.
    pub patience: u64,
    pub requests: u64,
    /// Probabilities in percent, until the network is quiet.
    pub drop: u64,
    pub duplicate: u64,
    /// How many restarts of honest replicas are tried.
    pub restarts: u64,
    pub partitions: u64,
    /// Whether the epoch ends in the middle.
    pub ends: bool,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut random = Random(seed);
        let members = 4 + seed % 7;
        Self {
            seed,
            members,
            liars: (members as usize - 1) / 3,
            lie: None,
            quiet_from: random.between(1_000, 6_000),
            patience: 300_000,
            requests: random.between(5, 40),
            drop: random.below(25),
            duplicate: random.below(20),
            restarts: random.below(6),
            partitions: random.below(4),
            ends: false,
        }
    }
}

#[derive(Debug)]
enum Event {
    Deliver {
        to: usize,
        message: Rc<Message>,
    },
    Timer {
        node: usize,
        id: TimerId,
        life: u64,
    },
    Crash(usize),
    Restart(usize),
    Partition(u64),
    Submit(usize),
    /// A lying client's two requests with the same id go to different members.
    Double(Box<[Request; 2]>),
    LoseDisk(usize),
}

#[derive(Debug)]
pub struct Node {
    pub replica: Option<Replica<Ledger>>,
    pub disk: Vec<Vec<u8>>,
    timers: BTreeMap<Timer, TimerId>,
    life: u64,
    pub lie: Option<Lie>,
    crashing: bool,
}

/// A request of an honest client, until all honest replicas have executed it.
#[derive(Debug)]
struct Submitted {
    request: Request,
    at: u64,
}

pub struct World {
    pub plan: Plan,
    pub group: Group,
    pub random: Random,
    pub now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    order: u64,
    pub nodes: Vec<Node>,
    submitted: Vec<Submitted>,
    /// Which side of the partition each node is on.
    side: u64,
    pub plot: Plot,
    pub checks: Checks,
    pub delivered: u64,
    /// Encoded messages of honest replicas by tag, if they are to be kept.
    pub samples: Option<BTreeMap<u8, Vec<Vec<u8>>>>,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let group = Group::new(plan.members);
        let checks = Checks::new(&group);
        let mut world = Self {
            random: Random(plan.seed ^ 0xb_f7),
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            nodes: Vec::new(),
            submitted: Vec::new(),
            side: 0,
            plot: Plot::default(),
            checks,
            delivered: 0,
            samples: None,
            group,
            plan,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let count = self.plan.members as usize;
        let mut liars = BTreeSet::new();
        while liars.len() < self.plan.liars {
            liars.insert(self.random.below(self.plan.members) as usize);
        }
        for index in 0..count {
            let drawn = Lie::draw(&mut self.random);
            let lie = liars.contains(&index).then(|| self.plan.lie.unwrap_or(drawn));
            let disk = self.group.enrolled(index).iter().map(Record::encode).collect();
            self.nodes.push(Node { replica: None, disk, timers: BTreeMap::new(), life: 0, lie, crashing: false });
            self.checks.honest.push(lie.is_none());
        }
        self.plot.sides = self.random.next();
        for index in 0..count {
            self.start(index);
            if self.nodes[index].lie == Some(Lie::LostDisk) {
                let at = self.random.below(self.plan.quiet_from);
                self.at(at, Event::LoseDisk(index));
            }
        }
        for _ in 0..self.plan.restarts {
            let (node, at) = (self.random.below(self.plan.members) as usize, self.random.below(self.plan.quiet_from));
            self.at(at, Event::Crash(node));
        }
        for _ in 0..self.plan.partitions {
            let (at, side) = (self.random.below(self.plan.quiet_from), self.random.next());
            self.at(at, Event::Partition(side));
        }
        self.at(self.plan.quiet_from, Event::Partition(0));
        self.draw_requests();
        self.draw_doubles();
    }

    fn draw_doubles(&mut self) {
        let liars: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].lie.is_some()).collect();
        for liar in liars {
            for id in 1..=self.random.below(3) {
                let of = |which| {
                    let operation = Operation::Call(format!("{which} of {id} of {liar}").into());
                    Request::sign(&self.group.epoch, id, operation, &self.group.members[liar])
                };
                let both = [of("one"), of("other")];
                self.checks.double(&both);
                let at = self.random.below(self.plan.quiet_from);
                self.at(at, Event::Double(Box::new(both)));
            }
        }
    }

    fn draw_requests(&mut self) {
        let mut ids = BTreeMap::new();
        let honest: Vec<_> =
            self.nodes.iter().zip(&self.group.members).filter(|(node, _)| node.lie.is_none()).collect();
        let mut clients: Vec<_> = honest.into_iter().map(|(_, signer)| signer.clone()).collect();
        clients.extend(self.group.clients.iter().cloned());
        for number in 0..self.plan.requests {
            let client = self.random.below(clients.len() as u64) as usize;
            let id = ids.entry(client).or_insert(0);
            *id += 1;
            let operation = Operation::Call(format!("call {number}").into());
            let request = Request::sign(&self.group.epoch, *id, operation, &clients[client]);
            self.checks.made(&request);
            let at = self.random.below(self.plan.quiet_from + 2_000);
            self.submitted.push(Submitted { request, at });
            self.at(at, Event::Submit(self.submitted.len() - 1));
        }
        if self.plan.ends {
            // Two changes compete: one of them ends the epoch.
            for add in [50, 60] {
                let change = self.group.change(&[], &[add]);
                let request = Request::sign(&self.group.epoch, 60 + add, change, &self.group.clients[0]);
                let at = self.random.below(self.plan.quiet_from + 1_000);
                self.submitted.push(Submitted { request, at });
                self.at(at, Event::Submit(self.submitted.len() - 1));
            }
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.queue.insert((time.max(self.now), self.order), event);
    }

    fn is_quiet(&self) -> bool {
        self.now >= self.plan.quiet_from
    }

    /// Runs until everything is decided, something is wrong, or the time is over.
    pub fn run(&mut self) {
        let end = self.plan.quiet_from + self.plan.patience;
        let mut step = 0_u64;
        while let Some(((time, _), event)) = self.queue.pop_first() {
            self.now = time;
            self.handle(event);
            step += 1;
            if self.checks.violation.is_some() || step.is_multiple_of(64) && self.is_done() {
                return;
            }
            if time > end {
                return self.checks.fail(format!("not everything is decided at {end} ms: {}", self.describe()));
            }
        }
    }

    fn is_done(&self) -> bool {
        let all_submitted = self.now >= self.plan.quiet_from + 2_000;
        let honest = || self.nodes.iter().filter(|node| node.lie.is_none());
        let executed: BTreeSet<_> = honest().map(|node| node.replica.as_ref().map(Replica::executed)).collect();
        let has_all = |node: &Node| {
            node.replica.as_ref().is_some_and(|replica| self.checks.has_all(&replica.application().calls))
        };
        if self.plan.ends {
            let ended = |replica: &Replica<Ledger>| replica.has_ended() && replica.stable() == replica.executed();
            return honest().all(|node| node.replica.as_ref().is_some_and(ended));
        }
        all_submitted && executed.len() == 1 && honest().all(has_all)
    }

    pub fn describe(&self) -> String {
        let of = |node: &Node| match &node.replica {
            Some(replica) => {
                let (view, stable, executed) = (replica.view(), replica.stable(), replica.executed());
                format!("[{:?} {view:?} stable {stable:?} executed {executed:?} {:?}]", node.lie, replica.kept())
            }
            None => format!("[{:?} down]", node.lie),
        };
        self.nodes.iter().map(of).collect::<Vec<_>>().join(" ")
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { to, message } => self.deliver(to, &message),
            Event::Timer { node, id, life } => {
                let one = &mut self.nodes[node];
                if one.life == life && one.timers.get(&id.timer) == Some(&id) {
                    one.timers.remove(&id.timer);
                    self.step(node, Input::Timer(id));
                }
            }
            Event::Crash(node) => {
                // Either at once, or in the middle of the next step.
                self.nodes[node].crashing = self.random.percent(70);
                if !self.nodes[node].crashing {
                    self.crash(node);
                }
            }
            Event::Restart(node) => self.start(node),
            Event::Partition(side) => self.side = side,
            Event::Submit(index) => self.submit(index),
            Event::Double(both) => {
                let both = both.map(|request| Rc::new(Message::Request(request)));
                for to in 0..self.nodes.len() {
                    let which = self.random.below(2) as usize;
                    self.transmit(None, to, &both[which], 0);
                }
            }
            Event::LoseDisk(node) => {
                self.nodes[node].disk.clear();
                self.crash(node);
            }
        }
    }

    fn submit(&mut self, index: usize) {
        let Submitted { request, at } = &self.submitted[index];
        let digest = Checks::digest(request);
        let executed = |node: &Node| {
            let calls = node.replica.as_ref().map(|replica| &replica.application().calls);
            node.lie.is_some() || calls.is_some_and(|calls| calls.contains(&digest))
        };
        if self.nodes.iter().all(executed) {
            return;
        }
        let message = Rc::new(Message::Request(request.clone()));
        // First to one replica; then to all of them (1999, section 4.1).
        let one = (self.now == *at).then(|| self.random.below(self.plan.members) as usize);
        for to in (0..self.nodes.len()).filter(|to| one.is_none_or(|one| one == *to)) {
            self.transmit(None, to, &message, 0);
        }
        let again = self.now + self.random.between(300, 900);
        self.at(again, Event::Submit(index));
    }

    fn deliver(&mut self, to: usize, message: &Message) {
        let Some(replica) = &self.nodes[to].replica else { return };
        // In every other run, hosts drop what is not wanted before it is verified.
        if self.plan.seed.is_multiple_of(2) && !replica.wants(message) {
            return;
        }
        self.delivered += 1;
        let message = if self.random.percent(3) {
            Message::decode(&message.encode()).expect("what is encoded can be decoded")
        } else {
            message.clone()
        };
        if self.nodes[to].lie.is_some() {
            self.plot.hear(&message, &mut self.random);
        }
        if let Ok(verified) = Verified::check(message, &self.group.epoch, &self.group.verifier) {
            self.step(to, Input::Message(Box::new(verified)));
        }
    }

    fn step(&mut self, node: usize, input: Input) {
        let Some(replica) = &mut self.nodes[node].replica else { return };
        let outputs = replica.step(input, &self.group.members[node]);
        self.carry_out(node, outputs);
    }

    fn carry_out(&mut self, node: usize, outputs: Outputs) {
        if self.nodes[node].crashing {
            if self.random.percent(50) {
                self.check(node, &outputs);
                self.sync(node, outputs.sync);
            }
            return self.crash(node);
        }
        self.check(node, &outputs);
        self.sync(node, outputs.sync);
        for (to, message) in outputs.messages {
            if self.nodes[node].lie.is_none() {
                self.checks.sends(node, &message);
                self.sample(&message);
            }
            self.send(node, to, message);
        }
        for change in outputs.timers {
            match change {
                TimerChange::Set { id, after_ms, .. } => {
                    self.nodes[node].timers.insert(id.timer, id);
                    let life = self.nodes[node].life;
                    self.at(self.now + after_ms, Event::Timer { node, id, life });
                }
                TimerChange::Cancel(timer) => {
                    self.nodes[node].timers.remove(&timer);
                }
            }
        }
    }

    fn sample(&mut self, message: &Message) {
        if let Some(samples) = &mut self.samples {
            let bytes = message.encode();
            let of_kind = samples.entry(bytes[1]).or_default();
            if of_kind.len() < 3 {
                of_kind.push(bytes);
            }
        }
    }

    fn check(&mut self, node: usize, outputs: &Outputs) {
        if let (None, Some(replica)) = (self.nodes[node].lie, &self.nodes[node].replica) {
            self.checks.stepped(node, replica, &outputs.decided, &outputs.events);
        }
    }

    fn sync(&mut self, node: usize, changes: Vec<Sync>) {
        let disk = &mut self.nodes[node].disk;
        for change in changes {
            match change {
                Sync::Append(record) => disk.push(record.encode()),
                Sync::Replace(records) => *disk = records.iter().map(Record::encode).collect(),
            }
        }
    }

    fn crash(&mut self, node: usize) {
        let one = &mut self.nodes[node];
        one.crashing = false;
        one.replica = None;
        one.timers.clear();
        one.life += 1;
        let after = self.random.between(10, 1_500);
        self.at(self.now + after, Event::Restart(node));
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].replica.is_some() {
            return;
        }
        let records = self.nodes[node].disk.iter().map(|bytes| Record::decode(bytes).expect("own records")).collect();
        let Group { epoch, initial, .. } = &self.group;
        match Replica::start(epoch, Ledger::default(), initial, records, &self.group.members[node]) {
            Ok((replica, outputs)) => {
                self.nodes[node].replica = Some(replica);
                self.carry_out(node, outputs);
            }
            // Only who lost its disk stays away.
            Err(error) if self.nodes[node].disk.is_empty() => {
                assert_eq!(error, robeing_bft::error::StartError::NoIdentity);
            }
            Err(error) => self.checks.fail(format!("replica {node} does not start: {error}")),
        }
    }

    fn send(&mut self, from: usize, to: To, message: Message) {
        let receivers: Vec<usize> = match to {
            To::All => (0..self.nodes.len()).filter(|to| *to != from).collect(),
            To::One(ReplicaId(to)) => vec![to.into()],
        };
        let message = Rc::new(message);
        for to in receivers {
            match self.nodes[from].lie {
                None => self.transmit(Some(from), to, &message, 0),
                Some(lie) => {
                    for (to, message, delay) in lie.instead(self, from, to, &message) {
                        self.transmit(Some(from), to, &Rc::new(message), delay);
                    }
                }
            }
        }
    }

    fn transmit(&mut self, from: Option<usize>, to: usize, message: &Rc<Message>, delay: u64) {
        let mut copies = 1;
        let mut delay = delay + self.random.between(1, 10);
        if !self.is_quiet() {
            let apart = from.is_some_and(|from| (self.side >> from ^ self.side >> to) & 1 == 1);
            if apart || self.random.percent(self.plan.drop) {
                return;
            }
            copies += u64::from(self.random.percent(self.plan.duplicate));
            let slow = self.random.percent(20);
            delay += if slow { self.random.below(600) } else { self.random.below(40) };
        }
        for _ in 0..copies {
            self.at(self.now + delay, Event::Deliver { to, message: message.clone() });
            delay += self.random.below(300);
        }
    }

    pub fn domain(&self) -> robeing_bft::crypto::Digest {
        *self.group.epoch.domain()
    }

    /// Signs a vote as a liar.
    pub fn vote(
        &self,
        context: Context,
        from: usize,
        proposal: robeing_bft::certificate::Proposal,
    ) -> robeing_bft::message::Vote {
        let replica = ReplicaId(u16::try_from(from).unwrap());
        robeing_bft::message::Vote::sign(context, &self.domain(), replica, proposal, &self.group.members[from])
    }
}
