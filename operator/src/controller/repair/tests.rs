use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::{Client, client::Body, discovery::ApiResource};

use super::*;

fn object(kind: &str, spec: &Value) -> DynamicObject {
    let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec});
    serde_json::from_value(object).expect("an object")
}

/// Returns the spec of an object after the patch.
fn patched(kind: &str, wish: &Value, live: &Value, depth: Depth) -> Value {
    let (wish, live) = (object(kind, wish), object(kind, live));
    let mut data = live.data.clone();
    if let Some(patch) = difference(&live.data, &target(&wish, &live, depth)) {
        patch_with(&mut data, &patch);
    }
    data["spec"].take()
}

/// Applies a JSON merge patch (RFC 7386).
fn patch_with(value: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else { return *value = patch.clone() };
    if !value.is_object() {
        *value = json!({});
    }
    for (field, patch) in fields {
        if patch.is_null() {
            value.as_object_mut().expect("an object").remove(field);
        } else {
            patch_with(&mut value[field], patch);
        }
    }
}

#[test]
fn an_entry_whose_key_was_changed_is_displaced_and_one_that_was_added_is_not() {
    let port = |name: &str, port: u32| json!({"name": name, "port": port, "protocol": "TCP"});
    let wish = json!({"spec": {"ports": [port("grpc", 8080)]}});
    let live = |ports: &[Value]| json!({"spec": {"ports": ports, "clusterIP": "10.0.0.1"}});
    assert!(is_displaced(&wish, &live(&[port("grpc", 8081)])));
    assert!(!is_displaced(&wish, &live(&[port("grpc", 8080)])));
    assert!(!is_displaced(&wish, &live(&[port("grpc", 8080), port("more", 8081)])), "that is theirs");
    assert!(!is_displaced(&wish, &live(&[port("other", 8080)])), "an apply puts a name back");
    assert!(!is_displaced(&wish, &live(&[json!({"name": "grpc", "port": 8080})])), "TCP is the default");

    let pod = |env: &str, mount: &str, spread: &str| {
        json!({"spec": {"template": {"spec": {
            "containers": [{"name": "agent", "env": [{"name": env, "value": "x"}], "volumeMounts": [{"name": "v", "mountPath": mount}]}],
            "topologySpreadConstraints": [{"topologyKey": "zone", "whenUnsatisfiable": spread, "maxSkew": 1}],
        }}}})
    };
    let wish = pod("A", "/a", "ScheduleAnyway");
    assert!(!is_displaced(&wish, &wish.clone()));
    for live in [pod("B", "/a", "ScheduleAnyway"), pod("A", "/b", "ScheduleAnyway"), pod("A", "/a", "DoNotSchedule")] {
        assert!(is_displaced(&wish, &live), "{live}");
    }
}

#[test]
fn a_list_loses_what_displaced_an_entry_and_nothing_else_changes() {
    let wish = json!({"ports": [{"name": "grpc", "port": 8080, "protocol": "TCP"}], "type": "ClusterIP"});
    let live = json!({
        "ports": [{"name": "grpc", "port": 8081, "protocol": "TCP", "nodePort": 30_000}], "type": "ClusterIP",
        "clusterIP": "10.0.0.1", "sessionAffinity": "ClientIP",
    });
    let patched = patched("Service", &wish, &live, Depth::Lists);
    let expected = json!({
        "ports": [{"name": "grpc", "port": 8080, "protocol": "TCP"}], "type": "ClusterIP",
        "clusterIP": "10.0.0.1", "sessionAffinity": "ClientIP",
    });
    assert_eq!(patched, expected);
}

#[test]
fn what_was_added_to_a_list_stays_where_nothing_is_displaced() {
    let wish = json!({"template": {"spec": {"containers": [{"name": "agent", "env": [{"name": "A", "value": "1"}]}]}}});
    let live = json!({"template": {"spec": {"containers": [
        {"name": "agent", "image": "x", "env": [{"name": "A", "value": "2"}, {"name": "THEIRS", "value": "3"}]},
        {"name": "theirs", "image": "y"},
    ]}}});
    let patched = patched("Deployment", &wish, &live, Depth::Lists);
    let containers = &patched["template"]["spec"]["containers"];
    assert_eq!(containers[0]["env"], json!([{"name": "A", "value": "1"}, {"name": "THEIRS", "value": "3"}]));
    assert_eq!((&containers[0]["image"], &containers[1]["name"]), (&json!("x"), &json!("theirs")));
}

#[test]
fn fields_that_exclude_what_is_wished_go_with_the_whole_spec_and_what_was_given_stays() {
    let patched = |kind, wish: Value, live: Value| patched(kind, &wish, &live, Depth::Spec);
    assert_eq!(
        patched("PodDisruptionBudget", json!({"maxUnavailable": 1}), json!({"minAvailable": 2})),
        json!({"maxUnavailable": 1})
    );
    assert_eq!(
        patched(
            "Service",
            json!({"type": "ClusterIP"}),
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "externalIPs": ["1.1.1.1"]})
        ),
        json!({"type": "ClusterIP", "clusterIP": "10.0.0.1"})
    );
    assert_eq!(
        patched(
            "Deployment",
            json!({"template": {"a": 1}}),
            json!({"replicas": 7, "paused": true, "template": {"b": 2}})
        ),
        json!({"template": {"a": 1}, "replicas": 7})
    );
    let claims = json!([{"metadata": {"name": "data"}, "status": {"phase": "Pending"}}]);
    assert_eq!(
        patched(
            "StatefulSet",
            json!({"replicas": 3, "volumeClaimTemplates": []}),
            json!({"replicas": 1, "volumeClaimTemplates": claims})
        ),
        json!({"replicas": 3, "volumeClaimTemplates": claims})
    );
}

/// A fake API server with one Service, whose ports it merges as an apply does. Someone else writes to the Service before
/// each of the first writes.
#[derive(Clone)]
struct Busy(Arc<Mutex<(Value, u64, u32)>>);

impl Busy {
    fn new(ports: &Value, writes_of_others: u32) -> Self {
        let object =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": ports}});
        Self(Arc::new(Mutex::new((object, 1, writes_of_others))))
    }

    fn api(&self) -> Api<DynamicObject> {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Api::namespaced_with(Client::new(service, "n"), "n", &ApiResource::erase::<Service>(&()))
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (is_write, query) =
            (*request.method() == Method::PATCH, request.uri().query().unwrap_or_default().to_owned());
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let mut state = self.0.lock().expect("no panic");
        let (object, version, others) = &mut *state;
        let mut code = 200;
        if is_write {
            if *others > 0 {
                (*others, *version) = (*others - 1, *version + 1);
            }
            let change: Value = serde_json::from_slice(&body).expect("JSON");
            let expected = &change["metadata"]["resourceVersion"];
            let is_this = expected.as_str().is_none_or(|expected| expected.parse() == Ok(*version));
            if !is_this {
                code = 409;
            } else if query.contains("force=true") {
                merge_ports(object, &change);
                *version += 1;
            } else {
                patch_with(object, &change);
                *version += 1;
            }
        }
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let conflict =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409});
        let answer = if code == 200 { &*object } else { &conflict };
        Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).expect("a response")
    }

    fn ports(&self) -> Value {
        self.0.lock().expect("no panic").0["spec"]["ports"].clone()
    }
}

/// Merges the ports of a Service as an apply does: those of others stay.
fn merge_ports(object: &mut Value, wish: &Value) {
    let wished = wish["spec"]["ports"].as_array().expect("ports").clone();
    let found = object["spec"]["ports"].as_array().expect("ports").clone();
    let others = found.into_iter().filter(|port| wished.iter().all(|wished| wished["port"] != port["port"]));
    object["spec"]["ports"] = wished.iter().cloned().chain(others).collect();
}

#[tokio::test]
async fn what_displaced_an_entry_goes_although_others_write_meanwhile() {
    let port = |port: u32| json!({"name": "grpc", "port": port, "protocol": "TCP"});
    let wish = object("Service", &json!({"ports": [port(8080)]}));
    for writes_of_others in 0..MAX_TRIES {
        let server = Busy::new(&json!([port(8081)]), writes_of_others);
        let applied = apply(&server.api(), "a", &wish, true, true).await;
        assert!(applied.is_ok(), "{writes_of_others} writes of others: {applied:?}");
        assert_eq!(server.ports(), json!([port(8080)]), "{writes_of_others} writes of others");
    }
    let server = Busy::new(&json!([port(8081)]), MAX_TRIES);
    let applied = apply(&server.api(), "a", &wish, true, true).await;
    assert!(applied.as_ref().is_err_and(is_conflict), "the next reconciliation tries again: {applied:?}");
    assert_eq!(server.ports(), json!([port(8081)]), "an apply alone would leave it beside the operator's");
}
