//! What a handler replies to the notice of a ballot.

use robeing_votes::{Choice, cut_reason};
use serde::Deserialize;

/// Maximum size of a reply that is a vote, bytes.
pub const MAX_DECISION_BYTES: usize = 16 * 1024;
/// Number of characters of a handler's text that an error message shows.
const SHOWN: usize = 64;

/// Why a reply is no vote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    /// It is too large.
    #[error("it has {0} bytes, a vote {MAX_DECISION_BYTES} at most")]
    TooLarge(usize),
    /// It has another form.
    #[error("{0}; reply {{\"vote\": \"approve\", \"reject\" or \"abstain\", \"reason\": TEXT}}")]
    Form(String),
    /// Who approves has to choose an option, and there are some.
    #[error("it approves no option; set \"option\" to the text or the number of one, 1 to {0}")]
    NoOption(usize),
    /// The ballot has no such option.
    #[error("the ballot has no option {shown:?}; its options have the numbers 1 to {count}")]
    UnknownOption {
        /// What the reply says.
        shown: String,
        /// Number of options.
        count: usize,
    },
    /// The ballot has no options at all.
    #[error("the ballot has no options; leave out \"option\"")]
    NoOptions,
}

/// A vote, as a handler decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What it is.
    pub choice: Choice,
    /// The number of the option that is approved, 1 for the first; 0 if there are no options or the choice is another.
    pub option: u32,
    /// Why, at most [`MAX_REASON_BYTES`](robeing_votes::MAX_REASON_BYTES); the rest is cut.
    pub reason: String,
}

/// An option by its number, or by its text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Named {
    Number(u64),
    Text(String),
}

/// A reply. It may have further fields, which programs add for themselves.
#[derive(Debug, Deserialize)]
struct Reply {
    vote: Choice,
    option: Option<Named>,
    reason: Option<String>,
}

impl Decision {
    /// Reads the reply to the notice of a ballot with these options.
    ///
    /// # Errors
    /// [`DecisionError`] if it is no vote in this ballot.
    pub fn read(reply: &[u8], options: &[String]) -> Result<Self, DecisionError> {
        if reply.len() > MAX_DECISION_BYTES {
            return Err(DecisionError::TooLarge(reply.len()));
        }
        let read: Reply = serde_json::from_slice(reply).map_err(|error| DecisionError::Form(error.to_string()))?;
        let option = match read.vote {
            Choice::Approve => approved(read.option, options)?,
            // A no is one to all options, whichever is named.
            Choice::Reject | Choice::Abstain => 0,
        };
        let reason = cut_reason(&read.reason.unwrap_or_default()).to_owned();
        Ok(Self { choice: read.vote, option, reason })
    }
}

/// Returns the number of the option that is named; 0 if the ballot has none.
fn approved(named: Option<Named>, options: &[String]) -> Result<u32, DecisionError> {
    let named = named.filter(|named| !matches!(named, Named::Text(text) if text.trim().is_empty()));
    let count = options.len();
    let number = match (named, count) {
        (None, 0) => return Ok(0),
        (None, _) => return Err(DecisionError::NoOption(count)),
        (Some(_), 0) => return Err(DecisionError::NoOptions),
        (Some(Named::Number(number)), _) => (usize::try_from(number).ok(), number.to_string()),
        // An option may be called "2", and be the third.
        (Some(Named::Text(text)), _) => match options.iter().position(|option| *option == text) {
            Some(index) => (Some(index + 1), text),
            None => (text.trim().parse().ok(), text),
        },
    };
    let (found, shown) = number;
    let found = found.filter(|number| (1..=count).contains(number)).and_then(|number| u32::try_from(number).ok());
    found.ok_or_else(|| DecisionError::UnknownOption { shown: shown.chars().take(SHOWN).collect(), count })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use robeing_votes::MAX_REASON_BYTES;

    use super::*;

    fn options(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn read(reply: &str, texts: &[&str]) -> Result<(Choice, u32), DecisionError> {
        Decision::read(reply.as_bytes(), &options(texts)).map(|decision| (decision.choice, decision.option))
    }

    #[test]
    fn a_vote_names_an_option_by_its_text_or_its_number() {
        let texts = ["blue", "2", "green"];
        for (reply, vote) in [
            (r#"{"vote": "approve", "option": "green"}"#, (Choice::Approve, 3)),
            (r#"{"vote": "approve", "option": 1}"#, (Choice::Approve, 1)),
            (r#"{"vote": "approve", "option": "1"}"#, (Choice::Approve, 1)),
            (r#"{"vote": "approve", "option": "2"}"#, (Choice::Approve, 2)),
            (r#"{"vote": "reject", "option": "blue"}"#, (Choice::Reject, 0)),
            (r#"{"vote": "abstain", "confidence": 0.2}"#, (Choice::Abstain, 0)),
        ] {
            assert_eq!(read(reply, &texts), Ok(vote), "{reply}");
        }
        assert_eq!(read("{\"vote\": \"approve\"}\n", &[]), Ok((Choice::Approve, 0)));
        assert_eq!(read(r#"{"vote": "approve", "option": null}"#, &[]), Ok((Choice::Approve, 0)));
        assert_eq!(read(r#"{"vote": "approve", "option": ""}"#, &[]), Ok((Choice::Approve, 0)));
    }

    #[test]
    fn what_is_no_vote_is_refused_with_a_sentence() {
        let (texts, none): (&[&str], &[&str]) = (&["blue", "green"], &[]);
        for (reply, texts, words) in [
            ("", texts, "EOF while parsing"),
            ("yes", texts, "expected value"),
            (r#"{"vote": "maybe"}"#, texts, "unknown variant `maybe`"),
            (r#"{"reason": "none"}"#, texts, "missing field `vote`"),
            (r#"{"vote": "approve", "vote": "reject"}"#, texts, "duplicate field"),
            (r#"{"vote": "approve"}"#, texts, "approves no option"),
            (r#"{"vote": "approve", "option": "red"}"#, texts, "no option \"red\""),
            (r#"{"vote": "approve", "option": 0}"#, texts, "no option \"0\""),
            (r#"{"vote": "approve", "option": "3"}"#, texts, "no option \"3\""),
            (r#"{"vote": "approve", "option": 18446744073709551615}"#, texts, "no option"),
            (r#"{"vote": "approve", "option": -1}"#, texts, "did not match any variant"),
            (r#"{"vote": "approve", "option": "blue"}"#, none, "has no options"),
        ] {
            let error = read(reply, texts).expect_err(reply).to_string();
            assert!(error.contains(words), "{reply}: {error}");
        }
    }

    #[test]
    fn a_reply_is_as_large_as_the_limit_and_a_reason_is_cut() {
        let reply = |reason: String| format!(r#"{{"vote": "reject", "reason": "{reason}"}}"#);
        let room = MAX_DECISION_BYTES - reply(String::new()).len();
        let decision = Decision::read(reply("x".repeat(room)).as_bytes(), &[]).expect("it is as large as may be");
        assert_eq!(decision.reason.len(), MAX_REASON_BYTES);
        let error = Decision::read(reply("x".repeat(room + 1)).as_bytes(), &[]).expect_err("it is too large");
        assert_eq!(error, DecisionError::TooLarge(MAX_DECISION_BYTES + 1));
        let decision = Decision::read(reply("é".repeat(MAX_REASON_BYTES)).as_bytes(), &[]).expect("it is a vote");
        assert_eq!(decision.reason, "é".repeat(MAX_REASON_BYTES / 2));
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_reader_panic(reply: Vec<u8>, text in ".{0,40}") {
            let _ = Decision::read(&reply, &options(&["a", "b"]));
            let reply = serde_json::json!({"vote": "approve", "option": text}).to_string();
            if let Ok(decision) = Decision::read(reply.as_bytes(), &options(&["a", "b"])) {
                prop_assert!((1..=2).contains(&decision.option));
            }
        }
    }
}
