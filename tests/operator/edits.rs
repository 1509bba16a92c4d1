//! Other clients change objects that the operator owns: its fields are restored, theirs are kept, and neither takes
//! many requests.

use kube::{
    Client,
    api::{DeleteParams, DynamicObject},
};
use robeing_tests::operator::{ControlPlane, Operator, OperatorSettings, Sort, until};
use serde_json::{Value, json};

use crate::{CLUSTER, spec};

/// The number of lease renewals without other writes after which an operator counts as at rest.
const RENEWALS: usize = 6;
/// The maximum number of writes that one edit may cause: the object, the status, and an event for each.
const MOST_WRITES: usize = 4;
const NAMESPACE: &str = "edits";

/// An edit, and the final content of the object.
struct Edit {
    what: &'static str,
    object: (&'static str, &'static str),
    patch: Value,
    /// Paths in the object, and their final values.
    in_the_end: Vec<(&'static str, Value)>,
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn edits() -> Vec<Edit> {
    let set = ("statefulsets", "first-coordinators");
    let (data, auto) = (("deployments", "first-data"), ("deployments", "first-auto"));
    let image = "/spec/template/spec/containers/0/image";
    vec![
        Edit {
            what: "the coordinators' template",
            object: set,
            patch: json!({"spec": {"minReadySeconds": 7, "template": {
                "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}},
                "spec": {"terminationGracePeriodSeconds": 1},
            }}}),
            in_the_end: vec![
                ("/spec/template/spec/terminationGracePeriodSeconds", json!(30)),
                ("/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt", json!("now")),
                ("/spec/minReadySeconds", json!(7)),
            ],
        },
        Edit {
            what: "fewer coordinators",
            object: set,
            patch: json!({"spec": {"replicas": 1}}),
            in_the_end: vec![("/spec/replicas", json!(3))],
        },
        Edit {
            what: "a pool's image",
            object: data,
            patch: json!({"spec": {"template": {"spec": {"containers": [{"name": "agent", "image": "other"}]}}}}),
            in_the_end: vec![(image, json!("robeing:one")), ("/spec/template/spec/containers/1", Value::Null)],
        },
        Edit {
            what: "the scale of a pool whose size is in the spec",
            object: data,
            patch: json!({"spec": {"replicas": 9}}),
            in_the_end: vec![("/spec/replicas", json!(3))],
        },
        Edit {
            what: "the scale of a pool whose size is not in the spec",
            object: auto,
            patch: json!({"spec": {"replicas": 9}}),
            in_the_end: vec![("/spec/replicas", json!(9))],
        },
        Edit {
            what: "both the scale and a field of such a pool",
            object: auto,
            patch: json!({"spec": {"replicas": 8, "progressDeadlineSeconds": 1}}),
            in_the_end: vec![("/spec/replicas", json!(8)), ("/spec/progressDeadlineSeconds", json!(120))],
        },
        Edit {
            what: "the first membership",
            object: ("configmaps", "first-coordinators"),
            patch: json!({"data": {"initial-coordinators": "nobody", "theirs": "kept"}}),
            in_the_end: vec![("/data/theirs", json!("kept"))],
        },
        Edit {
            what: "a Service's selector, and fields of others",
            object: ("services", CLUSTER),
            patch: json!({
                "metadata": {"labels": {"their": "label"}, "annotations": {"their": "annotation"}},
                "spec": {"selector": {"app.kubernetes.io/component": "nobody"}, "sessionAffinity": "ClientIP"},
            }),
            in_the_end: vec![
                ("/metadata/labels/their", json!("label")),
                ("/metadata/annotations/their", json!("annotation")),
                ("/spec/selector/app.kubernetes.io~1component", json!("coordinator")),
                ("/spec/sessionAffinity", json!("ClientIP")),
            ],
        },
        Edit {
            what: "the owner of the coordinators",
            object: set,
            patch: json!({"metadata": {"ownerReferences": null}}),
            in_the_end: vec![("/metadata/ownerReferences/0/controller", json!(true)), ("/spec/replicas", json!(3))],
        },
        Edit {
            what: "the image that a fleet keeps",
            object: set,
            patch: json!({"metadata": {"annotations": {"robeing.io/default-image": "evil:9"}}}),
            in_the_end: vec![
                ("/metadata/annotations/robeing.io~1default-image", json!("robeing:one")),
                (image, json!("robeing:one")),
            ],
        },
        Edit {
            what: "the label by which the operator finds an object",
            object: ("networkpolicies", "first-agents"),
            patch: json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null, "app.kubernetes.io/instance": null}}}),
            in_the_end: vec![
                ("/metadata/labels/app.kubernetes.io~1managed-by", json!("robeing-operator")),
                ("/metadata/labels/app.kubernetes.io~1instance", json!(CLUSTER)),
            ],
        },
    ]
}

pub async fn what_is_owned_is_put_back(stage: &ControlPlane, client: &Client) {
    ControlPlane::namespace(client, NAMESPACE).await;
    ControlPlane::create(client, NAMESPACE, CLUSTER, &spec()).await;
    let mut operator = stage.operator(OperatorSettings::of(NAMESPACE)).await;
    until("a fleet", async || ControlPlane::get(client, NAMESPACE, "deployments", "first-auto").await).await;
    operator.rests(RENEWALS).await;
    for edit in edits() {
        edited(client, &mut operator, &edit).await;
    }
    let members = ControlPlane::get(client, NAMESPACE, "configmaps", "first-coordinators").await.expect("a ConfigMap");
    let members = members.data["data"]["initial-coordinators"].to_string();
    assert!(members.contains("first-coordinators-2="), "{members}");
    deletions_are_undone(client, &mut operator).await;
    an_autoscaler_takes_over_what_there_is(client, &mut operator).await;
}

fn field<'a>(object: &'a Value, path: &str) -> &'a Value {
    object.pointer(path).unwrap_or(&Value::Null)
}

fn whole(object: &DynamicObject) -> Value {
    serde_json::to_value(object).expect("an object is JSON")
}

async fn edited(client: &Client, operator: &mut Operator, edit: &Edit) {
    let (plural, name) = edit.object;
    let mark = operator.requests.mark();
    ControlPlane::patch(client, NAMESPACE, plural, name, &edit.patch).await;
    let mut done = async || {
        let seen = whole(&ControlPlane::get(client, NAMESPACE, plural, name).await?);
        let wrong = edit.in_the_end.iter().find(|(path, value)| field(&seen, path) != value);
        wrong.map_or(Ok(()), |(path, value)| Err(format!("{path}: {} instead of {value}", field(&seen, path))))
    };
    until(edit.what, &mut done).await;
    // The operator also checks an edit that it keeps, so there may be nothing to write.
    operator.rests_after(operator.requests.mark(), RENEWALS).await;
    done().await.unwrap_or_else(|wrong| panic!("{}, at rest: {wrong}", edit.what));
    let writes = operator.requests.lines(mark, Sort::Write);
    eprintln!("{}: {} writes", edit.what, writes.len());
    assert!(writes.len() <= MOST_WRITES, "{}: {writes:#?}", edit.what);
}

async fn deletions_are_undone(client: &Client, operator: &mut Operator) {
    for (plural, name) in
        [("services", CLUSTER), ("configmaps", "first-coordinators"), ("statefulsets", "first-coordinators")]
    {
        let before = ControlPlane::get(client, NAMESPACE, plural, name).await.expect("an object").metadata.uid;
        let mark = operator.requests.mark();
        let deleted = ControlPlane::api(client, NAMESPACE, plural).delete(name, &DeleteParams::background()).await;
        deleted.unwrap_or_else(|error| panic!("{plural}/{name}: {error}"));
        until("a recreated object", async || {
            let uid = ControlPlane::get(client, NAMESPACE, plural, name).await?.metadata.uid;
            if uid == before { Err("it is not deleted".to_owned()) } else { Ok(()) }
        })
        .await;
        operator.rests(RENEWALS).await;
        let writes = operator.requests.lines(mark, Sort::Write);
        eprintln!("{plural}/{name} deleted: {} writes", writes.len());
        assert!(writes.len() <= MOST_WRITES, "{writes:#?}");
    }
}

/// A pool that had a size in the spec keeps it until an autoscaler sets another one.
async fn an_autoscaler_takes_over_what_there_is(client: &Client, operator: &mut Operator) {
    let mark = operator.requests.mark();
    let mut spec = spec();
    spec["pools"][0].as_object_mut().expect("a pool").remove("replicas");
    spec["pools"][0].as_object_mut().expect("a pool").remove("standby");
    ControlPlane::patch(client, NAMESPACE, "robeingclusters", CLUSTER, &json!({"spec": {"pools": spec["pools"]}}))
        .await;
    until("the change is in the status", async || {
        let cluster = ControlPlane::get(client, NAMESPACE, "robeingclusters", CLUSTER).await?;
        let reported = cluster.data["status"]["observedGeneration"].as_i64();
        if reported == cluster.metadata.generation { Ok(()) } else { Err(format!("{reported:?}")) }
    })
    .await;
    operator.rests(RENEWALS).await;
    let pool = ControlPlane::get(client, NAMESPACE, "deployments", "first-data").await.expect("a pool");
    let writes = operator.requests.lines(mark, Sort::Write);
    assert_eq!(pool.data["spec"]["replicas"], 3, "a pool that was handed to an autoscaler shrank: {writes:#?}");
    let patch = json!({"spec": {"replicas": 6}});
    ControlPlane::patch(client, NAMESPACE, "deployments", "first-data", &patch).await;
    // Another field of the object is restored, and this one is kept.
    ControlPlane::patch(client, NAMESPACE, "deployments", "first-data", &json!({"spec": {"revisionHistoryLimit": 1}}))
        .await;
    until("owned fields are restored", async || {
        let pool = ControlPlane::get(client, NAMESPACE, "deployments", "first-data").await?;
        let history = pool.data["spec"]["revisionHistoryLimit"].clone();
        if history == 5 { Ok(()) } else { Err(history.to_string()) }
    })
    .await;
    operator.rests(RENEWALS).await;
    let pool = ControlPlane::get(client, NAMESPACE, "deployments", "first-data").await.expect("a pool");
    assert_eq!(pool.data["spec"]["replicas"], 6, "the size that an autoscaler set was not kept");
    let suspend = async |suspend: bool| {
        ControlPlane::patch(client, NAMESPACE, "robeingclusters", CLUSTER, &json!({"spec": {"suspend": suspend}}))
            .await;
        until("a pool suspended or resumed", async || {
            let pool = ControlPlane::get(client, NAMESPACE, "deployments", "first-data").await?;
            let replicas = pool.data["spec"]["replicas"].as_u64();
            // Nothing would scale up a pool of zero.
            if replicas == Some(u64::from(!suspend)) { Ok(()) } else { Err(format!("{replicas:?}")) }
        })
        .await;
    };
    suspend(true).await;
    suspend(false).await;
}
