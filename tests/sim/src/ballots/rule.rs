//! What members vote: the same member in the same ballot always the same. So the checks know what an agent votes that
//! learns of a ballot from its notice alone.

use std::time::Duration;

use robeing_platform::simulated::SeededRandom;
use robeing_proto::v1::{VoteChoice, ballot::Vote};

use crate::clients::below;

/// How many of [`PARTS`] members approve, reject and abstain; the others are silent. Each ballot has one of these.
const MOODS: [[u64; 3]; 4] = [[10, 1, 1], [5, 4, 1], [2, 8, 1], [3, 1, 1]];
const PARTS: u64 = 12;
/// One of this many who approve chooses any option, the others the first one.
const STRAY_ONE_OF: u64 = 4;
/// One of this many takes its time.
const SLOW_ONE_OF: u64 = 4;
/// How long it takes at most, in milliseconds.
const SLOW_TO: u64 = 1_500;

/// A vote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cast {
    /// What it says.
    pub choice: VoteChoice,
    /// The number of the option that it approves, from 1; 0: none.
    pub option: u32,
    /// Why.
    pub reason: String,
}

/// What a member does about a ballot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decided {
    /// Its vote; `None`: it is silent.
    pub cast: Option<Cast>,
    /// How long it takes to decide.
    pub after: Duration,
}

/// Returns what a member does about a ballot with so many options.
pub fn decide(ballot: &str, member: &str, options: usize) -> Decided {
    let id = u64::from(crc32c::crc32c(ballot.as_bytes()));
    let [approve, reject, abstain] = MOODS[below(&SeededRandom::new(id), MOODS.len() as u64) as usize];
    let random = SeededRandom::new((id << 32) | u64::from(crc32c::crc32c(member.as_bytes())));
    let after = if below(&random, SLOW_ONE_OF) == 0 { 1 + below(&random, SLOW_TO) } else { 0 };
    let drawn = below(&random, PARTS);
    let choice = if drawn < approve {
        Some(VoteChoice::Approve)
    } else if drawn < approve + reject {
        Some(VoteChoice::Reject)
    } else if drawn < approve + reject + abstain {
        Some(VoteChoice::Abstain)
    } else {
        None
    };
    let strays = below(&random, STRAY_ONE_OF) == 0;
    let cast = choice.map(|choice| Cast {
        choice,
        option: match choice {
            VoteChoice::Approve if options > 0 && strays => 1 + below(&random, options as u64) as u32,
            VoteChoice::Approve => u32::from(options > 0),
            _ => 0,
        },
        reason: format!("{member} decides {ballot}"),
    });
    Decided { cast, after: Duration::from_millis(after) }
}

impl Cast {
    /// Returns an approval that no member decides to give.
    pub fn approval(options: usize) -> Self {
        let reason = "it must not count".to_owned();
        Self { choice: VoteChoice::Approve, option: u32::from(options > 0), reason }
    }

    /// Returns another vote than this one, in a ballot with so many options.
    pub fn other(&self, options: usize) -> Self {
        match self.choice {
            VoteChoice::Approve => Self { choice: VoteChoice::Reject, option: 0, ..Self::approval(options) },
            _ => Self::approval(options),
        }
    }

    /// Returns whether a vote that is listed is this one.
    pub fn is_listed_as(&self, vote: &Vote) -> bool {
        (self.choice, self.option, self.reason.as_str()) == (vote.choice(), vote.option, vote.reason.as_str())
    }

    /// Returns the vote as an agent's handler of messages writes it.
    pub fn reply(&self) -> String {
        let word = match self.choice {
            VoteChoice::Approve => "approve",
            VoteChoice::Reject => "reject",
            VoteChoice::Abstain | VoteChoice::Unspecified => "abstain",
        };
        let option = if self.option == 0 { "null".to_owned() } else { self.option.to_string() };
        format!(r#"{{"vote": "{word}", "option": {option}, "reason": "{}"}}"#, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use robeing_agent::decisions::Decision;

    use super::*;

    #[test]
    fn a_member_decides_the_same_every_time_and_some_are_silent_or_slow() {
        let all: Vec<Decided> = (0..200).map(|n| decide("ballot", &format!("member-{n}"), 2)).collect();
        assert_eq!(all[7], decide("ballot", "member-7", 2));
        let others: Vec<Decided> = (0..200).map(|n| decide(&format!("ballot-{n}"), "member", 2)).collect();
        let choices: BTreeSet<_> = others.iter().map(|decided| decided.cast.as_ref().map(|cast| cast.choice)).collect();
        assert_eq!(choices.len(), 4, "they approve, reject, abstain or are silent");
        let options: BTreeSet<_> = others.iter().filter_map(|decided| Some(decided.cast.as_ref()?.option)).collect();
        assert_eq!(options.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert!(all.iter().any(|decided| decided.after > Duration::ZERO));
        assert!(all.iter().any(|decided| decided.after == Duration::ZERO));
    }

    #[test]
    fn a_reply_is_the_vote_that_agents_read_from_it() {
        let texts = ["red".to_owned(), "blue".to_owned()];
        for (options, ballots) in [(0, 0..40), (2, 40..80)] {
            let texts = &texts[..options];
            for cast in ballots.filter_map(|n| decide(&format!("ballot-{n}"), "member", options).cast) {
                let read = Decision::read(cast.reply().as_bytes(), texts).expect("it is a vote");
                let number = i32::from(read.choice.number());
                assert_eq!((number, read.option, &read.reason), (i32::from(cast.choice), cast.option, &cast.reason));
                assert_ne!(cast.other(options).choice, cast.choice);
            }
        }
    }
}
