//! Parses the URLs that agents call. Agents use this parser, and so does validation, which must refuse what an agent
//! would refuse.
//!
//! URLs are parsed as by browsers (WHATWG): characters outside ASCII are percent-encoded, and host names go through
//! IDNA. Some input that browsers silently repair is refused here, because it is probably a typo: whitespace,
//! backslashes, a missing host. User names, passwords and tokens in a URL are left out of its display form.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Uri, header::HeaderValue};
use percent_encoding::percent_decode_str;
use url::Url;

/// A URL that can be called.
#[derive(Debug)]
pub struct Target {
    url: Url,
    uri: Uri,
    shown: String,
    authorization: Option<HeaderValue>,
}

/// The reason a URL can't be called. Never contains credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It contains whitespace, a control character or a backslash.
    #[error("it has the character {0:?}; remove it, or write it percent-encoded")]
    Character(char),
    /// The scheme is neither `http` nor `https`, or `://` is missing.
    #[error("it does not begin with http:// or https://")]
    Scheme,
    /// The host is missing.
    #[error("it names no host")]
    NoHost,
    /// A path is not absolute.
    #[error("it does not begin with a slash")]
    NoSlash,
    /// The host or port is invalid.
    #[error("{0}")]
    Malformed(#[from] url::ParseError),
    /// No request can be sent to this URL, or with these credentials.
    #[error("{0}")]
    Unsendable(String),
}

impl Target {
    /// Parses an absolute `http` or `https` URL.
    ///
    /// # Errors
    /// [`TargetError`] if the URL can't be called.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        check_characters(text)?;
        let (scheme, rest) = text.split_once("://").ok_or(TargetError::Scheme)?;
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(TargetError::Scheme);
        }
        // The parser would skip further slashes and use the first part of the path as the host.
        if rest.is_empty() || rest.starts_with(['/', '?', '#']) {
            return Err(TargetError::NoHost);
        }
        let mut url = Url::parse(text)?;
        let credentials = (url.username().to_owned(), url.password().map(str::to_owned));
        let authorization = match credentials {
            (user, None) if user.is_empty() => None,
            (user, password) => Some(basic(&user, password.as_deref().unwrap_or_default())?),
        };
        // Removing credentials works for any URL that has a host.
        let _ = url.set_username("").and_then(|()| url.set_password(None));
        url.set_fragment(None);
        let uri = uri(&url)?;
        Ok(Self { shown: shown(&uri), url, uri, authorization })
    }

    /// The URI to send requests to, without credentials.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The URL for display, without credentials and without the content of its query.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The `Authorization` header made from the credentials in the URL.
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Returns whether the URL uses TLS.
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Returns host and port, for a plain TCP connection.
    pub fn address(&self) -> (String, u16) {
        let host = self.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        (host.to_owned(), self.url.port_or_known_default().unwrap_or_default())
    }

    /// Returns a URI on the same server with another path and query.
    ///
    /// # Errors
    /// [`TargetError`] if `path` is not absolute, or contains characters that are not allowed.
    pub fn at(&self, path: &str) -> Result<Uri, TargetError> {
        check_characters(path)?;
        if !path.starts_with('/') {
            return Err(TargetError::NoSlash);
        }
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = self.url.clone();
        url.set_path(path);
        url.set_query(query);
        uri(&url)
    }
}

fn check_characters(text: &str) -> Result<(), TargetError> {
    let wrong = text.chars().find(|c| c.is_whitespace() || c.is_control() || *c == '\\');
    wrong.map_or(Ok(()), |wrong| Err(TargetError::Character(wrong)))
}

fn uri(url: &Url) -> Result<Uri, TargetError> {
    url.as_str().parse().map_err(|error: http::uri::InvalidUri| TargetError::Unsendable(error.to_string()))
}

/// Returns a URL for display: without credentials, and with `?…` in place of a query.
///
/// In a text that is not a valid URL, a password may be anywhere before the last `@`, even with slashes and whitespace
/// in it. So everything before that `@` is hidden except the scheme, and so is an authority that is not a valid host
/// and port. If there is a `?` or `#` before the `@`, everything after the scheme is hidden, because it may belong to a
/// query.
pub fn redacted(text: &str) -> String {
    if let Ok(target) = Target::parse(text) {
        return target.shown;
    }
    let (beginning, rest) = text.split_at(beginning(text));
    let (hidden, rest) = rest.rsplit_once('@').map_or((None, rest), |(hidden, rest)| (Some(hidden), rest));
    if hidden.is_some_and(|hidden| hidden.contains(['?', '#'])) {
        return format!("{beginning}…");
    }
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (rest, cut) = (&rest[..end], if end < rest.len() { "?…" } else { "" });
    let authority = rest.split(['/', '\\']).next().unwrap_or_default();
    let is_authority = || Target::parse(&format!("http://{authority}")).is_ok();
    match hidden {
        Some(_) if is_authority() => format!("{beginning}…@{rest}{cut}"),
        None if beginning.is_empty() || is_authority() => format!("{beginning}{rest}{cut}"),
        _ => format!("{beginning}…"),
    }
}

/// Returns the length of the text's URL scheme and the slashes after it, or of leading slashes alone.
fn beginning(text: &str) -> usize {
    let is_slash = |c: char| matches!(c, '/' | '\\');
    let after_slashes = |at: usize| text[at..].find(|c| !is_slash(c)).map_or(text.len(), |slashes| at + slashes);
    let is_known = |scheme: &str| ["http", "https", "ftp"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    match text.find(':') {
        Some(colon) if is_known(&text[..colon]) => after_slashes(colon + 1),
        _ if after_slashes(0) > 1 => after_slashes(0),
        _ => 0,
    }
}

/// Returns a URI for display, like [`redacted`].
pub fn shown(uri: &Uri) -> String {
    let host = uri.authority().map_or("", |authority| authority.as_str().rsplit('@').next().unwrap_or_default());
    let query = if uri.query().is_some() { "?…" } else { "" };
    format!("{}://{host}{}{query}", uri.scheme_str().unwrap_or_default(), uri.path())
}

/// Returns the `Basic` authorization header (RFC 7617) for a percent-encoded user and password.
fn basic(user: &str, password: &str) -> Result<HeaderValue, TargetError> {
    let mut plain: Vec<u8> = percent_decode_str(user).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(plain)))
        .map_err(|_| TargetError::Unsendable("its user and password can't be sent".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_become_a_header_and_are_not_shown() {
        let target = Target::parse("https://us%40er:p%3Ass@host:8443/a/b?token=secret").expect("a URL");
        assert_eq!(target.uri(), "https://host:8443/a/b?token=secret");
        assert_eq!(target.shown(), "https://host:8443/a/b?…");
        let header = target.authorization().expect("there are credentials");
        assert_eq!(*header, format!("Basic {}", BASE64_STANDARD.encode("us@er:p:ss")));
        assert!(!format!("{header:?}").contains("Basic"));
        assert_eq!(target.address(), ("host".into(), 8443));
        let none = Target::parse("http://[::1]/").expect("a URL");
        assert_eq!((none.authorization(), none.address(), none.shown()), (None, ("::1".into(), 80), "http://[::1]/"));
        let user = Target::parse("http://user@host").expect("a URL");
        assert_eq!(*user.authorization().expect("a user"), format!("Basic {}", BASE64_STANDARD.encode("user:")));
    }

    #[test]
    fn what_is_not_ascii_is_encoded() {
        for (url, sent) in [
            ("http://host/zählen?wörter=ä#ö", "http://host/z%C3%A4hlen?w%C3%B6rter=%C3%A4"),
            ("HTTP://HOST:80/%7e/{x}", "http://host/%7e/%7Bx%7D"),
            ("https://bücher.example", "https://xn--bcher-kva.example/"),
            ("http://%31.example/", "http://1.example/"),
        ] {
            assert_eq!(Target::parse(url).unwrap_or_else(|error| panic!("{url}: {error}")).uri(), sent);
        }
        let target = Target::parse("http://u:p@host/run?x").expect("a URL");
        assert_eq!(target.at("/gesünd?ä").expect("a path"), "http://host/ges%C3%BCnd?%C3%A4");
        assert_eq!(target.at("//other/").expect("a path"), "http://host//other/");
        assert_eq!(target.at("healthz"), Err(TargetError::NoSlash));
        assert_eq!(target.at("/a b"), Err(TargetError::Character(' ')));
    }

    #[test]
    fn what_is_no_url_is_refused() {
        use TargetError::{Character, NoHost, Scheme};
        for (url, why) in [
            ("http://a b/", Character(' ')),
            (" http://a/", Character(' ')),
            ("http://us er:p@host/", Character(' ')),
            ("http://host/\u{a0}", Character('\u{a0}')),
            ("http://host/a\0", Character('\0')),
            ("http:\\\\host", Character('\\')),
            ("host/run", Scheme),
            ("http:host", Scheme),
            ("ftp://host/", Scheme),
            ("http://", NoHost),
            ("http:///x", NoHost),
        ] {
            assert_eq!(Target::parse(url).expect_err(url), why, "{url}");
        }
        for url in
            ["http://host:65536/", "http://[::1/", "http://u:p@/", "http://a%00b/", "http://a\"b/", "http://1.2.3.400/"]
        {
            let error = Target::parse(url).expect_err(url).to_string();
            assert!(!error.is_empty() && !error.contains("u:p"), "{url}: {error}");
        }
    }

    #[test]
    fn whatever_the_text_nothing_secret_of_it_is_shown() {
        for (url, shown) in [
            ("http://u:p@host/x?token=s", "http://host/x?…"),
            ("http://u:p@ho st/x?token=s", "http://…"),
            ("http://host/a b?token=s", "http://host/a b?…"),
            ("ftp://u:p@host/#s", "ftp://…@host/?…"),
            ("ftp://host/x", "ftp://host/x"),
            ("ftp://u:p@ho st/#s", "ftp://…"),
            ("https://u:p/p@host/run", "https://…@host/run"),
            ("https://u:p/p p@host/run", "https://…@host/run"),
            ("https://u:p\\p@host/run", "https://…@host/run"),
            ("https:/u:p@host/run", "https:/…@host/run"),
            ("https:u:p@host/run", "https:…@host/run"),
            ("http:///u:p@host/run", "http:///…@host/run"),
            ("https://u:p?p@host/run", "https://…"),
            ("https://u:p#p@host/run", "https://…"),
            ("https://u:p", "https://…"),
            ("https://u:p/p", "https://…"),
            ("p:@host/run", "…@host/run"),
            ("p://x@host/run", "…@host/run"),
            ("path?token=s@s", "…"),
            ("//host/x", "//host/x"),
            ("host:80/run", "host:80/run"),
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
