//! A real API server accepts what the operator builds from users' specs, one change after the other in one fleet: ports
//! that several containers use, images with a moving tag, sources that change their kind, sizes set through the scale
//! subresource, larger disks.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams, ValidationDirective},
};
use robeing_tests::{
    documented,
    operator::{ControlPlane, OperatorSettings, until},
};
use serde_json::{Value, json};

use crate::{CLUSTER, spec};

const NAMESPACE: &str = "specs";

pub async fn what_users_write_is_taken(stage: &ControlPlane, client: &Client) {
    ControlPlane::namespace(client, NAMESPACE).await;
    ControlPlane::create(client, NAMESPACE, CLUSTER, &spec()).await;
    let _operator = stage.operator(OperatorSettings::of(NAMESPACE)).await;
    until("a fleet", async || ControlPlane::get(client, NAMESPACE, "deployments", "first-auto").await).await;
    sources_change(client).await;
    a_moving_tag_traps_nobody(client).await;
    a_clash_is_told(client).await;
    a_fleet_is_scaled(client).await;
    the_documented_scaled_object_is_one(client).await;
    disks_grow(client).await;
}

async fn change(client: &Client, spec: Value) {
    ControlPlane::patch(client, NAMESPACE, "robeingclusters", CLUSTER, &json!({"spec": spec})).await;
}

/// Returns the reason and message of a condition, if it describes the newest spec.
async fn condition(client: &Client, kind: &str) -> Result<(String, String), String> {
    let cluster = ControlPlane::get(client, NAMESPACE, "robeingclusters", CLUSTER).await?;
    let conditions = cluster.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
    if found["observedGeneration"].as_i64() != cluster.metadata.generation {
        return Err("the status is that of an older spec".into());
    }
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok((text("reason"), text("message")))
}

/// Waits until a path of an object has a value, and checks that nothing was refused in the meantime.
async fn until_it_is(client: &Client, (plural, name): (&str, &str), path: &str, value: &Value) {
    until(&format!("{plural}/{name}{path} is {value}"), async || {
        let (reason, message) = condition(client, "Degraded").await?;
        if reason == "ApplyFailed" {
            return Err(message);
        }
        let object = ControlPlane::get(client, NAMESPACE, plural, name).await?;
        let found = object.data.pointer(path).unwrap_or(&Value::Null);
        if found == value { Ok(()) } else { Err(format!("{found}")) }
    })
    .await;
}

fn web(container: &Value, template: &Value) -> Value {
    let mut container = container.clone();
    container["image"] = json!("example/server:1");
    container["ports"] = json!([
        {"containerPort": 8080, "name": "grpc"}, {"containerPort": 9090, "name": "metrics"}, {"containerPort": 8080},
    ]);
    let executor = json!({"http": {"url": "http://127.0.0.1:8080/run"}});
    json!({"pools": [{"name": "web", "replicas": 1, "executor": executor, "container": container, "template": template}]})
}

async fn sources_change(client: &Client) {
    let deployment = ("deployments", "first-web");
    let env = |source: Value| json!([{"name": "A", "valueFrom": source}, {"name": "B", "value": "1"}, {"name": "B", "value": "2"}]);
    let volume = |source: Value| {
        let mut volume = source;
        volume["name"] = json!("v");
        json!({"volumes": [volume]})
    };
    let of = |probe: Value, source: Value, from: Value| {
        web(&json!({"readinessProbe": probe, "env": env(source)}), &volume(from))
    };
    // Beside those of the identity and the journal.
    let volumes = |path: &str| format!("/spec/template/spec/volumes/2/{path}");
    let beside = |path: &str| format!("/spec/template/spec/initContainers/0/{path}");
    let probe = |kind: &str| beside(&format!("readinessProbe/{kind}"));
    let exec = json!({"exec": {"command": ["/true"]}});
    let pod_name = json!({"fieldRef": {"fieldPath": "metadata.name"}});
    let steps = [
        (
            of(
                json!({"httpGet": {"path": "/", "port": 8080}}),
                json!({"fieldRef": {"fieldPath": "spec.nodeName"}}),
                json!({"configMap": {"name": "a"}}),
            ),
            vec![(volumes("configMap/name"), json!("a")), (beside("env/1/value"), json!("2"))],
        ),
        (
            of(
                json!({"tcpSocket": {"port": 8080}}),
                json!({"secretKeyRef": {"name": "s", "key": "k"}}),
                json!({"secret": {"secretName": "b"}}),
            ),
            vec![
                (volumes("secret/secretName"), json!("b")),
                (probe("tcpSocket/port"), json!(8080)),
                (probe("httpGet"), Value::Null),
            ],
        ),
        (
            of(
                json!({"grpc": {"port": 8080}}),
                json!({"configMapKeyRef": {"name": "s", "key": "k"}}),
                json!({"projected": {"sources": [{"configMap": {"name": "c"}}]}}),
            ),
            vec![(probe("grpc/port"), json!(8080))],
        ),
        (
            of(exec.clone(), pod_name.clone(), json!({"hostPath": {"path": "/x"}})),
            vec![(volumes("hostPath/path"), json!("/x"))],
        ),
        (of(exec, pod_name, json!({"emptyDir": {}})), vec![(volumes("hostPath"), Value::Null)]),
    ];
    for (spec, expected) in steps {
        change(client, spec).await;
        for (path, value) in expected {
            until_it_is(client, deployment, &path, &value).await;
        }
    }
}

async fn a_moving_tag_traps_nobody(client: &Client) {
    let policy = "/spec/template/spec/containers/0/imagePullPolicy";
    for (spec, expected) in [
        (json!({"image": "robeing:latest"}), "Always"),
        (json!({"image": "robeing:1"}), "IfNotPresent"),
        (json!({"image": "robeing:latest", "imagePullPolicy": "Never"}), "Never"),
        (json!({"image": "robeing:latest", "imagePullPolicy": null}), "Always"),
        (json!({"image": null}), "IfNotPresent"),
    ] {
        change(client, spec).await;
        for object in [("statefulsets", "first-coordinators"), ("deployments", "first-web")] {
            until_it_is(client, object, policy, &json!(expected)).await;
        }
    }
}

async fn a_clash_is_told(client: &Client) {
    let mut pools = web(&json!({}), &json!({}));
    pools["pools"][0]["container"]["ports"] = json!([{"containerPort": 17080}]);
    change(client, pools.clone()).await;
    until("the clash is reported", async || {
        let (reason, message) = condition(client, "Degraded").await?;
        if reason == "PortTaken" && message.contains("agentPorts.grpc") {
            Ok(())
        } else {
            Err(format!("{reason}: {message}"))
        }
    })
    .await;
    pools["pools"][0]["agentPorts"] = json!({"grpc": 7080});
    change(client, pools).await;
    let listens = "/spec/template/spec/containers/0/ports/0/containerPort";
    until_it_is(client, ("deployments", "first-web"), listens, &json!(7080)).await;
}

async fn a_fleet_is_scaled(client: &Client) {
    let clusters = ControlPlane::api(client, NAMESPACE, "robeingclusters");
    let scale = async |replicas: u32| {
        let patch = json!({"spec": {"replicas": replicas}});
        clusters.patch_scale(CLUSTER, &PatchParams::default(), &Patch::Merge(patch)).await
    };
    let refused = scale(4).await.expect_err("no pool is named");
    assert!(refused.to_string().contains("does not say which pool to scale"), "{refused}");
    let mut spec = spec();
    let pool = spec["pools"][0].as_object_mut().expect("a pool");
    pool.remove("replicas");
    change(client, json!({"pools": spec["pools"], "scaledPool": "data", "replicas": 2})).await;
    let deployment = ("deployments", "first-data");
    until_it_is(client, deployment, "/spec/replicas", &json!(3)).await;
    scale(4).await.expect("it is scaled");
    until_it_is(client, deployment, "/spec/replicas", &json!(5)).await;
    until("the scale as an autoscaler sees it", async || {
        let seen = clusters.get_scale(CLUSTER).await.map_err(|error| error.to_string())?;
        let replicas = seen.spec.as_ref().and_then(|spec| spec.replicas);
        let selector = seen.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
        if replicas == Some(4) && selector.contains("robeing.io/pool=data") { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

/// Checked against KEDA's own CustomResourceDefinition, with strict field validation.
async fn the_documented_scaled_object_is_one(client: &Client) {
    let of =
        |group: &str, version: &str, kind: &str| ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let definition =
        serde_yaml::from_str(include_str!("../fixtures/keda.sh_scaledobjects.yaml")).expect("a definition");
    let definitions: Api<DynamicObject> =
        Api::all_with(client.clone(), &of("apiextensions.k8s.io", "v1", "CustomResourceDefinition"));
    definitions.create(&PostParams::default(), &definition).await.expect("KEDA's definition is accepted");
    let objects: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), NAMESPACE, &of("keda.sh", "v1alpha1", "ScaledObject"));
    let strict = || PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::apply("hand") };
    let documented = documented::manifest("docs/kubernetes.md", "ScaledObject");
    until("the documented ScaledObject is accepted", async || {
        let taken = objects.patch("first", &strict(), &Patch::Apply(&documented)).await;
        taken.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let mut wrong = documented.clone();
    wrong["spec"]["maxReplicas"] = json!(1);
    let refused = objects.patch("first", &strict(), &Patch::Apply(&wrong)).await.expect_err("no such field");
    assert!(refused.to_string().contains("maxReplicas"), "{refused}");
    // Its target is the cluster whose scale was read and written before, as KEDA's autoscaler does.
    let target = &documented["spec"]["scaleTargetRef"];
    assert_eq!(*target, json!({"apiVersion": "robeing.io/v1alpha1", "kind": "RobeingCluster", "name": CLUSTER}));
}

/// There is no StatefulSet controller and no node here, so the test creates the claims.
async fn disks_grow(client: &Client) {
    let make = async |group: &str, kind: &str, plural: &str, namespaced: bool, object: Value| {
        let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
        let api: Api<DynamicObject> = match namespaced {
            true => Api::namespaced_with(client.clone(), NAMESPACE, &kind),
            false => Api::all_with(client.clone(), &kind),
        };
        let object = serde_json::from_value(object).expect("an object");
        api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("{plural}: {error}"));
        api
    };
    for (class, expands) in [("grows", true), ("stays", false)] {
        let object = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class}, "provisioner": "none",
            "allowVolumeExpansion": expands,
        });
        make("storage.k8s.io", "StorageClass", "storageclasses", false, object).await;
    }
    let mut claims = Vec::new();
    for (ordinal, class) in [(0, "grows"), (1, "stays")] {
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": format!("data-first-coordinators-{ordinal}"),
                "labels": {"app.kubernetes.io/name": "robeing", "app.kubernetes.io/instance": CLUSTER},
            },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": format!("volume-{ordinal}"),
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        let api = make("", "PersistentVolumeClaim", "persistentvolumeclaims", true, claim).await;
        let name = format!("data-first-coordinators-{ordinal}");
        let bound =
            json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(bound)).await.expect("it is bound");
        claims.push((api, name));
    }
    change(client, json!({"coordinators": {"storage": {"size": "2Gi"}}})).await;
    let (grows, name) = &claims[0];
    until("a larger claim", async || {
        let claim = grows.get(name).await.map_err(|error| error.to_string())?;
        let size = claim.data["spec"]["resources"]["requests"]["storage"].clone();
        if size == "2Gi" { Ok(()) } else { Err(size.to_string()) }
    })
    .await;
    until("a class that can't expand is reported", async || {
        let (reason, message) = condition(client, "Degraded").await?;
        let told =
            reason == "ApplyFailed" && message.contains("enlarge PersistentVolumeClaim data-first-coordinators-1");
        if told { Ok(()) } else { Err(format!("{reason}: {message}")) }
    })
    .await;
    let set = ControlPlane::get(client, NAMESPACE, "statefulsets", "first-coordinators").await.expect("a StatefulSet");
    let template = &set.data["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"];
    assert_eq!(*template, json!("1Gi"), "the template can't be changed");
}
