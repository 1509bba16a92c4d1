//! Tasks that run while a test changes the fleet, so that there is something to lose.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use robeing_client::FleetClient;
use robeing_proto::v1::GetTaskRequest;
use robeing_tests::{
    fleet::Fleet,
    history::{History, Seen},
    load::{recorded, submit_recorded},
    wait::{check, eventually, in_time},
};
use tokio::task::JoinHandle;

/// The number of tasks in flight.
const IN_FLIGHT: usize = 16;

/// Recorded tasks, submitted in batches until the stream is ended.
pub struct Stream {
    history: Arc<History>,
    client: FleetClient,
    enough: Arc<AtomicBool>,
    submitting: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.submitting.abort();
    }
}

impl Stream {
    /// Starts the stream, and waits for the first result.
    pub async fn begin(fleet: &Fleet) -> Self {
        let (history, enough) = (Arc::new(History::default()), Arc::new(AtomicBool::new(false)));
        let client = fleet.client();
        let submitting = tokio::spawn(submit(client.clone(), Arc::clone(&history), Arc::clone(&enough)));
        let stream = Self { history, client, enough, submitting };
        stream.goes_on().await;
        stream
    }

    /// Waits until another task has ended.
    pub async fn goes_on(&self) {
        let before = self.history.ended_count();
        eventually("tasks that end", async || {
            let ended = self.history.ended_count();
            check(ended > before, (), format!("{ended} ended"))
        })
        .await;
    }

    /// Ends the stream, and checks that nothing was lost.
    pub async fn end(mut self, fleet: &Fleet) {
        self.goes_on().await;
        self.enough.store(true, Ordering::Relaxed);
        in_time("the end of the stream", &mut self.submitting).await.expect("it ends without a panic");
        for id in self.history.accepted_ids() {
            let request = GetTaskRequest { id: id.clone(), ..Default::default() };
            let task = self.client.get_task(request).await.unwrap_or_else(|error| panic!("no task {id}: {error}"));
            self.history.seen(Seen::Get, &task);
        }
        assert!(self.history.accepted_count() >= IN_FLIGHT, "there were tasks to lose");
        self.history.assert_sound(&fleet.executions_file());
    }
}

async fn submit(client: FleetClient, history: Arc<History>, enough: Arc<AtomicBool>) {
    let mut numbers = 0..;
    while !enough.load(Ordering::Relaxed) {
        let numbers = numbers.by_ref().take(IN_FLIGHT);
        let tasks = numbers.map(|number| recorded(&history, "", &format!("number {number}"))).collect();
        submit_recorded(&client, &history, tasks, IN_FLIGHT).await;
    }
}
