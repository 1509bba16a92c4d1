//! Listing of the parts or subtasks of a task.

use prost::Message;
use robeing_fleet::{Fleet, Join, Kept, Stamp, Task, limits::MAX_PAGE};
use robeing_proto::{budget::MessageBudget, v1};
use tonic::Status;

use crate::{
    api::{
        convert::{self, Parts},
        errors, paging,
    },
    read::StateReader,
};

/// Default number of tasks on a page.
const DEFAULT_PAGE: usize = 100;
/// Maximum number of tasks read from the state at once.
const MAX_READ: usize = 256;

/// Returns whether a task is given to an agent, now or once its parts have ended; if not, only its parts are.
pub fn is_run_itself(task: &Task) -> bool {
    task.children().is_none_or(|children| matches!(children.join, Join::Reduce | Join::Resume))
}

/// Returns a page of the parts or subtasks of a task.
pub async fn list(state: &StateReader, request: v1::ListSubtasksRequest) -> Result<v1::ListSubtasksResponse, Status> {
    let id = convert::task_id(&request.id)?;
    let from = paging::page_number(&request.page_token)?.unwrap_or(0);
    let size = if request.page_size == 0 { DEFAULT_PAGE } else { (request.page_size as usize).min(MAX_PAGE) };
    state.ready_to_read(request.consistency).await?;
    // Nobody knows of the members of a task with several runs.
    let is_known = |fleet: &Fleet| match fleet.kept_task(id) {
        Some(Kept::Here(task)) => task.member_of.is_none(),
        Some(Kept::Archived(_)) => true,
        None => false,
    };
    let (is_known, now) = state.look(|fleet| (is_known(fleet), fleet.now()));
    if !is_known {
        return Err(errors::no_task(&request.id));
    }
    let parts = Parts { input: false, output: request.include_output, attempts: true };
    let mut page = Page::new(size, from);
    loop {
        let most = (size - page.tasks.len()).min(MAX_READ);
        let slice = state.look(|fleet| fleet.children_of(id, page.next, most));
        if slice.is_empty() {
            return Ok(page.response(true));
        }
        for (index, kept) in slice {
            let child = state.read_all([kept]).await.pop();
            if child.is_some_and(|child| !page.take(index, &child, parts, now)) {
                return Ok(page.response(false));
            }
            // Also after one that was forgotten meanwhile, or can't be read.
            page.next = index.saturating_add(1);
        }
        tokio::task::yield_now().await;
    }
}

/// A page, of as many tasks as were asked for and fit in one message.
struct Page {
    size: usize,
    tasks: Vec<v1::Task>,
    budget: MessageBudget,
    /// The number of the first task that is not on it.
    next: u32,
}

impl Page {
    fn new(size: usize, next: u32) -> Self {
        Self { size, tasks: Vec::new(), budget: MessageBudget::default(), next }
    }

    /// Adds the next task, if there is room. Returns whether there is room for another one.
    fn take(&mut self, index: u32, task: &Task, parts: Parts, now: Stamp) -> bool {
        let told = convert::task(task, parts, now);
        if !self.budget.take(told.encoded_len()) {
            return false;
        }
        self.tasks.push(told);
        self.next = index.saturating_add(1);
        self.tasks.len() < self.size
    }

    fn response(self, is_last: bool) -> v1::ListSubtasksResponse {
        let next_page_token = if is_last { String::new() } else { self.next.to_string() };
        v1::ListSubtasksResponse { tasks: self.tasks, next_page_token }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::{
        AskedLinks, Command, Completion, ControlCommand, Outcome, PartOf, Split, SubmitTask, TaskCommand, TaskId,
        known_version,
    };
    use robeing_proto::budget::MESSAGE_BUDGET_BYTES;

    use super::*;
    use crate::fixture::{fleet_with_agent, task};

    fn with_links(id: u128, links: AskedLinks) -> SubmitTask {
        SubmitTask { links: Some(Box::new(links)), ..task(id, Bytes::new()) }
    }

    /// A fleet with a task of so many parts, each of which has succeeded with an output of so many bytes.
    fn fleet_with_parts(parts: u32, bytes: usize) -> Fleet {
        let (mut fleet, agent, session) = fleet_with_agent();
        let mut apply = |command| drop(fleet.apply(Stamp::at(1), command, &mut Vec::new()));
        apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
        let split = Some(Split { parts: parts + 1, ..Split::default() });
        let links = AskedLinks { split, ..AskedLinks::default() };
        apply(Command::Task(TaskCommand::Submit(with_links(1, links))));
        for index in 0..parts {
            let (part_of, id) = (Some(PartOf { task: TaskId(1), index }), u128::from(index) + 10);
            let outcome = Outcome::Succeeded(vec![7; bytes].into());
            let completion = Completion { agent, session, task: TaskId(id), attempt: 1, ran_us: 1, outcome };
            apply(Command::Task(TaskCommand::Submit(with_links(id, AskedLinks { part_of, ..AskedLinks::default() }))));
            apply(Command::Task(TaskCommand::Complete(completion)));
        }
        fleet
    }

    /// Reads all pages of this size.
    fn pages(fleet: &Fleet, size: usize, parts: Parts) -> Vec<v1::ListSubtasksResponse> {
        let (mut pages, mut from) = (Vec::new(), 0);
        loop {
            let mut page = Page::new(size, from);
            let found = fleet.children_of(TaskId(1), from, size);
            let is_last = found.into_iter().all(|(index, child)| match child {
                Kept::Here(child) => page.take(index, &child, parts, fleet.now()),
                Kept::Archived(_) => panic!("nothing is archived"),
            });
            let response = page.response(is_last);
            assert!(response.encoded_len() <= MESSAGE_BUDGET_BYTES + 4096, "{} bytes", response.encoded_len());
            let token = response.next_page_token.clone();
            pages.push(response);
            match token.parse() {
                Ok(next) => from = next,
                Err(_) => return pages,
            }
        }
    }

    #[test]
    fn parts_are_listed_in_order_on_pages_of_the_size_that_is_asked_for_and_that_fit_in_a_message() {
        let fleet = fleet_with_parts(25, 100_000);
        for (output, size, most) in [(false, 10, 10), (true, 1_000, 10)] {
            let parts = Parts { output, attempts: true, ..Parts::default() };
            let pages = pages(&fleet, size, parts);
            assert!(pages.iter().all(|page| page.tasks.len() <= most) && pages.len() >= 3, "{}", pages.len());
            let tasks = pages.iter().flat_map(|page| &page.tasks);
            let places: Vec<u32> = tasks.filter_map(|task| Some(task.part_of.as_ref()?.index)).collect();
            assert_eq!(places, (0..25).collect::<Vec<u32>>());
        }
    }

    #[test]
    fn a_task_is_not_run_itself_if_nothing_is_left_to_do_after_its_parts() {
        let mut fleet = fleet_with_parts(0, 0);
        let mut apply =
            |task| drop(fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task)), &mut Vec::new()));
        let of = |join, quorum| Some(Split { parts: 2, join, quorum, ..Split::default() });
        apply(task(2, Bytes::new()));
        for (id, split) in [(3, of(Join::Reduce, 0)), (4, of(Join::Settled, 0)), (5, of(Join::Quorum, 1))] {
            apply(with_links(id, AskedLinks { split, ..AskedLinks::default() }));
        }
        let is_run = |id| fleet.task(TaskId(id)).map(|task| is_run_itself(task));
        assert_eq!([1, 2, 3, 4, 5].map(is_run), [Some(false), Some(true), Some(true), Some(false), Some(false)]);
    }
}
