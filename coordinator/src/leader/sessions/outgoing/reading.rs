//! The results of archived tasks that an attempt is given are read while its session continues: another coordinator may
//! have to be asked for one, and an agent that gets no answers meanwhile would count as lost.

use std::sync::Arc;

use futures::future::BoxFuture;
use robeing_fleet::{Archived, Task, TaskId};

use crate::{
    archive::Unread,
    read::{READ_AT_ONCE, StateReader, shortened},
};

/// What was read.
#[derive(Default)]
pub struct ReadResults {
    /// The archived tasks, by their records; `None`: it can't be read.
    pub found: Vec<(u64, Option<Arc<Task>>)>,
    /// The first of them that no coordinator can read any more.
    pub lost: Option<TaskId>,
}

/// What is being read for the next attempt, if anything is.
#[derive(Default)]
pub struct Reading(Option<BoxFuture<'static, ReadResults>>);

impl Reading {
    /// Begins to read these archived tasks, unless there are none.
    pub fn begin(&mut self, state: &StateReader, lacking: Vec<Archived>) {
        if !lacking.is_empty() {
            self.0 = Some(Box::pin(read(state.clone(), lacking)));
        }
    }

    /// Waits for what is being read; never returns if that is nothing. Cancellation-safe.
    pub async fn done(&mut self) -> ReadResults {
        let Some(reading) = &mut self.0 else { return std::future::pending().await };
        let read = reading.await;
        self.0 = None;
        read
    }
}

/// Reads archived tasks. If one can't be read, further ones may be left out: they would not help, and the attempt must not
/// wait for each.
async fn read(state: StateReader, lacking: Vec<Archived>) -> ReadResults {
    let mut results = ReadResults::default();
    for rows in lacking.chunks(READ_AT_ONCE) {
        for (row, read) in rows.iter().zip(state.read_rows(rows).await) {
            if let Err(Unread::Lost(task)) = &read {
                results.lost = results.lost.or(Some(*task));
            }
            // Without its input, which can be large, and which nobody is given with its result.
            results.found.push((row.record, read.ok().flatten().map(|task| shortened(task, true))));
        }
        if results.found.iter().any(|(_, task)| task.is_none()) {
            break;
        }
    }
    results
}
