//! Human-readable explanations of errors in reaching a server: what happened, and what to do.

use std::{error::Error, io};

use nix::errno::Errno;
use rustls::CertificateError::{
    Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext, UnknownIssuer,
};

use super::{super::text::too_many_files, tls};

/// Explains why a server can't be reached.
pub(crate) fn unreachable(shown: &str, error: &(dyn Error + 'static)) -> String {
    let advice = match first::<rustls::Error>(error) {
        Some(error) => of_tls(error),
        None => chain(error).find_map(of_this_machine).unwrap_or_else(|| of_the_way(error)),
    };
    format!("{shown} can't be reached: {}; {advice}", causes(error))
}

fn of_the_way(error: &(dyn Error + 'static)) -> &'static str {
    // The resolver's errors have no error type.
    match chain(error).any(|error| error.to_string() == "dns error") {
        true => "is its name right, and does this machine's DNS know it?",
        false => "is the server up?",
    }
}

fn of_tls(error: &rustls::Error) -> &'static str {
    use rustls::{
        AlertDescription::{BadCertificate, CertificateRequired, HandshakeFailure, ProtocolVersion, UnrecognisedName},
        Error::{AlertReceived, InvalidCertificate, InvalidMessage},
    };
    match error {
        InvalidCertificate(UnknownIssuer) => {
            "its certificate has no trusted issuer here: name the certificate, or its issuer's, in SSL_CERT_FILE"
        }
        InvalidCertificate(Expired | ExpiredContext { .. }) => "its certificate has expired: renew it",
        InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "its certificate is not valid yet: check the clocks of both machines"
        }
        InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "its certificate is for another name: call the server by that, or have one issued for this name"
        }
        error if tls::is_of_an_authority(error) => {
            "its certificate is a CA certificate: name exactly that one in SSL_CERT_FILE, or issue one for the server"
        }
        InvalidCertificate(_) => "its certificate can't be accepted: have a new one issued",
        AlertReceived(CertificateRequired | BadCertificate) => {
            "it requires a client certificate, and agents have none: turn that off, or use a proxy that has one"
        }
        AlertReceived(HandshakeFailure) => {
            "it may require a client certificate, which agents don't have, or ciphers they don't support: see its log"
        }
        AlertReceived(ProtocolVersion) => "agents support TLS 1.2 and 1.3: enable either on the server",
        AlertReceived(UnrecognisedName) => "it knows no server of this name: call it by a name that it knows",
        InvalidMessage(_) => "it does not speak TLS there: write http://, or name its port for TLS",
        _ => "see the server's log for its side",
    }
}

fn of_this_machine(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let errno = Errno::from_raw(error.downcast_ref::<io::Error>()?.raw_os_error()?);
    too_many_files(errno)
        .or((errno == Errno::EADDRNOTAVAIL).then_some("this machine has no free port for a connection"))
}

/// Whether the received bytes are not HTTP, rather than incomplete.
pub(super) fn is_not_http(error: &(dyn Error + 'static)) -> bool {
    let is_malformed =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
    let is_of_tls = first::<rustls::Error>(error).is_some();
    let is_parse = first::<hyper::Error>(error).is_some_and(hyper::Error::is_parse);
    is_parse || !is_of_tls && first::<io::Error>(error).is_some_and(is_malformed)
}

/// Formats an error and its causes, outermost first, omitting causes that the text already contains.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for next in chain(error).map(ToString::to_string) {
        match &*text {
            "" => text = next,
            told if told.contains(&next) => {}
            told => text = format!("{told}: {next}"),
        }
    }
    text
}

/// Returns the first error of type `E` in the chain of causes.
pub(super) fn first<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// Iterates over an error and its causes, outermost first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error = *error;
        // The source of an I/O error skips the error it holds.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        held.map(|held| held as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError, Error as Tls, InvalidMessage};

    use super::*;

    #[test]
    fn what_keeps_from_a_server_is_told_with_what_to_do() {
        let of_tls = |error: Tls| io::Error::other(error);
        let of_certificate = |error: CertificateError| of_tls(Tls::InvalidCertificate(error));
        let (now, later) = (rustls::pki_types::UnixTime::now(), rustls::pki_types::UnixTime::now());
        for (error, words) in [
            (of_certificate(UnknownIssuer), "UnknownIssuer; its certificate has no trusted issuer"),
            (of_certificate(ExpiredContext { time: now, not_after: later }), "renew it"),
            (of_certificate(NotValidYet), "check the clocks"),
            (of_certificate(NotValidForName), "is for another name"),
            (of_certificate(CertificateError::Revoked), "have a new one issued"),
            (of_tls(Tls::InvalidMessage(InvalidMessage::InvalidContentType)), "does not speak TLS there"),
            (of_tls(Tls::AlertReceived(AlertDescription::CertificateRequired)), "agents have none"),
            (of_tls(Tls::AlertReceived(AlertDescription::HandshakeFailure)), "may require a client certificate"),
            (of_tls(Tls::HandshakeNotComplete), "see the server's log"),
            (io::Error::from_raw_os_error(Errno::EMFILE as i32), "raise its limit (ulimit -n)"),
            (io::Error::from_raw_os_error(Errno::EADDRNOTAVAIL as i32), "no free port"),
            (io::Error::from_raw_os_error(Errno::ECONNREFUSED as i32), "is the server up?"),
            (io::Error::other("dns error"), "does this machine's DNS know it?"),
        ] {
            let told = unreachable("https://host/", &io::Error::other(error));
            assert!(told.starts_with("https://host/ can't be reached: ") && told.contains(words), "{told}");
        }
    }
}
