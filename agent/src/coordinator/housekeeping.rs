//! What the coordinator does by itself: lets time pass in the state machine, writes snapshots when the log has grown, and
//! brings the fleet's configuration in line with its own.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use robeing_fleet::{Command, FleetConfig, Reply};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    leadership::{until_leading, until_not_leading},
    node::Node,
};

/// How often it is looked whether a snapshot is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of log after which a snapshot is written, if the state is smaller than that.
pub const SNAPSHOT_AFTER_BYTES: u64 = 32 * 1024 * 1024;
/// Pause after a tick could not be written.
const TICK_RETRY: Duration = Duration::from_millis(200);
/// Ticks come no denser than this.
const TICK_APART: Duration = Duration::from_millis(5);

/// Ticks when something is due, as long as this coordinator leads. Runs until the node stops.
pub async fn timers(node: Arc<Node>) {
    let mut standing = node.standing.clone();
    loop {
        let Some(term) = until_leading(&mut standing).await else { return };
        loop {
            let due = node.look(|fleet| fleet.next_due());
            let now = node.platform.clock.unix_millis();
            let wait = due.map(|due| Duration::from_millis(due.saturating_sub(now)));
            tokio::select! {
                () = until_not_leading(&mut standing, term) => break,
                // Something may be due earlier now.
                () = node.hub.timers.notified(), if wait.is_none_or(|wait| !wait.is_zero()) => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    let pause = match node.proposer.propose_one(Command::Tick).await {
                        Ok(_) => TICK_APART,
                        Err(_) => TICK_RETRY,
                    };
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// Writes snapshots: after so many entries, or [`SNAPSHOT_AFTER_BYTES`]. Runs until the node stops.
pub async fn snapshots(node: Arc<Node>, after_entries: u32) {
    let mut written_at = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let bytes = node.log.stats().entry_bytes.load(Ordering::Relaxed);
        let state = node.look(|fleet| fleet.stored_bytes());
        let grown = bytes.saturating_sub(written_at) > SNAPSHOT_AFTER_BYTES.max(state);
        if !grown && node.log.entries() < after_entries as usize {
            continue;
        }
        let started = Instant::now();
        match node.raft.trigger().snapshot().await {
            Ok(()) => info!(bytes, state, took = ?started.elapsed(), "snapshot asked for"),
            Err(error) => warn!(%error, "no snapshot could be written"),
        }
        written_at = bytes;
    }
}

/// Brings the fleet's configuration in line with this coordinator's, whenever it begins to lead. Runs until the node stops.
pub async fn configuration(node: Arc<Node>, config: FleetConfig) {
    let mut standing = node.standing.clone();
    loop {
        let Some(term) = until_leading(&mut standing).await else { return };
        if node.look(|fleet| *fleet.config() != config) {
            match node.proposer.propose_one(Command::Configure(config.clone())).await {
                Ok(Reply::Refused(refusal)) => warn!(%refusal, "the fleet's configuration was refused"),
                Ok(_) => info!("the fleet's configuration was changed"),
                Err(error) => warn!(%error, "the fleet's configuration could not be changed"),
            }
        }
        until_not_leading(&mut standing, term).await;
    }
}
