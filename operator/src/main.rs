//! The operator's process: settings in, exit code out.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use mimalloc::MiMalloc;
use robeing_operator::{
    run::{End, run},
    settings::Settings,
    telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Gives memory back: many fleets may go at once, and the API server's answers are large for a moment only.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const COULD_NOT_START: u8 = 1;
const WRONG_SETTINGS: u8 = 2;
const LEASE_LOST: u8 = 3;

fn main() -> ExitCode {
    // Wrong flags end the process here, with code 2.
    let settings = Settings::parse();
    if let Err(error) = settings.timings() {
        // What can't be written is no reason to end otherwise.
        let _ = writeln!(io::stderr(), "error: {error}");
        return ExitCode::from(WRONG_SETTINGS);
    }
    telemetry::begin(settings.log_format == "json");
    // Only fails when one is installed already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("the runtime could not start")),
    };
    match runtime.block_on(until_told(&settings)) {
        Ok(End::Asked) => ExitCode::SUCCESS,
        Ok(End::LeaseLost(why)) => {
            tracing::error!(%why, "not the active replica any more; ending");
            ExitCode::from(LEASE_LOST)
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    tracing::error!("{error:#}");
    ExitCode::from(COULD_NOT_START)
}

async fn until_told(settings: &Settings) -> anyhow::Result<End> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = stop.clone();
    let listening = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to end");
        told.cancel();
    });
    let end = run(settings, stop).await;
    listening.abort();
    Ok(end?)
}
