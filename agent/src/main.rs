//! The agent binary: reads its settings, sets up what every process needs, and runs a coordinator or an agent until it is
//! asked to stop. Or it copies itself to where it is wanted, or asks another one how it is.

mod health;
mod install;
mod lifetime;

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

/// Threads that run an agent's own tasks: its session, and what it exchanges with executors.
const AGENT_WORKERS: usize = 1;
/// Threads that run a coordinator's, at most. Its log has a thread of its own.
const MOST_COORDINATOR_WORKERS: usize = 4;
/// Threads for what blocks, such as files. They end when idle.
const BLOCKING: usize = 16;

/// Environment variable of debug builds: the seed of the pauses with which a test disturbs the threads of this process.
#[cfg(debug_assertions)]
const DISTURB: &str = "ROBEING_TEST_DISTURB";
/// Environment variable of debug builds: how many threads a test wants a process to have.
#[cfg(debug_assertions)]
const WORKERS: &str = "ROBEING_TEST_WORKERS";
#[cfg(debug_assertions)]
const MOST_TEST_WORKERS: usize = 64;
/// Environment variable of debug builds for tests: this process knows the feature that is for tests of upgrades.
#[cfg(all(debug_assertions, feature = "trial"))]
const TRIAL: &str = "ROBEING_TEST_TRIAL";

/// It could not start or go on.
const FAILED: u8 = 1;
/// Its settings are wrong.
const MISCONFIGURED: u8 = 2;

/// What is shipped makes no mistakes on purpose.
const _: () = assert!(
    cfg!(debug_assertions) || !robeing_fleet::sabotage::COMPILED,
    "the feature sabotage is for the simulator alone"
);

fn main() -> ExitCode {
    lifetime::reset_signals();
    // The guard comes before the command line is parsed: until it blocks signals, one for the whole process group ends it.
    if env::args_os().nth(1).is_some_and(|first| first == guard::GUARD_SUBCOMMAND) {
        guard::main();
    }
    let matches = match program().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and the version go to stdout and are no failure. A closed terminal is nothing to report to.
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

/// Starts the coordinator or agent that the settings ask for.
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
        return say(&format!("it can't be tied to the process that started it: {error}"), FAILED);
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
            // On a worker: what runs in `block_on` itself costs a change of threads each time it is woken.
            let code = runtime.block_on(runtime.spawn(run(startup)));
            // A panic has said what there is to say.
            let code = code.unwrap_or(ExitCode::FAILURE);
            // What still blocks, such as a look-up of a name, is not waited for.
            runtime.shutdown_background();
            code
        }
        Err(error) => say(&format!("the runtime can't be started: {error}"), FAILED),
    }
}

/// Threads for a coordinator that may use so many CPUs. Half of them, because each change of threads on the way of a commit
/// costs more than the work that is done there, and the log's thread, other coordinators or agents want the rest.
fn coordinator_workers(cpus: usize) -> usize {
    (cpus / 2).clamp(1, MOST_COORDINATOR_WORKERS)
}

/// The program, and what else it does by its subcommands.
fn program() -> Command {
    robeing_settings::command()
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .subcommand(install::command())
        .subcommand(health::command())
}

/// Puts a copy of this program where the arguments say.
fn install(arguments: &ArgMatches) -> ExitCode {
    match install::run(arguments) {
        Ok(path) => {
            // A closed output is no reason to fail: the file is there.
            let _ = writeln!(io::stdout(), "installed {}", path.display());
            ExitCode::SUCCESS
        }
        Err(error @ InstallError::NoFile(_)) => say(&error, MISCONFIGURED),
        Err(error) => say(&error, FAILED),
    }
}

/// Asks a probe how its process is.
fn health(arguments: &ArgMatches) -> ExitCode {
    match health::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ HealthError::Url(_)) => say(&error, MISCONFIGURED),
        Err(error) => say(&error, FAILED),
    }
}

/// What a test asks for by an environment variable.
#[cfg(debug_assertions)]
fn test_number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// Says why it ends.
fn say(error: &dyn Display, code: u8) -> ExitCode {
    robeing_telemetry::say(error);
    code.into()
}

async fn run(startup: Startup) -> ExitCode {
    let (cluster_id, name, metrics_listen) = match &startup.process {
        Process::Coordinator(config) => (&config.cluster_id, &config.name, &config.metrics_listen),
        Process::Agent(config, _) => (&config.cluster_id, &config.name, &config.metrics_listen),
    };
    // First of all, since process 1 of a container gets no signal that it has not asked for.
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
    let code = match startup.process {
        Process::Coordinator(config) => run_coordinator(config, platform, metrics, shutdown).await,
        Process::Agent(config, executor) => run_agent(config, &executor, platform, metrics, shutdown).await,
    };
    drop(reaping);
    drop(monitor);
    logs.finish();
    code
}

async fn run_coordinator(
    config: CoordinatorConfig,
    platform: Platform,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> ExitCode {
    info!(
        name = config.name,
        cluster = config.cluster_id,
        version = env!("CARGO_PKG_VERSION"),
        expected_agents = config.expected_agents,
        "starting a coordinator"
    );
    match coordinator::run(config, platform, metrics, shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => say(&error, FAILED),
    }
}

async fn run_agent(
    config: AgentConfig,
    executor: &ExecutorSpec,
    platform: Platform,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> ExitCode {
    let (settings, outside, counters) = (config.clone(), platform.clone(), metrics.clone());
    let executor = executor::start(executor, &settings, &outside, &counters);
    match runtime::run(config, platform, executor, metrics, shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ AgentError::Executor(ExecutorError::Listen(_) | ExecutorError::Thread(_))) => say(&error, FAILED),
        Err(error @ AgentError::Executor(_)) => say(&error, MISCONFIGURED),
        Err(error) => say(&error, FAILED),
    }
}
