//! Which coordinator should lead. Safety is Raft's alone; this is a wish, and it moves leadership only when another
//! coordinator is clearly better for a good while.
//!
//! Score = 0.3 experience + 0.3 reliability + 0.2 resources + 0.2 availability, each 0 to 1:
//! - experience: how long it has been running, `t / (t + 10 min)`;
//! - reliability: share of the leader's questions it answered, remembered for about ten minutes;
//! - resources: free share of its machine's scarcest resource;
//! - availability: as reliability, remembered for about half a minute.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use robeing_fleet::known_version;
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_proto::{
    internal::v1::{self as internal, raft_client::RaftClient},
    v1::LeaderScore,
};
use tokio::time::Instant;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::{
    leader::{
        role::{RaftRole, until_leading},
        stalls,
    },
    node::Node,
    raft::NodeId,
    room::Voter,
};

/// How often the leader asks the others.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// By how much another must be better.
pub const MARGIN: f64 = 0.15;
/// For how long it must be.
pub const HOLD: Duration = Duration::from_secs(30);
/// Log entries another may be behind and still be caught up.
pub const CAUGHT_UP: u64 = 100;
/// Running time that counts for half of all experience.
const HALF_EXPERIENCE: Duration = Duration::from_secs(600);
/// Weight of one answer in reliability, and in availability.
const SLOW: f64 = 1.0 / 600.0;
const FAST: f64 = 1.0 / 30.0;

/// What this coordinator says of itself.
pub fn describe(node: &Node) -> internal::DescribeResponse {
    let up = node.started.elapsed().as_secs_f64();
    internal::DescribeResponse {
        cluster_id: node.identity.cluster_id.clone(),
        name: node.identity.name.clone(),
        node_id: node.identity.node_id,
        address: node.address.clone(),
        pid: node.pid,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        resources: node.platform.host.free_share(),
        experience: up / (up + HALF_EXPERIENCE.as_secs_f64()),
        max_fleet_version: known_version(),
        initialized: !node.members().is_empty(),
        applied_index: applied(node),
        scores: node.scores.told(),
        warnings: node.warnings.told(),
        short_of_room: node.rooms.own().short,
        log_stalled_ms: node.log.stalled_for().map_or(0, |stalled| stalled.as_millis() as u64),
    }
}

/// The index of the newest entry that is applied here.
fn applied(node: &Node) -> u64 {
    node.observer.applied_indexes().borrow().saturating_sub(1)
}

/// The least that another must have applied to be caught up with this leader.
pub fn caught_up_from(node: &Node) -> u64 {
    node.raft.progress().caught_up_from(applied(node), CAUGHT_UP)
}

/// Whether another has applied so much, and its log makes progress.
pub fn is_caught_up(said: &internal::DescribeResponse, least: u64) -> bool {
    said.applied_index >= least && stalls::log_works(said)
}

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

/// What the leader found out about the members. Empty while this coordinator does not lead.
#[derive(Default)]
pub struct Scores(Mutex<BTreeMap<NodeId, Record>>);

impl Scores {
    fn told(&self) -> Vec<internal::MemberScore> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().map(|(id, record)| internal::MemberScore { node_id: *id, score: Some(record.score) }).collect()
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Notes the answers of one round; members that are gone are forgotten.
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

/// A member as the choice sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Who.
    pub id: NodeId,
    /// Its score.
    pub score: f64,
    /// Whether it answers and is caught up.
    pub fit: bool,
}

/// Decides when to hand leadership over: pure, with hysteresis. Each challenger has a time of its own, for two that are
/// about as good as each other take turns in being the best.
#[derive(Default)]
pub struct Choice {
    /// Since when a member has been clearly better than the leader, and fit, at every look.
    better_since: BTreeMap<NodeId, Instant>,
}

impl Choice {
    /// Looks at the members: whom to hand leadership to now, if anybody. It is the best of those that were better for long
    /// enough, and of equals the one with the lowest id.
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

/// What a member says of itself, if it answers in time and is the one that is meant.
pub async fn ask(node: &Node, id: NodeId, address: &str) -> Option<internal::DescribeResponse> {
    ask_as(node, id, address, None).await
}

async fn ask_as(
    node: &Node,
    id: NodeId,
    address: &str,
    from_leader: Option<internal::LeadersWord>,
) -> Option<internal::DescribeResponse> {
    if id == node.identity.node_id {
        return Some(describe(node));
    }
    let request = internal::DescribeRequest { from_leader };
    let describe = |mut peer: RaftClient<Channel>| async move { peer.describe(request).await };
    node.peers.ask(address, describe).await.filter(|said| said.node_id == id)
}

/// Takes what the leader says when it asks.
pub fn hear(node: &Node, said: internal::LeadersWord) {
    let leads = matches!(*node.raft_role.borrow(), RaftRole::Leading { .. });
    // One that was replaced does not know.
    if !leads && said.term >= node.log.vote().map_or(0, |vote| vote.leader_id.term) {
        node.rooms.note_told((!said.refusal.is_empty()).then_some(said.refusal), Instant::now());
    }
}

/// Asks the members as long as this coordinator leads, and hands leadership over when that is better. Runs until the node
/// stops.
pub async fn run(node: Arc<Node>) {
    let mut raft_role = node.raft_role.clone();
    loop {
        let Some(term) = until_leading(&mut raft_role).await else { return };
        node.rooms.clear();
        let mut choice = Choice::default();
        while node.raft_role.borrow().leading().is_some() {
            round(&node, term, &mut choice).await;
            tokio::time::sleep(ASK_EVERY).await;
        }
        node.scores.clear();
        node.rooms.clear();
    }
}

/// Who should lead after this leader: the best of the others that answer now and are caught up.
pub async fn successor(node: &Node) -> Option<NodeId> {
    let own = node.identity.node_id;
    let others = node.members().into_iter().filter(|(id, _, voter)| *voter && *id != own);
    let answers = join_all(others.map(|(id, peer, _)| async move { ask(node, id, &peer.address).await })).await;
    let least = caught_up_from(node);
    let fit = answers.into_iter().flatten().filter(|said| is_caught_up(said, least));
    fit.max_by(|a, b| a.experience.total_cmp(&b.experience)).map(|said| said.node_id)
}

async fn round(node: &Node, term: u64, choice: &mut Choice) {
    let word = internal::LeadersWord { term, refusal: node.rooms.verdict().unwrap_or_default() };
    let voters: Vec<_> = node.members().into_iter().filter(|(_, _, voter)| *voter).collect();
    let answers = voters.iter().map(|(id, peer, _)| {
        let word = word.clone();
        async move { (*id, ask_as(node, *id, &peer.address, Some(word)).await) }
    });
    let answers = join_all(answers).await;
    let rooms = voters.iter().zip(&answers).map(|((_, peer, _), (_, said))| Voter {
        name: peer.name.clone(),
        short: said.as_ref().map(|said| said.short_of_room),
    });
    node.rooms.note(rooms.collect());
    let candidates = node.scores.note(&answers, caught_up_from(node));
    let Some(target) = choice.step(node.identity.node_id, &candidates, Instant::now()) else { return };
    info!(
        target = format!("{target:016x}"),
        "another coordinator is clearly better for a while; handing leadership over"
    );
    if let Err(error) = node.raft.transfer_leader(target).await {
        warn!(%error, "leadership could not be handed over");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(scores: [(f64, bool); 3]) -> Vec<Candidate> {
        let candidate = |(id, (score, fit)): (usize, (f64, bool))| Candidate { id: id as u64, score, fit };
        scores.into_iter().enumerate().map(candidate).collect()
    }

    /// The decisions of a leader 0 that looks once a second at members that stay as they are.
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
