//! How the members of a fleet prove who they are, and whether their connections are encrypted.

use kube::KubeSchema;
use robeing_settings::DEFAULT_TRUST_DOMAIN;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    limits::{MAX_OBJECT_NAME, MAX_TRUST_DOMAIN},
    rules,
};

/// How the members of the fleet prove who they are. All connections but those of probes, metrics and attaching
/// processes are mutual TLS 1.3, unless `transport` is Permissive.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// What agents need to join the fleet: Proof or Open. With Open, anyone who can reach a coordinator may join as a
    /// worker or specialist, submit tasks and read results; a condition of the cluster warns about it.
    #[serde(default)]
    pub enrolment: Enrolment,

    /// The trust domain in the names of the members,
    /// `spiffe://TRUST-DOMAIN/ns/NAMESPACE/cluster/NAME/ROLE/MEMBER`. It can't be changed after creation.
    #[serde(default = "default_trust_domain")]
    #[schemars(length(min = 1, max = MAX_TRUST_DOMAIN))]
    #[x_kube(validation = rules::trust_domain_form(), validation = rules::trust_domain_is_kept())]
    pub trust_domain: String,

    /// Whether connections without TLS are accepted: Strict or Permissive. With Permissive, processes that do not speak
    /// TLS yet can take part; a condition of the cluster warns about it.
    #[serde(default)]
    pub transport: Transport,

    /// The certificate authority of the fleet. If not set, the operator makes one and rotates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<AuthorityReference>,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            enrolment: Enrolment::default(),
            trust_domain: default_trust_domain(),
            transport: Transport::default(),
            authority: None,
        }
    }
}

fn default_trust_domain() -> String {
    DEFAULT_TRUST_DOMAIN.to_owned()
}

/// What agents need to join a fleet.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[schemars(inline)]
pub enum Enrolment {
    /// A proof of who they are, which pods of the fleet's pools have.
    #[default]
    Proof,
    /// Nothing.
    Open,
}

/// Whether connections without TLS are accepted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[schemars(inline)]
pub enum Transport {
    /// TLS alone. A running fleet that does not use TLS yet moves to it by a rolling update.
    #[default]
    Strict,
    /// TLS, and plaintext with processes that do not speak TLS.
    Permissive,
}

/// A certificate authority that the user provides.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityReference {
    /// Name of a Secret in the cluster's namespace, as cert-manager makes it for a Certificate with `isCA: true`:
    /// `tls.crt` with the certificate of the authority first, and `tls.key` with its private key in PKCS #8 form.
    /// When the Secret gets another authority, members trust both before they are certified by the new one.
    #[schemars(length(min = 1, max = MAX_OBJECT_NAME))]
    pub secret_name: String,
}
