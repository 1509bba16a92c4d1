//! The agent binary: reads its settings, sets up what every process needs, and runs a coordinator or an agent until
//! asked to stop. Subcommands install a copy of the binary or query a process's probe.

mod health;
mod install;
mod lifetime;
mod memory;

use std::{
    env,
    fmt::Display,
    io::{self, Write},
    num::NonZero,
    process::ExitCode,
    sync::Arc,
    thread,
};

use clap::{ArgMatches, Command};
use health::HealthError;
use install::InstallError;
use mimalloc::MiMalloc;
use robeing_agent::{
    executor::{self, ExecutorError, guard, reaper},
    roles::RoleError,
    runtime::{self, AgentError},
};
use robeing_coordinator as coordinator;
use robeing_net::Transport;
use robeing_platform::Platform;
use robeing_settings::{AgentConfig, CoordinatorConfig, ExecutorSpec, Process, Startup};
use robeing_telemetry::{Metrics, Monitor};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::info;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Worker threads of an agent, which run its session and its communication with executors.
const AGENT_WORKERS: usize = 1;
/// The maximum number of worker threads of a coordinator. Its log has its own thread.
const MOST_COORDINATOR_WORKERS: usize = 4;
/// Threads for blocking operations, such as file I/O. They end when idle.
const BLOCKING: usize = 16;

/// Environment variable of debug builds: the seed of the pauses with which a test disturbs the threads of this process.
#[cfg(debug_assertions)]
const DISTURB: &str = "ROBEING_TEST_DISTURB";
/// Environment variable of debug builds: the number of worker threads that a test requests.
#[cfg(debug_assertions)]
const WORKERS: &str = "ROBEING_TEST_WORKERS";
#[cfg(debug_assertions)]
const MOST_TEST_WORKERS: usize = 64;
/// Environment variable of debug builds for tests: this process supports the feature reserved for upgrade tests.
#[cfg(all(debug_assertions, feature = "trial"))]
const TRIAL: &str = "ROBEING_TEST_TRIAL";

/// Exit code: the process could not start or continue.
const FAILED: u8 = 1;
/// Exit code: the settings are invalid.
const MISCONFIGURED: u8 = 2;

/// Release builds must not contain planted mistakes.
const _: () = assert!(
    cfg!(debug_assertions) || !robeing_fleet::sabotage::COMPILED,
    "the feature sabotage is for the simulator alone"
);

fn main() -> ExitCode {
    lifetime::reset_signals();
    // The guard starts before the command line is parsed: until it blocks signals, a signal to the process group ends
    // it.
    if env::args_os().nth(1).is_some_and(|first| first == guard::GUARD_SUBCOMMAND) {
        guard::main();
    }
    let matches = match program().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version go to stdout and are no failure. A write error to a closed terminal can't be reported.
            let _ = error.print();
            return if error.use_stderr() { MISCONFIGURED.into() } else { ExitCode::SUCCESS };
        }
    };
    match matches.subcommand() {
        Some((install::SUBCOMMAND, arguments)) => install(arguments),
        Some((health::SUBCOMMAND, arguments)) => health(arguments),
        _ => start(matches),
    }
}

/// Starts the coordinator or agent that the settings specify.
fn start(matches: ArgMatches) -> ExitCode {
    #[cfg(all(debug_assertions, feature = "trial"))]
    if env::var_os(TRIAL).is_some() {
        robeing_fleet::trial::know();
    }
    #[cfg(debug_assertions)]
    if let Some(seed) = test_number(DISTURB) {
        robeing_platform::sync::points::disturb(seed);
    }
    let startup = match robeing_settings::parse_matches(matches, &|name| env::var_os(name)) {
        Ok(startup) => startup,
        Err(error) => return say(&error, MISCONFIGURED),
    };
    if startup.exit_with_parent
        && let Err(error) = lifetime::end_with_parent()
    {
        return say(&format!("this process can't be tied to its parent: {error}"), FAILED);
    }
    let workers = match &startup.process {
        Process::Coordinator(_) => coordinator_workers(thread::available_parallelism().map_or(1, NonZero::get)),
        Process::Agent(..) => AGENT_WORKERS,
    };
    #[cfg(debug_assertions)]
    let workers = test_number(WORKERS).map_or(workers, |asked| (asked as usize).clamp(1, MOST_TEST_WORKERS));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            // Runs on a worker: a future in `block_on` itself costs a thread switch at each wake-up.
            let code = runtime.block_on(runtime.spawn(run(startup)));
            // A panic has already been reported.
            let code = code.unwrap_or(ExitCode::FAILURE);
            // Blocking operations still in progress, such as name resolution, are not waited for.
            runtime.shutdown_background();
            code
        }
        Err(error) => say(&format!("the runtime can't be started: {error}"), FAILED),
    }
}

/// Returns the number of worker threads for a coordinator with `cpus` CPUs. It is half of them, because each thread
/// switch during a commit costs more than the work done there, and the log's thread and other coordinators or agents
/// need the rest.
fn coordinator_workers(cpus: usize) -> usize {
    (cpus / 2).clamp(1, MOST_COORDINATOR_WORKERS)
}

/// Returns the command line with its subcommands.
fn program() -> Command {
    robeing_settings::command()
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .subcommand(install::command())
        .subcommand(health::command())
}

/// Runs the `install` subcommand.
fn install(arguments: &ArgMatches) -> ExitCode {
    match install::run(arguments) {
        Ok(path) => {
            // A closed stdout is not a failure: the file is installed.
            let _ = writeln!(io::stdout(), "installed {}", path.display());
            ExitCode::SUCCESS
        }
        Err(error @ InstallError::NoFile(_)) => say(&error, MISCONFIGURED),
        Err(error) => say(&error, FAILED),
    }
}

/// Runs the `health` subcommand.
fn health(arguments: &ArgMatches) -> ExitCode {
    match health::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ HealthError::Url(_)) => say(&error, MISCONFIGURED),
        Err(error) => say(&error, FAILED),
    }
}

/// Returns the number that a test set in an environment variable.
#[cfg(debug_assertions)]
fn test_number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// Reports why the process ends, and returns the exit code.
fn say(error: &dyn Display, code: u8) -> ExitCode {
    robeing_telemetry::say(error);
    code.into()
}

async fn run(startup: Startup) -> ExitCode {
    let (cluster_id, name, metrics_listen) = match &startup.process {
        Process::Coordinator(config) => (&config.cluster_id, &config.name, &config.metrics_listen),
        Process::Agent(config, _) => (&config.cluster_id, &config.name, &config.metrics_listen),
    };
    // This comes first, since process 1 of a container gets no signal without a handler for it.
    let shutdown = CancellationToken::new();
    if let Err(error) = lifetime::stop_on_signals(shutdown.clone()) {
        return say(&format!("signals can't be handled: {error}"), FAILED);
    }
    let logs = match robeing_telemetry::init(startup.log_format, cluster_id, name, &|name| env::var(name).ok()) {
        Ok(logs) => logs,
        Err(error) => return say(&error, MISCONFIGURED),
    };
    let platform = Platform::real();
    let metrics = Metrics::default();
    let monitor = match metrics_listen {
        Some(address) => {
            let transport = Transport::new(Arc::clone(&platform.network));
            match Monitor::start(&transport, address, metrics.clone()).await {
                Ok(monitor) => Some(monitor),
                Err(error) => return say(&format!("{error}; change --metrics-listen"), FAILED),
            }
        }
        None => None,
    };
    let reaping = AbortOnDropHandle::new(tokio::spawn(reaper::keep_sweeping()));
    let ended = match startup.process {
        Process::Coordinator(config) => run_coordinator(config, platform, metrics, shutdown).await,
        Process::Agent(config, executor) => run_agent(config, &executor, platform, metrics, shutdown).await,
    };
    drop(reaping);
    drop(monitor);
    // Before the reason is printed, so that it is the last line.
    logs.finish();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(end) => say(&end.reason, end.code),
    }
}

/// Why a process ends though nobody asked it to, and its exit code.
struct Failure {
    reason: String,
    code: u8,
}

impl Failure {
    fn new(reason: &dyn Display, code: u8) -> Self {
        Self { reason: reason.to_string(), code }
    }
}

async fn run_coordinator(
    config: CoordinatorConfig,
    platform: Platform,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    info!(
        name = config.name,
        cluster = config.cluster_id,
        version = env!("CARGO_PKG_VERSION"),
        expected_agents = config.expected_agents,
        "starting a coordinator"
    );
    let _giving_back = AbortOnDropHandle::new(tokio::spawn(memory::keep_giving_back()));
    coordinator::run(config, platform, metrics, shutdown).await.map_err(|error| {
        let code = if error.is_misconfiguration() { MISCONFIGURED } else { FAILED };
        Failure::new(&error, code)
    })
}

async fn run_agent(
    config: AgentConfig,
    executor: &ExecutorSpec,
    platform: Platform,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let (settings, outside, counters) = (config.clone(), platform.clone(), metrics.clone());
    let executor = executor::start(executor, &settings, &outside, &counters);
    runtime::run(config, platform, executor, metrics, shutdown).await.map_err(|error| {
        let code = match error {
            AgentError::Executor(ExecutorError::Listen(_) | ExecutorError::Thread(_)) => FAILED,
            AgentError::Executor(_)
            | AgentError::Handler(_)
            | AgentError::Store(_)
            | AgentError::Role(RoleError::Webhooks(_)) => MISCONFIGURED,
            _ => FAILED,
        };
        Failure::new(&error, code)
    })
}
