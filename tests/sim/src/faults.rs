//! What may go wrong: with machines, processes, disks and the network. When, is in [`plan`](crate::plan).

use std::str::FromStr;

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
    /// An agent's executor answers health checks so, until it is cured; one that has failed until its process starts again.
    Sicken(usize, Ill),
    /// An agent's executor is well.
    Cure(usize),
    /// Segments are lost now and then, and sent again.
    Lossy,
    /// None is lost any more.
    Lossless,
    /// Several faults that together are hard: see [`unfold`](crate::plan::unfold).
    Hard(Hard),
}

/// What ails an agent's executor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ill {
    /// It says that it can't run attempts.
    Unhealthy,
    /// It says that what runs attempts does not answer.
    Silent,
    /// It does not answer.
    Hung,
    /// It says that it can never run attempts again.
    Failed,
}

impl Ill {
    /// All of them.
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
    /// All of them.
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

/// Faults that only together show what they are to show. Who leads, and which agent has work, is looked up when they happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hard {
    /// The leader and an agent die at the same moment, the agent for good: the next leader must miss it.
    DiesWithLeader,
    /// The leader and some agents are cut off from everybody else, but not from clients.
    Split,
    /// The leader is cut off from the other coordinators, not from agents and clients, and meanwhile agents lose those others:
    /// they may come back to the stale one.
    BackToStaleLeader,
    /// The leader dies while another coordinator's disk is slow, which loses power when it has had time to vote.
    VoterLosesPower,
    /// An agent is paused while acknowledgements are on their way, goes on before its lease is over, and is cut off by then.
    Doze,
    /// An agent is cut off, and its connections break for its leader.
    Severed,
    /// The same, and the leader dies.
    SeveredUnderNewLeader,
    /// The connections of an agent break again and again, and what it sends takes long.
    Flapping,
    /// What the leader says to an agent takes long; then nothing that the agent says arrives, and old answers still do.
    LateAnswers,
    /// What an agent says arrives when its loss is on the way into the log, on disks that are slow.
    LateResults,
    /// An agent with work is not well for longer than health checks take to find out, and nothing else is wrong with it.
    Unwell,
}

impl Hard {
    /// All of them.
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

    /// Its name.
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
        found.ok_or_else(|| format!("there are {}", names.join(", ")))
    }
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
            Self::Sicken(..) => "illness",
            Self::Lossy => "lossy-network",
            Self::Hard(hard) => hard.kind(),
            Self::Start(_) | Self::MendDisk(_) | Self::Mend(..) | Self::Free(_) | Self::Cure(_) | Self::Lossless => {
                return None;
            }
        })
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
