//! Manifests that are accepted: the defaults, the example, the round trip, and several documents in one text.

use std::{fs, path::Path, time};

use robeing_crds::{
    Executor, ManifestError, RobeingCluster, Role, check_update, find_cluster, limits, parse_manifest, parse_manifests,
};

const SMALLEST: &str = "
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: small}
spec: {}
";

fn example() -> RobeingCluster {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/robeingcluster.yaml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    parse_manifest(&text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn defaults_fill_what_a_manifest_leaves_out() {
    insta::assert_yaml_snapshot!(parse_manifest(SMALLEST).expect("a small manifest"));
}

#[test]
fn defaults_fill_the_rest_of_what_is_written_in_part() {
    let text = "
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: partial, namespace: fleets, labels: {team: a}}
spec:
  coordinators: {storage: {size: 1Gi}}
  pools: [{name: a, executor: {echo: {}}, container: {image: busybox}, replicas: null}]
  scheduling: {weights: {load: -5}}
  consensus: {deadline: 1m}
  recovery: {heartbeatInterval: 250ms}
";
    insta::assert_yaml_snapshot!(parse_manifest(text).expect("a partial manifest"));
}

#[test]
fn the_example_is_a_fleet_with_takeover() {
    let spec = example().spec;
    assert_eq!(spec.coordinators.replicas, 3);
    let names: Vec<_> = spec.pools.iter().map(|pool| (pool.name.as_str(), pool.role)).collect();
    assert_eq!(names, [("data", Role::Worker), ("text", Role::Specialist)]);
    assert_eq!((spec.pools[0].replicas, spec.pools[0].standby, spec.pools[0].slots), (Some(3), 1, 4));
    assert!(matches!(spec.pools[0].executor, Executor::Command(_)));
    assert_eq!(time::Duration::from(spec.recovery.session_timeout), time::Duration::from_secs(2));
}

#[test]
fn the_examples_commands_compute_what_they_promise() {
    use std::{io::Write, process};
    for (pool, expected) in [(0, "2 3 6\n"), (1, "A B\nC\n")] {
        let Executor::Command(command) = example().spec.pools.remove(pool).executor else {
            panic!("pool {pool} of the example runs a command")
        };
        let mut child = process::Command::new(&command.argv[0])
            .args(&command.argv[1..])
            .stdin(process::Stdio::piped())
            .stdout(process::Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{:?}: {error}", command.argv));
        child.stdin.take().expect("piped").write_all(b"a b\nc\n").expect("the command reads its input");
        let output = child.wait_with_output().expect("the command ends");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}

#[test]
fn what_was_read_is_written_and_read_again_unchanged() {
    let text = r#"
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: full}
spec:
  image: registry.example:5000/robeing:1.0
  coordinators: {replicas: 5, storage: {size: 1.5Gi, storageClassName: fast}, resources: {limits: {cpu: 2}}}
  pools:
  - {name: c, executor: {command: {argv: [/bin/cat]}}, container: {image: x, env: [{name: A, value: b}]}}
  - {name: h, role: Messenger, executor: {http: {url: "http://127.0.0.1:9000/run"}}, messages: {http: {url: "http://127.0.0.1:9000/messages"}}, resources: {requests: {memory: 1Gi}}}
  - {name: w, role: Guardian, executor: {worker: {}}, messages: {worker: {}}, replicas: 0, slots: 1024}
  - name: e
    role: Specialist
    specializations: [data_processing, nlp-2]
    executor: {echo: {}}
    template:
      labels: {a: b}
      nodeSelector: {disk: ssd}
      tolerations: [{key: k, operator: Exists, tolerationSeconds: 5}]
      affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In, values: [b]}]}]}}}
      volumes: [{name: v, emptyDir: {sizeLimit: 1Gi}}]
      terminationGracePeriodSeconds: 60
  consensus: {threshold: 66%, deadline: 1m30s}
  recovery: {heartbeatInterval: 1.5s, sessionTimeout: 3s}
  schedules:
  - {name: daily, cron: "@daily", task: {kind: report}}
  - name: often
    cron: "*/5 * * * mon-fri"
    timeZone: Europe/Berlin
    missedRuns: All
    missedLimit: 3
    startWithin: 1h
    concurrencyPolicy: Replace
    suspend: true
    task: {kind: data, input: x, priority: 7, deadline: 10m, attemptTimeout: 1m, maxAttempts: 2, resultTtl: 24h, role: Specialist, specialization: nlp-2}
  suspend: true
"#;
    let cluster = parse_manifest(text).unwrap_or_else(|error| panic!("{error}"));
    let written = serde_yaml::to_string(&cluster).expect("a cluster has a YAML form");
    assert!(!written.contains("name: \"\""), "the container has no name: {written}");
    assert_eq!(parse_manifest(&written).unwrap_or_else(|error| panic!("{error}\n{written}")), cluster);
    insta::assert_yaml_snapshot!(cluster);
}

#[test]
fn several_documents_are_several_clusters() {
    let second = SMALLEST.replace("small", "second");
    let text = format!("---\n{SMALLEST}\n---\n# nothing here\n---\n{second}\n---\n");
    let names: Vec<_> =
        parse_manifests(&text).expect("two clusters").into_iter().filter_map(|cluster| cluster.metadata.name).collect();
    assert_eq!(names, ["small", "second"]);
    let error = parse_manifest(&text).expect_err("one was expected");
    assert_eq!(
        error.to_string(),
        "The manifest holds 2 RobeingClusters (small, second), but only one can be used here; keep one."
    );
}

#[test]
fn a_status_in_a_manifest_is_ignored() {
    let text = format!("{SMALLEST}status: {{phase: Wrong, anything: 1}}\n");
    assert_eq!(parse_manifest(&text).expect("the status does not matter").status, None);
}

#[test]
fn a_manifest_as_large_as_allowed_is_read() {
    let padding = limits::MAX_MANIFEST_BYTES - SMALLEST.len();
    let text = format!("{SMALLEST}#{}", "x".repeat(padding - 1));
    assert_eq!(text.len(), limits::MAX_MANIFEST_BYTES);
    parse_manifest(&text).unwrap_or_else(|error| panic!("{error}"));
    let error = parse_manifest(&format!("{text}x")).expect_err("one byte too many");
    assert_eq!(error, ManifestError::TooLarge);
    assert_eq!(
        error.to_string(),
        "The manifest has more than 1 MiB, which is the most that is read; is it the right file?"
    );
}

#[test]
fn storage_stays_as_it_was_made() {
    let with = |storage: &str| {
        let text = SMALLEST.replace("spec: {}", &format!("spec: {{coordinators: {{{storage}}}}}"));
        parse_manifest(&text).unwrap_or_else(|error| panic!("{error}"))
    };
    let fast = with("storage: {size: 1Gi, storageClassName: fast}");
    check_update(&fast, &fast.clone()).expect("nothing changed");
    let mut scaled = fast.clone();
    scaled.spec.coordinators.replicas = 5;
    check_update(&fast, &scaled).expect("coordinators may be added");
    for other in ["storage: {size: 1Gi, storageClassName: slow}", "storage: {size: 1Gi}", "replicas: 3"].map(with) {
        for (old, new) in [(&fast, &other), (&other, &fast)] {
            let error = check_update(old, new).expect_err("the storage changed");
            assert_eq!(error.problems().len(), 1, "{error}");
            assert_eq!(error.problems()[0].path, "spec.coordinators.storage");
            assert!(
                error.problems()[0].message.starts_with("The storage of the coordinators cannot be added, removed"),
                "{error}"
            );
        }
    }
}

#[test]
fn a_larger_size_of_disks_can_be_taken_back() {
    let with = |size: &str| {
        let spec = format!("spec: {{coordinators: {{storage: {{size: {size}}}}}}}");
        parse_manifest(&SMALLEST.replace("spec: {}", &spec)).unwrap_or_else(|error| panic!("{error}"))
    };
    for (small, large) in [("1Gi", "2Gi"), ("1Gi", "1.5Gi"), ("900Mi", "1G"), ("\"1e9\"", "1Gi")] {
        let (small, large) = (with(small), with(large));
        check_update(&small, &large).expect("it grows");
        check_update(&large, &small).expect("what no disk could be made is taken back");
    }
}

#[test]
fn an_update_is_held_to_every_rule() {
    let old = parse_manifest(SMALLEST).expect("a small manifest");
    let mut new = old.clone();
    new.spec.coordinators.replicas = 2;
    let error = check_update(&old, &new).expect_err("an even number");
    assert_eq!(error.problems()[0].path, "spec.coordinators.replicas");
}

#[test]
fn every_limit_is_reached_but_not_passed() {
    let list = |count: u32| (0..count).map(|i| format!("w{i}")).collect::<Vec<_>>().join(", ");
    let text = |over: u32| {
        let fields = format!(
            "image: {}, recovery: {{maxAttempts: {}}}, pools: [{{name: a, replicas: {}, standby: {}, slots: {}, \
             specializations: [{}], executor: {{command: {{argv: [{}]}}}}}}, \
             {{name: b, specializations: [{}], executor: {{http: {{url: \"http://{}\"}}}}}}]",
            "i".repeat((limits::MAX_IMAGE + over) as usize),
            limits::MAX_ATTEMPTS + over,
            limits::MAX_POOL_REPLICAS + over,
            limits::MAX_POOL_STANDBY + over,
            limits::MAX_SLOTS + over,
            list(limits::MAX_SPECIALIZATIONS + over),
            list(limits::MAX_ARGV + over),
            "s".repeat((limits::MAX_SPECIALIZATION_NAME + over) as usize),
            "u".repeat((limits::MAX_URL + over) as usize - "http://".len()),
        );
        SMALLEST.replace("spec: {}", &format!("spec: {{{fields}}}"))
    };
    parse_manifest(&text(0)).unwrap_or_else(|error| panic!("{error}"));
    let error = parse_manifest(&text(1)).expect_err("everything is one over its limit");
    assert_eq!(error.problems().len(), 9, "{error}");
}

#[test]
fn a_cluster_is_found_among_other_resources() {
    let others = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n---\napiVersion: v1\nkind: ConfigMap\n---";
    let found = find_cluster(&format!("{others}{SMALLEST}")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.cluster.metadata.name.as_deref(), Some("small"));
    let ignored: Vec<String> = found.ignored.iter().map(ToString::to_string).collect();
    assert_eq!(ignored, ["document 1 (Namespace team)", "document 2 (ConfigMap)"]);
    let refusal = found.refusal([("spec.pools".to_owned(), "No.".to_owned())]).to_string();
    assert_eq!(refusal, "The manifest has a problem:\n  - document 3, spec.pools (line 11, column 1): No.");

    let alone = find_cluster(SMALLEST).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(alone.ignored, []);
    let refusal = alone.refusal([("kind".to_owned(), "No.".to_owned())]).to_string();
    assert_eq!(refusal, "The manifest has a problem:\n  - kind (line 3, column 1): No.");
}

#[test]
fn where_there_is_not_one_cluster_it_is_said() {
    let refusal = |text: &str| find_cluster(text).expect_err(text).to_string();
    let second = SMALLEST.replace("small", "large").replace("spec: {}", "spec: {pools: 5}");
    assert_eq!(
        refusal(&format!("{SMALLEST}---{second}")),
        "The manifest holds 2 RobeingClusters (small, large), but only one can be used here; keep one."
    );
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
    assert!(refusal(other).contains("kind must be RobeingCluster, but is \"ConfigMap\""), "{}", refusal(other));
    assert!(refusal(&format!("{other}---\n{other}")).contains("document 2, kind"));
    assert!(refusal(&format!("5\n---{SMALLEST}")).contains("document 1"), "no resource, so a mistake");
    assert_eq!(refusal(""), ManifestError::Empty.to_string());
}
