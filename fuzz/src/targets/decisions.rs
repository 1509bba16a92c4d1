//! What an agent reads of ballots: notices of coordinators, and what its handler replies to them.

use robeing_agent::decisions::{Decision, Notice};
use robeing_votes::{Choice, MAX_OPTIONS, MAX_REASON_BYTES};

use super::check_sentence;

/// A notice is either what its digest says, for a member, or refused with a sentence.
pub fn notice(bytes: &[u8]) {
    match Notice::read(bytes, "b", None) {
        Ok(notice) => assert!(notice.options.len() <= MAX_OPTIONS),
        Err(refused) => check_sentence(refused),
    }
}

/// A reply is either a vote, within the limits, or refused with a sentence.
pub fn reply(bytes: &[u8]) {
    let options = ["red", "blue"].map(str::to_owned);
    match Decision::read(bytes, &options) {
        Ok(Decision { choice, option, reason }) => {
            assert!(reason.len() <= MAX_REASON_BYTES && option <= 2);
            assert_eq!(choice == Choice::Approve, option != 0, "who approves has chosen");
        }
        Err(refused) => check_sentence(refused),
    }
}
