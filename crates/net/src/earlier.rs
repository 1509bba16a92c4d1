//! Processes that do not know the private services of this version: those of an earlier one, and what is no coordinator.

use tonic::{Code, Status};

/// What is said of a process that does not know a private service.
pub const EARLIER_VERSION: &str = "it does not speak robeing.internal.v1, so it is no coordinator, or one of an earlier version, \
                                   which can't be in one fleet with this one: check the address; in the second case, stop every \
                                   process of the fleet that is of that version and start it with this one";

/// [`EARLIER_VERSION`], if this is how a process answers that does not know the private service. An agent's listener answers so,
/// too, and so does a web server.
pub fn earlier_version(status: &Status) -> Option<&'static str> {
    (status.code() == Code::Unimplemented).then_some(EARLIER_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_service_that_is_not_known_tells_of_an_earlier_version() {
        assert_eq!(earlier_version(&Status::unimplemented("")), Some(EARLIER_VERSION));
        for other in [Status::unavailable("it is gone"), Status::permission_denied("another fleet"), Status::ok("")] {
            assert_eq!(earlier_version(&other), None, "{other}");
        }
    }

    #[test]
    fn the_sentence_says_what_to_do() {
        assert!(EARLIER_VERSION.contains("stop every process"), "{EARLIER_VERSION}");
        assert!(!EARLIER_VERSION.contains("  "), "{EARLIER_VERSION}");
    }
}
