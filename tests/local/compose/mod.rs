//! `compose.yaml` without Docker: its services as processes on this machine, with exactly their environment, and its
//! image as the Dockerfile and `make image` define it.

mod image;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use robeing_client::{ClientIdentity, FleetClient, Security, Settings, SubmitEvent, SubmitOptions, new_task_id};
use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, certificate_pem};
use robeing_proto::v1::{AgentState, Consistency, GetTaskRequest, Task, TaskSpec, TaskState};
use robeing_settings::{DEFAULT_DATA, DEFAULT_NAMESPACE, DEFAULT_TRUST_DOMAIN};
use robeing_tests::{
    ports::Ports,
    processes::Process,
    program::{AGENT, CLI, program},
    wait::{check, eventually},
};
use serde_json::{Map, Value};
use tempfile::TempDir;

/// The ports of the API, of the probes, and of attaching processes.
const PORTS: [&str; 3] = ["8080", "9090", "8081"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("can't read {path}: {error}"))
}

/// The cluster of `compose.yaml`.
const CLUSTER: &str = "robeing-cluster-01";
/// The certificate authority of a coordinator's own, in its data directory.
const AUTHORITY: &str = "authority";
const COMPOSE: &str = "compose.yaml";
const CLASSIC: &str = "examples/classic/docker-compose.yml";

fn compose() -> Value {
    parsed(COMPOSE)
}

fn parsed(path: &str) -> Value {
    serde_yaml::from_str(&read(path)).unwrap_or_else(|error| panic!("{path} is not YAML: {error}"))
}

/// Returns the environment of a service, written as a map or as a list.
fn environment_of(service: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().expect("a quoted value, which YAML reads as text").to_owned();
    let said = &service["environment"];
    let pair = |line: &Value| {
        let line = text(line);
        let (name, value) = line.split_once('=').expect("NAME=VALUE");
        (name.to_owned(), value.to_owned())
    };
    match said.as_array() {
        Some(lines) => lines.iter().map(pair).collect(),
        None => {
            said.as_object().expect("an environment").iter().map(|(name, value)| (name.clone(), text(value))).collect()
        }
    }
}

fn services(compose: &Value) -> &Map<String, Value> {
    compose["services"].as_object().expect("there are services")
}

fn words(value: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().expect("a word").to_owned();
    value.as_array().expect("a list").iter().map(word).collect()
}

/// A volume in a service's container.
struct Mount {
    volume: String,
    path: String,
    read_only: bool,
}

fn mounts(service: &Value) -> Vec<Mount> {
    let mount = |mount: &Value| {
        let text = mount.as_str().expect("a mount is text");
        let (volume, path, mode) = match text.split(':').collect::<Vec<_>>()[..] {
            [volume, path] => (volume, path, "rw"),
            [volume, path, mode] => (volume, path, mode),
            _ => panic!("{text} is not VOLUME:PATH or VOLUME:PATH:MODE"),
        };
        Mount { volume: volume.to_owned(), path: path.to_owned(), read_only: mode == "ro" }
    };
    service["volumes"].as_array().into_iter().flatten().map(mount).collect()
}

/// Returns the services that must be healthy before this one is started.
fn awaited(service: &Value) -> Vec<&String> {
    let needed = service["depends_on"].as_object().into_iter().flatten();
    needed.filter(|(_, how)| how["condition"] == "service_healthy").map(|(name, _)| name).collect()
}

/// Returns the credentials of a client that the authority in a directory certifies.
fn certified_by(authority: &Path) -> Security {
    let read = |name: &str| {
        let file = authority.join(name);
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("can't read {}: {error}", file.display()))
    };
    let trust = read("ca.crt");
    let issuer = Authority::from_pem(&trust, &read("ca.key")).expect("an authority");
    let realm = Realm::new(DEFAULT_TRUST_DOMAIN, DEFAULT_NAMESPACE, CLUSTER).expect("names of a fleet");
    let id = realm.member(PeerRole::Client, "test").expect("the name of a client");
    let key = PrivateKey::generate().expect("a key can be made");
    let request = SigningRequest::from_der(&key.request().expect("it can be signed")).expect("a request");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis() as u64;
    let issued = issuer.issue(&request, &id, &[], now, LEAF_LIFETIME).expect("a certificate can be made");
    let certificate = certificate_pem(&issued.certificate);
    let certificate = Some((certificate, key.to_pem()));
    let identity = ClientIdentity { cluster: CLUSTER.into(), trust, certificate, token: None };
    Security::with_identity(&identity).expect("TLS can use it")
}

/// The services of compose.yaml as local processes: each of their host names and ports is replaced by a port of the
/// loopback address, and each volume by a temporary directory.
struct Composed {
    running: BTreeMap<String, Process>,
    compose: Value,
    ports: Ports,
    dir: TempDir,
}

impl Composed {
    async fn start() -> Self {
        Self::of(compose()).await
    }

    /// Starts the services, those that others wait for first.
    async fn of(compose: Value) -> Self {
        let ports = Ports::take(PORTS.len() * services(&compose).len());
        let dir = tempfile::Builder::new().prefix("robeing-test-").tempdir().expect("a temporary directory");
        let mut composed = Self { running: BTreeMap::new(), compose, ports, dir };
        let names: Vec<String> = services(&composed.compose).keys().cloned().collect();
        let (first, others): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| awaited(&composed.compose["services"][name]).is_empty());
        for name in first.iter().chain(&others) {
            for other in awaited(&composed.compose["services"][name]) {
                composed.healthy(other, true).await;
            }
            composed.start_one(name);
        }
        composed
    }

    fn start_one(&mut self, name: &str) {
        let mut arguments = vec!["-i".to_owned()];
        arguments.extend(self.environment(name).into_iter().map(|(key, value)| format!("{key}={value}")));
        arguments.push(program(AGENT).display().to_string());
        let log = self.dir.path().join(format!("{name}.log"));
        // `env` execs the program with no variables but these.
        let process = Process::start(name, Path::new("/usr/bin/env"), &arguments, &log);
        self.running.insert(name.to_owned(), process);
    }

    /// Returns the environment in compose.yaml, with this machine's addresses, and with what a container would add to
    /// it.
    fn environment(&self, name: &str) -> BTreeMap<String, String> {
        let said = environment_of(&self.compose["services"][name]);
        let mut environment: BTreeMap<String, String> =
            said.into_iter().map(|(key, value)| (key, self.localized(name, &value))).collect();
        for given in ["ROBEING_LISTEN", "ROBEING_DATA"] {
            assert!(!environment.contains_key(given), "{given} is set by this test instead of the image");
        }
        environment.insert("ROBEING_LISTEN".into(), self.address(name, "8080"));
        // Every container has its own host name, loopback interface and file system.
        environment.insert("HOSTNAME".into(), format!("{name}-host"));
        environment.insert("ROBEING_WORKER_LISTEN".into(), self.address(name, "8081"));
        let data = self.kept_data(name).unwrap_or_else(|| self.dir.path().join(name));
        environment.insert("ROBEING_DATA".into(), data.display().to_string());
        environment
    }

    /// Returns this machine's directory for a volume, and creates it as Docker would.
    fn volume(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join("volumes").join(name);
        fs::create_dir_all(&dir).expect("the test's directory can be written to");
        dir
    }

    /// Returns the directory with the data of a service that keeps it on a volume.
    fn kept_data(&self, service: &str) -> Option<PathBuf> {
        let mounts = mounts(&self.compose["services"][service]);
        mounts.into_iter().find(|mount| mount.path == DEFAULT_DATA).map(|mount| self.volume(&mount.volume))
    }

    /// Returns this machine's address for a port of a service.
    fn address(&self, service: &str, port: &str) -> String {
        let service = services(&self.compose).keys().position(|known| known == service).expect("a service");
        let port = PORTS.iter().position(|known| *known == port).expect("a port of the image");
        format!("127.0.0.1:{}", self.ports.numbers()[service * PORTS.len() + port])
    }

    /// Returns a text of a service with its addresses and the paths of its volumes replaced.
    fn localized(&self, service: &str, text: &str) -> String {
        let mut text = text.to_owned();
        for Mount { volume, path, .. } in mounts(&self.compose["services"][service]) {
            text = text.replace(&path, &self.volume(&volume).display().to_string());
        }
        for port in PORTS {
            for own in ["0.0.0.0", "127.0.0.1"] {
                text = text.replace(&format!("{own}:{port}"), &self.address(service, port));
            }
            for other in services(&self.compose).keys() {
                text = text.replace(&format!("{other}:{port}"), &self.address(other, port));
            }
        }
        text
    }

    /// Runs a service's health check as Docker would.
    fn health(&self, service: &str) -> Output {
        let test = words(&self.compose["services"][service]["healthcheck"]["test"]);
        let [how, path, arguments @ ..] = &test[..] else { panic!("{test:?} is not a command") };
        assert_eq!((how.as_str(), path.as_str()), ("CMD", "/robeing-agent"), "the image has no shell");
        let arguments = arguments.iter().map(|argument| self.localized(service, argument));
        Command::new(program(AGENT)).args(arguments).env_clear().output().expect("the agent starts")
    }

    async fn healthy(&self, service: &str, healthy: bool) {
        let expected = format!("{service} healthy: {healthy}");
        eventually(&expected, async || {
            let output = self.health(service);
            check(output.status.success() == healthy, (), output)
        })
        .await;
    }

    /// Runs `/robeing` with these arguments and this input in a service's container, as `docker compose exec` would.
    fn exec(&self, service: &str, line: &str, input: &str) -> Output {
        let mut command = Command::new(program(CLI));
        command.args(line.split_whitespace().map(|word| self.localized(service, word)));
        command.env_clear().envs(self.environment(service));
        // Stands for the default endpoint, port 8080 of the container.
        command.env("ROBEING_ENDPOINT", self.address(service, "8080"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        // A command that reads no input may have ended already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("it ends")
    }

    /// Creates a client that the coordinator's authority certifies. Without a volume, enrolment is open, and the client
    /// needs no certificate.
    fn client(&self) -> FleetClient {
        let security = match self.kept_data("coordinator") {
            Some(data) => certified_by(&data.join(AUTHORITY)),
            None => Security::opportunistic().expect("TLS can be set up"),
        };
        self.client_with(Settings { security, ..Settings::default() })
    }

    fn client_with(&self, settings: Settings) -> FleetClient {
        FleetClient::new(&[self.address("coordinator", "8080")], settings).expect("the address is well formed")
    }

    /// Checks that a client with these credentials is refused.
    async fn refuses(&self, security: Security) {
        let settings = Settings { security, request_timeout: Duration::from_secs(1), ..Settings::default() };
        let answer = self.client_with(settings).status(Consistency::Linearizable).await;
        assert!(answer.is_err(), "{answer:?}");
    }

    /// Runs a task until it ends, and returns it.
    async fn done(&self, kind: &str, input: &str) -> Task {
        let id = new_task_id();
        let input = input.to_owned().into();
        let task = TaskSpec { id: id.clone(), kind: kind.into(), input, ..TaskSpec::default() };
        let options = SubmitOptions { wait: true, ..SubmitOptions::default() };
        let accept = |event| {
            if let SubmitEvent::Submitted { result, .. } = event {
                assert_eq!(result.refusal, None, "the task is accepted");
            }
        };
        let submitted = self.client().submit_many(vec![task], options, accept).await;
        submitted.unwrap_or_else(|error| panic!("the fleet did not accept the task: {error}"));
        let request = GetTaskRequest { id, ..GetTaskRequest::default() };
        self.client().get_task(request).await.unwrap_or_else(|error| panic!("no task: {error}"))
    }
}

impl Drop for Composed {
    fn drop(&mut self) {
        for (name, process) in self.running.iter_mut().rev() {
            if std::thread::panicking() {
                eprintln!("--- the log of {name}\n{}", process.log());
            }
            process.kill();
        }
    }
}

#[tokio::test]
async fn the_services_do_the_tasks_of_both_specializations() {
    let fleet = Composed::start().await;
    for service in ["coordinator", "data", "communication"] {
        fleet.healthy(service, true).await;
    }
    let status = fleet.client().status(Consistency::Linearizable).await.expect("the coordinator answers");
    assert_eq!((status.cluster_id.as_str(), status.leader.as_str()), (CLUSTER, "coordinator"));
    for (kind, agent) in [("data_processing", "data"), ("communication", "communication")] {
        let task = fleet.done(kind, "hello").await;
        assert_eq!(task.state(), TaskState::Succeeded, "{task:#?}");
        assert_eq!(task.output[..], *b"hello", "{task:#?}");
        let agents: Vec<&str> = task.attempts.iter().map(|attempt| attempt.agent.as_str()).collect();
        assert_eq!(agents, [agent], "the specialist of its kind runs it: {task:#?}");
    }
}

#[tokio::test]
async fn the_commands_in_the_header_work_and_nobody_without_a_certificate_is_served() {
    let fleet = Composed::start().await;
    for service in ["data", "communication"] {
        fleet.healthy(service, true).await;
    }
    let text = read(COMPOSE);
    let header = text.lines().take_while(|line| line.starts_with('#'));
    let commands: Vec<&str> =
        header.filter_map(|line| Some(line.split_once(" coordinator /robeing ")?.1.trim())).collect();
    let [submit, agents] = commands[..] else { panic!("the header has other commands than two: {commands:?}") };
    let submitted = fleet.exec("coordinator", submit, "hello\n");
    assert!(submitted.status.success() && submitted.stdout == b"hello\n", "{submitted:?}");
    let listed = fleet.exec("coordinator", agents, "");
    let table = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.status.success() && table.contains("communication"), "{listed:?}");

    fleet.refuses(Security::opportunistic().expect("TLS can be set up")).await;
    fleet.refuses(Security::plain()).await;
}

#[tokio::test]
async fn what_was_done_is_still_known_after_the_coordinator_was_killed() {
    let mut fleet = Composed::start().await;
    fleet.healthy("data", true).await;
    let task = fleet.done("data_processing", "kept").await;
    fleet.running.get_mut("coordinator").expect("it was started").kill();
    fleet.healthy("coordinator", false).await;
    // As `restart: unless-stopped` does, on the same volume.
    fleet.start_one("coordinator");
    fleet.healthy("coordinator", true).await;
    let request = GetTaskRequest { id: task.id, ..GetTaskRequest::default() };
    let found = fleet.client().get_task(request).await.expect("the task is known");
    assert_eq!(found.output[..], *b"kept");
    eventually("the agents, back again", async || {
        let agents = fleet.client().list_agents(false, Consistency::Linearizable).await.map_err(|e| e.to_string())?;
        check(agents.len() == 2, (), format!("{agents:?}"))
    })
    .await;
}

#[tokio::test]
async fn the_classic_file_gives_a_fleet_that_works_once_a_process_attaches() {
    let fleet = Composed::of(parsed(CLASSIC)).await;
    let agents = ["worker-1-host", "worker-2-host"];
    eventually("both workers, live", async || {
        let seen = fleet.client().list_agents(false, Consistency::Linearizable).await.map_err(|e| e.to_string())?;
        let live = |name: &str| seen.iter().any(|agent| agent.name == *name && agent.state() == AgentState::Live);
        check(agents.iter().all(|name| live(name)), (), format!("{seen:?}"))
    })
    .await;
    let status = fleet.client().status(Consistency::Linearizable).await.expect("the coordinator answers");
    assert_eq!((status.cluster_id.as_str(), status.leader.as_str()), ("default", "coordinator-host"));
    fleet.refuses(Security::plain()).await;

    let line = [
        format!("ROBEING_WORKER_ADDRESS={}", fleet.address("worker-1", "8081")),
        program("robeing-test-worker").display().to_string(),
        "cat".to_owned(),
    ];
    let log = fleet.dir.path().join("process.log");
    let mut process = Process::start("process", Path::new("/usr/bin/env"), &line, &log);
    let task = |n: usize| TaskSpec {
        id: new_task_id(),
        kind: "work".into(),
        input: n.to_string().into(),
        ..TaskSpec::default()
    };
    let tasks: Vec<TaskSpec> = (0..100).map(task).collect();
    let inputs: BTreeMap<_, _> = tasks.iter().map(|task| (task.id.clone(), task.input.clone())).collect();
    let mut done = BTreeMap::new();
    let options = SubmitOptions { wait: true, ..SubmitOptions::default() };
    let client = fleet.client();
    let submitted = client.submit_many(tasks, options, |event| {
        if let SubmitEvent::Finished { task, .. } = event {
            assert_eq!(task.state(), TaskState::Succeeded, "{task:?}");
            done.insert(task.id.clone(), task.output.clone());
        }
    });
    submitted.await.unwrap_or_else(|error| panic!("{error}: {}", process.log()));
    assert_eq!(done, inputs);
    process.kill();
}

/// `start_interval` needs Engine 25; older engines refuse the whole file because of it.
#[test]
fn older_engines_take_the_health_checks() {
    for (name, service) in services(&compose()) {
        let check = &service["healthcheck"];
        assert!(check["test"].is_array() && check["start_interval"].is_null(), "{name}: {check}");
    }
}

#[test]
fn a_service_has_no_right_that_it_does_not_need() {
    let compose = compose();
    for (name, service) in services(&compose) {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(words(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(words(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert_eq!(words(&service["networks"]), ["fleet"], "{name}");
        for port in service["ports"].as_array().into_iter().flatten() {
            let port = port.as_str().expect("a port is text");
            assert!(port.starts_with("127.0.0.1:"), "{name} is open to other machines: {port}");
        }
        for power in ["privileged", "user", "network_mode", "pid"] {
            assert!(service[power].is_null(), "{name}: {power}");
        }
        assert_eq!(service["image"], format!("robeing:{}", env!("CARGO_PKG_VERSION")), "{name}");
    }
    assert_eq!(compose["networks"]["fleet"]["driver"], "bridge");
    assert!(compose["volumes"]["data"].is_object());
}

#[test]
fn only_the_coordinator_writes_what_agents_enrol_with() {
    let compose = compose();
    for (name, service) in services(&compose) {
        for Mount { volume, read_only, .. } in mounts(service) {
            assert_eq!(read_only, name != "coordinator", "{name}: {volume}");
            assert!(compose["volumes"][&volume].is_object(), "{name}: {volume}");
            assert!(volume == "join" || name == "coordinator", "{name} sees {volume}");
        }
    }
}

/// Returns the flags and the environment variables in the agent's help.
fn settings_of_the_agent() -> Vec<(String, Vec<String>)> {
    let output = Command::new(program(AGENT)).arg("--help").env_clear().output().expect("the agent starts");
    let help = String::from_utf8(output.stdout).expect("text");
    let mut settings = Vec::new();
    for part in help.split("\n      --").skip(1) {
        let flag = part.split([' ', '\n']).next().expect("a flag").to_owned();
        let joined = part.split_whitespace().collect::<Vec<_>>().join(" ");
        let Some(names) = joined.split("[env: ").nth(1).and_then(|rest| rest.split(']').next()) else { continue };
        settings.push((flag, names.split(", ").map(str::to_owned).collect()));
    }
    assert!(settings.len() > 20, "the help lists the settings: {help}");
    settings
}

#[test]
fn every_setting_of_the_agent_is_documented_with_its_names_and_no_other() {
    let document = read("docs/configuration.md");
    let rows: Vec<Vec<&str>> = document
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let documented: Vec<(String, Vec<String>)> = rows
        .iter()
        .map(|row| {
            let names = row[1].split(", ").map(|name| name.trim_matches('`').to_owned()).collect();
            (row[0].trim_matches('`').trim_start_matches("--").to_owned(), names)
        })
        .collect();
    let mut expected = settings_of_the_agent();
    let mut documented_agent: Vec<_> =
        documented.into_iter().filter(|(flag, _)| expected.iter().any(|(known, _)| known == flag)).collect();
    expected.sort();
    documented_agent.sort();
    assert_eq!(documented_agent, expected, "docs/configuration.md and robeing-agent --help");
    assert_eq!(rows.len(), expected.len(), "no row is about a setting that does not exist");
}

#[test]
fn every_variable_of_compose_is_one_of_the_agents() {
    let settings = settings_of_the_agent();
    let compose = compose();
    for (name, service) in services(&compose) {
        for variable in environment_of(service).keys() {
            assert!(settings.iter().any(|(_, names)| names.contains(variable)), "{name}: {variable} is not a setting");
        }
    }
}
