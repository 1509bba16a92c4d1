//! Manifests that are refused: each with the sentence a user reads, and where it points.

use robeing_crds::{ManifestError, limits, parse_manifest, parse_manifests};

/// A manifest whose spec is the given flow mapping, for a cluster named `c`.
fn manifest(spec: &str) -> String {
    format!(
        "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {{name: c}}\nspec: {spec}\n"
    )
}

/// A manifest with one pool of the given fields besides its name and executor.
fn pool(fields: &str) -> String {
    manifest(&format!(
        "{{pools: [{{name: p, executor: {{echo: {{}}}}, {fields}}}]}}"
    ))
}

/// A manifest with one pool of the given executor.
fn executor(fields: &str) -> String {
    manifest(&format!("{{pools: [{{name: p, executor: {fields}}}]}}"))
}

/// A manifest with the given metadata and one pool named `p`.
fn named(metadata: &str) -> String {
    manifest("{pools: [{name: p, executor: {echo: {}}}]}").replace("{name: c}", metadata)
}

/// The one problem of a manifest.
fn only_problem(text: &str) -> (String, String) {
    let error = parse_manifest(text).expect_err(text);
    match error.problems() {
        [problem] => {
            assert!(problem.place.is_some(), "a place is known: {error}");
            (problem.path.clone(), problem.message.clone())
        }
        _ => panic!("one problem was expected in\n{text}\nbut: {error}"),
    }
}

fn assert_refused(cases: &[(String, &str, &str)]) {
    for (text, path, sentence) in cases {
        let (found_path, message) = only_problem(text);
        assert_eq!(
            (found_path.as_str(), message.as_str()),
            (*path, *sentence),
            "{text}"
        );
    }
}

#[test]
fn rules_about_names() {
    let long_cluster = "c".repeat(limits::MAX_CLUSTER_NAME as usize + 1);
    let form = "The name of a RobeingCluster must be lower-case letters, digits and '-', start with a letter and end with a \
                letter or digit, because its Services are named after it.";
    let pool_form = "The name of a pool must be lower-case letters, digits and '-', and start and end with a letter or digit.";
    let reserved = "This name belongs to the coordinators' own objects; give the pool another.";
    let pool_named = |name: &str| {
        manifest(&format!(
            "{{pools: [{{name: {name}, executor: {{echo: {{}}}}}}]}}"
        ))
    };
    assert_refused(&[
        (named("{name: My_Fleet}"), "metadata.name", form),
        (named("{name: 1st}"), "metadata.name", form),
        (named("{name: a.b}"), "metadata.name", form),
        (
            named(&format!("{{name: {long_cluster}}}")),
            "metadata.name",
            "The name of a RobeingCluster may have at most 36 characters, to leave room for the names derived from it; choose \
             a shorter one.",
        ),
        (
            named("{labels: {a: b}}"),
            "metadata",
            "The field name is missing; add it.",
        ),
        (pool_named("Data"), "spec.pools[0].name", pool_form),
        (pool_named("data_x"), "spec.pools[0].name", pool_form),
        (pool_named("data-"), "spec.pools[0].name", pool_form),
        (pool_named("coordinator"), "spec.pools[0].name", reserved),
        (pool_named("coordinators"), "spec.pools[0].name", reserved),
        (
            pool_named(&"p".repeat(limits::MAX_POOL_NAME as usize + 1)),
            "spec.pools[0].name",
            "This may have at most 32 characters, but has 33.",
        ),
        (
            manifest(
                "{pools: [{name: a, executor: {echo: {}}}, {name: a, executor: {worker: {}}}]}",
            ),
            "spec.pools[1]",
            "Item 0 of this list has the name \"a\" too; give one of them another name.",
        ),
    ]);
}

#[test]
fn names_leave_room_for_those_derived_from_them() {
    let cluster = "c".repeat(limits::MAX_CLUSTER_NAME as usize);
    let longest_pool =
        "p".repeat((limits::MAX_CLUSTER_AND_POOL_NAME - limits::MAX_CLUSTER_NAME) as usize);
    let of = |pool: &str| {
        manifest(&format!("{{pools: [{{name: ok, executor: {{echo: {{}}}}}}, {{name: {pool}, executor: {{echo: {{}}}}}}]}}"))
            .replace("{name: c}", &format!("{{name: {cluster}}}"))
    };
    parse_manifest(&of(&longest_pool))
        .unwrap_or_else(|error| panic!("the longest is allowed: {error}"));
    let (path, message) = only_problem(&of(&format!("{longest_pool}p")));
    assert_eq!(path, "spec.pools");
    assert_eq!(
        message,
        "The name of the cluster and that of a pool may have at most 45 characters together, to leave room for the names of \
         the pool's pods; shorten metadata.name or the longest pool name."
    );
}

#[test]
fn rules_about_coordinators() {
    let odd = "The number of coordinators must be odd (1, 3, 5 or 7): an even one survives no more losses than the odd one \
               below it.";
    let size = "The size must be a Kubernetes quantity above zero, such as 1Gi.";
    let amount =
        "The amount must be a Kubernetes quantity that is not negative, such as 500m, 2 or 1Gi.";
    let coordinators = |fields: &str| manifest(&format!("{{coordinators: {{{fields}}}}}"));
    for replicas in [1, 3, 5, limits::MAX_COORDINATORS] {
        parse_manifest(&coordinators(&format!("replicas: {replicas}")))
            .unwrap_or_else(|error| panic!("{error}"));
    }
    assert_refused(&[
        (
            coordinators("replicas: 2"),
            "spec.coordinators.replicas",
            odd,
        ),
        (
            coordinators("replicas: 6"),
            "spec.coordinators.replicas",
            odd,
        ),
        (
            coordinators("replicas: 9"),
            "spec.coordinators.replicas",
            "This must be at most 7, but is 9.",
        ),
        (
            coordinators("replicas: -1"),
            "spec.coordinators.replicas",
            "This must be at least 1, but is -1.",
        ),
        (
            coordinators("replicas: \"3\""),
            "spec.coordinators.replicas",
            "This must be a whole number, but is the text \"3\"; remove the quotes.",
        ),
        (
            coordinators("replicas: 1.5"),
            "spec.coordinators.replicas",
            "This must be a whole number, but is 1.5.",
        ),
        (
            coordinators("storage: {size: plenty}"),
            "spec.coordinators.storage.size",
            size,
        ),
        (
            coordinators("storage: {size: \"0\"}"),
            "spec.coordinators.storage.size",
            size,
        ),
        (
            coordinators("storage: {size: -1Gi}"),
            "spec.coordinators.storage.size",
            size,
        ),
        (
            coordinators("storage: {storageClassName: fast}"),
            "spec.coordinators.storage",
            "The field size is missing; add it.",
        ),
        (
            coordinators("resources: {limits: {cpu: lots}}"),
            "spec.coordinators.resources.limits.cpu",
            amount,
        ),
        (
            coordinators("resources: {requests: {memory: -1}}"),
            "spec.coordinators.resources.requests.memory",
            amount,
        ),
        (
            coordinators("resources: {requests: {memory: -1Gi}}"),
            "spec.coordinators.resources.requests.memory",
            amount,
        ),
    ]);
}

#[test]
fn rules_about_pools() {
    let skill = "A specialization must be lower-case letters, digits, '-' and '_', and start and end with a letter or digit, \
                 such as data_processing.";
    let many: Vec<String> = (0..=limits::MAX_SPECIALIZATIONS)
        .map(|i| format!("s{i}"))
        .collect();
    assert_refused(&[
        (
            pool("specializations: [Data]"),
            "spec.pools[0].specializations[0]",
            skill,
        ),
        (
            pool("specializations: [ok, \"\"]"),
            "spec.pools[0].specializations[1]",
            skill,
        ),
        (
            pool("specializations: [a b]"),
            "spec.pools[0].specializations[0]",
            skill,
        ),
        (
            pool("specializations: [_a]"),
            "spec.pools[0].specializations[0]",
            skill,
        ),
        (
            pool("specializations: [a, b, a]"),
            "spec.pools[0].specializations[2]",
            "\"a\" stands in this list already; remove one.",
        ),
        (
            pool(&format!("specializations: [{}]", many.join(", "))),
            "spec.pools[0].specializations",
            "This may have at most 16 items, but has 17.",
        ),
        (
            pool("role: Specialist"),
            "spec.pools[0].specializations",
            "A pool of specialists must name at least one specialization; add one, or set the role to Worker.",
        ),
        (
            pool("role: worker"),
            "spec.pools[0].role",
            "This must be Worker, Specialist, Messenger or Guardian, but is the text \"worker\"; did you mean Worker?",
        ),
        (
            pool("role: Leader"),
            "spec.pools[0].role",
            "This must be Worker, Specialist, Messenger or Guardian, but is the text \"Leader\".",
        ),
        (
            pool("slots: 0"),
            "spec.pools[0].slots",
            "This must be at least 1, but is 0.",
        ),
        (
            pool("slots: 1025"),
            "spec.pools[0].slots",
            "This must be at most 1024, but is 1025.",
        ),
        (
            pool("replicas: 10001"),
            "spec.pools[0].replicas",
            "This must be at most 10000, but is 10001.",
        ),
        (
            pool("replicas: -1"),
            "spec.pools[0].replicas",
            "This must be at least 0, but is -1.",
        ),
        (
            pool("standby: 1001"),
            "spec.pools[0].standby",
            "This must be at most 1000, but is 1001.",
        ),
        (
            pool("resources: {limits: {cpu: 1}}, container: {resources: {limits: {cpu: 1}}}"),
            "spec.pools[0].resources",
            "Resources are set on the pool and on its container; keep one of the two.",
        ),
        (
            pool("template: {env: [{name: A, value: a}, {name: A, value: b}]}"),
            "spec.pools[0].template.env[1]",
            "Item 0 of this list has the name \"A\" too; give one of them another name.",
        ),
        (
            pool("container: {env: [{value: a}]}"),
            "spec.pools[0].container.env[0]",
            "The field name is missing; add it.",
        ),
        (
            manifest("{image: a b}"),
            "spec.image",
            "The image must be a reference without spaces, such as registry.example/robeing:1.0.",
        ),
    ]);
    let pools: Vec<String> = (0..=limits::MAX_POOLS)
        .map(|i| format!("{{name: p{i}, executor: {{echo: {{}}}}}}"))
        .collect();
    parse_manifest(&manifest(&format!(
        "{{pools: [{}]}}",
        pools[1..].join(", ")
    )))
    .expect("as many pools as allowed");
    let (path, message) = only_problem(&manifest(&format!("{{pools: [{}]}}", pools.join(", "))));
    assert_eq!(
        (path.as_str(), message.as_str()),
        ("spec.pools", "This may have at most 64 items, but has 65.")
    );
}

#[test]
fn rules_about_executors() {
    let one = "An executor must set exactly one of command, http, worker and echo.";
    let url = "The URL must start with http:// or https:// and name a host, such as http://127.0.0.1:9000/run.";
    assert_refused(&[
        (executor("{}"), "spec.pools[0].executor", one),
        (executor("{echo: null}"), "spec.pools[0].executor", one),
        (
            executor("{echo: {}, worker: {}}"),
            "spec.pools[0].executor",
            one,
        ),
        (
            executor("{command: {argv: [a]}, http: {url: \"http://a\"}}"),
            "spec.pools[0].executor",
            one,
        ),
        (
            manifest("{pools: [{name: p}]}"),
            "spec.pools[0]",
            "The field executor is missing; add it.",
        ),
        (
            executor("{command: {argv: []}}"),
            "spec.pools[0].executor.command.argv",
            "This must have at least 1 item, but has 0.",
        ),
        (
            executor("{command: {argv: [\"\", a]}}"),
            "spec.pools[0].executor.command.argv",
            "The first word of argv is the program to run; it must not be empty.",
        ),
        (
            executor("{command: {argv: wc -w}}"),
            "spec.pools[0].executor.command.argv",
            "This must be a list, but is the text \"wc -w\".",
        ),
        (
            executor("{command: {argv: [sleep, 5]}}"),
            "spec.pools[0].executor.command.argv[1]",
            "This must be text, but is 5; put it in quotes.",
        ),
        (
            executor("{http: {url: \"127.0.0.1:9000\"}}"),
            "spec.pools[0].executor.http.url",
            url,
        ),
        (
            executor("{http: {url: \"ftp://a/b\"}}"),
            "spec.pools[0].executor.http.url",
            url,
        ),
        (
            executor("{http: {url: \"http://\"}}"),
            "spec.pools[0].executor.http.url",
            url,
        ),
        (
            executor("{echo: {loud: true}}"),
            "spec.pools[0].executor.echo.loud",
            "There is no field \"loud\" here, nor any other; remove it.",
        ),
    ]);
}

#[test]
fn rules_about_consensus_recovery_and_scheduling() {
    let form =
        "A duration must be numbers with the units ms, s, m or h, such as 500ms, 2s or 1m30s.";
    let threshold = "The threshold must be a fraction such as 2/3 or a percentage from 1% to 100%.";
    let order = "sessionTimeout must be at least twice heartbeatInterval, so that one late heartbeat does not lose an agent; \
                 lengthen sessionTimeout or shorten heartbeatInterval.";
    let recovery = |fields: &str| manifest(&format!("{{recovery: {{{fields}}}}}"));
    let consensus = |fields: &str| manifest(&format!("{{consensus: {{{fields}}}}}"));
    let weights = |fields: &str| manifest(&format!("{{scheduling: {{weights: {{{fields}}}}}}}"));
    assert_refused(&[
        (
            recovery("sessionTimeout: 999ms"),
            "spec.recovery.sessionTimeout",
            order,
        ),
        (
            recovery("heartbeatInterval: 2s"),
            "spec.recovery.sessionTimeout",
            order,
        ),
        (
            recovery("heartbeatInterval: fast"),
            "spec.recovery.heartbeatInterval",
            form,
        ),
        (
            recovery("heartbeatInterval: -1s"),
            "spec.recovery.heartbeatInterval",
            form,
        ),
        (
            recovery("heartbeatInterval: \"\""),
            "spec.recovery.heartbeatInterval",
            form,
        ),
        (
            recovery("heartbeatInterval: 0s"),
            "spec.recovery.heartbeatInterval",
            "heartbeatInterval must be at least 10ms and at most 1m.",
        ),
        (
            recovery("sessionTimeout: 601s"),
            "spec.recovery.sessionTimeout",
            "sessionTimeout must be at least 50ms and at most 10m.",
        ),
        (
            recovery("healthCheckInterval: 99ms"),
            "spec.recovery.healthCheckInterval",
            "healthCheckInterval must be at least 100ms and at most 1h.",
        ),
        (
            recovery("healthCheckInterval: 10"),
            "spec.recovery.healthCheckInterval",
            "This must be text, but is 10; put it in quotes.",
        ),
        (
            recovery("maxAttempts: 0"),
            "spec.recovery.maxAttempts",
            "This must be at least 1, but is 0.",
        ),
        (
            recovery("maxAttempts: 101"),
            "spec.recovery.maxAttempts",
            "This must be at most 100, but is 101.",
        ),
        (
            consensus("deadline: 25h"),
            "spec.consensus.deadline",
            "deadline must be at least 100ms and at most 24h.",
        ),
        (
            consensus("deadline: 1.5.5s"),
            "spec.consensus.deadline",
            form,
        ),
        (
            consensus("threshold: most"),
            "spec.consensus.threshold",
            threshold,
        ),
        (
            consensus("threshold: 0/3"),
            "spec.consensus.threshold",
            threshold,
        ),
        (
            consensus("threshold: 101%"),
            "spec.consensus.threshold",
            threshold,
        ),
        (
            consensus("threshold: 3/2"),
            "spec.consensus.threshold",
            "The threshold must be at most the whole electorate: its numerator may not exceed its denominator.",
        ),
        (
            weights("load: 10"),
            "spec.scheduling.weights.load",
            "This must be at most 0, but is 10.",
        ),
        (
            weights("performance: -1"),
            "spec.scheduling.weights.performance",
            "This must be at least 0, but is -1.",
        ),
        (
            weights("specialization: 1001"),
            "spec.scheduling.weights.specialization",
            "This must be at most 1000, but is 1001.",
        ),
        (
            manifest("{suspend: \"true\"}"),
            "spec.suspend",
            "This must be true or false, but is the text \"true\"; remove the quotes.",
        ),
    ]);
    parse_manifest(&recovery("heartbeatInterval: 1s, sessionTimeout: 2s"))
        .expect("exactly twice is enough");
}

#[test]
fn misspelt_fields() {
    assert_refused(&[
        (
            manifest("{coordinator: {}}"),
            "spec.coordinator",
            "There is no field \"coordinator\" here; did you mean coordinators?",
        ),
        (
            pool("replica: 3"),
            "spec.pools[0].replica",
            "There is no field \"replica\" here; did you mean replicas?",
        ),
        (
            pool("container: {imgae: x}"),
            "spec.pools[0].container.imgae",
            "There is no field \"imgae\" here; did you mean image?",
        ),
        (
            pool("container: {name: x}"),
            "spec.pools[0].container.name",
            "There is no field \"name\" here; remove it.",
        ),
        (
            manifest("{recovery: {timeout: 2s}}"),
            "spec.recovery.timeout",
            "There is no field \"timeout\" here; remove it. The fields here are healthCheckInterval, heartbeatInterval, \
             maxAttempts, sessionTimeout.",
        ),
        (
            named("{name: c, lables: {}}"),
            "metadata.lables",
            "There is no field \"lables\" here; did you mean labels?",
        ),
    ]);
}

#[test]
fn something_else_than_a_cluster() {
    let kind = |api_version: &str, kind: &str| {
        format!("apiVersion: {api_version}\nkind: {kind}\nspec: {{odd: 1}}\n")
    };
    assert_refused(&[
        (
            kind("robeing.io/v1", "RobeingCluster"),
            "apiVersion",
            "apiVersion must be robeing.io/v1alpha1, but is \"robeing.io/v1\".",
        ),
        (
            kind("robeing.io/v1alpha1", "Robeing"),
            "kind",
            "kind must be RobeingCluster, but is \"Robeing\".",
        ),
        (
            "kind: RobeingCluster\n".into(),
            "",
            "apiVersion is missing; write apiVersion: robeing.io/v1alpha1.",
        ),
        (
            "- a\n- b\n".into(),
            "",
            "A manifest must be a map that starts with apiVersion: robeing.io/v1alpha1 and kind: RobeingCluster.",
        ),
        (
            "just text".into(),
            "",
            "A manifest must be a map that starts with apiVersion: robeing.io/v1alpha1 and kind: RobeingCluster.",
        ),
        (
            "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {name: c}\n".into(),
            "",
            "The field spec is missing; add it.",
        ),
    ]);
}

#[test]
fn every_problem_is_reported_in_the_order_of_the_text() {
    let text = "\
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata:
  name: Fleet
spec:
  coordinators:
    replicas: 4
  pools:
  - name: data
    role: Specialist
    executor: {}
  - name: data
    slots: many
    executer:
      echo: {}
  recovery:
    heartbeatInterval: 5s
";
    insta::assert_snapshot!(parse_manifest(text).expect_err("many problems").to_string());
}

#[test]
fn problems_say_which_document_they_are_in() {
    let text = format!(
        "{}---\n{}",
        manifest("{}"),
        manifest("{coordinators: {replicas: 2}}")
    );
    let error = parse_manifests(&text).expect_err("the second is wrong");
    assert!(
        error.to_string().contains(
            "\n  - document 2, spec.coordinators.replicas (line 9, column 23): The number of"
        ),
        "{error}"
    );
}

#[test]
fn as_many_problems_as_the_limit_are_reported() {
    let fields = |count: usize| {
        (0..count)
            .map(|i| format!("unknown{i}: 1"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    for (found, reported) in [
        (limits::MAX_PROBLEMS - 1, limits::MAX_PROBLEMS - 1),
        (limits::MAX_PROBLEMS + 9, limits::MAX_PROBLEMS),
    ] {
        let error = parse_manifest(&manifest(&format!("{{{}}}", fields(found))))
            .expect_err("unknown fields");
        assert_eq!(error.problems().len(), reported);
    }
    let error =
        parse_manifest(&manifest(&format!("{{{}}}", fields(500)))).expect_err("unknown fields");
    assert!(
        error
            .to_string()
            .starts_with("The manifest has 50 problems or more:"),
        "{error}"
    );
}

#[test]
fn text_that_holds_no_manifest() {
    for text in [
        "",
        "\n\n",
        "# a comment\n",
        "---\n",
        "--- \n---\n",
        "null\n",
        "~",
    ] {
        assert_eq!(parse_manifest(text), Err(ManifestError::Empty), "{text:?}");
    }
    assert_eq!(
        ManifestError::Empty.to_string(),
        "The manifest is empty; it must hold a RobeingCluster."
    );
}

#[test]
fn text_that_is_no_yaml() {
    for text in [
        "apiVersion: [",
        "a: b: c",
        "{",
        "\t- x",
        "a: 1\na: 2\n",
        "\"",
        "&a *a",
        "*nowhere",
        "!!binary 5",
        "a: .nan",
        "a: .inf",
        "\u{0}\u{1}\u{2}",
        "%YAML 9.9\n---\n",
        "? [a]\n: b\n",
        "? {a: b}\n: c\n",
    ] {
        match parse_manifest(text) {
            Err(ManifestError::Syntax { .. } | ManifestError::Invalid { .. }) => {}
            other => panic!("{text:?}: {other:?}"),
        }
    }
    let error = parse_manifest("kind: RobeingCluster\nspec: [\n").expect_err("a list without end");
    assert!(
        error
            .to_string()
            .starts_with("The manifest cannot be read as YAML (line "),
        "{error}"
    );
}

#[test]
fn garbage_of_every_sort_is_refused_without_a_panic() {
    // A small generator with a fixed seed: the same garbage every time.
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let whole = manifest(
        "{coordinators: {replicas: 3}, pools: [{name: p, slots: 2, executor: {echo: {}}}], recovery: {sessionTimeout: 2s}}",
    );
    let alphabet: Vec<char> = "{}[]:,-#&*!|>'\"%@` \n\tab10.~é\u{0}".chars().collect();
    for _ in 0..300 {
        let mut text: Vec<char> = whole.chars().collect();
        for _ in 0..=next() % 4 {
            let at = next() as usize % text.len();
            text[at] = alphabet[next() as usize % alphabet.len()];
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = parse_manifests(&text) {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn wrong_types_everywhere_are_problems_and_no_panics() {
    let whole = manifest("{}")
        .replace("{name: c}", "NAME")
        .replace("spec: {}", "spec: SPEC");
    for value in [
        "1",
        "text",
        "[]",
        "[1]",
        "{}",
        "true",
        "-1.5",
        "99999999999999999999999999",
        "[[[]]]",
        "{a: {b: c}}",
    ] {
        for spec in [
            value.to_owned(),
            format!("{{coordinators: {value}}}"),
            format!("{{pools: {value}}}"),
            format!("{{pools: [{value}]}}"),
            format!(
                "{{pools: [{{name: {value}, role: {value}, specializations: {value}, executor: {value}}}]}}"
            ),
            format!(
                "{{recovery: {{heartbeatInterval: {value}, maxAttempts: {value}}}, consensus: {{threshold: {value}}}}}"
            ),
            format!("{{suspend: {value}, image: {value}, scheduling: {value}}}"),
        ] {
            for name in ["{name: c}", value, &format!("{{name: {value}}}")] {
                let text = whole.replace("NAME", name).replace("SPEC", &spec);
                if let Err(error) = parse_manifest(&text) {
                    assert!(
                        !error.to_string().contains("cannot be checked"),
                        "{text}\n{error}"
                    );
                    assert!(
                        !error.to_string().contains("cannot be read"),
                        "{text}\n{error}"
                    );
                }
            }
        }
    }
}

#[test]
fn nesting_up_to_the_limit_is_read() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let (_, message) = only_problem(&nested(limits::MAX_MANIFEST_DEPTH));
    assert!(message.starts_with("A manifest must be a map"), "{message}");
    for depth in [limits::MAX_MANIFEST_DEPTH + 1, 10_000] {
        let error = parse_manifest(&nested(depth)).expect_err("too deep");
        assert!(matches!(error, ManifestError::Syntax { .. }), "{error}");
    }
}

#[test]
fn documents_up_to_the_limit_are_read() {
    let text = |count: usize| {
        (0..count)
            .map(|_| manifest("{}"))
            .collect::<Vec<_>>()
            .join("---\n")
    };
    assert_eq!(
        parse_manifests(&text(limits::MAX_MANIFEST_DOCUMENTS))
            .expect("as many as allowed")
            .len(),
        64
    );
    let error =
        parse_manifests(&text(limits::MAX_MANIFEST_DOCUMENTS + 1)).expect_err("one too many");
    assert!(matches!(error, ManifestError::Syntax { .. }), "{error}");
}

#[test]
fn aliases_are_read_but_bombs_are_not() {
    let text = "\
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: c}
spec:
  pools:
  - {name: a, executor: &same {echo: {}}}
  - {name: b, executor: *same}
";
    parse_manifest(text).unwrap_or_else(|error| panic!("{error}"));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let error = parse_manifest(&bomb).expect_err("a billion values");
    assert!(matches!(error, ManifestError::Syntax { .. }), "{error}");
}
