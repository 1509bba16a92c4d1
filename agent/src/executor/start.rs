//! Creates the executor that the settings specify.

use std::{env, sync::Arc};

use robeing_blobs::MAX_BLOB_BYTES;
use robeing_net::Transport;
use robeing_platform::Platform;
use robeing_settings::{AgentConfig, ExecutorSpec};
use robeing_telemetry::Metrics;
use tracing::warn;

use super::{
    CommandConfig, CommandExecutor, DEFAULT_MAX_OUTPUT, EchoExecutor, Executor, ExecutorError, Guard, HttpConfig,
    HttpExecutor, Limits, WorkerConfig, WorkerExecutor, reaper, worker::MAX_PROCESS_OUTPUT,
};

/// Creates and starts the executor of an agent's tasks.
///
/// # Errors
/// When the settings are invalid, or when the executor can't be started.
pub async fn start(
    spec: &ExecutorSpec,
    config: &AgentConfig,
    platform: &Platform,
    metrics: &Metrics,
) -> Result<Arc<dyn Executor>, ExecutorError> {
    let limits = Limits { max_output: most_output(config), ..Limits::default() };
    Ok(match spec {
        ExecutorSpec::Command(command) => {
            let config = CommandConfig { argv: command.argv.clone(), limits, guard: None };
            config.check_program()?;
            Arc::new(CommandExecutor::new(CommandConfig { guard: start_guard(), ..config })?)
        }
        ExecutorSpec::Http(http) => {
            let headers = http.headers.iter().map(|header| {
                let bad = |reason| ExecutorError::BadHeader { name: header.name.clone(), reason };
                Ok((header.name.clone(), header.value(&|name| env::var(name).ok()).map_err(bad)?))
            });
            let headers = headers.collect::<Result<_, ExecutorError>>()?;
            Arc::new(HttpExecutor::new(HttpConfig {
                url: http.url.clone(),
                health_path: http.health_path.clone(),
                headers,
                limits,
            })?)
        }
        ExecutorSpec::Worker {} => {
            let transport = Transport::new(Arc::clone(&platform.network));
            let (listen, agent) = (config.worker_listen.clone(), config.name.clone());
            let limits = Limits { max_output: limits.max_output.min(MAX_PROCESS_OUTPUT), ..limits };
            let config = WorkerConfig { listen, agent, slots: config.slots, limits };
            Arc::new(WorkerExecutor::listen(config, &transport, metrics).await?)
        }
        ExecutorSpec::Echo {} => Arc::new(EchoExecutor),
    })
}

/// Returns how large an output may be, bytes: what is too large for the log needs an object store.
fn most_output(config: &AgentConfig) -> usize {
    match config.object_store {
        Some(_) => usize::try_from(MAX_BLOB_BYTES).unwrap_or(DEFAULT_MAX_OUTPUT),
        None => DEFAULT_MAX_OUTPUT,
    }
}

/// Starts the process that kills this agent's commands if the agent is killed. An agent without one still works.
pub(crate) fn start_guard() -> Option<Arc<Guard>> {
    if let Err(error) = reaper::adopt_orphans() {
        warn!(%error, "orphaned processes of commands can't be reaped");
    }
    Guard::spawn_self()
        .inspect_err(
            |error| warn!(%error, "no guard: if this agent is killed, processes its commands started keep running"),
        )
        .ok()
        .map(Arc::new)
}
