//! What is known of every message of a run, and the checks of what becomes of them: that a message which was accepted
//! was handled, that none is handled twice or out of order, that letters which the fleet keeps are not lost, and that
//! each message has one outcome.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    checks::{Check, Wrong},
    record::ROUNDING,
};

/// How a message travels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// From agent to agent.
    Direct,
    /// Through the coordinators.
    Letter,
}

/// A message as its sender wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Posted {
    /// The sender: a correspondent, or one run of an agent.
    pub writer: String,
    /// The number of the message; those of one writer increase.
    pub number: u64,
    /// The receiver.
    pub to: String,
    /// Its priority.
    pub priority: u32,
    /// How it travels.
    pub way: Way,
    /// Whether messages of this writer to this receiver in this priority must be handled in order.
    pub is_ordered: bool,
    /// Whether the receiver refuses it.
    pub is_bad: bool,
    /// How long the receiver has to decide.
    pub ttl: Duration,
}

/// What has become of a message, once and for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The handler accepted it.
    Accepted,
    /// It was refused.
    Refused,
    /// It expired, and may have been handled.
    Expired,
    /// It was not handled, and never will be.
    NotHandled,
}

/// A message that a handler handles.
pub struct Handled<'a> {
    /// The id of the message.
    pub id: &'a str,
    /// The agent.
    pub agent: &'a str,
    /// The run of the agent.
    pub run: u64,
    /// Whether the agent has a data folder.
    pub keeps: bool,
    /// Whether the message is marked as one that may have been handled before.
    pub resent: bool,
    /// What its payload names: its writer and its number.
    pub names: (&'a str, u64),
}

struct Known {
    posted: Posted,
    at: Duration,
    /// The sender has sent it once more, with the same id, although it knew the outcome.
    is_repeated: bool,
    /// The runs of the receiver that have handled it.
    runs: Vec<u64>,
    fate: Option<Fate>,
    /// The coordinators have said that they keep it.
    is_kept: bool,
    /// It is sent when nothing is wrong, and must be handled.
    must_arrive: bool,
}

/// The writer, the receiver and its run, the priority and the way of messages that are in order.
type Row = (String, String, u64, u32, Way);

/// The messages of a run.
#[derive(Default)]
pub struct Ledger {
    messages: BTreeMap<String, Known>,
    /// The number that was handled last.
    rows: BTreeMap<Row, u64>,
    /// The number of handled messages, and of those that were handled a second time.
    handled: (u32, u32),
    /// Pairs of agents, the first of which has reached the second since the fleet is calm.
    reached: BTreeSet<(String, String)>,
}

impl Ledger {
    /// Records that a message is about to be sent for the first time.
    pub fn posts(&mut self, now: Duration, id: &str, posted: Posted) {
        let known = Known {
            posted,
            at: now,
            is_repeated: false,
            runs: Vec::new(),
            fate: None,
            is_kept: false,
            must_arrive: false,
        };
        self.messages.insert(id.to_owned(), known);
    }

    /// Records that a message is about to be sent again by a sender that knows its outcome.
    pub fn repeats(&mut self, id: &str) {
        if let Some(known) = self.messages.get_mut(id) {
            known.is_repeated = true;
        }
    }

    /// Records that a handler handles a message.
    ///
    /// # Errors
    /// What is wrong with that.
    pub fn handles(&mut self, handled: &Handled<'_>) -> Result<(), Wrong> {
        let Handled { id, agent, run, keeps, resent, names } = *handled;
        let wrong = |check, what: &str| Err((check, format!("message {id} {what} on {agent}, run {run}")));
        let Some(known) = self.messages.get_mut(id) else {
            return wrong(Check::Arrived, "that nobody sent is handled");
        };
        if known.posted.to != agent || (known.posted.writer.as_str(), known.posted.number) != names {
            return wrong(Check::Arrived, &format!("{:?} is handled as {names:?}", known.posted));
        }
        let wrong = |check, what: &str| wrong(check, &format!("({:?}) {what}", known.posted));
        match known.fate {
            Some(Fate::NotHandled) => return wrong(Check::Outcome, "counts as not handled, but is handled"),
            Some(Fate::Refused) if !known.posted.is_bad => {
                return wrong(Check::Outcome, "counts as refused, but is handled");
            }
            Some(Fate::Accepted | Fate::Refused) if keeps && !known.runs.is_empty() => {
                return wrong(Check::Twice, "is handled again, although its outcome is known");
            }
            _ => {}
        }
        if known.runs.contains(&run) {
            return wrong(Check::Twice, "is handled twice");
        }
        if !known.runs.is_empty() && !resent && !known.is_repeated {
            return wrong(Check::Twice, "is handled again without being marked as resent");
        }
        self.handled.0 += 1;
        self.handled.1 += u32::from(!known.runs.is_empty());
        known.runs.push(run);
        let Posted { writer, number, to, priority, way, is_ordered, .. } = &known.posted;
        if !is_ordered || known.is_repeated {
            return Ok(());
        }
        let row = (writer.clone(), to.clone(), run, *priority, *way);
        let latest = self.rows.entry(row).or_default();
        if *number < *latest {
            return wrong(Check::Order, &format!("{number} of {writer} is handled after its message {latest}"));
        }
        *latest = *number;
        Ok(())
    }

    /// Records what a message's sender was told to have become of it.
    ///
    /// # Errors
    /// What is wrong with that.
    pub fn ends(&mut self, now: Duration, id: &str, fate: Fate) -> Result<(), Wrong> {
        let Some(known) = self.messages.get_mut(id) else { return Ok(()) };
        let wrong = |check, what: &str| Err((check, format!("message {id} to {} {what}", known.posted.to)));
        if let Some(before) = known.fate.filter(|before| *before != fate) {
            return wrong(Check::Outcome, &format!("was {before:?} and is {fate:?}"));
        }
        known.fate = Some(fate);
        let due = known.at + known.posted.ttl.mul_f64(0.95);
        match fate {
            Fate::Accepted if known.runs.is_empty() => wrong(Check::Arrived, "is accepted, but was not handled"),
            Fate::Accepted if known.posted.is_bad => wrong(Check::Outcome, "was refused, but is accepted"),
            Fate::Refused if !known.posted.is_bad && !known.runs.is_empty() => {
                wrong(Check::Outcome, "was accepted, but is refused")
            }
            Fate::NotHandled if !known.runs.is_empty() => {
                wrong(Check::Outcome, "was handled, but counts as not handled")
            }
            Fate::Expired if now + ROUNDING < due => {
                wrong(Check::Letters, &format!("has expired at {now:?}, and was due at {due:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Records that the coordinators keep a message, so that they know what becomes of it.
    pub fn is_kept(&mut self, id: &str) {
        if let Some(known) = self.messages.get_mut(id) {
            known.is_kept = true;
        }
    }

    /// Records that a message is sent when nothing is wrong, so that it must be handled.
    pub fn must_arrive(&mut self, id: &str) {
        if let Some(known) = self.messages.get_mut(id) {
            known.must_arrive = true;
        }
    }

    /// Returns whether a message must be handled.
    pub fn has_to_arrive(&self, id: &str) -> bool {
        self.messages.get(id).is_some_and(|known| known.must_arrive)
    }

    /// Returns what has become of a message, if that is known.
    pub fn fate(&self, id: &str) -> Option<Fate> {
        self.messages.get(id)?.fate
    }

    /// Returns the ids of the messages that the coordinators keep and of which nobody knows yet what became of them.
    pub fn open(&self) -> Vec<String> {
        let open = self.messages.iter().filter(|(_, known)| known.is_kept && known.fate.is_none());
        open.map(|(id, _)| id.clone()).collect()
    }

    /// Records that an agent has reached another one since the fleet is calm.
    pub fn reached(&mut self, from: &str, to: &str) {
        self.reached.insert((from.to_owned(), to.to_owned()));
    }

    /// Returns an agent and another one that it has not reached since the fleet is calm; none of those that are gone for
    /// good.
    pub fn missing(&self, gone: &BTreeSet<String>) -> Option<(String, String)> {
        let all: Vec<String> = super::agents().into_iter().filter(|name| !gone.contains(name)).collect();
        let mut pairs = all.iter().flat_map(|from| all.iter().map(move |to| (from.clone(), to.clone())));
        pairs.find(|pair| pair.0 != pair.1 && !self.reached.contains(pair))
    }

    /// Returns the numbers of messages, of those that were handled, and of those that were handled once more.
    pub fn counts(&self) -> [usize; 3] {
        [self.messages.len(), self.handled.0 as usize, self.handled.1 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn posted(number: u64) -> Posted {
        Posted {
            writer: "w".to_owned(),
            number,
            to: "a".to_owned(),
            priority: 5,
            way: Way::Direct,
            is_ordered: true,
            is_bad: false,
            ttl: TTL,
        }
    }

    fn ledger(messages: u64) -> Ledger {
        let mut ledger = Ledger::default();
        (1..=messages).for_each(|n| ledger.posts(Duration::ZERO, &n.to_string(), posted(n)));
        ledger
    }

    /// Handles a message, in a run of an agent that keeps what it has handled, or not.
    fn handle(ledger: &mut Ledger, number: u64, run: u64, keeps: bool, resent: bool) -> Option<Check> {
        let id = number.to_string();
        let handled = Handled { id: &id, agent: "a", run, keeps, resent, names: ("w", number) };
        ledger.handles(&handled).err().map(|(check, _)| check)
    }

    fn end(ledger: &mut Ledger, number: u64, fate: Fate) -> Option<Check> {
        ledger.ends(TTL, &number.to_string(), fate).err().map(|(check, _)| check)
    }

    #[test]
    fn a_message_is_handled_once_in_a_run_and_again_only_if_it_is_marked() {
        let mut ledger = ledger(1);
        assert_eq!(handle(&mut ledger, 1, 1, true, false), None);
        assert_eq!(handle(&mut ledger, 1, 1, true, true), Some(Check::Twice));
        assert_eq!(handle(&mut ledger, 1, 2, true, false), Some(Check::Twice));
        assert_eq!(handle(&mut ledger, 1, 2, true, true), None);
        assert_eq!(end(&mut ledger, 1, Fate::Accepted), None);
        assert_eq!(handle(&mut ledger, 1, 3, true, true), Some(Check::Twice));
        assert_eq!(handle(&mut ledger, 1, 3, false, true), None);
        assert_eq!(ledger.counts(), [1, 3, 2]);
    }

    #[test]
    fn messages_out_of_order_are_noticed_in_one_run() {
        let mut ledger = ledger(3);
        let order = [(1, 1), (3, 1), (2, 1), (2, 2)].map(|(number, run)| handle(&mut ledger, number, run, true, true));
        assert_eq!(order, [None, None, Some(Check::Order), None]);
    }

    #[test]
    fn a_message_is_what_was_sent() {
        let mut ledger = ledger(1);
        let handled = Handled { id: "1", agent: "a", run: 1, keeps: true, resent: false, names: ("w", 2) };
        assert_eq!(ledger.handles(&handled).map_err(|(check, _)| check), Err(Check::Arrived));
        assert_eq!(handle(&mut ledger, 9, 1, true, false), Some(Check::Arrived));
    }

    #[test]
    fn an_outcome_is_true_and_stays() {
        let mut first = ledger(2);
        assert_eq!(end(&mut first, 1, Fate::Accepted), Some(Check::Arrived));
        assert_eq!(handle(&mut first, 2, 1, true, false), None);
        assert_eq!(end(&mut first, 2, Fate::NotHandled), Some(Check::Outcome));
        let mut second = ledger(1);
        assert_eq!(end(&mut second, 1, Fate::NotHandled), None);
        assert_eq!(end(&mut second, 1, Fate::Refused), Some(Check::Outcome));
        assert_eq!(handle(&mut second, 1, 1, true, false), Some(Check::Outcome));
    }

    #[test]
    fn a_letter_that_expires_too_early_is_noticed() {
        for (at, found) in [(9_400, true), (9_500, false)] {
            let ended = ledger(1).ends(Duration::from_millis(at), "1", Fate::Expired);
            assert_eq!(ended.is_err(), found, "{at} ms");
        }
    }
}
