//! Invariants of letters in any state.

use std::collections::{BTreeMap, BTreeSet};

use super::{Letter, LetterOutcome, LetterState};
use crate::{
    Feature,
    audit::{Check, ensure},
    config::check_name,
    fleet::State,
    limits::*,
};

/// Checks each letter, and what there may be of all.
pub(crate) fn check_mail(state: &State) -> Check {
    let mail = &state.mail;
    ensure(state.version >= Feature::Mail.since() || *mail == Default::default(), || {
        "letters before their version".to_owned()
    })?;
    mail.letters.check(MAX_LETTERS)?;
    let mut ids = BTreeSet::new();
    let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
    for letter in mail.letters.iter() {
        ensure(is_sound(letter, state.now.fleet) && ids.insert(letter.id), || format!("letter {}", letter.id))?;
        if letter.is_waiting() {
            *waiting.entry(&letter.receiver).or_default() += 1;
        }
    }
    let all: usize = waiting.values().sum();
    ensure(all <= MAX_WAITING_LETTERS, || format!("{all} letters wait"))?;
    let most = waiting.values().copied().max().unwrap_or(0);
    ensure(most <= MAX_WAITING_FOR_ONE, || format!("{most} letters wait for one receiver"))?;
    let bytes: u64 = mail.letters.iter().map(|letter| letter.stored_bytes()).sum();
    ensure(bytes <= MAX_MAIL_BYTES, || format!("{bytes} bytes of letters"))?;
    let replies: u64 = mail.letters.iter().filter_map(|letter| Some(letter.kept_reply()?.0)).sum();
    ensure(replies <= MAX_REPLIES_BYTES, || format!("{replies} bytes of replies to letters"))
}

fn is_sound(letter: &Letter, now: u64) -> bool {
    let state = match &letter.state {
        LetterState::Waiting => letter.payload.len() <= MAX_LETTER_BYTES,
        LetterState::Settled { outcome, at } => {
            let reason = match outcome {
                LetterOutcome::Refused { reason } => reason.len(),
                _ => 0,
            };
            let reply = match outcome {
                LetterOutcome::Replied { reply } => reply.len(),
                _ => 0,
            };
            letter.payload.is_empty()
                && at.fleet <= now
                && reason <= MAX_LETTER_REASON_BYTES
                && reply <= MAX_LETTER_REPLY_BYTES
        }
    };
    state
        && (1..=MAX_SENDER_BYTES).contains(&letter.sender.len())
        && (1..=MAX_LETTER_ADDRESS_BYTES).contains(&letter.to.len())
        && letter.key_id.len() <= MAX_KEY_ID_BYTES
        && check_name("receiver", &letter.receiver).is_ok()
        && check_name("kind", &letter.kind).is_ok()
        && (1..=MAX_PRIORITY).contains(&letter.priority)
        && letter.posted.fleet <= now
        && letter.expires <= letter.posted.fleet.saturating_add(MAX_LETTER_TTL_MS)
}
