//! Secrets in the API server. The operator gets and writes them by name; it neither lists nor watches any.

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use crate::{
    controller::{
        apply::{self, Error},
        build::{self, SecretContent},
    },
    names,
};

const KIND: &str = "Secret";

/// The Secrets of one cluster.
#[derive(Clone, Copy)]
pub(super) struct Secrets<'a> {
    /// The client of the API server.
    pub(super) client: &'a Client,
    /// The cluster's name.
    pub(super) cluster: &'a str,
    /// The cluster's namespace.
    pub(super) namespace: &'a str,
    /// The cluster's uid.
    pub(super) uid: &'a str,
}

impl Secrets<'_> {
    fn api(self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    /// Returns a Secret of the user's, if it exists.
    pub(super) async fn get(self, name: &str) -> Result<Option<Secret>, Error> {
        self.api().get_opt(name).await.map_err(|error| Error::of("read", KIND, name, error))
    }

    /// Returns a Secret of the cluster's, if it exists.
    ///
    /// # Errors
    /// Also if it belongs to somebody else.
    pub(super) async fn get_own(self, name: &str) -> Result<Option<Secret>, Error> {
        let found = self.get(name).await?;
        match found {
            Some(found) if !apply::is_owned(&found.metadata, self.uid) => {
                Err(Error::Foreign { kind: KIND.into(), name: name.into() })
            }
            found => Ok(found),
        }
    }

    /// Writes a Secret, over the one of this version, or a new one if there is no version. Returns its new version;
    /// `None` if another one is there by now, or none.
    pub(super) async fn write(
        self,
        name: &str,
        version: Option<&str>,
        content: &SecretContent,
    ) -> Result<Option<String>, Error> {
        let secret = build::secret(self.cluster, self.namespace, self.uid, name, content);
        let written = match version {
            None => self.api().create(&parameters(), &secret).await,
            Some(version) => {
                let patch = patch(&secret, content, version);
                let parameters = PatchParams { field_manager: Some(names::OPERATOR.into()), ..PatchParams::default() };
                self.api().patch(name, &parameters, &Patch::Merge(patch)).await
            }
        };
        match written {
            Ok(written) => {
                tracing::info!(name, namespace = self.namespace, "wrote a Secret");
                Ok(Some(written.resource_version().unwrap_or_default()))
            }
            Err(error) if apply::is_gone(&error) => Ok(None),
            Err(error) => Err(Error::of("write", KIND, name, error)),
        }
    }

    /// Deletes a Secret of the cluster's.
    pub(super) async fn delete(self, name: &str) -> Result<(), Error> {
        let Some(found) = self.get_own(name).await? else { return Ok(()) };
        let only = Preconditions { uid: found.uid(), resource_version: None };
        match self.api().delete(name, &DeleteParams::background().preconditions(only)).await {
            Err(error) if !apply::is_gone(&error) => Err(Error::of("delete", KIND, name, error)),
            _ => Ok(()),
        }
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(names::OPERATOR.into()), ..PostParams::default() }
}

/// Returns the merge patch that gives a Secret of this version this content.
fn patch(secret: &Secret, (data, annotations): &SecretContent, version: &str) -> serde_json::Value {
    json!({
        "metadata": {
            "resourceVersion": version,
            "labels": secret.metadata.labels,
            "ownerReferences": secret.metadata.owner_references,
            "annotations": annotations,
        },
        "data": data,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn a_key_without_a_value_is_removed_and_others_keys_stay() {
        let data = BTreeMap::from([("a", Some(ByteString(b"x".to_vec()))), ("b", None)]);
        let content = (data, BTreeMap::from([("robeing.io/a", None), ("robeing.io/b", Some("1".to_owned()))]));
        let secret = build::secret("fleet", "apps", "u", "fleet-authority", &content);
        assert_eq!(secret.data.as_ref().map(BTreeMap::len), Some(1), "a new one has no empty key");
        let patch = patch(&secret, &content, "7");
        assert_eq!(patch["data"], json!({"a": "eA==", "b": null}));
        assert_eq!(patch["metadata"]["annotations"], json!({"robeing.io/a": null, "robeing.io/b": "1"}));
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
    }
}
