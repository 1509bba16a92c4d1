//! The records of an agent by kind of task: one that is good at one kind may be bad at another. Only a few are kept; a
//! kind of which none is kept counts by the agent's record of everything.

use std::sync::Arc;

use bilrost::Message;

use super::{Agent, TrackRecord, moved, performance};
use crate::{AgentId, Feature, Fleet, limits::MAX_KIND_RECORDS};

/// The difference, in thousandths, from which on an agent's performance for a kind counts for the kind, and not that for
/// everything. Else most agents would be ranked again for each of their kinds whenever one of their tasks starts or ends.
const LEAST_DEVIATION: u32 = 50;

/// The record of an agent for one kind of task, in integers so that every coordinator computes the same.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct KindRecord {
    /// The kind.
    #[bilrost(1)]
    pub kind: Arc<str>,
    /// Share of attempts that succeeded, moving average, millionths (0 to [`TrackRecord::ONE`]).
    #[bilrost(2)]
    pub success: u32,
    /// Speed relative to the fleet's mean for the kind, moving average, millionths.
    #[bilrost(3)]
    pub speed: u32,
    /// The fleet's revision when an attempt of the kind last counted.
    #[bilrost(4)]
    pub(crate) seen: u64,
}

/// The record that an attempt counts for, besides that of everything.
#[derive(Clone, Debug)]
pub(crate) enum KindSample {
    /// Records are not kept by kind.
    None,
    /// The record at this place of [`Agent::kinds`], at this revision of the fleet.
    Known(usize, u64),
    /// That of this kind, of which the agent has none, at this revision of the fleet.
    New(Arc<str>, u64),
}

fn deviates(performance: u32, of_all: u32) -> bool {
    performance.abs_diff(of_all) >= LEAST_DEVIATION
}

impl KindRecord {
    /// Returns the performance, 0 to 1000, as [`TrackRecord::performance`] does.
    pub fn performance(&self) -> u32 {
        performance(self.success, self.speed)
    }
}

impl Agent {
    /// Returns the performance that counts for tasks of a kind, 0 to 1000: that for everything, unless the one for the kind
    /// differs by a twentieth or more.
    pub fn performance_of(&self, kind: &str) -> u32 {
        let of_all = self.record.performance();
        let own = self.kinds.iter().find(|record| *record.kind == *kind).map(KindRecord::performance);
        own.filter(|own| deviates(*own, of_all)).unwrap_or(of_all)
    }

    /// Returns the kinds for which another performance counts than that of everything, and that performance.
    pub(crate) fn deviating(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        let of_all = self.record.performance();
        let kinds = self.kinds.iter().map(|record| (&record.kind, record.performance()));
        kinds.filter(move |(_, performance)| deviates(*performance, of_all))
    }

    /// Counts an attempt that succeeded at this relative speed.
    pub(crate) fn note_success(&mut self, speed: u32, sample: KindSample) {
        if let Some(record) = self.sampled(sample) {
            record.success = moved(record.success, TrackRecord::ONE);
            record.speed = moved(record.speed, speed);
        }
        self.record.note_success(speed);
    }

    /// Counts an attempt that failed.
    pub(crate) fn note_failure(&mut self, sample: KindSample) {
        if let Some(record) = self.sampled(sample) {
            record.success = moved(record.success, 0);
        }
        self.record.note_failure(1);
    }

    /// Counts the loss of the agent with this many attempts, which says something about all kinds.
    pub(crate) fn note_loss(&mut self, attempts: u32) {
        for record in &mut self.kinds {
            record.success = moved(record.success, 0);
        }
        self.record.note_failure(attempts);
    }

    /// Returns the record that an attempt counts for. A new one begins as the record of everything is before the attempt
    /// counts, and takes the place of the one that was not used for longest if there are too many.
    fn sampled(&mut self, sample: KindSample) -> Option<&mut KindRecord> {
        let (place, seen) = match sample {
            KindSample::None => return None,
            KindSample::Known(place, seen) => (place, seen),
            KindSample::New(kind, seen) => {
                let TrackRecord { success, speed, .. } = self.record;
                if self.kinds.len() >= MAX_KIND_RECORDS {
                    let records = self.kinds.iter().enumerate();
                    // Of equal ones, which there are not, the first.
                    let oldest = records.min_by_key(|(_, record)| record.seen).map(|(place, _)| place);
                    if let Some(place) = oldest {
                        self.kinds.remove(place);
                    }
                }
                let place = self.kinds.partition_point(|record| record.kind < kind);
                self.kinds.insert(place, KindRecord { kind, success, speed, seen });
                (place, seen)
            }
        };
        let record = self.kinds.get_mut(place)?;
        record.seen = seen;
        Some(record)
    }

    /// Returns whether the records by kind are within their bounds. There are none in a fleet that does not keep any.
    pub(crate) fn are_kinds_sound(&self, are_kept: bool, revision: u64) -> bool {
        let is_sound = |record: &KindRecord| {
            !record.kind.is_empty()
                && record.success <= TrackRecord::ONE
                && record.speed <= TrackRecord::ONE
                && record.seen <= revision
        };
        (are_kept || self.kinds.is_empty())
            && self.kinds.len() <= MAX_KIND_RECORDS
            && self.kinds.is_sorted_by(|one, next| one.kind < next.kind)
            && self.kinds.iter().all(is_sound)
    }
}

impl Fleet {
    /// Returns the record that an attempt of an agent at the task with this number counts for.
    pub(crate) fn sample_of(&self, agent: AgentId, seq: u64) -> KindSample {
        let task = self.state.tasks.kept.get(&seq);
        task.map_or(KindSample::None, |task| self.kind_sample(agent, &task.kind))
    }

    /// Returns the record that an attempt of an agent at a task of this kind counts for.
    pub(crate) fn kind_sample(&self, agent: AgentId, kind: &str) -> KindSample {
        if !self.has(Feature::Kinds) {
            return KindSample::None;
        }
        let seen = self.state.revision;
        let records = self.state.agents.known.get(&agent).map(|agent| &agent.kinds[..]).unwrap_or_default();
        match records.iter().position(|record| *record.kind == *kind) {
            Some(place) => KindSample::Known(place, seen),
            None => KindSample::New(Arc::from(kind), seen),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        AgentCommand, AgentJoin, Command, Completion, ControlCommand, FleetConfig, Outcome, Reply, Role, SessionId,
        Stamp, SubmitTask, TaskCommand, TaskId, known_version,
    };

    fn fleet() -> (Fleet, AgentId, SessionId) {
        let mut effects = Vec::new();
        let mut fleet = Fleet::new(FleetConfig::default());
        fleet.apply(Stamp::at(1), Command::Control(ControlCommand::RaiseVersion(known_version())), &mut effects);
        let join = AgentJoin {
            name: "a".to_owned(),
            incarnation: 1,
            role: Role::Worker,
            pool: None,
            specializations: Vec::new(),
            slots: 1,
            address: String::new(),
            process: None,
            pid: 1,
            version: String::new(),
            sealing_key: None,
            contributed: None,
        };
        let joined = fleet.apply(Stamp::at(1), Command::Agent(AgentCommand::Joined(join)), &mut effects);
        let Reply::Joined { agent, session } = joined else { panic!("it is refused: {joined:?}") };
        (fleet, agent, session)
    }

    /// Runs a task of this kind, and returns the kinds of which there are records then.
    fn run(fleet: &mut Fleet, agent: AgentId, session: SessionId, n: u128, kind: &str) -> Vec<String> {
        let (mut effects, task) = (Vec::new(), TaskId(n));
        let submit = TaskCommand::Submit(SubmitTask::new(task, kind, Bytes::new()));
        fleet.apply(Stamp::at(1), Command::Task(submit), &mut effects);
        let outcome = Outcome::Succeeded(Bytes::new());
        let done = Completion { agent, session, task, attempt: 1, ran_us: 10, outcome };
        let reply = fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Complete(done)), &mut effects);
        assert_eq!(reply, Reply::Completed);
        assert_eq!(fleet.audit(), Ok(()));
        let kinds = fleet.agent(agent).map(|agent| agent.kinds.iter().map(|record| record.kind.to_string()).collect());
        kinds.unwrap_or_default()
    }

    #[test]
    fn the_kind_that_counted_longest_ago_makes_room_for_another_one() {
        let (mut fleet, agent, session) = fleet();
        for n in 0..MAX_KIND_RECORDS {
            let kept = run(&mut fleet, agent, session, n as u128, &format!("k{n}"));
            assert_eq!(kept.len(), n + 1);
        }
        let all = run(&mut fleet, agent, session, 100, "k0");
        assert_eq!(all.len(), MAX_KIND_RECORDS, "as many as are kept");
        let kept = run(&mut fleet, agent, session, 101, "another");
        assert_eq!(kept.len(), MAX_KIND_RECORDS);
        assert!(kept.contains(&"k0".to_owned()) && kept.contains(&"another".to_owned()), "{kept:?}");
        assert!(!kept.contains(&"k1".to_owned()), "{kept:?}");
    }

    #[test]
    fn a_kind_counts_for_itself_from_a_difference_of_a_twentieth_on() {
        let (mut fleet, agent, session) = fleet();
        run(&mut fleet, agent, session, 1, "k");
        let mut agent = Agent::clone(fleet.agent(agent).expect("it has joined"));
        let of_all = agent.record.performance();
        for (less, counts) in [(LEAST_DEVIATION - 1, false), (LEAST_DEVIATION, true)] {
            // A thousandth of the performance is so much of the speed, of which three tenths count.
            agent.kinds[0].success = agent.record.success;
            agent.kinds[0].speed = agent.record.speed - less * 10_000 / 3;
            assert_eq!(agent.kinds[0].performance(), of_all - less);
            assert_eq!(agent.performance_of("k"), if counts { of_all - less } else { of_all });
            assert_eq!(agent.deviating().count(), usize::from(counts));
        }
    }

    #[test]
    fn the_only_kind_of_an_agent_performs_as_the_agent_does() {
        let (mut fleet, agent, session) = fleet();
        for n in 0..3 {
            run(&mut fleet, agent, session, n, "k");
        }
        let agent = fleet.agent(agent).expect("it has joined");
        assert_eq!(agent.deviating().count(), 0);
        assert_eq!(agent.performance_of("k"), agent.record.performance());
    }
}
