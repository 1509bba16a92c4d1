//! The path from the resource to the processes: whatever the schema accepts becomes pods whose environment agents and
//! coordinators accept and read as the resource specifies.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    path::PathBuf,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container, PodSpec};
use proptest::prelude::*;
use robeing_crds::{Executor, HttpExecutor, Messages, Pool, RobeingCluster, Role, arbitrary, limits};
use robeing_operator::{
    controller::{
        build::{self, Desired},
        validate::{Kept, OperatorContext, ValidatedCluster, validate},
    },
    names,
};
use robeing_settings::{
    AgentConfig, AuthorityConfig, CoordinatorConfig, Enrolment, EnrolmentConfig, ExecutorSpec, HeaderSpec, JoinProof,
    LogFormat, OBJECT_STORE_VARIABLES, Process, Startup, WEBHOOK_SECRET_VARIABLES, parse, settings,
};

const POD_IP: &str = "10.1.2.3";
/// The value of every key of every Secret.
const SECRET: &str = "s3cret $(POD_IP) $$";

/// A fleet and the objects built from it.
struct Built {
    fleet: ValidatedCluster,
    objects: Vec<Desired>,
}

impl Built {
    fn of(cluster: &RobeingCluster) -> Self {
        let operator_context =
            OperatorContext { default_image: "robeing:installed".into(), operator_namespace: "robeing-system".into() };
        let fleet = validate(cluster, &operator_context, &Kept::default()).unwrap_or_else(|error| panic!("{error}"));
        let objects = build::build(&fleet, fleet.coordinators, 0).unwrap_or_else(|error| panic!("{error}"));
        Self { fleet, objects }
    }

    fn object(&self, kind: &str, name: &str) -> &Desired {
        let found = self.objects.iter().find(|desired| desired.kind.kind == kind && desired.name() == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// Returns the environment of the process in a container of this name in a pod of this name.
    fn told(&self, kind: &str, object: &str, container: &str, pod: &str) -> HashMap<String, String> {
        let spec = self.object(kind, object).object.data.pointer("/spec/template/spec").cloned();
        let spec: PodSpec = serde_json::from_value(spec.expect("a pod template")).expect("a pod's specification");
        let found = spec.containers.iter().find(|found| found.name == container);
        self.environment(found.unwrap_or_else(|| panic!("no container {container}")), pod)
    }

    /// Returns the environment of a container, resolved as Kubernetes does it.
    fn environment(&self, container: &Container, pod: &str) -> HashMap<String, String> {
        let mut known = HashMap::from([(settings::HOSTNAME.to_owned(), pod.to_owned())]);
        for variable in container.env.iter().flatten() {
            let value = match (&variable.value, &variable.value_from) {
                (Some(value), None) => expand(value, &known),
                (None, Some(from)) => match (&from.field_ref, &from.config_map_key_ref, &from.secret_key_ref) {
                    (Some(field), None, None) if field.field_path == "metadata.name" => pod.to_owned(),
                    (Some(field), None, None) if field.field_path == "status.podIP" => POD_IP.to_owned(),
                    (None, Some(key), None) => {
                        let data = &self.object("ConfigMap", &key.name).object.data["data"][&key.key];
                        data.as_str().expect("a text").to_owned()
                    }
                    (None, None, Some(_)) => SECRET.to_owned(),
                    other => panic!("{}: {other:?}", variable.name),
                },
                other => panic!("{}: {other:?}", variable.name),
            };
            known.insert(variable.name.clone(), value);
        }
        known
    }
}

/// Returns a value as Kubernetes passes it to a process: `$(NAME)` becomes the value of an earlier variable, if there
/// is one, and `$$` becomes `$`.
fn expand(value: &str, known: &HashMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = after;
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            expanded.push_str(&known.get(name).cloned().unwrap_or_else(|| format!("$({name})")));
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded + rest
}

fn read(environment: &HashMap<String, String>) -> Startup {
    let read = parse([OsString::from("robeing-agent")], &|name| environment.get(name).map(OsString::from));
    read.unwrap_or_else(|error| panic!("{error}: {environment:?}"))
}

fn check_coordinators(cluster: &RobeingCluster, built: &Built) {
    let (name, namespace) = (&built.fleet.name, &built.fleet.namespace);
    let set = names::coordinators(name);
    let address = |ordinal| names::coordinator_address(name, namespace, ordinal);
    let members: Vec<_> =
        (0..cluster.spec.coordinators.replicas).map(|n| (names::coordinator(name, n), address(n))).collect();
    for (pod, advertised) in &members {
        let startup = read(&built.told("StatefulSet", &set, "coordinator", pod));
        let recovery = &cluster.spec.recovery;
        let expected = CoordinatorConfig {
            advertise: Some(advertised.clone()),
            data: PathBuf::from(names::DATA_DIRECTORY),
            initial_coordinators: members.clone(),
            heartbeat_interval: recovery.heartbeat_interval.get(),
            session_timeout: recovery.session_timeout.get(),
            health_check_interval: recovery.health_check_interval.get(),
            max_attempts: recovery.max_attempts,
            weights: (&cluster.spec.scheduling.weights).into(),
            ballots: (&cluster.spec.consensus).into(),
            authority: AuthorityConfig {
                join: None,
                directory: Some(PathBuf::from(names::AUTHORITY_DIRECTORY)),
                enrolment: match cluster.spec.identity.enrolment {
                    robeing_crds::Enrolment::Proof => None,
                    robeing_crds::Enrolment::Open => Some(Enrolment::Open),
                },
                trust_domain: cluster.spec.identity.trust_domain.clone(),
                namespace: namespace.clone(),
                rights: None,
            },
            metrics_listen: Some(format!("0.0.0.0:{}", names::METRICS_PORT)),
            ..CoordinatorConfig::new(pod.clone(), name.clone(), format!("0.0.0.0:{}", names::GRPC_PORT))
        };
        assert_eq!(startup.process, Process::Coordinator(expected));
        assert_eq!(startup.log_format, LogFormat::Json);
    }
}

fn check_pool(pool: &Pool, built: &Built) {
    let (name, namespace) = (&built.fleet.name, &built.fleet.namespace);
    let deployment = names::pool(name, &pool.name);
    let pod = format!("{deployment}-6b7f9c8d5f-x2x9z");
    let environment = built.told("Deployment", &deployment, "agent", &pod);
    let Process::Agent(config, executor) = read(&environment).process else { panic!("it is an agent") };
    let ports = pool.agent_ports.unwrap_or_default();
    let coordinators = vec![names::service_address(name, namespace)];
    let listen = format!("0.0.0.0:{}", ports.grpc);
    let mut expected = AgentConfig {
        advertise: Some(format!("{POD_IP}:{}", ports.grpc)),
        pool: pool.name.clone(),
        specializations: pool.specializations.clone(),
        slots: pool.slots,
        contribute: pool.contribution(),
        drain_timeout: drain_timeout(pool),
        metrics_listen: Some(format!("0.0.0.0:{}", ports.metrics)),
        messages: pool.messages.as_ref().map(Messages::for_agents),
        data: Some(PathBuf::from(names::JOURNAL_DIRECTORY)),
        object_store: built.fleet.object_storage.as_ref().map(|storage| storage.url.clone()),
        enrolment: EnrolmentConfig {
            trust: Some(PathBuf::from(names::IDENTITY_DIRECTORY).join("trust.crt")),
            proof: JoinProof::ServiceAccount(PathBuf::from(names::IDENTITY_DIRECTORY).join("token")),
        },
        ..AgentConfig::new(pod, name.clone(), pool.role.into(), listen, coordinators)
    };
    if matches!(pool.executor, Executor::Worker {}) {
        expected.worker_listen = format!("127.0.0.1:{}", ports.attach);
    }
    if pool.role == Role::Messenger {
        expected.gateway_listen = Some(format!("0.0.0.0:{}", names::GATEWAY_PORT));
        let webhooks = built.fleet.gateway.webhooks.len();
        let file = PathBuf::from(names::WEBHOOKS_DIRECTORY).join(names::WEBHOOKS_FILE);
        expected.webhooks = (webhooks > 0).then_some(file);
        // A template can't replace them.
        for number in 1..=webhooks {
            assert_eq!(environment[&format!("{WEBHOOK_SECRET_VARIABLES}{number}")], SECRET);
        }
    }
    assert_eq!(config, expected);
    for variable in built.fleet.object_storage.iter().flat_map(|storage| &storage.env) {
        let value = variable.value.as_deref().unwrap_or(SECRET);
        assert_eq!(environment[&format!("{OBJECT_STORE_VARIABLES}{}", variable.name)], value);
    }
    assert_eq!(environment[settings::EXECUTOR.variable()], executor_of_running_pods(&pool.executor));
    match (&pool.executor, &executor) {
        (Executor::Command(said), ExecutorSpec::Command(read)) => assert_eq!(said.argv, read.argv),
        (Executor::Http(said), ExecutorSpec::Http(read)) => {
            assert_eq!((&said.url, &said.health_path), (&read.url, &read.health_path));
            check_headers(said, &read.headers, &environment);
        }
        (Executor::Worker {}, ExecutorSpec::Worker {}) | (Executor::Echo {}, ExecutorSpec::Echo {}) => {}
        other => panic!("{other:?}"),
    }
}

/// Returns the text that every operator so far has written. A different one would restart every pool when the operator
/// is upgraded.
fn executor_of_running_pods(executor: &Executor) -> String {
    let mut value = serde_json::to_value(executor).expect("it has a JSON form");
    if executor.secrets().is_empty() {
        return serde_json::to_string(executor).expect("it has a JSON form");
    }
    let headers = value.pointer_mut("/http/headers").and_then(serde_json::Value::as_array_mut);
    for (index, header) in headers.into_iter().flatten().enumerate() {
        if let Some(from) = header.get_mut("valueFrom") {
            *from = serde_json::json!({"env": format!("ROBEING_HTTP_HEADER_{index}")});
        }
    }
    value.to_string()
}

fn check_headers(said: &HttpExecutor, read: &[HeaderSpec], environment: &HashMap<String, String>) {
    let values = read.iter().map(|header| {
        let value = header.value(&|name| environment.get(name).cloned()).unwrap_or_else(|error| panic!("{error}"));
        (header.name.clone(), value)
    });
    let expected = said.headers.iter().map(|header| {
        let secret = || format!("{}{SECRET}", header.prefix.as_deref().unwrap_or_default());
        (header.name.clone(), header.value.clone().unwrap_or_else(secret))
    });
    assert_eq!(values.collect::<BTreeMap<_, _>>(), expected.collect());
}

/// Returns the drain timeout: ten seconds less than the pod's grace period, but at least half of that, in whole
/// seconds.
fn drain_timeout(pool: &Pool) -> Duration {
    let grace = pool.template.as_ref().and_then(|template| template.termination_grace_period_seconds);
    let seconds = grace.map_or(30, |grace| (grace - 10).max(grace / 2).max(1));
    Duration::from_secs(seconds.unsigned_abs())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn agents_and_coordinators_read_what_any_resource_says(cluster in arbitrary::clusters(limits::MAX_POOL_REPLICAS)) {
        let built = Built::of(&cluster);
        check_coordinators(&cluster, &built);
        let is_built = |pool: &&Pool| built.fleet.pools.iter().any(|other| other.name == pool.name);
        cluster.spec.pools.iter().filter(is_built).for_each(|pool| check_pool(pool, &built));
    }
}

#[test]
fn no_agent_refuses_slots_that_the_schema_takes() {
    let manifest = |slots: u32| {
        format!(
            "{{apiVersion: robeing.io/v1alpha1, kind: RobeingCluster, metadata: {{name: a, namespace: b, uid: c}}, \
             spec: {{pools: [{{name: p, slots: {slots}, executor: {{echo: {{}}}}}}]}}}}"
        )
    };
    for slots in [1, 2, 1_024, 1_025, limits::MAX_SLOTS] {
        let cluster = robeing_crds::parse_manifest(&manifest(slots)).unwrap_or_else(|error| panic!("{error}"));
        check_pool(&cluster.spec.pools[0], &Built::of(&cluster));
    }
    assert!(robeing_crds::parse_manifest(&manifest(limits::MAX_SLOTS + 1)).is_err());
}

#[test]
fn what_the_resource_sets_for_ballots_is_in_the_environment_of_coordinators_and_defaults_are_not() {
    let told = |consensus: &str| {
        let manifest = format!(
            "{{apiVersion: robeing.io/v1alpha1, kind: RobeingCluster, metadata: {{name: a, namespace: b, uid: c}}, \
             spec: {{consensus: {consensus}, pools: [{{name: p, executor: {{echo: {{}}}}}}]}}}}"
        );
        let cluster = robeing_crds::parse_manifest(&manifest).unwrap_or_else(|error| panic!("{error}"));
        let built = Built::of(&cluster);
        check_coordinators(&cluster, &built);
        let pod = names::coordinator("a", 0);
        let environment = built.told("StatefulSet", &names::coordinators("a"), "coordinator", &pod);
        ["ROBEING_BALLOT_THRESHOLD", "ROBEING_BALLOT_DEADLINE"].map(|name| environment.get(name).cloned())
    };
    assert_eq!(told("{}"), [None, None]);
    assert_eq!(told("{threshold: 2/3, deadline: 30s}"), [None, None]);
    assert_eq!(told("{threshold: 66%}"), [Some("66/100".to_owned()), None]);
    assert_eq!(told("{deadline: 1m30s}"), [None, Some("1m30s".to_owned())]);
}

#[test]
fn values_are_expanded_as_kubernetes_does_it() {
    let known = HashMap::from([("A".to_owned(), "a".to_owned())]);
    for (value, expanded) in [
        ("$(A)", "a"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$a"),
        ("$(B)", "$(B)"),
        ("$A $", "$A $"),
        ("$(A", "$(A"),
        ("$$$$", "$$"),
    ] {
        assert_eq!(expand(value, &known), expanded, "{value}");
    }
}
