//! Which coordinator should lead. Safety is up to Raft alone; the score is a preference, and moves leadership only when
//! another coordinator has been clearly better for a while.
//!
//! Score = 0.3 experience + 0.3 reliability + 0.2 resources + 0.2 availability, each 0 to 1:
//! - experience: how long it has been running, `t / (t + 10 min)`;
//! - reliability: share of the leader's questions that it answered, averaged over about ten minutes;
//! - resources: free share of its machine's scarcest resource;
//! - availability: the same as reliability, averaged over about half a minute.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_proto::{internal::v1 as internal, v1::LeaderScore};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    disk_space::{Rooms, Voter},
    leader::{
        describe::{Descriptions, is_caught_up},
        role::until_leading,
        standing::Standing,
    },
    members::Members,
    raft::{NodeId, RaftHandle},
};

/// How often the leader asks the members.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// By how much another coordinator's score must be better.
pub const MARGIN: f64 = 0.15;
/// For how long it must be better.
pub const HOLD: Duration = Duration::from_secs(30);
/// Weight of one answer in reliability, and in availability.
const SLOW: f64 = 1.0 / 600.0;
const FAST: f64 = 1.0 / 30.0;

fn weigh(experience: f64, reliability: f64, resources: f64, availability: f64) -> LeaderScore {
    let total = 0.3 * experience + 0.3 * reliability + 0.2 * resources + 0.2 * availability;
    LeaderScore { experience, reliability, resources, availability, total }
}

#[derive(Clone, Copy)]
struct Record {
    reliability: f64,
    availability: f64,
    score: LeaderScore,
    caught_up: bool,
    answering: bool,
}

impl Default for Record {
    fn default() -> Self {
        Self { reliability: 1.0, availability: 1.0, score: LeaderScore::default(), caught_up: false, answering: false }
    }
}

/// What the leader has found out about the members. Empty while this coordinator does not lead.
#[derive(Default)]
pub struct Scores(Mutex<BTreeMap<NodeId, Record>>);

impl Scores {
    /// Returns the scores as API messages.
    pub fn told(&self) -> Vec<internal::MemberScore> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().map(|(id, record)| internal::MemberScore { node_id: *id, score: Some(record.score) }).collect()
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Records the answers of one round and returns the members as candidates. Forgets those that were not asked.
    fn note(&self, answers: &[(NodeId, Option<internal::DescribeResponse>)], least: u64) -> Vec<Candidate> {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|id, _| answers.iter().any(|(known, _)| known == id));
        for (id, said) in answers {
            let record = records.entry(*id).or_default();
            let answered = if said.is_some() { 1.0 } else { 0.0 };
            record.reliability += SLOW * (answered - record.reliability);
            record.availability += FAST * (answered - record.availability);
            record.answering = said.is_some();
            if let Some(said) = said {
                record.caught_up = is_caught_up(said, least);
                record.score = weigh(said.experience, record.reliability, said.resources, record.availability);
            }
        }
        let candidate = |(id, record): (&NodeId, &Record)| Candidate {
            id: *id,
            score: record.score.total,
            fit: record.answering && record.caught_up,
        };
        records.iter().map(candidate).collect()
    }
}

/// A member as input to [`Choice`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its node id.
    pub id: NodeId,
    /// Its score.
    pub score: f64,
    /// Whether it answers and is caught up.
    pub fit: bool,
}

/// Decides when to transfer leadership. Pure, with hysteresis. Each challenger has its own timer, because two
/// challengers with about the same score may alternate as the best.
#[derive(Default)]
pub struct Choice {
    /// Since when each member has been fit and clearly better than the leader at every check.
    better_since: BTreeMap<NodeId, Instant>,
}

impl Choice {
    /// Evaluates the members and returns the one to transfer leadership to now, if any: the best of those that have
    /// been better for long enough, and of equals the one with the lowest id.
    pub fn step(&mut self, leader: NodeId, members: &[Candidate], now: Instant) -> Option<NodeId> {
        let own = members.iter().find(|member| member.id == leader)?.score;
        let better = |member: &&Candidate| member.id != leader && member.fit && member.score >= own + MARGIN;
        let better: Vec<&Candidate> = members.iter().filter(better).collect();
        self.better_since.retain(|id, _| better.iter().any(|member| member.id == *id));
        let held = better.into_iter().filter(|member| {
            let since = *self.better_since.entry(member.id).or_insert(now);
            now.duration_since(since) >= HOLD
        });
        let best = held.max_by(|a, b| a.score.total_cmp(&b.score).then(b.id.cmp(&a.id)))?.id;
        self.better_since.clear();
        Some(best)
    }
}

/// Keeps the scores of the members, and acts on them.
pub struct ScoreKeeper {
    pub own: NodeId,
    pub members: Members,
    pub standing: Standing,
    pub descriptions: Descriptions,
    pub raft: RaftHandle,
    pub scores: Arc<Scores>,
    pub rooms: Arc<Rooms>,
}

impl ScoreKeeper {
    /// Asks the members while this coordinator leads, and transfers leadership when another one is better. Runs until
    /// the coordinator stops.
    pub async fn run(self) {
        let mut raft_role = self.standing.roles();
        loop {
            let Some(term) = until_leading(&mut raft_role).await else { return };
            self.rooms.clear();
            let mut choice = Choice::default();
            while self.standing.leading().is_some() {
                self.round(term, &mut choice).await;
                tokio::time::sleep(ASK_EVERY).await;
            }
            self.scores.clear();
            self.rooms.clear();
        }
    }

    async fn round(&self, term: u64, choice: &mut Choice) {
        let word = internal::LeadersWord { term, refusal: self.rooms.verdict().unwrap_or_default() };
        let voters: Vec<_> = self.members.voters().collect();
        let answers = voters.iter().map(|(id, peer)| {
            let word = word.clone();
            async move { (*id, self.descriptions.ask_as(*id, &peer.address, Some(word)).await) }
        });
        let answers = join_all(answers).await;
        let rooms = voters.iter().zip(&answers).map(|((_, peer), (_, said))| Voter {
            name: peer.name.clone(),
            short: said.as_ref().map(|said| said.short_of_room),
        });
        self.rooms.note(rooms.collect());
        let candidates = self.scores.note(&answers, self.descriptions.caught_up_from());
        let Some(target) = choice.step(self.own, &candidates, Instant::now()) else { return };
        info!(
            target = format!("{target:016x}"),
            "another coordinator has been clearly better for a while; handing leadership over"
        );
        if let Err(error) = self.raft.transfer_leader(target).await {
            warn!(%error, "leadership could not be handed over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(scores: [(f64, bool); 3]) -> Vec<Candidate> {
        let candidate = |(id, (score, fit)): (usize, (f64, bool))| Candidate { id: id as u64, score, fit };
        scores.into_iter().enumerate().map(candidate).collect()
    }

    /// Returns the decision of a leader 0 that checks members with constant scores once a second.
    fn looked_at_for(seconds: u64, members: &[Candidate]) -> Option<NodeId> {
        let (mut choice, start) = (Choice::default(), Instant::now());
        (0..=seconds).find_map(|s| choice.step(0, members, start + Duration::from_secs(s)))
    }

    #[test]
    fn leadership_moves_only_after_a_clear_advantage_was_held() {
        let better = members([(0.5, true), (0.9, true), (0.6, true)]);
        assert_eq!(looked_at_for(29, &better), None);
        assert_eq!(looked_at_for(30, &better), Some(1));
    }

    #[test]
    fn a_small_advantage_moves_nothing() {
        assert_eq!(looked_at_for(600, &members([(0.5, true), (0.64, true), (0.6, true)])), None);
    }

    #[test]
    fn two_that_take_turns_in_being_the_best_do_not_keep_each_other_back() {
        let (mut choice, start) = (Choice::default(), Instant::now());
        let turns =
            [members([(0.5, true), (0.90, true), (0.91, true)]), members([(0.5, true), (0.91, true), (0.90, true)])];
        let chosen = (0..=30).map(|s| choice.step(0, &turns[s as usize % 2], start + Duration::from_secs(s)));
        let chosen: Vec<Option<NodeId>> = chosen.collect();
        assert_eq!(chosen.iter().position(Option::is_some), Some(30));
        assert_eq!(chosen[30], Some(2));
    }

    #[test]
    fn one_that_is_behind_or_silent_is_never_chosen() {
        assert_eq!(looked_at_for(600, &members([(0.2, true), (0.9, false), (0.1, true)])), None);
    }

    #[test]
    fn an_advantage_that_is_interrupted_starts_anew() {
        let (mut choice, start) = (Choice::default(), Instant::now());
        let better = members([(0.5, true), (0.9, true), (0.6, true)]);
        let even = members([(0.9, true), (0.9, true), (0.6, true)]);
        for s in 0..29 {
            assert_eq!(choice.step(0, &better, start + Duration::from_secs(s)), None);
        }
        assert_eq!(choice.step(0, &even, start + Duration::from_secs(29)), None);
        assert_eq!(choice.step(0, &better, start + Duration::from_secs(31)), None);
    }

    #[test]
    fn the_score_is_its_weighted_terms() {
        let score = weigh(1.0, 0.5, 0.25, 0.75);
        assert!((score.total - (0.3 + 0.15 + 0.05 + 0.15)).abs() < 1e-9);
    }
}
