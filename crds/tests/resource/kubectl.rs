//! Manifests that kubectl accepts are accepted here, with the same meaning.
use robeing_crds::{RobeingCluster, find_cluster, parse_manifest};

fn spec(spec: &str) -> String {
    format!("apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {{name: c}}\nspec: {spec}\n")
}

fn pod(template: &str) -> RobeingCluster {
    let pool = format!("{{pools: [{{name: p, executor: {{echo: {{}}}}, template: {template}}}]}}");
    parse_manifest(&spec(&pool)).unwrap_or_else(|error| panic!("{template}: {error}"))
}

#[test]
fn numbers_mean_what_they_mean_to_kubectl() {
    for (mode, means) in [("0400", 256), ("0o400", 256), ("0644", 420), ("256", 256), ("0x100", 256), ("2.56e2", 256)] {
        let cluster = pod(&format!("{{volumes: [{{name: v, secret: {{secretName: s, defaultMode: {mode}}}}}]}}"));
        let template = cluster.spec.pools[0].template.clone().expect("it has one");
        let found = template.volumes[0].secret.as_ref().and_then(|secret| secret.default_mode);
        assert_eq!(found, Some(means), "{mode}");
    }
    for (user, means) in
        [("1.00066e+09", 1_000_660_000), ("1000660000", 1_000_660_000), ("65532.0", 65_532), ("1_000", 1_000), ("0", 0)]
    {
        let cluster = pod(&format!("{{securityContext: {{runAsUser: {user}}}}}"));
        let template = cluster.spec.pools[0].template.clone().expect("it has one");
        assert_eq!(template.security_context.and_then(|context| context.run_as_user), Some(means), "{user}");
    }
    let cluster = parse_manifest(&spec("{coordinators: {replicas: 3.0}, suspend: yes}"));
    let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((cluster.spec.coordinators.replicas, cluster.spec.suspend), (3, true));
}

#[test]
fn what_is_no_whole_number_is_refused_as_before() {
    for (number, shown) in [("3.5", "3.5"), ("1e300", "1e+300"), ("\"3\"", "the text \"3\"; remove the quotes")] {
        let error = parse_manifest(&spec(&format!("{{coordinators: {{replicas: {number}}}}}"))).expect_err(number);
        assert_eq!(error.problems()[0].path, "spec.coordinators.replicas");
        assert!(error.to_string().contains(&format!("This must be a whole number, but is {shown}")), "{error}");
    }
}

/// As `kubectl get rbc -o yaml --show-managed-fields` writes it.
const LIST: &str = r#"apiVersion: v1
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: other}
- apiVersion: robeing.io/v1alpha1
  kind: RobeingCluster
  metadata:
    creationTimestamp: "2026-11-23T10:00:00Z"
    generation: 2
    managedFields:
    - apiVersion: robeing.io/v1alpha1
      fieldsType: FieldsV1
      fieldsV1:
        f:spec:
          .: {}
          f:pools:
            k:{"name":"data"}: {.: {}, f:executor: {}}
      manager: kubectl-client-side-apply
      operation: Update
      time: "2026-11-23T10:00:00Z"
    name: first
    namespace: default
    resourceVersion: "7"
    uid: 11111111-2222-3333-4444-555555555555
  spec:
    pools:
    - name: data
      executor: {echo: {}}
      slots: 4
  status: {phase: Ready, anything: 1}
kind: List
metadata: {resourceVersion: ""}
"#;

#[test]
fn a_list_is_what_is_in_it() {
    let manifest = find_cluster(LIST).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(manifest.cluster.metadata.name.as_deref(), Some("first"));
    assert_eq!(manifest.cluster.spec.pools[0].slots, 4);
    assert_eq!(manifest.ignored.len(), 1);
    let of_clusters = LIST.replace("kind: List", "kind: RobeingClusterList");
    assert_eq!(find_cluster(&of_clusters).unwrap_or_else(|error| panic!("{error}")).cluster, manifest.cluster);
    let wrong = LIST.replace("slots: 4", "slots: 0");
    let error = find_cluster(&wrong).expect_err("no slots");
    let problem = &error.problems()[0];
    let line = wrong.lines().position(|line| line.contains("slots: 0")).expect("it is there") as u64 + 1;
    assert_eq!((&*problem.path, problem.place.map(|place| place.line)), ("spec.pools[0].slots", Some(line)));
    let empty = "apiVersion: v1\nkind: List\nitems: []\n";
    assert!(find_cluster(empty).expect_err("nothing").to_string().contains("is empty"));
}

#[test]
fn json_and_a_byte_order_mark_are_read() {
    let json = "\u{feff}{\r\n\t\"apiVersion\": \"robeing.io/v1alpha1\",\r\n\t\"kind\": \"RobeingCluster\",\r\n\t\"metadata\": \
                {\"name\": \"c\", \"creationTimestamp\": null},\r\n\t\"spec\": {\"suspend\": true}\r\n}\r\n";
    let cluster = parse_manifest(json).unwrap_or_else(|error| panic!("{error}"));
    assert!(cluster.spec.suspend);
    parse_manifest(&format!("\u{feff}{}", spec("{}"))).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_dash_may_be_a_word() {
    let argv = |list: &str| {
        let pool = format!("{{pools: [{{name: p, executor: {{command: {{argv: {list}}}}}}}]}}");
        let cluster = parse_manifest(&spec(&pool)).unwrap_or_else(|error| panic!("{list}: {error}"));
        serde_json::to_value(&cluster.spec.pools[0].executor).expect("JSON")["command"]["argv"].clone()
    };
    assert_eq!(argv("[cat, -]"), serde_json::json!(["cat", "-"]));
    assert_eq!(argv("[tar, -tf, -, -v]"), serde_json::json!(["tar", "-tf", "-", "-v"]));
    assert_eq!(argv("[é, -, '-', \"-\", -,\n  -]"), serde_json::json!(["é", "-", "-", "-", "-", "-"]));
    let misspelled = spec("{pools: [{name: p, executor: {command: {argv: [tar, -, -], tiemout: 1s}}}]}");
    let refused = parse_manifest(&misspelled).expect_err("it is misspelled").to_string();
    let column = misspelled.lines().last().and_then(|line| line.find("tiemout")).expect("it is there") + 1;
    assert!(refused.contains(&format!("(line 4, column {column})")), "{refused}");
    let many = format!("[{}]", vec!["-"; 200].join(", "));
    let pool = format!("{{pools: [{{name: p, executor: {{command: {{argv: {many}}}}}}}]}}");
    assert!(parse_manifest(&spec(&pool)).expect_err("too many").to_string().contains("plain scalar"));
}

#[test]
fn what_may_be_a_secret_is_not_repeated() {
    for (executor, said) in [
        ("\"http://user:4711@h/\"", "This must be a map of fields, but is text."),
        ("{http: \"http://user:4711@h/\"}", "This must be a map of fields, but is text."),
        ("{http: {url: \"http://h/\", headers: [\"X-Key: 4711\"]}}", "This must be a map of fields, but is text."),
        ("{http: {url: \"http://h/\", headers: [{name: X-Key, value: 4711}]}}", "This must be text, but is a number;"),
    ] {
        let pool = format!("{{pools: [{{name: p, executor: {executor}}}]}}");
        let refused = parse_manifest(&spec(&pool)).expect_err("it is wrong").to_string();
        assert!(refused.contains(said) && !refused.contains("4711"), "{refused}");
    }
}
