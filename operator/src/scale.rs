//! How the number of coordinators comes to what the spec says, one voter at a time. The spec is the truth: what is observed
//! says only what the next step is, never what the goal is. Pure.

use std::collections::BTreeSet;

use robeing_crds::limits::MAX_COORDINATORS;

use crate::{names, quorum::Membership};

/// What is known when the next step is chosen.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// CoordinatorClient the spec asks for.
    pub wanted: u32,
    /// `replicas` of the StatefulSet; `None` before there is one.
    pub current: Option<u32>,
    /// The voters; `None` while no leader answers.
    pub membership: Option<&'a Membership>,
    /// Ordinals whose pod exists.
    pub pods: &'a BTreeSet<u32>,
    /// Ordinals whose pod has an address, is not being deleted and has not failed.
    pub running: &'a BTreeSet<u32>,
    /// Ordinals that have a disk; none where the coordinators are to have no storage.
    pub claims: &'a BTreeSet<u32>,
    /// As the last [`Plan::member_high_water`] said.
    pub member_high_water: u32,
}

/// What to do besides having that many pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Settled,
    /// Give this coordinator a vote.
    Add(u32),
    /// Take this coordinator's vote.
    Remove(u32),
    /// Delete the disk of a coordinator that is no member any more. A coordinator that came back with it would have the node
    /// id of one that was removed.
    DeleteClaim(u32),
    /// Something that was begun needs time, or somebody's help.
    Wait(String),
}

/// How many pods the StatefulSet should have now, and the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `replicas` of the StatefulSet.
    pub replicas: u32,
    /// What to do.
    pub step: Step,
    /// One more than the highest ordinal that was seen to be a member and may have left a disk: only disks below it were
    /// this cluster's coordinators', and are its own to delete. To be written down with the StatefulSet before a member is
    /// removed.
    pub member_high_water: u32,
}

impl Plan {
    /// With so many pods, a step, and nothing known of what was a member.
    pub fn new(replicas: u32, step: Step) -> Self {
        Self { replicas, step, member_high_water: 0 }
    }
}

/// One more than the highest.
fn beyond<'a>(ordinals: impl IntoIterator<Item = &'a u32>) -> u32 {
    ordinals.into_iter().max().map_or(0, |highest| highest + 1)
}

/// The next step from the coordinators there are to those there should be.
pub fn plan(view: &View<'_>) -> Plan {
    let left = beyond(view.claims.iter().filter(|ordinal| **ordinal < view.member_high_water));
    let member_high_water =
        view.membership.map_or(view.member_high_water, |membership| beyond(&ordinals(view, membership)).max(left));
    Plan { member_high_water, ..next(view) }
}

fn ordinals(view: &View<'_>, membership: &Membership) -> BTreeSet<u32> {
    membership.members.iter().filter_map(|member| names::ordinal(view.cluster, &member.name)).collect()
}

/// How many pods a StatefulSet begins with that is made anew: what is left of an earlier one, which may have been deleted by
/// hand or with an earlier cluster of the name, has votes that are not to be ended all at once.
fn begin(view: &View<'_>) -> Plan {
    let there = view.pods.iter().chain(view.claims).filter(|ordinal| **ordinal < MAX_COORDINATORS);
    Plan::new(view.wanted.max(beyond(there)), Step::Settled)
}

fn next(view: &View<'_>) -> Plan {
    let Some(current) = view.current else { return begin(view) };
    let Some(membership) = view.membership else { return without_a_leader(view, current) };
    let ordinals = ordinals(view, membership);
    let needed = beyond(&ordinals);
    if let Some(claim) = obsolete_claim(view, &ordinals, current) {
        return Plan::new(current, Step::DeleteClaim(claim));
    }
    if current < view.wanted {
        // The new pods must not start on disks of coordinators that were removed; those are gone by now.
        return Plan::new(view.wanted, Step::Wait("pods of new coordinators are being made".into()));
    }
    // One that leaves takes its pod with it only when its vote is gone.
    let replicas = if current > view.wanted { view.wanted.max(needed.min(current)) } else { current };
    let step = removal(view, membership, &ordinals).or_else(|| addition(view, membership)).unwrap_or_else(|| {
        if current > view.wanted { Step::Wait("a coordinator's pod is being removed".into()) } else { Step::Settled }
    });
    Plan::new(replicas, step)
}

/// Nobody says who has a vote, so nothing shrinks and no disk goes. It grows, unless onto disks of coordinators that were
/// removed: others may be those of the very majority that is missing.
fn without_a_leader(view: &View<'_>, current: u32) -> Plan {
    let leftovers =
        view.claims.iter().any(|ordinal| (current..view.wanted.min(view.member_high_water)).contains(ordinal));
    let replicas = if leftovers { current } else { current.max(view.wanted) };
    let step = if replicas == view.wanted && current == view.wanted {
        Step::Settled
    } else {
        Step::Wait("no coordinator leads, so it is not known who has a vote".into())
    };
    Plan::new(replicas, step)
}

/// A disk that is retained from an earlier cluster of the name is none.
fn obsolete_claim(view: &View<'_>, members: &BTreeSet<u32>, current: u32) -> Option<u32> {
    let obsolete = |ordinal: &u32| {
        (current..view.member_high_water).contains(ordinal)
            && !members.contains(ordinal)
            && !view.pods.contains(ordinal)
    };
    view.claims.iter().copied().rfind(obsolete)
}

fn removal(view: &View<'_>, membership: &Membership, members: &BTreeSet<u32>) -> Option<Step> {
    let leaving = members.iter().copied().rfind(|ordinal| *ordinal >= view.wanted)?;
    let name = names::coordinator(view.cluster, leaving);
    if membership.votes(&name) && !membership.can_remove(&name) {
        return Some(Step::Wait(format!(
            "the voters that remain without {name} and are caught up would be no majority"
        )));
    }
    Some(Step::Remove(leaving))
}

fn addition(view: &View<'_>, membership: &Membership) -> Option<Step> {
    let lacks = |ordinal: &u32| !membership.votes(&names::coordinator(view.cluster, *ordinal));
    let joining = (0..view.wanted).find(lacks)?;
    if view.running.contains(&joining) {
        return Some(Step::Add(joining));
    }
    Some(Step::Wait(format!("{} does not run yet", names::coordinator(view.cluster, joining))))
}
