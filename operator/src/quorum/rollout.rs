//! Decides which coordinator's pod may be replaced now, so that all pods eventually match the spec. Followers go first,
//! the leader last and only after a leader transfer; one at a time; and only while the remaining voters that are caught
//! up form a majority. Pure.

use crate::quorum::membership::{CoordinatorPod, Membership, Pods};

/// The input for choosing the next step of a rollout.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Desired number of pods.
    pub replicas: u32,
    /// The existing pods.
    pub pods: &'a Pods,
    /// The members; `None` while no leader responds.
    pub membership: Option<&'a Membership>,
    /// Whether a coordinator's data outlives its pod.
    pub durable: bool,
    /// Whether the members match the spec: no voter is to be added or removed first.
    pub members_settled: bool,
    /// Uid of the pod that was deleted last; the cache may still show it.
    pub evicting: Option<&'a str>,
}

/// The next step of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every pod exists, was created from the newest template, and is ready.
    Done,
    /// No pod is outdated, but not all exist and are ready, for this reason.
    Settling(String),
    /// Replace this pod.
    Replace {
        /// The pod's name.
        pod: String,
        /// The pod's uid, so that no other pod of that name is deleted.
        uid: String,
    },
    /// Transfer leadership to this voter.
    Transfer {
        /// The voter's name.
        to: String,
    },
    /// Wait, for this reason.
    Wait(String),
    /// The rollout does not resume without intervention.
    Paused {
        /// The reason for a condition.
        reason: &'static str,
        /// The cause and the remedy.
        message: String,
    },
}

/// Returns the next step towards every coordinator running the newest template.
pub fn next(view: &View<'_>) -> Step {
    if view.pods.values().all(|pod| pod.updated) {
        return settled(view);
    }
    let gone = |pod: &CoordinatorPod| pod.terminating || view.evicting == Some(pod.uid.as_str());
    if let Some(pod) = view.pods.values().find(|pod| gone(pod)) {
        return Step::Wait(format!("{} is being replaced", pod.name));
    }
    if let Some(step) = past_a_broken_pod(view) {
        return step;
    }
    if view.pods.len() < view.replicas as usize {
        return Step::Wait(format!("{} of {} pods exist", view.pods.len(), view.replicas));
    }
    if let Some(step) = unfinished(view) {
        return step;
    }
    match view.membership {
        None => Step::Wait("no coordinator leads".into()),
        Some(_) if !view.members_settled => Step::Wait("voters are being added or removed first".into()),
        Some(membership) => replace_a_healthy_one(view, membership),
    }
}

fn settled(view: &View<'_>) -> Step {
    if view.pods.len() < view.replicas as usize {
        return Step::Settling(format!(
            "{} of {} coordinator pods exist; if this persists, see the events of the StatefulSet",
            view.pods.len(),
            view.replicas
        ));
    }
    match view.pods.values().find(|pod| !pod.ready) {
        Some(pod) => Step::Settling(format!("{} is not ready yet", pod.name)),
        None => Step::Done,
    }
}

/// Replaces an outdated pod that can't run. Since it does not participate, this costs no active vote, and lets a
/// rollout recover from a bad image.
fn past_a_broken_pod(view: &View<'_>) -> Option<Step> {
    let broken = |pod: &&CoordinatorPod| !pod.updated && !pod.ready && pod.failure.is_some();
    let spared = |pod: &CoordinatorPod| {
        let voters = view.membership;
        let healthy = voters.is_some_and(|membership| membership.healthy(&pod.name));
        // Without a disk, its data would be lost: the other voters must then form a majority.
        !healthy && (view.durable || !pod.has_run || voters.is_some_and(|membership| membership.can_spare(&pod.name)))
    };
    let pod = view.pods.values().rev().filter(broken).find(|pod| spared(pod))?;
    Some(replace(pod))
}

fn replace(pod: &CoordinatorPod) -> Step {
    Step::Replace { pod: pod.name.clone(), uid: pod.uid.clone() }
}

/// A replaced pod must be back before the next one is replaced.
fn unfinished(view: &View<'_>) -> Option<Step> {
    let updated = || view.pods.values().filter(|pod| pod.updated);
    if let Some(pod) = updated().find(|pod| !pod.ready && pod.failure.is_some()) {
        let failure = pod.failure.as_deref().unwrap_or_default();
        return Some(Step::Paused {
            reason: "UpdatedPodFails",
            message: format!(
                "{} was made from the new template and does not run: {failure}. The other pods are not replaced; \
                 restore the old image or settings, or correct the new ones.",
                pod.name
            ),
        });
    }
    if let Some(pod) = updated().find(|pod| !pod.ready) {
        return Some(Step::Wait(format!("{} is not ready yet", pod.name)));
    }
    let membership = view.membership?;
    updated()
        .find(|pod| membership.votes(&pod.name) && !membership.healthy(&pod.name))
        .map(|pod| Step::Wait(format!("{} is catching up", pod.name)))
}

fn replace_a_healthy_one(view: &View<'_>, membership: &Membership) -> Step {
    let outdated = || view.pods.values().rev().filter(|pod| !pod.updated);
    let voters = membership.voter_count();
    if let Some(pod) = outdated().find(|pod| !membership.has(&pod.name)) {
        return replace(pod);
    }
    if let Some(pod) = outdated().find(|pod| pod.name != membership.leader) {
        if !membership.votes(&pod.name) || membership.can_spare(&pod.name) {
            return replace(pod);
        }
        return Step::Wait(format!(
            "{} of {voters} voters are healthy; without {} there would be no majority",
            membership.healthy_count(),
            pod.name
        ));
    }
    let Some(leader) = outdated().next() else { return Step::Done };
    if voters == 1 {
        return the_only_one(view, leader);
    }
    let candidates = membership.voters().filter(|member| {
        member.name != leader.name
            && membership.caught_up(member)
            && view.pods.values().any(|pod| pod.updated && pod.ready && pod.name == member.name)
    });
    match candidates.max_by(|a, b| a.score.total_cmp(&b.score)) {
        Some(member) if membership.can_spare(&leader.name) => Step::Transfer { to: member.name.clone() },
        _ => Step::Wait(format!("no other voter can lead while {} is replaced", leader.name)),
    }
}

/// Replaces the only voter, if its data survives that. No other voter can take over, so the fleet stops while it
/// restarts.
fn the_only_one(view: &View<'_>, pod: &CoordinatorPod) -> Step {
    if view.durable {
        return replace(pod);
    }
    Step::Paused {
        reason: "WouldLoseTasks",
        message: format!(
            "{} is the only coordinator and keeps its log in its pod, so replacing it would lose every task. Delete \
             the pod manually if that does not matter, or run three coordinators.",
            pod.name
        ),
    }
}
