use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

const OWNER: &str = "uid-of-the-cluster";

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).expect("an object")
}

fn config(text: &str) -> DynamicObject {
    object(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "a", "namespace": "n", "labels": {"app.kubernetes.io/instance": "c"},
            "ownerReferences": [{"apiVersion": "v", "kind": "k", "name": "c", "uid": OWNER, "controller": true}],
        },
        "data": {"key": text},
    }))
}

/// Returns an object with an apply of this field manager.
fn applied_by(manager: &str) -> DynamicObject {
    let mut object = config("old");
    let entry = json!([{"manager": manager, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}]);
    object.metadata.managed_fields = serde_json::from_value(entry).expect("an entry");
    object
}

fn desired(text: &str) -> Desired {
    Desired { kind: ApiResource::erase::<ConfigMap>(&()), object: config(text), yields: false }
}

fn answered(code: u16, answer: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).expect("a response")
}

/// A fake API server that stores one object and records its calls.
#[derive(Clone, Default)]
struct Server {
    state: Arc<Mutex<(Option<Value>, Vec<String>)>>,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "n")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let mut state = self.state.lock().expect("no panic");
        state.1.push(format!("{method} {path}"));
        let (code, answer) = match (&method, &state.0) {
            (&Method::PATCH, Some(object)) if object["immutable"] == true => {
                let version = &serde_json::from_slice::<Value>(&body).expect("JSON")["metadata"]["resourceVersion"];
                let is_this = version.is_null() || *version == object["metadata"]["resourceVersion"];
                let code = if is_this { 422 } else { 409 };
                (
                    code,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": code}),
                )
            }
            (&Method::PATCH, _) => {
                assert!(query.contains("force=true") && query.contains("fieldManager=robeing-operator"), "{query}");
                let mut applied: Value = serde_json::from_slice(&body).expect("JSON");
                let version = &applied["metadata"]["resourceVersion"];
                if state
                    .0
                    .as_ref()
                    .is_some_and(|known| !version.is_null() && known["metadata"]["resourceVersion"] != *version)
                {
                    let conflict = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409});
                    return answered(409, &conflict);
                }
                applied["metadata"]["resourceVersion"] = state.1.len().to_string().into();
                applied["metadata"]["uid"] = "u".into();
                state.0 = Some(applied.clone());
                (200, applied)
            }
            (&Method::GET, Some(object)) => (200, object.clone()),
            (&Method::DELETE, Some(_)) => {
                let options: Value = serde_json::from_slice(&body).expect("JSON");
                assert_eq!(options["preconditions"]["uid"], "u", "only the object that was seen is deleted");
                state.0 = None;
                (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            _ => (
                404,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}),
            ),
        };
        answered(code, &answer)
    }

    /// Returns what an up-to-date watch cache would contain.
    fn live(&self) -> Vec<Live> {
        let object_ = self.state.lock().expect("no panic").0.clone();
        object_.into_iter().map(|value| Live::new("ConfigMap", object(value))).collect()
    }

    fn put(&self, value: &DynamicObject) {
        self.state.lock().expect("no panic").0 = Some(serde_json::to_value(value).expect("JSON"));
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().expect("no panic").1)
    }

    async fn apply(&self, desired: &[Desired], live: &[Live], records: &mut Records) -> Applied {
        self.apply_but(desired, live, &HashSet::new(), records, &mut Refusals::default()).await
    }

    async fn apply_but(
        &self,
        desired: &[Desired],
        live: &[Live],
        kept: &HashSet<String>,
        records: &mut Records,
        refusals: &mut Refusals,
    ) -> Applied {
        let target = Target { client: &self.client(), namespace: "n", owner: OWNER };
        target.apply(desired, live, kept, records, refusals).await
    }
}

const READ: &str = "GET /api/v1/namespaces/n/configmaps/a";
const APPLY: &str = "PATCH /api/v1/namespaces/n/configmaps/a";
const DELETE: &str = "DELETE /api/v1/namespaces/n/configmaps/a";

#[tokio::test(start_paused = true)]
async fn an_object_is_made_once_and_then_left_alone() {
    let (server, mut records) = (Server::default(), Records::new());
    let wish = [desired("x")];
    assert!(server.apply(&wish, &[], &mut records).await.changing);
    assert_eq!(server.calls(), [APPLY]);
    assert!(server.apply(&wish, &[], &mut records).await.changing, "the cache does not show it yet");
    assert!(!server.apply(&wish, &server.live(), &mut records).await.changing);
    tokio::time::advance(CACHE_LAG * 10).await;
    assert!(!server.apply(&wish, &server.live(), &mut records).await.changing);
    assert!(server.calls().is_empty(), "nothing changed, so nothing is called");
}

#[tokio::test(start_paused = true)]
async fn drift_and_a_new_wish_are_applied_and_a_restarted_operator_applies_once() {
    let (server, mut records) = (Server::default(), Records::new());
    server.apply(&[desired("x")], &[], &mut records).await;
    server.put(&config("edited by hand"));
    server.calls();
    server.apply(&[desired("x")], &server.live(), &mut records).await;
    assert_eq!(server.calls(), [READ, APPLY], "drift, which must be read, since the cache keeps only a fingerprint");
    server.apply(&[desired("y")], &server.live(), &mut records).await;
    assert_eq!(server.calls(), [APPLY], "a new desired state");
    let mut forgotten = Records::new();
    server.apply(&[desired("y")], &server.live(), &mut forgotten).await;
    server.apply(&[desired("y")], &server.live(), &mut forgotten).await;
    assert_eq!(server.calls(), [READ, APPLY], "a restart, before which anything may have changed");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_was_deleted_by_hand_comes_back() {
    let (server, mut records) = (Server::default(), Records::new());
    server.apply(&[desired("x")], &[], &mut records).await;
    server.apply(&[desired("x")], &server.live(), &mut records).await;
    server.state.lock().expect("no panic").0 = None;
    server.calls();
    tokio::time::advance(CACHE_LAG).await;
    server.apply(&[desired("x")], &[], &mut records).await;
    assert_eq!(server.calls(), [APPLY]);
}

#[tokio::test(start_paused = true)]
async fn an_object_of_ours_that_the_cache_lacks_is_looked_at_and_applied() {
    let (server, mut records) = (Server::default(), Records::new());
    server.put(&config("without its label, or made by an operator before this one"));
    server.apply(&[desired("x")], &[], &mut records).await;
    assert_eq!(server.calls(), [APPLY, READ, APPLY], "the first apply creates nothing");
    assert_eq!(server.live()[0].text("/data/key"), Some("x"));
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_somebody_else_is_not_taken() {
    let (server, mut records) = (Server::default(), Records::new());
    let mut foreign = config("theirs");
    foreign.metadata.owner_references = None;
    server.put(&foreign);
    for live in [vec![], server.live()] {
        let applied = server.apply(&[desired("x")], &live, &mut records).await;
        let [error] = &applied.errors[..] else { panic!("one error: {applied:?}") };
        assert!(error.to_string().contains("does not belong to this RobeingCluster"), "{error}");
    }
    assert_eq!(server.calls(), [APPLY, READ], "nothing is changed; the object is read and left alone");
    assert_eq!(server.live()[0].text("/data/key"), Some("theirs"));
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_taken_away_by_hand_is_put_back() {
    let removed = |object: &mut DynamicObject| object.metadata.owner_references = None;
    let no_controller = |object: &mut DynamicObject| {
        object.metadata.owner_references.as_mut().expect("owners")[0].controller = Some(false);
    };
    for change in [removed, no_controller] {
        for cached in [true, false] {
            let (server, mut records) = (Server::default(), Records::new());
            let mut ours = applied_by(names::OPERATOR);
            change(&mut ours);
            server.put(&ours);
            let live = if cached { server.live() } else { vec![] };
            let applied = server.apply(&[desired("x")], &live, &mut records).await;
            assert!(applied.errors.is_empty(), "{applied:?}");
            assert!(is_owned(&server.live()[0].object.metadata, OWNER), "cached: {cached}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_controls_and_another_made_stays_theirs() {
    let mut theirs = applied_by("somebody");
    theirs.metadata.owner_references = None;
    let mut of_another_cluster = applied_by(names::OPERATOR);
    of_another_cluster.metadata.owner_references = None;
    of_another_cluster.metadata.labels.as_mut().expect("labels").insert(names::LABEL_INSTANCE.into(), "d".into());
    let mut taken = applied_by(names::OPERATOR);
    taken.metadata.owner_references.as_mut().expect("owners")[0].name = "somebody".into();
    taken.metadata.owner_references.as_mut().expect("owners")[0].uid = "somebody".into();
    for object in [theirs, of_another_cluster, taken] {
        let (server, mut records) = (Server::default(), Records::new());
        server.put(&object);
        let applied = server.apply(&[desired("x")], &[], &mut records).await;
        assert!(matches!(applied.errors[..], [Error::Foreign { .. }]), "{applied:?}");
        assert_eq!(server.live()[0].text("/data/key"), Some("old"));
    }
}

#[test]
fn a_set_with_other_disks_is_not_taken() {
    let set = |storage: Value| {
        let mut set = applied_by(names::OPERATOR);
        set.metadata.owner_references = None;
        set.data = json!({"spec": {"volumeClaimTemplates": storage}});
        set
    };
    let disks_of = |class: Value| json!([{"metadata": {"name": "data"}, "spec": {"storageClassName": class}}]);
    let wish = set(disks_of("fast".into()));
    let ours = |found: Value| is_ours(&Live::new("StatefulSet", set(found)), OWNER, disks(&wish));
    assert!(ours(disks_of("fast".into())));
    assert!(!ours(disks_of("slow".into())) && !ours(disks_of(Value::Null)) && !ours(Value::Null));
}

#[tokio::test(start_paused = true)]
async fn an_account_of_somebody_elses_that_a_template_names_will_do() {
    let (server, mut records) = (Server::default(), Records::new());
    let mut foreign = config("theirs");
    foreign.metadata.owner_references = None;
    server.put(&foreign);
    let applied = server.apply(&[Desired { yields: true, ..desired("x") }], &[], &mut records).await;
    assert!(applied.errors.is_empty() && !applied.changing, "{applied:?}");
    assert_eq!(server.live()[0].text("/data/key"), Some("theirs"));
}

#[tokio::test(start_paused = true)]
async fn what_a_hand_made_immutable_is_made_anew() {
    let (server, mut records) = (Server::default(), Records::new());
    let mut immutable = config("old");
    immutable.metadata.uid = Some("u".into());
    immutable.data["immutable"] = true.into();
    server.put(&immutable);
    let applied = server.apply(&[desired("x")], &server.live(), &mut records).await;
    assert!(applied.errors.is_empty() && applied.changing, "{applied:?}");
    assert_eq!(server.live()[0].text("/data/key"), Some("x"));
    assert!(server.calls().contains(&DELETE.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_cluster_of_the_name_left_is_waited_for() {
    let (server, mut records) = (Server::default(), Records::new());
    let mut leftover = config("old");
    leftover.metadata.owner_references.as_mut().expect("owners")[0].uid = "uid-of-the-earlier-cluster".into();
    server.put(&leftover);
    for live in [vec![], server.live()] {
        let applied = server.apply(&[desired("x")], &live, &mut records).await;
        assert!(applied.errors.is_empty() && applied.changing, "{applied:?}");
    }
    assert_eq!(server.calls(), [APPLY, READ]);
    assert_eq!(server.live()[0].text("/data/key"), Some("old"));
}

#[tokio::test(start_paused = true)]
async fn an_orphan_of_ours_is_deleted_and_no_other() {
    let (server, mut records) = (Server::default(), Records::new());
    let mut ours = config("x");
    ours.metadata.uid = Some("u".into());
    server.put(&ours);
    server.apply(&[], &server.live(), &mut records).await;
    assert_eq!(server.calls(), [DELETE]);
    let mut theirs = ours.clone();
    theirs.metadata.owner_references = None;
    server.put(&theirs);
    server.apply(&[], &server.live(), &mut records).await;
    assert!(server.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_pool_that_is_not_built_stays() {
    let (server, mut records) = (Server::default(), Records::new());
    let mut ours = config("x");
    ours.metadata.uid = Some("u".into());
    server.put(&ours);
    let kept = HashSet::from(["a".to_owned()]);
    let applied = server.apply_but(&[], &server.live(), &kept, &mut records, &mut Refusals::default()).await;
    assert!(!applied.changing && server.calls().is_empty(), "{applied:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_told_and_asked_again_after_a_pause_or_once_it_changes() {
    let (server, mut records, mut refusals) = (Server::default(), Records::new(), Refusals::default());
    let mut foreign = config("theirs");
    foreign.metadata.owner_references = None;
    server.put(&foreign);
    let mut calls = Vec::new();
    for text in ["x", "x", "y", "y"] {
        let none = HashSet::new();
        let applied = server.apply_but(&[desired(text)], &[], &none, &mut records, &mut refusals).await;
        let [error] = &applied.errors[..] else { panic!("one error: {applied:?}") };
        assert!(error.to_string().contains("does not belong to this RobeingCluster"), "{error}");
        calls.push(server.calls().len());
    }
    assert_eq!(calls, [2, 0, 1, 0], "an object that was refused before is only read");
    tokio::time::advance(crate::runtime::retry::FIRST_PAUSE).await;
    server.apply_but(&[desired("y")], &[], &HashSet::new(), &mut records, &mut refusals).await;
    assert_eq!(server.calls(), [READ]);
}

#[test]
fn a_workload_does_not_rest_on_what_belongs_to_somebody_else() {
    let pod = json!({"spec": {"template": {"spec": {"serviceAccountName": "a"}}}});
    let foreign = |kind: &str, name: &str| HashSet::from([(kind.to_owned(), name.to_owned())]);
    let workload =
        object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": pod["spec"]}));
    assert!(rests_on(&workload, &foreign("ServiceAccount", "a")) && rests_on(&workload, &foreign("Service", "f")));
    assert!(!rests_on(&workload, &foreign("ServiceAccount", "b")) && !rests_on(&workload, &foreign("ConfigMap", "a")));
    assert!(!rests_on(&config("x"), &foreign("Service", "f")), "an object that runs nothing is created");
}

#[test]
fn what_an_apply_cannot_set_does_not_count() {
    let mut other = config("x");
    other.metadata.resource_version = Some("7".into());
    other.metadata.generation = Some(3);
    other.metadata.annotations = Some([(DEPLOYMENT_REVISION.to_owned(), "4".to_owned())].into());
    other.data["status"] = json!({"ready": 1});
    assert_eq!(fingerprint(&other), fingerprint(&config("x")));
    assert_ne!(fingerprint(&config("y")), fingerprint(&config("x")));
}

#[test]
fn a_version_that_was_seen_to_be_as_applied_is_not_looked_at_again() {
    let mut live = config("as it was applied");
    live.metadata.resource_version = Some("7".into());
    let desired = config("desired");
    let record = Record {
        desired: fingerprint(&desired),
        before: None,
        after: 0,
        version: Some("7".into()),
        at: Instant::now(),
    };
    let verdict = |live: &DynamicObject| {
        let live = Live::new("ConfigMap", live.clone());
        judge((&desired, fingerprint(&desired)), Some(&live), Some(&record), OWNER, Instant::now())
    };
    assert_eq!(verdict(&live), Verdict::Leave);
    live.metadata.resource_version = Some("8".into());
    assert_eq!(verdict(&live), Verdict::Apply);
    live.metadata.resource_version = None;
    assert_eq!(verdict(&live), Verdict::Apply, "a missing version does not match");
}
