//! What agents need for messages: who may reach them, and where they remember which messages they have handled.

use robeing_operator::controller::validate::Transport;
use robeing_settings::settings::MAX_AGENT_DATA;

use super::*;

const JOURNAL: &str = "robeing-journal";
const DIRECTORY: &str = "/var/lib/robeing";

/// Returns the containers of a pod template that mount the journal.
fn mounting(template: &Value) -> Vec<Value> {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| template["spec"][list].as_array());
    let mounts = |container: &Value| container["volumeMounts"].as_array().cloned().unwrap_or_default();
    lists.flatten().filter(|one| mounts(one).iter().any(|mount| mount["name"] == JOURNAL)).cloned().collect()
}

#[test]
fn every_agent_has_a_journal_that_outlives_its_container() {
    let objects = objects(&fleet(&cluster(FULL)));
    let pools: Vec<_> = objects.iter().filter(|desired| desired.kind.kind == "Deployment").collect();
    assert_eq!(pools.len(), 5);
    for pool in pools {
        let (name, template) = (pool.name(), template(pool));
        let volumes = template["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        let volume =
            volumes.iter().find(|volume| volume["name"] == JOURNAL).unwrap_or_else(|| panic!("none in {name}"));
        let limit = volume["emptyDir"]["sizeLimit"].as_str().and_then(|size| size.strip_suffix("Mi"));
        let limit = limit.and_then(|size| size.parse::<u64>().ok()).map(|size| size << 20);
        assert_eq!(limit, Some(MAX_AGENT_DATA), "an agent that fills its journal is not evicted: {name}");
        let [agent] = &mounting(&template)[..] else { panic!("one container of {name} has it") };
        assert_eq!(agent["name"], "agent", "{name}: what runs beside it does not get it");
        let mounts = agent["volumeMounts"].as_array().cloned().unwrap_or_default();
        let mount = mounts.iter().find(|mount| mount["name"] == JOURNAL).expect("it is mounted");
        assert_eq!((&mount["mountPath"], &mount["readOnly"]), (&DIRECTORY.into(), &Value::Null), "{name}");
        assert_eq!(variable(pool, "ROBEING_DATA").as_deref(), Some(DIRECTORY), "{name}");
    }
    let coordinators = template(object(&objects, "StatefulSet", "full-coordinators"));
    assert_eq!(mounting(&coordinators), Vec::<Value>::new());
}

#[test]
fn a_user_cannot_move_the_journal_to_where_it_is_lost() {
    let mut cluster = cluster(FULL);
    let given = serde_json::json!([{"name": "ROBEING_DATA", "value": "/tmp"}]);
    let template = cluster.spec.pools[0].template.as_mut().expect("a template");
    template.env = serde_json::from_value(given.clone()).expect("variables");
    cluster.spec.pools[0].container.as_mut().expect("a container").env = serde_json::from_value(given).expect("ones");
    let built = objects(&fleet(&cluster));
    assert_eq!(variable(object(&built, "Deployment", "full-data"), "ROBEING_DATA").as_deref(), Some(DIRECTORY));

    let volumes = serde_json::json!([{"name": JOURNAL, "emptyDir": {}}]);
    cluster.spec.pools[0].template.as_mut().expect("a template").volumes =
        serde_json::from_value(volumes).expect("volumes");
    let refused = fleet(&cluster).refused;
    let refused = refused.iter().find(|refused| refused.name == "data").expect("the name is taken");
    assert_eq!(refused.reason, "VolumeNameTaken");
}

#[test]
fn a_fleet_that_has_yet_to_move_to_tls_is_not_restarted_for_a_journal() {
    let identity = FleetIdentity { transport: Transport::Plaintext, ..FleetIdentity::default() };
    let kept = Kept { identity, ..Kept::default() };
    let plain = validate(&cluster(FULL), &operator_context(), &kept).expect("valid");
    for desired in objects(&plain).iter().filter(|desired| desired.kind.kind == "Deployment") {
        let template = template(desired).to_string();
        assert!(!template.contains(JOURNAL) && !template.contains("ROBEING_DATA"), "{template}");
    }
}

#[test]
fn what_a_pool_does_with_messages_is_given_to_its_agents_as_it_was_written() {
    let objects = objects(&fleet(&cluster(FULL)));
    let given = |pool: &str| variable(object(&objects, "Deployment", pool), "ROBEING_MESSAGES");
    assert_eq!(
        given("full-web").as_deref().map(expanded).as_deref(),
        Some(r#"{"http":{"url":"http://127.0.0.1:9000/messages?cost=$5"}}"#)
    );
    assert_eq!(given("full-own").as_deref(), Some(r#"{"worker":{}}"#));
    assert_eq!(given("full-data"), None, "what is not set is left to the agents");
}

/// Returns the labels that a policy's peers must have, for each port.
fn reached_by(policy: &Value) -> Vec<(String, Vec<Value>)> {
    let rules = policy["spec"]["ingress"].as_array().cloned().unwrap_or_default();
    let port = |rule: &Value| match &rule["ports"][0]["port"] {
        Value::String(name) => name.clone(),
        number => number.to_string(),
    };
    rules.iter().map(|rule| (port(rule), rule["from"].as_array().cloned().unwrap_or_default())).collect()
}

#[test]
fn agents_are_reached_by_their_own_fleet_alone() {
    let objects = objects(&fleet(&cluster(FULL)));
    let policies: Vec<_> = objects.iter().filter(|desired| desired.kind.kind == "NetworkPolicy").collect();
    assert_eq!(policies.iter().map(|policy| policy.name()).collect::<Vec<_>>(), ["full-coordinators", "full-agents"]);
    let policy = &object(&objects, "NetworkPolicy", "full-agents").object.data;
    let [(grpc, from), (metrics, everyone), (gateway, near)] = &reached_by(policy)[..] else {
        panic!("three ports: {policy}")
    };
    assert_eq!((grpc.as_str(), metrics.as_str(), everyone.len()), ("robeing-grpc", "robeing-metrics", 0));
    // Clients of the gateway are pods of the fleet's namespace.
    assert_eq!((gateway.as_str(), &near[..]), ("robeing-gateway", &[serde_json::json!({"podSelector": {}})][..]));
    let fleet_of = |peer: &Value| {
        assert!(peer["namespaceSelector"].is_null() && peer["ipBlock"].is_null(), "of its own namespace: {peer}");
        let labels = &peer["podSelector"]["matchLabels"];
        assert_eq!(labels["app.kubernetes.io/name"], "robeing");
        (labels["app.kubernetes.io/instance"].clone(), labels["app.kubernetes.io/component"].clone())
    };
    let peers: Vec<_> = from.iter().map(fleet_of).collect();
    assert_eq!(peers, [("full".into(), "coordinator".into()), ("full".into(), "agent".into())]);
    assert_eq!(policy["spec"]["policyTypes"], serde_json::json!(["Ingress"]));

    // Every agent is selected, and has a port of that name.
    let selected = policy["spec"]["podSelector"]["matchLabels"].as_object().cloned().expect("labels");
    for pool in objects.iter().filter(|desired| desired.kind.kind == "Deployment") {
        let template = template(pool);
        let labels = &template["metadata"]["labels"];
        assert!(selected.iter().all(|(key, value)| labels[key] == *value), "{labels}");
        let ports = template["spec"]["containers"][0]["ports"].as_array().cloned().unwrap_or_default();
        assert!(ports.iter().any(|port| port["name"] == "robeing-grpc"), "{}: {ports:?}", pool.name());
    }
}
