//! The organizer: a client that submits graphs of tasks, cancels some of these, and follows each to its end.

use std::time::Duration;

use futures::future::join_all;
use robeing_net::limited;
use robeing_platform::Random;
use robeing_proto::v1::{self, fleet_client::FleetClient};

use super::{
    draft::{self, Node},
    ledger::Ended,
};
use crate::{
    calls::{Calls, PAUSE},
    clients::below,
    results,
};

/// The number of graphs.
const GRAPHS: usize = 3;
/// The longest time until a task is cancelled, in milliseconds.
const CANCELLED_WITHIN: u64 = 600;
/// The longest pause before a task is read again, in milliseconds.
const READ_AGAIN: u64 = 1_000;

/// The organizer.
pub struct Organizer {
    /// Makes its calls.
    pub calls: Calls,
}

/// Returns the submissions of a graph in any order.
fn shuffled(nodes: &[Node], submitter: &str, random: &dyn Random) -> Vec<v1::TaskSpec> {
    let mut specs: Vec<v1::TaskSpec> = nodes.iter().map(|node| node.spec(submitter)).collect();
    for n in (1..specs.len()).rev() {
        specs.swap(n, below(random, n as u64 + 1) as usize);
    }
    specs
}

impl Organizer {
    /// Runs the organizer; returns when every graph has ended.
    pub async fn run(self) {
        join_all((0..GRAPHS).map(|_| self.activity())).await;
    }

    /// Runs through the life of one graph.
    async fn activity(&self) {
        self.calls.pause_to_begin().await;
        let nodes = self.submit().await;
        let ended = join_all(nodes.iter().map(|node| self.follow(node))).await;
        self.calls.record.check(|notes| notes.graphs.ends(&ended));
    }

    /// Submits a graph until all of it is accepted.
    async fn submit(&self) -> Vec<Node> {
        let Calls { name, platform, record, .. } = &self.calls;
        let nodes = draft::draw(platform);
        let specs = shuffled(&nodes, name, &*platform.random);
        {
            let mut notes = record.notes();
            specs.iter().for_each(|spec| notes.ask(spec));
            notes.graphs.asks(&nodes);
        }
        while self.calls.submit_all(&specs).await.is_err() {
            self.calls.pause(PAUSE).await;
        }
        nodes
    }

    /// Follows a task to its end, after it may have cancelled it, and reads its parts or subtasks then.
    async fn follow(&self, node: &Node) -> Ended {
        if node.is_cancelled {
            self.cancel(&node.id).await;
        }
        let task = loop {
            if let Some(task) = self.calls.task(&node.id).await
                && results::note(&self.calls.record, &task)
            {
                break task;
            }
            self.calls.pause(READ_AGAIN).await;
        };
        let children = loop {
            if task.subtasks.is_none() {
                break Vec::new();
            }
            match self.children(&node.id).await {
                Some(children) => break children,
                None => self.calls.pause(PAUSE).await,
            }
        };
        Ended { task, children }
    }

    async fn cancel(&self, id: &str) {
        self.calls.pause(CANCELLED_WITHIN).await;
        if let Some(accepted) = self.calls.record.notes().accepted.get_mut(id) {
            accepted.cancelled = true;
        }
        let (ids, reason) = (vec![id.to_owned()], "simulated".to_owned());
        let request = v1::CancelTasksRequest { ids, reason, ..v1::CancelTasksRequest::default() };
        // What becomes of the task is seen when it is read.
        let _ = self
            .calls
            .call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(FleetClient::new(channel)).cancel_tasks(request).await
            })
            .await;
    }

    /// Reads the parts or subtasks of a task. `None`: there is no response.
    async fn children(&self, id: &str) -> Option<Vec<v1::Task>> {
        let request = v1::ListSubtasksRequest {
            id: id.to_owned(),
            consistency: v1::Consistency::Linearizable.into(),
            ..v1::ListSubtasksRequest::default()
        };
        let listing = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
            limited!(FleetClient::new(channel)).list_subtasks(request).await
        });
        // They are fewer than fit on a page.
        listing.await.ok().map(|listed| listed.tasks)
    }
}
