//! Posts messages, and waits for what becomes of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use robeing_fleet::{Command, Fleet, Letter, LetterId, LetterOutcome, MailCommand, PostLetter, Refusal, Reply, Role};
use robeing_platform::{Platform, uuid_v7};
use robeing_policy::Checked;
use robeing_proto::{
    budget::MESSAGE_BUDGET_BYTES,
    v1::{self, MessageCode, MessageStatus},
};
use robeing_sealing::seals_replies;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use super::{
    MailError,
    address::{Choice, Nobody, Resolver},
    draft::{Draft, SEALED_FOR_BYTES, posting_bytes},
    resolving::ResolveRoom,
    sender_and_role,
    waiters::{MAX_WAITED, Waiting},
};
use crate::{
    api::convert,
    apply::observer::ApplyObserver,
    clock::FleetClock,
    disk_space::Rooms,
    policies::Policies,
    propose::{self, Lane, Proposer},
    read::StateReader,
};

/// How long after its deadline the outcome of a message is waited for: the coordinators note it themselves when it
/// expires.
pub const GRACE: Duration = Duration::from_secs(2);
/// Longest wait of a call that asks for an outcome.
pub const MAX_WAIT: Duration = Duration::from_secs(600);
/// Maximum number of letters of a broadcast that are built and proposed at once.
const MAX_POSTED: usize = 256;
/// Maximum bytes of messages that are being posted at one coordinator: 64 MiB.
pub const MAX_POSTING_BYTES: usize = 64 * 1024 * 1024;
/// Bytes that a message or a letter counts for besides its payload and its receivers.
const LETTER_BYTES: usize = 1024;
/// Maximum number of letters that are read from the state at once.
pub(super) const MAX_LOOKED_AT: usize = 1_000;

/// The bytes of messages that are being posted at one coordinator.
pub struct PostRoom(Semaphore);

impl Default for PostRoom {
    fn default() -> Self {
        Self(Semaphore::new(MAX_POSTING_BYTES))
    }
}

impl PostRoom {
    /// Takes room for a message of this size, see [`posting_bytes`].
    ///
    /// # Errors
    /// [`MailError::TooMuchAtOnce`] if there is none.
    fn take(&self, bytes: usize) -> Result<SemaphorePermit<'_>, MailError> {
        let bytes = u32::try_from(bytes + LETTER_BYTES).unwrap_or(u32::MAX);
        self.0.try_acquire_many(bytes).map_err(|_| MailError::TooMuchAtOnce { most: MAX_POSTING_BYTES })
    }
}

/// Posts messages. Cheap to clone.
#[derive(Clone)]
pub struct Sending {
    pub state: StateReader,
    pub proposer: Proposer,
    pub observer: Arc<ApplyObserver>,
    pub rooms: Arc<Rooms>,
    /// What decides about messages before they are proposed.
    pub policies: Policies,
    /// The room for messages that are being posted.
    pub room: Arc<PostRoom>,
    /// The room for calls that ask for receivers.
    pub resolving: Arc<ResolveRoom>,
    /// The fleet's time, by which sessions are new.
    pub clock: FleetClock,
    /// The source of ids, and of the time of sending.
    pub platform: Platform,
    /// Whether callers are to seal their messages, because nothing but TLS is accepted here.
    pub must_seal: bool,
}

/// The letters of a call, by id: the receiver of each, and what became of it as far as it is known.
type Letters = BTreeMap<LetterId, (Arc<str>, Option<MessageStatus>)>;

impl Sending {
    /// Sends a message of this sender. Returns what became of it, or once it is kept if it is durable. If the future is
    /// dropped, the message may be sent nevertheless.
    ///
    /// # Errors
    /// [`MailError`] if it was not posted, or only a part of a broadcast was.
    pub async fn send(&self, sender: &str, request: v1::SendMessageRequest) -> Result<Vec<MessageStatus>, MailError> {
        let begun = Instant::now();
        let clock = &self.platform.clock;
        let fresh = || uuid_v7(&**clock, &*self.platform.random);
        let mut room = self.room.take(posting_bytes(&request))?;
        let mut draft = Draft::check(request, sender, fresh, clock.unix_millis())?;
        if let Some(refused) = self.checked(&mut draft, sender).await {
            return Ok(vec![refused]);
        }
        let receivers = match self.receivers(&draft, sender, Choice::Best).await? {
            Ok(receivers) => receivers,
            Err(nobody) => return Ok(vec![unsent(draft.id, nobody)]),
        };
        let (receivers, mut outcomes) = self.still_there(&draft, sender, receivers).await?;
        let ids: Vec<LetterId> = receivers.iter().map(|receiver| draft.id_to(receiver)).collect();
        let mut letters: Letters =
            ids.iter().copied().zip(receivers.iter().map(|receiver| (Arc::clone(receiver), None))).collect();
        // Before anything is posted, or an outcome may be missed.
        let waiting = self.wait_for(ids.iter().copied().collect())?;
        self.post(&draft, &receivers, &mut letters).await?;
        draft.drop_payload();
        // What became of it to those that are not there is kept until the others have decided.
        let _kept = room.split(outcomes.len() * SEALED_FOR_BYTES);
        drop(room);
        if draft.is_durable {
            self.note_known(&waiting);
            self.take_outcomes(&waiting, &mut letters, begun).await;
        } else {
            let until = begun + Duration::from_millis(draft.ttl) + GRACE;
            self.note_known(&waiting);
            self.take_outcomes(&waiting, &mut letters, until).await;
        }
        let late = |id, receiver: &Arc<str>| match draft.is_durable {
            true => convert::letter_status(id, receiver, None),
            false => convert::unsettled(
                id,
                receiver,
                MessageCode::DeadlinePassed,
                "the coordinators did not learn in time what became of the message; ask again with its id".to_owned(),
            ),
        };
        let status = |id: LetterId| letters.remove(&id).map(|(to, status)| status.unwrap_or_else(|| late(id, &to)));
        outcomes.extend(ids.into_iter().filter_map(status));
        Ok(outcomes)
    }

    /// Drops the receivers of a sealed broadcast that its address does not stand for any more, and returns what becomes
    /// of the message to them.
    async fn still_there(
        &self,
        draft: &Draft,
        sender: &str,
        receivers: Vec<Arc<str>>,
    ) -> Result<(Vec<Arc<str>>, Vec<MessageStatus>), MailError> {
        if !draft.is_broadcast || draft.sealed_for().len() == 0 {
            return Ok((receivers, Vec::new()));
        }
        let resolver = Resolver { state: &self.state, sender, is_durable: draft.is_durable };
        // One that got the message before is asked about, whatever it is now.
        let is_known = |receiver: &str| {
            let id = draft.id_to(receiver);
            self.state.look(|fleet| fleet.letter(id).is_some())
        };
        let nobody = |receiver: &Arc<str>| resolver.named(&draft.to, receiver).err().filter(|_| !is_known(receiver));
        if receivers.iter().any(|receiver| nobody(receiver).is_some()) {
            // It may have joined a moment ago, which may not be applied here yet.
            self.catch_up().await?;
        }
        let (mut there, mut outcomes) = (Vec::with_capacity(receivers.len()), Vec::new());
        for receiver in receivers {
            match nobody(&receiver) {
                Some(nobody) => outcomes.push(unsent(draft.id_to(&receiver), nobody)),
                None => there.push(receiver),
            }
        }
        Ok((there, outcomes))
    }

    /// Returns what became of a message of this sender, after waiting for it for at most `wait`.
    ///
    /// # Errors
    /// [`MailError`] if it is not known, or the state can't be read.
    pub async fn status(&self, sender: &str, id: LetterId, wait: Duration) -> Result<MessageStatus, MailError> {
        let until = Instant::now() + wait.min(MAX_WAIT);
        let waiting = self.wait_for(BTreeSet::from([id]))?;
        self.catch_up().await?;
        // Another sender's message is none of this one's business.
        let known = |fleet: &Fleet| fleet.letter(id).filter(|letter| letter.sender == *sender).cloned();
        let Some(letter) = self.state.look(known) else {
            return Err(MailError::UnknownMessage { id: id.to_string(), sender: sender.to_owned() });
        };
        let mut letters = Letters::from([(id, (Arc::clone(&letter.receiver), None))]);
        self.note_known(&waiting);
        self.take_outcomes(&waiting, &mut letters, until).await;
        let status = letters.remove(&id).and_then(|(_, status)| status);
        let status = status.unwrap_or_else(|| convert::letter_status(id, &letter.receiver, None));
        Ok(MessageStatus { sealed_reply: status.reply.is_some() && seals_replies(&letter.key_id), ..status })
    }

    /// Lets the policies decide about a message that can be read here, and redacts it. Returns what became of it if it is
    /// refused.
    async fn checked(&self, draft: &mut Draft, sender: &str) -> Option<MessageStatus> {
        let payload = draft.readable()?.clone();
        let role_of = |name: &str| self.state.look(|fleet| role_of(fleet, name));
        let (id, from) = (draft.id.to_string(), sender_and_role(sender, role_of));
        let checked = self.policies.check_message(draft.seen(&id, from), &payload).await;
        match checked {
            Checked::Allowed => None,
            Checked::Redacted(payload) => {
                draft.redact(payload);
                None
            }
            // A message that was accepted before is the same message, and what is allowed now does not matter for it. It is
            // answered here: by the time it were posted, it could be forgotten, and be a new one that nobody allowed.
            Checked::Refused(refused) => {
                let refused = || convert::unsettled(draft.id, "", MessageCode::Refused, refused.message);
                Some(self.known(draft).unwrap_or_else(refused))
            }
        }
    }

    /// Returns what became of the same message that was sent before.
    fn known(&self, draft: &Draft) -> Option<MessageStatus> {
        self.state.look(|fleet| {
            let letter = fleet.letter(draft.id).filter(|letter| draft.is_same_as(letter))?;
            Some(convert::letter_status(letter.id, &letter.receiver, letter.outcome()))
        })
    }

    pub(super) async fn catch_up(&self) -> Result<(), MailError> {
        let ready = self.state.ready_to_read(v1::Consistency::Linearizable.into()).await;
        ready.map_err(|status| MailError::NotReadable(status.message().to_owned()))
    }

    fn wait_for(&self, ids: BTreeSet<LetterId>) -> Result<Waiting, MailError> {
        self.observer.letters.wait_for(ids).ok_or(MailError::TooManyWaiting { most: MAX_WAITED })
    }

    /// Returns the agents that a message goes to; of several that its address stands for, the one of this choice. A
    /// message that was sent before goes to the same agent.
    pub(super) async fn receivers(
        &self,
        draft: &Draft,
        sender: &str,
        choice: Choice,
    ) -> Result<Result<Vec<Arc<str>>, Nobody>, MailError> {
        let resolve = async || {
            let resolver = Resolver { state: &self.state, sender, is_durable: draft.is_durable };
            if draft.is_broadcast && draft.sealed_for().len() > 0 {
                return Ok(Ok(draft.sealed_for().map(Arc::from).collect()));
            }
            if draft.is_broadcast {
                return resolver.all(&draft.to, draft.id).await;
            }
            let known = |fleet: &Fleet| fleet.letter(draft.id).map(|letter| Arc::clone(&letter.receiver));
            if let Some(receiver) = self.state.look(known) {
                return Ok(Ok(vec![receiver]));
            }
            if let Some(agent) = draft.sealed_for().next() {
                return Ok(resolver.named(&draft.to, agent).map(|receiver| vec![receiver]));
            }
            Ok(resolver.one(&draft.to, draft.id, choice).await.map(|receiver| vec![receiver]))
        };
        match resolve().await? {
            Ok(receivers) if !(draft.is_broadcast && receivers.is_empty()) => Ok(Ok(receivers)),
            _ => {
                // An agent may have joined a moment ago, which may not be applied here yet.
                self.catch_up().await?;
                resolve().await
            }
        }
    }

    /// Posts the letters of a message, a part at a time, so that a broadcast takes little memory.
    async fn post(&self, draft: &Draft, receivers: &[Arc<str>], letters: &mut Letters) -> Result<(), MailError> {
        let sender = self.proposer.sender();
        let at_once = (MESSAGE_BUDGET_BYTES / (draft.letter_bytes() + LETTER_BYTES)).clamp(1, MAX_POSTED);
        for group in receivers.chunks(at_once) {
            let posts: Vec<PostLetter> = group.iter().map(|receiver| draft.letter_to(receiver)).collect();
            let refused = self.without_room(&posts).await;
            let (mut ids, mut commands) = (Vec::new(), Vec::new());
            for post in posts {
                match refused.get(&post.id) {
                    Some(refusal) => note_refused(letters, post.id, refusal.clone())?,
                    None => {
                        ids.push(post.id);
                        commands.push(propose::encoded(&Command::Mail(MailCommand::Post(post))));
                    }
                }
            }
            let replies = self.proposer.propose_encoded(Lane::Users, sender, commands).await?;
            for (id, reply) in ids.into_iter().zip(replies) {
                match reply {
                    Reply::Posted { existing: false } => {}
                    Reply::Posted { existing: true } => self.note_receiver(draft, id, letters).await?,
                    Reply::Refused(refusal) => note_refused(letters, id, refusal)?,
                    other => return Err(MailError::NotReadable(format!("unexpected reply {other:?}"))),
                }
            }
        }
        Ok(())
    }

    /// Returns the letters that need not be proposed, because they are certain to be refused: there is no room in the
    /// state, or on the coordinators' disks.
    async fn without_room(&self, posts: &[PostLetter]) -> BTreeMap<LetterId, Refusal> {
        let disks = self.rooms.refusal(Instant::now());
        let refusal = |fleet: &Fleet, post: &PostLetter| {
            let is_new = || fleet.letter(post.id).is_none();
            let of_disks = || disks.clone().filter(|_| is_new()).map(|reason| Refusal::NoRoom { reason });
            fleet.refusal_of_letter(post).or_else(of_disks)
        };
        let look = || -> BTreeMap<LetterId, Refusal> {
            self.state.look(|fleet| posts.iter().filter_map(|post| Some((post.id, refusal(fleet, post)?))).collect())
        };
        // Only an up-to-date state shows which letters are known, and need no room.
        if look().is_empty() || self.catch_up().await.is_err() {
            return BTreeMap::new();
        }
        look()
    }

    /// Notes who gets a letter that was posted before: its address may stand for another agent by now.
    ///
    /// # Errors
    /// If that letter is another message.
    async fn note_receiver(&self, draft: &Draft, id: LetterId, letters: &mut Letters) -> Result<(), MailError> {
        let known = || self.state.look(|fleet| fleet.letter(id).cloned());
        let mut found = known();
        if found.is_none() && self.catch_up().await.is_ok() {
            found = known();
        }
        let Some(found) = found else { return Ok(()) };
        if !draft.is_same_as(&found) {
            return Err(MailError::Refused(Refusal::LetterConflict { letter: id }));
        }
        if let Some((receiver, _)) = letters.get_mut(&id) {
            *receiver = Arc::clone(&found.receiver);
        }
        Ok(())
    }

    /// Notes the outcomes that the state has.
    fn note_known(&self, waiting: &Waiting) {
        let ids: Vec<LetterId> = waiting.letters().iter().copied().collect();
        for group in ids.chunks(MAX_LOOKED_AT) {
            let known: Vec<Arc<Letter>> =
                self.state.look(|fleet| group.iter().filter_map(|id| fleet.letter(*id)).cloned().collect());
            for letter in known {
                if let Some(outcome) = letter.outcome() {
                    waiting.found(letter.id, outcome);
                }
            }
        }
    }

    /// Takes outcomes until all are known, or until it is too late.
    async fn take_outcomes(&self, waiting: &Waiting, letters: &mut Letters, until: Instant) {
        let mut installs = self.observer.installs();
        let mut left = letters.values().filter(|(_, status)| status.is_none()).count();
        while left > 0 {
            let next = async {
                tokio::select! {
                    outcomes = waiting.outcomes() => outcomes,
                    // The outcomes in a state that was installed as a whole are not reported.
                    Ok(()) = installs.changed() => {
                        self.note_known(waiting);
                        Vec::new()
                    }
                }
            };
            let Ok(outcomes) = timeout_at(until, next).await else { return };
            left -= outcomes.into_iter().filter(|(id, outcome)| note_outcome(letters, *id, outcome)).count();
        }
    }
}

/// Returns what becomes of a message for which there is no receiver.
pub(super) fn unsent(id: LetterId, Nobody { code, agent, reason }: Nobody) -> MessageStatus {
    convert::unsettled(id, &agent, code, reason)
}

/// Returns the role of an agent that is or was in the fleet.
fn role_of(fleet: &Fleet, name: &str) -> Option<Role> {
    let agent = fleet.agent_by_name(name).map(|agent| agent.role);
    agent.or_else(|| fleet.enrolment_of(name).map(|known| known.role))
}

/// Notes an outcome. Returns whether it is new.
fn note_outcome(letters: &mut Letters, id: LetterId, outcome: &LetterOutcome) -> bool {
    let Some((receiver, status @ None)) = letters.get_mut(&id) else { return false };
    *status = Some(convert::letter_status(id, receiver, Some(outcome)));
    true
}

/// Notes that there is no room for a letter. Other refusals are of the whole message.
fn note_refused(letters: &mut Letters, id: LetterId, refusal: Refusal) -> Result<(), MailError> {
    match (letters.get_mut(&id), &refusal) {
        (Some((receiver, status)), Refusal::Full { .. }) => {
            *status = Some(convert::unsettled(id, receiver, MessageCode::Overloaded, refusal.to_string()));
            Ok(())
        }
        _ => Err(MailError::Refused(refusal)),
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::limits::{MAX_KEY_ID_BYTES, MAX_NAME_BYTES};
    use robeing_sealing::WRAP_BYTES;

    use super::*;
    use crate::mail::{address::MAX_TARGETS, draft::MAX_PAYLOAD_BYTES};

    #[test]
    fn the_receivers_of_a_sealed_message_take_up_room_and_the_most_of_them_fit() {
        let sealed_for = v1::SealedFor {
            agent: "n".repeat(MAX_NAME_BYTES),
            key_id: "k".repeat(MAX_KEY_ID_BYTES),
            wrap: vec![0; WRAP_BYTES].into(),
        };
        let request = v1::SendMessageRequest {
            payload: vec![0; MAX_PAYLOAD_BYTES].into(),
            sealed_for: vec![sealed_for; MAX_TARGETS],
            ..v1::SendMessageRequest::default()
        };
        let (room, bytes) = (PostRoom::default(), posting_bytes(&request));
        let fits = MAX_POSTING_BYTES / (bytes + LETTER_BYTES);
        let mut taken: Vec<_> = (0..fits).map(|_| room.take(bytes).expect("there is room")).collect();
        assert_eq!(room.take(bytes).map(drop), Err(MailError::TooMuchAtOnce { most: MAX_POSTING_BYTES }));
        let mut last = taken.pop().expect("one fits");
        let kept = last.split(MAX_TARGETS * SEALED_FOR_BYTES).expect("it is a part of it");
        drop(last);
        assert!(room.take(bytes).is_err(), "what its sender will be told is kept");
        drop(kept);
        assert!(room.take(bytes).is_ok());
    }

    #[test]
    fn so_many_bytes_are_posted_at_once_and_one_more_message_is_refused() {
        let room = PostRoom::default();
        let half = MAX_POSTING_BYTES / 2 - LETTER_BYTES;
        let taken = (room.take(half).expect("there is room"), room.take(half).expect("there is room"));
        assert_eq!(room.take(0).map(drop), Err(MailError::TooMuchAtOnce { most: MAX_POSTING_BYTES }));
        drop(taken.0);
        assert!(room.take(half).is_ok());
    }
}
