//! What errors on the way to a server mean, in words: what happened, and what to do.

use std::{error::Error, io};

use nix::errno::Errno;
use rustls::CertificateError::{
    Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext, UnknownIssuer,
};

use super::{super::text::too_many_files, tls};

/// Why a server can't be reached.
pub(super) fn unreachable(shown: &str, error: &(dyn Error + 'static)) -> String {
    let advice = match first::<rustls::Error>(error) {
        Some(error) => of_tls(error),
        None => chain(error).find_map(of_this_machine).unwrap_or_else(|| of_the_way(error)),
    };
    format!("{shown} can't be reached: {}; {advice}", causes(error))
}

fn of_the_way(error: &(dyn Error + 'static)) -> &'static str {
    // The resolver's errors have no kind of their own.
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
            "nobody who is trusted here has issued its certificate: name that, or its issuer's, in SSL_CERT_FILE"
        }
        InvalidCertificate(Expired | ExpiredContext { .. }) => "its certificate has expired: renew it",
        InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "its certificate is not valid yet: check the clocks of both machines"
        }
        InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "its certificate is for another name: call the server by that, or have one issued for this name"
        }
        error if tls::is_of_an_authority(error) => {
            "its certificate is an authority's: name this very certificate in SSL_CERT_FILE, or have one issued for the server"
        }
        InvalidCertificate(_) => "its certificate can't be accepted: have another one issued",
        AlertReceived(CertificateRequired | BadCertificate) => {
            "it wants a certificate of its callers, and agents have none: let it ask for none, such as behind a proxy that has one"
        }
        AlertReceived(HandshakeFailure) => {
            "it may want a certificate of its callers, which agents have none of, or ciphers that they don't know: see its log"
        }
        AlertReceived(ProtocolVersion) => "agents speak TLS 1.2 and 1.3: have the server speak either",
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

/// Whether bytes came that are none of HTTP, rather than too few of them.
pub(super) fn is_not_http(error: &(dyn Error + 'static)) -> bool {
    let is_malformed =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
    let is_of_tls = first::<rustls::Error>(error).is_some();
    let is_parse = first::<hyper::Error>(error).is_some_and(hyper::Error::is_parse);
    is_parse || !is_of_tls && first::<io::Error>(error).is_some_and(is_malformed)
}

/// An error and what caused it, outermost first; an error that already tells its cause is not told twice.
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

/// The first error of a kind among an error and what caused it.
pub(super) fn first<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// An error and what caused it, outermost first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error = *error;
        // An I/O error tells the cause of what it holds for its own.
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
            (of_certificate(UnknownIssuer), "UnknownIssuer; nobody who is trusted here"),
            (of_certificate(ExpiredContext { time: now, not_after: later }), "renew it"),
            (of_certificate(NotValidYet), "check the clocks"),
            (of_certificate(NotValidForName), "is for another name"),
            (of_certificate(CertificateError::Revoked), "have another one issued"),
            (of_tls(Tls::InvalidMessage(InvalidMessage::InvalidContentType)), "does not speak TLS there"),
            (of_tls(Tls::AlertReceived(AlertDescription::CertificateRequired)), "agents have none"),
            (of_tls(Tls::AlertReceived(AlertDescription::HandshakeFailure)), "may want a certificate"),
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
