//! Which faults happen when. A seed decides all of them; each is mended after a while, and none is left when they stop.

use std::{collections::BTreeSet, time::Duration};

use robeing_agent::platform::{Random, simulated::SeededRandom};

use crate::clients::below;

/// Faults that happen only when they are asked for by name: the fleet does not stand them yet.
pub const OFF: &[&str] = &[];

/// Something done to the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The process is gone at once, as by SIGKILL; what it wrote stays.
    Kill(Host),
    /// The machine loses power: unsynced writes are lost, torn, or kept, and nobody is told.
    PowerLoss(Host),
    /// All coordinators at once.
    PowerLossOfAll,
    /// The process is gone, and its machine's disk is replaced by an empty one. Happens to one coordinator of a run at most:
    /// what only a minority has may be lost, but two emptied disks are a majority.
    EmptyDisk(Host),
    /// The same, for a bit that flips in what was synced: the coordinator has to notice, and its disk is replaced.
    FlipBit(Host),
    /// The process is asked to stop.
    Stop(Host),
    /// The process starts again, if it does not run.
    Start(Host),
    /// The process is gone for good.
    Retire(Host),
    /// A sync fails soon.
    FailSync(Host),
    /// Syncs take up to so many milliseconds.
    SlowDisk(Host, u64),
    /// No sync comes to an end.
    HangDisk(Host),
    /// There is room for so many bytes more.
    FillDisk(Host, u64),
    /// The disk works as ever.
    MendDisk(Host),
    /// Nothing arrives between two.
    Cut(Host, Host),
    /// Nothing arrives from one at the other.
    CutOneWay(Host, Host),
    /// Everything from one to the other takes up to so many milliseconds longer.
    SlowLink(Host, Host, u64),
    /// What is cut or slow between two is no more.
    Mend(Host, Host),
    /// The connections between two break.
    Break(Host, Host),
    /// Nothing arrives from and at a host.
    Isolate(Host),
    /// The process is stopped where it is, as by SIGSTOP; its machine goes on taking what is sent to it.
    Pause(Host),
    /// A host is cut off or paused no more.
    Free(Host),
    /// Segments are lost now and then, and sent again.
    Lossy,
    /// None is lost any more.
    Lossless,
    /// Several faults that together are hard: see [`unfold`].
    Hard(Hard),
}

/// Faults that only together show what they are to show. Who leads is looked up when they happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hard {
    /// The leader and an agent die at the same moment, the agent for good: the next leader must miss it.
    DiesWithLeader(Host),
    /// The leader is cut off from the other coordinators, not from agents and clients.
    StaleLeader,
    /// The same, and meanwhile agents lose those others: they may come back to the stale one.
    BackToStaleLeader,
    /// The leader dies while another coordinator's disk is slow, which loses power when it has had time to vote.
    VoterLosesPower,
    /// An agent is paused, goes on before its lease is over, and is cut off at once.
    Doze(Host),
    /// An agent is cut off, and its connections are broken for its leader, or there is a new one.
    Severed(Host, bool),
    /// The connections of an agent break again and again, and what it sends takes long.
    Flapping(Host),
    /// What the leader says to an agent takes long; then nothing that the agent says arrives, and old answers still do.
    LateAnswers(Host),
}

/// A host that faults happen to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Host {
    /// A coordinator.
    Coordinator(usize),
    /// An agent.
    Agent(usize),
}

impl Host {
    /// Its name on the network.
    pub fn name(self) -> String {
        match self {
            Self::Coordinator(n) => format!("coordinator-{n}"),
            Self::Agent(n) => format!("agent-{n}"),
        }
    }
}

impl Action {
    /// What kind of fault it is; `None` for the mending of one.
    pub fn kind(self) -> Option<&'static str> {
        Some(match self {
            Self::Kill(_) => "kill",
            Self::PowerLoss(_) => "power-loss",
            Self::PowerLossOfAll => "power-loss-of-all",
            Self::EmptyDisk(_) => "emptied-disk",
            Self::FlipBit(_) => "flipped-bit",
            Self::Stop(_) => "stop",
            Self::Retire(_) => "retire",
            Self::FailSync(_) => "failed-sync",
            Self::SlowDisk(..) => "slow-disk",
            Self::HangDisk(_) => "hung-disk",
            Self::FillDisk(..) => "full-disk",
            Self::Cut(..) => "cut",
            Self::CutOneWay(..) => "one-way-cut",
            Self::SlowLink(..) => "slow-link",
            Self::Break(..) => "break",
            Self::Isolate(_) => "isolation",
            Self::Pause(_) => "pause",
            Self::Lossy => "lossy-network",
            Self::Hard(hard) => hard.kind(),
            Self::Start(_) | Self::MendDisk(_) | Self::Mend(..) | Self::Free(_) | Self::Lossless => return None,
        })
    }
}

impl Hard {
    fn kind(self) -> &'static str {
        match self {
            Self::DiesWithLeader(_) => "dies-with-leader",
            Self::StaleLeader => "stale-leader",
            Self::BackToStaleLeader => "back-to-stale-leader",
            Self::VoterLosesPower => "voter-loses-power",
            Self::Doze(_) => "doze",
            Self::Severed(..) => "severed",
            Self::Flapping(_) => "flapping",
            Self::LateAnswers(_) => "late-answers",
        }
    }
}

/// Coordinators and agents there are.
#[derive(Clone, Copy)]
pub struct Size {
    /// Coordinators that the fleet begins with.
    pub coordinators: usize,
    /// Agents.
    pub agents: usize,
}

impl Size {
    fn others(self, of: usize) -> impl Iterator<Item = Host> {
        (0..self.coordinators).filter(move |n| *n != of).map(Host::Coordinator)
    }
}

/// Which faults there are.
pub struct Faults {
    with: BTreeSet<String>,
}

impl Faults {
    /// Those that are on, and those that are asked for.
    pub fn new(with: &[String]) -> Self {
        Self { with: with.iter().cloned().collect() }
    }

    fn has(&self, kind: &str) -> bool {
        !OFF.contains(&kind) || self.with.contains(kind)
    }
}

struct Plan {
    random: SeededRandom,
    size: Size,
    actions: Vec<(Duration, Action)>,
}

/// All actions of a run, by their time.
pub fn plan(seed: u64, size: Size, faults: &Faults, from: Duration, to: Duration) -> Vec<(Duration, Action)> {
    let mut plan = Plan { random: SeededRandom::new(seed), size, actions: Vec::new() };
    // Some runs see many faults, some few.
    let apart = 150 + below(&plan.random, 1_500);
    let mut at = from;
    while at < to {
        plan.fault(at);
        at += Duration::from_millis(1 + below(&plan.random, 2 * apart));
    }
    if below(&plan.random, 3) == 0 {
        plan.actions.push((from, Action::Lossy));
        let until = plan.sometime(from, to);
        plan.actions.push((until, Action::Lossless));
    }
    if below(&plan.random, 2) == 0 {
        plan.lose_disk(from, to);
    }
    plan.hard(from, to);
    let mut actions = plan.actions;
    actions.retain(|(_, action)| action.kind().is_none_or(|kind| faults.has(kind)));
    actions.sort_by_key(|(at, _)| *at);
    actions
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Plan {
    fn below(&self, bound: u64) -> u64 {
        below(&self.random, bound)
    }

    fn coordinator(&self) -> Host {
        Host::Coordinator(self.below(self.size.coordinators as u64) as usize)
    }

    fn agent(&self) -> Host {
        Host::Agent(self.below(self.size.agents as u64) as usize)
    }

    fn host(&self) -> Host {
        if self.below(2) == 0 { self.coordinator() } else { self.agent() }
    }

    fn pair(&self) -> (Host, Host) {
        let (a, mut b) = (self.coordinator(), self.host());
        while a == b {
            b = self.host();
        }
        (a, b)
    }

    fn sometime(&self, from: Duration, to: Duration) -> Duration {
        from + millis(self.below((to - from).as_millis() as u64))
    }

    fn lose_disk(&mut self, from: Duration, to: Duration) {
        let host = self.coordinator();
        let at = self.sometime(from, to);
        let back = at + millis(50 + self.below(3_000));
        let lost = if self.below(2) == 0 { Action::EmptyDisk(host) } else { Action::FlipBit(host) };
        self.actions.push((at, lost));
        self.actions.push((back, Action::Start(host)));
    }

    /// A few of those that are hard, in a part of the runs each.
    fn hard(&mut self, from: Duration, to: Duration) {
        let agent = self.agent();
        let all = [
            Hard::DiesWithLeader(agent),
            Hard::StaleLeader,
            Hard::BackToStaleLeader,
            Hard::VoterLosesPower,
            Hard::Doze(agent),
            Hard::Severed(agent, false),
            Hard::Severed(agent, true),
            Hard::Flapping(agent),
            Hard::LateAnswers(agent),
        ];
        for hard in all {
            if self.below(4) == 0 {
                let at = self.sometime(from, to - millis(4_000));
                self.actions.push((at, Action::Hard(hard)));
            }
        }
    }

    fn fault(&mut self, at: Duration) {
        let host = self.host();
        let disk = self.coordinator();
        let (a, b) = self.pair();
        let (fault, mending) = match self.below(30) {
            0..=2 => (Action::Kill(host), Some(Action::Start(host))),
            3..=5 => (Action::PowerLoss(host), Some(Action::Start(host))),
            6 => (Action::PowerLossOfAll, None),
            7 | 8 => (Action::Stop(host), Some(Action::Start(host))),
            9 | 10 => (Action::FailSync(disk), None),
            11 | 12 => (Action::Cut(a, b), Some(Action::Mend(a, b))),
            13 | 14 => {
                let (from, to) = if self.below(2) == 0 { (a, b) } else { (b, a) };
                (Action::CutOneWay(from, to), Some(Action::Mend(a, b)))
            }
            15 | 16 => (Action::Isolate(host), Some(Action::Free(host))),
            17 | 18 => (Action::SlowDisk(disk, 50 + self.below(950)), Some(Action::MendDisk(disk))),
            19 => (Action::HangDisk(disk), Some(Action::MendDisk(disk))),
            20 => (Action::FillDisk(disk, self.below(100_000)), Some(Action::MendDisk(disk))),
            21 | 22 => {
                let (from, to) = if self.below(2) == 0 { (a, b) } else { (b, a) };
                (Action::SlowLink(from, to, 20 + self.below(600)), Some(Action::Mend(a, b)))
            }
            23 | 24 => (Action::Break(a, b), None),
            _ => (Action::Pause(host), Some(Action::Free(host))),
        };
        self.actions.push((at, fault));
        // Mostly short, sometimes longer than every timeout.
        let most = if self.below(4) == 0 { 6_000 } else { 1_500 };
        let after = at + millis(50 + self.below(most));
        if fault == Action::PowerLossOfAll {
            for host in (0..self.size.coordinators).map(Host::Coordinator) {
                self.actions.push((after + millis(self.below(500)), Action::Start(host)));
            }
        }
        self.actions.extend(mending.map(|mending| (after, mending)));
    }
}

/// What several faults at once are, one after the other, counted from now. `leader` leads now.
pub fn unfold(hard: Hard, leader: usize, size: Size, random: &dyn Random) -> Vec<(Duration, Action)> {
    let leads = Host::Coordinator(leader);
    let now = Duration::ZERO;
    let later = |from: u64, to: u64| millis(from + below(random, to - from));
    match hard {
        Hard::DiesWithLeader(agent) => {
            let again = later(300, 2_000);
            vec![(later(1, 60), Action::Retire(agent)), (now, Action::Kill(leads)), (again, Action::Start(leads))]
        }
        Hard::StaleLeader | Hard::BackToStaleLeader => {
            let mut actions = Vec::new();
            for other in size.others(leader) {
                actions.push((now, Action::Cut(leads, other)));
                actions.push((later(4_000, 6_000), Action::Mend(leads, other)));
            }
            if hard == Hard::BackToStaleLeader {
                // By now the agents are with the next leader.
                let at = later(1_400, 2_800);
                for (other, agent) in
                    size.others(leader).flat_map(|other| (0..size.agents).map(move |n| (other, Host::Agent(n))))
                {
                    // First they learn that their connections are no more.
                    actions.push((at, Action::Break(other, agent)));
                    actions.push((at + millis(7), Action::Cut(other, agent)));
                    actions.push((at + millis(900), Action::Mend(other, agent)));
                }
            }
            actions
        }
        Hard::VoterLosesPower => {
            let mut actions = vec![(now, Action::Kill(leads)), (later(1_500, 2_500), Action::Start(leads))];
            for voter in size.others(leader) {
                let dies = later(250, 700);
                actions.push((now, Action::SlowDisk(voter, 900)));
                actions.push((dies, Action::PowerLoss(voter)));
                actions.push((dies + later(20, 300), Action::MendDisk(voter)));
                actions.push((dies + later(20, 300), Action::Start(voter)));
            }
            actions
        }
        Hard::Doze(agent) => {
            let wakes = later(900, 1_400);
            vec![
                (now, Action::Pause(agent)),
                (wakes, Action::Free(agent)),
                (wakes + later(3, 60), Action::Isolate(agent)),
                (wakes + millis(3_500), Action::Free(agent)),
            ]
        }
        Hard::Severed(agent, with_new_leader) => {
            let mut actions = vec![(later(2_500, 4_000), Action::Free(agent))];
            if with_new_leader {
                actions.push((now, Action::Kill(leads)));
                actions.push((later(300, 1_000), Action::Start(leads)));
            }
            actions.push((now, Action::Break(leads, agent)));
            actions.push((millis(7), Action::Isolate(agent)));
            actions
        }
        Hard::LateAnswers(agent) => {
            let cut = later(1_200, 2_200);
            vec![
                (now, Action::SlowLink(leads, agent, 900)),
                (cut, Action::CutOneWay(agent, leads)),
                (cut + millis(3_500), Action::Mend(leads, agent)),
            ]
        }
        Hard::Flapping(agent) => {
            let slow = (now, Action::SlowLink(agent, leads, 60));
            let breaks = (0..8).map(|n| (millis(300 * n) + later(1, 250), Action::Break(leads, agent)));
            breaks.chain([slow, (millis(2_600), Action::Mend(leads, agent))]).collect()
        }
    }
}
