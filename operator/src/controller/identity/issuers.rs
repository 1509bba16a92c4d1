//! The issuer of the API server's service-account tokens and its public keys, with which coordinators verify tokens
//! without asking the API server. They are read at most every [`READ_EVERY`], once for all fleets.

use std::time::Duration;

use kube::Client;
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::Instant};

/// How often the keys are read again at most.
pub const READ_EVERY: Duration = Duration::from_secs(5 * 60);
/// After how many failures in a row the API server counts as one that does not show its issuer: fleets must not wait
/// for it for ever.
pub const MAX_FAILURES: u32 = 5;
/// Maximum size of the keys, bytes: that of coordinators.
pub const MAX_JWKS_BYTES: usize = 64 * 1024;
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
const KEYS_PATH: &str = "/openid/v1/jwks";

/// An issuer of service-account tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// The `iss` claim of its tokens.
    pub issuer: String,
    /// Its public keys, as a JSON Web Key Set.
    pub jwks: String,
}

impl Issuer {
    /// Returns the issuer as JSON.
    pub fn to_json(&self) -> String {
        serde_json::json!({"issuer": self.issuer, "jwks": self.jwks}).to_string()
    }
}

/// What the API server shows of its issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// This is the issuer.
    Known(Issuer),
    /// It is not shown, for this reason.
    Refused(String),
}

/// What was last read about the issuer.
#[derive(Debug, Default)]
pub struct Issuers {
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    known: Option<(Instant, Discovery)>,
    failures: u32,
}

impl Last {
    /// Returns the result of an attempt to read, and remembers it.
    fn after(&mut self, found: kube::Result<Discovery>, now: Instant) -> kube::Result<Discovery> {
        let found = match found {
            Ok(found) => found,
            // An API server that does not respond at all is waited for.
            Err(kube::Error::Api(status)) if self.failures + 1 >= MAX_FAILURES => {
                Discovery::Refused(format!("the API server failed {MAX_FAILURES} times in a row: {}", status.message))
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                return Err(error);
            }
        };
        if let Discovery::Refused(why) = &found {
            tracing::warn!(why, "the issuer of service-account tokens is not known");
        }
        *self = Self { known: Some((now, found.clone())), failures: 0 };
        Ok(found)
    }
}

impl Issuers {
    /// Returns what the API server shows, as of at most [`READ_EVERY`] ago.
    ///
    /// # Errors
    /// If the API server did not respond, or failed.
    pub async fn get(&self, client: &Client) -> kube::Result<Discovery> {
        let mut last = self.last.lock().await;
        if let Some((at, known)) = &last.known
            && at.elapsed() < READ_EVERY
        {
            return Ok(known.clone());
        }
        let found = discover(client).await;
        last.after(found, Instant::now())
    }
}

async fn discover(client: &Client) -> kube::Result<Discovery> {
    let mut texts = Vec::new();
    for path in [DISCOVERY_PATH, KEYS_PATH] {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        match client.request_text(request).await {
            Ok(text) => texts.push(text),
            // Unauthorized, forbidden, or a server that does not have it: asking again soon would not help.
            Err(kube::Error::Api(status)) if (400..429).contains(&status.code) => {
                return Ok(Discovery::Refused(format!("the API server refused to show {path}: {}", status.message)));
            }
            Err(error) => return Err(error),
        }
    }
    // The loop has read both.
    Ok(parse(&texts[0], &texts[1]).map_or_else(Discovery::Refused, Discovery::Known))
}

/// Returns the issuer that the two documents describe, or what is wrong with them.
fn parse(configuration: &str, jwks: &str) -> Result<Issuer, String> {
    #[derive(Deserialize)]
    struct Configuration {
        issuer: String,
    }
    #[derive(Deserialize)]
    struct Keys {
        keys: Vec<serde_json::Value>,
    }
    let Configuration { issuer } = serde_json::from_str(configuration).map_err(|error| {
        format!("{DISCOVERY_PATH} of the API server is not the configuration of an issuer: {error}")
    })?;
    let Keys { keys } = serde_json::from_str(jwks)
        .map_err(|error| format!("{KEYS_PATH} of the API server is not a JSON Web Key Set: {error}"))?;
    if issuer.is_empty() || keys.is_empty() {
        return Err("the API server names no issuer of service-account tokens, or no key of it".into());
    }
    if jwks.len() > MAX_JWKS_BYTES {
        return Err(format!("{KEYS_PATH} of the API server has {} bytes, the most is {MAX_JWKS_BYTES}", jwks.len()));
    }
    Ok(Issuer { issuer, jwks: jwks.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_read_from_its_two_documents() {
        let (configuration, jwks) = (r#"{"issuer": "https://k", "jwks_uri": "x"}"#, r#"{"keys": [{"kty": "RSA"}]}"#);
        let issuer = parse(configuration, jwks).expect("an issuer");
        assert_eq!((issuer.issuer.as_str(), issuer.jwks.as_str()), ("https://k", jwks));
        assert_eq!(serde_json::from_str::<Issuer>(&issuer.to_json()).expect("it is JSON"), issuer);
    }

    fn failed(code: u16) -> kube::Result<Discovery> {
        let status = kube::core::Status::failure("out of order", "InternalError").with_code(code);
        Err(kube::Error::Api(Box::new(status)))
    }

    #[tokio::test]
    async fn an_api_server_that_fails_again_and_again_keeps_no_fleet_waiting() {
        let mut last = Last::default();
        for _ in 1..MAX_FAILURES {
            assert!(last.after(failed(500), Instant::now()).is_err(), "it may be a moment's failure");
        }
        let Ok(Discovery::Refused(why)) = last.after(failed(500), Instant::now()) else { panic!("it is decided") };
        assert!(why.contains("5 times in a row"), "{why}");
        assert_eq!(last.failures, 0);
    }

    #[test]
    fn documents_that_describe_no_issuer_are_refused_and_so_are_those_that_are_too_large() {
        let (configuration, jwks) = (r#"{"issuer": "https://k"}"#, r#"{"keys": [{}]}"#);
        for (configuration, jwks) in [
            ("", jwks),
            ("{}", jwks),
            (r#"{"issuer": ""}"#, jwks),
            (configuration, ""),
            (configuration, r#"{"keys": []}"#),
        ] {
            assert!(parse(configuration, jwks).is_err(), "{configuration} {jwks}");
        }
        let padded = |size: usize| format!("{jwks}{}", " ".repeat(size - jwks.len()));
        assert!(parse(configuration, &padded(MAX_JWKS_BYTES)).is_ok());
        assert!(parse(configuration, &padded(MAX_JWKS_BYTES + 1)).is_err());
    }
}
