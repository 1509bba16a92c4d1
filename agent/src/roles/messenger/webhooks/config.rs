//! The list of webhooks.
//!
//! ```json
//! [{"name": "billing", "url": "https://billing.example/hooks", "secret": {"file": "/run/secrets/billing"},
//!   "kinds": ["invoice"], "states": ["succeeded", "failed"]}]
//! ```

use std::{path::PathBuf, sync::Arc};

use ring::hmac;
use robeing_platform::Disk;
use robeing_proto::v1::TaskState;
use robeing_target::{Target, TargetError, redacted};
use serde::Deserialize;

use crate::{
    executor::{CertificatesError, http::Transport},
    roles::messenger::gateway::forms,
};

/// Maximum size of the list, bytes.
pub const MAX_FILE: u64 = 256 * 1024;
/// Maximum number of webhooks.
pub const MAX_WEBHOOKS: usize = 32;
/// Maximum number of kinds of one webhook.
pub const MAX_KINDS: usize = 64;
/// Maximum length of a webhook's name, bytes.
pub const MAX_NAME: usize = 63;
/// How long a secret may be, bytes, as Standard Webhooks has it.
pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The prefix of a secret in base64.
const PREFIX: &str = "whsec_";
/// The states that a task ends in, by name.
pub const STATES: [(&str, TaskState); 4] = [
    ("succeeded", TaskState::Succeeded),
    ("failed", TaskState::Failed),
    ("cancelled", TaskState::Cancelled),
    ("dead_lettered", TaskState::DeadLettered),
];

/// Why a list can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no such JSON.
    #[error(
        "{0}; it must be a list of {{\"name\", \"url\", \"secret\": {{\"file\"}} or {{\"env\"}}, \"kinds\", \"states\"}}"
    )]
    Malformed(String),
    /// There are too many.
    #[error("there are {0}, {MAX_WEBHOOKS} at most")]
    TooMany(usize),
    /// A name can't be used.
    #[error("the name {0:?} must be 1 to {MAX_NAME} small letters, digits and '-', and no other webhook's")]
    Name(String),
    /// A URL can't be called.
    #[error("the URL {url:?} of {name} can't be called: {reason}")]
    Url {
        /// The webhook.
        name: String,
        /// The URL, without credentials.
        url: String,
        /// What is wrong with it.
        reason: TargetError,
    },
    /// The trusted certificates can't be read.
    #[error("{name} can't be called without trusted certificates: {source}")]
    Certificates {
        /// The webhook.
        name: String,
        /// Why there are none.
        source: CertificatesError,
    },
    /// The secret can't be read or used.
    #[error("the secret of {name} {problem}")]
    Secret {
        /// The webhook.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The filter can't be used.
    #[error("{name}: {problem}")]
    Filter {
        /// The webhook.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    url: String,
    secret: Source,
    #[serde(default)]
    kinds: Vec<String>,
    #[serde(default)]
    states: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Source {
    File(PathBuf),
    Env(String),
}

/// A webhook.
pub struct Webhook {
    /// Its name.
    pub name: String,
    pub(super) target: Target,
    pub(super) transport: Transport,
    pub(super) key: hmac::Key,
    /// Kinds of tasks; empty: all.
    pub(super) kinds: Vec<String>,
    /// States that it is called for.
    pub(super) states: Vec<TaskState>,
}

/// Parses a list, and reads the secrets.
///
/// # Errors
/// [`ConfigError`] if any of it can't be used; then none is.
pub async fn parse(
    text: &[u8],
    env: &(dyn Fn(&str) -> Option<String> + Send + Sync),
    disk: &Arc<dyn Disk>,
) -> Result<Vec<Webhook>, ConfigError> {
    let entries: Vec<Entry> =
        serde_json::from_slice(text).map_err(|error| ConfigError::Malformed(error.to_string()))?;
    if entries.len() > MAX_WEBHOOKS {
        return Err(ConfigError::TooMany(entries.len()));
    }
    let mut webhooks: Vec<Webhook> = Vec::with_capacity(entries.len());
    for entry in entries {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=MAX_NAME).contains(&entry.name.len()) && entry.name.bytes().all(is_name);
        if !fits || webhooks.iter().any(|known| known.name == entry.name) {
            return Err(ConfigError::Name(entry.name));
        }
        let secret = match &entry.secret {
            Source::File(file) => match disk.read(file).await {
                Ok(bytes) => String::from_utf8(bytes.to_vec()).map_err(|_| "is not text".to_owned()),
                Err(error) => Err(format!("can't be read from {}: {error}", file.display())),
            },
            Source::Env(variable) => env(variable).ok_or_else(|| format!("should be in {variable}, which is not set")),
        };
        let key = secret.and_then(|secret| key_of(secret.trim()));
        let key = key.map_err(|problem| ConfigError::Secret { name: entry.name.clone(), problem })?;
        webhooks.push(webhook(entry, key)?);
    }
    Ok(webhooks)
}

fn webhook(entry: Entry, key: hmac::Key) -> Result<Webhook, ConfigError> {
    let Entry { name, url, kinds, states, .. } = entry;
    let target = Target::parse(&url);
    let target = target.map_err(|reason| ConfigError::Url { name: name.clone(), url: redacted(&url), reason })?;
    let transport = Transport::new(target.is_https());
    let transport = transport.map_err(|source| ConfigError::Certificates { name: name.clone(), source })?;
    let filter = |problem: String| ConfigError::Filter { name: name.clone(), problem };
    if kinds.len() > MAX_KINDS {
        return Err(filter(format!("{} kinds, {MAX_KINDS} at most", kinds.len())));
    }
    let state = |name: &String| {
        let known = STATES.into_iter().find(|(known, _)| known == name);
        let names = || STATES.map(|(name, _)| name).join(", ");
        known
            .map(|(_, state)| state)
            .ok_or_else(|| filter(format!("there is no state {name:?}; there are {}", names())))
    };
    let states = match states.is_empty() {
        true => STATES.map(|(_, state)| state).to_vec(),
        false => states.iter().map(state).collect::<Result<_, _>>()?,
    };
    Ok(Webhook { name, target, transport, key, kinds, states })
}

/// Returns the key of a secret: `whsec_` and base64, or the text itself.
fn key_of(secret: &str) -> Result<hmac::Key, String> {
    let bytes = match secret.strip_prefix(PREFIX) {
        Some(base64) => forms::from_base64(PREFIX, base64).map_err(|_| format!("is not base64 after {PREFIX}"))?,
        None => secret.to_owned().into(),
    };
    match SECRET_BYTES.contains(&bytes.len()) {
        true => Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes)),
        false => Err(format!("has {} bytes; give {} to {}", bytes.len(), SECRET_BYTES.start(), SECRET_BYTES.end())),
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::Platform;

    use super::*;

    async fn read(text: &str) -> Result<Vec<Webhook>, String> {
        let env = |name: &str| (name == "SECRET").then(|| "x".repeat(24) + "\n");
        parse(text.as_bytes(), &env, &Platform::real().disk).await.map_err(|error| error.to_string())
    }

    fn list(count: usize) -> String {
        let one = |at| format!(r#"{{"name":"w-{at}","url":"http://h/","secret":{{"env":"SECRET"}}}}"#);
        format!("[{}]", (0..count).map(one).collect::<Vec<_>>().join(","))
    }

    #[tokio::test]
    async fn a_list_is_read_with_its_secrets() {
        let webhooks = read(&list(MAX_WEBHOOKS)).await.expect("it is right");
        assert_eq!((webhooks.len(), webhooks[0].states.len()), (MAX_WEBHOOKS, STATES.len()));
        assert!(read(&list(MAX_WEBHOOKS + 1)).await.is_err_and(|error| error.contains("at most")));
        for (wrong, words) in [
            ("{}", "it must be a list"),
            (r#"[{"name":"A","url":"http://h/","secret":{"env":"SECRET"}}]"#, "small letters"),
            (r#"[{"name":"a","url":"ftp://h/","secret":{"env":"SECRET"}}]"#, "http://"),
            (r#"[{"name":"a","url":"http://h/","secret":{"env":"NONE"}}]"#, "not set"),
            (r#"[{"name":"a","url":"http://h/","secret":{"file":"/none"}}]"#, "/none"),
            (r#"[{"name":"a","url":"http://h/","secret":"s"}]"#, "it must be a list"),
            (r#"[{"name":"a","url":"http://h/","secret":{"env":"SECRET"},"states":["queued"]}]"#, "succeeded, failed"),
        ] {
            let error = read(wrong).await.err().expect(wrong);
            assert!(error.contains(words), "{error}");
        }
        let twice = list(1).replace(']', &format!(",{}", &list(1)[1..]));
        assert!(read(&twice).await.is_err());
    }

    #[test]
    fn a_secret_is_as_long_as_the_standard_says() {
        for (secret, fits) in [
            ("x".repeat(23), false),
            ("x".repeat(24), true),
            ("x".repeat(64), true),
            ("x".repeat(65), false),
            (format!("whsec_{}", forms::to_base64(&[7; 24])), true),
            (format!("whsec_{}", forms::to_base64(&[7; 23])), false),
            ("whsec_?".to_owned(), false),
        ] {
            assert_eq!(key_of(&secret).is_ok(), fits, "{secret}");
        }
    }
}
