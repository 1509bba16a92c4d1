//! Failures to trust each other: of the client and a coordinator. Another attempt at the same coordinator has the same
//! result.

use std::{error::Error, io};

use rustls::{AlertDescription as Alert, CertificateError, Error as TlsError};
use tonic::Status;

use super::ClientError;

/// What the TLS library writes before the name of an alert. The HTTP/2 library keeps only the text of an error.
const ALERT: &str = "received fatal alert: ";

/// The alerts that servers send if they do not accept a client's certificate, and what is wrong with it.
const REFUSED: [(Alert, &str); 7] = [
    (Alert::UnknownCA, OTHER_AUTHORITY),
    (Alert::DecryptError, OTHER_AUTHORITY),
    (Alert::BadCertificate, "it is malformed"),
    (Alert::CertificateExpired, "it has expired, or the clock of one of the machines is wrong"),
    (Alert::CertificateRevoked, "it was revoked"),
    (Alert::CertificateUnknown, "it is of a kind that the fleet does not accept"),
    (Alert::AccessDenied, "its owner has no access"),
];
const OTHER_AUTHORITY: &str = "it is not from an authority of this fleet";

/// Returns the error if a call failed because the client and the coordinator at this endpoint do not trust each other.
/// `trusted_from` is where the authorities came from that the client trusts.
pub(super) fn distrust(status: &Status, endpoint: &str, trusted_from: Option<&str>) -> Option<ClientError> {
    let endpoint = endpoint.to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        let tls = io.and_then(io::Error::get_ref).and_then(|inner| inner.downcast_ref::<TlsError>());
        match (tls.or_else(|| error.downcast_ref()), io) {
            (Some(TlsError::InvalidCertificate(problem)), _) => {
                return Some(ClientError::Untrusted { endpoint, problem: wrong(problem, trusted_from) });
            }
            (Some(TlsError::InvalidMessage(_)), _) => return Some(ClientError::NoTls { endpoint }),
            // The operating system's errors have a number; this one is about who the coordinator is.
            (None, Some(io)) if io.kind() == io::ErrorKind::PermissionDenied && io.raw_os_error().is_none() => {
                return Some(ClientError::Untrusted { endpoint, problem: io.to_string() });
            }
            _ => {}
        }
        if let Some(problem) = refusal(&error.to_string()) {
            return Some(ClientError::CertificateRefused { endpoint, problem });
        }
        cause = error.source();
    }
    None
}

/// Returns what is wrong with a coordinator's certificate.
fn wrong(problem: &CertificateError, trusted_from: Option<&str>) -> String {
    match problem {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => match trusted_from {
            Some(source) => format!("its certificate is not from an authority in {source}"),
            None => "its certificate is not from an authority of this fleet".into(),
        },
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid now; the clock of one of the machines may be wrong".into()
        }
        other => format!("its certificate can't be used: {other}"),
    }
}

/// Returns what is wrong with the client's certificate, if an error tells that the server refused it.
fn refusal(error: &str) -> Option<&'static str> {
    let (_, alert) = error.split_once(ALERT)?;
    let name: String = alert.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
    REFUSED.iter().find(|(known, _)| format!("{known:?}") == name).map(|(_, problem)| *problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(error: io::Error) -> Status {
        Status::from_error(Box::new(error))
    }

    fn told(error: io::Error) -> Option<String> {
        distrust(&status_of(error), "http://c:8080", Some("trust.crt")).map(|error| error.to_string())
    }

    fn of_tls(error: TlsError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn a_certificate_of_a_stranger_is_told_with_the_file_of_those_that_are_trusted() {
        for problem in [CertificateError::UnknownIssuer, CertificateError::BadSignature] {
            assert_eq!(
                told(of_tls(TlsError::InvalidCertificate(problem))).as_deref(),
                Some(
                    "the coordinator at http://c:8080 is not trusted: its certificate is not from an authority in \
                     trust.crt"
                )
            );
        }
        let expired = told(of_tls(TlsError::InvalidCertificate(CertificateError::Expired))).expect("told");
        assert!(expired.contains("is not valid now"), "{expired}");
        let other = io::Error::new(io::ErrorKind::PermissionDenied, "the server is X, not Y");
        assert!(told(other).expect("told").ends_with("is not trusted: the server is X, not Y"));
    }

    #[test]
    fn alerts_about_the_own_certificate_are_told_in_words() {
        for (alert, problem) in REFUSED {
            let of_library = told(of_tls(TlsError::AlertReceived(alert))).expect("it is about the certificate");
            assert!(of_library.ends_with(problem), "{alert:?}: {of_library}");
            let as_text = told(io::Error::other(format!("{ALERT}{alert:?}"))).expect("it is about the certificate");
            assert_eq!(as_text, of_library);
        }
        assert_eq!(told(of_tls(TlsError::AlertReceived(Alert::InternalError))), None);
    }

    #[test]
    fn other_failures_may_end_and_are_none_of_these() {
        assert_eq!(told(io::Error::from(io::ErrorKind::ConnectionRefused)), None);
        assert_eq!(told(io::Error::from_raw_os_error(13)), None, "the operating system's permissions");
        assert!(distrust(&Status::permission_denied("no right"), "e", None).is_none());
    }
}
