//! Queues of tasks.

use robeing_fleet::{
    Limit, QueueRules, Rate, TaskQueue, TaskQueueView,
    limits::{DEFAULT_AGING_MS, DEFAULT_QUEUE_WEIGHT},
};
use robeing_proto::v1;

use super::{
    fields::{BadField, millis},
    span,
};

fn rate(rate: v1::QueueRate) -> Result<Rate, BadField> {
    let v1::QueueRate { count, per, burst } = rate;
    let per = millis("queues.limits.rate.per", per)?.unwrap_or(0);
    Ok(Rate { count, per, burst: if burst == 0 { count } else { burst } })
}

fn limit(limit: v1::QueueLimit) -> Result<Limit, BadField> {
    let v1::QueueLimit { key, concurrency, rate: asked } = limit;
    Ok(Limit { key, concurrency, rate: asked.map(rate).transpose()? })
}

/// Reads a queue.
///
/// # Errors
/// If a duration is none.
pub fn task_queue(queue: v1::TaskQueue) -> Result<TaskQueue, BadField> {
    let rules = QueueRules {
        weight: if queue.weight == 0 { DEFAULT_QUEUE_WEIGHT } else { queue.weight },
        aging: millis("queues.aging", queue.aging)?.unwrap_or(DEFAULT_AGING_MS),
        max_unfinished: queue.max_unfinished,
        limits: queue.limits.into_iter().map(limit).collect::<Result<_, _>>()?,
    };
    Ok(TaskQueue { name: queue.name, rules })
}

fn told_limit(limit: Limit) -> v1::QueueLimit {
    let Limit { key, concurrency, rate } = limit;
    let rate = rate.map(|Rate { count, per, burst }| v1::QueueRate { count, per: Some(span(per)), burst });
    v1::QueueLimit { key, concurrency, rate }
}

/// Converts a queue to its API form.
pub fn told_task_queue(view: TaskQueueView) -> v1::TaskQueue {
    let TaskQueueView { name, rules, weight, unfinished, running, is_held } = view;
    let set = rules.is_some();
    let QueueRules { aging, max_unfinished, limits, .. } = rules.unwrap_or(QueueRules::of_weight(weight));
    v1::TaskQueue {
        name,
        weight,
        aging: Some(span(aging)),
        max_unfinished,
        limits: limits.into_iter().map(told_limit).collect(),
        set,
        unfinished,
        running,
        held: is_held,
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Duration as WireDuration;

    use super::*;

    #[test]
    fn a_queue_stays_what_it_is() {
        let limits = vec![
            Limit { key: String::new(), concurrency: Some(5), rate: None },
            Limit { key: "*".to_owned(), concurrency: None, rate: Some(Rate { count: 3, per: 1_500, burst: 7 }) },
        ];
        let rules = QueueRules { weight: 2, aging: 61_001, max_unfinished: Some(9), limits };
        let (name, weight) = ("q".to_owned(), rules.weight);
        let view = TaskQueueView {
            name: name.clone(),
            rules: Some(rules.clone()),
            weight,
            unfinished: 1,
            running: 1,
            is_held: true,
        };
        assert_eq!(task_queue(told_task_queue(view)), Ok(TaskQueue { name, rules }));
    }

    #[test]
    fn what_is_left_out_has_defaults() {
        let per = Some(WireDuration { seconds: 1, nanos: 0 });
        let rate = Some(v1::QueueRate { count: 4, per, burst: 0 });
        let limits = vec![v1::QueueLimit { rate, ..v1::QueueLimit::default() }];
        let read = task_queue(v1::TaskQueue { name: "q".to_owned(), limits, ..v1::TaskQueue::default() });
        let rules = read.expect("it is right").rules;
        assert_eq!((rules.weight, rules.aging, rules.max_unfinished), (1, DEFAULT_AGING_MS, None));
        assert_eq!(rules.limits[0].rate, Some(Rate { count: 4, per: 1_000, burst: 4 }));
        let never = Some(WireDuration::default());
        let read = task_queue(v1::TaskQueue { aging: never, ..v1::TaskQueue::default() });
        assert_eq!(read.map(|queue| queue.rules.aging), Ok(0));
    }
}
