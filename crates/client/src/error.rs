//! What can go wrong between a client and a fleet, in the user's terms.

use std::{error::Error, io, time::Duration};

use tonic::{Code, Status};

/// A call that had no success.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// An endpoint that can't be read.
    #[error("{given:?} is no endpoint: {problem}; write host:port or http://host:port")]
    BadEndpoint {
        /// As the user wrote it.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No endpoint took a connection.
    #[error("no fleet answers at {endpoints} ({cause})")]
    Unreachable {
        /// Those that were tried.
        endpoints: String,
        /// Why there was no connection.
        cause: String,
    },
    /// The fleet was there but gave no answer for as long as was allowed.
    #[error("the fleet at {endpoints} has not answered for {:.1} s ({cause})", .waited.as_secs_f64())]
    Unavailable {
        /// Those that were tried.
        endpoints: String,
        /// How long the call was tried.
        waited: Duration,
        /// The last failure.
        cause: String,
    },
    /// Something else than a coordinator listens there.
    #[error("what answers at {endpoint} is no coordinator of a fleet ({cause})")]
    NotAFleet {
        /// Which endpoint.
        endpoint: String,
        /// How that was seen.
        cause: String,
    },
    /// The fleet has no such thing.
    #[error("{message}")]
    NotFound {
        /// The fleet's own words.
        message: String,
    },
    /// The fleet answered that it will not do it.
    #[error("the fleet refused ({code:?}): {message}")]
    Refused {
        /// Why, as gRPC classes it.
        code: Code,
        /// The fleet's own words.
        message: String,
    },
}

impl ClientError {
    pub(crate) fn refused(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NotFound { message },
            code => Self::Refused { code, message },
        }
    }
}

/// The innermost cause of a status that was made on this side, or the words of the fleet.
pub(super) fn cause(status: &Status) -> String {
    let Some(mut innermost) = status.source() else {
        return status.message().to_owned();
    };
    while let Some(deeper) = innermost.source() {
        innermost = deeper;
    }
    match innermost.downcast_ref::<io::Error>() {
        Some(error) => io_cause(error),
        None => innermost.to_string(),
    }
}

/// An I/O error without the system's number for it.
pub fn io_cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        _ => error.to_string(),
    }
}
