//! Batches: several messages of a stream in one. A message of its own costs many a process more than the work on a small
//! task.

use prost::Message as _;
use robeing_proto::{
    codec::MAX_PARTS,
    worker::v1::{FromProcessBatch, Task, TaskResult, ToProcess, ToProcessBatch, task_result, to_process},
};
use tokio::sync::mpsc;
use tonic::Status;

use super::attached::Attached;

/// The maximum number of messages of a batch, in either direction.
pub const MAX_BATCH: usize = 256;
/// The maximum number of subtasks that the results of a batch may ask for.
pub const MAX_BATCH_SUBTASKS: usize = 10_000;
/// The maximum length of a batch to a process, in bytes. A larger task is sent by itself.
pub const MAX_BATCH_BYTES: usize = 1 << 20;

/// A batch is read if it keeps to the limits: it counts its messages, their subtasks, and what else each result asks with.
const _: () = assert!(2 * MAX_BATCH + MAX_BATCH_SUBTASKS <= MAX_PARTS);

/// Takes the messages to a process from its queue, tasks that wait there as batches.
pub(super) struct Gathering {
    /// Whether the process takes batches.
    takes_batches: bool,
    /// What came after a batch and is no part of it.
    kept: Option<ToProcess>,
}

impl Gathering {
    pub fn new(takes_batches: bool) -> Self {
        Self { takes_batches, kept: None }
    }

    /// Returns the next message once there is one; `None`: there will be none. If the future is dropped, nothing is lost.
    pub async fn next(&mut self, unread: &mut mpsc::Receiver<ToProcess>) -> Option<ToProcess> {
        let first = match self.kept.take() {
            Some(kept) => kept,
            None => unread.recv().await?,
        };
        Some(if self.takes_batches { self.gather(first, unread) } else { first })
    }

    /// Returns the first message with the tasks that wait after it, up to the next message of another kind. Waits for
    /// none.
    fn gather(&mut self, first: ToProcess, unread: &mut mpsc::Receiver<ToProcess>) -> ToProcess {
        let mut tasks = match first.message {
            Some(to_process::Message::Task(task)) => vec![task],
            message => return ToProcess { message },
        };
        let mut bytes = tasks[0].encoded_len();
        while tasks.len() < MAX_BATCH {
            let Ok(next) = unread.try_recv() else { break };
            match next.message {
                Some(to_process::Message::Task(task)) if bytes + task.encoded_len() <= MAX_BATCH_BYTES => {
                    bytes += task.encoded_len();
                    tasks.push(task);
                }
                message => {
                    self.kept = Some(ToProcess { message });
                    break;
                }
            }
        }
        let message = match <[Task; 1]>::try_from(tasks) {
            Ok([task]) => to_process::Message::Task(task),
            Err(tasks) => to_process::Message::Batch(ToProcessBatch { tasks }),
        };
        ToProcess { message: Some(message) }
    }
}

/// Returns how many subtasks a result asks for.
fn subtasks(result: &TaskResult) -> usize {
    match &result.outcome {
        Some(task_result::Outcome::Suspend(asked)) => asked.subtasks.len(),
        _ => 0,
    }
}

/// Takes the messages of a batch of a process, in their order.
///
/// # Errors
/// There are more than [`MAX_BATCH`], or they ask for more than [`MAX_BATCH_SUBTASKS`]; none is taken then.
pub(super) fn unpack(attached: &Attached, number: u64, batch: FromProcessBatch) -> Result<(), Status> {
    let FromProcessBatch { progress, logs, results } = batch;
    let count = progress.len() + logs.len() + results.len();
    if count > MAX_BATCH {
        let problem = format!("a batch of {count} messages, the limit is {MAX_BATCH}; send several batches");
        return Err(Status::invalid_argument(problem));
    }
    let asked: usize = results.iter().map(subtasks).sum();
    if asked > MAX_BATCH_SUBTASKS {
        let problem =
            format!("a batch that asks for {asked} subtasks, the limit is {MAX_BATCH_SUBTASKS}; send several batches");
        return Err(Status::invalid_argument(problem));
    }
    progress.into_iter().for_each(|progress| attached.progressed(number, progress));
    logs.into_iter().for_each(|lines| attached.logged(number, lines));
    results.into_iter().for_each(|result| attached.answered(number, result));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use robeing_proto::worker::v1::Stop;

    use super::*;

    fn task(id: usize, bytes: usize) -> Task {
        Task { task_id: id.to_string(), input: vec![7; bytes].into(), ..Task::default() }
    }

    /// Returns how many bytes a task has besides its input, if that has about so many.
    fn overhead(bytes: usize) -> usize {
        task(1, bytes).encoded_len() - bytes
    }

    fn given(task: Task) -> to_process::Message {
        to_process::Message::Task(task)
    }

    fn small(ids: Range<usize>) -> Vec<to_process::Message> {
        ids.map(|id| given(task(id, 3))).collect()
    }

    /// Sends the messages before any is read; returns the ids of the tasks and stops of each message to the process.
    async fn sent(takes_batches: bool, messages: Vec<to_process::Message>) -> Vec<Vec<String>> {
        let (outgoing, mut unread) = mpsc::channel(messages.len());
        for message in messages {
            outgoing.try_send(ToProcess { message: Some(message) }).expect("there is room");
        }
        drop(outgoing);
        let mut gathering = Gathering::new(takes_batches);
        let mut sent = Vec::new();
        while let Some(ToProcess { message }) = gathering.next(&mut unread).await {
            sent.push(match message {
                Some(to_process::Message::Task(task)) => vec![task.task_id],
                Some(to_process::Message::Stop(stop)) => vec![format!("stop {}", stop.task_id)],
                Some(to_process::Message::Batch(batch)) => {
                    assert!(batch.tasks.len() > 1, "one task is sent by itself");
                    batch.tasks.into_iter().map(|task| task.task_id).collect()
                }
                other => panic!("it was not sent: {other:?}"),
            });
        }
        sent
    }

    #[tokio::test]
    async fn tasks_that_wait_leave_as_one_message_and_a_stop_keeps_its_place() {
        let stop = Stop { task_id: "2".into(), attempt: 1 };
        let messages = || [small(1..4), vec![to_process::Message::Stop(stop.clone())], small(4..6)].concat();
        let batches: [&[&str]; 3] = [&["1", "2", "3"], &["stop 2"], &["4", "5"]];
        assert_eq!(sent(true, messages()).await, batches);
        let alone: [&[&str]; 6] = [&["1"], &["2"], &["3"], &["stop 2"], &["4"], &["5"]];
        assert_eq!(sent(false, messages()).await, alone, "the process does not take batches");
    }

    #[tokio::test]
    async fn a_batch_has_no_more_than_so_many_tasks() {
        let count = async |tasks: usize| sent(true, small(0..tasks)).await.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(count(MAX_BATCH).await, [MAX_BATCH]);
        assert_eq!(count(MAX_BATCH + 1).await, [MAX_BATCH, 1]);
        assert_eq!(count(2 * MAX_BATCH + 2).await, [MAX_BATCH, MAX_BATCH, 2]);
    }

    #[tokio::test]
    async fn a_batch_has_no_more_than_so_many_bytes_and_a_larger_task_is_sent_by_itself() {
        let half = MAX_BATCH_BYTES / 2 - overhead(MAX_BATCH_BYTES / 4);
        let two = |bytes| vec![given(task(1, half)), given(task(2, bytes))];
        assert_eq!(sent(true, two(half)).await.len(), 1);
        assert_eq!(sent(true, two(half + 1)).await.len(), 2);
        let large = vec![given(task(3, MAX_BATCH_BYTES + 1))];
        let order: [&[&str]; 3] = [&["1", "2"], &["3"], &["4", "5"]];
        assert_eq!(sent(true, [small(1..3), large, small(4..6)].concat()).await, order);
    }
}
