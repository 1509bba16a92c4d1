//! What users provide: ports, images, templates, accounts, privileges.

use super::*;

/// Returns [`FULL`] with a change to the pool that has a container of its own beside the agent.
fn web(change: impl FnOnce(&mut robeing_crds::Pool)) -> RobeingCluster {
    let mut cluster = cluster(FULL);
    change(cluster.spec.pools.iter_mut().find(|pool| pool.name == "web").expect("a pool"));
    cluster
}

fn listing(ports: Value) -> RobeingCluster {
    web(|pool| {
        let container = pool.container.as_mut().expect("a container");
        container.ports = serde_json::from_value(ports).expect("ports");
    })
}

#[test]
fn ports_that_everybody_uses_are_a_users_own() {
    let usual = serde_json::json!([
        {"containerPort": 8080, "name": "grpc"}, {"containerPort": 9090, "name": "metrics"}, {"containerPort": 8081},
        {"containerPort": 8080, "name": "again"}, {"containerPort": 17080, "protocol": "UDP"},
    ]);
    let mut cluster = listing(usual.clone());
    // In this pool the agent runs in the same container.
    cluster.spec.pools[0].container.as_mut().expect("a container").ports =
        serde_json::from_value(usual).expect("ports");
    let fleet = fleet(&cluster);
    assert_eq!(fleet.pools.len(), 5, "{:?}", fleet.refused);
    for name in ["full-web", "full-data"] {
        let spec = template(object(&objects(&fleet), "Deployment", name))["spec"].take();
        for container in ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array()).flatten()
        {
            let mut keys: Vec<_> = container["ports"].as_array().into_iter().flatten().collect();
            keys.sort_by_key(|port| (port["containerPort"].as_u64(), port["protocol"].to_string()));
            let before = keys.len();
            keys.dedup_by_key(|port| {
                (port["containerPort"].as_u64(), port["protocol"].as_str().unwrap_or("TCP").to_owned())
            });
            assert_eq!(keys.len(), before, "the API server refuses a port that is there twice: {container}");
        }
    }
}

#[test]
fn a_pod_that_needs_a_port_of_its_node_makes_room_for_the_next() {
    let surge = |port: Value| {
        let objects = objects(&fleet(&listing(serde_json::json!([port]))));
        let strategy =
            object(&objects, "Deployment", "full-web").object.data["spec"]["strategy"]["rollingUpdate"].clone();
        (strategy["maxSurge"].as_u64(), strategy["maxUnavailable"].as_u64())
    };
    assert_eq!(surge(serde_json::json!({"containerPort": 80})), (Some(1), Some(0)));
    assert_eq!(surge(serde_json::json!({"containerPort": 80, "hostPort": 8080})), (Some(0), Some(1)));
}

#[test]
fn a_port_that_both_would_take_is_refused_with_what_to_do() {
    let url = |url: &str| {
        web(|pool| pool.executor = serde_json::from_value(serde_json::json!({"http": {"url": url}})).expect("one"))
    };
    let messages = |url: &str| {
        web(|pool| pool.messages = serde_json::from_value(serde_json::json!({"http": {"url": url}})).expect("one"))
    };
    let attach = |address: &str| {
        let mut cluster = cluster(FULL);
        let moved = cluster.spec.pools.iter_mut().find(|pool| pool.name == "moved").expect("a pool");
        let env = moved.container.as_mut().and_then(|container| container.env.as_mut()).expect("an environment");
        env[0].value = Some(address.to_owned());
        cluster
    };
    for (cluster, pool, help) in [
        (listing(serde_json::json!([{"containerPort": 17080}])), "web", "set agentPorts.grpc"),
        (listing(serde_json::json!([{"containerPort": 17090, "protocol": "TCP"}])), "web", "set agentPorts.metrics"),
        (listing(serde_json::json!([{"containerPort": 1, "name": "robeing-grpc"}])), "web", "rename it"),
        (url("http://127.0.0.1:17080/run"), "web", "set agentPorts.grpc"),
        (url("http://localhost:17090"), "web", "set agentPorts.metrics"),
        (url("http://[::1]:17080/"), "web", "set agentPorts.grpc"),
        (messages("http://127.0.0.1:17080/messages"), "web", "messages.http.url names port 17080"),
        (messages("http://localhost:17090"), "web", "set agentPorts.metrics"),
        (attach("127.0.0.1:17080"), "moved", "set agentPorts.grpc"),
    ] {
        let fleet = fleet(&cluster);
        let refused = fleet.refused.iter().find(|refused| refused.name == pool).expect("it is refused");
        assert_eq!(refused.reason, "PortTaken");
        assert!(refused.message.contains(help), "{}", refused.message);
    }
    // The schema accepts it, but the agent would not start with it.
    let fleet_of_unfit = fleet(&url("http://a\\b"));
    let refused = fleet_of_unfit.refused.iter().find(|refused| refused.name == "web").expect("it is refused");
    assert_eq!(refused.reason, "InvalidPool");
    assert!(refused.message.contains("executor.http.url: This URL can't be called: it has"), "{}", refused.message);
    let fleet_of_unfit = fleet(&messages("http://a\\b"));
    let refused = fleet_of_unfit.refused.iter().find(|refused| refused.name == "web").expect("it is refused");
    assert!(refused.message.contains("messages.http.url: This URL can't be called: it has"), "{}", refused.message);
    let elsewhere = messages("http://example.com:17080/run");
    for taken in
        [url("http://example.com:17080/run"), elsewhere, listing(serde_json::json!([{"containerPort": 17081}]))]
    {
        assert_eq!(fleet(&taken).refused.len(), 1, "nothing of its own pod is there");
    }
    let mut moved = listing(serde_json::json!([{"containerPort": 17080}]));
    moved.spec.pools[1].agent_ports = serde_json::from_value(serde_json::json!({"grpc": 7000})).expect("ports");
    let fleet = fleet(&moved);
    assert_eq!(fleet.refused.len(), 1, "{:?}", fleet.refused);
    let objects = objects(&fleet);
    let web = object(&objects, "Deployment", "full-web");
    assert_eq!(variable(web, "ROBEING_LISTEN").as_deref(), Some("0.0.0.0:7000"));
}

#[test]
fn every_image_has_a_pull_policy_that_changes_with_its_tag() {
    let policies = |cluster: &RobeingCluster| {
        let mut found = std::collections::BTreeMap::new();
        for desired in objects(&fleet(cluster)) {
            let spec = desired.object.data.pointer("/spec/template/spec").cloned().unwrap_or_default();
            let lists = ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array());
            for container in lists.flatten() {
                let name = format!("{}/{}", desired.name(), container["name"].as_str().unwrap_or_default());
                found.insert(name, container["imagePullPolicy"].as_str().unwrap_or("none").to_owned());
            }
        }
        found
    };
    let mut cluster = cluster(FULL);
    cluster.spec.image_pull_policy = None;
    for (image, expected) in [("robeing:latest", "Always"), ("robeing:1", "IfNotPresent")] {
        cluster.spec.image = Some(image.into());
        let found = policies(&cluster);
        assert_eq!(found["full-coordinators/coordinator"], expected);
        assert_eq!(found["full-data/install-agent"], expected);
        assert_eq!(found["full-web/agent"], expected);
        assert_eq!(found["full-web/executor"], "IfNotPresent", "of example/server:3");
        assert!(found.values().all(|policy| policy != "none"), "{found:?}");
    }
    cluster.spec.image_pull_policy = Some(robeing_crds::ImagePullPolicy::Never);
    let found = policies(&cluster);
    assert_eq!((found["full-far/agent"].as_str(), found["full-data/agent"].as_str()), ("Never", "IfNotPresent"));
}

#[test]
fn what_a_choice_leaves_behind_is_the_operators_own() {
    let cluster = web(|pool| {
        let container = pool.container.as_mut().expect("a container");
        let probe = serde_json::json!({"httpGet": {"path": "/", "port": 9000}});
        container.readiness_probe = serde_json::from_value(probe).expect("a probe");
        let template = pool.template.as_mut().expect("a template");
        template.env = serde_json::from_value(serde_json::json!([
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ]))
        .expect("variables");
        template.volumes = serde_json::from_value(serde_json::json!([
            {"name": "a", "configMap": {"name": "a"}}, {"name": "b", "secret": {"secretName": "b"}},
            {"name": "c", "hostPath": {"path": "/c"}}, {"name": "e", "image": {"reference": "example/model"}},
            {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        ]))
        .expect("volumes");
    });
    let objects = objects(&fleet(&cluster));
    let spec = template(object(&objects, "Deployment", "full-web"))["spec"].take();
    let beside = &spec["initContainers"][0];
    assert_eq!(beside["readinessProbe"]["httpGet"]["scheme"], "HTTP");
    let env = beside["env"].as_array().expect("an environment");
    assert!(env.iter().any(|variable| variable["valueFrom"]["fieldRef"]["apiVersion"] == "v1"), "{env:?}");
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let own = [&Value::from("robeing-identity"), &Value::from("robeing-journal")];
    let volumes: Vec<&Value> = volumes.filter(|volume| !own.contains(&&volume["name"])).collect();
    assert_eq!(
        (&volumes[0]["configMap"]["defaultMode"], &volumes[1]["secret"]["defaultMode"]),
        (&420.into(), &420.into())
    );
    assert_eq!(volumes[2]["hostPath"]["type"], "");
    assert_eq!(volumes[3]["image"]["pullPolicy"], "Always", "while it has the tag that it has");
    assert_eq!(volumes[4]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3600);
}

#[test]
fn coordinators_have_what_their_template_says() {
    let mut fleet = cluster(FULL);
    let said = serde_json::json!({
        "labels": {"team": "core", "app.kubernetes.io/component": "not-mine"}, "annotations": {"a": "b"},
        "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}}, "priorityClassName": "high", "runtimeClassName": "gvisor",
        "imagePullSecrets": [{"name": "mine"}], "securityContext": {"runAsUser": 1000}, "serviceAccountName": "own",
        "terminationGracePeriodSeconds": 60, "env": [{"name": "RUST_LOG", "value": "debug"}, {"name": "ROBEING_DATA", "value": "/"}],
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
    });
    fleet.spec.coordinators.template = serde_json::from_value(said).expect("a template");
    let objects = objects(&self::fleet(&fleet));
    let set = object(&objects, "StatefulSet", "full-coordinators");
    let template = template(set);
    let (metadata, spec) = (&template["metadata"], &template["spec"]);
    assert_eq!((&metadata["labels"]["team"], &metadata["annotations"]["a"]), (&"core".into(), &"b".into()));
    assert_eq!(metadata["labels"]["app.kubernetes.io/component"], "coordinator", "the selecting labels stay");
    assert_eq!((&spec["nodeSelector"]["disk"], &spec["tolerations"][0]["key"]), (&"ssd".into(), &"dedicated".into()));
    assert_eq!((&spec["priorityClassName"], &spec["runtimeClassName"]), (&"high".into(), &"gvisor".into()));
    assert_eq!(
        (&spec["securityContext"]["runAsUser"], &spec["securityContext"]["runAsNonRoot"]),
        (&1000.into(), &true.into())
    );
    assert_eq!((&spec["serviceAccountName"], &spec["terminationGracePeriodSeconds"]), (&"own".into(), &60.into()));
    assert_eq!(spec["topologySpreadConstraints"][0]["topologyKey"], "rack");
    let secrets: Vec<_> =
        spec["imagePullSecrets"].as_array().into_iter().flatten().map(|secret| &secret["name"]).collect();
    assert!(secrets.contains(&&Value::from("mine")), "{secrets:?}");
    assert_eq!(variable(set, "RUST_LOG").as_deref(), Some("debug"));
    assert_eq!(variable(set, "ROBEING_DATA").as_deref(), Some("/var/lib/robeing"), "the operator sets it");
    assert!(
        objects
            .iter()
            .all(|desired| (desired.kind.kind.as_str(), desired.name()) != ("ServiceAccount", "full-coordinators"))
    );

    let volumes = serde_json::json!({"volumes": [{"name": "data", "emptyDir": {}}]});
    fleet.spec.coordinators.template = serde_json::from_value(volumes).expect("a template");
    let refused = validate(&fleet, &operator_context(), &Kept::default()).expect_err("the name is taken");
    assert!(refused.to_string().contains("rename one"), "{refused}");
}

#[test]
fn the_statefulset_keeps_the_size_of_its_disks_and_a_scaled_pool_has_the_fleets() {
    let mut cluster = cluster(FULL);
    let kept = Kept {
        claim_size: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity("1Gi".into())),
        ..Kept::default()
    };
    let storage = cluster.spec.coordinators.storage.as_mut().expect("disks");
    storage.size.0 = "5Gi".into();
    let size = |kept: &Kept| {
        let objects = objects(&validate(&cluster, &operator_context(), kept).expect("valid"));
        let set = object(&objects, "StatefulSet", "full-coordinators");
        set.object.data["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"].clone()
    };
    assert_eq!((size(&kept), size(&Kept::default())), ("1Gi".into(), "5Gi".into()));
    (cluster.spec.scaled_pool, cluster.spec.replicas) = (Some("data".into()), Some(9));
    cluster.spec.pools[0].replicas = None;
    let objects = objects(&fleet(&cluster));
    let replicas = object(&objects, "Deployment", "full-data").object.data.pointer("/spec/replicas").cloned();
    assert_eq!(replicas, Some(10.into()), "and its standby");
}

/// Returns the pod specification in the template of the Deployment `name`.
fn pod_of(cluster: &RobeingCluster, name: &str) -> Value {
    let fleet = fleet(cluster);
    assert!(fleet.refused.iter().all(|refused| refused.name == "none"), "{:?}", fleet.refused);
    template(object(&objects(&fleet), "Deployment", name))["spec"].take()
}

fn with_security(security: Value) -> Value {
    let mut cluster = cluster(FULL);
    let container = cluster.spec.pools[0].container.as_mut().expect("a container");
    container.security_context = serde_json::from_value(security).expect("a security context");
    pod_of(&cluster, "full-data")["containers"][0]["securityContext"].take()
}

#[test]
fn a_container_that_asks_for_privileges_can_be_made() {
    for asked in [
        serde_json::json!({"privileged": true}),
        serde_json::json!({"capabilities": {"add": ["SYS_ADMIN"]}}),
        serde_json::json!({"capabilities": {"add": ["NET_ADMIN", "CAP_SYS_ADMIN"]}}),
    ] {
        assert!(
            with_security(asked.clone())["allowPrivilegeEscalation"].is_null(),
            "the API server refuses both: {asked}"
        );
    }
    for asked in [serde_json::json!({"privileged": false}), serde_json::json!({"capabilities": {"add": ["NET_ADMIN"]}})]
    {
        assert_eq!(with_security(asked)["allowPrivilegeEscalation"], false);
    }
}

#[test]
fn who_is_to_be_root_is_not_kept_from_it() {
    let of_pod = |security: Value| {
        let mut cluster = cluster(FULL);
        let template = cluster.spec.pools[0].template.as_mut().expect("a template");
        template.security_context = serde_json::from_value(security).expect("a security context");
        pod_of(&cluster, "full-data")["securityContext"]["runAsNonRoot"].clone()
    };
    assert_eq!(of_pod(serde_json::json!({"runAsUser": 0})), Value::Null);
    assert_eq!(of_pod(serde_json::json!({"runAsUser": 1})), true);
    assert_eq!(of_pod(serde_json::json!({"runAsUser": 0, "runAsNonRoot": true})), true, "as it was set");
    assert_eq!(with_security(serde_json::json!({"runAsUser": 0}))["runAsNonRoot"], false);
    assert_eq!(with_security(serde_json::json!({"runAsUser": 1}))["runAsNonRoot"], Value::Null);
}

fn refusal(cluster: &RobeingCluster, pool: &str) -> Option<(&'static str, String)> {
    let fleet = fleet(cluster);
    let refused = fleet.refused.iter().find(|refused| refused.name == pool)?;
    Some((refused.reason, refused.message.clone()))
}

#[test]
fn a_mount_where_the_agents_program_is_put_is_refused() {
    let mounting = |path: &str, image: &str| {
        let mut cluster = cluster(FULL);
        let container = cluster.spec.pools[0].container.as_mut().expect("a container");
        container.image = Some(image.into());
        container.volume_mounts.as_mut().expect("mounts")[0].mount_path = path.into();
        refusal(&cluster, "data")
    };
    for path in ["/var/lib/robeing", "/var/lib/robeing/"] {
        let refused = ["debian:12", "registry.example/robeing:1.2.3"].map(|image| mounting(path, image));
        assert!(refused.iter().flatten().all(|(reason, _)| *reason == "MountPathTaken"), "{refused:?}");
        assert!(refused.iter().all(Option::is_some), "the journal is there in any image: {refused:?}");
    }
    for path in ["/opt/robeing", "/opt/robeing/"] {
        let (reason, message) = mounting(path, "debian:12").expect("it is refused");
        assert_eq!(reason, "MountPathTaken");
        assert!(message.contains("\"scratch\"") && message.contains("somewhere else"), "{message}");
        assert_eq!(mounting(path, "registry.example/robeing:1.2.3"), None, "nothing is put into Robeing's own image");
    }
    assert_eq!(mounting("/opt/robeing-mine", "debian:12"), None);
}

#[test]
fn an_address_to_attach_to_is_one_of_the_pod_alone() {
    let attaching = |address: &str| {
        let mut cluster = cluster(FULL);
        let moved = cluster.spec.pools.iter_mut().find(|pool| pool.name == "moved").expect("a pool");
        let container = moved.container.as_mut().expect("a container");
        container.env.as_mut().expect("an environment")[0].value = Some(address.into());
        container.ports = serde_json::from_value(serde_json::json!([{"containerPort": 9001}])).expect("ports");
        refusal(&cluster, "moved")
    };
    for wrong in [
        "127.0.0.1:$(P)",
        "0.0.0.0:9000",
        "http://127.0.0.1:9000",
        "127.0.0.1",
        "example.com:9000",
        "[::1:9000",
        "localhost:0",
    ] {
        let (reason, message) = attaching(wrong).unwrap_or_else(|| panic!("{wrong} is taken"));
        assert_eq!(reason, "InvalidPool");
        assert!(message.contains(&format!("{wrong:?}")) && message.contains("agentPorts.attach"), "{message}");
    }
    for right in ["127.0.0.1:9000", "localhost:9000", "[::1]:9000", "127.0.0.1:17081"] {
        assert_eq!(attaching(right), None, "{right}");
    }
    let (reason, message) = attaching("127.0.0.1:9001").expect("the container listens there");
    assert_eq!(reason, "PortTaken");
    assert!(message.contains("port 9001") && message.contains("ROBEING_WORKER_ADDRESS"), "{message}");
}

#[test]
fn an_account_stays_while_any_template_names_it() {
    let accounts = |cluster: &RobeingCluster| {
        let objects = objects(&fleet(cluster));
        let accounts = objects.into_iter().filter(|desired| desired.kind.kind == "ServiceAccount");
        accounts
            .map(|account| (account.name().to_owned(), account.yields))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let naming = |own: &str, of_web: &str| {
        let mut cluster = cluster(FULL);
        for (pool, name) in [(0, own), (1, of_web)] {
            let template = cluster.spec.pools[pool].template.as_mut().expect("a template");
            template.service_account_name = Some(name.to_owned()).filter(|name| !name.is_empty());
        }
        cluster
    };
    let own = accounts(&naming("full-data", ""));
    assert_eq!(own.get("full-data"), Some(&true), "it is created, unless the user provides it: {own:?}");
    assert_eq!(own.get("full-web"), Some(&false));
    assert_eq!(accounts(&naming("brought", "full-data")).get("full-data"), Some(&true), "another pool names it");
    assert_eq!(accounts(&naming("brought", "")).get("full-data"), None, "no pool names it");
    let mut refused = naming("brought", "full-data");
    refused.spec.pools[1].container.as_mut().expect("a container").image = None;
    assert_eq!(accounts(&refused).get("full-data"), Some(&true), "what runs of a refused pool stays");
}

#[test]
fn every_container_that_the_operator_adds_says_what_it_takes() {
    for (pool, list, container) in [("full-data", "initContainers", 0), ("full-web", "containers", 0)] {
        let resources = pod_of(&cluster(FULL), pool)[list][container]["resources"].take();
        for kind in ["requests", "limits"] {
            for of in ["cpu", "memory"] {
                assert!(resources[kind][of].is_string(), "a quota of {kind}.{of} refuses {pool}: {resources}");
            }
        }
    }
}

#[test]
fn only_a_toleration_of_what_evicts_changes_how_long_agents_stay() {
    let tolerating = |toleration: Value| {
        let cluster = web(|pool| {
            let template = pool.template.as_mut().expect("a template");
            template.tolerations = serde_json::from_value(serde_json::json!([toleration])).expect("tolerations");
        });
        let tolerations = pod_of(&cluster, "full-web")["tolerations"].take();
        tolerations.as_array().into_iter().flatten().filter(|toleration| toleration["tolerationSeconds"] == 30).count()
    };
    assert_eq!(tolerating(serde_json::json!({"operator": "Exists", "effect": "NoSchedule"})), 2);
    assert_eq!(tolerating(serde_json::json!({"operator": "Exists"})), 0);
    assert_eq!(tolerating(serde_json::json!({"key": "", "operator": "Exists", "effect": "NoExecute"})), 0);
    assert_eq!(tolerating(serde_json::json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists"})), 1);
}

#[test]
fn a_command_that_an_echo_pool_would_not_run_is_refused() {
    let mut cluster = cluster(FULL);
    cluster.spec.pools[0].executor = robeing_crds::Executor::Echo {};
    assert_eq!(refusal(&cluster, "data"), None);
    cluster.spec.pools[0].container.as_mut().expect("a container").args = Some(vec!["--mine".into()]);
    let (reason, message) = refusal(&cluster, "data").expect("it is refused");
    assert_eq!(reason, "ContainerCommandIgnored");
    assert!(message.contains("echo executor"), "{message}");
}

#[test]
fn a_variable_comes_after_those_that_its_value_names() {
    let cluster = web(|pool| {
        let env = |text: Value| -> Vec<_> { serde_json::from_value(text).expect("variables") };
        let container = pool.container.as_mut().expect("a container");
        container.env = Some(env(serde_json::json!([{"name": "URL", "value": "x"}, {"name": "PORT", "value": "1"}])));
        let template = pool.template.as_mut().expect("a template");
        template.env = env(serde_json::json!([
            {"name": "HOST", "value": "a"}, {"name": "URL", "value": "http://$(HOST)"}, {"name": "PORT", "value": "2"},
        ]));
    });
    let env = pod_of(&cluster, "full-web")["initContainers"][0]["env"].take();
    let names: Vec<_> = env.as_array().into_iter().flatten().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["PORT", "HOST", "URL"], "what is only changed stays where others find it");
    assert_eq!((&env[0]["value"], &env[2]["value"]), (&"2".into(), &"http://$(HOST)".into()));
}
