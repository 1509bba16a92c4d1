//! `compose.yaml` without Docker: its services as processes on this machine, with exactly their environment, and its
//! image as the Dockerfile and `make image` define it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use robeing_client::{FleetClient, Settings, SubmitEvent, SubmitOptions, new_task_id};
use robeing_proto::v1::{AgentState, Consistency, GetTaskRequest, Task, TaskSpec, TaskState};
use robeing_tests::{
    ports::Ports,
    processes::Process,
    program::{AGENT, program},
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

/// The services of compose.yaml as local processes: each of their host names and ports is replaced by a port of the
/// loopback address, and the volume by a temporary directory.
struct Composed {
    running: BTreeMap<String, Process>,
    compose: Value,
    ports: Ports,
    dir: TempDir,
}

impl Composed {
    fn start() -> Self {
        Self::of(compose())
    }

    fn of(compose: Value) -> Self {
        let ports = Ports::take(PORTS.len() * services(&compose).len());
        let dir = tempfile::Builder::new().prefix("robeing-test-").tempdir().expect("a temporary directory");
        let mut composed = Self { running: BTreeMap::new(), compose, ports, dir };
        let names: Vec<String> = services(&composed.compose).keys().cloned().collect();
        for name in names {
            composed.start_one(&name);
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
        environment.insert("ROBEING_DATA".into(), self.dir.path().join(name).display().to_string());
        for mount in self.compose["services"][name]["volumes"].as_array().into_iter().flatten() {
            assert_eq!(mount, "data:/var/lib/robeing", "the volume is a coordinator's default data directory");
            environment.insert("ROBEING_DATA".into(), self.dir.path().join("data").display().to_string());
        }
        environment
    }

    /// Returns this machine's address for a port of a service.
    fn address(&self, service: &str, port: &str) -> String {
        let service = services(&self.compose).keys().position(|known| known == service).expect("a service");
        let port = PORTS.iter().position(|known| *known == port).expect("a port of the image");
        format!("127.0.0.1:{}", self.ports.numbers()[service * PORTS.len() + port])
    }

    /// Returns a text of a service with its addresses replaced.
    fn localized(&self, service: &str, text: &str) -> String {
        let mut text = text.to_owned();
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

    fn client(&self) -> FleetClient {
        let endpoints = [self.address("coordinator", "8080")];
        FleetClient::new(&endpoints, Settings::default()).expect("the address is well formed")
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
    let fleet = Composed::start();
    for service in ["coordinator", "data", "communication"] {
        fleet.healthy(service, true).await;
    }
    let status = fleet.client().status(Consistency::Linearizable).await.expect("the coordinator answers");
    assert_eq!((status.cluster_id.as_str(), status.leader.as_str()), ("robeing-cluster-01", "coordinator"));
    for (kind, agent) in [("data_processing", "data"), ("communication", "communication")] {
        let task = fleet.done(kind, "hello").await;
        assert_eq!(task.state(), TaskState::Succeeded, "{task:#?}");
        assert_eq!(task.output[..], *b"hello", "{task:#?}");
        let agents: Vec<&str> = task.attempts.iter().map(|attempt| attempt.agent.as_str()).collect();
        assert_eq!(agents, [agent], "the specialist of its kind runs it: {task:#?}");
    }
}

#[tokio::test]
async fn what_was_done_is_still_known_after_the_coordinator_was_killed() {
    let mut fleet = Composed::start();
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
    let fleet = Composed::of(parsed(CLASSIC));
    let agents = ["worker-1-host", "worker-2-host"];
    eventually("both workers, live", async || {
        let seen = fleet.client().list_agents(false, Consistency::Linearizable).await.map_err(|e| e.to_string())?;
        let live = |name: &str| seen.iter().any(|agent| agent.name == *name && agent.state() == AgentState::Live);
        check(agents.iter().all(|name| live(name)), (), format!("{seen:?}"))
    })
    .await;
    let status = fleet.client().status(Consistency::Linearizable).await.expect("the coordinator answers");
    assert_eq!((status.cluster_id.as_str(), status.leader.as_str()), ("default", "coordinator-host"));

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

/// Returns the value of the line in the Dockerfile's last stage that begins with this instruction.
fn instruction(word: &str) -> String {
    let dockerfile = read("Dockerfile");
    let last_stage = dockerfile.rsplit("\nFROM ").next().expect("there is a stage").to_owned();
    let found = last_stage.lines().find_map(|line| line.strip_prefix(&format!("{word} ")).map(str::to_owned));
    found.unwrap_or_else(|| panic!("the Dockerfile's last stage has no {word}"))
}

/// Returns the commands that `make image` would run.
fn make_image() -> String {
    let make = Command::new("make").args(["--dry-run", "image"]).current_dir(root()).env_remove("MAKEFLAGS").output();
    let output = make.expect("make is installed");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn after<'a>(text: &'a str, flag: &str) -> Vec<&'a str> {
    text.split(&format!("{flag} ")).skip(1).filter_map(|rest| rest.split_whitespace().next()).collect()
}

#[test]
fn the_dockerfile_and_make_image_make_the_same_image() {
    let (dockerfile, make) = (read("Dockerfile"), make_image());
    assert!(!dockerfile.contains("# syntax"), "BuildKit would fetch a frontend from a registry");
    let programs = ["robeing-operator", "robeing-agent", "robeing"];
    let in_docker = dockerfile.split("mkdir -p /image").nth(1).expect("programs are copied to /image");
    for (what, built) in [("the Dockerfile", &dockerfile), ("make image", &make)] {
        assert_eq!(
            after(built, "--bin").into_iter().filter(|bin| *bin != "devkube").collect::<Vec<_>>(),
            programs,
            "{what}"
        );
        assert_eq!(after(built, "--profile"), ["image"], "{what}");
        assert!(built.contains("-unknown-linux-musl"), "{what} links statically");
    }
    for program in programs {
        assert!(in_docker.contains(&format!("target/$target/image/{program}\"")), "the Dockerfile copies {program}");
        assert!(make.contains(&format!("/image/{program}:/{program}:0755")), "make image copies {program}");
    }
    assert_eq!(instruction("USER"), after(&make, "--user")[0]);
    assert_eq!(instruction("USER"), "65532:65532");
    assert_eq!(instruction("ENTRYPOINT"), format!("[\"{}\"]", after(&make, "--entrypoint")[0]));
    assert!(dockerfile.contains("\nFROM scratch\n"), "the image contains nothing else");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(instruction("ARG"), format!("VERSION={version}"));
    let names = ["robeing:latest", "robeing:coordinator", "robeing:worker"];
    assert_eq!(after(&make, "--name")[0], format!("robeing:{version}"));
    assert_eq!(after(&make, "--name")[1..], names, "the names in the classic manifests");
}

#[test]
fn docker_is_sent_the_whole_workspace_and_nothing_else() {
    let ignored = read(".dockerignore");
    let lines: Vec<&str> = ignored.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines[0], "*", "everything is excluded except what is named");
    let sent: Vec<&str> = lines[1..].iter().map(|line| line.strip_prefix('!').expect("named")).collect();
    for needed in ["Cargo.toml", "Cargo.lock", ".cargo"] {
        assert!(sent.contains(&needed), "{needed}");
    }
    let manifest = read("Cargo.toml");
    let members =
        manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("there are members");
    for member in members.split(',').map(|member| member.trim().trim_matches('"')).filter(|member| !member.is_empty()) {
        let top = member.split('/').next().expect("a path");
        assert!(sent.contains(&top), "{member} is part of the workspace but not sent");
    }
    for forbidden in [".git", "target", "."] {
        assert!(!sent.contains(&forbidden), "{forbidden}");
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
