//! How a server that has too much to do asks its callers to make a call again a little later: by the pushback that gRPC
//! defines for clients that retry, in the metadata of the status.

use std::time::Duration;

use tonic::{Code, Status, metadata::MetadataValue};

/// The metadata key of the pause, in milliseconds.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Returns the status `RESOURCE_EXHAUSTED` of a call of which nothing was done, and which may be made again after this
/// pause.
pub fn again_in(pause: Duration, message: impl Into<String>) -> Status {
    let mut status = Status::resource_exhausted(message);
    let pause_ms = i32::try_from(pause.as_millis()).unwrap_or(i32::MAX);
    status.metadata_mut().insert(RETRY_PUSHBACK, MetadataValue::from(pause_ms));
    status
}

/// Returns how long to wait before a call is made again that was refused with this status; `None` if the server does not
/// ask for that.
pub fn asked_pause(status: &Status) -> Option<Duration> {
    if status.code() != Code::ResourceExhausted {
        return None;
    }
    let pause_ms: u32 = status.metadata().get(RETRY_PUSHBACK)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(pause_ms.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_told_with_a_refusal_alone() {
        let status = again_in(Duration::from_millis(100), "full");
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "full"));
        assert_eq!(asked_pause(&status), Some(Duration::from_millis(100)));
        let longest = again_in(Duration::MAX, "full");
        assert_eq!(asked_pause(&longest), Some(Duration::from_millis(0x7fff_ffff)));
        assert_eq!(asked_pause(&Status::resource_exhausted("full")), None);
    }

    #[test]
    fn what_is_no_pause_does_not_count() {
        for (code, pause) in [(Code::ResourceExhausted, "-1"), (Code::ResourceExhausted, "soon"), (Code::Aborted, "1")]
        {
            let mut status = Status::new(code, "no");
            status.metadata_mut().insert(RETRY_PUSHBACK, MetadataValue::from_static(pause));
            assert_eq!(asked_pause(&status), None, "{code:?} {pause}");
        }
    }
}
