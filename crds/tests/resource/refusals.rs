//! The rules of the schema: each violation is refused with its message, at the right field.

use robeing_crds::{check_update, limits, parse_manifest};

use crate::refusal::{assert_refused, manifest, named, only_problem, pool};

/// A manifest with one pool of the given executor.
fn executor(fields: &str) -> String {
    manifest(&format!("{{pools: [{{name: p, executor: {fields}}}]}}"))
}

#[test]
fn rules_about_names() {
    let long_cluster = "c".repeat(limits::MAX_CLUSTER_NAME as usize + 1);
    let form = "The name of a RobeingCluster must be lower-case letters, digits and '-', start with a letter and end with a \
                letter or digit, because its Services are named after it.";
    let pool_form =
        "The name of a pool must be lower-case letters, digits and '-', and start and end with a letter or digit.";
    let reserved = "This name belongs to the coordinators' own objects; give the pool another.";
    let pool_named = |name: &str| manifest(&format!("{{pools: [{{name: {name}, executor: {{echo: {{}}}}}}]}}"));
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
        (named("{labels: {a: b}}"), "metadata", "The field name is missing; add it."),
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
            manifest("{pools: [{name: a, executor: {echo: {}}}, {name: a, executor: {worker: {}}}]}"),
            "spec.pools[1]",
            "Item 0 of this list has the name \"a\" too; give one of them another name.",
        ),
    ]);
}

#[test]
fn an_executor_that_no_agent_can_be_given() {
    let argv = |words: usize, word: &str| {
        let words = vec![format!("'{word}'"); words].join(", ");
        executor(&format!("{{command: {{argv: [{words}]}}}}"))
    };
    let (path, message) = only_problem(&argv(20, &"x".repeat(8_000)));
    assert_eq!(path, "spec.pools[0].executor.command.argv");
    assert_eq!(
        message,
        "This executor has 160082 bytes as JSON, but an agent can be given 102400 at most; put long texts into a file that \
         the command reads."
    );
    let header = |index: usize| format!("{{name: h{index}, value: {}}}", "漢".repeat(2_000));
    let headers: Vec<_> = (0..32).map(header).collect();
    let (path, message) =
        only_problem(&executor(&format!("{{http: {{url: 'http://a', headers: [{}]}}}}", headers.join(", "))));
    assert_eq!(path, "spec.pools[0].executor.http.headers");
    assert!(message.ends_with("but an agent can be given 102400 at most; shorten the headers."), "{message}");
    let fits = |last: usize| {
        let words = [vec!["x".repeat(8_000); 12], vec!["x".repeat(last)]].concat();
        executor(&format!("{{command: {{argv: [{}]}}}}", words.join(", ")))
    };
    let room = limits::MAX_EXECUTOR_BYTES - r#"{"command":{"argv":[]}}"#.len() - 12 * 8_003 - 2;
    parse_manifest(&fits(room)).unwrap_or_else(|error| panic!("{error}"));
    only_problem(&fits(room + 1));
}

#[test]
fn names_leave_room_for_those_derived_from_them() {
    let cluster = "c".repeat(limits::MAX_CLUSTER_NAME as usize);
    let longest_pool = "p".repeat((limits::MAX_CLUSTER_AND_POOL_NAME - limits::MAX_CLUSTER_NAME) as usize);
    let of = |pool: &str| {
        manifest(&format!(
            "{{pools: [{{name: ok, executor: {{echo: {{}}}}}}, {{name: {pool}, executor: {{echo: {{}}}}}}]}}"
        ))
        .replace("{name: c}", &format!("{{name: {cluster}}}"))
    };
    parse_manifest(&of(&longest_pool)).unwrap_or_else(|error| panic!("the longest is allowed: {error}"));
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
    let amount = "The amount must be a Kubernetes quantity that is not negative, such as 500m, 2 or 1Gi.";
    let coordinators = |fields: &str| manifest(&format!("{{coordinators: {{{fields}}}}}"));
    for replicas in [1, 3, 5, limits::MAX_COORDINATORS] {
        parse_manifest(&coordinators(&format!("replicas: {replicas}"))).unwrap_or_else(|error| panic!("{error}"));
    }
    assert_refused(&[
        (coordinators("replicas: 2"), "spec.coordinators.replicas", odd),
        (coordinators("replicas: 6"), "spec.coordinators.replicas", odd),
        (coordinators("replicas: 9"), "spec.coordinators.replicas", "This must be at most 7, but is 9."),
        (coordinators("replicas: 8"), "spec.coordinators.replicas", "This must be at most 7, but is 8."),
        (coordinators("replicas: 0"), "spec.coordinators.replicas", "This must be at least 1, but is 0."),
        (coordinators("replicas: -1"), "spec.coordinators.replicas", "This must be at least 1, but is -1."),
        (
            coordinators("replicas: \"3\""),
            "spec.coordinators.replicas",
            "This must be a whole number, but is the text \"3\"; remove the quotes.",
        ),
        (coordinators("replicas: 1.5"), "spec.coordinators.replicas", "This must be a whole number, but is 1.5."),
        (coordinators("storage: {size: plenty}"), "spec.coordinators.storage.size", size),
        (coordinators("storage: {size: \"0\"}"), "spec.coordinators.storage.size", size),
        (coordinators("storage: {size: -1Gi}"), "spec.coordinators.storage.size", size),
        (
            coordinators("storage: {storageClassName: fast}"),
            "spec.coordinators.storage",
            "The field size is missing; add it.",
        ),
        (coordinators("resources: {limits: {cpu: lots}}"), "spec.coordinators.resources.limits.cpu", amount),
        (coordinators("resources: {requests: {memory: -1}}"), "spec.coordinators.resources.requests.memory", amount),
        (coordinators("resources: {requests: {memory: -1Gi}}"), "spec.coordinators.resources.requests.memory", amount),
    ]);
}

#[test]
fn rules_about_scaling_a_pool() {
    let of = |fields: &str| {
        let pools = "pools: [{name: a, executor: {echo: {}}}, {name: b, replicas: 2, executor: {echo: {}}}]";
        manifest(&format!("{{{pools}, {fields}}}"))
    };
    let taken = parse_manifest(&of("scaledPool: a, replicas: 3")).unwrap_or_else(|error| panic!("{error}"));
    let sizes: Vec<_> = taken.spec.pools.iter().map(|pool| taken.spec.replicas_of(pool)).collect();
    assert_eq!(sizes, [Some(3), Some(2)]);
    let none =
        "The pool to scale must be one of spec.pools that has no replicas of its own; its size is spec.replicas.";
    assert_refused(&[
        (
            of("replicas: 3"),
            "spec.replicas",
            "This RobeingCluster does not say which pool to scale; name one in spec.scaledPool, or set replicas of the pools \
             themselves, in spec.pools.",
        ),
        (of("scaledPool: a"), "spec.scaledPool", "The pool to scale needs a size to begin with; set spec.replicas."),
        (of("scaledPool: c, replicas: 3"), "spec.scaledPool", none),
        (of("scaledPool: b, replicas: 3"), "spec.scaledPool", none),
    ]);
}

#[test]
fn rules_about_ports() {
    let three = "An agent needs three different ports; change one of grpc, metrics and attach.";
    let ports = |fields: &str| pool(&format!("agentPorts: {{{fields}}}"));
    let taken = parse_manifest(&ports("grpc: 9000")).unwrap_or_else(|error| panic!("{error}"));
    let taken = taken.spec.pools[0].agent_ports.expect("they are set");
    assert_eq!((taken.grpc, taken.metrics, taken.attach), (9000, 17_090, 17_081));
    assert_refused(&[
        (ports("grpc: 9000, metrics: 9000"), "spec.pools[0].agentPorts", three),
        (ports("attach: 17080"), "spec.pools[0].agentPorts", three),
        (ports("metrics: 0"), "spec.pools[0].agentPorts.metrics", "This must be at least 1, but is 0."),
        (ports("grpc: 65536"), "spec.pools[0].agentPorts.grpc", "This must be at most 65535, but is 65536."),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn rules_about_pools() {
    let skill = "A specialization must be lower-case letters, digits, '-' and '_', and start and end with a letter or digit, \
                 such as data_processing.";
    let many: Vec<String> = (0..=limits::MAX_SPECIALIZATIONS).map(|i| format!("s{i}")).collect();
    assert_refused(&[
        (pool("specializations: [Data]"), "spec.pools[0].specializations[0]", skill),
        (pool("specializations: [ok, \"\"]"), "spec.pools[0].specializations[1]", skill),
        (pool("specializations: [a b]"), "spec.pools[0].specializations[0]", skill),
        (pool("specializations: [_a]"), "spec.pools[0].specializations[0]", skill),
        (
            pool("specializations: [a, b, a]"),
            "spec.pools[0].specializations[2]",
            "\"a\" is already in this list; remove one.",
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
        (pool("slots: 0"), "spec.pools[0].slots", "This must be at least 1, but is 0."),
        (pool("slots: 4097"), "spec.pools[0].slots", "This must be at most 4096, but is 4097."),
        (pool("replicas: 20001"), "spec.pools[0].replicas", "This must be at most 20000, but is 20001."),
        (pool("replicas: -1"), "spec.pools[0].replicas", "This must be at least 0, but is -1."),
        (pool("standby: 20001"), "spec.pools[0].standby", "This must be at most 20000, but is 20001."),
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
    let pools: Vec<String> =
        (0..=limits::MAX_POOLS).map(|i| format!("{{name: p{i}, executor: {{echo: {{}}}}}}")).collect();
    parse_manifest(&manifest(&format!("{{pools: [{}]}}", pools[1..].join(", ")))).expect("as many pools as allowed");
    let (path, message) = only_problem(&manifest(&format!("{{pools: [{}]}}", pools.join(", "))));
    assert_eq!((path.as_str(), message.as_str()), ("spec.pools", "This may have at most 64 items, but has 65."));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn rules_about_executors() {
    let one = "An executor must set exactly one of command, http, worker and echo.";
    let url = "The URL must start with http:// or https://, name a host and have no blanks, such as \
               http://127.0.0.1:9000/run.";
    assert_refused(&[
        (executor("{}"), "spec.pools[0].executor", one),
        (executor("{echo: null}"), "spec.pools[0].executor", one),
        (executor("{echo: {}, worker: {}}"), "spec.pools[0].executor", one),
        (executor("{command: {argv: [a]}, http: {url: \"http://a\"}}"), "spec.pools[0].executor", one),
        (manifest("{pools: [{name: p}]}"), "spec.pools[0]", "The field executor is missing; add it."),
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
        (executor("{http: {url: \"127.0.0.1:9000\"}}"), "spec.pools[0].executor.http.url", url),
        (executor("{http: {url: \"ftp://a/b\"}}"), "spec.pools[0].executor.http.url", url),
        (executor("{http: {url: \"http://\"}}"), "spec.pools[0].executor.http.url", url),
        (executor("{http: {url: \"http:///run\"}}"), "spec.pools[0].executor.http.url", url),
        (executor("{http: {url: \"http://us er:p@a/\"}}"), "spec.pools[0].executor.http.url", url),
        (executor("{http: {url: \"http://a/b c\"}}"), "spec.pools[0].executor.http.url", url),
        (executor("{http: {url: \"http://a/\\n\"}}"), "spec.pools[0].executor.http.url", url),
        (
            executor("{http: {url: 'http://a\\b'}}"),
            "spec.pools[0].executor.http.url",
            "This URL can't be called: it has the character '\\\\'; remove it, or write it percent-encoded.",
        ),
        (
            executor("{http: {url: \"http://a:65536/\"}}"),
            "spec.pools[0].executor.http.url",
            "This URL can't be called: invalid port number.",
        ),
        (
            executor("{http: {url: \"http://xn--a/\"}}"),
            "spec.pools[0].executor.http.url",
            "This URL can't be called: invalid international domain name.",
        ),
        (
            executor("{command: {argv: [a, \"b\\0\"]}}"),
            "spec.pools[0].executor.command.argv[1]",
            "This has a NUL character, which no program can be given; remove it.",
        ),
        (
            executor("{echo: {loud: true}}"),
            "spec.pools[0].executor.echo.loud",
            "There is no field \"loud\" here, nor any other; remove it.",
        ),
    ]);
}

#[test]
fn urls_that_agents_call_are_taken() {
    for url in ["HTTP://a", "http://u:p%20@a/ä?b", "https://bücher.example:8443/", "http://[::1]:1?x", "http://%31.a/"]
    {
        parse_manifest(&executor(&format!("{{http: {{url: \"{url}\"}}}}")))
            .unwrap_or_else(|error| panic!("{url}: {error}"));
    }
}

#[test]
fn rules_about_consensus_recovery_and_scheduling() {
    let form = "A duration must be numbers with the units ms, s, m or h, such as 500ms, 2s or 1m30s.";
    let threshold = "The threshold must be a fraction such as 2/3 or a percentage from 1% to 100%.";
    let order = "sessionTimeout must be at least twice heartbeatInterval, so that one late heartbeat does not lose an agent; \
                 lengthen sessionTimeout or shorten heartbeatInterval.";
    let recovery = |fields: &str| manifest(&format!("{{recovery: {{{fields}}}}}"));
    let consensus = |fields: &str| manifest(&format!("{{consensus: {{{fields}}}}}"));
    let weights = |fields: &str| manifest(&format!("{{scheduling: {{weights: {{{fields}}}}}}}"));
    assert_refused(&[
        (recovery("sessionTimeout: 999ms"), "spec.recovery.sessionTimeout", order),
        (recovery("heartbeatInterval: 2s"), "spec.recovery.sessionTimeout", order),
        (recovery("heartbeatInterval: fast"), "spec.recovery.heartbeatInterval", form),
        (recovery("heartbeatInterval: -1s"), "spec.recovery.heartbeatInterval", form),
        (recovery("heartbeatInterval: \"\""), "spec.recovery.heartbeatInterval", form),
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
        (recovery("maxAttempts: 0"), "spec.recovery.maxAttempts", "This must be at least 1, but is 0."),
        (recovery("maxAttempts: 1001"), "spec.recovery.maxAttempts", "This must be at most 1000, but is 1001."),
        (consensus("deadline: 25h"), "spec.consensus.deadline", "deadline must be at least 100ms and at most 24h."),
        (consensus("deadline: 1.5.5s"), "spec.consensus.deadline", form),
        (consensus("threshold: most"), "spec.consensus.threshold", threshold),
        (consensus("threshold: 0/3"), "spec.consensus.threshold", threshold),
        (consensus("threshold: 101%"), "spec.consensus.threshold", threshold),
        (
            consensus("threshold: 3/2"),
            "spec.consensus.threshold",
            "The threshold must be at most the whole electorate: its numerator may not exceed its denominator.",
        ),
        (weights("load: 10"), "spec.scheduling.weights.load", "This must be at most 0, but is 10."),
        (weights("performance: -1"), "spec.scheduling.weights.performance", "This must be at least 0, but is -1."),
        (
            weights("specialization: 1000001"),
            "spec.scheduling.weights.specialization",
            "This must be at most 1000000, but is 1000001.",
        ),
        (
            manifest("{suspend: \"true\"}"),
            "spec.suspend",
            "This must be true or false, but is the text \"true\"; remove the quotes.",
        ),
    ]);
    parse_manifest(&recovery("heartbeatInterval: 1s, sessionTimeout: 2s")).expect("exactly twice is enough");
}

#[test]
fn rules_about_identity() {
    let form = "The trust domain must be lower-case letters, digits, '-', '.' and '_', such as robeing.local.";
    let identity = |fields: &str| manifest(&format!("{{identity: {{{fields}}}}}"));
    let cluster = parse_manifest(&identity("authority: {secretName: mine}")).unwrap_or_else(|error| panic!("{error}"));
    let name = cluster.metadata.name.expect("a name");
    assert_refused(&[
        (identity("trustDomain: Robeing"), "spec.identity.trustDomain", form),
        (identity("trustDomain: a/b"), "spec.identity.trustDomain", form),
        (identity("trustDomain: \"\""), "spec.identity.trustDomain", "This must have at least 1 character, but has 0."),
        (identity("authority: {}"), "spec.identity.authority", "The field secretName is missing; add it."),
        (
            identity(&format!("authority: {{secretName: {name}-authority}}")),
            "spec.identity.authority.secretName",
            "This Secret is the operator's own, for the authority that members are certified by; name a Secret of yours.",
        ),
    ]);
    let longest = "a".repeat(limits::MAX_TRUST_DOMAIN as usize);
    let at_most =
        parse_manifest(&identity(&format!("trustDomain: {longest}"))).unwrap_or_else(|error| panic!("{error}"));
    assert!(parse_manifest(&identity(&format!("trustDomain: {longest}a"))).is_err());
    let other = parse_manifest(&identity("trustDomain: other")).unwrap_or_else(|error| panic!("{error}"));
    check_update(&at_most, &at_most).expect("nothing changed");
    let refused = check_update(&at_most, &other).expect_err("members would get other names").to_string();
    assert!(refused.contains("cannot be changed after the cluster was made"), "{refused}");
}

#[test]
fn rules_about_headers() {
    let headers = |headers: &str| executor(&format!("{{http: {{url: \"http://a\", headers: [{headers}]}}}}"));
    for fine in [
        "{name: Content-Type, value: application/json}",
        "{name: X_a.b, value: \"\"}, {name: Host, value: virtual.example}",
        "{name: Authorization, prefix: \"Bearer \", valueFrom: {secretKeyRef: {name: api, key: token}}}",
    ] {
        parse_manifest(&headers(fine)).unwrap_or_else(|error| panic!("{fine}: {error}"));
    }
    let at = |field: &str| format!("spec.pools[0].executor.http.headers{field}");
    let one = "A header must set exactly one of value and valueFrom.";
    let name = "The name of a header must be letters, digits and '-', such as Content-Type.";
    let own = "The agent sets this header itself; remove it.";
    let line = "The value of a header must be one line of text, without control characters.";
    for (given, path, message) in [
        ("{name: A}", "[0]", one),
        ("{name: A, value: a, valueFrom: {secretKeyRef: {name: s, key: k}}}", "[0]", one),
        ("{name: \"a b\", value: a}", "[0].name", name),
        ("{name: \"Ä\", value: a}", "[0].name", name),
        ("{name: content-LENGTH, value: \"3\"}", "[0].name", own),
        ("{name: Robeing-Kind, value: k}", "[0].name", own),
        ("{name: A, value: \"two\\nlines\"}", "[0].value", line),
        (
            "{name: A, prefix: p, value: a}",
            "[0].prefix",
            "The prefix goes before a value from a Secret; put it into value, or remove it.",
        ),
        (
            "{name: A, valueFrom: {secretKeyRef: {name: s}}}",
            "[0].valueFrom.secretKeyRef",
            "The field key is missing; add it.",
        ),
        (
            "{name: A, value: a}, {name: A, value: b}",
            "[1]",
            "Item 0 of this list has the name \"A\" too; give one of them another name.",
        ),
    ] {
        assert_eq!(only_problem(&headers(given)), (at(path), message.to_owned()), "{given}");
    }
}
