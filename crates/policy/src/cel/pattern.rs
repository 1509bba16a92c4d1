//! The patterns of `matches`.

use regex_automata::{
    Input,
    hybrid::dfa::DFA,
    nfa::thompson::{self, NFA, WhichCaptures, pikevm::PikeVM},
};

use super::Budget;
use crate::{
    error::{EvalError, ExpressionError},
    limits::{
        BYTES_PER_STEP, MATCH_PER_STEP, MATCH_WARM_UP_BYTES, MAX_PATTERN_BYTES, MAX_PATTERN_SIZE, MAX_PATTERN_TABLES,
    },
};

/// The longest beginning of a pattern that an error shows, in characters.
const SHOWN_PATTERN: usize = 64;
/// How often the tables of a pattern may overflow before the slow automaton takes over.
const MAX_TABLE_OVERFLOWS: usize = 2;

/// A compiled pattern.
///
/// Both automata are linear in the text. The fast one computes its states while it reads, in tables that begin empty
/// for each match, so that the cost of a match depends on nothing but pattern and text; it gives up if the tables
/// overflow. The slow one may visit all states for each byte.
#[derive(Debug)]
pub(crate) struct Pattern {
    fast: DFA,
    slow: PikeVM,
    states: u64,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`ExpressionError::Pattern`] if it is none, or too large.
    pub(super) fn compile(pattern: &str) -> Result<Self, ExpressionError> {
        let refuse = |reason: String| ExpressionError::Pattern {
            pattern: pattern.chars().take(SHOWN_PATTERN).collect(),
            reason,
        };
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(refuse("it is too long".to_owned()));
        }
        let config = thompson::Config::new().nfa_size_limit(Some(MAX_PATTERN_SIZE)).which_captures(WhichCaptures::None);
        let nfa = NFA::compiler().configure(config).build(pattern).map_err(|error| refuse(innermost(&error)))?;
        let config = DFA::config()
            .cache_capacity(MAX_PATTERN_TABLES)
            .skip_cache_capacity_check(true)
            .minimum_cache_clear_count(Some(MAX_TABLE_OVERFLOWS))
            .unicode_word_boundary(true);
        let fast = DFA::builder().configure(config).build_from_nfa(nfa.clone());
        let fast = fast.map_err(|error| refuse(innermost(&error)))?;
        let states = nfa.states().len() as u64;
        let slow = PikeVM::new_from_nfa(nfa).map_err(|error| refuse(innermost(&error)))?;
        Ok(Self { fast, slow, states })
    }

    /// Returns whether the pattern matches a part of a text.
    pub(super) fn is_match(&self, text: &str, budget: &mut Budget) -> Result<bool, EvalError> {
        let bytes = text.len() as u64;
        let visits = |bytes: u64| bytes.saturating_mul(self.states) / MATCH_PER_STEP;
        budget.charge(1 + visits(bytes.min(MATCH_WARM_UP_BYTES)) + bytes / BYTES_PER_STEP)?;
        let input = Input::new(text).earliest(true);
        if let Ok(found) = self.fast.try_search_fwd(&mut self.fast.create_cache(), &input) {
            return Ok(found.is_some());
        }
        budget.charge(visits(bytes))?;
        Ok(self.slow.is_match(&mut self.slow.create_cache(), text))
    }
}

/// Returns the last cause of an error, which is the most specific.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::MAX_STEPS;

    fn is_match(pattern: &str, text: &str) -> Result<bool, EvalError> {
        Pattern::compile(pattern).unwrap().is_match(text, &mut Budget::of(MAX_STEPS))
    }

    /// About as many `a` as `b`, in no order.
    fn disorder(bytes: usize) -> String {
        let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let states = std::iter::successors(Some(1), next);
        states.map(|state| if state >> 63 == 0 { 'a' } else { 'b' }).take(bytes).collect()
    }

    #[test]
    fn usual_patterns_match_the_largest_payloads() {
        let text = disorder(1024 * 1024);
        for pattern in [r"\w+@\w+", "[0-9]{4}([ -]?[0-9]{4}){3}", "(?i)password", r"^.*\d{4}$", "a[ab]{9}c"] {
            assert_eq!(is_match(pattern, &text), Ok(false), "{pattern}");
            assert!(is_match(pattern, &format!("{text}c@12 1111222233334444")).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_that_would_be_slow_is_charged_for_it() {
        let slow = "(([ab]{1,9}){1,9}){1,9}[c-z]";
        assert_eq!(is_match(slow, &disorder(1024 * 1024)), Err(EvalError::Steps));
        assert_eq!(is_match(slow, "aabbc"), Ok(true));
        let overflowing = "a[ab]{40}[c-z]|b[ab]{41}[c-z]|ab[ab]{42}[d-z]";
        let text = disorder(64 * 1024);
        let pattern = Pattern::compile(overflowing).unwrap();
        let fast = pattern.fast.try_search_fwd(&mut pattern.fast.create_cache(), &Input::new(&text).earliest(true));
        assert!(fast.is_err(), "the tables overflow");
        assert_eq!(is_match(overflowing, &text), Ok(false), "the slow automaton takes over");
    }

    #[test]
    fn word_boundaries_beyond_ascii_are_found() {
        assert_eq!(is_match(r"\bübung\b", "eine übung hier"), Ok(true));
        assert_eq!(is_match(r"\bbung\b", "eine übung hier"), Ok(false));
    }

    proptest! {
        #[test]
        fn both_automata_agree(pattern in "[ab.|?*+()^$]{0,10}|[a-c](\\[wdsb]|[ab]){0,4}", text in "[ab c1é\\n]{0,24}") {
            let Ok(pattern) = Pattern::compile(&pattern) else { return Ok(()) };
            let slow = pattern.slow.is_match(&mut pattern.slow.create_cache(), &text);
            prop_assert_eq!(pattern.is_match(&text, &mut Budget::of(MAX_STEPS)), Ok(slow));
        }
    }
}
