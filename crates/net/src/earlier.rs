//! Detects peers that do not serve this version's private protocol: processes of an earlier version, and servers that
//! are not coordinators.

use tonic::{Code, Status};

/// The message reported about a peer that does not serve the private protocol.
pub const EARLIER_VERSION: &str = "it does not serve robeing.internal.v1, so it is not a coordinator, or it runs an \
                                   earlier version, which cannot be in a fleet with this one: check the address; if it \
                                   runs an earlier version, stop every process of that version and restart it with \
                                   this one";

/// Returns [`EARLIER_VERSION`] if the status is `UNIMPLEMENTED`, as from a process without the private service. An
/// agent's listener and a web server answer the same way.
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
