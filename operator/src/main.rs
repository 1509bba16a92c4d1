//! The operator's process: parses the settings, runs the operator and maps the result to an exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use mimalloc::MiMalloc;
use robeing_operator::runtime::{
    run::{End, run},
    settings::Settings,
    telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns freed memory to the OS: many fleets may be deleted at once, and large API server responses are short-lived.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const COULD_NOT_START: u8 = 1;
const WRONG_SETTINGS: u8 = 2;
const LEASE_LOST: u8 = 3;

fn main() -> ExitCode {
    // With invalid flags, clap exits here with code 2.
    let settings = Settings::parse();
    if let Err(error) = settings.timings() {
        // A failed write to stderr does not change the exit code.
        let _ = writeln!(io::stderr(), "error: {error}");
        return ExitCode::from(WRONG_SETTINGS);
    }
    let _lines = telemetry::begin(settings.log_format == "json");
    // Fails only if a provider is already installed, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("the runtime could not start")),
    };
    match runtime.block_on(until_told(&settings)) {
        Ok(End::Asked) => ExitCode::SUCCESS,
        Ok(End::LeaseLost(why)) => {
            tracing::error!(%why, "no longer the active replica; exiting");
            ExitCode::from(LEASE_LOST)
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    tracing::error!("{error:#}");
    ExitCode::from(COULD_NOT_START)
}

/// Runs the operator until a termination signal arrives or the lease is lost.
async fn until_told(settings: &Settings) -> anyhow::Result<End> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = stop.clone();
    let listening = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("received a termination signal; shutting down");
        told.cancel();
    });
    let end = run(settings, stop).await;
    listening.abort();
    Ok(end?)
}
