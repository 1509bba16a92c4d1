//! Tests of one clock, and a model of three coordinators that pass leadership on.

use proptest::prelude::*;

use super::*;

const HOUR: u64 = 3_600_000;
/// Some day in 2027.
const NOON: u64 = 1_800_000_000_000;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The leader of the first term, which is the first of the voters. `ahead` is by how many milliseconds each voter's
/// wall clock is ahead.
struct Leader {
    core: Core,
    start: Instant,
    now: u64,
    ahead: Vec<i64>,
}

impl Leader {
    fn new(voters: usize) -> Self {
        let mut leader = Self { core: Core::new(0), start: Instant::now(), now: 0, ahead: vec![0; voters] };
        leader.core.begin((1, 0), (0..voters as NodeId).collect(), leader.wall(0), leader.at());
        leader
    }

    fn at(&self) -> Instant {
        self.start + ms(self.now)
    }

    fn wall(&self, voter: usize) -> u64 {
        (NOON + self.now).saturating_add_signed(self.ahead[voter])
    }

    /// Lets time pass while all voters report their clocks.
    fn pass(&mut self, millis: u64) -> Stamp {
        let end = self.now + millis;
        while self.now < end {
            self.now = end.min(self.now + 100);
            for voter in 1..self.ahead.len() {
                self.core.read(voter as NodeId, self.wall(voter), self.at());
            }
            let voters = (0..self.ahead.len() as NodeId).collect();
            self.core.look(voters, true, self.wall(0), self.at());
        }
        self.core.stamp(self.wall(0), self.at())
    }
}

#[test]
fn one_wrong_clock_of_three_changes_nothing_and_a_majority_is_followed_slowly() {
    for wrong in 0..3 {
        let mut leader = Leader::new(3);
        let before = leader.pass(10_000);
        leader.ahead[wrong] = 2 * HOUR as i64;
        let after = leader.pass(10_000);
        assert_eq!(after.fleet - before.fleet, 10_000, "wrong: {wrong}");
        assert_eq!(after.wall - before.wall, 10_000, "wrong: {wrong}");
        leader.ahead = vec![2 * HOUR as i64; 3];
        let together = leader.pass(10_000);
        assert_eq!(together.fleet - after.fleet, 10_500);
        assert_eq!(together.wall - after.wall, 2 * HOUR + 10_000);
        leader.ahead = vec![0; 3];
        let back = leader.pass(10_000);
        assert_eq!(back.fleet - together.fleet, 9_500);
        assert_eq!(back.wall, NOON + leader.now);
    }
}

#[test]
fn of_two_clocks_the_one_that_is_right_before_counts() {
    for wrong in 0..2 {
        let mut leader = Leader::new(2);
        leader.pass(10_000);
        leader.ahead[wrong] = -(2 * HOUR as i64);
        let stamp = leader.pass(60_000);
        assert_eq!(stamp.wall, NOON + leader.now, "wrong: {wrong}");
        let (own, at) = (leader.wall(0), leader.at());
        assert_eq!(leader.core.offset(own, at), Some(leader.ahead[0]));
    }
}

#[test]
fn a_coordinator_on_its_own_follows_its_clock_by_five_percent_at_most() {
    let mut leader = Leader::new(1);
    let before = leader.pass(1_000);
    leader.ahead[0] = 2 * HOUR as i64;
    let during = leader.pass(2_000);
    assert_eq!(during.fleet - before.fleet, 2_100);
    leader.ahead[0] = 0;
    let after = leader.pass(1_000);
    // The clock was 100 ms ahead and has lost 50.
    assert_eq!(after.fleet - during.fleet, 950);
    assert_eq!(leader.pass(1_000).fleet - after.fleet, 950);
    let settled = leader.pass(1_000);
    assert_eq!(settled.fleet, settled.wall, "right again");
}

#[test]
fn a_voter_that_is_away_is_taken_to_agree_with_what_was() {
    let mut leader = Leader::new(3);
    leader.pass(1_000);
    // No voter responds any more, and the leader's own clock jumps.
    leader.ahead[0] = 2 * HOUR as i64;
    for _ in 0..10 * READING_TTL.as_secs() {
        leader.now += 1_000;
        leader.core.look(vec![0, 1, 2], true, leader.wall(0), leader.at());
    }
    let stamp = leader.core.stamp(leader.wall(0), leader.at());
    assert_eq!(stamp.wall, NOON + leader.now);
}

#[test]
fn time_stands_still_without_a_majority_in_a_stall_and_while_nobody_leads() {
    let mut leader = Leader::new(3);
    let before = leader.pass(1_000);
    leader.core.look(vec![0, 1, 2], false, leader.wall(0), leader.at());
    leader.now += HOUR;
    leader.core.look(vec![0, 1, 2], true, leader.wall(0), leader.at());
    let after = leader.core.stamp(leader.wall(0), leader.at());
    assert_eq!(after.fleet, before.fleet, "no majority");
    leader.now += HOUR;
    let after = leader.core.stamp(leader.wall(0), leader.at());
    assert!(after.fleet - before.fleet <= 1_050, "a stall");
    leader.core.end(leader.wall(0), leader.at());
    leader.now += HOUR;
    leader.core.begin((2, 0), vec![0, 1, 2], leader.wall(0), leader.at());
    let again = leader.core.stamp(leader.wall(0), leader.at());
    assert_eq!(again.fleet, after.fleet);
    assert_eq!(again.wall, NOON + leader.now, "wall time kept running");
}

#[test]
fn time_in_which_all_coordinators_were_down_does_not_count() {
    const DAY: u64 = 24 * HOUR;
    let now = Instant::now();
    // A restarted coordinator knows what is in its log, but not when that was written.
    let mut core = Core::new(0);
    core.applied((1, 0), Stamp::at(NOON));
    core.begin((2, 0), vec![0], NOON + DAY, now);
    assert_eq!(core.stamp(NOON + DAY, now), Stamp { fleet: NOON, wall: NOON + DAY });
    // A coordinator that kept running.
    let mut core = Core::new(0);
    core.applied((1, 0), Stamp::at(NOON));
    core.heard((1, 1), Stamp::at(NOON + 40), now);
    let later = now + ms(DAY);
    core.begin((2, 0), vec![0], NOON + DAY, later);
    assert_eq!(core.stamp(NOON + DAY, later), Stamp { fleet: NOON + 40, wall: NOON + DAY });
    let second = later + ms(1_000);
    assert!(core.stamp(NOON + DAY + 1_000, second).fleet <= NOON + 40 + 1_050, "not caught up later either");
}

#[test]
fn nothing_is_lost_between_looks_however_dense_they_are() {
    let mut leader = Leader::new(1);
    leader.core.look(vec![0], true, leader.wall(0), leader.at());
    let before = leader.core.stamp(leader.wall(0), leader.at());
    let mut at = leader.at();
    for _ in 0..200_000 {
        at += Duration::from_nanos(500);
        leader.core.stamp(leader.wall(0), at);
    }
    let after = leader.core.stamp(leader.wall(0) + 100, at);
    assert!((95..=105).contains(&(after.fleet - before.fleet)), "{before:?} {after:?}");
}

#[test]
fn a_word_of_an_older_leader_does_not_count_once_a_newer_one_wrote_something() {
    let now = Instant::now();
    let mut core = Core::new(2);
    core.applied((1, 0), Stamp::at(90_000));
    core.heard((1, 0), Stamp::at(100_000), now);
    // Coordinator 1 led without having received that report, and started a duration.
    core.applied((2, 1), Stamp::at(97_000));
    core.heard((1, 0), Stamp::at(101_000), now);
    core.begin((3, 2), vec![0, 1, 2], 0, now);
    assert_eq!(core.stamp(0, now).fleet, 97_000);
}

#[test]
fn a_follower_shows_the_leaders_time_and_not_much_more() {
    let now = Instant::now();
    let mut core = Core::new(1);
    assert_eq!(core.estimate(NOON, now), Stamp { fleet: 0, wall: NOON });
    assert_eq!(core.offset(NOON, now), None);
    core.heard((1, 0), Stamp { fleet: 5_000, wall: NOON }, now);
    let later = now + ms(1_000);
    assert_eq!(core.estimate(0, later), Stamp { fleet: 6_000, wall: NOON + 1_000 });
    assert_eq!(core.stamp(0, later).fleet, 5_000, "its own clock stands still");
    assert_eq!(core.offset(NOON + 8_000, later), Some(7_000));
    assert_eq!(core.estimate(0, now + ms(HOUR)).fleet, 5_000 + WORD_TTL.as_millis() as u64);
    assert_eq!(core.offset(NOON, now + ms(HOUR)), None);
}

#[test]
fn any_reading_and_word_is_taken_without_a_panic() {
    let now = Instant::now();
    let mut core = Core::new(0);
    core.heard((1, 1), Stamp::at(u64::MAX), now);
    core.read(1, u64::MAX, now);
    core.look(vec![0, 1], true, u64::MAX, now);
    core.begin((2, 0), vec![0, 1], u64::MAX, now + ms(10));
    core.look(vec![0, 1], true, 0, now + ms(500));
    core.stamp(0, now + ms(600));
    core.applied((3, 0), Stamp::at(u64::MAX));
    core.stamp(0, now + ms(700));
    core.offset(u64::MAX, now + ms(700));
    core.end(0, now);
}

/// What happens to three coordinators and their clocks.
#[derive(Clone, Debug)]
enum Event {
    /// Real time passes.
    Pass(u64),
    /// This coordinator is elected: it has every committed entry, and a majority knows.
    Elect(NodeId),
    /// This coordinator learns that it no longer leads.
    Depose(NodeId),
    /// The leader's clock report reaches another coordinator.
    Tell(NodeId),
    /// A clock report of the previous leader arrives late, if the receiver does not know of its successor yet.
    TellLate(NodeId),
    /// The leader commits an entry.
    Commit,
    /// Another coordinator applies what is committed.
    Catch(NodeId),
    /// A wall clock is changed.
    Jump(NodeId, i64),
    /// The leader receives another coordinator's wall clock reading.
    Read(NodeId),
    /// The leader loses or gains contact with a majority.
    Contact(bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let node = || 0..3u64;
    let event = prop_oneof![
        6 => (0..900u64).prop_map(Event::Pass),
        1 => node().prop_map(Event::Elect),
        1 => node().prop_map(Event::Depose),
        3 => node().prop_map(Event::Tell),
        1 => node().prop_map(Event::TellLate),
        3 => Just(Event::Commit),
        1 => node().prop_map(Event::Catch),
        1 => (node(), -3 * HOUR as i64..3 * HOUR as i64).prop_map(|(node, by)| Event::Jump(node, by)),
        2 => node().prop_map(Event::Read),
        1 => any::<bool>().prop_map(Event::Contact),
    ];
    prop::collection::vec(event, 1..120)
}

struct World {
    cores: Vec<Core>,
    ahead: Vec<i64>,
    start: Instant,
    now: u64,
    term: u64,
    leader: NodeId,
    before: Option<(Leadership, Stamp)>,
    log: Vec<(Leadership, Stamp)>,
    done: Vec<usize>,
    /// For each coordinator, the newest leadership it knows of and the highest fleet time reported by it.
    told: Vec<(Leadership, u64)>,
}

impl World {
    fn new() -> Self {
        let cores = (0..3).map(Core::new).collect();
        let mut world = Self {
            cores,
            ahead: vec![0; 3],
            start: Instant::now(),
            now: 0,
            term: 0,
            leader: 0,
            before: None,
            log: Vec::new(),
            done: vec![0; 3],
            told: vec![((0, 0), 0); 3],
        };
        world.elect(0);
        world
    }

    fn at(&self) -> Instant {
        self.start + ms(self.now)
    }

    fn wall(&self, node: NodeId) -> u64 {
        (NOON + self.now).saturating_add_signed(self.ahead[node as usize])
    }

    fn leadership(&self) -> Leadership {
        (self.term, self.leader)
    }

    fn catch(&mut self, node: NodeId) {
        let n = node as usize;
        for (leadership, stamp) in &self.log[self.done[n]..] {
            self.cores[n].applied(*leadership, *stamp);
        }
        self.done[n] = self.log.len();
    }

    fn tell(&mut self, node: NodeId, leadership: Leadership, word: Stamp, at: Instant) {
        self.cores[node as usize].heard(leadership, word, at);
        self.note(node, leadership, word);
    }

    fn note(&mut self, node: NodeId, leadership: Leadership, word: Stamp) {
        let told = &mut self.told[node as usize];
        *told = (*told).max((leadership, word.fleet));
    }

    fn elect(&mut self, node: NodeId) {
        let (wall, at) = (self.wall(self.leader), self.at());
        let before = self.leadership();
        let word = self.cores[self.leader as usize].word(before, wall, at);
        self.before = word.map(|stamp| (before, stamp));
        self.term += 1;
        self.leader = node;
        self.catch(node);
        let (wall, leadership) = (self.wall(node), self.leadership());
        self.cores[node as usize].end(wall, at);
        self.cores[node as usize].begin(leadership, vec![0, 1, 2], wall, at);
        let first = self.cores[node as usize].stamp(wall, at);
        let (by, told) = self.told[node as usize];
        let newest = self.log.last().map_or((0, 0), |(leadership, _)| *leadership);
        assert!(by < newest || first.fleet >= told, "{node} begins at {} and knows of {told}", first.fleet);
        self.note(node, leadership, first);
    }

    fn step(&mut self, event: &Event) -> Option<Stamp> {
        let (leader, at, leadership) = (self.leader as usize, self.at(), self.leadership());
        let wall = self.wall(self.leader);
        match *event {
            Event::Pass(millis) => self.now += millis,
            Event::Elect(node) => self.elect(node),
            Event::Depose(node) if node != self.leader => {
                let wall = self.wall(node);
                self.cores[node as usize].end(wall, at);
            }
            Event::Tell(node) if node != self.leader => {
                let word = self.cores[leader].word(leadership, wall, at).expect("it leads");
                self.tell(node, leadership, word, at);
            }
            Event::TellLate(node) if node != self.leader => {
                if let Some((leadership, word)) = self.before {
                    self.tell(node, leadership, word, at);
                }
            }
            Event::Commit => {
                let stamp = self.cores[leader].stamp(wall, at);
                self.log.push((leadership, stamp));
                self.catch(self.leader);
                return Some(stamp);
            }
            Event::Catch(node) => self.catch(node),
            Event::Jump(node, by) => self.ahead[node as usize] = by,
            Event::Read(node) => {
                let read = self.wall(node);
                self.cores[leader].read(node, read, at);
            }
            Event::Contact(in_touch) => self.cores[leader].look(vec![0, 1, 2], in_touch, wall, at),
            Event::Depose(_) | Event::Tell(_) | Event::TellLate(_) => {}
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Fleet time, over all leaders, never goes back and never rises by more than 1.05 of real time; and a leader
    /// starts with the last clock report that it received, if nothing newer is known.
    #[test]
    fn no_duration_ends_early_whoever_leads_and_whatever_clocks_say(events in events()) {
        let mut world = World::new();
        let mut stamps: Vec<(u64, u64)> = Vec::new();
        for event in &events {
            let at = world.now;
            if let Some(stamp) = world.step(event) {
                stamps.push((at, stamp.fleet));
            }
        }
        for (n, (from, begun)) in stamps.iter().enumerate() {
            for (to, ended) in &stamps[n + 1..] {
                prop_assert!(ended >= begun, "back from {begun} to {ended}");
                let passed = to - from;
                prop_assert!(ended - begun <= passed + passed / SLEW_PART + 1, "{} in {passed} ms", ended - begun);
            }
        }
    }

    /// While a coordinator leads and has contact with a majority, fleet time rises by at least 0.95 of real time.
    #[test]
    fn no_duration_ends_late_while_one_leads(events in events()) {
        let mut world = World::new();
        let mut last: Option<(u64, u64, Leadership)> = None;
        for event in &events {
            if matches!(event, Event::Contact(_)) {
                continue;
            }
            let at = world.now;
            let Some(stamp) = world.step(event) else { continue };
            let leadership = world.leadership();
            if let Some((from, begun, led)) = last && led == leadership {
                // The model updates the clock rarely; the clock takes anything beyond a step for a stall.
                let passed = at - from;
                if passed < MAX_STEP.as_millis() as u64 {
                    let least = passed - passed / SLEW_PART;
                    prop_assert!(stamp.fleet - begun + 1 >= least, "{} in {passed} ms", stamp.fleet - begun);
                }
            }
            last = Some((at, stamp.fleet, leadership));
        }
    }
}
