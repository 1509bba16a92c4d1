//! The rights that the charts grant.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::charts::{all_settings, arguments, of_kind, operator, read, words};

/// Returns the rules of all roles, with the names of the roles.
fn rules(objects: &[Value]) -> Vec<(String, Value)> {
    let roles = objects.iter().filter(|object| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")));
    let of = |role: &Value| {
        let name = role["metadata"]["name"].as_str().expect("a role has a name").to_owned();
        let rules = role["rules"].as_array().expect("a role has rules").clone();
        rules.into_iter().map(move |rule| (name.clone(), rule))
    };
    roles.flat_map(of).collect()
}

#[test]
fn no_right_is_a_wildcard_and_none_reaches_further_than_its_purpose() {
    let forbidden = ["*", "clusterroles", "clusterrolebindings", "nodes", "pods/exec"];
    // What only these exact rules may reach.
    let bounded = [
        ("secrets", serde_json::json!(["get", "create", "patch", "delete"])),
        ("roles", serde_json::json!(["get", "list", "watch", "create", "patch", "delete"])),
        ("rolebindings", serde_json::json!(["get", "list", "watch", "create", "patch", "delete"])),
        ("localsubjectaccessreviews", serde_json::json!(["create"])),
    ];
    for settings in all_settings() {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        for (role, rule) in rules(&operator(&settings)) {
            for list in ["apiGroups", "resources", "verbs"] {
                let words = words(&rule[list]);
                assert!(!words.is_empty(), "{role}: {rule}");
                assert!(words.iter().all(|word| !word.contains('*') && !forbidden.contains(word)), "{role}: {rule}");
            }
            let (resources, verbs) = (words(&rule["resources"]), words(&rule["verbs"]));
            assert!(!verbs.iter().any(|verb| ["bind", "escalate", "impersonate"].contains(verb)), "{role}: {rule}");
            for (resource, expected) in bounded.iter().filter(|(resource, _)| resources.contains(resource)) {
                assert_eq!(&rule["verbs"], expected, "{role}: {resource}");
            }
        }
    }
}

#[test]
fn the_operator_holds_the_rights_that_it_grants_and_of_those_no_more() {
    for settings in [&["--set", "rbac.userRoles=false"][..], &["--set", "watchNamespaces={a}"]] {
        let operators = rules(&operator(settings));
        for (resource, verbs) in [
            ("localsubjectaccessreviews", &["create"][..]),
            ("robeingclusters/tasks", &["get", "create"]),
            ("robeingclusters/messages", &["create"]),
            ("robeingclusters/votes", &["create"]),
            ("robeingclusters/admin", &["update"]),
        ] {
            let rules = operators.iter().filter(|(_, rule)| words(&rule["resources"]).contains(&resource));
            let held: Vec<&str> = rules.flat_map(|(_, rule)| words(&rule["verbs"])).collect();
            assert_eq!(held, verbs, "the API server would refuse the Roles of fleets: {resource}, {settings:?}");
        }
    }
}

#[test]
fn the_issuers_keys_are_readable_with_no_right_but_that() {
    let bindings = |settings: &[&str]| {
        let objects = operator(settings);
        let names =
            of_kind(&objects, "ClusterRoleBinding").into_iter().map(|binding| binding["roleRef"]["name"].clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(bindings(&[])[1], "system:service-account-issuer-discovery");
    assert!(bindings(&["--set", "watchNamespaces={a}"]).is_empty());
}

#[test]
fn the_operator_writes_no_spec_and_one_lease() {
    for (role, rule) in rules(&operator(&["--set", "rbac.userRoles=false"])) {
        let (resources, verbs) = (words(&rule["resources"]), words(&rule["verbs"]));
        if resources.contains(&"robeingclusters") {
            assert_eq!(verbs, ["get", "list", "watch"], "{role}");
        }
        if resources.contains(&"leases") {
            assert_eq!(role, "robeing-operator-lease");
            let named = words(&rule["resourceNames"]) == ["robeing-operator"];
            assert!(named || verbs == ["create"], "{rule}");
        }
    }
}

#[test]
fn with_namespaces_named_nothing_is_cluster_wide() {
    let objects = operator(&["--set", "watchNamespaces={a,b}"]);
    let kinds: BTreeSet<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert!(!kinds.iter().any(|kind| kind.starts_with("Cluster")), "{kinds:?}");
    let namespace = |object: &Value| object["metadata"]["namespace"].as_str().unwrap_or("none at all").to_owned();
    for object in &objects {
        assert_ne!(namespace(object), "none at all", "{object}");
    }
    for kind in ["Role", "RoleBinding"] {
        let places: Vec<String> = of_kind(&objects, kind).into_iter().map(namespace).collect();
        assert_eq!(places, ["a", "b", "robeing-system"], "{kind}");
    }
    // The rights in these namespaces are the same as those of the ClusterRole.
    let rules_of = |objects: &[Value], role: &str| -> Vec<Value> {
        rules(objects).into_iter().filter(|(name, _)| name == role).map(|(_, rule)| rule).collect()
    };
    let everywhere = rules_of(&operator(&[]), "robeing-system-robeing-operator");
    assert_eq!(rules_of(&objects, "robeing-operator"), [&everywhere[..], &everywhere[..]].concat());
    assert!(arguments(&objects).contains(&"--watch-namespaces=a,b".to_owned()));
}

#[test]
fn the_reason_stands_above_every_rule() {
    for template in ["_rules.tpl", "rbac.yaml", "user-roles.yaml"] {
        let text = read(&format!("charts/robeing/templates/{template}"));
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let rules: Vec<usize> = (0..lines.len()).filter(|line| lines[*line].starts_with("- apiGroups:")).collect();
        assert!(!rules.is_empty(), "{template} has rules");
        for line in rules {
            assert!(lines[line - 1].starts_with("# "), "{template}:{}: {}", line + 1, lines[line]);
        }
    }
}
