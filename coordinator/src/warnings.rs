//! Problems of this coordinator that do not stop it from working: kept per reason by whichever part detects them, and
//! shown in the fleet's status, by `robeing status` and in the conditions of a `RobeingCluster`.

use std::collections::BTreeMap;

use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use robeing_proto::{internal::v1 as internal, v1};
use tracing::{info, warn};

/// Maximum number of warnings of one coordinator at a time.
pub const MAX_WARNINGS: usize = 16;
/// Maximum number of characters of one warning's message.
pub const MAX_MESSAGE: usize = 512;

/// A reason, in CamelCase, as in a Kubernetes condition.
pub type Reason = &'static str;

/// The warnings of one coordinator, one for each reason.
#[derive(Default)]
pub struct Warnings {
    current: Mutex<BTreeMap<Reason, String>>,
}

impl Warnings {
    fn current(&self) -> MutexGuard<'_, BTreeMap<Reason, String>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the message of a reason, or clears it with `None`. The message is a sentence that names this coordinator
    /// and states what to do; it must stay the same while nothing changes, or the status of the `RobeingCluster` is
    /// written again and again. A warning is logged when it appears and when it ends.
    pub fn set(&self, reason: Reason, message: Option<String>) {
        let mut current = self.current();
        let Some(message) = message else {
            if current.remove(reason).is_some() {
                info!(reason, "a warning has ended");
            }
            return;
        };
        let message = match message.char_indices().nth(MAX_MESSAGE) {
            Some((end, _)) => message[..end].to_owned(),
            None => message,
        };
        if !current.contains_key(reason) {
            if current.len() >= MAX_WARNINGS {
                return;
            }
            warn!(reason, message);
        }
        current.insert(reason, message);
    }

    /// Returns the warnings as API messages, by reason.
    pub fn told(&self) -> Vec<v1::Warning> {
        let warning = |(reason, message): (&Reason, &String)| v1::Warning {
            reason: (*reason).to_owned(),
            message: message.clone(),
        };
        self.current().iter().map(warning).collect()
    }
}

/// Returns the warnings of all coordinators without duplicates, at most [`MAX_WARNINGS`] of each.
pub fn merge<'a>(said: impl IntoIterator<Item = &'a internal::DescribeResponse>) -> Vec<v1::Warning> {
    let mut merged: Vec<v1::Warning> = Vec::new();
    for warning in said.into_iter().flat_map(|said| said.warnings.iter().take(MAX_WARNINGS)) {
        if !merged.contains(warning) {
            merged.push(warning.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(warnings: &Warnings) -> Vec<(String, String)> {
        warnings.told().into_iter().map(|warning| (warning.reason, warning.message)).collect()
    }

    #[test]
    fn a_warning_is_shown_until_it_is_cleared() {
        let warnings = Warnings::default();
        warnings.set("ClockSkew", Some("c-0 is 6 s ahead".into()));
        warnings.set("ClockSkew", Some("c-0 is 7 s ahead".into()));
        warnings.set("DiskNearlyFull", Some("c-0 has 1 MiB left".into()));
        warnings.set("Unknown", None);
        let pair = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
        assert_eq!(
            of(&warnings),
            [pair("ClockSkew", "c-0 is 7 s ahead"), pair("DiskNearlyFull", "c-0 has 1 MiB left")]
        );
        warnings.set("ClockSkew", None);
        assert_eq!(of(&warnings), [pair("DiskNearlyFull", "c-0 has 1 MiB left")]);
    }

    #[test]
    fn messages_and_their_number_are_bounded() {
        const REASONS: [Reason; MAX_WARNINGS + 1] =
            ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q"];
        let warnings = Warnings::default();
        warnings.set(REASONS[0], Some("é".repeat(MAX_MESSAGE)));
        assert_eq!(of(&warnings)[0].1.chars().count(), MAX_MESSAGE);
        warnings.set(REASONS[0], Some("é".repeat(MAX_MESSAGE + 1)));
        assert_eq!(of(&warnings)[0].1.chars().count(), MAX_MESSAGE);
        REASONS.into_iter().for_each(|reason| warnings.set(reason, Some("wrong".into())));
        assert_eq!(of(&warnings).len(), MAX_WARNINGS);
        warnings.set(REASONS[0], Some("still".into()));
        assert_eq!(of(&warnings)[0].1, "still");
    }

    #[test]
    fn what_two_coordinators_say_alike_is_shown_once() {
        let said = |messages: &[&str]| internal::DescribeResponse {
            warnings: messages
                .iter()
                .map(|message| v1::Warning { reason: "R".into(), message: (*message).to_owned() })
                .collect(),
            ..Default::default()
        };
        let merged = merge(&[said(&["a", "b"]), said(&["b", "c"])]);
        let messages: Vec<&str> = merged.iter().map(|warning| warning.message.as_str()).collect();
        assert_eq!(messages, ["a", "b", "c"]);
    }
}
