//! What pods need to prove who they are.

use std::collections::BTreeMap;

use robeing_operator::{
    controller::validate::{Proof, Transport},
    names,
};
use serde_json::json;

use super::*;

fn identified(identity: FleetIdentity) -> Vec<Desired> {
    let kept = Kept { identity, ..kept() };
    objects(&validate(&cluster(FULL), &operator_context(), &kept).unwrap_or_else(|error| panic!("{error}")))
}

fn with(transport: Transport, proof: Proof) -> Vec<Desired> {
    identified(FleetIdentity { transport, proof, ..kept().identity })
}

fn templates(objects: &[Desired]) -> BTreeMap<String, Value> {
    let workloads =
        objects.iter().filter(|desired| ["StatefulSet", "Deployment"].contains(&desired.kind.kind.as_str()));
    workloads.map(|desired| (desired.name().to_owned(), template(desired))).collect()
}

#[test]
fn no_pod_is_replaced_when_the_trusted_authorities_change() {
    let rotated = identified(FleetIdentity { trust: "others\n".into(), ..kept().identity });
    assert_eq!(templates(&rotated), templates(&with(Transport::Strict, Proof::Token)));
    let config = |objects: &[Desired]| object(objects, "ConfigMap", "full-trust").object.data["data"].clone();
    assert_eq!(config(&rotated), json!({"trust.crt": "others\n"}));
    let unknown = identified(FleetIdentity { trust: String::new(), ..kept().identity });
    assert!(unknown.iter().all(|desired| desired.name() != "full-trust"), "an empty one would cut agents off");
    assert_eq!(templates(&unknown), templates(&rotated));
}

#[test]
fn a_fleet_that_does_not_speak_tls_yet_keeps_its_templates() {
    for (name, template) in templates(&with(Transport::Plaintext, Proof::Token)) {
        let text = template.to_string();
        for of_identity in ["ROBEING_TLS", "robeing-identity", "robeing-api-access", "full-authority"] {
            assert!(!text.contains(of_identity), "{name}: {of_identity}");
        }
    }
}

#[test]
fn every_agent_container_has_the_identity_and_no_other_has_it() {
    for (transport, mode) in [(Transport::Strict, "strict"), (Transport::Permissive, "permissive")] {
        let objects = with(transport, Proof::Token);
        for pool in ["full-data", "full-web", "full-far", "full-own", "full-moved"] {
            let spec = template(object(&objects, "Deployment", pool))["spec"].take();
            let lists = ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array());
            for container in lists.flatten() {
                let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
                let has = mounts.iter().any(|mount| mount["name"] == "robeing-identity" && mount["readOnly"] == true);
                assert_eq!(has, container["name"] == "agent", "{pool}: {container}");
                let env = container["env"].as_array().cloned().unwrap_or_default();
                let tls = env.iter().find(|variable| variable["name"] == "ROBEING_TLS");
                let expected = (container["name"] == "agent").then(|| mode.into());
                assert_eq!(tls.map(|variable| variable["value"].clone()), expected, "{pool}: {container}");
            }
            assert_ne!(spec["automountServiceAccountToken"], true, "{pool}");
        }
    }
}

#[test]
fn agents_prove_themselves_with_tokens_or_else_with_the_secret_of_their_pool() {
    let sources = |proof| {
        let spec = template(object(&with(Transport::Strict, proof), "Deployment", "full-web"))["spec"].take();
        let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        let volume = volumes.into_iter().find(|volume| volume["name"] == "robeing-identity").expect("a volume");
        volume["projected"]["sources"].clone()
    };
    let token = json!({"serviceAccountToken": {"audience": "robeing", "expirationSeconds": 3600, "path": "token"}});
    assert_eq!(sources(Proof::Token)[1], token);
    let secret = json!({"secret": {"name": "full-web-join", "items": [{"key": "join-secret", "path": "join-secret"}]}});
    assert_eq!(sources(Proof::JoinSecret)[1], secret);
    assert_eq!(sources(Proof::Token)[0], sources(Proof::JoinSecret)[0], "whom they trust is the same");
}

#[test]
fn a_template_can_neither_change_nor_contradict_what_a_pod_proves_itself_with() {
    let mut cluster = cluster(FULL);
    let env = json!([
        {"name": "ROBEING_TLS", "value": "off"}, {"name": "ROBEING_JOIN_TOKEN", "value": "x"},
        {"name": "ROBEING_JOIN_SECRET", "value": "/x"}, {"name": "ROBEING_TRUST", "value": "/x"},
        {"name": "MINE", "value": "x"},
    ]);
    let env: Vec<k8s_openapi::api::core::v1::EnvVar> = serde_json::from_value(env).expect("variables");
    for pool in &mut cluster.spec.pools {
        pool.template.get_or_insert_default().env = env.clone();
    }
    let objects = objects(&fleet(&cluster));
    for pool in ["full-data", "full-far"] {
        let deployment = object(&objects, "Deployment", pool);
        assert_eq!(variable(deployment, "ROBEING_TLS").as_deref(), Some("strict"), "{pool}");
        let trust = "/var/run/secrets/robeing.io/identity/trust.crt";
        assert_eq!(variable(deployment, "ROBEING_TRUST").as_deref(), Some(trust), "{pool}");
        for other in ["ROBEING_JOIN_TOKEN", "ROBEING_JOIN_SECRET"] {
            assert_eq!(variable(deployment, other), None, "{pool}");
        }
        assert_eq!(variable(deployment, "MINE").as_deref(), Some("x"), "{pool}");
    }
}

#[test]
fn coordinators_have_the_authority_and_the_right_to_ask_what_people_may_do_and_no_other() {
    let objects = with(Transport::Strict, Proof::Token);
    let spec = template(object(&objects, "StatefulSet", "full-coordinators"))["spec"].take();
    let volume = |name: &str| {
        let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        volumes.into_iter().find(|volume| volume["name"] == name).unwrap_or_else(|| panic!("no volume {name}"))
    };
    let secret = volume("robeing-identity")["secret"].take();
    assert_eq!((&secret["secretName"], &secret["defaultMode"]), (&"full-authority".into(), &0o440.into()));
    let keys: Vec<_> = secret["items"].as_array().into_iter().flatten().map(|item| item["key"].clone()).collect();
    assert_eq!(keys, ["ca.crt", "ca.key", "join.key", "trust.crt"], "the next authority's key is not there");
    let sources = volume("robeing-api-access")["projected"]["sources"].take();
    assert_eq!(sources[0]["serviceAccountToken"].get("audience"), None, "it is for the API server");
    assert_eq!(spec["automountServiceAccountToken"], false);
    let rules = object(&objects, "Role", "full-coordinators").object.data["rules"].clone();
    let group = "authorization.k8s.io";
    let rule = json!({"apiGroups": [group], "resources": ["localsubjectaccessreviews"], "verbs": ["create"]});
    assert_eq!(rules, json!([rule]));
    let binding = &object(&objects, "RoleBinding", "full-coordinators").object.data;
    assert_eq!(binding["roleRef"]["name"], "full-coordinators");
    assert_eq!(binding["subjects"][0]["name"], "full-coordinators");
}

#[test]
fn the_rights_are_those_of_the_account_that_the_coordinators_run_as() {
    let mut cluster = cluster(FULL);
    cluster.spec.coordinators.template.as_mut().expect("a template").service_account_name = Some("own".into());
    let objects = objects(&fleet(&cluster));
    let binding = &object(&objects, "RoleBinding", "full-coordinators").object.data;
    assert_eq!(binding["subjects"][0]["name"], "own");
}

#[test]
fn open_enrolment_and_the_trust_domain_are_told_to_coordinators() {
    let mut cluster = cluster(FULL);
    let enrolment = |cluster: &RobeingCluster| {
        let objects = objects(&fleet(cluster));
        let set = object(&objects, "StatefulSet", "full-coordinators");
        (variable(set, "ROBEING_ENROLMENT"), variable(set, "ROBEING_TRUST_DOMAIN"), variable(set, "ROBEING_NAMESPACE"))
    };
    let told = |enrolment: Option<&str>, domain: &str| {
        (enrolment.map(str::to_owned), Some(domain.to_owned()), Some("fleets".to_owned()))
    };
    assert_eq!(enrolment(&cluster), told(None, "robeing.local"));
    cluster.spec.identity.enrolment = robeing_crds::Enrolment::Open;
    cluster.spec.identity.trust_domain = "example".into();
    assert_eq!(enrolment(&cluster), told(Some("open"), "example"));
}

#[test]
fn agents_are_reached_by_agents_of_their_own_fleet() {
    let objects = with(Transport::Strict, Proof::Token);
    let policy = &object(&objects, "NetworkPolicy", "full-agents").object.data;
    let from = policy["spec"]["ingress"][0]["from"].as_array().cloned().unwrap_or_default();
    let selected: Vec<_> = from.iter().map(|peer| peer["podSelector"]["matchLabels"].clone()).collect();
    for (peer, component) in selected.iter().zip(["coordinator", "agent"]) {
        assert_eq!(peer["app.kubernetes.io/component"], component);
        assert_eq!(peer["app.kubernetes.io/instance"], "full", "not of another fleet");
    }
    assert_eq!(selected.len(), 2);
}

#[test]
fn what_a_container_mounts_where_the_identity_is_has_its_pool_refused() {
    let mut cluster = cluster(FULL);
    let mounts = json!([{"name": "scratch", "mountPath": "/var/run/secrets/robeing.io/identity/"}]);
    cluster.spec.pools[0].container.as_mut().expect("a container").volume_mounts =
        serde_json::from_value(mounts).expect("mounts");
    let fleet = fleet(&cluster);
    let refused = fleet.refused.iter().find(|refused| refused.name == "data").expect("the pool is refused");
    assert_eq!(refused.reason, "MountPathTaken");
}

#[test]
fn people_have_an_account_to_use_the_fleet_and_one_to_administer_it_which_no_pod_runs_as() {
    let objects = with(Transport::Strict, Proof::Token);
    let group = json!(["robeing.io"]);
    let rule = |resources: Value, verbs: Value| json!({"apiGroups": group, "resources": resources, "verbs": verbs, "resourceNames": ["full"]});
    let using = [
        rule(json!(["robeingclusters/tasks"]), json!(["get", "create"])),
        rule(json!(["robeingclusters/messages", "robeingclusters/votes"]), json!(["create"])),
    ];
    let administering = [&using[..], &[rule(json!(["robeingclusters/admin"]), json!(["update"]))]].concat();
    for (name, rules) in [("full.user", &using[..]), ("full.admin", &administering)] {
        assert_eq!(object(&objects, "Role", name).object.data["rules"], json!(rules), "{name}");
        let binding = &object(&objects, "RoleBinding", name).object.data;
        assert_eq!((&binding["roleRef"]["name"], &binding["subjects"][0]["name"]), (&name.into(), &name.into()));
        let account = object(&objects, "ServiceAccount", name);
        assert_eq!(account.object.data["automountServiceAccountToken"], false);
        let owner = account.object.metadata.owner_references.clone().unwrap_or_default();
        assert_eq!(owner.first().map(|owner| owner.kind.as_str()), Some("RobeingCluster"), "it goes with the fleet");
        for (workload, template) in templates(&objects) {
            assert_ne!(template["spec"]["serviceAccountName"], name, "{workload}");
        }
    }
}

#[test]
fn the_agents_of_a_pool_never_get_the_rights_of_people() {
    // A fleet named full-b may be in the same namespace.
    for (pool, people) in [("admin", names::administrator("full")), ("b-user", names::user("full-b"))] {
        let mut cluster = cluster(FULL);
        cluster.spec.pools[0].name = pool.into();
        let objects = objects(&fleet(&cluster));
        let named = |name: &str| {
            let named = objects.iter().filter(|desired| desired.name() == name);
            named.map(|desired| desired.kind.kind.clone()).collect::<Vec<_>>()
        };
        assert_eq!(named(&format!("full-{pool}")), ["ServiceAccount", "Deployment"], "they are the pool's");
        assert_ne!(format!("full-{pool}"), people);
        assert_eq!(named("full.admin"), ["ServiceAccount", "Role", "RoleBinding"]);
        assert_eq!(named("full.user"), ["ServiceAccount", "Role", "RoleBinding"]);
    }
}
