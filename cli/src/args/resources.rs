//! The arguments of the commands for the resource pool.

use std::time::Duration;

use clap::{Args, Subcommand};
use robeing_settings::quantities;

use super::Output;

/// The largest weight of a queue.
const MAX_WEIGHT: u32 = 1_000;

/// The commands for the resource pool.
#[derive(Debug, Subcommand)]
pub enum ResourcesCommand {
    /// List what agents contribute and what of it is granted, or the allocations
    List(ListResourcesArgs),
    /// Ask for resources
    Request(RequestArgs),
    /// Show an allocation
    Show(ShowAllocationArgs),
    /// Renew the lease of an allocation
    Renew(RenewArgs),
    /// Release an allocation, or no longer wait for it
    Release(FreeArgs),
    /// Set the queues besides "default", with their weights and quotas
    Queues(QueuesArgs),
}

/// Arguments of `resources list`.
#[derive(Args, Debug)]
pub struct ListResourcesArgs {
    /// List the allocations instead, newest first: those that wait or are granted
    #[arg(long)]
    pub allocations: bool,

    /// List those that have ended, too; they are kept for ten minutes
    #[arg(long, requires = "allocations")]
    pub all: bool,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Amounts of resources.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct AmountArgs {
    /// Processors: 2, 1.5 or 500m
    #[arg(long, value_name = "CPU", default_value = "0", hide_default_value = true, value_parser = cpu)]
    pub cpu: u64,

    /// Memory, bytes: 512Mi, 4Gi
    #[arg(long, value_name = "BYTES", default_value = "0", hide_default_value = true, value_parser = amount)]
    pub memory: u64,

    /// Disk space, bytes: 10Gi
    #[arg(long, value_name = "BYTES", default_value = "0", hide_default_value = true, value_parser = amount)]
    pub storage: u64,

    /// Network bandwidth, bits per second: 100M, 1G
    #[arg(long, value_name = "BITS", default_value = "0", hide_default_value = true, value_parser = amount)]
    pub bandwidth: u64,
}

fn cpu(text: &str) -> Result<u64, String> {
    quantities::cpu_millis(text).ok_or_else(|| format!("{text:?} must be processors, such as 2, 1.5 or 500m"))
}

fn amount(text: &str) -> Result<u64, String> {
    quantities::amount(text).ok_or_else(|| format!("{text:?} must be an amount, such as 512Mi, 4Gi or 100M"))
}

/// Arguments of `resources request`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
All that is asked for is granted, or nothing, at the agents that it fits best. If it is not free, the request is \
refused with \"Insufficient resources\" and which are short; with --wait it waits in its queue instead. What is \
granted is yours until you release it or its lease ends: renew the lease before, with `robeing resources renew`. It is \
also released when the task it is for is finished, and ends when an agent that gives a part of it is lost.

The exit code is 0 if it is granted, 1 if it has ended before, because its holder is gone, 3 if it is refused, and 6 if \
it was not granted in time.")]
pub struct RequestArgs {
    /// What is asked for, or each part of it.
    #[command(flatten)]
    pub amounts: AmountArgs,

    /// The number of equal parts, each of one agent
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub parts: u32,

    /// Each part must be of another agent
    #[arg(long)]
    pub spread: bool,

    /// Who is to hold it: task:ID, team:ID, agent:NAME or client:NAME. Without it: you
    #[arg(long = "for", value_name = "HOLDER", default_value = "", hide_default_value = true)]
    pub holder: String,

    /// The queue that the request waits in, and whose share it counts for: "default", or one that was set
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub queue: String,

    /// How long the lease lasts unless it is renewed, up to 366days
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub lease: Duration,

    /// Wait until it is granted, at most this long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,

    /// The id of the allocation, a UUID; a request that is made again with its id is one
    #[arg(long, value_name = "UUID")]
    pub id: Option<String>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `resources show`.
#[derive(Args, Debug)]
pub struct ShowAllocationArgs {
    /// The id of the allocation
    pub allocation: String,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `resources renew`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The exit code is 3 if the lease is over or has another token, and 4 if there is no such allocation: what it granted is \
not yours any more then.")]
pub struct RenewArgs {
    /// The id of the allocation
    pub allocation: String,

    /// Its token, which `robeing resources request` prints
    #[arg(long, value_name = "N")]
    pub token: u64,
}

/// Arguments of `resources release`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
To release what has ended already is no error. The exit code is 3 if the token is another one, or you may not, and 4 if \
there is no such allocation.")]
pub struct FreeArgs {
    /// The id of the allocation
    pub allocation: String,

    /// Its token. Without it, only who has asked for it can release it
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub token: u64,
}

/// A queue, its weight and its quota.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSpec {
    /// Its name.
    pub name: String,
    /// From 1 to 1,000.
    pub weight: u32,
    /// Most processor time, thousandths of a processor.
    pub cpu: Option<u64>,
    /// Most memory, bytes.
    pub memory: Option<u64>,
    /// Most disk space, bytes.
    pub storage: Option<u64>,
    /// Most bandwidth, bits per second.
    pub bandwidth: Option<u64>,
}

/// Reads `NAME[=WEIGHT][,cpu=…][,memory=…][,storage=…][,bandwidth=…]`.
fn queue(text: &str) -> Result<QueueSpec, String> {
    let mut fields = text.split(',');
    let first = fields.next().unwrap_or_default();
    let (name, weight) = match first.split_once('=') {
        None => (first, 1),
        Some((name, weight)) => match weight.parse() {
            Ok(weight) if (1..=MAX_WEIGHT).contains(&weight) => (name, weight),
            _ => return Err(format!("the weight {weight:?} must be a number from 1 to {MAX_WEIGHT}")),
        },
    };
    if name.is_empty() {
        return Err("give the name of a queue, such as batch or batch=3,cpu=16".into());
    }
    let mut spec = QueueSpec { name: name.into(), weight, ..QueueSpec::default() };
    for field in fields {
        match field.split_once('=') {
            Some(("cpu", text)) => spec.cpu = Some(cpu(text)?),
            Some(("memory", text)) => spec.memory = Some(amount(text)?),
            Some(("storage", text)) => spec.storage = Some(amount(text)?),
            Some(("bandwidth", text)) => spec.bandwidth = Some(amount(text)?),
            _ => return Err(format!("{field:?} must be cpu=, memory=, storage= or bandwidth= with the most of it")),
        }
    }
    Ok(spec)
}

/// Arguments of `resources queues`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
A queue of twice the weight gets twice the share of the resource that it uses most of. A quota is the most that can be \
granted from a queue at a time. A queue that is left out is no longer there, but for \"default\", and what was granted \
from it stays granted. For example:

    robeing resources queues batch=1,cpu=16,memory=64Gi web=3

`robeing resources list` shows them.")]
pub struct QueuesArgs {
    /// The queues; one that was set before and is not named is no longer there
    #[arg(value_name = "NAME[=WEIGHT][,RESOURCE=MOST...]", required_unless_present = "none", value_parser = queue)]
    pub queues: Vec<QueueSpec>,

    /// Remove all queues: there is only "default" then, without a quota
    #[arg(long, conflicts_with = "queues")]
    pub none: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_have_weights_and_quotas() {
        let read = queue("batch=3,cpu=1.5,memory=4Gi").expect("it is right");
        assert_eq!((read.name.as_str(), read.weight), ("batch", 3));
        assert_eq!((read.cpu, read.memory, read.storage), (Some(1_500), Some(4 << 30), None));
        assert_eq!(queue("web"), Ok(QueueSpec { name: "web".into(), weight: 1, ..QueueSpec::default() }));
        for (text, words) in [
            ("", "give the name"),
            ("=3", "give the name"),
            ("a=0", "from 1 to 1000"),
            ("a=1,disk=3", "must be cpu="),
            ("a=1,cpu=x", "must be processors"),
            ("a=1,memory=4GB", "must be an amount"),
        ] {
            let error = queue(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
