//! Queues of tasks for people.

use std::time::Duration;

use robeing_proto::v1::{QueueLimit, TaskQueue};
use robeing_settings::text;

use super::table::table;

fn span(duration: Option<&prost_types::Duration>) -> Duration {
    duration.and_then(|span| Duration::try_from(*span).ok()).unwrap_or_default()
}

/// Formats a limit as `robeing queues set --limit` reads it.
fn limit(limit: &QueueLimit) -> String {
    let concurrency = limit.concurrency.map(|most| format!("concurrency={most}"));
    let rate = limit.rate.as_ref().map(|rate| {
        let per = text::duration(span(rate.per.as_ref()));
        format!("rate={}/{per},burst={}", rate.count, rate.burst)
    });
    let fields: Vec<String> = concurrency.into_iter().chain(rate).collect();
    let key = if limit.key.is_empty() { String::new() } else { format!("{}:", limit.key) };
    format!("{key}{}", fields.join(","))
}

/// Formats the list of `robeing queues list`.
pub fn queues_table(queues: &[TaskQueue]) -> String {
    let headers = ["QUEUE", "WEIGHT", "AGING", "WAITING", "RUNNING", "MOST", "LIMITS"];
    table(
        headers,
        queues.iter().map(|queue| {
            let aging = span(queue.aging.as_ref());
            let limits: Vec<String> = queue.limits.iter().map(limit).collect();
            let held = if queue.held { " (held)" } else { "" };
            [
                queue.name.clone(),
                queue.weight.to_string(),
                if aging.is_zero() { "never".to_owned() } else { text::duration(aging) },
                format!("{}{held}", queue.unfinished.saturating_sub(queue.running)),
                queue.running.to_string(),
                queue.max_unfinished.map(|most| most.to_string()).unwrap_or_default(),
                limits.join(" "),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::QueueRate;

    use super::*;

    #[test]
    fn queues_are_shown_with_what_waits_and_their_limits() {
        let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        let rate = Some(QueueRate { count: 10, per: second, burst: 20 });
        let all = QueueLimit { concurrency: Some(50), ..QueueLimit::default() };
        let each = QueueLimit { key: "*".into(), concurrency: Some(2), rate };
        let queue = TaskQueue {
            name: "crawler".into(),
            weight: 3,
            aging: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
            max_unfinished: Some(1_000),
            limits: vec![all, each],
            set: true,
            unfinished: 57,
            running: 50,
            held: true,
        };
        let text = queues_table(&[queue, TaskQueue { name: "default".into(), weight: 1, ..TaskQueue::default() }]);
        for shown in ["crawler", "10m", "7 (held)", "50", "1000", "concurrency=50 *:concurrency=2,rate=10/1s,burst=20"]
        {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        assert!(text.contains("never"), "{text}");
    }
}
