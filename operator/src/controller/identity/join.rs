//! The join secrets of pools, with which agents enrol where the issuer of service-account tokens is not known. Each has
//! a Secret of its own. It is rotated daily; the previous one is accepted until the next rotation. Pure.

use std::{fmt, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use robeing_identity::{IdentityError, JoinSecret};

use crate::{controller::build::SecretContent, names};

/// How often join secrets are rotated.
pub const ROTATED_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// The key of the Secret, and the name of the file.
pub const JOIN_KEY: &str = "join-secret";
/// The key with the previous secret.
const PREVIOUS_KEY: &str = "previous-join-secret";

/// The join secret of a pool.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinState {
    /// The secret.
    pub current: JoinSecret,
    /// The secret before, which is accepted, too.
    pub previous: Option<JoinSecret>,
    /// When it was rotated, Unix milliseconds.
    pub rotated_at: u64,
    /// The value of the annotation that it was rotated for.
    pub rotated_for: Option<String>,
}

impl fmt::Debug for JoinState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinState").field("rotated_at", &self.rotated_at).finish_non_exhaustive()
    }
}

/// What is to be done about a join secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Replace it.
    Rotate {
        /// Whether the one before is still accepted.
        keeps_previous: bool,
    },
    /// Count its age from now: the clock was set back.
    Stamp,
}

/// Returns what is to be done about a join secret at this time, Unix milliseconds. A rotation that was asked for drops
/// the secret before at once, since somebody else may know it.
pub fn step(state: &JoinState, now: u64, asked: Option<&str>) -> Step {
    if asked.is_some() && asked != state.rotated_for.as_deref() {
        return Step::Rotate { keeps_previous: false };
    }
    match now.checked_sub(state.rotated_at) {
        None => Step::Stamp,
        Some(age) if u128::from(age) >= ROTATED_EVERY.as_millis() => Step::Rotate { keeps_previous: true },
        Some(_) => Step::Rest,
    }
}

impl JoinState {
    /// Returns a new secret.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn new(now: u64, asked: Option<&str>) -> Result<Self, IdentityError> {
        let current = JoinSecret::generate()?;
        Ok(Self { current, previous: None, rotated_at: now, rotated_for: asked.map(str::to_owned) })
    }

    /// Returns the state after a step at this time, Unix milliseconds.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn after(self, step: Step, now: u64, asked: Option<&str>) -> Result<Self, IdentityError> {
        match step {
            Step::Rest => Ok(self),
            Step::Stamp => Ok(Self { rotated_at: now, ..self }),
            Step::Rotate { keeps_previous } => {
                let previous = Some(self.current).filter(|_| keeps_previous);
                Ok(Self { previous, ..Self::new(now, asked.or(self.rotated_for.as_deref()))? })
            }
        }
    }

    /// Returns the digests of the accepted secrets, the newest first.
    pub fn digests(&self) -> Vec<Vec<u8>> {
        [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .map(|secret| secret.digest().to_vec())
            .collect()
    }

    /// Reads the state from a Secret; `None` if it has no secret that can be read.
    pub fn from_secret(secret: &Secret) -> Option<Self> {
        let read = |key: &str| {
            let bytes = secret.data.as_ref()?.get(key)?;
            JoinSecret::from_text(std::str::from_utf8(&bytes.0).ok()?).ok()
        };
        let note = |key: &str| secret.metadata.annotations.as_ref()?.get(key).cloned();
        Some(Self {
            current: read(JOIN_KEY)?,
            previous: read(PREVIOUS_KEY),
            // A time that is missing or wrong makes it old.
            rotated_at: note(names::ANNOTATION_ROTATED_AT).and_then(|at| at.parse().ok()).unwrap_or(0),
            rotated_for: note(names::ANNOTATION_ROTATED_FOR),
        })
    }

    /// Returns the data and the annotations of the Secret with this state; see
    /// [`super::authority::to_secret`].
    pub fn to_secret(&self) -> SecretContent {
        let bytes = |secret: &JoinSecret| ByteString(secret.to_text().into_bytes());
        let data = [(JOIN_KEY, Some(bytes(&self.current))), (PREVIOUS_KEY, self.previous.as_ref().map(bytes))];
        let annotations = [
            (names::ANNOTATION_ROTATED_AT, Some(self.rotated_at.to_string())),
            (names::ANNOTATION_ROTATED_FOR, self.rotated_for.clone()),
        ];
        (data.into(), annotations.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = ROTATED_EVERY.as_millis() as u64;

    fn written(state: &JoinState) -> Secret {
        crate::controller::build::secret("fleet", "apps", "u", "fleet-data-join", &state.to_secret())
    }

    #[test]
    fn a_join_secret_is_rotated_daily_and_at_once_when_asked() {
        let state = JoinState::new(1_000, None).expect("random numbers");
        assert_eq!(step(&state, 1_000 + DAY - 1, None), Step::Rest);
        let daily = step(&state, 1_000 + DAY, None);
        assert_eq!(daily, Step::Rotate { keeps_previous: true });
        let next = state.clone().after(daily, 1_000 + DAY, None).expect("random numbers");
        assert_eq!(next.digests(), [next.current.digest().to_vec(), state.current.digest().to_vec()]);
        let asked = step(&next, 1_001 + DAY, Some("now"));
        assert_eq!(asked, Step::Rotate { keeps_previous: false });
        let after = next.after(asked, 1_001 + DAY, Some("now")).expect("random numbers");
        assert_eq!(after.digests(), [after.current.digest().to_vec()], "the one that may be known is refused");
        assert_eq!(step(&after, 1_002 + DAY, Some("now")), Step::Rest, "once for each value");
        assert_eq!(step(&after, 1_002 + DAY, None), Step::Rest);
    }

    #[test]
    fn what_is_no_join_secret_is_not_read() {
        let state = JoinState::new(5, Some("a")).expect("random numbers");
        assert_eq!(JoinState::from_secret(&written(&state)), Some(state.clone()));
        let mut broken = written(&state);
        broken.data.as_mut().expect("data").insert(JOIN_KEY.into(), ByteString(b"x".to_vec()));
        assert_eq!(JoinState::from_secret(&broken), None);
        assert_eq!(JoinState::from_secret(&Secret::default()), None);
    }

    proptest! {
        /// Whatever the clock does and whenever the operator restarts, the secret that pods have is accepted until they
        /// can have the next one, unless it was asked to be dropped.
        #[test]
        fn the_secret_of_a_moment_ago_is_accepted(
            rounds in prop::collection::vec((0_u64..3 * DAY, any::<bool>()), 1..30),
        ) {
            let mut state = JoinState::new(DAY, None).expect("random numbers");
            for (now, restarts) in rounds {
                let before = state.current.digest().to_vec();
                let step = step(&state, now, None);
                state = state.after(step, now, None).expect("random numbers");
                prop_assert!(state.digests().contains(&before) && state.digests().len() <= 2);
                prop_assert!(state.rotated_at <= now, "its age is known");
                if restarts {
                    state = JoinState::from_secret(&written(&state)).expect("it is written");
                }
            }
        }
    }
}
