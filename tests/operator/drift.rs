//! Drift of all fields that the operator sets: each value in each list of each object that it owns is changed manually,
//! and so are fields that exclude its own. Within seconds everything is as before, and the field manager with which the
//! operator repairs objects is not left on them.

use std::time::{Duration, Instant};

use kube::{
    Client, ResourceExt,
    api::{DynamicObject, PostParams},
};
use robeing_tests::operator::{ControlPlane, OperatorSettings, until};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{CLUSTER, spec};

const NAMESPACE: &str = "drift";
/// The number of lease renewals without other writes after which an operator counts as at rest.
const RENEWALS: usize = 6;
/// The time within which a change is reverted, even on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);
/// The minimum number of changes that the API server accepts: fewer would mean that nothing was tested.
const LEAST_TAKEN: usize = 60;
const OBJECTS: [(&str, &str); 9] = [
    ("services", CLUSTER),
    ("services", "first-coordinators"),
    ("statefulsets", "first-coordinators"),
    ("deployments", "first-data"),
    ("deployments", "first-web"),
    ("networkpolicies", "first-coordinators"),
    ("networkpolicies", "first-agents"),
    ("poddisruptionbudgets", "first-coordinators"),
    ("configmaps", "first-coordinators"),
];

pub async fn lists_are_put_back(stage: &ControlPlane, client: &Client) {
    ControlPlane::namespace(client, NAMESPACE).await;
    let mut spec = spec();
    spec["pools"].as_array_mut().expect("pools").push(json!({
        "name": "web", "replicas": 1, "executor": {"http": {"url": "http://127.0.0.1:8080/"}},
        "container": {
            "image": "example/server:1", "ports": [{"containerPort": 8080, "name": "grpc"}, {"containerPort": 9090}],
            "env": [{"name": "A", "value": "a"}], "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
        },
        "template": {
            "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "config", "configMap": {"name": "config"}}],
            "imagePullSecrets": [{"name": "registry"}],
            "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "web", "effect": "NoSchedule"}],
        },
    }));
    ControlPlane::create(client, NAMESPACE, CLUSTER, &spec).await;
    let mut operator = stage.operator(OperatorSettings::of(NAMESPACE)).await;
    until("a fleet", async || ControlPlane::get(client, NAMESPACE, "deployments", "first-web").await).await;
    operator.rests(RENEWALS).await;
    let (mut taken, mut slowest, mut late) = (0, Duration::ZERO, Vec::new());
    for (plural, name) in OBJECTS {
        let before = ControlPlane::get(client, NAMESPACE, plural, name).await.expect("an object");
        let mut changes = Vec::new();
        values_in_lists(&before.data, "", false, &mut changes);
        for (path, value) in changes {
            match put_back(client, (plural, name), &path, value).await {
                None => {}
                Some(Ok(took)) => (taken, slowest) = (taken + 1, slowest.max(took)),
                Some(Err(drift)) => late.push(drift),
            }
        }
    }
    eprintln!("{taken} changes in lists were reverted, the slowest after {slowest:?}");
    assert!(late.is_empty(), "not reverted within {SOON:?}:\n{}", late.join("\n"));
    assert!(taken >= LEAST_TAKEN, "the API server accepted only {taken} changes");
    exclusive_fields_are_put_back(client).await;
    what_is_added_stays(client).await;
    operator.rests(RENEWALS).await;
    for (plural, name) in OBJECTS {
        let object = ControlPlane::get(client, NAMESPACE, plural, name).await.expect("an object");
        let managers: Vec<_> = object.managed_fields().iter().filter_map(|entry| entry.manager.as_deref()).collect();
        assert!(!managers.contains(&"robeing-operator-repair"), "{plural}/{name}: {managers:?}");
    }
}

/// Collects a changed value for every scalar within a list's first entry, with its path.
fn values_in_lists(value: &Value, path: &str, listed: bool, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields.iter().filter(|(name, _)| *name != "status") {
                let name = name.replace('~', "~0").replace('/', "~1");
                values_in_lists(inner, &format!("{path}/{name}"), listed, found);
            }
        }
        Value::Array(entries) => {
            if let Some(first) = entries.first() {
                values_in_lists(first, &format!("{path}/0"), true, found);
            }
        }
        _ if !listed => {}
        Value::Number(number) => found.push((path.to_owned(), json!(number.as_i64().unwrap_or(0) + 1))),
        Value::Bool(is) => found.push((path.to_owned(), json!(!is))),
        Value::String(text) => {
            let other = match text.as_str() {
                "TCP" => "UDP".to_owned(),
                "ScheduleAnyway" => "DoNotSchedule".to_owned(),
                "IfNotPresent" | "Always" => "Never".to_owned(),
                "NoExecute" | "NoSchedule" => "PreferNoSchedule".to_owned(),
                "HTTP" => "HTTPS".to_owned(),
                "" => "x".to_owned(),
                _ => format!("{text}x"),
            };
            found.push((path.to_owned(), json!(other)));
        }
        Value::Null => {}
    }
}

/// Returns the content of the object, in a normalized order.
fn said(object: &DynamicObject) -> Value {
    let mut said = json!({
        "spec": object.data.get("spec"), "data": object.data.get("data"),
        "labels": object.labels(), "annotations": object.annotations(),
    });
    // The Deployment controller's own annotation.
    if let Some(annotations) = said["annotations"].as_object_mut() {
        annotations.remove("deployment.kubernetes.io/revision");
    }
    sorted(&mut said);
    said
}

fn sorted(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(sorted),
        Value::Array(entries) => {
            entries.iter_mut().for_each(sorted);
            entries.sort_by_key(Value::to_string);
        }
        _ => {}
    }
}

/// Changes one value manually, and waits until everything is as before. Returns how long it took, or what differs;
/// `None` if the API server refuses the change.
async fn put_back(
    client: &Client,
    (plural, name): (&str, &str),
    path: &str,
    value: Value,
) -> Option<Result<Duration, String>> {
    let api = ControlPlane::api(client, NAMESPACE, plural);
    let parameters = PostParams { field_manager: Some("hand".into()), ..PostParams::default() };
    let (before, edited) = loop {
        let before = ControlPlane::get(client, NAMESPACE, plural, name).await.expect("an object");
        let mut changed = before.clone();
        *changed.data.pointer_mut(path)? = value.clone();
        changed.metadata.managed_fields = None;
        match api.replace(name, &parameters, &changed).await {
            Ok(edited) => break (before, edited),
            // The change is invalid for everybody.
            Err(kube::Error::Api(status)) if [400, 422].contains(&status.code) => return None,
            // The operator is not yet done with the previous change.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{plural}/{name}{path}: {error}"),
        }
    };
    if edited.metadata.resource_version == before.metadata.resource_version {
        return None;
    }
    Some(as_before(client, (plural, name), &format!("{path} = {value}"), &said(&before)).await)
}

async fn as_before(
    client: &Client,
    (plural, name): (&str, &str),
    what: &str,
    before: &Value,
) -> Result<Duration, String> {
    let (began, mut last) = (Instant::now(), Value::Null);
    let back = until("as before", async || {
        last = said(&ControlPlane::get(client, NAMESPACE, plural, name).await?);
        if last == *before { Ok(()) } else { Err("it differs".to_owned()) }
    });
    match timeout(SOON, back).await {
        Ok(()) => Ok(began.elapsed()),
        Err(_) => Err(format!("{plural}/{name} {what}: is {last}, was {before}")),
    }
}

/// The API server refuses the second of two mutually exclusive fields, whichever field manager sets it.
async fn exclusive_fields_are_put_back(client: &Client) {
    let handlers = json!([{"name": "agent", "readinessProbe": {"httpGet": null, "exec": {"command": ["/true"]}}}]);
    for (plural, name, edit) in [
        ("poddisruptionbudgets", "first-coordinators", json!({"spec": {"maxUnavailable": null, "minAvailable": 3}})),
        ("services", CLUSTER, json!({"spec": {"type": "NodePort"}})),
        (
            "services",
            CLUSTER,
            json!({"spec": {"publishNotReadyAddresses": false, "ports": [{"name": "x", "port": 1}]}}),
        ),
        ("deployments", "first-data", json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}})),
        ("deployments", "first-data", json!({"spec": {"template": {"spec": {"containers": handlers}}}})),
    ] {
        let before = said(&ControlPlane::get(client, NAMESPACE, plural, name).await.expect("an object"));
        let mut patch = edit.clone();
        if let Some(containers) = patch.pointer_mut("/spec/template/spec/containers") {
            // A merge patch replaces lists, so it contains the rest of the container as well.
            let live = ControlPlane::get(client, NAMESPACE, plural, name).await.expect("an object");
            let mut whole = live.data["spec"]["template"]["spec"]["containers"].clone();
            whole[0]["readinessProbe"] = json!({"exec": {"command": ["/true"]}});
            *containers = whole;
        }
        ControlPlane::patch(client, NAMESPACE, plural, name, &patch).await;
        let put_back = as_before(client, (plural, name), &edit.to_string(), &before).await;
        put_back.unwrap_or_else(|drift| panic!("not reverted within {SOON:?}: {drift}"));
    }
}

async fn what_is_added_stays(client: &Client) {
    let ports = json!({"spec": {"ports": [
        {"name": "grpc", "port": 8080, "protocol": "TCP", "targetPort": 1, "appProtocol": "kubernetes.io/h2c"},
        {"name": "theirs", "port": 7000, "protocol": "TCP", "targetPort": 7000},
    ]}});
    ControlPlane::patch(client, NAMESPACE, "services", CLUSTER, &ports).await;
    until("the operator's port is restored", async || {
        let service = ControlPlane::get(client, NAMESPACE, "services", CLUSTER).await?;
        let ports = service.data["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let is =
            |name: &str, target: Value| ports.iter().any(|port| port["name"] == name && port["targetPort"] == target);
        if is("grpc", json!("grpc")) && is("theirs", json!(7000)) && ports.len() == 2 {
            Ok(())
        } else {
            Err(format!("{ports:?}"))
        }
    })
    .await;
}
