//! The API server's defaults, set by the operator itself, for two reasons. If a field that the operator does not set is
//! changed, nothing restores it. And a default within one of several alternatives (the handler of a probe, or the
//! source of a volume or a variable) remains when another alternative is chosen; the API server then refuses both.

use k8s_openapi::api::core::v1::{
    Container, EnvVarSource, HTTPGetAction, Lifecycle, LifecycleHandler, ObjectFieldSelector, PodSpec, Probe,
    ProjectedVolumeSource, Volume, VolumeProjection,
};

use super::pull::default_policy;

/// The mode of files in volumes, 0644.
const FILE_MODE: i32 = 0o644;
/// The lifetime of a ServiceAccount's token, in seconds.
const TOKEN_SECONDS: i64 = 3_600;

/// Sets the defaults of a pod.
pub(super) fn own(spec: &mut PodSpec) {
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    spec.scheduler_name.get_or_insert_with(|| "default-scheduler".into());
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(container);
    spec.volumes.iter_mut().flatten().for_each(volume);
}

fn container(container: &mut Container) {
    let Container { liveness_probe, readiness_probe, startup_probe, .. } = container;
    [liveness_probe, readiness_probe, startup_probe].into_iter().flatten().for_each(probe);
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".into());
    }
    let sources = container.env.iter_mut().flatten().filter_map(|variable| variable.value_from.as_mut());
    sources.for_each(|EnvVarSource { field_ref, .. }| field_ref.iter_mut().for_each(field));
    if let Some(Lifecycle { post_start, pre_stop, .. }) = &mut container.lifecycle {
        for LifecycleHandler { http_get, .. } in [post_start, pre_stop].into_iter().flatten() {
            http_get.iter_mut().for_each(http);
        }
    }
}

fn probe(probe: &mut Probe) {
    probe.timeout_seconds.get_or_insert(1);
    probe.period_seconds.get_or_insert(10);
    probe.success_threshold.get_or_insert(1);
    probe.failure_threshold.get_or_insert(3);
    probe.http_get.iter_mut().for_each(http);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn http(action: &mut HTTPGetAction) {
    action.scheme.get_or_insert_with(|| "HTTP".into());
}

fn field(field: &mut ObjectFieldSelector) {
    field.api_version.get_or_insert_with(|| "v1".into());
}

fn volume(volume: &mut Volume) {
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        source.items.iter_mut().flatten().filter_map(|item| item.field_ref.as_mut()).for_each(field);
    }
    if let Some(ProjectedVolumeSource { default_mode, sources }) = &mut volume.projected {
        default_mode.get_or_insert(FILE_MODE);
        sources.iter_mut().flatten().for_each(projection);
    }
    if let Some(source) = &mut volume.image {
        let policy = default_policy(source.reference.as_deref().unwrap_or_default());
        source.pull_policy.get_or_insert_with(|| policy.to_owned());
    }
    if let Some(claim) = volume.ephemeral.as_mut().and_then(|source| source.volume_claim_template.as_mut()) {
        claim.spec.volume_mode.get_or_insert_with(|| "Filesystem".into());
    }
}

fn projection(source: &mut VolumeProjection) {
    if let Some(token) = &mut source.service_account_token {
        token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
    }
    let items = source.downward_api.iter_mut().flat_map(|api| api.items.iter_mut().flatten());
    items.filter_map(|item| item.field_ref.as_mut()).for_each(field);
}
