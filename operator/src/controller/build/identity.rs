//! What the members of a fleet need to prove who they are: the files and variables in their pods, the ConfigMap with
//! the trusted authorities, and the Secrets. Nothing in a pod template changes when an authority or a secret is
//! rotated.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{
        ConfigMap, ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, EnvVar, KeyToPath,
        ObjectFieldSelector, ProjectedVolumeSource, Secret, SecretProjection, SecretVolumeSource,
        ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use robeing_crds::Enrolment;
use robeing_settings::{TlsMode, settings};

use super::{metadata, owner, pod::env};
use crate::{
    controller::{
        identity::{
            authority::{KEYS_OF_COORDINATORS, TRUST_KEY},
            join::JOIN_KEY,
        },
        validate::{FleetPool, Proof, Transport, ValidatedCluster},
    },
    names::{self, AUTHORITY_DIRECTORY, IDENTITY_DIRECTORY, IDENTITY_VOLUME},
};

/// Where client libraries look for the API server's token; the ServiceAccount's own is not mounted there.
const API_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const API_VOLUME: &str = "robeing-api-access";
/// The ConfigMap with the API server's authority, which exists in every namespace.
const API_AUTHORITY: &str = "kube-root-ca.crt";
/// The lifetime of tokens, seconds; the kubelet renews them when four fifths have passed.
const TOKEN_SECONDS: i64 = 3_600;
const TOKEN_FILE: &str = "token";
/// The mode of files in these volumes, 0440: for the group of the pod's volumes, which every container is in.
const PRIVATE_MODE: i32 = 0o440;

/// The names of the volumes that the coordinators' pods have; a template can't have one of these names.
pub const COORDINATOR_VOLUMES: [&str; 2] = [IDENTITY_VOLUME, API_VOLUME];

/// Returns how a setting names this transport; `None` if it is not set, since the process knows no TLS.
fn mode(transport: Transport) -> Option<TlsMode> {
    match transport {
        Transport::Plaintext => None,
        Transport::Permissive => Some(TlsMode::Permissive),
        Transport::Strict => Some(TlsMode::Strict),
    }
}

/// Returns the variables of a coordinator.
pub(super) fn coordinator_environment(fleet: &ValidatedCluster) -> Vec<EnvVar> {
    let Some(mode) = mode(fleet.identity.transport) else { return Vec::new() };
    let mut environment = vec![
        env(&settings::TLS, mode.as_str()),
        env(&settings::CA, AUTHORITY_DIRECTORY),
        env(&settings::TRUST_DOMAIN, &fleet.trust_domain),
        env(&settings::NAMESPACE, &fleet.namespace),
    ];
    if fleet.enrolment == Enrolment::Open {
        environment.push(env(&settings::ENROLMENT, robeing_settings::Enrolment::Open.as_str()));
    }
    environment
}

/// Returns whether agents have TLS.
pub(super) fn agents_have_tls(fleet: &ValidatedCluster) -> bool {
    mode(fleet.identity.transport).is_some()
}

/// Returns the variables of an agent.
pub(super) fn agent_environment(fleet: &ValidatedCluster) -> Vec<EnvVar> {
    let Some(mode) = mode(fleet.identity.transport) else { return Vec::new() };
    let proof = match fleet.identity.proof {
        Proof::Token => env(&settings::SERVICE_ACCOUNT_TOKEN, format!("{IDENTITY_DIRECTORY}/{TOKEN_FILE}")),
        Proof::JoinSecret => env(&settings::JOIN_SECRET, format!("{IDENTITY_DIRECTORY}/{JOIN_KEY}")),
    };
    let trust = env(&settings::TRUST, format!("{IDENTITY_DIRECTORY}/{TRUST_KEY}"));
    vec![env(&settings::TLS, mode.as_str()), trust, proof]
}

/// Removes from an agent's variables the user's that would contradict those of [`agent_environment`].
pub(super) fn keep_own(fleet: &ValidatedCluster, container: &mut Container) {
    let own = agent_environment(fleet);
    let alternatives = [
        settings::TLS.variable(),
        settings::TRUST.variable(),
        settings::JOIN_TOKEN.variable(),
        settings::JOIN_SECRET.variable(),
        settings::SERVICE_ACCOUNT_TOKEN.variable(),
    ];
    let is_own = |name: &str| own.iter().any(|variable| variable.name == name);
    let environment = container.env.get_or_insert_default();
    environment.retain(|given| is_own(&given.name) || !alternatives.contains(&given.name.as_str()));
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), read_only: Some(true), ..VolumeMount::default() }
}

/// Mounts the files of a coordinator into its container.
pub(super) fn mount_coordinator(fleet: &ValidatedCluster, container: &mut Container) {
    if mode(fleet.identity.transport).is_some() {
        let mounts = [mount(IDENTITY_VOLUME, AUTHORITY_DIRECTORY), mount(API_VOLUME, API_DIRECTORY)];
        container.volume_mounts.get_or_insert_default().extend(mounts);
    }
}

/// Mounts the files of an agent into its container.
pub(super) fn mount_agent(fleet: &ValidatedCluster, container: &mut Container) {
    if mode(fleet.identity.transport).is_some() {
        container.volume_mounts.get_or_insert_default().push(mount(IDENTITY_VOLUME, IDENTITY_DIRECTORY));
    }
}

fn items(keys: &[&str]) -> Option<Vec<KeyToPath>> {
    Some(keys.iter().map(|key| KeyToPath { key: (*key).into(), path: (*key).into(), mode: None }).collect())
}

fn projected(name: &str, sources: Vec<VolumeProjection>) -> Volume {
    let source = ProjectedVolumeSource { default_mode: Some(PRIVATE_MODE), sources: Some(sources) };
    Volume { name: name.into(), projected: Some(source), ..Volume::default() }
}

fn token(audience: Option<&str>) -> VolumeProjection {
    let token = ServiceAccountTokenProjection {
        audience: audience.map(str::to_owned),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: TOKEN_FILE.into(),
    };
    VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() }
}

fn from_config(name: String, key: &str) -> VolumeProjection {
    let config = ConfigMapProjection { name, items: items(&[key]), optional: None };
    VolumeProjection { config_map: Some(config), ..VolumeProjection::default() }
}

/// Returns the volumes of a coordinator's pod: the authority, and access to the API server, of which it asks what
/// people may do.
pub(super) fn coordinator_volumes(fleet: &ValidatedCluster) -> Vec<Volume> {
    if mode(fleet.identity.transport).is_none() {
        return Vec::new();
    }
    let secret = SecretVolumeSource {
        secret_name: Some(names::authority(&fleet.name)),
        items: items(&KEYS_OF_COORDINATORS),
        default_mode: Some(PRIVATE_MODE),
        optional: None,
    };
    let field = ObjectFieldSelector { api_version: Some("v1".into()), field_path: "metadata.namespace".into() };
    let namespace =
        DownwardAPIVolumeFile { path: "namespace".into(), field_ref: Some(field), ..DownwardAPIVolumeFile::default() };
    let downward = DownwardAPIProjection { items: Some(vec![namespace]) };
    let sources = vec![
        token(None),
        from_config(API_AUTHORITY.to_owned(), "ca.crt"),
        VolumeProjection { downward_api: Some(downward), ..VolumeProjection::default() },
    ];
    vec![
        Volume { name: IDENTITY_VOLUME.into(), secret: Some(secret), ..Volume::default() },
        projected(API_VOLUME, sources),
    ]
}

/// Returns the volumes of an agent's pod: the trusted authorities, and what it proves itself with.
pub(super) fn agent_volumes(fleet: &ValidatedCluster, pool: &FleetPool) -> Vec<Volume> {
    if mode(fleet.identity.transport).is_none() {
        return Vec::new();
    }
    let proof = match fleet.identity.proof {
        Proof::Token => token(Some(names::TOKEN_AUDIENCE)),
        Proof::JoinSecret => {
            let name = names::join(&fleet.name, &pool.name);
            let secret = SecretProjection { name, items: items(&[JOIN_KEY]), optional: None };
            VolumeProjection { secret: Some(secret), ..VolumeProjection::default() }
        }
    };
    let trust = from_config(names::trust(&fleet.name), TRUST_KEY);
    vec![projected(IDENTITY_VOLUME, vec![trust, proof])]
}

/// Returns the ConfigMap with the trusted authorities; `None` while they are not known.
pub(super) fn trust(fleet: &ValidatedCluster) -> Option<ConfigMap> {
    let trust = Some(&fleet.identity.trust).filter(|trust| !trust.is_empty())?;
    let data = BTreeMap::from([(TRUST_KEY.to_owned(), trust.clone())]);
    let metadata = metadata(fleet, names::trust(&fleet.name));
    Some(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() })
}

/// The data and the annotations of a Secret of the operator's. One without a value is to be removed.
pub type SecretContent = (BTreeMap<&'static str, Option<ByteString>>, BTreeMap<&'static str, Option<String>>);

/// Returns a Secret of a cluster. Keys and annotations without a value are left out. Its owner is the cluster, with
/// which the garbage collector deletes it.
pub fn secret(cluster: &str, namespace: &str, uid: &str, name: &str, (data, annotations): &SecretContent) -> Secret {
    let annotations = annotations.iter().filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?)));
    let data = data.iter().filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?)));
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(names::labels(cluster)),
            annotations: Some(annotations.collect()),
            owner_references: Some(vec![owner(cluster, uid)]),
            ..ObjectMeta::default()
        },
        data: Some(data.collect()),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}
