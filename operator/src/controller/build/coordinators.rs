//! The coordinators: their StatefulSet and its PodDisruptionBudget.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{
            Container, EmptyDirVolumeSource, EnvVar, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec,
            Volume, VolumeMount, VolumeResourceRequirements,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use robeing_crds::Storage;
use robeing_settings::{BallotDefaults, ProcessRole, settings, text};

use super::{
    identity, metadata,
    pod::{self, env},
    pull,
};
use crate::{
    controller::validate::{self, ValidatedCluster},
    names::{self, Component, DATA_DIRECTORY, DATA_VOLUME},
};

/// The environment variables that define a coordinator; a template can't change them.
const FIXED: [&str; 13] = [
    settings::ROLE.variable(),
    settings::CLUSTER_ID.variable(),
    settings::NAME.variable(),
    settings::LISTEN.variable(),
    settings::METRICS_LISTEN.variable(),
    settings::ADVERTISE.variable(),
    settings::DATA.variable(),
    settings::INITIAL_COORDINATORS.variable(),
    settings::TLS.variable(),
    settings::CA.variable(),
    settings::ENROLMENT.variable(),
    settings::TRUST_DOMAIN.variable(),
    settings::NAMESPACE.variable(),
];
/// The warning for coordinators without storage.
pub const EPHEMERAL_WARNING: &str = "The coordinators have no storage: each keeps its log in its pod and loses it with the pod, \
     and tasks are lost when a majority is lost. Create the cluster with spec.coordinators.storage to keep them.";
/// Smallest number of coordinators of which one may be evicted while the others continue.
const BUDGETED: u32 = 3;
const GRACE_SECONDS: i64 = 30;
const PORTS: pod::Ports = pod::Ports { grpc: ("grpc", names::GRPC_PORT), metrics: ("metrics", names::METRICS_PORT) };

/// Returns the initial membership, `name=host:port,...`.
pub fn first_membership(fleet: &ValidatedCluster) -> String {
    let member = |ordinal| {
        let address = names::coordinator_address(&fleet.name, &fleet.namespace, ordinal);
        (names::coordinator(&fleet.name, ordinal), address)
    };
    let members: Vec<_> = (0..fleet.coordinators).map(member).collect();
    text::members(members.iter().map(|(name, address)| (name.as_str(), address.as_str())))
}

/// Returns the coordinators' StatefulSet. All pods start at once, because they wait for each other. The StatefulSet
/// controller replaces none of them, because it does not know which one leads and which ones have a vote.
pub(super) fn stateful_set(fleet: &ValidatedCluster, replicas: u32, member_high_water: u32) -> StatefulSet {
    let name = names::coordinators(&fleet.name);
    let mut metadata = metadata(fleet, name.clone());
    metadata.labels = Some(names::component_labels(&fleet.name, Component::Coordinator, None));
    let image = fleet.image_is_default.then(|| (names::ANNOTATION_DEFAULT_IMAGE.to_owned(), fleet.image.clone()));
    let member_high_water =
        (member_high_water > 0).then(|| (names::ANNOTATION_JOINED.to_owned(), member_high_water.to_string()));
    let annotations: BTreeMap<_, _> = image.into_iter().chain(member_high_water).collect();
    metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    let keep = || Some("Retain".to_owned());
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: i32::try_from(replicas).ok(),
            service_name: Some(name),
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None }),
            revision_history_limit: Some(5),
            selector: LabelSelector {
                match_labels: Some(names::selector(&fleet.name, Component::Coordinator, None)),
                ..LabelSelector::default()
            },
            template: template(fleet),
            volume_claim_templates: fleet.storage.as_ref().map(|storage| vec![claim(storage, &fleet.claim_size)]),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: keep(),
                when_scaled: keep(),
            }),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn template(fleet: &ValidatedCluster) -> PodTemplateSpec {
    let empty =
        Volume { name: DATA_VOLUME.into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() };
    let overrides = &fleet.coordinator_template;
    let mut volumes = if fleet.storage.is_none() { vec![empty] } else { vec![] };
    volumes.extend(identity::coordinator_volumes(fleet));
    let parts = pod::Parts {
        labels: names::component_labels(&fleet.name, Component::Coordinator, None),
        account: validate::coordinators_account(fleet),
        init_containers: vec![],
        containers: vec![container(fleet)],
        volumes,
        tolerations: vec![],
        spread: pod::spread(names::selector(&fleet.name, Component::Coordinator, None), None),
        grace_seconds: overrides.termination_grace_period_seconds.or(Some(GRACE_SECONDS)),
    };
    pod::template(fleet, parts, overrides)
}

fn container(fleet: &ValidatedCluster) -> Container {
    let mut container = Container {
        name: "coordinator".into(),
        image: Some(fleet.image.clone()),
        image_pull_policy: Some(pull::of_fleet(fleet)),
        command: Some(vec![names::AGENT_PROGRAM.into()]),
        env: Some(environment(fleet)),
        resources: fleet.resources.clone(),
        security_context: Some(pod::container_security(None, true)),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(vec![VolumeMount {
            name: DATA_VOLUME.into(),
            mount_path: DATA_DIRECTORY.into(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    };
    let given = fleet.coordinator_template.env.iter().filter(|variable| !FIXED.contains(&variable.name.as_str()));
    pod::add_env(&mut container, &given.cloned().collect::<Vec<_>>(), |name| FIXED.contains(&name));
    identity::mount_coordinator(fleet, &mut container);
    pod::observed(&mut container, PORTS);
    container
}

fn environment(fleet: &ValidatedCluster) -> Vec<EnvVar> {
    let name = names::coordinators(&fleet.name);
    let advertise = format!("$({}).{name}.{}.svc:{}", settings::NAME.variable(), fleet.namespace, names::GRPC_PORT);
    let recovery = &fleet.recovery;
    let mut environment = pod::identity(ProcessRole::Coordinator, &fleet.name, PORTS);
    environment.extend([
        env(&settings::ADVERTISE, advertise),
        env(&settings::DATA, DATA_DIRECTORY),
        pod::env_from_config(&settings::INITIAL_COORDINATORS, name, names::INITIAL_COORDINATORS),
        env(&settings::HEARTBEAT_INTERVAL, text::duration(recovery.heartbeat_interval.get())),
        env(&settings::SESSION_TIMEOUT, text::duration(recovery.session_timeout.get())),
        env(&settings::MAX_ATTEMPTS, recovery.max_attempts.to_string()),
        env(&settings::WEIGHTS, text::weights((&fleet.weights).into())),
    ]);
    // The coordinators' own default is not set explicitly, so that the pod template is the same as that of earlier
    // operator versions, which did not set this variable.
    let health_checks = recovery.health_check_interval.get();
    if health_checks != settings::HEALTH_CHECK_INTERVAL.default {
        environment.push(env(&settings::HEALTH_CHECK_INTERVAL, text::duration(health_checks)));
    }
    environment.extend(ballots(fleet));
    environment.extend(identity::coordinator_environment(fleet));
    environment
}

/// Returns the settings of ballots; none that is the coordinators' own default, for the same reason.
fn ballots(fleet: &ValidatedCluster) -> impl Iterator<Item = EnvVar> {
    let (given, own) = (BallotDefaults::from(&fleet.consensus), BallotDefaults::default());
    let threshold = Some(given.threshold).filter(|threshold| *threshold != own.threshold);
    let deadline = Some(given.deadline).filter(|deadline| *deadline != own.deadline);
    let threshold = threshold.map(|threshold| env(&settings::BALLOT_THRESHOLD, threshold.to_string()));
    let deadline = deadline.map(|deadline| env(&settings::BALLOT_DEADLINE, text::duration(deadline)));
    threshold.into_iter().chain(deadline)
}

/// Returns the claim template. Its size stays as it was when the StatefulSet was created; the claims themselves are
/// grown.
fn claim(storage: &Storage, size: &Quantity) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(DATA_VOLUME.into()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), size.clone())].into()),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// Returns the budget. One for one or two coordinators could never allow a node to be drained, so there is none.
pub(super) fn disruption_budget(fleet: &ValidatedCluster) -> Option<PodDisruptionBudget> {
    (fleet.coordinators >= BUDGETED).then(|| PodDisruptionBudget {
        metadata: metadata(fleet, names::coordinators(&fleet.name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(names::selector(&fleet.name, Component::Coordinator, None)),
                ..LabelSelector::default()
            }),
            // A pod that is not ready has no vote to lose, and must not prevent its node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
