//! Which faults happen when. A seed decides all of them; each is mended after a while, and none is left when they stop.

use std::time::Duration;

use robeing_agent::platform::simulated::SeededRandom;

use crate::clients::below;

/// Something done to the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The process is gone at once, as by SIGKILL; what it wrote stays.
    Kill(Host),
    /// The machine loses power: unsynced writes are lost, torn, or kept.
    PowerLoss(Host),
    /// All coordinators at once.
    PowerLossOfAll,
    /// The process is gone, and its machine's disk is replaced by an empty one. Happens to one coordinator of a run at most:
    /// what only a minority has may be lost, but two emptied disks are a majority.
    EmptyDisk(Host),
    /// The process is asked to stop.
    Stop(Host),
    /// The process starts again, if it does not run.
    Start(Host),
    /// A sync fails soon.
    FailSync(Host),
    /// Messages between two are lost.
    Cut(Host, Host),
    /// Messages from one to the other are lost.
    CutOneWay(Host, Host),
    /// What is cut or held between two is no more.
    Mend(Host, Host),
    /// Everything from and to a host is lost.
    Isolate(Host),
    /// Everything from and to a host waits, as if it were frozen.
    Freeze(Host),
    /// A host is cut off or frozen no more; what waited arrives.
    Free(Host),
    /// Links break by themselves.
    Lossy,
    /// Links break no more.
    Lossless,
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
            Self::PowerLoss(_) => "power loss",
            Self::PowerLossOfAll => "power loss of all",
            Self::EmptyDisk(_) => "emptied disk",
            Self::Stop(_) => "stop",
            Self::FailSync(_) => "failed sync",
            Self::Cut(..) => "cut",
            Self::CutOneWay(..) => "one-way cut",
            Self::Isolate(_) => "isolation",
            Self::Freeze(_) => "freeze",
            Self::Lossy => "lossy network",
            Self::Start(_) | Self::Mend(..) | Self::Free(_) | Self::Lossless => return None,
        })
    }
}

/// Coordinators and agents there are.
#[derive(Clone, Copy)]
pub struct Size {
    /// Coordinators.
    pub coordinators: usize,
    /// Agents.
    pub agents: usize,
}

struct Plan {
    random: SeededRandom,
    size: Size,
    actions: Vec<(Duration, Action)>,
}

/// All actions of a run, by their time.
pub fn plan(seed: u64, size: Size, from: Duration, to: Duration) -> Vec<(Duration, Action)> {
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
    }
    if below(&plan.random, 3) == 0 {
        plan.empty_disk(from, to);
    }
    plan.actions.sort_by_key(|(at, _)| *at);
    plan.actions
}

impl Plan {
    fn coordinator(&self) -> Host {
        Host::Coordinator(below(&self.random, self.size.coordinators as u64) as usize)
    }

    fn agent(&self) -> Host {
        Host::Agent(below(&self.random, self.size.agents as u64) as usize)
    }

    fn host(&self) -> Host {
        if below(&self.random, 2) == 0 { self.coordinator() } else { self.agent() }
    }

    fn pair(&self) -> (Host, Host) {
        let (a, mut b) = (self.coordinator(), self.host());
        while a == b {
            b = self.host();
        }
        (a, b)
    }

    fn empty_disk(&mut self, from: Duration, to: Duration) {
        let host = self.coordinator();
        let at = from + Duration::from_millis(below(&self.random, (to - from).as_millis() as u64));
        let back = at + Duration::from_millis(50 + below(&self.random, 3_000));
        self.actions.push((at, Action::EmptyDisk(host)));
        self.actions.push((back, Action::Start(host)));
    }

    fn fault(&mut self, at: Duration) {
        let host = self.host();
        let (a, b) = self.pair();
        let (fault, mending) = match below(&self.random, 20) {
            0..=2 => (Action::Kill(host), Action::Start(host)),
            3..=5 => (Action::PowerLoss(host), Action::Start(host)),
            6 => (Action::PowerLossOfAll, Action::Lossless),
            7 | 8 => (Action::Stop(host), Action::Start(host)),
            9 | 10 => (Action::FailSync(self.coordinator()), Action::Lossless),
            11 | 12 => (Action::Cut(a, b), Action::Mend(a, b)),
            13 | 14 => (Action::CutOneWay(a, b), Action::Mend(a, b)),
            15 | 16 => (Action::Isolate(host), Action::Free(host)),
            _ => (Action::Freeze(host), Action::Free(host)),
        };
        self.actions.push((at, fault));
        // Mostly short, sometimes longer than every timeout.
        let most = if below(&self.random, 4) == 0 { 6_000 } else { 1_500 };
        let after = Duration::from_millis(50 + below(&self.random, most));
        match fault {
            Action::FailSync(_) => {}
            Action::PowerLossOfAll => {
                for n in 0..self.size.coordinators {
                    self.actions.push((
                        at + after + Duration::from_millis(below(&self.random, 500)),
                        Action::Start(Host::Coordinator(n)),
                    ));
                }
            }
            _ => self.actions.push((at + after, mending)),
        }
    }
}
