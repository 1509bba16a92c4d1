//! The agent binary: reads its settings, sets up what every process needs, and runs a coordinator or an agent until it is
//! asked to stop.

mod lifetime;

use std::{env, fmt::Display, process::ExitCode, sync::Arc};

use mimalloc::MiMalloc;
use robeing_agent::{
    config::{self, AgentConfig, ConfigError, CoordinatorConfig, ExecutorSpec, Process, Startup},
    coordinator,
    executor::{
        CommandConfig, CommandExecutor, EchoExecutor, Executor, ExecutorError, Guard, HttpConfig, HttpExecutor, Limits,
        guard, reaper,
    },
    platform::Platform,
    session,
    telemetry::{self, Metrics, Monitor},
    transport::Transport,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Threads that run tasks. Two keep an agent small, and a coordinator's log has a thread of its own.
const WORKERS: usize = 2;
/// Threads for what blocks, such as files. They end when idle.
const BLOCKING: usize = 16;

/// It could not start or go on.
const FAILED: u8 = 1;
/// Its settings are wrong.
const MISCONFIGURED: u8 = 2;

fn main() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|first| first == guard::GUARD_SUBCOMMAND) {
        guard::main();
    }
    let startup = match config::parse(env::args_os(), &|name| env::var(name).ok()) {
        Ok(startup) => startup,
        Err(ConfigError::CommandLine(error)) => {
            // Help and the version go to stdout and are no failure. A closed terminal is nothing to report to.
            let _ = error.print();
            return if error.use_stderr() { MISCONFIGURED.into() } else { ExitCode::SUCCESS };
        }
        Err(error) => return say(&error, MISCONFIGURED),
    };
    if startup.exit_with_parent
        && let Err(error) = lifetime::end_with_parent()
    {
        return say(&format!("it can't be tied to the process that started it: {error}"), FAILED);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(run(startup));
            // What still blocks, such as a look-up of a name, is not waited for.
            runtime.shutdown_background();
            code
        }
        Err(error) => say(&format!("the runtime can't be started: {error}"), FAILED),
    }
}

/// Says on stderr why it ends, in a form that stands without logs.
fn say(error: &dyn Display, code: u8) -> ExitCode {
    eprintln!("robeing-agent: {error}");
    code.into()
}

async fn run(startup: Startup) -> ExitCode {
    let (cluster_id, name, metrics_listen) = match &startup.process {
        Process::Coordinator(config) => (&config.cluster_id, &config.name, &config.metrics_listen),
        Process::Agent(config, _) => (&config.cluster_id, &config.name, &config.metrics_listen),
    };
    let logs = match telemetry::init(startup.log_format, cluster_id, name, &|name| env::var(name).ok()) {
        Ok(logs) => logs,
        Err(error) => return say(&error, MISCONFIGURED),
    };
    let shutdown = CancellationToken::new();
    if let Err(error) = lifetime::stop_on_signals(shutdown.clone()) {
        return say(&format!("signals can't be handled: {error}"), FAILED);
    }
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
    let code = match startup.process {
        Process::Coordinator(config) => run_coordinator(config, platform, metrics, shutdown).await,
        Process::Agent(config, executor) => run_agent(config, &executor, platform, metrics, shutdown).await,
    };
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
    info!(
        name = config.name,
        cluster = config.cluster_id,
        version = env!("CARGO_PKG_VERSION"),
        role = ?config.role,
        slots = config.slots,
        "starting an agent"
    );
    let executor = match make_executor(executor) {
        Ok(executor) => executor,
        Err(error) => return say(&error, MISCONFIGURED),
    };
    match session::run(config, platform, executor, metrics, shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => say(&error, FAILED),
    }
}

fn make_executor(spec: &ExecutorSpec) -> Result<Arc<dyn Executor>, ExecutorError> {
    let limits = Limits::default();
    Ok(match spec {
        ExecutorSpec::Command(command) => {
            let config = CommandConfig { argv: command.argv.clone(), limits, guard: start_guard() };
            Arc::new(CommandExecutor::new(config)?)
        }
        ExecutorSpec::Http(http) => Arc::new(HttpExecutor::new(HttpConfig { url: http.url.clone(), limits })?),
        ExecutorSpec::Echo {} => Arc::new(EchoExecutor),
    })
}

/// Starts the process that kills this agent's commands if the agent is killed. An agent without one still works.
fn start_guard() -> Option<Arc<Guard>> {
    if let Err(error) = reaper::adopt_orphans() {
        warn!(%error, "what commands leave behind can't be reaped");
    }
    let guard = env::current_exe().and_then(|program| Guard::spawn(&program));
    guard
        .inspect_err(
            |error| warn!(%error, "there is no guard: if this agent is killed, what its commands started goes on"),
        )
        .ok()
        .map(Arc::new)
}
