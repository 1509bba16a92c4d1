//! Which coordinator's pod may be replaced now, so that all come to run what the spec says. Followers first, the leader last
//! and only after it handed over; one at a time; and only while the voters that remain and are caught up form a majority.
//! Pure.

use crate::quorum::{CoordinatorPod, Membership, Pods};

/// What is known when the next step of a rollout is chosen.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Pods there should be.
    pub replicas: u32,
    /// Pods there are.
    pub pods: &'a Pods,
    /// The voters; `None` while no leader answers.
    pub membership: Option<&'a Membership>,
    /// A coordinator's data outlives its pod.
    pub durable: bool,
    /// The members are what the spec says; no voter is to be added or removed first.
    pub members_settled: bool,
    /// The pod that was told last to go, by uid; the cache may still show it.
    pub evicting: Option<&'a str>,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every pod is there, made from the newest template, and ready.
    Done,
    /// No pod is outdated, but not all are there and ready.
    Settling(String),
    /// Replace this pod.
    Replace {
        /// Its name.
        pod: String,
        /// Its uid, so that no other pod of that name goes.
        uid: String,
    },
    /// Let this voter lead.
    Transfer {
        /// Its name.
        to: String,
    },
    /// Something that was begun needs time.
    Wait(String),
    /// It does not go on by itself.
    Paused {
        /// For a condition.
        reason: &'static str,
        /// What happened and what to do.
        message: String,
    },
}

/// The next step of bringing every coordinator to the newest template.
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
            "{} of {} coordinator pods exist; where it stays so, the events of the StatefulSet say why",
            view.pods.len(),
            view.replicas
        ));
    }
    match view.pods.values().find(|pod| !pod.ready) {
        Some(pod) => Step::Settling(format!("{} is not ready yet", pod.name)),
        None => Step::Done,
    }
}

/// An outdated pod that can't run takes part in nothing, so its replacement costs no vote that counts: that is how a rollout
/// gets past a bad image.
fn past_a_broken_pod(view: &View<'_>) -> Option<Step> {
    let broken = |pod: &&CoordinatorPod| !pod.updated && !pod.ready && pod.failure.is_some();
    let spared = |pod: &CoordinatorPod| {
        let voters = view.membership;
        let healthy = voters.is_some_and(|membership| membership.healthy(&pod.name));
        // Without a disk its data would be lost: then the others must be a majority without it.
        !healthy && (view.durable || !pod.has_run || voters.is_some_and(|membership| membership.can_spare(&pod.name)))
    };
    let pod = view.pods.values().rev().filter(broken).find(|pod| spared(pod))?;
    Some(replace(pod))
}

fn replace(pod: &CoordinatorPod) -> Step {
    Step::Replace { pod: pod.name.clone(), uid: pod.uid.clone() }
}

/// What was replaced must be back before the next one goes.
fn unfinished(view: &View<'_>) -> Option<Step> {
    let updated = || view.pods.values().filter(|pod| pod.updated);
    if let Some(pod) = updated().find(|pod| !pod.ready && pod.failure.is_some()) {
        let failure = pod.failure.as_deref().unwrap_or_default();
        return Some(Step::Paused {
            reason: "UpdatedPodFails",
            message: format!(
                "{} was made from the new template and does not run: {failure}. The others stay as they are; put the old \
                 image or settings back, or correct the new ones.",
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

/// Nobody can stand in for it: the fleet stops for as long as it takes to restart, if its data survives that.
fn the_only_one(view: &View<'_>, pod: &CoordinatorPod) -> Step {
    if view.durable {
        return replace(pod);
    }
    Step::Paused {
        reason: "WouldLoseTasks",
        message: format!(
            "{} is the only coordinator and keeps its log in its pod, so replacing it would lose every task. Delete the pod by \
             hand if that does not matter, or run three coordinators.",
            pod.name
        ),
    }
}
