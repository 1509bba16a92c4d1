//! The Secrets in a manifest, for headers that refer to them. They are decoded as kubectl decodes them. A value that
//! can't be a header is refused here; otherwise the agent would exit on it again and again.

use std::{collections::BTreeMap, fmt};

use http::HeaderValue;
use k8s_openapi::ByteString;
use robeing_crds::SecretKey;
use serde_json::Value;

/// The `kind` of a Secret.
pub(super) const SECRET: &str = "Secret";
/// Maximum size of a value in bytes: Linux allows 128 KiB for an environment variable, including its name.
const MAX_VALUE: usize = 127 * 1024;

/// Why a key of a Secret can't be the value of a header; completes the sentence "The key … of the Secret …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretProblem {
    /// The key does not exist.
    #[error("does not exist: robeing dev takes it from a Secret in the manifest, from stringData or data")]
    Absent,
    /// The value is a number or another type.
    #[error("is not text: put its value in quotes")]
    NotText,
    /// The value is in `data` and is not base64.
    #[error("is not base64: under data a value is base64, and under stringData the text itself")]
    NotBase64,
    /// The decoded value is not UTF-8.
    #[error("is not UTF-8, which an agent requires")]
    NotUtf8,
    /// The value contains a line break or another control character.
    #[error("contains a control character, such as a line break, which a header must not have")]
    ControlCharacter,
    /// The value is too long.
    #[error("has {bytes} bytes; the limit is {MAX_VALUE}, because it is passed in the agent's environment")]
    TooLong {
        /// Its size in bytes.
        bytes: usize,
    },
}

/// Values of Secrets, by name and key. The `Debug` output does not show the values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<(String, String), Result<String, SecretProblem>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// Reads the Secrets in a manifest that a cluster was read from. Returns none if the manifest can't be parsed
    /// completely.
    pub fn of_manifest(text: &str) -> Self {
        let mut secrets = Self::default();
        for document in serde_yaml::from_multiple(text).unwrap_or_default() {
            secrets.take(&document);
        }
        secrets
    }

    /// Returns the value of a key.
    ///
    /// # Errors
    /// Why it has no value that a header can have.
    pub fn get(&self, key: &SecretKey) -> Result<&str, SecretProblem> {
        let found = self.0.get(&(key.name.clone(), key.key.clone())).ok_or(SecretProblem::Absent)?;
        found.as_deref().map_err(SecretProblem::clone)
    }

    /// Adds the values of a resource if it is a Secret, or a list that contains Secrets.
    fn take(&mut self, resource: &Value) {
        match resource.get("kind").and_then(Value::as_str) {
            Some("List") => {
                resource.get("items").and_then(Value::as_array).into_iter().flatten().for_each(|r| self.take(r))
            }
            Some(SECRET) => {
                let name = resource.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                // As on the API server, `stringData` overrides `data`.
                for (field, read) in
                    [("data", from_base64 as fn(&str) -> _), ("stringData", |text| Ok(text.as_bytes().to_vec()))]
                {
                    for (key, value) in resource.get(field).and_then(Value::as_object).into_iter().flatten() {
                        self.0.insert((name.to_owned(), key.clone()), value_of(value, read));
                    }
                }
            }
            _ => {}
        }
    }
}

fn value_of(value: &Value, read: fn(&str) -> Result<Vec<u8>, SecretProblem>) -> Result<String, SecretProblem> {
    let written = match value {
        Value::String(text) => text,
        Value::Null => "",
        _ => return Err(SecretProblem::NotText),
    };
    let value = String::from_utf8(read(written)?).map_err(|_| SecretProblem::NotUtf8)?;
    // The agent also strips the last line end.
    let line = value.strip_suffix('\n').unwrap_or(&value).trim_end_matches('\r');
    if HeaderValue::from_bytes(line.as_bytes()).is_err() {
        return Err(SecretProblem::ControlCharacter);
    }
    if value.len() > MAX_VALUE {
        return Err(SecretProblem::TooLong { bytes: value.len() });
    }
    Ok(value)
}

/// Decodes base64 as the API server does: it can span several lines.
fn from_base64(written: &str) -> Result<Vec<u8>, SecretProblem> {
    let one_line = written.replace(['\r', '\n'], "");
    let decoded = serde_json::from_value::<ByteString>(one_line.into());
    decoded.map(|ByteString(bytes)| bytes).map_err(|_| SecretProblem::NotBase64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(secrets: &Secrets, name: &str, key: &str) -> Result<String, SecretProblem> {
        secrets.get(&SecretKey { name: name.into(), key: key.into() }).map(str::to_owned)
    }

    #[test]
    fn a_value_is_what_kubectl_would_take_and_a_header_can_have() {
        use SecretProblem::*;
        let secrets = Secrets::of_manifest(
            r#"
kind: List
apiVersion: v1
items:
- apiVersion: v1
  kind: Secret
  metadata: {name: api}
  data:
    plain: dG9rZW4=
    with-end: dG9rZW4NCg==
    wrapped: |
      dG9r
      ZW4=
    none:
    both: dG9rZW4=
    text: "not base64!"
    number: 1234
    binary: //79
    lines: YQpiCg==
  stringData:
    both: text
    yes: true
    word: ümlaut
    bell: "a\u0007"
    ends: "a\n\n"
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
data: {plain: text}
"#,
        );
        let ok = |value: &str| Ok(value.to_owned());
        for (key, value) in [
            ("plain", ok("token")),
            ("with-end", ok("token\r\n")),
            ("wrapped", ok("token")),
            ("none", ok("")),
            ("both", ok("text")),
            ("word", ok("ümlaut")),
            ("absent", Err(Absent)),
            ("text", Err(NotBase64)),
            ("number", Err(NotText)),
            ("yes", Err(NotText)),
            ("binary", Err(NotUtf8)),
            ("lines", Err(ControlCharacter)),
            ("bell", Err(ControlCharacter)),
            ("ends", Err(ControlCharacter)),
        ] {
            assert_eq!(get(&secrets, "api", key), value, "{key}");
        }
        assert_eq!(get(&secrets, "other", "plain"), Err(Absent));
        let shown = format!("{secrets:?}");
        assert!(shown.contains("plain") && !shown.contains("token"), "{shown}");
    }

    #[test]
    fn the_limit_of_a_value_is_exact() {
        let secrets = |bytes: usize| {
            let value = "x".repeat(bytes);
            Secrets::of_manifest(&format!("kind: Secret\nmetadata: {{name: api}}\nstringData: {{key: {value}}}\n"))
        };
        assert_eq!(get(&secrets(MAX_VALUE), "api", "key").map(|value| value.len()), Ok(MAX_VALUE));
        let bytes = MAX_VALUE + 1;
        assert_eq!(get(&secrets(bytes), "api", "key"), Err(SecretProblem::TooLong { bytes }));
    }
}
