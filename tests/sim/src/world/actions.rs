//! The actions on the machines of a run.

use std::time::Duration;

use robeing_platform::{
    Random,
    simulated::{Latency, SimulatedDisk},
};

use super::{NOTICED_WITHIN, World, everybody};
use crate::{
    clients::below,
    damage,
    faults::{Action, Hard, Host},
    hosts::{SIZE, WORKERS},
    plan::{self, Scene},
    process::Process,
    wire::Wire,
};

impl World {
    fn kill(&mut self, host: Host) {
        self.process(host).kill();
        self.held_down.insert(host);
        let mut notes = self.shared.record.notes();
        notes.paused.remove(&host.name());
        notes.leading.remove(&host.name());
    }

    pub(super) fn disk(&self, host: Host) -> Option<&SimulatedDisk> {
        match host {
            Host::Coordinator(n) => self.disks.get(n),
            Host::Agent(n) => self.agent_disks.get(n),
        }
    }

    fn power_loss(&mut self, host: Host) {
        // Before the process ends, so that no peer is notified.
        self.wire.set_off(self.number(&host.name()), true);
        self.kill(host);
        let seed = self.random.next_u64();
        if let Some(disk) = self.disk(host) {
            disk.crash(seed);
        }
    }

    pub(super) fn start(&mut self, host: Host) {
        if self.retired.contains(&host) {
            return;
        }
        if self.shared.damaged.borrow().contains(&host) {
            self.notice_by.entry(host).or_insert(self.now + NOTICED_WITHIN);
        }
        self.held_down.remove(&host);
        self.restarts.remove(&host);
        self.wire.set_off(self.number(&host.name()), false);
        if !self.process(host).is_running() {
            self.shared.record.notes().started(&host.name());
            self.process(host).start();
        }
    }

    /// Changes each link of a host, in both directions.
    fn each_link(&self, host: Host, change: impl Fn(&Wire, usize, usize)) {
        for other in everybody().into_iter().filter(|other| *other != host.name()) {
            let (a, b) = (self.number(&host.name()), self.number(&other));
            change(&self.wire, a, b);
            change(&self.wire, b, a);
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        tracing::info!(target: "robeing_sim", ?action);
        if let Some(kind) = action.kind() {
            *self.shared.record.notes().faults.entry(kind).or_default() += 1;
        }
        match action {
            Action::Kill(host) => self.kill(host),
            Action::PowerLoss(host) => self.power_loss(host),
            Action::PowerLossOfAll => (0..SIZE.coordinators).for_each(|n| self.power_loss(Host::Coordinator(n))),
            Action::Stop(host) => {
                self.held_down.insert(host);
                if let Some(stop) = self.shared.stops.borrow().get(&host.name()) {
                    stop.cancel();
                }
            }
            Action::Retire(host) => {
                self.kill(host);
                self.retired.insert(host);
                self.shared.record.notes().retired.insert(host.name());
            }
            Action::Start(host) => self.start(host),
            Action::Pause(host) => {
                let now = self.now;
                self.process(host).pause(now);
                self.shared.record.notes().paused.insert(host.name());
                self.disturb(host);
            }
            Action::Free(host) => self.free(host),
            Action::Sicken(agent, ill) => self.shared.record.notes().sicken(Host::Agent(agent).name(), ill),
            Action::Cure(agent) => self.shared.record.notes().cure(&Host::Agent(agent).name()),
            Action::EmptyDisk(host) | Action::FlipBit(host) => self.lose_disk(host, action),
            Action::FailSync(host)
            | Action::SlowDisk(host, _)
            | Action::HangDisk(host)
            | Action::FillDisk(host, _)
            | Action::MendDisk(host) => self.hurt_disk(host, action),
            Action::Hard(hard) => self.begin_hard(hard),
            Action::Cut(..)
            | Action::CutOneWay(..)
            | Action::SlowLink(..)
            | Action::Mend(..)
            | Action::Break(..)
            | Action::Isolate(_)
            | Action::Lossy
            | Action::Lossless => self.change_network(action),
        }
    }

    fn change_network(&self, action: Action) {
        let number = |host: Host| self.number(&host.name());
        let both = |a: Host, b: Host| [(number(a), number(b)), (number(b), number(a))];
        match action {
            Action::Cut(a, b) => both(a, b).into_iter().for_each(|(a, b)| self.wire.cut(a, b)),
            Action::CutOneWay(a, b) => self.wire.cut(number(a), number(b)),
            Action::SlowLink(a, b, ms) => self.wire.slow(number(a), number(b), Duration::from_millis(ms)),
            Action::Mend(a, b) => both(a, b).into_iter().for_each(|(a, b)| self.wire.mend(a, b)),
            Action::Break(a, b) => self.wire.break_all(number(a), number(b)),
            Action::Isolate(host) => self.each_link(host, Wire::cut),
            Action::Lossy => self.wire.set_lossy(true),
            Action::Lossless => self.wire.set_lossy(false),
            _ => {}
        }
    }

    pub(super) fn hurt_disk(&self, host: Host, action: Action) {
        let Some(disk) = self.disk(host) else { return };
        match action {
            Action::FailSync(_) if self.processes.get(&host).is_some_and(Process::is_running) => {
                disk.fail_sync_after(below(&self.random, 4));
            }
            Action::SlowDisk(_, ms) => {
                let max = Duration::from_millis(ms);
                disk.set_latency(Some(Latency { min: max / 2, max }));
            }
            Action::HangDisk(_) => disk.set_hung(true),
            Action::FillDisk(_, room) => disk.set_capacity(Some(disk.used() + room)),
            Action::MendDisk(_) => {
                disk.set_latency(Some(self.latency));
                disk.set_hung(false);
                disk.set_capacity(None);
            }
            _ => {}
        }
    }

    /// Ends a coordinator's process, and loses or damages the data on its disk.
    fn lose_disk(&mut self, host: Host, action: Action) {
        self.kill(host);
        self.hurt_disk(host, Action::MendDisk(host));
        let Some(disk) = self.disk(host) else { return };
        if matches!(action, Action::EmptyDisk(_)) {
            disk.wipe();
        } else if damage::flip_bit(disk, &self.random, !self.shared.profile.mix.is_large) {
            self.shared.damaged.borrow_mut().insert(host);
        }
    }

    /// Determines the leader and the agents with tasks, and schedules all actions of a hard combination.
    fn begin_hard(&mut self, hard: Hard) {
        let notes = self.shared.record.notes();
        let leader = (0..=SIZE.coordinators).find(|n| Some(Host::Coordinator(*n).name().as_str()) == notes.leader());
        let busy = notes.busy();
        let numbers = (0..SIZE.agents).flat_map(|n| {
            let name = Host::Agent(n).name();
            busy.iter().filter(move |agent| **agent == name).map(move |_| n)
        });
        let numbers: Vec<usize> = numbers.collect();
        let one_of = |numbers: Vec<usize>, all: usize| match numbers.len() {
            0 => below(&self.random, all as u64) as usize,
            many => numbers[below(&self.random, many as u64) as usize],
        };
        let scene = Scene {
            leader: leader.unwrap_or_else(|| below(&self.random, SIZE.coordinators as u64) as usize),
            agent: one_of(numbers.clone(), SIZE.agents),
            // Each of the other agents has something that no worker has.
            replaceable: one_of(numbers.into_iter().filter(|n| *n < WORKERS).collect(), WORKERS),
            size: SIZE,
        };
        drop(notes);
        for (after, action) in plan::unfold(hard, scene, &self.random) {
            self.add_action(self.now + after, action);
        }
    }

    pub(super) fn add_action(&mut self, at: Duration, action: Action) {
        let number = self.next_action;
        self.next_action += 1;
        self.actions.insert((at, number), action);
    }

    /// Records that an agent was disturbed.
    fn disturb(&self, host: Host) {
        let mut notes = self.shared.record.notes();
        let now = notes.now;
        notes.agents.entry(host.name()).or_default().disturbed.push(now);
    }

    pub(super) fn free(&mut self, host: Host) {
        self.each_link(host, Wire::mend);
        if self.process(host).is_paused() {
            self.disturb(host);
        }
        let now = self.now;
        {
            let mut notes = self.shared.record.notes();
            if notes.paused.remove(&host.name()) {
                let at = notes.now;
                notes.went_on.insert(host.name(), at);
            }
        }
        self.enter(&host.name());
        self.process(host).go_on(now);
    }
}
