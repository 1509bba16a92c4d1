//! The webhooks that messengers call. Their list is an annotation of the pods, which a volume shows to the agent as a
//! file: a change of the list is one of the pod template, so it restarts the messengers, which read the list at their
//! start. The secrets are environment variables from Secrets, and nowhere in the clear.

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EnvVar, ObjectFieldSelector, Volume, VolumeMount,
};
use robeing_crds::{PodOverrides, Role};
use robeing_settings::settings;

use super::pod::{env, env_from_secret};
use crate::{
    controller::validate::{FleetPool, ValidatedCluster},
    names::{ANNOTATION_WEBHOOKS, WEBHOOKS_DIRECTORY, WEBHOOKS_FILE, WEBHOOKS_VOLUME},
};

/// Returns whether the agents of a pool call webhooks.
fn are_called(fleet: &ValidatedCluster, pool: &FleetPool) -> bool {
    pool.role == Role::Messenger && !fleet.gateway.is_empty()
}

/// Returns the overrides of a pool's pods with the list of webhooks.
pub(super) fn overrides(fleet: &ValidatedCluster, pool: &FleetPool) -> PodOverrides {
    let mut overrides = pool.template.clone();
    if are_called(fleet, pool) {
        overrides.annotations.insert(ANNOTATION_WEBHOOKS.to_owned(), fleet.gateway.for_agents());
    }
    overrides
}

/// Returns the variables of an agent with the file of its webhooks, and with their secrets.
pub(super) fn environment(fleet: &ValidatedCluster, pool: &FleetPool) -> Vec<EnvVar> {
    if !are_called(fleet, pool) {
        return Vec::new();
    }
    let file = env(&settings::WEBHOOKS, format!("{WEBHOOKS_DIRECTORY}/{WEBHOOKS_FILE}"));
    let secrets = fleet.gateway.secrets().map(|(variable, key)| env_from_secret(&variable, key));
    [file].into_iter().chain(secrets).collect()
}

/// Mounts the list into an agent's container.
pub(super) fn mount(fleet: &ValidatedCluster, pool: &FleetPool, container: &mut Container) {
    if are_called(fleet, pool) {
        container.volume_mounts.get_or_insert_default().push(VolumeMount {
            name: WEBHOOKS_VOLUME.into(),
            mount_path: WEBHOOKS_DIRECTORY.into(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
}

/// Returns the volume with the list.
pub(super) fn volume(fleet: &ValidatedCluster, pool: &FleetPool) -> Option<Volume> {
    let field_path = format!("metadata.annotations['{ANNOTATION_WEBHOOKS}']");
    let file = DownwardAPIVolumeFile {
        path: WEBHOOKS_FILE.into(),
        field_ref: Some(ObjectFieldSelector { api_version: Some("v1".into()), field_path }),
        ..DownwardAPIVolumeFile::default()
    };
    let source = DownwardAPIVolumeSource { items: Some(vec![file]), ..DownwardAPIVolumeSource::default() };
    let volume = Volume { name: WEBHOOKS_VOLUME.into(), downward_api: Some(source), ..Volume::default() };
    are_called(fleet, pool).then_some(volume)
}
