//! Drives the state machine step by step in models, in place of the consensus library.

use futures::stream;
use openraft::{
    EntryPayload, RaftSnapshotBuilder,
    storage::RaftStateMachine,
    vote::{RaftLeaderId, leader_id_adv::LeaderId},
};
use shuttle::future::block_on;

use super::{Batch, Entry, LogId, SnapshotMeta, StateMachine};

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderId::new(1, 1).to_committed(), index)
}

/// Applies the log entry `index`, as the library does.
pub fn apply(machine: &mut StateMachine, index: u64, batch: Batch) {
    let entry = Entry { log_id: log_id(index), payload: EntryPayload::Normal(batch) };
    block_on(machine.apply(stream::iter([Ok((entry, None))]))).expect("the entry can be applied");
}

/// Applies the log entry `index` directly and returns the replies.
pub fn apply_now(machine: &mut StateMachine, index: u64, batch: &Batch) -> Vec<robeing_fleet::Reply> {
    machine.apply_now(log_id(index), batch)
}

/// Installs a leader's snapshot of the state after the entry `index`.
pub fn install(machine: &mut StateMachine, index: u64, state: Vec<u8>) {
    let meta = SnapshotMeta { last_log_id: Some(log_id(index)), ..SnapshotMeta::default() };
    block_on(machine.install_snapshot(&meta, state.into())).expect("it can be installed");
}

/// Begins a snapshot. The returned function writes it and returns its content.
pub fn begin_snapshot(machine: &mut StateMachine) -> impl FnOnce() -> Vec<u8> + Send + 'static {
    let mut builder = block_on(machine.get_snapshot_builder());
    move || block_on(builder.build_snapshot()).expect("a snapshot is built").snapshot.to_vec()
}

/// Returns the index of the newest entry that the snapshot on disk covers.
pub fn covered(machine: &mut StateMachine) -> Option<u64> {
    let on_disk = block_on(machine.get_current_snapshot()).expect("the disk works").expect("one was written");
    on_disk.meta.last_log_id.map(|id| id.index())
}
