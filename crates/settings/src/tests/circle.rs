//! Round trip: settings that are written are read back unchanged.

use std::{collections::BTreeSet, os::unix::ffi::OsStringExt, time::Duration};

use proptest::prelude::*;

use super::*;

const EVERY_ADDRESS_HOST: &str = "0.0.0.0";

/// A number within bounds, often at the edges.
fn within<T>(least: T, most: T) -> impl Strategy<Value = T>
where
    T: Copy + std::fmt::Debug + 'static,
    std::ops::RangeInclusive<T>: Strategy<Value = T>,
{
    prop_oneof![Just(least), Just(most), least..=most]
}

fn of_number<T>(defined: Number<T>) -> impl Strategy<Value = T>
where
    T: Copy + std::fmt::Debug + 'static,
    std::ops::RangeInclusive<T>: Strategy<Value = T>,
{
    prop_oneof![Just(defined.default), within(defined.least, defined.most)]
}

fn between(least: Duration, most: Duration) -> impl Strategy<Value = Duration> {
    let (least, most) = (least.as_nanos() as u64, most.as_nanos() as u64);
    let whole = |unit: u64| move |nanos: u64| (nanos / unit * unit).max(least);
    let nanos = prop_oneof![
        within(least, most),
        (least..=most).prop_map(whole(1_000)),
        (least..=most).prop_map(whole(1_000_000)),
        (least..=most).prop_map(whole(1_000_000_000)),
    ];
    nanos.prop_map(Duration::from_nanos)
}

fn of_span(defined: Span) -> impl Strategy<Value = Duration> {
    prop_oneof![Just(defined.default), between(defined.least, defined.most)]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[-_.A-Za-z0-9]{1,12}", "[-_.A-Za-z0-9]{253}"]
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("127.0.0.1".to_owned()),
        Just("[::1]".to_owned()),
        Just(EVERY_ADDRESS_HOST.to_owned()),
        "[a-z][-.a-z0-9]{0,30}[a-z0-9]",
        "[a-z]{253}",
    ]
}

fn address(least_port: u16) -> impl Strategy<Value = String> {
    (host(), within(least_port, u16::MAX)).prop_map(|(host, port)| format!("{host}:{port}"))
}

fn local_address() -> impl Strategy<Value = String> {
    let host = prop_oneof![Just("localhost"), Just("127.0.0.1"), Just("127.8.9.1"), Just("[::1]")];
    (host, any::<u16>()).prop_map(|(host, port)| format!("{host}:{port}"))
}

/// A text with everything that shells, JSON and Kubernetes give a special meaning.
fn odd_text() -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        Just("$"),
        Just("$(POD_IP)"),
        Just("$$"),
        Just("\""),
        Just("'"),
        Just("\\"),
        Just(","),
        Just("="),
        Just("--"),
        Just("\n"),
        Just("漢字"),
        Just("http"),
    ];
    let word = prop_oneof![odd.prop_map(str::to_owned), "[ -~]{1,8}", any::<char>().prop_map(String::from)];
    prop::collection::vec(word, 1..6).prop_map(|words| words.concat())
}

fn specialization() -> impl Strategy<Value = String> {
    let text = odd_text().prop_map(|text| {
        let kept: String = text.chars().filter(|c| !c.is_control() && *c != ',').collect();
        kept.trim().to_owned()
    });
    prop_oneof![text, "[a-z]{253}"].prop_filter("a name has characters", |name| !name.is_empty())
}

/// Distinct items, in any order.
fn distinct(item: impl Strategy<Value = String>, most: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(item, 0..=most).prop_map(|items| {
        let mut seen = BTreeSet::new();
        items.into_iter().filter(|item| seen.insert(item.clone())).collect()
    })
}

fn executor() -> impl Strategy<Value = ExecutorSpec> {
    let value_from = odd_text().prop_map(|env| HeaderSource { env });
    let header = (odd_text(), prop::option::of(odd_text()), prop::option::of(odd_text()), prop::option::of(value_from));
    let header = header.prop_map(|(name, value, prefix, value_from)| HeaderSpec { name, value, prefix, value_from });
    let http = (odd_text(), prop::option::of(odd_text()), prop::collection::vec(header, 0..4));
    prop_oneof![
        prop::collection::vec(odd_text(), 0..5).prop_map(|argv| ExecutorSpec::Command(CommandSpec { argv })),
        http.prop_map(|(url, health_path, headers)| ExecutorSpec::Http(HttpSpec { url, health_path, headers })),
        Just(ExecutorSpec::Worker {}),
        Just(ExecutorSpec::Echo {}),
    ]
}

/// What is done with messages, which fits the executor.
fn messages() -> impl Strategy<Value = Option<MessagesSpec>> {
    prop_oneof![
        Just(None),
        Just(Some(MessagesSpec::Inbox {})),
        Just(Some(MessagesSpec::Worker {})),
        prop::collection::vec(odd_text(), 0..5).prop_map(|argv| Some(MessagesSpec::Command(CommandSpec { argv }))),
        odd_text().prop_map(|url| Some(MessagesSpec::Http(MessagesHttpSpec { url }))),
    ]
}

fn role() -> impl Strategy<Value = AgentRole> {
    prop_oneof![
        Just(AgentRole::Worker),
        Just(AgentRole::Specialist),
        Just(AgentRole::Messenger),
        Just(AgentRole::Guardian),
    ]
}

/// TLS settings that go with this listening address.
fn tls(of_loopback: TlsMode, listen: &str) -> TlsMode {
    match local_port(listen) {
        None if of_loopback == TlsMode::Off => TlsMode::Strict,
        _ => of_loopback,
    }
}

fn mode() -> impl Strategy<Value = TlsMode> {
    prop_oneof![Just(TlsMode::Strict), Just(TlsMode::Permissive), Just(TlsMode::Off)]
}

fn file() -> impl Strategy<Value = PathBuf> {
    "[!-~]([ -~]{0,20}[!-~])?".prop_map(PathBuf::from)
}

fn enrolment() -> impl Strategy<Value = EnrolmentConfig> {
    let proof = prop_oneof![
        Just(JoinProof::None),
        "[!-~]{1,40}".prop_map(JoinProof::Token),
        file().prop_map(JoinProof::Secret),
        file().prop_map(JoinProof::ServiceAccount),
    ];
    (prop::option::of(file()), proof).prop_map(|(trust, proof)| EnrolmentConfig { trust, proof })
}

fn authority() -> impl Strategy<Value = AuthorityConfig> {
    let enrolment = prop::option::of(prop_oneof![Just(Enrolment::Proof), Just(Enrolment::Open)]);
    let names = ("[-_.a-z0-9]{1,12}", name());
    let (rights, join) = (prop::option::of(file()), prop::option::of(file()));
    (prop::option::of(file()), enrolment, names, rights, join).prop_map(
        |(directory, enrolment, (trust_domain, namespace), rights, join)| AuthorityConfig {
            directory,
            enrolment,
            trust_domain,
            namespace,
            rights,
            join,
        },
    )
}

fn agent_settings() -> impl Strategy<Value = Process> {
    let who = (name(), name(), role(), address(0), distinct(address(1), MAX_COORDINATORS));
    let pool = prop::option::of((name(), of_number(settings::POOL_REPLICAS), of_number(settings::POOL_STANDBY)));
    let where_it_is = (prop::option::of(address(0)), any::<bool>(), prop::option::of(address(0)), local_address());
    let how = (
        distinct(specialization(), settings::MAX_SPECIALIZATIONS),
        of_number(settings::SLOTS),
        of_span(settings::DRAIN_TIMEOUT),
    );
    let security = (mode(), enrolment());
    let store = prop::option::of("(s3|gs)://[a-z0-9]{1,9}(/[a-z0-9]{1,9})?");
    let files = (prop::option::of(data()), prop::option::of(local_address()), prop::option::of(data()), store);
    let rest = (security, files, messages());
    (who, pool, where_it_is, how, executor(), rest).prop_map(|(who, pool, where_it_is, how, executor, rest)| {
        let (security, files, messages) = rest;
        let (name, cluster_id, role, listen, mut coordinators) = who;
        coordinators.push("coordinator:1".into());
        let mut config =
            AgentConfig::new(name, cluster_id, role, listen, coordinators.split_off(coordinators.len() / 2));
        (config.tls, config.enrolment) = (tls(security.0, &config.listen), security.1);
        (config.data, config.object_store) = (files.0, files.3);
        if role == AgentRole::Messenger {
            (config.gateway_listen, config.webhooks) = (files.1, files.2);
        }
        (config.pool, config.pool_replicas, config.pool_standby) = pool.unwrap_or_default();
        (config.specializations, config.slots, config.drain_timeout) = how;
        config.messages = messages;
        config.contribute = match config.slots % 3 {
            0 => Contribute::default(),
            1 => Contribute::NOTHING,
            _ => Contribute { cpu: Some(u64::from(config.slots)), ..Contribute::default() },
        };
        config.on_anomaly = OnAnomaly::ALL[config.slots as usize % OnAnomaly::ALL.len()];
        config.anomaly_warm_up = Duration::from_secs(10 + u64::from(config.slots));
        if executor != (ExecutorSpec::Worker {}) && config.messages == Some(MessagesSpec::Worker {}) {
            config.messages = None;
        }
        if config.specializations.is_empty() && role == AgentRole::Specialist {
            config.role = AgentRole::Worker;
        }
        let (advertise, by_name, metrics_listen, worker_listen) = where_it_is;
        (config.metrics_listen, config.worker_listen) = (metrics_listen, worker_listen);
        let (host, port) = config.listen.rsplit_once(':').expect("an address has a port");
        (config.advertise, config.advertises_host_name) = match advertise {
            // The host name is then the only source of the address.
            _ if by_name && host == EVERY_ADDRESS_HOST => (Some(format!("machine-7:{port}")), true),
            None if host == EVERY_ADDRESS_HOST => (Some(format!("10.0.0.1:{port}")), false),
            other => (other, false),
        };
        Process::Agent(config, executor)
    })
}

/// At least one byte, without bytes that variables and paths cannot contain.
fn data() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(1..=u8::MAX, 1..20).prop_map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
}

fn session() -> impl Strategy<Value = (Duration, Duration)> {
    let fits = "a session has room for its heartbeats";
    (of_span(settings::HEARTBEAT_INTERVAL), of_span(settings::SESSION_TIMEOUT))
        .prop_filter(fits, |(interval, timeout)| *interval * settings::HEARTBEATS_PER_SESSION <= *timeout)
}

fn weights() -> impl Strategy<Value = Weights> {
    let of = |term: Term| within(term.least, term.most);
    (of(settings::SPECIALIZATION_TERM), of(settings::LOAD_TERM), of(settings::PERFORMANCE_TERM))
        .prop_map(|(specialization, load, performance)| Weights { specialization, load, performance })
}

fn limits() -> impl Strategy<Value = FleetLimits> {
    let (queued, tasks) = (of_number(settings::MAX_QUEUED), of_number(settings::MAX_TASKS));
    let (bytes, ttl) = (of_number(settings::MAX_BYTES), of_span(settings::RESULT_TTL));
    let window = prop::option::of(of_span(settings::IDEMPOTENCY_WINDOW));
    let (queued, tasks) = (prop::option::of(queued), prop::option::of(tasks));
    let recent = prop::option::of(of_number(settings::RECENT_RESULTS));
    let limits = (queued, tasks, prop::option::of(bytes), prop::option::of(ttl), window, recent);
    limits.prop_map(|(max_queued, max_tasks, max_bytes, result_ttl, idempotency_window, recent_results)| FleetLimits {
        max_queued,
        max_tasks,
        max_bytes,
        result_ttl,
        idempotency_window,
        recent_results,
    })
}

fn ballots() -> impl Strategy<Value = BallotDefaults> {
    let share = (within(1, u32::MAX), within(1, u32::MAX))
        .prop_map(|(one, other)| Fraction { numerator: one.min(other), denominator: one.max(other) });
    let threshold = prop_oneof![Just(Fraction::TWO_THIRDS), share];
    (threshold, of_span(settings::BALLOT_DEADLINE))
        .prop_map(|(threshold, deadline)| BallotDefaults { threshold, deadline })
}

fn coordinator_settings() -> impl Strategy<Value = Process> {
    let who = (name(), name(), address(1), prop::option::of(address(0)), prop::option::of(address(0)), data());
    let members = distinct(address(1), 7);
    let election =
        (between(MIN_INTERVAL, settings::MAX_DURATION / 2), between(MIN_INTERVAL, settings::MAX_DURATION / 2));
    let times = (session(), of_span(settings::HEALTH_CHECK_INTERVAL), of_span(settings::DISCONNECT_GRACE), election);
    let numbers = (
        of_number(settings::MAX_ATTEMPTS),
        weights(),
        limits(),
        of_number(settings::SNAPSHOT_AFTER),
        prop::option::of(of_number(settings::AGENT_COUNT)),
        ballots(),
    );
    (who, members, times, numbers, mode(), authority()).prop_map(|(who, members, times, numbers, mode, authority)| {
        let (name, cluster_id, listen, advertise, metrics_listen, data) = who;
        let mut config = CoordinatorConfig::new(name, cluster_id, listen);
        let members = members.into_iter().enumerate().map(|(index, address)| (format!("c-{index}"), address));
        config.initial_coordinators = members.collect();
        config.tls = tls(mode, &config.listen);
        let several = config.initial_coordinators.len() > 1 && config.tls != TlsMode::Off;
        config.authority = AuthorityConfig {
            directory: authority.directory.or_else(|| several.then(|| PathBuf::from("/ca"))),
            rights: authority.rights.filter(|_| config.tls != TlsMode::Off),
            ..authority
        };
        let must_say = config.listen.starts_with(EVERY_ADDRESS_HOST) || config.name.starts_with("c-");
        config.advertise = advertise.or_else(|| must_say.then(|| "10.0.0.1:1".to_owned()));
        (config.metrics_listen, config.data) = (metrics_listen, data);
        let ((heartbeat_interval, session_timeout), health_check_interval, disconnect_grace, (min, more)) = times;
        (config.heartbeat_interval, config.session_timeout) = (heartbeat_interval, session_timeout);
        (config.health_check_interval, config.disconnect_grace) = (health_check_interval, disconnect_grace);
        (config.election_timeout_min, config.election_timeout_max) = (min, min + more);
        let (max_attempts, weights, limits, snapshot_after, expected_agents, ballots) = numbers;
        (config.max_attempts, config.weights, config.limits) = (max_attempts, weights, limits);
        (config.snapshot_after, config.expected_agents, config.ballots) = (snapshot_after, expected_agents, ballots);
        Process::Coordinator(config)
    })
}

fn startup() -> impl Strategy<Value = Startup> {
    let log_format = prop_oneof![Just(LogFormat::Text), Just(LogFormat::Json)];
    let process = prop_oneof![agent_settings().boxed(), coordinator_settings().boxed()];
    (process, log_format, any::<bool>()).prop_map(|(process, log_format, exit_with_parent)| Startup {
        process,
        log_format,
        exit_with_parent,
    })
}

fn read_back(arguments: Vec<String>, environment: &[(&'static str, OsString)]) -> Result<Startup, ConfigError> {
    let arguments = std::iter::once("robeing-agent".to_owned()).chain(arguments).map(OsString::from);
    let value = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    parse(arguments, &value)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_environment_is_read_as_what_it_was_written_of(startup in startup()) {
        // Only a flag can set this.
        let startup = Startup { exit_with_parent: false, ..startup };
        let read = read_back(vec![], &startup.to_env()).unwrap_or_else(|error| panic!("{error}"));
        prop_assert_eq!(read, startup);
    }

    #[test]
    fn a_command_line_is_read_as_what_it_was_written_of(startup in startup()) {
        let CommandLine { arguments, environment } = startup.to_args();
        let is_text = |said: &Said| said.value.to_str().is_some() && said.by_flag;
        prop_assert!(!environment.iter().any(is_text), "{:?}", environment);
        let environment: Vec<_> = environment.into_iter().map(|said| (said.variable, said.value)).collect();
        let read = read_back(arguments, &environment).unwrap_or_else(|error| panic!("{error}"));
        prop_assert_eq!(read, startup);
    }

    #[test]
    fn credentials_are_in_no_command_line(config in agent_settings(), user in "[a-z]{8}") {
        let Process::Agent(config, _) = config else { unreachable!("it is an agent") };
        let secret = format!("secret-{user}");
        let http = HttpSpec { url: format!("http://{secret}@a/"), health_path: None, headers: vec![] };
        let process = Process::Agent(config, ExecutorSpec::Http(http));
        let startup = Startup { process, log_format: LogFormat::Text, exit_with_parent: true };
        let line = startup.to_args();
        let shown = line.arguments.concat() + &format!("{line:?}");
        prop_assert!(!shown.contains(&secret));
    }
}

#[test]
fn the_defaults_that_help_shows_are_those_that_are_taken() {
    let read = |setting: &Setting| {
        let shown = setting.shown_default().expect("it has a default");
        (setting.variable(), OsString::from(shown))
    };
    let said = [
        settings::CLUSTER_ID,
        settings::ELECTION_TIMEOUT,
        settings::WEIGHTS,
        settings::BALLOT_THRESHOLD,
        settings::TLS,
        settings::TRUST_DOMAIN,
        settings::NAMESPACE,
    ];
    let said = said.map(|setting| read(&setting));
    let who = ["--role=coordinator", "--name=c", "--advertise=a:1"].map(str::to_owned);
    let of = |environment: &[_]| read_back(who.to_vec(), environment).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(of(&said), of(&[]));
    assert_eq!(of(&[read(&settings::LISTEN), read(&settings::LOG_FORMAT)]), of(&[]));
    let said = [settings::EXECUTOR, settings::WORKER_LISTEN].map(|setting| read(&setting));
    let who = ["--role=worker", "--name=w", "--advertise=a:1"].map(str::to_owned);
    let of = |environment: &[_]| read_back(who.to_vec(), environment).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(of(&said), of(&[]));
}

#[test]
fn every_name_is_of_one_setting_alone() {
    let mut seen = BTreeSet::new();
    for setting in settings::SETTINGS.iter().map(|defined| defined.setting()) {
        assert!(seen.insert(setting.flag), "--{}", setting.flag);
        assert!(setting.env.iter().all(|name| seen.insert(name)), "{:?}", setting.env);
    }
}

#[test]
fn durations_are_written_as_kubernetes_writes_them() {
    for (nanos, text) in [
        (0, "0s"),
        (500_000_000, "500ms"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h"),
        (500_000, "0.500ms"),
        (1_001_250_000, "1s1.250ms"),
        (1, "0.000001ms"),
    ] {
        assert_eq!(text::duration(Duration::from_nanos(nanos)), text);
    }
    assert_eq!(text::seconds(Duration::from_millis(90_900)), "90s");
}
