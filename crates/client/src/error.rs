//! Errors between a client and a fleet, in terms that users understand.

use std::{error::Error, io, time::Duration};

use tonic::{Code, Status};

/// The error of a failed call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// An endpoint could not be parsed.
    #[error("{given:?} is not an endpoint: {problem}; write host:port or http://host:port")]
    BadEndpoint {
        /// As the user wrote it.
        given: String,
        /// What is wrong with the endpoint.
        problem: String,
    },
    /// No endpoint accepted a connection.
    #[error("no fleet answers at {endpoints} ({cause})")]
    Unreachable {
        /// The endpoints that were tried.
        endpoints: String,
        /// Why the connections failed.
        cause: String,
    },
    /// The fleet was reachable but did not answer within the time limit.
    #[error("the fleet at {endpoints} has not answered for {:.1} s ({cause})", .waited.as_secs_f64())]
    Unavailable {
        /// The endpoints that were tried.
        endpoints: String,
        /// How long the call was retried.
        waited: Duration,
        /// The last failure.
        cause: String,
    },
    /// The server at the endpoint is not a coordinator.
    #[error("the server at {endpoint} is not a Robeing coordinator ({cause})")]
    NotAFleet {
        /// The endpoint.
        endpoint: String,
        /// The failure that shows this.
        cause: String,
    },
    /// The coordinator did not prove that it belongs to the fleet.
    #[error("the coordinator at {endpoint} is not trusted: {problem}")]
    Untrusted {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with its certificate, or who it is instead.
        problem: String,
    },
    /// The coordinator does not accept the client's certificate.
    #[error("the coordinator at {endpoint} refused the client's certificate: {problem}")]
    CertificateRefused {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with the certificate.
        problem: &'static str,
    },
    /// The server speaks no TLS, but has to prove who it is.
    #[error("the server at {endpoint} does not speak TLS, so it can't prove who it is")]
    NoTls {
        /// The endpoint.
        endpoint: String,
    },
    /// A vote can't be signed, so it is not cast.
    #[error("the vote is not signed and not cast: {problem}")]
    NotSigned {
        /// Why.
        problem: String,
    },
    /// The fleet has returned a ballot that is not what its members were asked, or not the one that was asked for.
    #[error("the ballot {ballot:?} is not to be believed: {problem}; ask another coordinator")]
    WrongBallot {
        /// The id of the ballot that was asked for.
        ballot: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A proposal to a group can't be signed, so it is not made.
    #[error("the proposal is not signed and not made: {problem}")]
    NotProposed {
        /// Why.
        problem: String,
    },
    /// The requested object does not exist.
    #[error("{message}")]
    NotFound {
        /// The message from the fleet.
        message: String,
    },
    /// The fleet refused the call.
    #[error("the fleet refused ({}): {message}", code_name(*.code))]
    Refused {
        /// The gRPC status code.
        code: Code,
        /// The message from the fleet.
        message: String,
    },
}

impl ClientError {
    pub(crate) fn refused(status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NotFound { message },
            code => Self::Refused { code, message },
        }
    }
}

/// Returns the name of a gRPC code, as the documentation has it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Returns the innermost cause of a status that was created on this side, or else the fleet's message.
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

/// Formats an I/O error without the operating system's error number.
pub fn io_cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        _ => error.to_string(),
    }
}
