//! `robeing queues list`, `set` and `remove`.

use std::io;

use robeing_proto::v1::{ListQueuesRequest, QueueLimit, QueueRate, TaskQueue, UpdateQueuesRequest};

use super::{connect::client, duration};
use crate::{
    args::{Aging, Connection, LimitSpec, ListQueuesArgs, QueuesCommand, RemoveQueuesArgs, SetQueuesArgs},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{print_list, queues_table},
};

/// Number of queues that one call lists.
const PAGE: u32 = 1_000;

pub(super) async fn run(command: QueuesCommand, fleet: &Connection) -> Result<Exit, CliError> {
    match command {
        QueuesCommand::List(args) => list(args, fleet).await,
        QueuesCommand::Set(args) => set(*args, fleet).await,
        QueuesCommand::Remove(args) => remove(args, fleet).await,
    }
}

async fn list(args: ListQueuesArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    let mut request = ListQueuesRequest { limit: PAGE, ..ListQueuesRequest::default() };
    let mut queues = Vec::new();
    loop {
        let page = client.list_queues(request.clone()).await?;
        queues.extend(page.queues);
        // The pages are in order of the names, so the token only grows and the loop ends.
        if page.next_page_token <= request.page_token {
            break;
        }
        request.page_token = page.next_page_token;
    }
    print_list(&mut io::stdout().lock(), args.output.output, &queues, queues_table)?;
    Ok(Exit::Success)
}

async fn set(args: SetQueuesArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Administer).await?;
    let set: Vec<TaskQueue> = args.names.iter().map(|name| queue(name, &args)).collect();
    client.update_queues(UpdateQueuesRequest { set, remove: Vec::new() }).await?;
    Ok(Exit::Success)
}

async fn remove(args: RemoveQueuesArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Administer).await?;
    client.update_queues(UpdateQueuesRequest { set: Vec::new(), remove: args.names }).await?;
    Ok(Exit::Success)
}

fn queue(name: &str, args: &SetQueuesArgs) -> TaskQueue {
    let aging = match args.aging {
        Aging::Never => prost_types::Duration::default(),
        Aging::Every(time) => duration(time),
    };
    TaskQueue {
        name: name.into(),
        weight: args.weight,
        aging: Some(aging),
        max_unfinished: args.max_unfinished,
        limits: args.limits.iter().map(limit).collect(),
        ..TaskQueue::default()
    }
}

fn limit(spec: &LimitSpec) -> QueueLimit {
    let rate = spec.rate.map(|(count, per)| QueueRate { count, per: Some(duration(per)), burst: spec.burst });
    QueueLimit { key: spec.key.clone(), concurrency: spec.concurrency, rate }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_said_of_a_queue_is_set() {
        let rate = Some((10, Duration::from_secs(1)));
        let args = SetQueuesArgs {
            names: vec!["a".into()],
            weight: 3,
            aging: Aging::Never,
            max_unfinished: Some(9),
            limits: vec![LimitSpec { key: "k".into(), concurrency: Some(5), rate, burst: 20 }],
        };
        let set = queue("a", &args);
        assert_eq!((set.name.as_str(), set.weight, set.max_unfinished), ("a", 3, Some(9)));
        assert_eq!(set.aging, Some(prost_types::Duration::default()), "never is said");
        let rate = Some(QueueRate { count: 10, per: Some(duration(Duration::from_secs(1))), burst: 20 });
        assert_eq!(set.limits, [QueueLimit { key: "k".into(), concurrency: Some(5), rate }]);
    }
}
