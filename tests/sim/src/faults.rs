//! The faults of machines, processes, disks and the network. [`plan`](crate::plan) determines when they happen.

use std::str::FromStr;

/// A change to the simulated world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The process is gone at once, as after SIGKILL; the data that it wrote remains.
    Kill(Host),
    /// The machine loses power: unsynced writes are lost, torn, or kept, and no peer is notified.
    PowerLoss(Host),
    /// All coordinators lose power at once.
    PowerLossOfAll,
    /// The process is gone, and its machine's disk is replaced by an empty one. This happens to at most one coordinator
    /// in a run: data that only a minority has may be lost, but two emptied disks are a majority.
    EmptyDisk(Host),
    /// The same, for a bit that flips in synced data: the coordinator must detect it, and its disk is replaced.
    FlipBit(Host),
    /// The process is asked to stop.
    Stop(Host),
    /// The process starts again, if it does not run.
    Start(Host),
    /// The process is gone for good.
    Retire(Host),
    /// One of the next syncs fails.
    FailSync(Host),
    /// Syncs take up to this many milliseconds.
    SlowDisk(Host, u64),
    /// Syncs hang.
    HangDisk(Host),
    /// The disk has room for only this many more bytes.
    FillDisk(Host, u64),
    /// The disk works normally again.
    MendDisk(Host),
    /// Nothing arrives between two hosts.
    Cut(Host, Host),
    /// Nothing arrives from the first host at the second.
    CutOneWay(Host, Host),
    /// Everything from the first host to the second takes up to this many milliseconds longer.
    SlowLink(Host, Host, u64),
    /// The link between two hosts is neither cut nor slow any more.
    Mend(Host, Host),
    /// The connections between two hosts break.
    Break(Host, Host),
    /// Nothing arrives from or at a host.
    Isolate(Host),
    /// The process is suspended, as by SIGSTOP; its machine still accepts what is sent to it.
    Pause(Host),
    /// A host is no longer isolated or paused.
    Free(Host),
    /// An agent's executor answers health checks with this illness until it is cured; a failed one until its process is
    /// restarted.
    Sicken(usize, Ill),
    /// An agent's executor is healthy again.
    Cure(usize),
    /// Segments are occasionally lost and retransmitted.
    Lossy,
    /// No more segments are lost.
    Lossless,
    /// A hard combination of faults: see [`unfold`](crate::plan::unfold).
    Hard(Hard),
}

/// An illness of an agent's executor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ill {
    /// It reports that it can't run attempts.
    Unhealthy,
    /// It reports that the process which runs attempts does not answer.
    Silent,
    /// It does not answer.
    Hung,
    /// It reports that it can never run attempts again.
    Failed,
}

impl Ill {
    /// All illnesses.
    pub const ALL: [Self; 4] = [Self::Unhealthy, Self::Silent, Self::Hung, Self::Failed];
}

/// Kinds of single faults.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// See [`Action::Kill`].
    Kill,
    /// See [`Action::PowerLoss`].
    PowerLoss,
    /// See [`Action::PowerLossOfAll`].
    PowerLossOfAll,
    /// See [`Action::Stop`].
    Stop,
    /// See [`Action::FailSync`].
    FailSync,
    /// See [`Action::Cut`].
    Cut,
    /// See [`Action::CutOneWay`].
    CutOneWay,
    /// See [`Action::Isolate`].
    Isolate,
    /// See [`Action::SlowDisk`].
    SlowDisk,
    /// See [`Action::HangDisk`].
    HangDisk,
    /// See [`Action::FillDisk`].
    FillDisk,
    /// See [`Action::SlowLink`].
    SlowLink,
    /// See [`Action::Break`].
    Break,
    /// See [`Action::Pause`].
    Pause,
    /// See [`Action::Sicken`].
    Illness,
}

impl Kind {
    /// All kinds.
    pub const ALL: &[Self] = &[
        Self::Kill,
        Self::PowerLoss,
        Self::PowerLossOfAll,
        Self::Stop,
        Self::FailSync,
        Self::Cut,
        Self::CutOneWay,
        Self::Isolate,
        Self::SlowDisk,
        Self::HangDisk,
        Self::FillDisk,
        Self::SlowLink,
        Self::Break,
        Self::Pause,
        Self::Illness,
    ];
}

/// Faults that are hard only in combination. The leader, and the agents that have tasks, are determined when they
/// begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hard {
    /// The leader and an agent die at the same moment, the agent for good: the next leader must detect its absence.
    DiesWithLeader,
    /// The leader and some agents are cut off from all other hosts, but not from clients.
    Split,
    /// The leader is cut off from the other coordinators, but not from agents and clients, and then agents lose the
    /// other coordinators: they may return to the stale leader.
    BackToStaleLeader,
    /// The leader dies while the other coordinators' disks are slow, and they lose power when they have had time to
    /// vote.
    VoterLosesPower,
    /// An agent is paused while acknowledgements are in transit, resumes before its lease ends, and is then cut off.
    Doze,
    /// An agent is cut off, and its leader sees its connections break.
    Severed,
    /// The same, and the leader dies.
    SeveredUnderNewLeader,
    /// The connections of an agent break repeatedly, and what it sends is slow.
    Flapping,
    /// What the leader sends to an agent is slow; then nothing from the agent arrives, while old responses still reach
    /// it.
    LateAnswers,
    /// What an agent sends arrives while its loss is being written to the log, on slow disks.
    LateResults,
    /// An agent with tasks is unhealthy for longer than health checks need to detect it, and nothing else is wrong with
    /// it.
    Unwell,
}

impl Hard {
    /// All combinations.
    pub const ALL: &[Self] = &[
        Self::DiesWithLeader,
        Self::Split,
        Self::BackToStaleLeader,
        Self::VoterLosesPower,
        Self::Doze,
        Self::Severed,
        Self::SeveredUnderNewLeader,
        Self::Flapping,
        Self::LateAnswers,
        Self::LateResults,
        Self::Unwell,
    ];

    /// Returns its name.
    pub fn kind(self) -> &'static str {
        match self {
            Self::DiesWithLeader => "dies-with-leader",
            Self::Split => "split",
            Self::BackToStaleLeader => "back-to-stale-leader",
            Self::VoterLosesPower => "voter-loses-power",
            Self::Doze => "doze",
            Self::Severed => "severed",
            Self::SeveredUnderNewLeader => "severed-under-new-leader",
            Self::Flapping => "flapping",
            Self::LateAnswers => "late-answers",
            Self::LateResults => "late-results",
            Self::Unwell => "unwell",
        }
    }
}

impl FromStr for Hard {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|hard| hard.kind() == name).copied();
        let names: Vec<&str> = Self::ALL.iter().map(|hard| hard.kind()).collect();
        found.ok_or_else(|| format!("known: {}", names.join(", ")))
    }
}

/// A host to which faults happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Host {
    /// A coordinator.
    Coordinator(usize),
    /// An agent.
    Agent(usize),
}

impl Host {
    /// Returns its name on the network.
    pub fn name(self) -> String {
        match self {
            Self::Coordinator(n) => format!("coordinator-{n}"),
            Self::Agent(n) => format!("agent-{n}"),
        }
    }
}

impl Action {
    /// Returns the kind of the fault, or `None` if the action repairs one.
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
            Self::Sicken(..) => "illness",
            Self::Lossy => "lossy-network",
            Self::Hard(hard) => hard.kind(),
            Self::Start(_) | Self::MendDisk(_) | Self::Mend(..) | Self::Free(_) | Self::Cure(_) | Self::Lossless => {
                return None;
            }
        })
    }
}

/// The numbers of coordinators and agents.
#[derive(Clone, Copy)]
pub struct Size {
    /// The coordinators with which the fleet starts.
    pub coordinators: usize,
    /// The agents.
    pub agents: usize,
}
