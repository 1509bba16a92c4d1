//! Determines from a seed which faults happen when. Each is repaired after a while, and none is left at the end.

use std::time::Duration;

use robeing_platform::{Random, simulated::SeededRandom};

use crate::{
    clients::below,
    faults::{Action, Hard, Host, Ill, Kind, Size},
    profile::Swarm,
};

/// The latest start of a hard combination, counted back from the end of all faults.
const HARD_UNTIL: Duration = Duration::from_secs(4);

/// The duration of tasks that are submitted before a hard combination, in milliseconds: mostly longer than it takes to
/// detect the loss of an agent.
const URGENT: (u64, u64) = (3_500, 6_500);

/// How long before a hard combination long tasks are submitted.
const PULSE_BEFORE: Duration = Duration::from_millis(300);

/// Distinguishes the seed of faults between agents.
const BETWEEN_AGENTS: u64 = 0x6265_7477_6565_6e00;
/// The largest number of faults of links between agents.
const MOST_BETWEEN_AGENTS: u64 = 12;

struct Plan<'a> {
    random: SeededRandom,
    size: Size,
    swarm: &'a Swarm,
    actions: Vec<(Duration, Action)>,
}

/// Returns all actions of a run, ordered by time.
pub fn plan(seed: u64, size: Size, swarm: &Swarm, from: Duration, to: Duration) -> Vec<(Duration, Action)> {
    let mut plan = Plan { random: SeededRandom::new(seed), size, swarm, actions: Vec::new() };
    let mut at = from;
    while at < to && !swarm.weights.is_empty() {
        plan.fault(at);
        at += millis(1 + plan.below(2 * swarm.apart));
    }
    if swarm.is_lossy {
        plan.actions.push((from, Action::Lossy));
        let until = plan.sometime(from, to);
        plan.actions.push((until, Action::Lossless));
    }
    if swarm.loses_disk {
        plan.lose_disk(from, to);
    }
    for hard in hard_of(seed).into_iter().filter(|_| swarm.has_hard) {
        let at = plan.sometime(from, to - HARD_UNTIL);
        plan.actions.push((at, Action::Hard(hard)));
    }
    let mut actions = plan.actions;
    if !swarm.weights.is_empty() {
        actions.extend(between_agents(&SeededRandom::new(seed ^ BETWEEN_AGENTS), size, from, to));
    }
    actions.sort_by_key(|(at, _)| *at);
    actions
}

/// Returns the faults of links between agents, over which only messages go.
fn between_agents(random: &dyn Random, size: Size, from: Duration, to: Duration) -> Vec<(Duration, Action)> {
    let mut actions = Vec::new();
    for _ in 0..below(random, MOST_BETWEEN_AGENTS + 1) {
        let one = below(random, size.agents as u64) as usize;
        let other = (one + 1 + below(random, size.agents as u64 - 1) as usize) % size.agents;
        let (a, b) = (Host::Agent(one), Host::Agent(other));
        let at = from + millis(below(random, (to - from).as_millis() as u64));
        let fault = match below(random, 5) {
            0 => Action::CutOneWay(a, b),
            1 => Action::Break(a, b),
            2 => Action::SlowLink(a, b, 20 + below(random, 600)),
            _ => Action::Cut(a, b),
        };
        actions.push((at, fault));
        actions.push((at + millis(50 + below(random, 5_000)), Action::Mend(a, b)));
    }
    actions
}

/// Returns one hard combination, twice, and no other faults.
pub fn only(hard: Hard, from: Duration, to: Duration) -> Vec<(Duration, Action)> {
    [from + PULSE_BEFORE, to - HARD_UNTIL].map(|at| (at, Action::Hard(hard))).into()
}

/// One of this many seeds has only one hard combination, so that no other fault hides its effects.
const FOCUSED_ONE_OF: u64 = 4;

/// Combinations that are next to each other in the list are alike, so focused seeds advance by this many.
const FOCUS_STRIDE: usize = 2;

/// Returns the hard combination that a seed is focused on, if it is such a seed; the combinations take turns.
pub fn focus(seed: u64) -> Option<Hard> {
    let nth = (seed / FOCUSED_ONE_OF) as usize * FOCUS_STRIDE % Hard::ALL.len();
    (seed % FOCUSED_ONE_OF == 2).then(|| Hard::ALL[nth])
}

/// Returns the hard combinations of a seed. Three consecutive seeds, the first of which is divisible by three, together
/// have all of them.
fn hard_of(seed: u64) -> Vec<Hard> {
    let each = Hard::ALL.len().div_ceil(3);
    let random = SeededRandom::new(seed / 3);
    let mut all = Hard::ALL.to_vec();
    for n in (1..all.len()).rev() {
        all.swap(n, below(&random, n as u64 + 1) as usize);
    }
    all.chunks(each).nth((seed % 3) as usize).unwrap_or_default().to_vec()
}

/// Tasks that are submitted so that agents have tasks when a hard combination begins.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// When they are submitted.
    pub at: Duration,
    /// The range of their durations in milliseconds.
    pub lasts: (u64, u64),
}

/// Returns when agents should get additional tasks: before each hard combination.
pub fn pulses(actions: &[(Duration, Action)]) -> Vec<Pulse> {
    let hard = actions
        .iter()
        .filter_map(|(at, action)| if let Action::Hard(hard) = action { Some((*at, *hard)) } else { None });
    hard.map(|(at, hard)| Pulse { at: at.saturating_sub(PULSE_BEFORE), lasts: lasts(hard) }).collect()
}

/// Returns the duration of tasks for a hard combination, in milliseconds.
fn lasts(hard: Hard) -> (u64, u64) {
    match hard {
        // Their results should be in transit while the agent is cut off.
        Hard::LateResults => (500, 1_500),
        // Some of them should end between two breaks.
        Hard::Flapping => (500, 4_500),
        _ => URGENT,
    }
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Plan<'_> {
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

    /// Draws a kind of fault, with the weights of the swarm.
    fn kind(&self) -> Kind {
        let all: u64 = self.swarm.weights.values().sum();
        let mut left = self.below(all.max(1));
        for (kind, weight) in &self.swarm.weights {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return *kind,
            }
        }
        Kind::Kill
    }

    fn fault(&mut self, at: Duration) {
        let host = self.host();
        let disk = self.coordinator();
        let (a, b) = self.pair();
        let (from, to) = if self.below(2) == 0 { (a, b) } else { (b, a) };
        let (fault, mending) = match self.kind() {
            Kind::Kill => (Action::Kill(host), Some(Action::Start(host))),
            Kind::PowerLoss => (Action::PowerLoss(host), Some(Action::Start(host))),
            Kind::PowerLossOfAll => (Action::PowerLossOfAll, None),
            Kind::Stop => (Action::Stop(host), Some(Action::Start(host))),
            Kind::FailSync => (Action::FailSync(disk), None),
            Kind::Cut => (Action::Cut(a, b), Some(Action::Mend(a, b))),
            Kind::CutOneWay => (Action::CutOneWay(from, to), Some(Action::Mend(a, b))),
            Kind::Isolate => (Action::Isolate(host), Some(Action::Free(host))),
            Kind::SlowDisk => (Action::SlowDisk(disk, 50 + self.below(950)), Some(Action::MendDisk(disk))),
            Kind::HangDisk => (Action::HangDisk(disk), Some(Action::MendDisk(disk))),
            Kind::FillDisk => (Action::FillDisk(disk, self.below(100_000)), Some(Action::MendDisk(disk))),
            Kind::SlowLink => (Action::SlowLink(from, to, 20 + self.below(600)), Some(Action::Mend(a, b))),
            Kind::Break => (Action::Break(a, b), None),
            Kind::Pause => (Action::Pause(host), Some(Action::Free(host))),
            Kind::Illness => {
                let agent = self.below(self.size.agents as u64) as usize;
                let ill = Ill::ALL[self.below(Ill::ALL.len() as u64) as usize];
                (Action::Sicken(agent, ill), Some(Action::Cure(agent)))
            }
        };
        self.actions.push((at, fault));
        // Mostly short, sometimes longer than every timeout.
        let most = if self.below(self.swarm.long_one_of) == 0 { 6_000 } else { 1_500 };
        // Only health checks detect illness, which takes time.
        let least = if matches!(fault, Action::Sicken(..)) { 3_000 } else { 50 };
        let after = at + millis(least + self.below(most));
        if fault == Action::PowerLossOfAll {
            for host in (0..self.size.coordinators).map(Host::Coordinator) {
                self.actions.push((after + millis(self.below(500)), Action::Start(host)));
            }
        }
        self.actions.extend(mending.map(|mending| (after, mending)));
    }
}

/// The targets of a hard combination, determined when it begins.
#[derive(Clone, Copy)]
pub struct Scene {
    /// The leader.
    pub leader: usize,
    /// An agent with tasks.
    pub agent: usize,
    /// A worker with tasks, for which other agents can stand in.
    pub replaceable: usize,
    /// The numbers of coordinators and agents.
    pub size: Size,
}

impl Scene {
    /// Returns all coordinators except the leader, including the one that is not a member at first.
    fn others(self) -> impl Iterator<Item = Host> {
        (0..=self.size.coordinators).filter(move |n| *n != self.leader).map(Host::Coordinator)
    }

    fn agents(self) -> impl Iterator<Item = Host> {
        (0..self.size.agents).map(Host::Agent)
    }
}

/// Cuts every link between two sides, and repairs it at `until`.
fn parted(sides: [&[Host]; 2], until: Duration) -> Vec<(Duration, Action)> {
    let pairs = sides[0].iter().flat_map(|a| sides[1].iter().map(move |b| (*a, *b)));
    pairs.flat_map(|(a, b)| [(Duration::ZERO, Action::Cut(a, b)), (until, Action::Mend(a, b))]).collect()
}

/// Returns the actions of a hard combination, with times relative to its start.
#[expect(clippy::too_many_lines, reason = "a table")]
pub fn unfold(hard: Hard, scene: Scene, random: &dyn Random) -> Vec<(Duration, Action)> {
    let (leads, agent) = (Host::Coordinator(scene.leader), Host::Agent(scene.agent));
    let others: Vec<Host> = scene.others().collect();
    let now = Duration::ZERO;
    let later = |from: u64, to: u64| millis(from + below(random, to - from));
    match hard {
        Hard::DiesWithLeader => {
            let again = later(300, 2_000);
            let dies = Action::Retire(Host::Agent(scene.replaceable));
            vec![(later(1, 60), dies), (now, Action::Kill(leads)), (again, Action::Start(leads))]
        }
        Hard::Split => {
            let stays = |host: &Host| *host == agent || below(random, 3) == 0;
            let (mut few, mut many): (Vec<Host>, Vec<Host>) = scene.agents().partition(stays);
            few.push(leads);
            many.extend(others);
            parted([&few, &many], later(3_500, 6_000))
        }
        Hard::BackToStaleLeader => back_to_stale_leader(leads, &others, scene, random),
        Hard::VoterLosesPower => {
            let mut actions = vec![(now, Action::Kill(leads)), (later(1_500, 2_500), Action::Start(leads))];
            for voter in others {
                let dies = later(250, 700);
                actions.push((now, Action::SlowDisk(voter, 900)));
                actions.push((dies, Action::PowerLoss(voter)));
                actions.push((dies + later(20, 300), Action::MendDisk(voter)));
                actions.push((dies + later(20, 300), Action::Start(voter)));
            }
            actions
        }
        Hard::Doze => {
            // Acknowledgements are in transit when it is paused.
            let sleeps = later(600, 1_100);
            let wakes = sleeps + later(380, 540);
            vec![
                (now, Action::SlowLink(leads, agent, 500)),
                (sleeps, Action::Pause(agent)),
                (wakes, Action::Free(agent)),
                (wakes, Action::Isolate(agent)),
                (wakes + millis(3_500), Action::Free(agent)),
            ]
        }
        Hard::Severed | Hard::SeveredUnderNewLeader => {
            let mut actions = vec![(later(2_500, 4_000), Action::Free(agent))];
            if hard == Hard::SeveredUnderNewLeader {
                actions.push((now, Action::Kill(leads)));
                actions.push((later(300, 1_000), Action::Start(leads)));
            }
            actions.push((now, Action::Break(leads, agent)));
            actions.push((millis(7), Action::Isolate(agent)));
            actions
        }
        Hard::LateAnswers => {
            // Slower in steps, so that none seems to be missing.
            let slower = [450, 650, 850, 1_050].into_iter().zip([0, 500, 1_000, 1_500]);
            let slow = slower.map(|(by, at)| (millis(at), Action::SlowLink(leads, agent, by)));
            let cut = later(2_300, 2_900);
            let cuts = [(cut, Action::CutOneWay(agent, leads)), (cut + millis(3_500), Action::Mend(leads, agent))];
            slow.chain(cuts).collect()
        }
        Hard::Unwell => {
            let ill = [Ill::Unhealthy, Ill::Silent, Ill::Hung][below(random, 3) as usize];
            vec![(now, Action::Sicken(scene.agent, ill)), (later(6_500, 8_500), Action::Cure(scene.agent))]
        }
        Hard::LateResults => {
            let arrives = later(1_700, 2_600);
            let mut actions = vec![(now, Action::CutOneWay(agent, leads)), (arrives, Action::Mend(leads, agent))];
            for coordinator in others.into_iter().chain([leads]) {
                actions.push((now, Action::SlowDisk(coordinator, 900)));
                actions.push((arrives + millis(1_500), Action::MendDisk(coordinator)));
            }
            actions
        }
        Hard::Flapping => {
            let slow = (now, Action::SlowLink(agent, leads, 200));
            let breaks = (0..16).map(|n| (millis(300 * n) + later(1, 250), Action::Break(leads, agent)));
            breaks.chain([slow, (millis(5_000), Action::Mend(leads, agent))]).collect()
        }
    }
}

/// When agents lose the other coordinators, they are already connected to the next leader.
fn back_to_stale_leader(leads: Host, others: &[Host], scene: Scene, random: &dyn Random) -> Vec<(Duration, Action)> {
    let at = millis(1_400 + below(random, 1_600));
    let back = at + millis(700 + below(random, 900));
    let mut actions = parted([&[leads], others], millis(4_000 + below(random, 2_000)));
    let all_die = below(random, 2) == 0;
    for other in others {
        if all_die {
            actions.push((at, Action::Kill(*other)));
            actions.push((back, Action::Start(*other)));
            continue;
        }
        for agent in scene.agents() {
            // They first learn that their connections are gone.
            actions.push((at, Action::Break(*other, agent)));
            actions.push((at + millis(7), Action::Cut(*other, agent)));
            actions.push((back, Action::Mend(*other, agent)));
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { coordinators: 3, agents: 5 };
    const SCENE: Scene = Scene { leader: 1, agent: 4, replaceable: 2, size: SIZE };

    #[test]
    fn what_is_hard_is_mended_and_happens_to_those_who_are_meant() {
        let random = SeededRandom::new(1);
        for hard in Hard::ALL {
            for _ in 0..20 {
                let actions = unfold(*hard, SCENE, &random);
                let cut = actions.iter().filter(|(_, action)| matches!(action, Action::Cut(..))).count();
                let mended = actions.iter().filter(|(_, action)| matches!(action, Action::Mend(..))).count();
                assert!(cut <= mended, "{hard:?}: {actions:?}");
                let ends = |what: &Action| actions.iter().filter(|(_, action)| action == what).count();
                let leader = Host::Coordinator(SCENE.leader);
                assert_eq!(ends(&Action::Kill(leader)), ends(&Action::Start(leader)), "{hard:?}");
                let retired = actions.iter().filter(|(_, action)| matches!(action, Action::Retire(_))).count();
                assert_eq!(retired, ends(&Action::Retire(Host::Agent(SCENE.replaceable))), "{hard:?}");
            }
        }
    }

    #[test]
    fn links_between_agents_are_mended() {
        let random = SeededRandom::new(3);
        for _ in 0..20 {
            let actions = between_agents(&random, SIZE, Duration::ZERO, HARD_UNTIL);
            let mended = actions.iter().filter(|(_, action)| matches!(action, Action::Mend(a, b) if a != b)).count();
            assert_eq!(2 * mended, actions.len(), "{actions:?}");
        }
    }

    #[test]
    fn each_kind_has_a_seed_for_itself() {
        let seeds = 0..FOCUSED_ONE_OF * Hard::ALL.len() as u64;
        assert!(seeds.end <= 50, "fifty seeds should have every combination");
        let focused: Vec<Hard> = seeds.filter_map(focus).collect();
        assert_eq!(focused.len(), Hard::ALL.len());
        assert!(Hard::ALL.iter().all(|hard| focused.contains(hard)), "{focused:?}");
    }

    #[test]
    fn three_seeds_have_every_kind() {
        let mut kinds: Vec<String> = (6..9).flat_map(hard_of).map(|hard| format!("{hard:?}")).collect();
        kinds.sort();
        let mut all: Vec<String> = Hard::ALL.iter().map(|hard| format!("{hard:?}")).collect();
        all.sort();
        assert_eq!(kinds, all);
        assert_ne!(hard_of(0), hard_of(3));
    }

    #[test]
    fn a_split_leaves_the_leader_with_an_agent_and_without_a_majority() {
        let actions = unfold(Hard::Split, SCENE, &SeededRandom::new(2));
        let leader = Host::Coordinator(SCENE.leader);
        for other in SCENE.others() {
            assert!(actions.contains(&(Duration::ZERO, Action::Cut(leader, other))), "{other:?}");
        }
        let agent = Host::Agent(SCENE.agent);
        assert!(!actions.iter().any(|(_, action)| *action == Action::Cut(leader, agent)));
    }
}
