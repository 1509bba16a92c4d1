//! Listing of tasks, in memory and archived.

use std::sync::Arc;

use robeing_fleet::{
    Kept, Stamp, Task, TaskFilter,
    limits::{MAX_PAGE, MAX_SCANNED},
};
use robeing_proto::v1;
use tonic::Status;

use crate::{
    api::{
        convert::{self, Parts},
        paging,
    },
    read::StateReader,
};

/// Maximum number of tasks scanned for one page; a page may be short, even empty, and still have a next one.
const MAX_LOOKED_AT: usize = 100_000;
/// Maximum number of archived tasks read for one page.
const MAX_READ: usize = 1_000;
/// Default number of tasks on a page.
const DEFAULT_PAGE: usize = 100;

/// Returns a page of tasks.
pub async fn list(state: &StateReader, request: v1::ListTasksRequest) -> Result<v1::ListTasksResponse, Status> {
    let (page_size, consistency) = (request.page_size as usize, request.consistency);
    let after = paging::page_number(&request.page_token)?;
    let filter = filter(request)?;
    let size = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(MAX_PAGE) };
    state.ready_to_read(consistency).await?;
    // The revision at the beginning: a watch from there misses nothing that changes while the page is read.
    let (revision, now) = state.look(|fleet| (fleet.revision(), fleet.now()));
    let mut page = Page::new(after, size);
    while let Some(most) = page.wanted() {
        let slice = state.look(|fleet| fleet.kept_tasks(&filter, page.after, most));
        let archived = slice.tasks.iter().filter(|kept| matches!(kept, Kept::Archived(_))).count();
        let read = state.read_briefly(slice.tasks).await;
        page.add(read.into_iter().filter(|task| filter.matches(task)), archived, slice.next);
        tokio::task::yield_now().await;
    }
    Ok(response(&page.tasks, page.after, revision, now))
}

fn filter(request: v1::ListTasksRequest) -> Result<TaskFilter, Status> {
    Ok(TaskFilter {
        states: convert::task_states(&request.states)?,
        kind: convert::filter_name("kind", request.kind)?,
        submitter: convert::filter_name("submitter", request.submitter)?,
        agent: convert::filter_name("agent", request.agent)?,
    })
}

/// A page that is read in slices, of at most [`MAX_SCANNED`] tasks each, between which the fleet continues to apply.
struct Page {
    size: usize,
    tasks: Vec<Arc<Task>>,
    /// The cursor after which to continue; `None` at first, and once there are no more.
    after: Option<u64>,
    is_over: bool,
    looked_at: usize,
    /// How many archived tasks were read.
    read: usize,
}

impl Page {
    fn new(after: Option<u64>, size: usize) -> Self {
        Self { size, tasks: Vec::new(), after, is_over: false, looked_at: 0, read: 0 }
    }

    /// Returns how many further tasks are wanted of the next slice; `None` if the page is complete.
    fn wanted(&self) -> Option<usize> {
        let left = self.size.saturating_sub(self.tasks.len()).min(MAX_READ.saturating_sub(self.read));
        (!self.is_over && left > 0 && self.looked_at < MAX_LOOKED_AT).then_some(left)
    }

    /// Adds the tasks of a slice, for which so many archived ones were read, and after which the next one starts.
    fn add(&mut self, tasks: impl Iterator<Item = Arc<Task>>, archived: usize, next: Option<u64>) {
        self.tasks.extend(tasks);
        self.read += archived;
        self.looked_at += MAX_SCANNED;
        (self.after, self.is_over) = (next, next.is_none());
    }
}

/// Returns a page of tasks, as many as fit in one message. The next page begins after the last task in it.
fn response(found: &[Arc<Task>], next: Option<u64>, revision: u64, now: Stamp) -> v1::ListTasksResponse {
    let parts = Parts { attempts: true, ..Parts::default() };
    let (tasks, cut) = paging::fitting(found.iter().map(|task| (task.seq, convert::task(task, parts, now))));
    let next_page_token = cut.or(next).map(|cursor| cursor.to_string()).unwrap_or_default();
    v1::ListTasksResponse { tasks, next_page_token, revision }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use robeing_fleet::{Fleet, TaskId};
    use robeing_proto::budget::MESSAGE_BUDGET_BYTES;

    use super::*;
    use crate::fixture::{fleet_with_ended, wordy_failure};

    /// Reads a page of a listing of so many tasks, of which three match, in the fifth slice. Returns how many were
    /// found, where the next page starts, and how many were looked at.
    fn read(fleet: &Fleet, of: usize, after: Option<u64>, size: usize, archived: usize) -> (usize, Option<u64>, usize) {
        let mut page = Page::new(after, size);
        while let Some(most) = page.wanted() {
            let next = page.after.unwrap_or(0) + MAX_SCANNED as u64;
            let matching = if next == 5 * MAX_SCANNED as u64 { most } else { 0 };
            let tasks = fleet.tasks(&TaskFilter::default(), None, MAX_PAGE).tasks;
            let found = tasks.into_iter().take(matching).cloned();
            page.add(found, archived, (next < of as u64).then_some(next));
        }
        (page.tasks.len(), page.after, page.looked_at)
    }

    #[test]
    fn a_page_for_which_a_hundred_thousand_tasks_were_looked_at_ends_with_what_was_found() {
        let fleet = fleet_with_ended(3, &wordy_failure());
        let page = |of, after, size| read(&fleet, of, after, size, 0);
        assert_eq!(page(MAX_LOOKED_AT, None, MAX_PAGE), (3, None, MAX_LOOKED_AT), "all of them");
        let (found, next, looked_at) = page(MAX_LOOKED_AT + 1, None, MAX_PAGE);
        assert_eq!((found, next, looked_at), (3, Some(100_000), 100_000), "there is a next page");
        assert_eq!(page(MAX_LOOKED_AT + 1, next, MAX_PAGE), (0, None, MAX_SCANNED), "which may be empty");
        assert_eq!(page(MAX_LOOKED_AT, None, 2), (2, Some(5_000), 5_000), "a page that is full");
    }

    #[test]
    fn a_page_for_which_a_thousand_archived_tasks_were_read_ends_with_what_was_found() {
        let fleet = fleet_with_ended(3, &wordy_failure());
        let page = |archived| read(&fleet, MAX_LOOKED_AT, None, MAX_PAGE, archived);
        assert_eq!(page(MAX_READ / 5), (3, Some(5_000), 5_000));
        assert_eq!(page(MAX_READ / 5 - 1), (3, Some(6_000), 6_000), "one more may be read");
    }

    #[test]
    fn a_page_of_wordy_failures_ends_where_the_message_is_full() {
        let fleet = fleet_with_ended(1_000, &wordy_failure());
        let (mut after, mut seen, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = fleet.tasks(&TaskFilter::default(), after, MAX_PAGE);
            let found: Vec<Arc<Task>> = page.tasks.into_iter().cloned().collect();
            let page = response(&found, page.next, fleet.revision(), fleet.now());
            assert!(page.encoded_len() <= MESSAGE_BUDGET_BYTES + 8 * 1024, "{} bytes", page.encoded_len());
            assert!(!page.tasks.is_empty(), "every page has something");
            seen.extend(page.tasks.into_iter().map(|task| task.id));
            pages += 1;
            match page.next_page_token.as_str() {
                "" => break,
                token => after = Some(token.parse().unwrap()),
            }
        }
        let expected: Vec<String> = (1..=1_000).map(|id| TaskId(id).to_string()).collect();
        assert_eq!(seen, expected);
        assert!(pages > 10, "{pages} pages");
    }
}
