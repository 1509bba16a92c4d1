//! The webhooks that messengers call.

use super::*;

const SECRET: &str = "ROBEING_WEBHOOK_SECRET_1";
const LIST: &str = "robeing.io/webhooks";

fn with(url: &str) -> RobeingCluster {
    let mut cluster = cluster(FULL);
    let gateway = serde_json::json!({"webhooks": [
        {"name": "billing", "url": url, "secretKeyRef": {"name": "hooks", "key": "billing"}, "kinds": ["invoice"],
         "states": ["Succeeded", "DeadLettered"]},
        {"name": "all", "url": "http://all/", "secretKeyRef": {"name": "hooks", "key": "all"}},
    ]});
    cluster.spec.gateway = serde_json::from_value(gateway).expect("webhooks");
    cluster
}

#[test]
fn messengers_get_the_list_by_their_pods_and_the_secrets_by_reference_and_others_nothing() {
    let (before, after) = (objects(&fleet(&cluster(FULL))), objects(&fleet(&with("https://billing.example/hooks"))));
    for other in ["full-data", "full-web", "full-own", "full-moved"] {
        let of = |objects: &[Desired]| template(object(objects, "Deployment", other));
        assert_eq!(of(&before), of(&after), "{other} is not restarted");
    }
    assert_eq!(before.len(), after.len(), "there is no other object");
    let template = template(object(&after, "Deployment", "full-far"));
    let list = template["metadata"]["annotations"][LIST].as_str().expect("the annotation");
    let list: Value = serde_json::from_str(list).expect("JSON");
    assert_eq!(
        list[0],
        serde_json::json!({
            "name": "billing", "url": "https://billing.example/hooks", "secret": {"env": SECRET}, "kinds": ["invoice"],
            "states": ["succeeded", "dead_lettered"],
        })
    );
    let agent = &template["spec"]["containers"][0];
    let env = agent["env"].as_array().expect("a list");
    let variable = |name: &str| env.iter().find(|variable| variable["name"] == name).expect("it is there").clone();
    assert_eq!(variable("ROBEING_WEBHOOKS")["value"], "/etc/robeing/webhooks/webhooks.json");
    let secret = serde_json::json!({"secretKeyRef": {"name": "hooks", "key": "billing"}});
    assert_eq!((&variable(SECRET)["valueFrom"], &variable(SECRET)["value"]), (&secret, &Value::Null));
    let mounts = agent["volumeMounts"].as_array().expect("a list");
    let mount = mounts.iter().find(|mount| mount["name"] == "robeing-webhooks").expect("it is mounted");
    assert_eq!((&mount["mountPath"], &mount["readOnly"]), (&"/etc/robeing/webhooks".into(), &true.into()));
    let volumes = template["spec"]["volumes"].as_array().expect("a list");
    let volume = volumes.iter().find(|volume| volume["name"] == "robeing-webhooks").expect("there is the volume");
    let item = &volume["downwardAPI"]["items"][0];
    assert_eq!(item["fieldRef"]["fieldPath"], format!("metadata.annotations['{LIST}']"));
    assert_eq!(item["path"], "webhooks.json");
}

#[test]
fn a_template_or_container_replaces_neither_the_list_nor_the_secrets() {
    let env = serde_json::json!([
        {"name": SECRET, "value": "mine"},
        {"name": "ROBEING_WEBHOOKS", "value": "/mine"},
        {"name": "OWN", "value": "v"},
    ]);
    for in_template in [true, false] {
        let mut cluster = with("https://billing.example/hooks");
        let far = cluster.spec.pools.iter_mut().find(|pool| pool.name == "far").expect("it is there");
        if in_template {
            far.template = serde_json::from_value(serde_json::json!({"env": env})).expect("overrides");
        } else {
            let container = serde_json::json!({"image": "example/image:1", "env": env});
            far.container = serde_json::from_value(container).expect("a container");
            far.executor = serde_json::from_value(serde_json::json!({"command": {"argv": ["cat"]}})).expect("one");
        }
        let template = template(object(&objects(&fleet(&cluster)), "Deployment", "full-far"));
        let env = template["spec"]["containers"][0]["env"].as_array().expect("a list");
        let of = |name: &str| env.iter().filter(|variable| variable["name"] == name).collect::<Vec<_>>();
        assert_eq!((of(SECRET).len(), of("ROBEING_WEBHOOKS").len()), (1, 1), "{in_template}");
        assert_eq!(of(SECRET)[0]["valueFrom"]["secretKeyRef"]["key"], "billing", "{in_template}");
        assert_eq!(of("ROBEING_WEBHOOKS")[0]["value"], "/etc/robeing/webhooks/webhooks.json", "{in_template}");
        assert_eq!(of("OWN")[0]["value"], "v", "{in_template}");
    }
}

#[test]
fn a_change_of_the_list_restarts_the_messengers() {
    let list = |url| template(object(&objects(&fleet(&with(url))), "Deployment", "full-far"));
    assert_ne!(list("https://one/"), list("https://another/"));
}

#[test]
fn messengers_that_could_not_call_a_webhook_are_not_built_and_others_are() {
    let fleet = fleet(&with("http://host:99999/"));
    let refused = fleet.refused.iter().find(|refused| refused.name == "far").expect("it is refused");
    assert_eq!(refused.reason, "InvalidGateway");
    assert!(refused.message.contains("gateway.webhooks[0].url: This URL can't be called"), "{}", refused.message);
    assert!(fleet.pools.iter().any(|pool| pool.name == "data"));
}

#[test]
fn webhooks_without_a_messenger_or_with_credentials_in_the_clear_are_refused() {
    let manifest = |role: &str, url: &str| {
        format!(
            "{{apiVersion: robeing.io/v1alpha1, kind: RobeingCluster, metadata: {{name: w}}, spec: {{pools: [{{name: p, \
             role: {role}, replicas: 1, executor: {{echo: {{}}}}}}], gateway: {{webhooks: [{{name: a, url: '{url}', \
             secretKeyRef: {{name: s, key: k}}}}]}}}}}}"
        )
    };
    parse_manifest(&manifest("Messenger", "https://host/path?to=a@b")).expect("it is right");
    for (role, url, words) in [
        ("Worker", "https://host/", "add a pool of the role Messenger"),
        ("Messenger", "https://ann:secret@host/", "must not contain a user and password"),
        ("Messenger", "ftp://host/", "must start with http:// or https://"),
    ] {
        let error = parse_manifest(&manifest(role, url)).expect_err(url).to_string();
        assert!(error.contains(words), "{error}");
    }
}
