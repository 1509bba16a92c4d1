//! CPU-bound work that occupies a thread for a long time.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs long CPU-bound work, such as encoding a fleet of a million tasks, without stalling the runtime's other tasks
/// (such as heartbeats): another thread takes them over meanwhile. On a single-threaded runtime, such as the
/// simulator's, the work runs inline.
pub fn compute<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[test]
    fn other_tasks_go_on_although_there_is_one_worker() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (tell, told) = mpsc::channel();
        let (done, is_done) = mpsc::channel();
        runtime.spawn(async move { done.send(compute(|| told.recv())).unwrap() });
        // Runs only if the first task does not block the only worker.
        runtime.spawn(async move { tell.send(7).unwrap() });
        let answer = is_done.recv_timeout(Duration::from_secs(30));
        // Shut down without waiting for a worker that may be blocked.
        runtime.shutdown_background();
        assert_eq!(answer, Ok(Ok(7)));
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_does_the_work_in_its_turn() {
        assert_eq!(compute(|| 7), 7);
    }
}
