//! Where requests go: a URL, with the credentials and the tokens that it may have in it kept out of what is shown.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::Uri;
use http::header::HeaderValue;
use http::uri::Authority;
use percent_encoding::percent_decode_str;

/// A URL that can be called.
pub(super) struct Target {
    /// Without credentials.
    pub(super) uri: Uri,
    /// As it is shown, without credentials and without what its query says.
    pub(super) shown: String,
    /// What the credentials in the URL become.
    pub(super) authorization: Option<HeaderValue>,
    /// Whether TLS is spoken.
    pub(super) is_https: bool,
}

impl Target {
    /// Reads an absolute http or https URL; a reason why it is none, which repeats no credentials, otherwise.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
        if uri.host().is_none_or(str::is_empty) {
            return Err("it names no host".into());
        }
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            scheme => return Err(format!("its scheme is {:?}, not http or https", scheme.unwrap_or("none"))),
        };
        let authority = uri.authority().map_or("", Authority::as_str);
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let authorization = user.map(basic).transpose()?;
        let mut parts = uri.clone().into_parts();
        parts.authority = Some(host.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?);
        let uri = Uri::from_parts(parts).map_err(|error| error.to_string())?;
        Ok(Self { shown: shown(&uri), uri, authorization, is_https })
    }

    /// Host and port, for a connection without more.
    pub(super) fn address(&self) -> (String, u16) {
        let host = self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        (host.to_owned(), self.uri.port_u16().unwrap_or(if self.is_https { 443 } else { 80 }))
    }
}

/// A URL for people: no credentials, and of a query only that there is one. A text that is no URL is cut where one would
/// have them.
pub(super) fn redacted(url: &str) -> String {
    match url.parse::<Uri>() {
        Ok(uri) if uri.authority().is_some() => shown(&uri),
        _ => {
            let end = url.find(['?', '#']).unwrap_or(url.len());
            let (url, cut) = (&url[..end], if end < url.len() { "?…" } else { "" });
            let path = url.find("//").map_or(0, |at| at + 2);
            match url[path..].split('/').next().and_then(|authority| authority.rfind('@')) {
                Some(at) => format!("{}…@{}{cut}", &url[..path], &url[path + at + 1..]),
                None => format!("{url}{cut}"),
            }
        }
    }
}

/// A URL for people, as [`redacted`].
pub(super) fn shown(uri: &Uri) -> String {
    let host = uri.authority().map_or("", |authority| authority.as_str().rsplit('@').next().unwrap_or_default());
    let query = if uri.query().is_some() { "?…" } else { "" };
    format!("{}://{host}{}{query}", uri.scheme_str().unwrap_or_default(), uri.path())
}

/// The header of "user:password", both percent-encoded (RFC 7617).
fn basic(credentials: &str) -> Result<HeaderValue, String> {
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let mut plain: Vec<u8> = percent_decode_str(user).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(plain)))
        .map_err(|_| "its user and password can't be sent".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_become_a_header_and_are_not_shown() {
        let target = Target::parse("https://us%40er:p%3Ass@host:8443/a/b?token=secret").expect("a URL");
        assert_eq!(target.uri, "https://host:8443/a/b?token=secret");
        assert_eq!(target.shown, "https://host:8443/a/b?…");
        let header = target.authorization.as_ref().expect("there are credentials");
        assert_eq!(*header, format!("Basic {}", BASE64_STANDARD.encode("us@er:p:ss")));
        assert!(!format!("{header:?}").contains("Basic"));
        assert_eq!(target.address(), ("host".into(), 8443));
        let none = Target::parse("http://[::1]/").expect("a URL");
        assert_eq!((&none.authorization, none.address(), &*none.shown), (&None, ("::1".into(), 80), "http://[::1]/"));
        let user = Target::parse("http://user@host").expect("a URL").authorization.expect("a user");
        assert_eq!(user, format!("Basic {}", BASE64_STANDARD.encode("user:")));
    }

    #[test]
    fn whatever_the_text_nothing_secret_of_it_is_shown() {
        for (url, shown) in [
            ("http://u:p@host/x?token=s", "http://host/x?…"),
            ("http://u:p@ho st/x?token=s", "http://…@ho st/x?…"),
            ("ftp://u:p@host/#s", "ftp://host/"),
            ("ftp://u:p@ho st/#s", "ftp://…@ho st/?…"),
            ("path?token=s", "path?…"),
            ("//u:p@host", "//…@host"),
            ("/path?token=s", "/path?…"),
            ("u:p@host:1/x", "…@host:1/x"),
            ("", ""),
        ] {
            assert_eq!(redacted(url), shown, "{url}");
        }
    }
}
