//! Brings the number of coordinators to that of the spec, one voter at a time. Only the spec defines the goal;
//! observations determine nothing but the next step. Pure.

use std::collections::BTreeSet;

use robeing_crds::limits::MAX_COORDINATORS;

use crate::{names, quorum::membership::Membership};

/// The input for choosing the next step.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// Number of coordinators that the spec asks for.
    pub wanted: u32,
    /// `replicas` of the StatefulSet; `None` if it does not exist.
    pub current: Option<u32>,
    /// The members; `None` while no leader responds.
    pub membership: Option<&'a Membership>,
    /// Ordinals whose pod exists.
    pub pods: &'a BTreeSet<u32>,
    /// Ordinals whose pod has an address, has run, is not being deleted and has not failed.
    pub running: &'a BTreeSet<u32>,
    /// Ordinals that have a disk; empty if the spec asks for no storage.
    pub claims: &'a BTreeSet<u32>,
    /// The last [`Plan::member_high_water`].
    pub member_high_water: u32,
}

/// What to do besides setting the number of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Settled,
    /// Give this coordinator a vote.
    Add(u32),
    /// Remove this coordinator's vote.
    Remove(u32),
    /// Delete the disk of a coordinator that is no longer a member. A coordinator that started with it again would have
    /// the node id of a removed one.
    DeleteClaim(u32),
    /// Wait, for this reason: something in progress needs time or intervention.
    Wait(String),
}

/// How many pods the StatefulSet should have now, and the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `replicas` of the StatefulSet.
    pub replicas: u32,
    /// The next step.
    pub step: Step,
    /// One more than the highest ordinal that was seen as a member and may have left a disk: only disks below it
    /// belonged to this cluster's coordinators and may be deleted. It must be stored with the StatefulSet before a
    /// member is removed.
    pub member_high_water: u32,
}

impl Plan {
    /// Creates a plan with a number of pods and a step, without known members.
    pub fn new(replicas: u32, step: Step) -> Self {
        Self { replicas, step, member_high_water: 0 }
    }
}

/// Returns one more than the highest ordinal; 0 if there is none.
fn beyond<'a>(ordinals: impl IntoIterator<Item = &'a u32>) -> u32 {
    ordinals.into_iter().max().map_or(0, |highest| highest + 1)
}

/// Returns the plan for the next step from the existing to the desired coordinators.
pub fn plan(view: &View<'_>) -> Plan {
    let left = beyond(view.claims.iter().filter(|ordinal| **ordinal < view.member_high_water));
    let member_high_water =
        view.membership.map_or(view.member_high_water, |membership| beyond(&ordinals(view, membership)).max(left));
    Plan { member_high_water, ..next(view) }
}

fn ordinals(view: &View<'_>, membership: &Membership) -> BTreeSet<u32> {
    membership.members.iter().filter_map(|member| names::ordinal(view.cluster, &member.name)).collect()
}

/// Plans the size of a StatefulSet that does not exist. Pods and disks may be left of an earlier one, which was deleted
/// manually or with an earlier cluster of the same name. They still have votes, which must not all be lost at once.
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
        // The new pods must not start on disks of removed coordinators; those have been deleted by now.
        return Plan::new(view.wanted, Step::Wait("pods of new coordinators are being created".into()));
    }
    // The pod of a leaving coordinator is removed only after its vote.
    let replicas = if current > view.wanted { view.wanted.max(needed.min(current)) } else { current };
    let step = removal(view, membership, &ordinals).or_else(|| addition(view, membership)).unwrap_or_else(|| {
        if current > view.wanted { Step::Wait("a coordinator's pod is being removed".into()) } else { Step::Settled }
    });
    Plan::new(replicas, step)
}

/// Plans without a leader. It is unknown who has a vote, so the set does not shrink and no disk is deleted. The set
/// grows, unless new pods would start on disks of removed coordinators. Other existing disks are used: they may be
/// those of the very majority that is missing.
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

/// Returns the highest ordinal with an obsolete disk. A disk retained from an earlier cluster of the name is not
/// obsolete.
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
        return Some(Step::Wait(format!("without {name}, the voters that are caught up would not be a majority")));
    }
    Some(Step::Remove(leaving))
}

fn addition(view: &View<'_>, membership: &Membership) -> Option<Step> {
    let lacks = |ordinal: &u32| !membership.votes(&names::coordinator(view.cluster, *ordinal));
    let joining = (0..view.wanted).find(lacks)?;
    if view.running.contains(&joining) {
        return Some(Step::Add(joining));
    }
    Some(Step::Wait(format!("{} is not running yet", names::coordinator(view.cluster, joining))))
}
