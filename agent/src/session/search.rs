//! Decides which coordinator to ask next for the leader, and how long to wait between rounds. Pure: the caller passes
//! in each answer.
//!
//! A round asks each known coordinator at most once, following redirects. While coordinators answer that no leader is
//! known, an election is in progress, and rounds follow each other within [`PROBE_PAUSE`]; when none answers, the
//! pauses grow.

use std::time::Duration;

use robeing_platform::{Random, jittered};
use tokio::time::Instant;

/// The longest pause between rounds while a leader is being elected.
pub const PROBE_PAUSE: Duration = Duration::from_millis(50);
/// How long rounds keep that short pause during an election.
pub const PROBE_EAGERLY: Duration = Duration::from_secs(3);
/// The first pause between rounds in which no coordinator answered.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(20);
/// The longest pause between rounds in which no coordinator answered.
pub const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// How long a coordinator that did not answer is skipped, as long as there are others to ask.
pub const AVOID_FOR: Duration = Duration::from_secs(1);
/// A connection that lasted less than this counts as a failure: the next search begins with a pause.
pub const STABLE_AFTER: Duration = Duration::from_secs(1);
/// The maximum number of addresses learned from coordinators; further ones are ignored.
pub const MAX_LEARNED: usize = 16;

/// The next step of the search.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a Hello to this address.
    Try(String),
    /// Wait this long, then call [`Search::next`] again.
    Pause(Duration),
}

/// The search for the leader.
#[derive(Debug)]
pub struct Search {
    configured: Vec<String>,
    learned: Vec<String>,
    hint: Option<String>,
    tried: Vec<String>,
    avoided: Vec<(String, Instant)>,
    first: usize,
    answered: bool,
    pause_first: bool,
    backoff: Duration,
    since: Instant,
}

impl Search {
    /// Starts a search among `configured` addresses at a random one, so that agents spread over the coordinators.
    pub fn new(configured: Vec<String>, now: Instant, random: &dyn Random) -> Self {
        let first = random.next_u64() as usize % configured.len().max(1);
        Self {
            configured,
            learned: Vec::new(),
            hint: None,
            tried: Vec::new(),
            avoided: Vec::new(),
            first,
            answered: false,
            pause_first: false,
            backoff: FIRST_BACKOFF,
            since: now,
        }
    }

    /// Starts a new search after the connection to `lost` ended, having been open for `lived`. `suspect`: the
    /// connection went silent, so the other coordinators are asked first.
    pub fn begin(&mut self, now: Instant, lost: &str, lived: Duration, suspect: bool) {
        self.since = now;
        self.answered = false;
        self.tried.clear();
        self.avoided.clear();
        self.hint = None;
        if suspect {
            self.avoided.push((lost.to_owned(), now + AVOID_FOR));
        } else {
            self.hint = Some(lost.to_owned());
        }
        self.pause_first = lived < STABLE_AFTER;
        if !self.pause_first {
            self.backoff = FIRST_BACKOFF;
        }
    }

    /// Returns the next step at `now`.
    pub fn next(&mut self, now: Instant, random: &dyn Random) -> Step {
        if std::mem::take(&mut self.pause_first) {
            return Step::Pause(self.back_off(random));
        }
        self.avoided.retain(|(_, until)| *until > now);
        let hint = self.hint.take().filter(|hint| !self.tried.contains(hint));
        if let Some(address) = hint.or_else(|| self.candidate()) {
            self.tried.push(address.clone());
            return Step::Try(address);
        }
        let eager = self.answered && now < self.since + PROBE_EAGERLY;
        self.tried.clear();
        self.first = self.first.wrapping_add(1);
        if !std::mem::take(&mut self.answered) {
            self.avoided.clear();
        }
        Step::Pause(if eager { jittered(random, PROBE_PAUSE) } else { self.back_off(random) })
    }

    /// Records a redirect: the coordinator just tried does not lead, and names the leader (empty if unknown) and the
    /// coordinators it knows.
    pub fn redirected(&mut self, leader: &str, coordinators: &[String]) {
        self.answered = true;
        self.learn(coordinators);
        self.hint = (!leader.is_empty() && !self.is_avoided(leader)).then(|| leader.to_owned());
    }

    /// Records that the coordinator at `address` gave no answer, or no useful one.
    pub fn failed(&mut self, address: &str, now: Instant) {
        self.avoided.push((address.to_owned(), now + AVOID_FOR));
    }

    /// Replaces the learned addresses with those a coordinator reported.
    pub fn learn(&mut self, coordinators: &[String]) {
        if !coordinators.is_empty() {
            self.learned = coordinators.iter().filter(|a| !a.is_empty()).take(MAX_LEARNED).cloned().collect();
        }
    }

    fn back_off(&mut self, random: &dyn Random) -> Duration {
        let pause = jittered(random, self.backoff);
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        pause
    }

    fn candidate(&self) -> Option<String> {
        let known = || self.learned.iter().chain(&self.configured);
        let count = known().count();
        if count == 0 {
            return None;
        }
        let open = known().cycle().skip(self.first % count).take(count);
        open.filter(|a| !self.tried.contains(a)).find(|a| !self.is_avoided(a)).cloned()
    }

    fn is_avoided(&self, address: &str) -> bool {
        self.avoided.iter().any(|(avoided, _)| avoided == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zero;
    impl Random for Zero {
        fn next_u64(&self) -> u64 {
            0
        }
    }

    fn search(addresses: &[&str]) -> (Search, Instant) {
        let now = Instant::now();
        (Search::new(addresses.iter().map(|a| (*a).to_owned()).collect(), now, &Zero), now)
    }

    fn tried(step: Step) -> String {
        match step {
            Step::Try(address) => address,
            Step::Pause(pause) => panic!("expected an address, got a pause of {pause:?}"),
        }
    }

    fn paused(step: Step) -> Duration {
        match step {
            Step::Pause(pause) => pause,
            Step::Try(address) => panic!("expected a pause, got {address}"),
        }
    }

    #[test]
    fn a_redirect_is_followed_at_once() {
        let (mut search, now) = search(&["a:1", "b:1"]);
        assert_eq!(tried(search.next(now, &Zero)), "a:1");
        search.redirected("c:1", &["a:1".into(), "b:1".into(), "c:1".into()]);
        assert_eq!(tried(search.next(now, &Zero)), "c:1");
    }

    #[test]
    fn redirects_in_a_circle_end_with_the_round() {
        let (mut search, now) = search(&["a:1", "b:1"]);
        assert_eq!(tried(search.next(now, &Zero)), "a:1");
        search.redirected("b:1", &[]);
        assert_eq!(tried(search.next(now, &Zero)), "b:1");
        search.redirected("a:1", &[]);
        assert!(paused(search.next(now, &Zero)) <= PROBE_PAUSE);
    }

    #[test]
    fn rounds_stay_quick_while_an_election_goes_on_and_then_slow_down() {
        let (mut search, now) = search(&["a:1"]);
        for _ in 0..20 {
            tried(search.next(now, &Zero));
            search.redirected("", &[]);
            assert!(paused(search.next(now, &Zero)) <= PROBE_PAUSE);
        }
        let later = now + PROBE_EAGERLY;
        let pauses: Vec<Duration> = (0..8)
            .map(|_| {
                tried(search.next(later, &Zero));
                search.redirected("", &[]);
                paused(search.next(later, &Zero))
            })
            .collect();
        assert_eq!(pauses[7], MAX_BACKOFF / 2, "half of it, which is the least that jitter leaves");
    }

    #[test]
    fn pauses_grow_to_their_limit_while_nobody_answers() {
        let (mut search, now) = search(&["a:1"]);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            tried(search.next(now, &Zero));
            search.failed("a:1", now);
            pauses.push(paused(search.next(now, &Zero)));
        }
        assert_eq!(pauses[0], FIRST_BACKOFF / 2);
        assert!(pauses.windows(2).all(|p| p[0] <= p[1]), "{pauses:?}");
        assert_eq!(pauses[7], MAX_BACKOFF / 2);
    }

    #[test]
    fn one_that_did_not_answer_is_left_out_while_others_do() {
        let (mut search, now) = search(&["a:1", "b:1"]);
        assert_eq!(tried(search.next(now, &Zero)), "a:1");
        search.failed("a:1", now);
        for _ in 0..3 {
            assert_eq!(tried(search.next(now, &Zero)), "b:1");
            search.redirected("a:1", &[]);
            paused(search.next(now, &Zero));
        }
        let mut later = Vec::new();
        for _ in 0..2 {
            later.push(tried(search.next(now + AVOID_FOR, &Zero)));
            search.redirected("", &[]);
        }
        assert!(later.contains(&"a:1".to_owned()), "{later:?}");
    }

    #[test]
    fn the_lost_leader_is_asked_first_unless_it_fell_silent() {
        let (mut search, now) = search(&["a:1", "b:1"]);
        search.begin(now, "b:1", STABLE_AFTER, false);
        assert_eq!(tried(search.next(now, &Zero)), "b:1");
        search.begin(now, "a:1", STABLE_AFTER, true);
        assert_eq!(tried(search.next(now, &Zero)), "b:1");
    }

    #[test]
    fn connections_that_do_not_last_are_not_spun_on() {
        let (mut search, now) = search(&["a:1"]);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            search.begin(now, "a:1", Duration::ZERO, false);
            pauses.push(paused(search.next(now, &Zero)));
            tried(search.next(now, &Zero));
        }
        assert_eq!(pauses[9], MAX_BACKOFF / 2);
    }

    #[test]
    fn no_more_addresses_are_learned_than_the_limit() {
        let (mut search, _) = search(&["a:1"]);
        let many: Vec<String> = (0..=MAX_LEARNED).map(|n| format!("c{n}:1")).collect();
        search.learn(&many);
        assert_eq!(search.learned.len(), MAX_LEARNED);
    }
}
