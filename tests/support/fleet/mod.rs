//! A fleet of real processes, started with the command lines that `robeing dev` uses, but without its restarts: a
//! process that a test kills stays dead until the test restarts it. Dropping the fleet ends everything, also during a
//! panic.

mod spec;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitStatus,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use robeing::dev::{
    DevIdentity,
    plan::{OBJECTS, Plan, ProcessKind, attachable_agents},
};
use robeing_client::{FleetClient, Security, Settings, SubmitEvent, SubmitOptions, is_finished};
use robeing_proto::v1::{
    Agent, AgentState, Consistency, Coordinator, CoordinatorState, FleetStatus, GetTaskRequest, Task, TaskSpec,
    TaskState,
};
use robeing_settings::TlsMode;
pub use spec::{FleetSpec, PoolSpec};
use tempfile::TempDir;

use crate::{
    ports::Ports,
    processes::Process,
    program::{AGENT, program},
    script::{Execution, Gate, executions},
    wait::{check, eventually},
};

/// The timeout of a test client's call, retries included: longer than any outage that a test causes.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The number of lines of each log that are shown when a test fails.
const SHOWN_LINES: usize = 40;
/// If this variable is set, the directory of a fleet whose test fails is kept.
const KEEP: &str = "ROBEING_TEST_KEEP";

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    // Declared before `dir`: processes are dropped before their directory.
    running: BTreeMap<String, Process>,
    arguments: BTreeMap<String, Vec<String>>,
    /// The environment variables of each process, as arguments of env(1).
    variables: BTreeMap<String, Vec<String>>,
    environment: Vec<String>,
    /// The programs through which processes are started that are not started directly.
    within: BTreeMap<String, Vec<String>>,
    /// With TLS: makes the agents' join tokens.
    identity: Option<DevIdentity>,
    plan: Plan,
    ports: Ports,
    dir: TempDir,
}

/// Sets a flag in a command line, replacing one of the same name.
fn set_flag(arguments: &mut Vec<String>, name: &str, value: &str) {
    let prefix = format!("--{name}=");
    arguments.retain(|argument| !argument.starts_with(&prefix));
    arguments.push(format!("{prefix}{value}"));
}

impl Fleet {
    /// Starts a fleet and waits until it has a leader and all its agents.
    pub async fn start(spec: FleetSpec) -> Self {
        let mut fleet = Self::prepare(spec);
        fleet.start_all();
        fleet.ready().await;
        fleet
    }

    /// Prepares a fleet without starting any process.
    ///
    /// # Panics
    /// If the specification results in an invalid manifest.
    pub fn prepare(spec: FleetSpec) -> Self {
        let dir = tempfile::Builder::new().prefix("robeing-test-").tempdir().expect("a temporary directory");
        File::create(dir.path().join("executions")).expect("the directory can be written to");
        let manifest = spec.manifest(&dir.path().join("executions"));
        let cluster = robeing_crds::parse_manifest(&manifest).unwrap_or_else(|error| panic!("{error}"));
        // Each coordinator also needs a port for its metrics.
        let coordinators = 2 * spec.coordinators as usize;
        let ports = Ports::take(coordinators + attachable_agents(&cluster.spec));
        let (ours, attach) = ports.numbers().split_at(coordinators);
        let (listen, metrics) = ours.split_at(spec.coordinators as usize);
        let tls = if spec.tls { TlsMode::Strict } else { TlsMode::Off };
        let plan = Plan::of(&cluster.spec, "tested", listen, attach, dir.path(), tls);
        fs::create_dir_all(dir.path().join(OBJECTS)).expect("a temporary directory is writable");
        let identity = spec.tls.then(|| DevIdentity::open(dir.path(), "tested").expect("certificates can be made"));
        let mut arguments = BTreeMap::new();
        let mut variables = BTreeMap::new();
        let mut metrics = metrics.iter();
        for process in &plan.processes {
            let mut line = process.arguments.clone();
            let flags = match &process.kind {
                ProcessKind::Coordinator => {
                    let port = metrics.next().expect("a port was taken for each coordinator");
                    set_flag(&mut line, "metrics-listen", &format!("127.0.0.1:{port}"));
                    &spec.flags
                }
                ProcessKind::Agent { pool, .. } => {
                    let pool = spec.pools.iter().find(|of| of.name == *pool);
                    &pool.expect("the plan has the manifest's pools alone").flags
                }
            };
            for (name, value) in flags {
                set_flag(&mut line, name, value);
            }
            arguments.insert(process.name.clone(), line);
            let words = process.environment.iter().map(|variable| {
                let value = variable.value.to_str().expect("the tests' own values are text");
                format!("{}={value}", variable.name)
            });
            variables.insert(process.name.clone(), words.collect::<Vec<_>>());
        }
        Self {
            running: BTreeMap::new(),
            arguments,
            variables,
            environment: spec.environment,
            within: BTreeMap::new(),
            identity,
            plan,
            ports,
            dir,
        }
    }

    /// Returns the test's directory: data, logs, and the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the data directory of a coordinator.
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates a closed gate for scripts.
    pub fn gate(&self, name: &str) -> Gate {
        Gate::closed(self.dir.path(), name)
    }

    /// Returns the file in which executions are recorded.
    pub fn executions_file(&self) -> PathBuf {
        self.dir.path().join("executions")
    }

    /// Returns the executions of a task that began, in order.
    pub fn executions_of(&self, task: &str) -> Vec<Execution> {
        executions(&self.executions_file()).into_iter().filter(|execution| execution.task == task).collect()
    }

    /// Returns the address of a coordinator, host:port.
    ///
    /// # Panics
    /// If there is no coordinator of this name.
    pub fn address(&self, name: &str) -> String {
        let index = self.coordinators().iter().position(|known| known == name);
        self.plan.coordinators[index.unwrap_or_else(|| panic!("no coordinator {name}"))].clone()
    }

    /// Returns the address at which a coordinator serves its metrics, host:port.
    ///
    /// # Panics
    /// If there is no coordinator of this name.
    pub fn metrics_address(&self, name: &str) -> String {
        let index = self.coordinators().iter().position(|known| known == name);
        let index = index.unwrap_or_else(|| panic!("no coordinator {name}"));
        format!("127.0.0.1:{}", self.ports.numbers()[self.plan.coordinators.len() + index])
    }

    /// Returns the agents to which worker processes attach.
    pub fn attached_agents(&self) -> impl Iterator<Item = &str> {
        self.plan.attachable.iter().map(|(agent, _)| agent.as_str())
    }

    /// Returns the address at which processes attach to an agent, host:port.
    ///
    /// # Panics
    /// If the agent is not one to which processes attach.
    pub fn attach_address(&self, agent: &str) -> String {
        let found = self.plan.attachable.iter().find(|(name, _)| name == agent);
        found.unwrap_or_else(|| panic!("nothing attaches to {agent}")).1.clone()
    }

    /// Returns the coordinators' endpoints.
    pub fn endpoints(&self) -> Vec<String> {
        self.plan.endpoints()
    }

    /// Returns the names of the coordinators.
    pub fn coordinators(&self) -> Vec<String> {
        self.names(|kind| *kind == ProcessKind::Coordinator)
    }

    /// Returns the names of the agents.
    pub fn agent_names(&self) -> Vec<String> {
        self.names(|kind| *kind != ProcessKind::Coordinator)
    }

    fn names(&self, of: impl Fn(&ProcessKind) -> bool) -> Vec<String> {
        self.plan.processes.iter().filter(|process| of(&process.kind)).map(|process| process.name.clone()).collect()
    }

    /// Sets a flag of a process for its next start.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn set_flag(&mut self, name: &str, flag: &str, value: &str) {
        set_flag(self.arguments.get_mut(name).unwrap_or_else(|| panic!("no process {name}")), flag, value);
    }

    /// Starts a process through another program from now on, which must exec it.
    pub fn start_within(&mut self, name: &str, program: &[&str]) {
        self.within.insert(name.into(), program.iter().map(|word| (*word).to_owned()).collect());
    }

    /// Starts a process that does not run.
    ///
    /// # Panics
    /// If there is no such process, or it already runs.
    pub fn start_one(&mut self, name: &str) {
        if let Some(running) = self.running.get_mut(name) {
            assert!(running.ended().is_some(), "{name} already runs");
        }
        let arguments = self.arguments.get(name).unwrap_or_else(|| panic!("no process {name}"));
        let log = self.dir.path().join(format!("{name}.log"));
        let agent = program(AGENT).display().to_string();
        let within = self.within.get(name).into_iter().flatten();
        let own = self.variables.get(name).into_iter().flatten();
        let token = self.join_token(name);
        let environment = self.environment.iter().chain(&token).chain(own);
        let line: Vec<String> = environment.chain(within).chain([&agent]).chain(arguments).cloned().collect();
        let process = Process::start(name, Path::new("/usr/bin/env"), &line, &log);
        self.running.insert(name.into(), process);
    }

    /// Makes the join token with which the next process of an agent enrols, as an argument of env(1).
    fn join_token(&self, name: &str) -> Option<String> {
        let identity = self.identity.as_ref()?;
        let process = self.plan.processes.iter().find(|process| process.name == name)?;
        let ProcessKind::Agent { pool, role } = &process.kind else { return None };
        Some(format!("ROBEING_JOIN_TOKEN={}", identity.join_token(role, pool, name).expect("a token can be made")))
    }

    /// Returns how clients connect.
    pub fn security(&self) -> Security {
        let with = |identity: &DevIdentity| Security::with_identity(identity.client()).expect("it is right");
        self.identity.as_ref().map_or_else(Security::plain, with)
    }

    /// Starts another process with the command line of an existing one, including the name of the agent or coordinator.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn start_another(&mut self, of: &str, called: &str) {
        let arguments = self.arguments.get(of).unwrap_or_else(|| panic!("no process {of}")).clone();
        self.arguments.insert(called.into(), arguments);
        let variables = self.variables.get(of).cloned().unwrap_or_default();
        self.variables.insert(called.into(), variables);
        self.start_one(called);
    }

    /// Starts all processes.
    pub fn start_all(&mut self) {
        for name in self.names(|_| true) {
            self.start_one(&name);
        }
    }

    /// Returns a process that was started.
    ///
    /// # Panics
    /// If it was not started.
    pub fn process(&mut self, name: &str) -> &mut Process {
        self.running.get_mut(name).unwrap_or_else(|| panic!("{name} was not started"))
    }

    /// Kills a process with SIGKILL.
    pub fn kill(&mut self, name: &str) {
        self.process(name).kill();
    }

    /// Freezes a process with SIGSTOP.
    pub fn freeze(&mut self, name: &str) {
        self.process(name).signal(Signal::SIGSTOP);
    }

    /// Continues a frozen process.
    pub fn thaw(&mut self, name: &str) {
        self.process(name).signal(Signal::SIGCONT);
    }

    /// Sends SIGTERM to a process.
    pub fn terminate(&mut self, name: &str) {
        self.process(name).signal(Signal::SIGTERM);
    }

    /// Waits until a process has ended, without ending it.
    pub async fn ended(&mut self, name: &str) -> ExitStatus {
        self.process(name).wait().await
    }

    /// Creates a client of all coordinators.
    pub fn client(&self) -> FleetClient {
        self.client_of(&self.coordinators())
    }

    /// Creates a client of these coordinators.
    ///
    /// # Panics
    /// Never with names of this fleet's coordinators.
    pub fn client_of<S: AsRef<str>>(&self, names: &[S]) -> FleetClient {
        let addresses: Vec<String> = names.iter().map(|name| self.address(name.as_ref())).collect();
        let settings = Settings { request_timeout: CALL_TIMEOUT, security: self.security(), ..Settings::default() };
        FleetClient::new(&addresses, settings).expect("the addresses are well formed")
    }

    /// Waits until the fleet has a leader and all its agents.
    pub async fn ready(&self) {
        let agents = self.plan.agents.0 + self.plan.agents.1;
        eventually("a leader and all agents", async || {
            // A call of a new client fails at once while no coordinator listens, so it is repeated here.
            let client = self.client();
            let status = client.status(Consistency::Linearizable).await.map_err(|error| error.to_string())?;
            let counts = status.agents.unwrap_or_default();
            check(!status.leader.is_empty() && counts.live + counts.standby == agents, (), format!("{status:?}"))
        })
        .await;
    }

    /// Returns the status of the fleet.
    ///
    /// # Panics
    /// If the fleet does not answer.
    pub async fn status(&self) -> FleetStatus {
        self.client().status(Consistency::Linearizable).await.unwrap_or_else(|error| panic!("no status: {error}"))
    }

    /// Waits until all coordinators are up, follow one leader and have applied what it has applied.
    pub async fn coordinators_agree(&self) -> FleetStatus {
        eventually("all coordinators up, voters, and as far as the leader", async || {
            let status = self.client().status(Consistency::Linearizable).await.map_err(|error| error.to_string())?;
            let leader = status.coordinators.iter().find(|one| one.state() == CoordinatorState::Leader);
            let applied = leader.map(|leader| leader.matched_index);
            let is_up = |one: &Coordinator| {
                one.voter
                    && matches!(one.state(), CoordinatorState::Leader | CoordinatorState::Follower)
                    && Some(one.matched_index) >= applied
            };
            let agree = applied.is_some()
                && status.coordinators.len() == self.plan.coordinators.len()
                && status.coordinators.iter().all(is_up);
            check(agree, status.clone(), format!("{status:?}"))
        })
        .await
    }

    /// Waits until there is a leader, and returns its name.
    pub async fn leader(&self) -> String {
        eventually("a leader", async || {
            let status = self.client().status(Consistency::Linearizable).await.map_err(|error| error.to_string())?;
            check(!status.leader.is_empty(), status.leader.clone(), format!("{status:?}"))
        })
        .await
    }

    /// Waits until a coordinator other than `old` leads, and returns its name.
    pub async fn leader_other_than(&self, old: &str) -> String {
        let others: Vec<String> = self.coordinators().into_iter().filter(|name| name != old).collect();
        eventually("another leader", async || {
            let client = self.client_of(&others);
            let status = client.status(Consistency::Linearizable).await.map_err(|error| error.to_string())?;
            check(!status.leader.is_empty() && status.leader != old, status.leader.clone(), format!("{status:?}"))
        })
        .await
    }

    /// Returns the agents, including lost ones.
    ///
    /// # Panics
    /// If the fleet does not answer.
    pub async fn agents(&self) -> Vec<Agent> {
        let listed = self.client().list_agents(true, Consistency::Linearizable).await;
        listed.unwrap_or_else(|error| panic!("no agents: {error}"))
    }

    /// Waits until an agent is in this state.
    pub async fn agent_is(&self, name: &str, state: AgentState) -> Agent {
        self.agent_such(name, &format!("agent {name} {state:?}"), |agent| agent.state() == state).await
    }

    /// Waits until `holds` returns true for an agent.
    pub async fn agent_such(&self, name: &str, expected: &str, holds: impl Fn(&Agent) -> bool) -> Agent {
        eventually(expected, async || {
            let agents = self.agents().await;
            let found = agents.iter().find(|agent| agent.name == name && holds(agent));
            found.cloned().ok_or(agents)
        })
        .await
    }

    /// Submits tasks, and returns their ids.
    ///
    /// # Panics
    /// If one is not accepted.
    pub async fn submit(&self, tasks: Vec<TaskSpec>) -> Vec<String> {
        let ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
        let accept = |event| {
            if let SubmitEvent::Submitted { result, .. } = event {
                assert_eq!(result.refusal, None, "the task is accepted");
            }
        };
        let submitted = self.client().submit_many(tasks, SubmitOptions::default(), accept).await;
        submitted.unwrap_or_else(|error| panic!("the fleet did not accept tasks: {error}"));
        ids
    }

    /// Submits one task, and returns its id.
    pub async fn submit_one(&self, task: TaskSpec) -> String {
        self.submit(vec![task]).await.remove(0)
    }

    /// Returns a task with its output.
    ///
    /// # Panics
    /// If the fleet does not answer, or does not know the task.
    pub async fn task(&self, id: &str) -> Task {
        let request = GetTaskRequest { id: id.into(), ..GetTaskRequest::default() };
        self.client().get_task(request).await.unwrap_or_else(|error| panic!("no task {id}: {error}"))
    }

    /// Waits until `holds` returns true for a task.
    pub async fn task_such(&self, id: &str, expected: &str, holds: impl Fn(&Task) -> bool) -> Task {
        eventually(expected, async || {
            let task = self.task(id).await;
            check(holds(&task), task.clone(), task)
        })
        .await
    }

    /// Waits until a task has ended, and checks that it is in this state.
    ///
    /// # Panics
    /// If it ended in another state.
    pub async fn finished(&self, id: &str, state: TaskState) -> Task {
        let task = self.task_such(id, "the end of the task", |task| is_finished(task.state())).await;
        assert_eq!(task.state(), state, "how the task ended: {task:#?}");
        task
    }

    /// Waits until an attempt of a task really executes, and returns the process group of its command.
    pub async fn executing(&self, id: &str, attempt: u32) -> u32 {
        eventually(&format!("the execution of attempt {attempt} of {id}"), async || {
            let executions = self.executions_of(id);
            let found = executions.iter().find(|execution| execution.attempt == attempt);
            found.map(|execution| execution.group).ok_or(executions)
        })
        .await
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if thread::panicking() {
            for (name, process) in &self.running {
                let log = process.log();
                let lines: Vec<&str> = log.lines().collect();
                let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
                eprintln!("--- the end of the log of {name}\n{}", shown.join("\n"));
            }
            if std::env::var_os(KEEP).is_some() {
                self.dir.disable_cleanup(true);
                eprintln!("--- kept in {}", self.dir.path().display());
            } else {
                eprintln!("--- set {KEEP}=1 to keep the logs and data");
            }
        }
        // Agents first, so that none of them reports coordinators that are already gone.
        for process in self.running.values_mut().rev() {
            process.kill();
        }
    }
}
