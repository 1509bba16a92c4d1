//! The objects of a fleet, from a manifest to what is applied.
//!
//! The pod templates here are golden: a change in one of them restarts every fleet when the operator is upgraded. If a
//! snapshot of a pod template changes, either revert the change, or make sure that it is worth restarting everything
//! and document it in the changelog.

mod identity;
mod messages;
mod storage;
mod users;
mod webhooks;

use kube::ResourceExt;
use robeing_crds::{RobeingCluster, parse_manifest};
use robeing_operator::controller::{
    build::{self, Desired},
    validate::{FleetIdentity, Kept, OperatorContext, Unbuildable, ValidatedCluster, Work, validate},
};
use serde_json::Value;

const SMALLEST: &str = include_str!("../fixtures/smallest.yaml");
const FULL: &str = include_str!("../fixtures/full.yaml");

fn cluster(manifest: &str) -> RobeingCluster {
    parse_manifest(manifest).unwrap_or_else(|error| panic!("{error}"))
}

fn operator_context() -> OperatorContext {
    OperatorContext { default_image: "robeing:installed".into(), operator_namespace: "robeing-system".into() }
}

/// What is kept of a fleet that has an authority.
fn kept() -> Kept {
    let identity = FleetIdentity { trust: "the trusted authorities\n".into(), ..FleetIdentity::default() };
    Kept { identity, ..Kept::default() }
}

fn fleet(cluster: &RobeingCluster) -> ValidatedCluster {
    validate(cluster, &operator_context(), &kept()).unwrap_or_else(|error| panic!("{error}"))
}

fn objects(fleet: &ValidatedCluster) -> Vec<Desired> {
    build::build(fleet, fleet.coordinators, 0).unwrap_or_else(|error| panic!("{error}"))
}

fn object<'a>(objects: &'a [Desired], kind: &str, name: &str) -> &'a Desired {
    let found = objects.iter().find(|desired| desired.kind.kind == kind && desired.name() == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn template(desired: &Desired) -> Value {
    desired.object.data.pointer("/spec/template").cloned().expect("a pod template")
}

fn manifests(objects: &[Desired]) -> String {
    let text = |desired: &Desired| serde_yaml::to_string(&desired.object).expect("an object has a YAML form");
    objects.iter().map(text).collect::<Vec<_>>().join("---\n")
}

#[test]
fn the_objects_of_the_smallest_fleet() {
    insta::assert_snapshot!(manifests(&objects(&fleet(&cluster(SMALLEST)))));
}

#[test]
fn the_objects_of_a_fleet_with_everything() {
    insta::assert_snapshot!(manifests(&objects(&fleet(&cluster(FULL)))));
}

/// Golden: see the top of this file.
#[test]
fn the_pod_templates_are_what_running_fleets_have() {
    for (manifest, name) in [(SMALLEST, "small"), (FULL, "full")] {
        let objects = objects(&fleet(&cluster(manifest)));
        let templates =
            objects.iter().filter(|desired| ["StatefulSet", "Deployment"].contains(&desired.kind.kind.as_str()));
        for desired in templates {
            insta::assert_yaml_snapshot!(format!("pod_template_{name}_{}", desired.name()), template(desired));
        }
    }
}

#[test]
fn every_object_belongs_to_the_cluster_and_says_so() {
    let cluster = cluster(FULL);
    for desired in objects(&fleet(&cluster)) {
        let what = format!("{} {}", desired.kind.kind, desired.name());
        let [owner] = desired.object.owner_references() else { panic!("{what} has one owner") };
        assert_eq!(
            (owner.kind.as_str(), owner.name.as_str(), owner.controller),
            ("RobeingCluster", "full", Some(true)),
            "{what}"
        );
        assert_eq!(Some(&owner.uid), cluster.metadata.uid.as_ref(), "{what}");
        assert_eq!(desired.object.namespace().as_deref(), Some("fleets"), "{what}");
        for (label, value) in [
            ("app.kubernetes.io/name", "robeing"),
            ("app.kubernetes.io/instance", "full"),
            ("app.kubernetes.io/managed-by", "robeing-operator"),
        ] {
            assert_eq!(desired.object.labels().get(label).map(String::as_str), Some(value), "{label} of {what}");
        }
        assert!(desired.object.types.is_some(), "{what} says what it is");
        assert!(desired.object.data.get("status").is_none(), "{what} has no status");
    }
}

#[test]
fn names_are_unique_within_their_kind() {
    let objects = objects(&fleet(&cluster(FULL)));
    let mut names: Vec<_> = objects.iter().map(|desired| (&desired.kind.kind, desired.name())).collect();
    names.sort_unstable();
    let before = names.len();
    names.dedup();
    assert_eq!(names.len(), before, "{names:?}");
}

#[test]
fn scaling_pools_and_coordinators_leaves_every_pod_template_alone() {
    let before = cluster(FULL);
    let mut after = before.clone();
    after.spec.coordinators.replicas = 5;
    after.spec.pools[0].replicas = Some(50);
    after.spec.pools[0].standby = 3;
    after.spec.pools[2].replicas = None;
    let (before, after) = (objects(&fleet(&before)), objects(&fleet(&after)));
    for (kind, name) in [("StatefulSet", "full-coordinators"), ("Deployment", "full-data"), ("Deployment", "full-far")]
    {
        assert_eq!(template(object(&before, kind, name)), template(object(&after, kind, name)), "{kind} {name}");
    }
    let members = |objects: &[Desired]| object(objects, "ConfigMap", "full-coordinators").object.data.clone();
    assert_ne!(members(&before), members(&after));
}

#[test]
fn headers_come_from_secrets_by_the_environment_and_only_where_they_are_used() {
    let with = |headers: &str| {
        let manifest = SMALLEST.replace("{echo: {}}", &format!("{{http: {{url: 'http://a/', {headers}}}}}"));
        assert_ne!(manifest, SMALLEST);
        template(object(&objects(&fleet(&cluster(&manifest))), "Deployment", "small-echo"))
    };
    let agent = |template: &Value| template.pointer("/spec/containers/0/env").cloned().expect("an environment");
    let plain = with("");
    let env = agent(&with(
        "headers: [{name: Content-Type, value: application/json}, {name: Authorization, prefix: 'Bearer ', \
         valueFrom: {secretKeyRef: {name: api, key: token}}}]",
    ));
    let env = env.as_array().expect("a list");
    assert_eq!(env.len(), agent(&plain).as_array().expect("a list").len() + 1);
    let variable = |name: &str| env.iter().find(|variable| variable["name"] == name).expect("it is there");
    let token = serde_json::json!({"secretKeyRef": {"name": "api", "key": "token"}});
    assert_eq!(variable("ROBEING_HTTP_HEADER_1")["valueFrom"], token);
    let executor = variable("ROBEING_EXECUTOR")["value"].as_str().expect("text");
    let executor: Value = serde_json::from_str(executor).expect("JSON");
    assert_eq!(executor["http"]["headers"][0]["value"], "application/json");
    assert_eq!(executor["http"]["headers"][1]["valueFrom"], serde_json::json!({"env": "ROBEING_HTTP_HEADER_1"}));
}

#[test]
fn a_pool_that_leaves_the_spec_leaves_no_object() {
    let mut cluster = cluster(FULL);
    cluster.spec.pools.retain(|pool| pool.name != "data");
    assert!(objects(&fleet(&cluster)).iter().all(|desired| desired.name() != "full-data"));
}

#[test]
fn replicas_are_left_alone_where_a_pool_has_none_and_are_zero_while_suspended() {
    let mut cluster = cluster(FULL);
    let replicas = |cluster: &RobeingCluster, name: &str| {
        let objects = objects(&fleet(cluster));
        object(&objects, "Deployment", name).object.data.pointer("/spec/replicas").cloned()
    };
    assert_eq!(replicas(&cluster, "full-web"), None);
    assert_eq!(replicas(&cluster, "full-data"), Some(6.into()));
    cluster.spec.suspend = true;
    assert_eq!(replicas(&cluster, "full-web"), Some(0.into()));
    assert_eq!(replicas(&cluster, "full-data"), Some(0.into()));
}

#[test]
fn a_budget_exists_only_where_a_node_can_still_be_drained() {
    let mut cluster = cluster(FULL);
    for (coordinators, budget) in [(1, false), (3, true), (7, true)] {
        cluster.spec.coordinators.replicas = coordinators;
        let objects = objects(&fleet(&cluster));
        let exists = objects.iter().any(|desired| desired.kind.kind == "PodDisruptionBudget");
        assert_eq!(exists, budget, "{coordinators} coordinators");
    }
}

#[test]
fn a_pool_whose_process_has_no_container_is_refused_and_the_other_pools_are_built() {
    let fleet = fleet(&cluster(FULL));
    let [refused] = &fleet.refused[..] else { panic!("one pool is refused: {:?}", fleet.refused) };
    assert_eq!((refused.name.as_str(), refused.reason), ("none", "NoContainer"));
    assert!(refused.message.contains("set container"), "{}", refused.message);
    assert_eq!(fleet.pools.len(), 5);
}

#[test]
fn what_a_pod_could_not_mean_is_refused_with_what_to_do() {
    for (change, reason, help) in [
        ("/container/command", "ContainerCommandIgnored", "executor.command.argv"),
        ("/template/volumes", "VolumeNameTaken", "rename one"),
    ] {
        let mut cluster = cluster(FULL);
        let pool = &mut cluster.spec.pools[0];
        match change {
            "/container/command" => {
                pool.container.as_mut().expect("a container").command = Some(vec!["/other".into()]);
            }
            _ => pool.template.as_mut().expect("a template").volumes[0].name = build::AGENT_VOLUME.into(),
        }
        let fleet = fleet(&cluster);
        let refused = fleet.refused.iter().find(|refused| refused.name == "data").expect("the pool is refused");
        assert_eq!(refused.reason, reason);
        assert!(refused.message.contains(help), "{}", refused.message);
    }
}

#[test]
fn a_fleet_without_an_image_keeps_the_one_it_was_made_with() {
    let cluster = cluster(SMALLEST);
    assert_eq!(fleet(&cluster).image, "robeing:installed");
    let made_with = Kept { image: Some("robeing:older".into()), ..Kept::default() };
    let kept = validate(&cluster, &operator_context(), &made_with).expect("valid");
    assert_eq!(kept.image, "robeing:older");
    let objects = objects(&kept);
    let set = object(&objects, "StatefulSet", "small-coordinators");
    assert_eq!(set.object.annotations().get("robeing.io/default-image").map(String::as_str), Some("robeing:older"));
    let nowhere = OperatorContext { default_image: String::new(), ..operator_context() };
    assert_eq!(validate(&cluster, &nowhere, &Kept::default()), Err(Unbuildable::NoImage));
}

#[test]
fn an_agent_without_an_image_of_its_own_runs_in_the_fleets() {
    let fleet = fleet(&cluster(SMALLEST));
    assert_eq!(fleet.pools[0].work, Work::InAgent);
}

#[test]
fn pods_keep_the_restricted_standard() {
    let objects = objects(&fleet(&cluster(FULL)));
    for desired in objects.iter().filter(|desired| ["StatefulSet", "Deployment"].contains(&desired.kind.kind.as_str()))
    {
        let spec = template(desired)["spec"].take();
        let name = desired.name();
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        let all = ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array());
        for container in all.flatten() {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}: {container}");
            assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]), "{name}: {container}");
        }
    }
}

/// Returns the value that Kubernetes gives to a variable with this text in a manifest.
fn expanded(text: &str) -> String {
    let mut value = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '$' && rest.peek() == Some(&'$') {
            rest.next();
        } else {
            assert!(c != '$' || rest.peek() != Some(&'('), "a reference to a variable in {text}");
        }
        value.push(c);
    }
    value
}

fn variable(desired: &Desired, name: &str) -> Option<String> {
    let template = template(desired);
    let env = template["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
    let found = env.into_iter().find(|variable| variable["name"] == name)?;
    found["value"].as_str().map(ToOwned::to_owned)
}

#[test]
fn every_dollar_arrives_in_pods_as_it_was_written() {
    for text in ["/tmp/job.$$", "$1", "$$(HOME)", "$(HOME)", "$$$", "a$", "s/x$/y/", "${A:-$$}"] {
        let mut cluster = cluster(FULL);
        let argv = serde_json::json!({"command": {"argv": ["/bin/sh", "-c", text]}});
        cluster.spec.pools[0].executor = serde_json::from_value(argv.clone()).expect("an executor");
        let headers = [serde_json::json!({"name": "X-Text", "value": text})];
        let url = serde_json::json!({"http": {"url": format!("http://example.com/{text}"), "headers": headers}});
        cluster.spec.pools[2].executor = serde_json::from_value(url.clone()).expect("an executor");
        let objects = objects(&fleet(&cluster));
        for (name, said) in [("full-data", argv), ("full-far", url)] {
            let given = variable(object(&objects, "Deployment", name), "ROBEING_EXECUTOR").expect("it is given");
            let read: Value = serde_json::from_str(&expanded(&given)).expect("JSON");
            assert_eq!(read, said, "{given}");
        }
    }
}
