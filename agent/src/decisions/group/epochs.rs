//! The next epoch of a group: enrolling and approving, ending the present one, and starting in the next.
//!
//! A member starts in a later epoch by its description alone, in which the epochs before have each ended by a decision
//! of their members ([`robeing_groups::EarlierEpoch`]). So one that was away for several of them follows, too. The
//! state with which the epoch starts comes from this member's own replica, or from other agents; the description proves
//! which one it is.
//!
//! Invariants:
//!
//! 1. **Nobody but the members decides who follows them.** A member approves only what a quorum of them has approved by
//!    a ballot in its own state.
//! 2. **One epoch at a time.** The replica of the epoch before has ended, and its disk is free, before the next starts.
//! 3. **Nobody stops a member half-way.** Once it has begun to start in another epoch, it continues also if the client
//!    waits no more; an agent that gives a state slowly, or a wrong one, only delays it ([`STATE_WITHIN`]).

use std::sync::Arc;

use bytes::Bytes;
use robeing_bft::{certificate::Checkpoint, epoch::Handover, limits::MAX_STATE_BYTES, state::State, wire::Wire};
use robeing_groups::{
    Group, NextEpoch, Signed,
    exchange::{self, Approved, Ask, Decided, HandedOver, MAX_PAGE_BYTES, StatePart},
};
use robeing_votes::Base64;
use tokio::{sync::oneshot, time::timeout};
use tracing::{info, warn};

use super::{
    Groups, Member,
    clients::{aside, bundle_of, check_fleet, text},
    host::Command,
    limits::STATE_WITHIN,
    post::Post,
};

impl Groups {
    /// Verifies the members of the next epoch of a group.
    async fn next_of(&self, group: &str, next: Vec<Signed>) -> Result<(Arc<Member>, NextEpoch), String> {
        let member = self.member_of(group)?;
        let group = Arc::clone(&member.group);
        let next = aside(move || NextEpoch::verify(&group, next).map_err(text)).await?;
        let papers = self.papers().await?;
        next.check_trust(bundle_of(&*papers)?).map_err(text)?;
        Ok((member, next))
    }

    /// Approves the members of the next epoch, if the group has.
    pub(super) async fn approve(&self, group: &str, next: Vec<Signed>) -> Result<Approved, String> {
        let (member, next) = self.next_of(group, next).await?;
        next.check_age(self.papers().await?.now()).map_err(text)?;
        let (done, approval) = oneshot::channel();
        member.command(Command::Approve { next: next.membership().clone(), done })?;
        let approval = approval.await.map_err(|_| member.problem())??;
        Ok(Approved { approval: Base64(approval.encoded().into()) })
    }

    /// Has the group end its epoch, with the approvals of a quorum.
    pub(super) async fn change(&self, group: &str, next: Vec<Signed>, approvals: &[Base64]) -> Result<Decided, String> {
        let (member, next) = self.next_of(group, next).await?;
        let change = next.change(approvals).map_err(text)?;
        let (done, decided) = oneshot::channel();
        member.command(Command::Change { change, done })?;
        let decision = decided.await.map_err(|_| member.problem())?.map_err(text)?;
        Ok(Decided { decision })
    }

    /// Returns what has ended the epoch of a group.
    pub(super) async fn handover(&self, group: &str) -> Result<HandedOver, String> {
        let member = self.member_of(group)?;
        let handover = handover_of(&member).await.ok_or("the epoch has not ended, or that is not proved here yet")?;
        let (decision, stable) = (handover.decision.encoded().into(), handover.stable.encoded().into());
        Ok(HandedOver { decision: Base64(decision), stable: Base64(stable) })
    }

    /// Returns a part of the state with which an epoch starts: the present one, or the one that follows it.
    pub(super) async fn state_part(&self, group: &str, epoch: u64, from: u64) -> Result<StatePart, String> {
        let member = self.member_of(group)?;
        let number = member.group.epoch().number;
        let is_present = epoch == number && epoch > 0;
        if !is_present && Some(epoch) != number.checked_add(1) {
            return Err(format!("this agent does not have the state with which the epoch {epoch} starts"));
        }
        let encode = async {
            let state = if is_present {
                self.folder_of(group)?.initial(epoch).await.map_err(text)?
            } else {
                let handover = handover_of(&member).await;
                handover.ok_or("the epoch before has not ended here")?.state.clone()
            };
            Ok::<_, String>(Bytes::from(state.encoded()))
        };
        self.0.sending.part(&(member.group.fingerprint(), epoch), from, encode).await
    }

    /// Starts as a member of a later epoch of a group, also if nobody waits for that any more.
    pub(super) async fn adopt(&self, group: Group) -> Result<Arc<Member>, String> {
        let known = self.member(group.name()).filter(|member| member.group.fingerprint() == group.fingerprint());
        if let Some(member) = known {
            return Ok(member);
        }
        let busy = "this agent is about to start in the next epoch of a group; ask again later";
        let room = Arc::clone(&self.0.adopting).try_acquire_owned().map_err(|_| busy)?;
        let groups = self.clone();
        let adopting = self.0.tasks.spawn(async move {
            let _room = room;
            tokio::select! {
                () = groups.0.stop.cancelled() => Err("this agent is shutting down".to_owned()),
                adopted = groups.adopt_alone(group) => adopted,
            }
        });
        adopting.await.unwrap_or_else(|error| Err(text(error)))
    }

    async fn adopt_alone(&self, group: Group) -> Result<Arc<Member>, String> {
        let folder = self.folder_of(group.name())?;
        let papers = self.papers().await?;
        let _turn = self.0.forming.lock().await;
        let current = self.member(group.name());
        if let Some(member) = &current {
            if member.group.fingerprint() == group.fingerprint() {
                return Ok(Arc::clone(member));
            }
            if !group.follows(&member.group) {
                let name = group.name();
                return Err(format!("this agent is in an epoch of the group {name:?} that is not before this one"));
            }
            self.check_identity(&group, &folder).await?;
        } else {
            self.check_own(&group, &folder).await?;
        }
        check_fleet(&*papers, &group)?;
        // A member knows by its own epoch that the next one is right.
        if current.is_none() {
            group.check_trust(bundle_of(&*papers)?).map_err(text)?;
        }
        let state = self.state_of(&group, current.as_deref()).await?;
        if let Some(member) = &current {
            member.stop.cancel();
            member.ended.cancelled().await;
        }
        let (number, fingerprint) = (group.epoch().number, group.fingerprint());
        match folder.admit_next(&group, &state).await {
            Ok(()) => {
                info!(group = group.name(), epoch = number, fingerprint, "this agent is in another epoch of a group");
                Ok(self.attend(Arc::new(group)))
            }
            Err(error) => {
                if let Some(member) = current {
                    self.attend(Arc::clone(&member.group));
                }
                Err(text(error))
            }
        }
    }

    /// Returns the state with which an epoch starts.
    async fn state_of(&self, group: &Group, current: Option<&Member>) -> Result<State, String> {
        let start = group.epoch().start();
        if let Some(member) = current
            && let Some(handover) = handover_of(member).await
            && handover.state.checkpoint() == start
        {
            return Ok(handover.state.clone());
        }
        let post = self.0.post.get().ok_or("this agent is starting")?;
        let before = group.before().map(|epoch| &epoch.members[..]).unwrap_or_default();
        let members = before.iter().chain(&group.epoch().members).map(|member| member.name.as_str());
        for other in members.filter(|name| **name != *self.0.me) {
            let fetched = timeout(STATE_WITHIN, fetch(&**post, other, group, start)).await;
            match fetched.unwrap_or_else(|_| Err("it takes too long".to_owned())) {
                Ok(state) => return Ok(state),
                Err(error) => warn!(group = group.name(), other, error, "a state can't be got from a member"),
            }
        }
        Err("no member has given the state with which the epoch starts: form it again later".into())
    }
}

/// Returns what has ended the epoch of a member.
async fn handover_of(member: &Member) -> Option<Arc<Handover>> {
    let (done, handover) = oneshot::channel();
    member.command(Command::Handover { done }).ok()?;
    handover.await.ok()?
}

/// Gets the state with which the epoch of a group starts from another agent.
pub(super) async fn fetch(post: &dyn Post, other: &str, group: &Group, start: Checkpoint) -> Result<State, String> {
    let mut bytes = Vec::new();
    loop {
        let (name, epoch, from) = (group.name().to_owned(), group.epoch().number, bytes.len() as u64);
        let reply = post.ask(other, Ask::State { group: name, epoch, from }.to_bytes()).await?;
        let StatePart { bytes: Base64(part), size } = exchange::read("part of a state", &reply).map_err(text)?;
        bytes.extend_from_slice(&part);
        if bytes.len() as u64 >= size {
            break;
        }
        // The length of the state is before it. All parts but the last one are whole, so there are few.
        if part.len() < MAX_PAGE_BYTES || bytes.len() > MAX_STATE_BYTES + 4 {
            return Err("it is too large, or is cut".into());
        }
    }
    let state = State::decoded(&bytes).map_err(text)?;
    if state.checkpoint() == start { Ok(state) } else { Err("it is another one".into()) }
}
