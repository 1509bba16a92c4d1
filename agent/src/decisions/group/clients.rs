//! What clients ask of this agent: to enrol for a group, to start as its member, to propose, and to show.

use std::sync::Arc;

use bytes::Bytes;
use robeing_bft::{
    crypto::{Ed25519Signer, PublicKey, Signer},
    epoch::Incarnation,
    wire::Wire,
};
use robeing_groups::{
    Call, Enrolment, Group, GroupError, GroupFile, MAX_AGE_MS, Proposal, Signed,
    ballot::{Opening, ballot_id, ballot_id_of},
    exchange::{Ask, BallotShown, Decided, Enrolled, Opened, Shown, Status, json},
    is_group_name,
};
use robeing_identity::{TrustBundle, random_bytes};
use robeing_votes::{Base64, hex};
use tokio::{sync::oneshot, task::spawn_blocking};
use tracing::info;

use super::{
    Groups, Member,
    host::Command,
    limits::{MAX_GROUPS, NEXT_KEPT_MS},
    papers::Papers,
    storage::{Folder, Identity},
};

/// Returns the public key of a seed.
fn public_key(identity: &Identity) -> Option<PublicKey> {
    Ed25519Signer::from_seed(&identity.seed).map(|signer| signer.public_key())
}

pub(super) fn text(error: impl ToString) -> String {
    error.to_string()
}

/// Verifies signatures on another thread: the one that handles messages handles those of all groups.
pub(super) async fn aside<T: Send + 'static>(
    verify: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    spawn_blocking(verify).await.unwrap_or_else(|error| Err(text(error)))
}

impl Groups {
    /// Answers a client.
    ///
    /// # Errors
    /// Why the message is refused, as a sentence.
    pub(super) async fn answer(&self, payload: &[u8]) -> Result<Bytes, String> {
        match Ask::from_bytes(payload).map_err(text)? {
            Ask::Enrol { group, members } => Ok(json(&self.enrol(&group, &members, false).await?)),
            Ask::EnrolNext { group, members } => Ok(json(&self.enrol(&group, &members, true).await?)),
            Ask::Approve { group, next } => Ok(json(&self.approve(&group, next).await?)),
            Ask::Change { group, next, approvals } => Ok(json(&self.change(&group, next, &approvals).await?)),
            Ask::Handover { group } => Ok(json(&self.handover(&group).await?)),
            Ask::State { group, epoch, from } => Ok(json(&self.state_part(&group, epoch, from).await?)),
            Ask::Form { file } => Ok(json(&show(&*self.form(file).await?).await)),
            Ask::Show { group } => Ok(json(&show(&*self.member_of(&group)?).await)),
            Ask::Propose { group, proposal } => Ok(json(&self.propose(&group, &proposal).await?)),
            Ask::OpenBallot { group, opening } => Ok(json(&self.open_ballot(&group, &opening).await?)),
            Ask::ShowBallot { group, ballot } => Ok(json(&self.show_ballot(&group, &ballot).await?)),
            Ask::Log { group, from, limit } => {
                let (done, page) = oneshot::channel();
                let member = self.member_of(&group)?;
                member.command(Command::Read { from, limit, done })?;
                Ok(json(&page.await.map_err(|_| member.problem())?))
            }
        }
    }

    pub(super) fn member_of(&self, group: &str) -> Result<Arc<Member>, String> {
        self.member(group).ok_or_else(|| self.no_member(group))
    }

    pub(super) async fn papers(&self) -> Result<Arc<dyn Papers>, String> {
        let papers = self.0.source.papers().await;
        let none = "this agent has no certificate, which members of groups need: run the fleet with TLS";
        papers.ok_or_else(|| none.to_owned())
    }

    pub(super) fn folder_of(&self, group: &str) -> Result<Folder, String> {
        if !is_group_name(group) {
            return Err(GroupError::Name(group.chars().take(100).collect()).to_string());
        }
        let groups = self.groups_folder().ok_or(
            "this agent has no data folder, and a member must not forget what it has said: start it with --data DIR",
        )?;
        Ok(Folder::new(&self.0.platform, &groups, group))
    }

    /// Makes a key for a group, unless there is one, and signs that it is this agent's: for a new group, or for the
    /// next epoch of one, of which this agent may be a member now.
    async fn enrol(&self, group: &str, members: &[String], is_next: bool) -> Result<Enrolled, String> {
        let folder = self.folder_of(group)?;
        let members = Enrolment::in_order(members).map_err(text)?;
        let name = self.0.me.to_string();
        if !members.contains(&name) {
            return Err(format!("this agent, {name:?}, is not among the members of the group"));
        }
        let papers = self.papers().await?;
        let (Some(own), Some(fleet)) = (papers.own(), papers.fleet()) else {
            return Err("this agent's certificate is of no authority that it trusts; wait until it is renewed".into());
        };
        let _turn = self.0.forming.lock().await;
        if !is_next && folder.group().await.map_err(text)?.is_some() {
            return Err(format!(
                "this agent is a member of the group {group:?} already; give the new one another name"
            ));
        }
        if folder.known_identity().await.map_err(text)?.is_none() {
            self.make_room(papers.now()).await?;
        }
        let new =
            Identity { incarnation: Incarnation(random_bytes().map_err(text)?), seed: random_bytes().map_err(text)? };
        let identity = folder.identity(new).await.map_err(text)?;
        let key = public_key(&identity).ok_or("the key of this group can't be used; remove its folder")?;
        let at_ms = papers.now();
        let kept = if is_next { NEXT_KEPT_MS } else { 0 };
        folder.enrolled_at(at_ms.saturating_add(kept)).await.map_err(text)?;
        let incarnation = identity.incarnation;
        let enrolment = Enrolment { fleet, group: group.to_owned(), members, name, incarnation, key, at_ms };
        let signed = if is_next { enrolment.sign_next(&own) } else { enrolment.sign(&own) };
        Ok(Enrolled { enrolment: signed.map_err(text)? })
    }

    /// Makes room for a key, if there is none: removes the oldest key that no group can be formed with any more.
    async fn make_room(&self, now: u64) -> Result<(), String> {
        let names = self.names().await;
        if names.len() < MAX_GROUPS {
            return Ok(());
        }
        let mut oldest: Option<(u64, &String, Folder)> = None;
        for name in &names {
            let folder = self.folder_of(name)?;
            let Ok(Some(at)) = folder.unformed_since().await else { continue };
            // Clocks may differ by as much as an enrolment may be old.
            let is_stale = now.saturating_sub(at) > 2 * MAX_AGE_MS;
            if is_stale && oldest.as_ref().is_none_or(|(known, ..)| at < *known) {
                oldest = Some((at, name, folder));
            }
        }
        let Some((_, group, folder)) = oldest else {
            return Err(format!(
                "this agent has keys for {} groups, the most there may be: leave one, as docs/decisions.md says, or \
                 wait until one that was not formed is 20 minutes old, or a day if it is for a next epoch",
                names.len()
            ));
        };
        info!(group, "the key of a group that was not formed is removed to make room");
        folder.discard().await.map_err(text)
    }

    /// Starts as a member of a group, if its description is what its members have signed.
    async fn form(&self, file: GroupFile) -> Result<Arc<Member>, String> {
        let group = aside(move || file.verify().map_err(text)).await?;
        if group.before().is_some() {
            return self.adopt(group).await;
        }
        let folder = self.folder_of(group.name())?;
        let papers = self.papers().await?;
        let _turn = self.0.forming.lock().await;
        if let Some(member) = self.member(group.name()) {
            if member.group.fingerprint() != group.fingerprint() {
                return Err(format!("this agent is a member of another group {:?}: use another name", group.name()));
            }
            return Ok(member);
        }
        self.check_own(&group, &folder).await?;
        check_fleet(&*papers, &group)?;
        group.check_trust(bundle_of(&*papers)?).map_err(text)?;
        let too_old = |error: GroupError| format!("{error}; if other members have started with it, use another name");
        group.check_age(papers.now()).map_err(too_old)?;
        folder.admit(&group).await.map_err(text)?;
        info!(group = group.name(), fingerprint = group.fingerprint(), "this agent has become a member of a group");
        Ok(self.attend(Arc::new(group)))
    }

    /// Checks that this agent may start as a member of a group in which it does not take part.
    pub(super) async fn check_own(&self, group: &Group, folder: &Folder) -> Result<(), String> {
        if folder.group().await.map_err(text)?.is_some() {
            return Err("this agent is a member of the group, and can't take part: its log says why".into());
        }
        self.check_identity(group, folder).await
    }

    /// Checks that the description of a group has the identity and the key that are on this disk.
    pub(super) async fn check_identity(&self, group: &Group, folder: &Folder) -> Result<(), String> {
        let identity = folder.known_identity().await.map_err(text)?;
        let own = identity.and_then(|identity| Some((identity.incarnation, public_key(&identity)?)));
        let mut members = group.epoch().members.iter();
        let is_own = members.any(|one| one.name == *self.0.me && own == Some((one.incarnation, one.key)));
        if is_own {
            return Ok(());
        }
        Err("the group has another key of this agent than the one on its disk: it has lost its disk since it enrolled, \
             and does not come back under its old identity; have the members decide on a next epoch with its new key"
            .into())
    }

    /// Has the group decide a proposal that its author has signed.
    async fn propose(&self, group: &str, proposal: &Signed) -> Result<Decided, String> {
        let member = self.member_of(group)?;
        let papers = self.papers().await?;
        let (call, group) = (proposal.clone(), Arc::clone(&member.group));
        let (read, author) = aside(move || Proposal::verify(&call, &group).map_err(text)).await?;
        check_signer(&*papers, proposal, author)?;
        read.check_age(papers.now()).map_err(text)?;
        Ok(Decided { decision: decided(&member, Call::propose(proposal)).await? })
    }

    /// Has the group open a ballot that somebody has signed.
    async fn open_ballot(&self, group: &str, opening: &Signed) -> Result<Opened, String> {
        let member = self.member_of(group)?;
        let papers = self.papers().await?;
        let (signed, group) = (opening.clone(), Arc::clone(&member.group));
        let (read, author) = aside(move || Opening::verify(&signed, &group).map_err(text)).await?;
        check_signer(&*papers, opening, author)?;
        read.check_age(papers.now()).map_err(text)?;
        let decision = decided(&member, Call::open(opening)).await?;
        Ok(Opened { ballot: hex(&ballot_id(opening).0), decision })
    }

    /// Returns what a ballot has come to, signed by this member if it is closed.
    async fn show_ballot(&self, group: &str, ballot: &str) -> Result<BallotShown, String> {
        let id = ballot_id_of(ballot).map_err(text)?;
        let member = self.member_of(group)?;
        let (done, shown) = oneshot::channel();
        member.command(Command::Ballot { id, done })?;
        let known = shown.await.map_err(|_| member.problem())?;
        let known = known.ok_or("this member knows no such ballot: it may be behind, or have forgotten it")?;
        let signature = known.signature.map(|signature| Base64(signature.encoded().into()));
        let opening = Signed::decoded(&known.signed).map_err(text)?;
        Ok(BallotShown { opening, record: Base64(known.record.encoded().into()), signature })
    }
}

/// Returns the authorities that this agent trusts.
pub(super) fn bundle_of(papers: &dyn Papers) -> Result<&TrustBundle, String> {
    papers.bundle().ok_or_else(|| "this agent does not know the authorities of its fleet yet".to_owned())
}

/// Checks that a group is of this agent's fleet.
pub(super) fn check_fleet(papers: &dyn Papers, group: &Group) -> Result<(), String> {
    if papers.fleet().as_deref() == Some(&*group.epoch().fleet) {
        return Ok(());
    }
    Err("the group is of another fleet than this agent".to_owned())
}

/// Checks that this agent trusts the authority by which `author` has signed.
fn check_signer(papers: &dyn Papers, signed: &Signed, author: String) -> Result<(), String> {
    let is_trusted = papers.bundle().is_some_and(|bundle| signed.is_trusted_by(bundle));
    if is_trusted { Ok(()) } else { Err(GroupError::Untrusted(author).to_string()) }
}

/// Has the group decide a call. Returns the number of the decision.
async fn decided(member: &Member, call: Bytes) -> Result<u64, String> {
    let (done, decided) = oneshot::channel();
    member.command(Command::Propose { call, done })?;
    decided.await.map_err(|_| member.problem())?.map_err(text)
}

/// Returns which group this is, and how the member is doing.
async fn show(member: &Member) -> Shown {
    let (done, status) = oneshot::channel();
    let asked = member.command(Command::Show { done });
    let status = match (asked, status.await) {
        (Ok(()), Ok(status)) => status,
        _ => Status { problem: member.problem(), ..Status::default() },
    };
    Shown { file: member.group.file().clone(), status }
}
