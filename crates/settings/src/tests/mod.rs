//! Flags and environment, valid and invalid.

mod circle;

use std::{path::PathBuf, time::Duration};

use super::*;

const ECHO: &str = r#"{"echo":{}}"#;

fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Startup, ConfigError> {
    let args = std::iter::once("robeing-agent").chain(args.iter().copied()).map(OsString::from);
    let env: Vec<(String, String)> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    parse(args, &move |name| env.iter().find(|(k, _)| k == name).map(|(_, v)| OsString::from(v)))
}

fn agent(args: &[&str], env: &[(&str, &str)]) -> AgentConfig {
    match read(args, env).unwrap_or_else(|error| panic!("{error}")).process {
        Process::Agent(config, _) => config,
        other => panic!("expected an agent, got {other:?}"),
    }
}

fn coordinator(args: &[&str], env: &[(&str, &str)]) -> CoordinatorConfig {
    match read(args, env).unwrap_or_else(|error| panic!("{error}")).process {
        Process::Coordinator(config) => config,
        other => panic!("expected a coordinator, got {other:?}"),
    }
}

fn wrong(args: &[&str], env: &[(&str, &str)]) -> String {
    match read(args, env) {
        Err(ConfigError::Wrong(sentence)) => sentence,
        other => panic!("expected a sentence, got {other:?}"),
    }
}

const COORDINATOR: [&str; 4] = ["--role=coordinator", "--name=c-0", "--cluster-id=f", "--listen=127.0.0.1:1"];

fn with<'a>(base: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    base.iter().chain(more).copied().collect()
}

/// A worker's flags, in which `more` replaces flags of the same name.
fn worker<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let base = [
        "--role=worker",
        "--name=w-0",
        "--cluster-id=f",
        "--listen=127.0.0.1:0",
        "--coordinators=127.0.0.1:1",
        r#"--executor={"echo":{}}"#,
    ];
    let flag = |arg: &'a str| arg.split('=').next();
    let kept = base.into_iter().filter(|arg| !more.iter().any(|given| flag(given) == flag(arg)));
    kept.chain(more.iter().copied()).collect()
}

#[test]
fn the_flags_of_an_agent_are_read() {
    let args = [
        "--role=specialist",
        "--name=data-0",
        "--cluster-id=fleet",
        "--coordinators=127.0.0.1:1,127.0.0.1:2",
        "--listen=127.0.0.1:0",
        "--pool=data",
        "--pool-replicas=3",
        "--pool-standby=1",
        "--specializations=a,b",
        "--slots=4",
        r#"--executor={"command":{"argv":["/bin/sh","-c","wc -w"]}}"#,
        "--drain-timeout=5s",
        "--exit-with-parent",
    ];
    let startup = read(&args, &[]).expect("it is right");
    assert!(startup.exit_with_parent);
    let Process::Agent(config, executor) = startup.process else { panic!("it is an agent") };
    assert_eq!(
        executor,
        ExecutorSpec::Command(CommandSpec { argv: vec!["/bin/sh".into(), "-c".into(), "wc -w".into()] })
    );
    let expected = AgentConfig {
        name: "data-0".into(),
        cluster_id: "fleet".into(),
        role: AgentRole::Specialist,
        coordinators: vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()],
        listen: "127.0.0.1:0".into(),
        advertise: None,
        advertises_host_name: false,
        pool: "data".into(),
        pool_replicas: 3,
        pool_standby: 1,
        specializations: vec!["a".into(), "b".into()],
        slots: 4,
        contribute: Contribute::default(),
        drain_timeout: Duration::from_secs(5),
        metrics_listen: None,
        worker_listen: "127.0.0.1:8081".into(),
        messages: None,
        data: None,
        gateway_listen: None,
        webhooks: None,
        object_store: None,
        on_anomaly: OnAnomaly::default(),
        anomaly_warm_up: Duration::from_secs(60),
        tls: TlsMode::Strict,
        enrolment: EnrolmentConfig::default(),
    };
    assert_eq!(config, expected);
}

#[test]
fn what_an_agent_does_with_messages_is_read_and_must_fit_its_executor() {
    let set = |messages: &str| [format!("--messages={messages}"), "--data=/d".to_owned()];
    let read = |messages: &str, executor: &str| {
        let more = set(messages);
        let executor = format!("--executor={executor}");
        let more: Vec<&str> = more.iter().map(String::as_str).chain([executor.as_str()]).collect();
        super::tests::read(&worker(&more), &[]).map(|startup| startup.process).map_err(|error| error.to_string())
    };
    let attached = r#"{"worker":{}}"#;
    for (given, expected) in [
        (r#"{"inbox":{}}"#, MessagesSpec::Inbox {}),
        (attached, MessagesSpec::Worker {}),
        (r#"{"command":{"argv":["a"]}}"#, MessagesSpec::Command(CommandSpec { argv: vec!["a".into()] })),
        (r#"{"http":{"url":"http://a/"}}"#, MessagesSpec::Http(MessagesHttpSpec { url: "http://a/".into() })),
    ] {
        let Process::Agent(config, _) = read(given, attached).expect(given) else { panic!("it is an agent") };
        assert_eq!((config.messages, config.data), (Some(expected), Some("/d".into())));
    }
    for wrong in ["", "inbox", "{}", r#"{"inbox":{},"worker":{}}"#, r#"{"echo":{}}"#] {
        let error = read(wrong, attached).expect_err(wrong);
        assert!(error.contains(r#"{"inbox":{}}"#), "{error}");
    }
    let error = read(attached, r#"{"echo":{}}"#).expect_err("no process can attach");
    assert!(error.contains("change one of them"), "{error}");
    let error = read(r#"{"http":{"address":"http://user:secret@a/"}}"#, attached).expect_err("no url");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn the_flags_of_a_coordinator_are_read() {
    let more = [
        "--data=/tmp/d",
        "--initial-coordinators=c-0=127.0.0.1:1,c-1=127.0.0.1:2",
        "--ca=/ca",
        "--heartbeat-interval=250ms",
        "--session-timeout=1s",
        "--max-attempts=3",
        "--weights=load=-20,specialization=40",
        "--election-timeout=100ms..200ms",
        "--metrics-listen=127.0.0.1:0",
        "--max-queued=10",
    ];
    let config = coordinator(&with(&COORDINATOR, &more), &[]);
    assert_eq!(config.data, PathBuf::from("/tmp/d"));
    assert_eq!(config.initial_coordinators[1], ("c-1".to_owned(), "127.0.0.1:2".to_owned()));
    assert_eq!(
        (config.heartbeat_interval, config.session_timeout),
        (Duration::from_millis(250), Duration::from_secs(1))
    );
    assert_eq!(config.weights, Weights { specialization: 40, load: -20, performance: 20 });
    assert_eq!(config.election_timeout_max, Duration::from_millis(200));
    assert_eq!((config.max_attempts, config.limits.max_queued), (3, Some(10)));
    assert_eq!(config.metrics_listen.as_deref(), Some("127.0.0.1:0"));
    assert_eq!(config.advertise.as_deref(), Some("127.0.0.1:1"), "it is its own entry");
}

#[test]
fn a_classic_deployment_needs_no_flags() {
    let env = [
        ("ROLE", "COORDINATOR"),
        ("CLUSTER_ID", "robeing-cluster-01"),
        ("AGENT_COUNT", "5"),
        ("HOSTNAME", "coordinator-0"),
        ("COORDINATOR_URL", "http://coordinator:8080"),
    ];
    let config = coordinator(&[], &env);
    assert_eq!((config.name.as_str(), config.listen.as_str()), ("coordinator-0", "0.0.0.0:8080"));
    assert_eq!((config.expected_agents, config.advertise.as_deref()), (Some(5), Some("coordinator-0:8080")));
    assert_eq!((config.max_attempts, config.data), (5, PathBuf::from(DEFAULT_DATA)));
    let env = [
        ("AGENT_ROLE", "SPECIALIST"),
        ("ROLE", "ignored: the other name counts"),
        ("CLUSTER_ID", "robeing-cluster-01"),
        ("SPECIALIZATION", "data_processing, text"),
        ("AGENT_COUNT", "5"),
        ("AGENT_ID", "agent-7"),
        ("HOSTNAME", "pod-x"),
        ("POD_IP", "10.1.2.3"),
        ("COORDINATOR_URL", "http://coordinator:8080/,http://other"),
        ("ROBEING_EXECUTOR", ECHO),
    ];
    let config = agent(&[], &env);
    assert_eq!((config.name.as_str(), config.role), ("agent-7", AgentRole::Specialist));
    assert_eq!(config.coordinators, ["coordinator:8080", "other:8080"]);
    assert_eq!(config.specializations, ["data_processing", "text"]);
    assert_eq!(config.advertise.as_deref(), Some("10.1.2.3:8080"));
    assert_eq!((config.pool_replicas, config.slots), (0, 1), "every process is one agent");
}

#[test]
fn what_the_classic_manifests_leave_out_has_a_default() {
    let env = [("AGENT_ROLE", "WORKER"), ("CLUSTER_ID", "robeing-cluster-01"), ("HOSTNAME", "pod-x")];
    let startup = read(&[], &env).unwrap_or_else(|error| panic!("{error}"));
    let Process::Agent(config, executor) = startup.process else { panic!("it is an agent") };
    assert_eq!((config.name.as_str(), config.cluster_id.as_str()), ("pod-x", "robeing-cluster-01"));
    assert_eq!(config.coordinators, ["robeing-cluster-01:8080"], "the Service of the cluster");
    assert_eq!(executor, ExecutorSpec::Worker {});
    assert_eq!((config.advertise.as_deref(), config.advertises_host_name), (Some("pod-x:8080"), true));
    let more = [("POD_IP", "10.1.2.3"), ("ROBEING_EXECUTOR", ECHO), ("COORDINATOR_URL", "http://coordinator:8080")];
    let config = agent(&[], &[&env[..], &more].concat());
    assert_eq!((config.advertise.as_deref(), config.advertises_host_name), (Some("10.1.2.3:8080"), false));
    assert_eq!(config.coordinators, ["coordinator:8080"]);
    let env = [("ROLE", "COORDINATOR"), ("AGENT_COUNT", "5"), ("HOSTNAME", "c0ffee")];
    assert_eq!(coordinator(&[], &env).cluster_id, "default");
    let env = [("ROLE", "WORKER"), ("COORDINATOR_URL", "http://coordinator:8080"), ("HOSTNAME", "w0rker")];
    assert_eq!(agent(&[], &env).cluster_id, "default");
    assert_eq!(agent(&[], &[("ROLE", "WORKER"), ("HOSTNAME", "w")]).coordinators, ["default:8080"]);
}

#[test]
fn flags_win_over_the_environment_and_empty_variables_count_for_nothing() {
    let env = [("ROBEING_SLOTS", "9"), ("ROBEING_POOL", ""), ("AGENT_ROLE", "GUARDIAN")];
    assert_eq!(agent(&worker(&["--slots=2"]), &env).slots, 2);
    let config = agent(&worker(&[]), &env);
    assert_eq!((config.slots, config.pool.as_str(), config.role), (9, "", AgentRole::Worker));
}

#[test]
fn ipv6_addresses_are_taken() {
    let config = agent(&worker(&["--coordinators=[::1]:7,http://[fd00::2]"]), &[]);
    assert_eq!(config.coordinators, ["[::1]:7", "[fd00::2]:8080"]);
    let config = agent(&worker(&["--listen=[::]:7"]), &[("POD_IP", "fd00::9")]);
    assert_eq!(config.advertise.as_deref(), Some("[fd00::9]:7"));
}

#[test]
fn what_is_missing_is_named_with_the_flag_and_the_variable_that_give_it() {
    assert_eq!(wrong(&[], &[]), "the role of this process is missing: give --role or set ROLE");
    assert_eq!(wrong(&["--role=coordinator"], &[]), "the name of this process is missing: give --name or set HOSTNAME");
    let args = ["--role=coordinator", "--name=c", "--cluster-id=f"];
    assert_eq!(
        wrong(&args, &[]),
        "the process listens on every address (0.0.0.0:8080), so its advertised address is unknown: give --advertise \
         HOST:PORT, or set POD_IP or HOSTNAME (shells have HOSTNAME and don't export it)"
    );
}

#[test]
fn contradictions_are_told() {
    assert_eq!(
        wrong(&with(&COORDINATOR, &["--slots=2"]), &[]),
        "--slots is for agents, but --role is coordinator: remove one of the two"
    );
    assert_eq!(
        wrong(&worker(&["--max-tasks=5"]), &[]),
        "--max-tasks is for coordinators, but --role is worker: remove one of the two"
    );
    assert_eq!(
        wrong(&with(&COORDINATOR, &["--heartbeat-interval=1001ms"]), &[]),
        "the session timeout (2s) is shorter than 2 heartbeat intervals (1s1ms each): lengthen --session-timeout or \
         shorten --heartbeat-interval"
    );
    assert!(wrong(&worker(&["--pool-replicas=3"]), &[]).contains("give --pool too"));
    assert!(
        wrong(&worker(&["--role=specialist"]), &[]).starts_with("a specialist without a specialization gets no tasks")
    );
    let twice = "--initial-coordinators=c-0=127.0.0.1:1,c-0=127.0.0.1:2";
    assert!(wrong(&with(&COORDINATOR, &[twice]), &[]).contains("each coordinator once"));
}

#[test]
fn malformed_values_are_told_with_where_they_come_from_and_what_to_give() {
    assert_eq!(wrong(&worker(&["--slots=0"]), &[]), "--slots is \"0\": give a whole number from 1 to 4096");
    assert_eq!(
        wrong(&worker(&[]), &[("ROBEING_SLOTS", "4097")]),
        "ROBEING_SLOTS is \"4097\": give a whole number from 1 to 4096"
    );
    assert_eq!(wrong(&worker(&["--listen=8080"]), &[]), "--listen is \"8080\": give host:port, such as 127.0.0.1:8080");
    assert_eq!(
        wrong(&["--role=boss"], &[]),
        "--role is \"boss\": give coordinator, worker, specialist, messenger or guardian"
    );
    for (flag, value) in [
        ("--drain-timeout", "soon"),
        ("--coordinators", "a:0"),
        ("--coordinators", ","),
        ("--coordinators", "a b:1"),
        ("--name", "a b"),
        ("--pool", "a/b"),
        ("--agent-count", "five"),
        ("--log-format", "xml"),
        ("--advertise", "host"),
        ("--executor", "wc -w"),
        ("--executor", "{}"),
        ("--executor", r#"{"worker":{"slots":1}}"#),
        ("--worker-listen", "0.0.0.0:8081"),
        ("--worker-listen", "10.0.0.1:8081"),
        ("--worker-listen", "worker.example.com:8081"),
        ("--worker-listen", "[::]:8081"),
        ("--worker-listen", "127.0.0.1"),
        ("--executor", r#"{"echo":{},"http":{"url":"http://a/"}}"#),
        ("--executor", r#"{"command":{"argv":["a"],"shell":true}}"#),
    ] {
        let given = format!("{flag}={value}");
        let args = worker(&[&given]);
        let sentence = wrong(&args, &[]);
        assert!(sentence.starts_with(&format!("{flag} is ")) && sentence.contains(": give "), "{given}: {sentence}");
    }
    for (flag, value) in [
        ("--weights", "size=3"),
        ("--weights", "load=1"),
        ("--weights", "load=-1000001"),
        ("--weights", "load=-2147483648"),
        ("--weights", "specialization=-1"),
        ("--weights", "performance=1000001"),
        ("--election-timeout", "300ms..150ms"),
        ("--election-timeout", "300ms"),
        ("--session-timeout", "49ms"),
        ("--session-timeout", "601s"),
        ("--heartbeat-interval", "61s"),
        ("--health-check-interval", "99ms"),
        ("--health-check-interval", "3601s"),
        ("--session-timeout", "400days"),
        ("--max-attempts", "1001"),
        ("--initial-coordinators", "127.0.0.1:1"),
    ] {
        let given = format!("{flag}={value}");
        let sentence = wrong(&with(&COORDINATOR, &[&given]), &[]);
        assert!(sentence.starts_with(&format!("{flag} is ")) && sentence.contains(": give "), "{given}: {sentence}");
    }
}

#[test]
fn limits_hold_at_their_edges() {
    let skills = |n: usize| (0..n).map(|n| format!("s{n}")).collect::<Vec<_>>().join(",");
    let most = robeing_fleet::limits::MAX_SPECIALIZATIONS;
    let (fits, too_many) =
        (format!("--specializations={}", skills(most)), format!("--specializations={}", skills(most + 1)));
    assert_eq!(agent(&worker(&[&fits]), &[]).specializations.len(), most);
    assert!(wrong(&worker(&[&too_many]), &[]).contains("at most 16"));
    let name = |n: usize| format!("--pool={}", "a".repeat(n));
    assert_eq!(agent(&worker(&[&name(253)]), &[]).pool.len(), 253);
    assert!(wrong(&worker(&[&name(254)]), &[]).contains("253"));
    assert_eq!(agent(&worker(&["--slots=4096"]), &[]).slots, 4096);
    let many = |n: usize| (0..n).map(|n| format!("h{n}:1")).collect::<Vec<_>>().join(",");
    let of = |n: usize| format!("--coordinators={}", many(n));
    assert_eq!(agent(&worker(&[&of(MAX_COORDINATORS)]), &[]).coordinators.len(), MAX_COORDINATORS);
    assert!(wrong(&worker(&[&of(MAX_COORDINATORS + 1)]), &[]).contains("1 to 64"));
    let shortest = coordinator(&with(&COORDINATOR, &["--heartbeat-interval=10ms"]), &[]);
    assert_eq!(shortest.heartbeat_interval, MIN_INTERVAL);
    assert!(wrong(&with(&COORDINATOR, &["--heartbeat-interval=9ms"]), &[]).contains("from 10ms"));
}

#[test]
fn the_help_lists_every_setting() {
    insta::assert_snapshot!(command().term_width(120).render_long_help());
}

#[test]
fn processes_attach_on_this_machine_alone() {
    for address in ["127.0.0.1:0", "127.8.8.8:9000", "localhost:9000", "[::1]:9000"] {
        let flag = format!("--worker-listen={address}");
        assert_eq!(agent(&worker(&[&flag]), &[]).worker_listen, address);
    }
    let env = [("ROBEING_WORKER_LISTEN", "127.0.0.1:9000")];
    assert_eq!(agent(&worker(&[]), &env).worker_listen, "127.0.0.1:9000");
    let args = worker(&[r#"--executor={"worker":{}}"#]);
    let Process::Agent(_, executor) = read(&args, &[]).expect("it is right").process else { panic!("it is an agent") };
    assert_eq!(executor, ExecutorSpec::Worker {});
}

#[test]
fn the_data_directory_may_have_any_name_and_all_else_is_text() {
    let name = |bytes: &[u8]| std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec());
    let odd: OsString = name(b"/d\xFFta");
    let of_flag: OsString = name(b"--data=/d\xFFta");
    let read = |args: Vec<OsString>, variable: &str, value: &OsString| {
        let args = std::iter::once("robeing-agent".into()).chain(COORDINATOR.map(OsString::from)).chain(args);
        parse(args, &|name| (name == variable).then(|| value.clone()))
    };
    for (args, variable) in [(vec![of_flag], "NOTHING"), (vec![], "ROBEING_DATA")] {
        match read(args, variable, &odd).unwrap_or_else(|error| panic!("{error}")).process {
            Process::Coordinator(config) => assert_eq!(config.data, PathBuf::from(&odd)),
            other => panic!("expected a coordinator, got {other:?}"),
        }
    }
    let Err(ConfigError::Wrong(sentence)) = read(vec![], "ROBEING_WEIGHTS", &odd) else { panic!("it is no text") };
    assert_eq!(sentence, "ROBEING_WEIGHTS is not UTF-8: give it in plain text");
}

#[test]
fn credentials_in_an_executor_are_not_repeated() {
    for executor in [
        r#"{"http":{"url":"http://u:hunter2@a/?hunter2"},"echo":{}}"#,
        r#"{"http":{"url":"http://u:hunter2@a/","headers":"hunter2"}}"#,
        r#"{"http":{"url":"http://u:hunter2@a/""#,
        r#"{"http":"hunter2"}"#,
    ] {
        let said = wrong(&worker(&[&format!("--executor={executor}")]), &[]);
        let beginning = "--executor is not repeated here, since it may hold credentials: give JSON such as";
        assert!(said.starts_with(beginning) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_header_has_a_value_or_takes_one_from_the_environment() {
    let executor = r#"{"http":{"url":"http://a/","headers":[
        {"name":"Content-Type","value":"application/json"},
        {"name":"Authorization","prefix":"Bearer ","valueFrom":{"env":"TOKEN"}},
        {"name":"None"},
        {"name":"Two","value":"a","valueFrom":{"env":"TOKEN"}},
        {"name":"Prefix","prefix":"p","value":"a"},
        {"name":"Unset","valueFrom":{"env":"UNSET"}}]}}"#;
    let startup = read(&worker(&[&format!("--executor={executor}")]), &[]).unwrap_or_else(|error| panic!("{error}"));
    let Process::Agent(_, ExecutorSpec::Http(http)) = startup.process else { panic!("an agent") };
    let env = |name: &str| (name == "TOKEN").then(|| "s3cret\n".to_owned());
    let values: Vec<_> = http.headers.iter().map(|header| header.value(&env)).collect();
    assert_eq!(values[0].as_deref(), Ok("application/json"));
    assert_eq!(values[1].as_deref(), Ok("Bearer s3cret"));
    assert!(values[2..5].iter().all(Result::is_err), "{values:?}");
    let unset = "the environment variable UNSET, which should hold its value, is not set";
    assert_eq!(values[5], Err(unset.into()));
}

#[test]
fn an_agent_enrols_with_one_proof() {
    let proof = |env: &[(&str, &str)]| agent(&worker(&[]), env).enrolment.proof;
    assert_eq!(proof(&[]), JoinProof::None);
    assert_eq!(proof(&[("ROBEING_JOIN_TOKEN", " t\n")]), JoinProof::Token("t".into()));
    assert_eq!(proof(&[("ROBEING_JOIN_SECRET", "/s")]), JoinProof::Secret("/s".into()));
    assert_eq!(proof(&[("ROBEING_SERVICE_ACCOUNT_TOKEN", "/t")]), JoinProof::ServiceAccount("/t".into()));
    let two = wrong(&worker(&[]), &[("ROBEING_JOIN_TOKEN", "t"), ("ROBEING_JOIN_SECRET", "/s")]);
    assert_eq!(two, "an agent enrols with one proof: give either --join-token or --join-secret");
    assert_eq!(format!("{:?}", JoinProof::Token("secret".into())), "Token");
}

#[test]
fn plaintext_is_for_loopback_addresses_alone() {
    assert_eq!(agent(&worker(&["--tls=off"]), &[]).tls, TlsMode::Off);
    assert_eq!(agent(&worker(&[]), &[]).tls, TlsMode::Strict);
    let refused = wrong(&worker(&["--tls=off", "--listen=0.0.0.0:1", "--advertise=a:1"]), &[]);
    assert!(refused.contains("listen on a loopback address"), "{refused}");
    let refused = wrong(&worker(&["--tls=maybe"]), &[]);
    assert!(refused.contains("strict, permissive or off"), "{refused}");
    let refused = wrong(&with(&COORDINATOR, &["--tls=off", "--rights=/r"]), &[]);
    assert!(refused.contains("remove --rights"), "{refused}");
}

#[test]
fn several_coordinators_share_one_authority() {
    let members = "--initial-coordinators=c-0=127.0.0.1:1,c-1=127.0.0.1:2";
    let refused = wrong(&with(&COORDINATOR, &[members]), &[]);
    assert!(refused.contains("give --ca DIR"), "{refused}");
    let shared = coordinator(&with(&COORDINATOR, &[members, "--ca=/ca"]), &[]);
    assert_eq!(shared.authority.enrolment(), Enrolment::Proof);
    assert_eq!(coordinator(&with(&COORDINATOR, &[members, "--tls=off"]), &[]).tls, TlsMode::Off);
    let own = coordinator(&COORDINATOR, &[]);
    assert_eq!(own.authority.enrolment(), Enrolment::Open);
    let closed = coordinator(&with(&COORDINATOR, &["--enrolment=proof", "--trust-domain=a.example"]), &[]);
    assert_eq!(closed.authority.enrolment(), Enrolment::Proof);
    assert_eq!(closed.authority.trust_domain, "a.example");
    let joined = coordinator(&COORDINATOR, &[("ROBEING_JOIN", "/join")]);
    assert_eq!(joined.authority.join.as_deref(), Some("/join".as_ref()));
    assert_eq!(joined.authority.enrolment(), Enrolment::Proof, "who can read the directory has a proof");
    let open = coordinator(&with(&COORDINATOR, &["--join=/join", "--enrolment=open"]), &[]);
    assert_eq!(open.authority.enrolment(), Enrolment::Open);
    let refused = wrong(&with(&COORDINATOR, &["--trust-domain=A"]), &[]);
    assert!(refused.contains("without capital letters"), "{refused}");
}

#[test]
fn only_messengers_have_a_gateway_and_without_tls_only_on_this_machine() {
    let read = |arguments: &[&str]| {
        let who = ["robeing-agent", "--name=a", "--advertise=a:1"];
        let arguments = who.iter().chain(arguments).map(OsString::from);
        parse(arguments, &|name| (name == "ROBEING_WEBHOOKS").then(|| "/hooks".into()))
    };
    let agent = |arguments: &[&str]| match read(arguments).expect("it is right").process {
        Process::Agent(config, _) => (config.gateway_listen, config.webhooks.is_some()),
        Process::Coordinator(_) => panic!("it is an agent"),
    };
    assert_eq!(agent(&["--role=messenger"]), (None, true));
    let everywhere = "--gateway-listen=0.0.0.0:8082";
    assert_eq!(agent(&["--role=messenger", everywhere]), (Some("0.0.0.0:8082".into()), true));
    assert_eq!(agent(&["--role=worker"]), (None, false), "the environment is shared");
    let off = ["--role=messenger", "--tls=off", "--listen=127.0.0.1:1"];
    assert_eq!(agent(&[&off[..], &["--gateway-listen=127.0.0.1:0"]].concat()).0.as_deref(), Some("127.0.0.1:0"));
    for (wrong, words) in [
        (vec!["--role=worker", everywhere], "--gateway-listen is for messengers"),
        (vec!["--role=guardian", "--webhooks=f"], "--webhooks is for messengers"),
        ([&off[..], &[everywhere]].concat(), "without TLS"),
        (vec!["--role=messenger", "--gateway-listen=8082"], "give host:port"),
    ] {
        let error = read(&wrong).expect_err("it is wrong").to_string();
        assert!(error.contains(words), "{error}");
    }
}
