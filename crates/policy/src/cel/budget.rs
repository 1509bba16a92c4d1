//! What an evaluation may still spend.

use crate::{
    error::EvalError,
    limits::{BYTES_PER_STEP, MAX_BUILT_BYTES},
};

/// What an evaluation may still spend. Once it is spent, everything that is charged fails, so that no operator which
/// absorbs errors can continue.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    steps: u64,
    bytes: u64,
}

impl Budget {
    /// Returns a budget of some steps, and of the maximum of bytes.
    pub(crate) fn of(steps: u64) -> Self {
        Self { steps, bytes: MAX_BUILT_BYTES }
    }

    /// Returns the number of steps that are left.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Charges some steps.
    pub(crate) fn charge(&mut self, steps: u64) -> Result<(), EvalError> {
        match self.steps.checked_sub(steps) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => {
                self.steps = 0;
                Err(EvalError::Steps)
            }
        }
    }

    /// Charges the reading of some bytes.
    pub(crate) fn read(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.charge(1 + bytes as u64 / BYTES_PER_STEP)
    }

    /// Charges the building of a value of some bytes, before it is built.
    pub(crate) fn build(&mut self, bytes: usize) -> Result<(), EvalError> {
        match self.bytes.checked_sub(bytes as u64) {
            Some(left) => {
                self.bytes = left;
                self.read(bytes)
            }
            None => {
                // As with steps: nothing may continue.
                self.steps = 0;
                Err(EvalError::Memory)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_exactly_and_stays_spent() {
        let mut budget = Budget::of(3);
        budget.charge(3).unwrap();
        assert_eq!(budget.charge(1), Err(EvalError::Steps));
        let mut budget = Budget::of(3);
        assert_eq!(budget.charge(4), Err(EvalError::Steps));
        assert_eq!(budget.charge(1), Err(EvalError::Steps), "what was left is gone");
    }

    #[test]
    fn built_bytes_end_exactly_and_end_the_steps() {
        let mut budget = Budget::of(u64::MAX);
        budget.build(MAX_BUILT_BYTES as usize).unwrap();
        assert_eq!(budget.build(1), Err(EvalError::Memory));
        assert_eq!(budget.charge(1), Err(EvalError::Steps));
    }
}
