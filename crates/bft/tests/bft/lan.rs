//! A group on a perfect network, step by step.

use std::collections::VecDeque;

use bytes::Bytes;
use robeing_bft::{
    Verified,
    certificate::{Decision, View},
    crypto::{Signer, Verifier},
    epoch::{Epoch, Handover, ReplicaId},
    error::Invalid,
    message::{Message, Operation, Request},
    record::Record,
    replica::{Event, Input, Outcome, Outputs, Replica, Sync, Timer, TimerChange, TimerId, To},
    state::State,
};

use crate::ledger::Ledger;

pub struct Lan {
    pub epoch: Epoch,
    pub replicas: Vec<Replica<Ledger>>,
    pub signers: Vec<Box<dyn Signer>>,
    pub verifier: Box<dyn Verifier>,
    pub queue: VecDeque<(usize, Message)>,
    pub disks: Vec<Vec<Record>>,
    pub decided: Vec<Vec<Decision>>,
    pub outcomes: Vec<Outcome>,
    pub events: Vec<Event>,
    pub handovers: Vec<Handover>,
    pub timers: Vec<[Option<TimerId>; 2]>,
    /// The views and times for which the view timers are set.
    pub timeouts: Vec<Option<(View, u64)>>,
    /// Receivers that get nothing.
    pub cut: Vec<bool>,
    /// Messages that get lost.
    pub lost: fn(&Message) -> bool,
}

impl Lan {
    pub fn new(epoch: &Epoch, initial: &State, signers: Vec<Box<dyn Signer>>, verifier: Box<dyn Verifier>) -> Self {
        let count = signers.len();
        let mut lan = Self {
            epoch: epoch.clone(),
            replicas: Vec::new(),
            signers,
            verifier,
            queue: VecDeque::new(),
            disks: Vec::new(),
            decided: vec![Vec::new(); count],
            outcomes: Vec::new(),
            events: Vec::new(),
            handovers: Vec::new(),
            timers: vec![[None; 2]; count],
            timeouts: vec![None; count],
            cut: vec![false; count],
            lost: |_| false,
        };
        for (index, member) in epoch.members.iter().enumerate() {
            let records = vec![Record::Identity(member.incarnation)];
            lan.disks.push(records.clone());
            let started = Replica::start(epoch, Ledger::default(), initial, records, &*lan.signers[index]);
            let (replica, outputs) = started.unwrap();
            lan.replicas.push(replica);
            lan.carry_out(index, outputs);
        }
        lan.run();
        lan
    }

    pub fn carry_out(&mut self, from: usize, outputs: Outputs) {
        for change in outputs.sync {
            match change {
                Sync::Append(record) => self.disks[from].push(record),
                Sync::Replace(records) => self.disks[from] = records,
            }
        }
        for (to, message) in outputs.messages {
            match to {
                To::All => {
                    let others = (0..self.replicas.len().max(self.signers.len())).filter(|to| *to != from);
                    self.queue.extend(others.map(|to| (to, message.clone())));
                }
                To::One(ReplicaId(to)) => self.queue.push_back((to.into(), message)),
            }
        }
        for change in outputs.timers {
            match change {
                TimerChange::Set { id, view, after_ms } => {
                    self.timers[from][id.timer as usize] = Some(id);
                    if id.timer == Timer::View {
                        self.timeouts[from] = Some((view, after_ms));
                    }
                }
                TimerChange::Cancel(timer) => self.timers[from][timer as usize] = None,
            }
        }
        self.decided[from].extend(outputs.decided);
        self.outcomes.extend(outputs.outcomes);
        self.events.extend(outputs.events);
        self.handovers.extend(outputs.handover.map(|handover| *handover));
    }

    /// Gives a message to a replica, with all checks.
    pub fn give(&mut self, to: usize, message: Message) -> Result<(), Invalid> {
        let verified = Verified::check(message, &self.epoch, &*self.verifier)?;
        if let Some(replica) = self.replicas.get_mut(to) {
            let outputs = replica.step(Input::Message(Box::new(verified)), &*self.signers[to]);
            self.carry_out(to, outputs);
        }
        Ok(())
    }

    /// Delivers everything.
    pub fn run(&mut self) {
        while let Some((to, message)) = self.queue.pop_front() {
            if !self.cut[to] && !(self.lost)(&message) {
                self.give(to, message).expect("honest replicas send valid messages");
            }
        }
    }

    /// Has a timer fire, if it is set.
    pub fn fire(&mut self, replica: usize, timer: Timer) {
        if let Some(id) = self.timers[replica][timer as usize].take() {
            let outputs = self.replicas[replica].step(Input::Timer(id), &*self.signers[replica]);
            self.carry_out(replica, outputs);
        }
    }

    /// Has the resend timers of all fire some times.
    pub fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            (0..self.replicas.len()).for_each(|replica| self.fire(replica, Timer::Resend));
            self.run();
        }
    }

    pub fn request(&self, id: u64, call: &str, client: &dyn Signer) -> Message {
        let call = Bytes::copy_from_slice(call.as_bytes());
        Message::Request(Request::sign(&self.epoch, id, Operation::Call(call), client))
    }

    pub fn executed(&self) -> Vec<u64> {
        self.replicas.iter().map(|replica| replica.executed().0).collect()
    }
}
