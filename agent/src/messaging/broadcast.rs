//! A broadcast: who gets it by which way, and what became of it. Pure.
//!
//! Up to [`DIRECT_FANOUT`] receivers get the message directly. Beyond that, messengers pass it on, a slice each, so that
//! a sender does not need a stream to each of a thousand agents. A slice whose messenger fails goes to another one, and
//! after [`RELAY_TRIES`] messengers to the receivers directly. Each receiver's packet has one id, whichever way it
//! takes, so the receiver handles it once.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::{inbox::is_handled, outcome::Outcome, packet::PacketId};

/// Maximum number of receivers that get a broadcast directly although there are messengers.
pub const DIRECT_FANOUT: usize = 64;
/// Maximum number of receivers that are sent to directly at once.
pub const DIRECT_AT_ONCE: usize = 64;
/// Maximum number of receivers that a messenger is asked to pass a message on to at once.
pub const SLICE: usize = 128;
/// Maximum number of targets of a relay that a messenger accepts.
pub const MAX_TARGETS: usize = 256;
const _: () = assert!(SLICE <= MAX_TARGETS);
/// Number of messengers that a slice is given to, one after another.
pub const RELAY_TRIES: u32 = 2;

/// A receiver of a broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: Arc<str>,
    /// The id of its packet.
    pub id: PacketId,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Work {
    /// Send to this receiver, and pass the outcome to [`Broadcast::sent`].
    Direct(Target),
    /// Ask this messenger to pass the message on, and pass its report to [`Broadcast::relayed`].
    Relay(Slice),
}

/// The receivers that a messenger passes the message on to.
#[derive(Debug, PartialEq, Eq)]
pub struct Slice {
    /// The messenger.
    pub messenger: Arc<str>,
    /// The receivers.
    pub targets: Vec<Target>,
    tries: u32,
}

/// What became of a broadcast.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BroadcastReport {
    /// The receivers whose handler accepted the message, or to which it was sent if it requires no acknowledgement,
    /// sorted by name.
    pub acknowledged: Vec<Arc<str>>,
    /// The other receivers, and what became of their message, sorted by name.
    pub missed: Vec<(Arc<str>, Outcome)>,
}

/// A broadcast that is under way.
pub struct Broadcast {
    direct: VecDeque<Target>,
    slices: VecDeque<(Vec<Target>, u32)>,
    /// Messengers that have not failed, the one whose turn it is first.
    messengers: VecDeque<Arc<str>>,
    pending: BTreeMap<PacketId, Arc<str>>,
    /// Of these packets, those that a messenger may have passed on without a report.
    unclear: HashSet<PacketId>,
    report: BroadcastReport,
}

impl Broadcast {
    /// Plans a broadcast to these receivers, by way of these messengers if there are many. Messengers among the
    /// receivers get the message directly.
    pub fn new(targets: Vec<Target>, messengers: Vec<Arc<str>>) -> Self {
        let pending = targets.iter().map(|target| (target.id, Arc::clone(&target.name))).collect();
        let is_direct = targets.len() <= DIRECT_FANOUT || messengers.is_empty();
        let (direct, relayed): (Vec<_>, Vec<_>) =
            targets.into_iter().partition(|target| is_direct || messengers.contains(&target.name));
        // All messengers get about as much to do.
        let size = relayed.len().div_ceil(messengers.len().max(1)).clamp(1, SLICE);
        let slices = relayed.chunks(size).map(|slice| (slice.to_vec(), 0)).collect();
        let (direct, messengers) = (direct.into(), messengers.into());
        Self { direct, slices, messengers, pending, unclear: HashSet::new(), report: BroadcastReport::default() }
    }

    /// Returns what to do next. `None`: nothing, until more outcomes are known.
    pub fn next_work(&mut self) -> Option<Work> {
        if let Some((targets, tries)) = self.slices.pop_front() {
            if tries < RELAY_TRIES
                && let Some(messenger) = self.messengers.pop_front()
            {
                self.messengers.push_back(Arc::clone(&messenger));
                return Some(Work::Relay(Slice { messenger, targets, tries }));
            }
            self.direct.extend(targets);
        }
        match self.direct.pop_front() {
            Some(target) => Some(Work::Direct(target)),
            None if self.slices.is_empty() => None,
            None => self.next_work(),
        }
    }

    /// Returns whether the message may have arrived before at a receiver that this is to be done for.
    pub fn may_have_arrived(&self, work: &Work) -> bool {
        let targets = match work {
            Work::Direct(target) => std::slice::from_ref(target),
            Work::Relay(slice) => &slice.targets,
        };
        targets.iter().any(|target| self.unclear.contains(&target.id))
    }

    /// Records the outcome of a message that was sent directly.
    pub fn sent(&mut self, target: &Target, outcome: Outcome) {
        let Some(name) = self.pending.remove(&target.id) else { return };
        match outcome {
            outcome if !is_handled(&outcome) && self.unclear.contains(&target.id) => {
                self.report.missed.push((name, Outcome::DeadlinePassed { maybe_handled: true }));
            }
            Outcome::Accepted { .. } | Outcome::Sent => self.report.acknowledged.push(name),
            outcome => self.report.missed.push((name, outcome)),
        }
    }

    /// Records a messenger's report; the error of one that has failed. What it could not deliver is sent directly, and
    /// what it did not report goes to another messenger.
    pub fn relayed(&mut self, slice: Slice, report: Result<Vec<(PacketId, Outcome)>, Outcome>) {
        let was_not_passed_on = report.as_ref().is_err_and(|outcome| !is_handled(outcome));
        let reported: HashMap<_, _> = match report {
            Ok(outcomes) => outcomes.into_iter().collect(),
            Err(_) => {
                self.messengers.retain(|messenger| *messenger != slice.messenger);
                HashMap::new()
            }
        };
        let mut left = Vec::new();
        for target in slice.targets {
            match reported.get(&target.id) {
                Some(Outcome::Away { .. } | Outcome::NoSuchAgent { .. } | Outcome::Overloaded { .. }) => {
                    self.direct.push_back(target);
                }
                Some(outcome) => self.sent(&target, outcome.clone()),
                None => left.push(target),
            }
        }
        if !was_not_passed_on {
            self.unclear.extend(left.iter().map(|target| target.id));
        }
        if !left.is_empty() {
            self.slices.push_back((left, slice.tries + 1));
        }
    }

    /// Returns whether every receiver has its outcome.
    pub fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// Ends the broadcast: receivers without outcome get this one.
    pub fn finish(mut self, left: &Outcome) -> BroadcastReport {
        let left = self.pending.into_values().map(|name| (name, left.clone()));
        self.report.missed.extend(left);
        self.report.acknowledged.sort();
        self.report.missed.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.report
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn targets(count: usize) -> Vec<Target> {
        let target = |n: usize| Target { name: format!("agent-{n:04}").into(), id: PacketId(n as u128) };
        (0..count).map(target).collect()
    }

    fn messengers(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|n| format!("messenger-{n}").into()).collect()
    }

    fn all(broadcast: &mut Broadcast) -> (usize, Vec<Slice>) {
        let (mut direct, mut slices) = (0, Vec::new());
        while let Some(work) = broadcast.next_work() {
            match work {
                Work::Direct(_) => direct += 1,
                Work::Relay(slice) => slices.push(slice),
            }
        }
        (direct, slices)
    }

    #[test]
    fn a_few_receivers_get_it_directly_and_many_by_way_of_messengers() {
        assert_eq!(all(&mut Broadcast::new(targets(DIRECT_FANOUT), messengers(3))), (DIRECT_FANOUT, vec![]));
        assert_eq!(all(&mut Broadcast::new(targets(1_000), vec![])), (1_000, vec![]));
        let (direct, slices) = all(&mut Broadcast::new(targets(DIRECT_FANOUT + 1), messengers(3)));
        let sizes: Vec<_> = slices.iter().map(|slice| slice.targets.len()).collect();
        assert_eq!((direct, sizes), (0, vec![22, 22, 21]));
        let (_, slices) = all(&mut Broadcast::new(targets(1_000), messengers(2)));
        assert_eq!(slices.iter().map(|slice| slice.targets.len()).max(), Some(SLICE));
    }

    #[test]
    fn what_a_messenger_fails_at_goes_to_another_and_then_directly() {
        let mut broadcast = Broadcast::new(targets(DIRECT_FANOUT + 1), messengers(1));
        let Some(Work::Relay(slice)) = broadcast.next_work() else { panic!("a relay") };
        broadcast.relayed(slice, Err(Outcome::away("gone")));
        assert_eq!(all(&mut broadcast).0, DIRECT_FANOUT + 1, "there is no other messenger");

        let mut broadcast = Broadcast::new(targets(DIRECT_FANOUT + 1), messengers(2));
        let Some(Work::Relay(slice)) = broadcast.next_work() else { panic!("a relay") };
        let (first, count) = (Arc::clone(&slice.messenger), slice.targets.len());
        let mut outcomes: Vec<_> =
            slice.targets.iter().skip(2).map(|target| (target.id, Outcome::accepted(None))).collect();
        outcomes.push((slice.targets[0].id, Outcome::away("cut off from the messenger")));
        broadcast.relayed(slice, Ok(outcomes));
        let (direct, slices) = all(&mut broadcast);
        assert_eq!(direct, 1, "what the messenger can't reach");
        assert_eq!(slices.iter().map(|slice| slice.targets.len()).collect::<Vec<_>>(), [DIRECT_FANOUT + 1 - count, 1]);
        assert_eq!(slices[1].messenger, first, "the other one has its turn before");
        assert_eq!(broadcast.report.acknowledged.len(), count - 2);
    }

    #[test]
    fn what_a_messenger_may_have_passed_on_is_marked_and_reported_as_maybe_handled() {
        for (report, is_unclear) in [
            (Err(Outcome::away("gone")), false),
            (Err(Outcome::DeadlinePassed { maybe_handled: true }), true),
            (Ok(Vec::new()), true),
        ] {
            let mut broadcast = Broadcast::new(targets(DIRECT_FANOUT + 1), messengers(1));
            let work = broadcast.next_work().expect("a relay");
            assert!(!broadcast.may_have_arrived(&work));
            let Work::Relay(slice) = work else { panic!("a relay") };
            let first = slice.targets[0].clone();
            broadcast.relayed(slice, report);
            assert_eq!(broadcast.may_have_arrived(&Work::Direct(first.clone())), is_unclear);
            broadcast.sent(&first, Outcome::away("cut off"));
            let (_, outcome) = &broadcast.report.missed[0];
            assert_eq!(*outcome == Outcome::DeadlinePassed { maybe_handled: true }, is_unclear, "{outcome}");
        }
    }

    #[test]
    fn the_report_names_who_did_not_acknowledge_and_why() {
        let mut broadcast = Broadcast::new(targets(3), vec![]);
        let all = targets(3);
        broadcast.sent(&all[2], Outcome::accepted(None));
        broadcast.sent(&all[1], Outcome::refused("busy"));
        broadcast.sent(&all[1], Outcome::accepted(None));
        assert!(!broadcast.is_done());
        let report = broadcast.finish(&Outcome::DeadlinePassed { maybe_handled: true });
        assert_eq!(report.acknowledged, [Arc::from("agent-0002")]);
        let missed: Vec<_> = report.missed.iter().map(|(name, outcome)| (&**name, outcome.name())).collect();
        assert_eq!(missed, [("agent-0000", "deadline_passed"), ("agent-0001", "refused")]);
    }

    proptest! {
        #[test]
        fn every_receiver_is_reported_once_whatever_fails(
            count in 0_usize..300, helpers in 0_usize..5, failures in proptest::collection::vec(0_u8..4, 0..40),
        ) {
            let mut broadcast = Broadcast::new(targets(count), messengers(helpers));
            let mut failures = failures.into_iter();
            let mut steps = 0;
            while let Some(work) = broadcast.next_work() {
                steps += 1;
                prop_assert!(steps <= 4 * count + 40, "it ends");
                match (work, failures.next().unwrap_or(0)) {
                    (Work::Direct(target), 0) => broadcast.sent(&target, Outcome::accepted(None)),
                    (Work::Direct(target), _) => broadcast.sent(&target, Outcome::away("x")),
                    (Work::Relay(slice), 1) => broadcast.relayed(slice, Err(Outcome::away("x"))),
                    (Work::Relay(slice), 2) => broadcast.relayed(slice, Ok(Vec::new())),
                    (Work::Relay(slice), failure) => {
                        let outcome = if failure == 0 { Outcome::accepted(None) } else { Outcome::away("x") };
                        let outcomes = slice.targets.iter().map(|target| (target.id, outcome.clone())).collect();
                        broadcast.relayed(slice, Ok(outcomes));
                    }
                }
            }
            prop_assert!(broadcast.is_done());
            let report = broadcast.finish(&Outcome::Sent);
            let names: HashSet<_> =
                report.acknowledged.iter().chain(report.missed.iter().map(|(name, _)| name)).collect();
            prop_assert_eq!((names.len(), report.acknowledged.len() + report.missed.len()), (count, count));
        }
    }
}
