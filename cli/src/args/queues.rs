//! The arguments of the commands for queues of tasks.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Output;

/// The largest weight of a queue.
const MAX_WEIGHT: i64 = 1_000;
/// Most queues that one command sets or removes.
const MAX_NAMES: usize = 100;

/// The commands for queues of tasks.
#[derive(Debug, Subcommand)]
pub enum QueuesCommand {
    /// List the queues that are set or have unfinished tasks, with their limits
    List(ListQueuesArgs),
    /// Set queues, each with the same weight, aging and limits; what was set for them before is replaced
    Set(Box<SetQueuesArgs>),
    /// Remove queues; their tasks continue without limits
    Remove(RemoveQueuesArgs),
}

/// Arguments of `queues list`.
#[derive(Args, Debug)]
pub struct ListQueuesArgs {
    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// How fast the priorities of a queue age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aging {
    /// They do not.
    Never,
    /// Waiting as long is worth one priority more.
    Every(Duration),
}

fn aging(text: &str) -> Result<Aging, String> {
    match text {
        "never" => Ok(Aging::Never),
        text => humantime::parse_duration(text)
            .map(Aging::Every)
            .map_err(|_| format!("{text:?} must be a duration such as 10m, or never")),
    }
}

/// A limit on the starts of tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitSpec {
    /// The key of the tasks; empty for all of the queue together, `*` for those of each key.
    pub key: String,
    /// How many may run at a time.
    pub concurrency: Option<u32>,
    /// So many may start within a time.
    pub rate: Option<(u32, Duration)>,
    /// How many may start at once; 0: as many as the rate says.
    pub burst: u32,
}

/// Reads `[KEY:]concurrency=N,rate=N/DURATION,burst=N`.
fn limit(text: &str) -> Result<LimitSpec, String> {
    let (key, fields) = text.rsplit_once(':').unwrap_or(("", text));
    let mut limit = LimitSpec { key: key.into(), ..LimitSpec::default() };
    for field in fields.split(',') {
        match field.split_once('=') {
            Some(("concurrency", text)) => limit.concurrency = Some(number("concurrency", text)?),
            Some(("rate", text)) => limit.rate = Some(rate(text)?),
            Some(("burst", text)) => limit.burst = number("burst", text)?,
            _ => return Err(format!("{field:?} must be concurrency=N, rate=N/DURATION or burst=N")),
        }
    }
    if limit.burst > 0 && limit.rate.is_none() {
        return Err("a burst needs a rate, such as rate=10/1s,burst=20".into());
    }
    Ok(limit)
}

fn number(name: &str, text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("the {name} {text:?} must be a number of at least 1")),
    }
}

fn rate(text: &str) -> Result<(u32, Duration), String> {
    let wrong = || format!("the rate {text:?} must be so many within a time, such as 10/1s or 100/1m");
    let (count, per) = text.split_once('/').ok_or_else(wrong)?;
    let per = humantime::parse_duration(per).map_err(|_| wrong())?;
    Ok((number("rate", count)?, per))
}

/// Arguments of `queues set`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
An agent with a choice takes a task of the queue that was served least for its weight, and of that queue one of the \
submitter who was served least. Tasks get into a queue by `robeing submit --queue NAME`, and have a key for limits by \
--limit-key KEY.

--limit is about all tasks of a queue together, or with a key before a colon about those of a key; with * before it, about \
those of each key that has no limit of its own. For example:

    robeing queues set batch --weight 2 --max-unfinished 100000
    robeing queues set crawler --limit concurrency=50 --limit '*:concurrency=2,rate=10/1s,burst=20'

A queue's limits hold from then on; what runs is not ended. The queue \"default\" can be set, too.")]
pub struct SetQueuesArgs {
    /// The names of the queues
    #[arg(value_name = "NAME", required = true, num_args = 1..=MAX_NAMES)]
    pub names: Vec<String>,

    /// A queue of twice the weight gets twice the share
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_WEIGHT))]
    pub weight: u32,

    /// Waiting as long is worth one priority more; "never" if priorities are not to age
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = aging)]
    pub aging: Aging,

    /// Most unfinished tasks; others are refused
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_unfinished: Option<u32>,

    /// How many tasks may run at a time, and how many may start within a time. Repeat it for several keys
    #[arg(long = "limit", value_name = "[KEY:]concurrency=N,rate=N/DURATION,burst=N", value_parser = limit)]
    pub limits: Vec<LimitSpec>,
}

/// Arguments of `queues remove`.
#[derive(Args, Debug)]
pub struct RemoveQueuesArgs {
    /// The names of the queues; it is no error if there is no such queue
    #[arg(value_name = "NAME", required = true, num_args = 1..=MAX_NAMES)]
    pub names: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_keys_numbers_and_rates() {
        let read = limit("concurrency=5").expect("it is right");
        assert_eq!(read, LimitSpec { concurrency: Some(5), ..LimitSpec::default() });
        let read = limit("*:rate=10/1m30s,burst=20").expect("it is right");
        let rate = Some((10, Duration::from_secs(90)));
        assert_eq!(read, LimitSpec { key: "*".into(), concurrency: None, rate, burst: 20 });
        assert_eq!(limit("a:b:concurrency=1").expect("it is right").key, "a:b");
        for (text, words) in [
            ("", "must be concurrency=N"),
            ("concurrency=0", "at least 1"),
            ("concurrency=many", "at least 1"),
            ("rate=10", "such as 10/1s"),
            ("rate=10/soon", "such as 10/1s"),
            ("rate=0/1s", "at least 1"),
            ("concurrency=1,burst=2", "needs a rate"),
            ("key:5", "must be concurrency=N"),
        ] {
            let error = limit(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn priorities_age_by_a_duration_or_never() {
        assert_eq!((aging("never"), aging("90s")), (Ok(Aging::Never), Ok(Aging::Every(Duration::from_secs(90)))));
        assert!(aging("sometimes").is_err());
    }
}
