//! Endpoints as users write them.

use std::{fmt, str::FromStr};

use super::ClientError;

/// The port of a coordinator if the endpoint has none.
pub const DEFAULT_PORT: u16 = 8080;

/// Where a coordinator listens: parsed from `host`, `host:port`, `http://host:port` or `https://host:port`, displayed
/// as one of the last two. The scheme `https` states that the coordinator must prove who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    https: bool,
    /// A host name or IP address; IPv6 in brackets.
    host: String,
    port: u16,
}

impl Address {
    /// Returns the `host:port` form for opening a socket.
    pub fn dial(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Returns whether the coordinator must prove who it is.
    pub fn is_https(&self) -> bool {
        self.https
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = ClientError;

    fn from_str(given: &str) -> Result<Self, ClientError> {
        let bad = |problem: &str| ClientError::BadEndpoint { given: given.into(), problem: problem.into() };
        let text = given.trim();
        let (https, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(bad("its scheme is neither http nor https")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return Err(bad("it names no host"));
        }
        if rest.contains(|c: char| c.is_whitespace() || "/?#@,".contains(c)) {
            return Err(bad("there is more in it than a host and a port"));
        }
        let (host, port) =
            split_port(rest).ok_or_else(|| bad("an IPv6 address must be in brackets, as in [::1]:8080"))?;
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(bad("its port is not a number from 1 to 65535")),
                Ok(port) => port,
            },
        };
        Ok(Self { https, host: host.into(), port })
    }
}

fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let (host, after) = text.split_at(text.find(']')? + 1);
        return match after {
            "" => Some((host, None)),
            _ => Some((host, Some(after.strip_prefix(':')?))),
        };
    }
    match text.split_once(':') {
        None => Some((text, None)),
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_users_write() {
        for (given, url) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://localhost:9000/", "http://localhost:9000"),
            ("fleet.example", "http://fleet.example:8080"),
            (" [::1]:7000 ", "http://[::1]:7000"),
            ("[::1]", "http://[::1]:8080"),
            ("https://fleet", "https://fleet:8080"),
        ] {
            let address: Address = given.parse().unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!(address.to_string(), url);
        }
    }

    #[test]
    fn says_what_is_wrong_with_others() {
        for (given, problem) in [
            ("", "names no host"),
            (":8080", "names no host"),
            ("http://", "names no host"),
            ("unix://x", "scheme"),
            ("fleet:0", "port"),
            ("fleet:65536", "port"),
            ("fleet:http", "port"),
            ("::1", "brackets"),
            ("[::1]8080", "brackets"),
            ("fleet:80/v1", "more in it"),
            ("a b", "more in it"),
        ] {
            let error = given.parse::<Address>().expect_err(given).to_string();
            assert!(error.contains(problem), "{given}: {error}");
        }
    }
}
