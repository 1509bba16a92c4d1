//! What queues and submitters were served while others waited, from which follows whose turn is next.
//!
//! This is start-time fair queueing, with turns instead of times. A queue is served [`SHARE_STEP`] over its weight for each
//! start, a submitter one. Who was served least is next. Who comes back, or was long not served, would be so low that
//! others had to wait for long. So before a start is counted, a queue is raised to one step below the one whose turn is
//! next, among those that wait for the same agent; and a submitter to where the queue's submitters are now. Among those
//! that wait all the time, this raises nobody.

use std::collections::BTreeMap;

use bilrost::Message;

use crate::{
    limits::{MAX_SHARES, SHARE_STEP},
    sabotage::{Mistake, planted},
};

/// What a queue and its submitters were served.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub(crate) struct Share {
    /// What the queue was served, for its weight.
    #[bilrost(1)]
    pub served: u64,
    /// What the submitter had been served that was served last.
    #[bilrost(2)]
    pub clock: u64,
    /// What submitters count as served who are not listed.
    #[bilrost(3)]
    pub base: u64,
    /// What others were served.
    #[bilrost(4)]
    pub submitters: BTreeMap<String, u64>,
}

impl Share {
    /// Counts a start of a submitter. Returns whether it was listed before.
    fn count(&mut self, submitter: &str) -> bool {
        if let Some(known) = self.submitters.get_mut(submitter) {
            self.clock = self.clock.max(*known);
            *known = self.clock.saturating_add(1);
            return true;
        }
        self.clock = self.clock.max(self.base);
        self.submitters.insert(submitter.to_owned(), self.clock.saturating_add(1));
        false
    }
}

/// The shares of the queues that were served while others waited.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Shares {
    queues: BTreeMap<String, Share>,
    /// The number of submitters in all of them.
    listed: usize,
}

impl Shares {
    /// Returns the shares that are in a snapshot.
    pub(crate) fn from_queues(queues: BTreeMap<String, Share>) -> Shares {
        let listed = queues.values().map(|share| share.submitters.len()).sum();
        Shares { queues, listed }
    }

    pub(crate) fn queues(&self) -> &BTreeMap<String, Share> {
        &self.queues
    }

    pub(crate) fn listed(&self) -> usize {
        self.listed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Returns what a queue was served for its weight.
    pub(crate) fn of_queue(&self, queue: &str) -> u64 {
        self.share(queue).map_or(0, |share| share.served)
    }

    /// Returns what a submitter was served in a queue.
    pub(crate) fn of_submitter(&self, queue: &str, submitter: &str) -> u64 {
        self.share(queue).map_or(0, |share| share.submitters.get(submitter).copied().unwrap_or(share.base))
    }

    fn share(&self, queue: &str) -> Option<&Share> {
        // Most fleets have none.
        if self.queues.is_empty() { None } else { self.queues.get(queue) }
    }

    fn change<R>(&mut self, queue: &str, change: impl FnOnce(&mut Share) -> R) -> R {
        match self.queues.get_mut(queue) {
            Some(share) => change(share),
            None => change(self.queues.entry(queue.to_owned()).or_default()),
        }
    }

    /// Counts a start of a queue of this weight, while the queue whose turn is next was served so much.
    pub(crate) fn count_queue(&mut self, queue: &str, weight: u32, rival: u64) {
        if planted(Mistake::SharesIgnored) {
            return;
        }
        let least = rival.saturating_sub(SHARE_STEP);
        self.change(queue, |share| {
            share.served = share.served.max(least).saturating_add(SHARE_STEP / u64::from(weight.max(1)));
        });
    }

    /// Counts a start of a submitter, while others of the queue wait.
    pub(crate) fn count_submitter(&mut self, queue: &str, submitter: &str) {
        if planted(Mistake::SharesIgnored) {
            return;
        }
        let is_listed = self.change(queue, |share| share.count(submitter));
        if is_listed {
            return;
        }
        self.listed += 1;
        if self.listed > MAX_SHARES {
            self.forget_most();
        }
    }

    /// Has all submitters of the queue that has most start over: all of them count as served as the one that was served
    /// most, so that nobody's turn comes earlier than it was.
    fn forget_most(&mut self) {
        let largest = self.queues.values_mut().max_by_key(|share| share.submitters.len());
        let Some(share) = largest else { return };
        let most = share.submitters.values().max().copied().unwrap_or(0);
        share.base = share.base.max(most);
        self.listed -= share.submitters.len();
        share.submitters.clear();
    }

    /// Forgets everything, as no task waits.
    pub(crate) fn clear(&mut self) {
        *self = Shares::default();
    }

    /// Forgets a queue that has no tasks.
    pub(crate) fn forget(&mut self, queue: &str) {
        if let Some(share) = self.queues.remove(queue) {
            self.listed -= share.submitters.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves these queues with weights, which have tasks all the time, and returns how often each was.
    fn serve(shares: &mut Shares, queues: &[(&str, u32)], times: usize) -> Vec<usize> {
        let mut counts = vec![0; queues.len()];
        for _ in 0..times {
            let mut order: Vec<usize> = (0..queues.len()).collect();
            order.sort_by_key(|n| (shares.of_queue(queues[*n].0), queues[*n].0));
            let rival = shares.of_queue(queues[order[1]].0);
            let (name, weight) = queues[order[0]];
            shares.count_queue(name, weight, rival);
            counts[order[0]] += 1;
        }
        counts
    }

    #[test]
    fn queues_are_served_by_their_weights_at_any_time_within_one_task() {
        let queues = [("a", 1), ("b", 3), ("c", 6)];
        let mut shares = Shares::default();
        let mut counts = [0usize; 3];
        for served in 1..=1_000usize {
            let now = serve(&mut shares, &queues, 1);
            counts.iter_mut().zip(now).for_each(|(count, more)| *count += more);
            for (count, (name, weight)) in counts.iter().zip(queues) {
                let (count, share) = (*count as f64, served as f64 * f64::from(weight) / 10.0);
                assert!((count - share).abs() <= f64::from(weight), "{name} has {count} of {served}");
            }
        }
        assert_eq!(counts, [100, 300, 600]);
    }

    #[test]
    fn a_queue_that_comes_later_gets_its_share_from_then_on_and_nothing_for_before() {
        let mut shares = Shares::default();
        serve(&mut shares, &[("a", 1), ("b", 1)], 10_000);
        let counts = serve(&mut shares, &[("a", 1), ("b", 1), ("new", 1)], 30);
        assert!(counts.iter().all(|count| (9..=11).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_queue_that_was_served_elsewhere_does_not_wait_for_those_that_were_not() {
        let mut shares = Shares::default();
        serve(&mut shares, &[("busy", 1), ("other", 1)], 10_000);
        let counts = serve(&mut shares, &[("busy", 1), ("slow", 1)], 20);
        assert!(counts.iter().all(|count| (9..=11).contains(count)), "{counts:?}");
    }

    #[test]
    fn submitters_have_turns_one_after_the_other_whenever_they_came() {
        let mut shares = Shares::default();
        for _ in 0..1_000 {
            shares.count_submitter("q", "early");
        }
        let mut counts = [0; 3];
        for _ in 0..30 {
            let names = ["early", "late", "later"];
            let first = (0..3).min_by_key(|n| shares.of_submitter("q", names[*n])).expect("there are three");
            shares.count_submitter("q", names[first]);
            counts[first] += 1;
        }
        assert!(counts.iter().all(|count| (9..=11).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_submitters_of_the_largest_queue_start_over_when_there_are_too_many() {
        let mut shares = Shares::default();
        shares.count_submitter("small", "one");
        for n in 0..MAX_SHARES - 1 {
            shares.count_submitter("large", &format!("s{n}"));
        }
        assert_eq!(shares.listed(), MAX_SHARES);
        let before = shares.of_submitter("large", "s0");
        shares.count_submitter("large", "another");
        assert_eq!((shares.listed(), shares.of_submitter("small", "one")), (1, 1));
        for name in ["s0", "another", "never"] {
            assert!(shares.of_submitter("large", name) >= before, "{name}: no turn comes earlier");
        }
    }
}
