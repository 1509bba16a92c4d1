//! Stops asking a server that does not answer, so that no caller waits for it in vain, and asks again after a while.
//! Pure: the time is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// How many questions in a row fail before no more are asked.
pub const FAILURES_TO_OPEN: u32 = 3;
/// For how long no questions are asked at first.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// For how long no questions are asked at most; each failed trial doubles the pause up to it.
pub const MAX_PAUSE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug)]
enum State {
    /// Questions are asked.
    Closed { failures: u32 },
    /// No questions are asked.
    Open { until: Instant, pause: Duration },
    /// One question is asked as a trial. If nothing is heard of it until then, because its asker is gone, there is
    /// another one.
    Trial { until: Instant, pause: Duration },
}

/// Whether a server may be asked. `E` is why questions failed.
#[derive(Debug)]
pub struct Circuit<E> {
    state: State,
    /// How long a trial may take.
    trial: Duration,
    last: Option<E>,
}

impl<E: Clone> Circuit<E> {
    /// Creates the circuit of a server that may be asked. A question takes at most `trial`.
    pub fn new(trial: Duration) -> Self {
        Self { state: State::Closed { failures: 0 }, trial, last: None }
    }

    /// Asks whether a question may be asked now.
    ///
    /// # Errors
    /// If not: why the last one failed.
    pub fn admit(&mut self, now: Instant) -> Result<(), E> {
        let (until, pause) = match self.state {
            State::Closed { .. } => return Ok(()),
            State::Open { until, pause } | State::Trial { until, pause } => (until, pause),
        };
        match &self.last {
            Some(error) if now < until => Err(error.clone()),
            _ => {
                self.state = State::Trial { until: now + self.trial, pause };
                Ok(())
            }
        }
    }

    /// Notes that a question was answered. Returns whether this ends a pause.
    pub fn succeeded(&mut self) -> bool {
        let was_closed = matches!(self.state, State::Closed { .. });
        self.state = State::Closed { failures: 0 };
        !was_closed
    }

    /// Notes that a question failed. Returns whether this begins a pause, the first after questions were asked.
    pub fn failed(&mut self, error: E, now: Instant) -> bool {
        self.last = Some(error);
        let open = |pause| State::Open { until: now + pause, pause };
        match self.state {
            State::Closed { failures } if failures + 1 < FAILURES_TO_OPEN => {
                self.state = State::Closed { failures: failures + 1 };
                false
            }
            State::Closed { .. } => {
                self.state = open(FIRST_PAUSE);
                true
            }
            State::Trial { pause, .. } => {
                self.state = open((2 * pause).min(MAX_PAUSE));
                false
            }
            // It was asked before the pause.
            State::Open { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRIAL: Duration = Duration::from_secs(3);
    const ONE_MS: Duration = Duration::from_millis(1);

    fn opened(now: Instant) -> Circuit<u32> {
        let mut circuit = Circuit::new(TRIAL);
        for n in 1..=FAILURES_TO_OPEN {
            assert_eq!(circuit.admit(now), Ok(()));
            assert_eq!(circuit.failed(n, now), n == FAILURES_TO_OPEN);
        }
        circuit
    }

    #[test]
    fn after_three_failures_in_a_row_there_is_a_pause_and_then_one_trial() {
        let start = Instant::now();
        let mut circuit = opened(start);
        assert_eq!(circuit.admit(start + FIRST_PAUSE - ONE_MS), Err(3));
        // What was asked before the pause does not prolong it.
        assert!(!circuit.failed(4, start + FIRST_PAUSE - ONE_MS));
        assert_eq!(circuit.admit(start + FIRST_PAUSE), Ok(()));
        assert_eq!(circuit.admit(start + FIRST_PAUSE), Err(4), "there is one trial at a time");
        assert!(circuit.succeeded(), "the pause has ended");
        assert!(!circuit.succeeded());
        assert_eq!(circuit.admit(start + FIRST_PAUSE), Ok(()));
    }

    #[test]
    fn an_answer_between_failures_keeps_the_circuit_closed() {
        let (mut circuit, now) = (Circuit::new(TRIAL), Instant::now());
        for n in 0..10 {
            assert!(!circuit.failed(n, now));
            assert!(!circuit.failed(n, now));
            assert!(!circuit.succeeded());
            assert_eq!(circuit.admit(now), Ok(()));
        }
    }

    #[test]
    fn failed_trials_double_the_pause_up_to_the_longest() {
        let mut now = Instant::now();
        let mut circuit = opened(now);
        for pause in [1, 2, 4, 8, 15, 15, 15].map(Duration::from_secs) {
            assert_eq!(circuit.admit(now + pause - ONE_MS), Err(if pause == FIRST_PAUSE { 3 } else { 7 }));
            now += pause;
            assert_eq!(circuit.admit(now), Ok(()));
            assert!(!circuit.failed(7, now));
        }
    }

    #[test]
    fn a_trial_whose_asker_is_gone_is_repeated() {
        let start = Instant::now();
        let mut circuit = opened(start);
        assert_eq!(circuit.admit(start + FIRST_PAUSE), Ok(()));
        assert_eq!(circuit.admit(start + FIRST_PAUSE + TRIAL - ONE_MS), Err(3));
        assert_eq!(circuit.admit(start + FIRST_PAUSE + TRIAL), Ok(()));
    }

    proptest! {
        #[test]
        fn a_server_that_answers_again_is_asked_again_soon(
            steps in prop::collection::vec((0_u8..3, 0_u64..20_000), 0..60)
        ) {
            let (mut circuit, mut now) = (Circuit::new(TRIAL), Instant::now());
            for (what, ms) in steps {
                now += Duration::from_millis(ms);
                match what {
                    0 => assert!(circuit.admit(now).is_ok() || circuit.last.is_some()),
                    1 => assert!(!circuit.failed(1, now) || circuit.admit(now).is_err()),
                    _ => assert!(!circuit.succeeded() || circuit.admit(now).is_ok()),
                }
            }
            // Whatever happened, nobody waits longer than the longest pause or a trial.
            prop_assert_eq!(circuit.admit(now + MAX_PAUSE.max(TRIAL)), Ok(()));
            circuit.succeeded();
            prop_assert_eq!(circuit.admit(now), Ok(()));
        }
    }
}
