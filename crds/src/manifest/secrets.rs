//! The Secrets that stand in a manifest beside a cluster that refers to them.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::SecretKey;

/// Values of Secrets, by name and key. It shows none of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<(String, String), Vec<u8>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// What is there.
    pub fn get(&self, key: &SecretKey) -> Option<&[u8]> {
        self.0.get(&(key.name.clone(), key.key.clone())).map(Vec::as_slice)
    }

    /// Takes what a resource has, if it is a Secret. One that can't be read has nothing.
    pub(super) fn take(&mut self, resource: &Value) {
        let is_secret = resource.get("kind").is_some_and(|kind| kind == "Secret");
        let secret =
            Some(resource).filter(|_| is_secret).and_then(|r| serde_json::from_value::<Secret>(r.clone()).ok());
        let Some(secret) = secret else { return };
        let name = secret.metadata.name.unwrap_or_default();
        let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        let text = secret.string_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        // As on the API server, the text goes before the data.
        self.0.extend(data.chain(text).map(|(key, value)| ((name.clone(), key), value)));
    }
}
