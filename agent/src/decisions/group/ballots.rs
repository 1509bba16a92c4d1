//! Has the agent's handler of messages decide the ballots of its groups, and calls its votes in their logs.
//!
//! The handler gets the same notice as for a ballot of the coordinators, as a message of the type [`NOTICE_KIND`] from
//! `group:NAME`, and replies with its vote in the same way.
//!
//! Invariants:
//!
//! 1. **What is voted on is what was signed.** The handler is asked what the opening says, and only if its signature
//!    proves who opened the ballot, by an authority that this agent trusts.
//! 2. **A vote is called until it is counted**, or the ballot is closed. After a restart the handler may be asked
//!    again, and the first vote in the log counts.
//! 3. **Silence is no vote.** A handler that refuses, or accepts without a reply, has not voted.
//! 4. **A deadline is over by this member's own clock**, and not before: it says so in the log itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use robeing_bft::{
    crypto::{Digest, PublicKey, Signature, Signer},
    epoch::Scope,
    wire::Wire,
};
use robeing_fleet::NOTICE_KIND;
use robeing_groups::{
    Call, Group, Signed,
    ballot::{BallotRecord, Ballots, GroupBallot, MemberVote, Opening},
};
use robeing_platform::sync::Mutex;
use robeing_votes::hex;
use serde_json::json;
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::{
    Groups, Member,
    clients::aside,
    host::{Command, NotDecided},
    limits::{CLOCK_PAUSE, DECIDED_AT_ONCE, LEAST_OPEN, VOTE_PAUSE, WARN_PAUSE},
};
use crate::{
    decisions::Decision,
    messaging::{
        Packet, PacketId, Priority,
        handlers::{Delivery, Handler, HandlerOutcome},
    },
};

/// A ballot whose deadline matters, as a member sees it: it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBallot {
    id: Digest,
    /// The opening with its signature, encoded.
    signed: Bytes,
    deadline_ms: u64,
    /// Whether this member's vote is counted.
    has_voted: bool,
    /// Whether this member has said that the deadline is over.
    has_expired: bool,
}

/// Returns the ballots that are open, for the member with this key, and one that is closed and forgotten, if room is so
/// short that it matters when its deadline is over.
pub fn open_for(ballots: &Ballots, me: &PublicKey) -> Vec<OpenBallot> {
    let open = |ballot: &GroupBallot| OpenBallot {
        id: ballot.record().ballot,
        signed: ballot.signed().clone(),
        deadline_ms: ballot.opening().deadline_ms(),
        has_voted: ballot.has_voted(me),
        has_expired: ballot.has_expired_for(me),
    };
    let forgotten = |(id, deadline_ms)| {
        let (signed, has_voted, has_expired) = (Bytes::new(), true, false);
        OpenBallot { id, signed, deadline_ms, has_voted, has_expired }
    };
    let all = ballots.all().filter(|ballot| !ballot.is_closed()).map(open);
    all.chain(ballots.awaited(me).map(forgotten)).collect()
}

/// What a member knows of a ballot.
#[derive(Clone, Debug)]
pub struct KnownBallot {
    /// The opening with its signature, encoded.
    pub signed: Bytes,
    /// What it has come to.
    pub record: BallotRecord,
    /// The member's signature of that, if the ballot is closed.
    pub signature: Option<Signature>,
}

/// Returns what a member knows of a ballot, signed if it is final.
pub fn known(ballot: &GroupBallot, scope: &Scope, signer: &dyn Signer) -> KnownBallot {
    let record = ballot.record().clone();
    KnownBallot { signed: ballot.signed().clone(), signature: record.sign(scope, signer), record }
}

/// Takes part in the ballots of a group until the agent stops.
pub(super) async fn take_part(groups: Groups, member: Arc<Member>, mut open: watch::Receiver<Vec<OpenBallot>>) {
    // There are no more than the group's state may have.
    let mut running: BTreeMap<Digest, AbortOnDropHandle<()>> = BTreeMap::new();
    let (room, warnings) = (Arc::new(Semaphore::new(DECIDED_AT_ONCE)), Arc::new(Warnings::default()));
    loop {
        let ballots = open.borrow_and_update().clone();
        running.retain(|id, _| ballots.iter().any(|ballot| ballot.id == *id));
        for ballot in ballots {
            running.entry(ballot.id).or_insert_with(|| {
                let (groups, member) = (groups.clone(), Arc::clone(&member));
                let (room, warnings) = (Arc::clone(&room), Arc::clone(&warnings));
                let part = Part { groups, member, room, warnings, ballot };
                AbortOnDropHandle::new(tokio::spawn(part.run()))
            });
        }
        tokio::select! {
            () = member.stop.cancelled() => return,
            changed = open.changed() => if changed.is_err() { return },
        }
    }
}

/// When it was warned last of a ballot that nobody has provably opened. A member that lies can have thousands of them
/// opened in a second, and must not fill the log with them.
#[derive(Default)]
struct Warnings(Mutex<Option<Instant>>);

impl Warnings {
    /// Returns whether to warn now.
    fn may_warn(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|at| at.elapsed() >= WARN_PAUSE);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

/// This agent's part in one ballot.
struct Part {
    groups: Groups,
    member: Arc<Member>,
    room: Arc<Semaphore>,
    warnings: Arc<Warnings>,
    ballot: OpenBallot,
}

impl Part {
    async fn run(self) {
        let OpenBallot { has_voted, has_expired, id, .. } = self.ballot;
        let (known_since, shown) = (Instant::now(), hex(&id.0));
        if !has_voted && let Some(vote) = self.decide(&shown).await {
            let (choice, option) = (vote.choice.as_str(), vote.option);
            match self.call(Call::vote(&vote)).await {
                Ok(decision) => info!(ballot = shown, choice, option, decision, "voted in a ballot of a group"),
                Err(error) => info!(ballot = shown, choice, %error, "a vote in a ballot of a group is not counted"),
            }
        }
        loop {
            let left = self.left().await;
            if left.is_zero() {
                break;
            }
            sleep(left.min(CLOCK_PAUSE)).await;
        }
        sleep(LEAST_OPEN.saturating_sub(known_since.elapsed())).await;
        if !has_expired && let Err(error) = self.call(Call::expire(&id)).await {
            debug!(ballot = shown, %error, "a ballot of a group was closed before its deadline");
        }
    }

    /// Returns how long members may still vote by this agent's clock, which is that of its papers.
    async fn left(&self) -> Duration {
        loop {
            if let Ok(papers) = self.groups.papers().await {
                return Duration::from_millis(self.ballot.deadline_ms.saturating_sub(papers.now()));
            }
            sleep(VOTE_PAUSE).await;
        }
    }

    /// Has the handler decide. `None`: it does not vote.
    async fn decide(&self, shown: &str) -> Option<MemberVote> {
        let handler = self.groups.0.decider.get()?;
        let (opening, author) = match self.opening().await {
            Ok(opened) => opened,
            Err(error) => {
                if self.warnings.may_warn() {
                    let why = "nobody whom this agent trusts opened it; there may be more in the next minute";
                    warn!(ballot = shown, error, "no vote in a ballot of a group: {why}");
                }
                return None;
            }
        };
        let left = self.left().await;
        if left.is_zero() {
            // A handler that replies at once would vote after the deadline.
            return None;
        }
        let notice = notice(&self.member.group, shown, (&opening, author.as_str()));
        let reply = match timeout(left, self.ask(&**handler, left, notice)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(reason)) => {
                info!(ballot = shown, reason, "the handler of messages has not voted in a ballot of a group");
                return None;
            }
            Err(_) => return None,
        };
        match Decision::read(&reply, &opening.options) {
            Ok(Decision { choice, option, reason }) => {
                Some(MemberVote { ballot: self.ballot.id, choice, option, reason })
            }
            Err(error) => {
                warn!(ballot = shown, %error, "the handler of messages has not voted: its reply is no vote");
                None
            }
        }
    }

    /// Returns what the ballot is about, and who opened it, if that is proved.
    async fn opening(&self) -> Result<(Opening, String), String> {
        let signed = Signed::decoded(&self.ballot.signed).map_err(|error| error.to_string())?;
        let papers = self.groups.papers().await?;
        let is_trusted = papers.bundle().is_some_and(|bundle| signed.is_trusted_by(bundle));
        let group = Arc::clone(&self.member.group);
        let verified = aside(move || Opening::verify(&signed, &group).map_err(|error| error.to_string())).await?;
        if is_trusted { Ok(verified) } else { Err(format!("the authority of {} is not trusted here", verified.1)) }
    }

    /// Asks the handler. Returns its reply, or why there is none.
    async fn ask(&self, handler: &dyn Handler, left: Duration, notice: Bytes) -> Result<Bytes, String> {
        let _room = self.room.acquire().await.map_err(|error| error.to_string())?;
        let me = &self.groups.0.me;
        let packet = Packet {
            id: packet_id(&self.ballot.id),
            timestamp_ms: self.groups.papers().await?.now(),
            sender: format!("group:{}", self.member.group.name()).into(),
            receiver: format!("agent:{me}").into(),
            agent: Arc::clone(me),
            kind: NOTICE_KIND.into(),
            payload: notice,
            priority: Priority::default(),
            requires_ack: true,
            deadline_in_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            reply_to: None,
            key_id: None,
            seq: 0,
            resent: false,
        };
        match handler.deliver(Delivery { packet, deadline: Instant::now() + left }).await {
            HandlerOutcome::Accepted { reply: Some(reply) } => Ok(reply),
            HandlerOutcome::Accepted { reply: None } => Err("it gave no reply".into()),
            HandlerOutcome::Refused { reason } => Err(reason),
        }
    }

    /// Calls until the group has decided. An error is why it never will.
    async fn call(&self, call: Bytes) -> Result<u64, NotDecided> {
        loop {
            let (done, decided) = oneshot::channel();
            if self.member.command(Command::Propose { call: call.clone(), done }).is_ok() {
                match decided.await {
                    Ok(Ok(decision)) => return Ok(decision),
                    Ok(Err(refused @ (NotDecided::Refused(_) | NotDecided::Unknown))) => return Err(refused),
                    // The member can't take part for now.
                    Ok(Err(NotDecided::Later(_))) | Err(_) => {}
                }
            }
            sleep(VOTE_PAUSE).await;
        }
    }
}

/// Returns the id of the notice of a ballot: the same one whenever it comes.
fn packet_id(ballot: &Digest) -> PacketId {
    PacketId(u128::from_be_bytes(ballot.0.first_chunk().copied().unwrap_or_default()))
}

/// Returns the notice of a ballot, in the form of those of the coordinators.
fn notice(group: &Group, id: &str, (opening, author): (&Opening, &str)) -> Bytes {
    let Opening { question, options, threshold: (numerator, denominator), ttl_ms, .. } = opening;
    let electorate: Vec<_> = group.names().map(|name| json!({"name": name, "weight": 1})).collect();
    let notice = json!({
        "ballot": id,
        "digest": id,
        "fleet": group.epoch().fleet,
        "group": group.name(),
        "question": question,
        "options": options,
        "electorate": electorate,
        "threshold": format!("{numerator}/{denominator}"),
        "ttlMs": ttl_ms,
        "openedBy": author,
    });
    notice.to_string().into()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_many_ballots_of_nobody_one_in_a_minute_is_warned_of() {
        let warnings = Warnings::default();
        assert!(warnings.may_warn());
        assert!((0..1_000).all(|_| !warnings.may_warn()));
        advance(WARN_PAUSE).await;
        assert!(warnings.may_warn() && !warnings.may_warn());
    }
}
