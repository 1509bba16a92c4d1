//! Sends what the spec says of kinds of tasks to the coordinators.

use std::time::Duration;

use robeing_crds::{Role, SplitBy, SplitJoin, Splitter, TaskKind, TaskKindRetry};
use robeing_proto::v1;
use tonic::Code;

use super::{ClusterCache, Context, identity::trust::Sent, observe::Observation};

/// Returns the kinds as the coordinators take them.
pub fn request(kinds: &[TaskKind]) -> Vec<v1::TaskKind> {
    kinds.iter().map(told).collect()
}

/// Returns a time in the coordinators' unit: what is less than a millisecond does not count.
fn whole_millis(time: robeing_crds::Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.get().as_millis()).unwrap_or(u64::MAX))
}

fn told(kind: &TaskKind) -> v1::TaskKind {
    let role = match kind.role {
        None => v1::Role::Unspecified,
        Some(Role::Worker) => v1::Role::Worker,
        Some(Role::Specialist) => v1::Role::Specialist,
        Some(Role::Messenger) => v1::Role::Messenger,
        Some(Role::Guardian) => v1::Role::Guardian,
    };
    let amounts = kind.resources.as_ref().map(|resources| {
        let amounts = resources.amounts();
        v1::ResourceAmounts {
            cpu_millis: amounts.cpu.unwrap_or(0),
            memory_bytes: amounts.memory.unwrap_or(0),
            storage_bytes: amounts.storage.unwrap_or(0),
            bandwidth_bits_per_second: amounts.bandwidth.unwrap_or(0),
        }
    });
    // The schema takes no time that is too long for this.
    let span = |time: Option<robeing_crds::Duration>| time.and_then(|time| whole_millis(time).try_into().ok());
    v1::TaskKind {
        name: kind.name.clone(),
        role: role.into(),
        skills: kind.skills.clone(),
        slots: kind.slots,
        resources: amounts,
        queue: kind.queue.clone().unwrap_or_default(),
        deadline_in: span(kind.deadline),
        attempt_timeout: span(kind.attempt_timeout),
        retry: kind.retry.as_ref().map(retry),
        queue_expiry: span(kind.queue_expiry),
        progress_timeout: span(kind.progress_timeout),
        agents: kind.agents.unwrap_or(0),
        splitter: kind.splitter.as_ref().map(splitter),
    }
}

fn splitter(splitter: &Splitter) -> v1::Splitter {
    let by = match splitter.by {
        SplitBy::Lines => v1::SplitBy::Lines,
        SplitBy::Chunks => v1::SplitBy::Chunks,
        SplitBy::Json => v1::SplitBy::Json,
        SplitBy::Command => v1::SplitBy::Command,
    };
    let join = match splitter.join {
        SplitJoin::All => v1::Join::All,
        SplitJoin::Settled => v1::Join::Settled,
        SplitJoin::Any => v1::Join::Any,
        SplitJoin::Reduce => v1::Join::Reduce,
    };
    v1::Splitter {
        by: by.into(),
        join: join.into(),
        part_kind: splitter.part_kind.clone().unwrap_or_default(),
        kind: splitter.kind.clone().unwrap_or_default(),
    }
}

fn retry(retry: &TaskKindRetry) -> v1::RetryPolicy {
    v1::RetryPolicy {
        max_attempts: retry.max_attempts.unwrap_or(0),
        initial_backoff: retry.initial_backoff.and_then(|time| whole_millis(time).try_into().ok()),
        max_backoff: retry.max_backoff.and_then(|time| whole_millis(time).try_into().ok()),
        multiplier_percent: retry.multiplier_percent.unwrap_or(0),
        jitter_percent: retry.jitter_percent.unwrap_or(0),
        ..v1::RetryPolicy::default()
    }
}

/// Sends the kinds to the coordinators, if they don't have them. Returns why they are not in force.
pub(crate) async fn set(observation: &Observation, context: &Context, cache: &mut ClusterCache) -> Option<String> {
    let Ok(answer) = &observation.fleet else { return None };
    let kinds = request(&observation.cluster.spec.task_kinds);
    if cache.kinds.as_ref().is_some_and(|sent| sent.covers(&kinds, &answer.status)) {
        return None;
    }
    let (sent, is_empty) = (Sent::new(&kinds, &answer.status), kinds.is_empty());
    match context.coordinators.set_task_kinds(&answer.from, &cache.identity.security(), kinds).await {
        Ok(()) => {
            cache.kinds = Some(sent);
            None
        }
        // A fleet that has coordinators of a version without kinds has none.
        Err(error) if is_empty && matches!(error.code(), Some(Code::Unimplemented | Code::FailedPrecondition)) => None,
        Err(error) => {
            Some(format!("What spec.taskKinds says is not in force, and what was set before stays in force: {error}."))
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_crds::parse_manifest;

    use super::*;

    fn kinds(fields: &str) -> Vec<v1::TaskKind> {
        let manifest = format!(
            "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {{name: f}}\nspec: {{taskKinds: [{fields}]}}\n"
        );
        request(&parse_manifest(&manifest).unwrap_or_else(|error| panic!("{error}")).spec.task_kinds)
    }

    #[test]
    fn kinds_are_sent_in_the_coordinators_units() {
        assert_eq!(kinds(""), []);
        let least = v1::TaskKind { name: "k".into(), slots: 1, ..v1::TaskKind::default() };
        assert_eq!(kinds("{name: k}"), [least]);
        let sent = kinds(
            "{name: k, role: Guardian, skills: [ocr], slots: 2, resources: {cpu: 500m, memory: 1Gi}, queue: batch, \
             deadline: 1m, attemptTimeout: 1.5ms, queueExpiry: 5s, progressTimeout: 4s, agents: 3, \
             splitter: {by: Command, kind: cut, join: Reduce, partKind: part}, \
             retry: {maxAttempts: 3, initialBackoff: 0s, jitterPercent: 20}}",
        );
        let [kind] = &sent[..] else { panic!("one kind: {sent:?}") };
        assert_eq!((kind.role(), kind.slots, kind.queue.as_str()), (v1::Role::Guardian, 2, "batch"));
        let amounts = kind.resources.unwrap_or_default();
        assert_eq!((amounts.cpu_millis, amounts.memory_bytes, amounts.storage_bytes), (500, 1 << 30, 0));
        assert_eq!(kind.deadline_in.map(|time| (time.seconds, time.nanos)), Some((60, 0)));
        let timeout = kind.attempt_timeout.map(|time| (time.seconds, time.nanos));
        assert_eq!(timeout, Some((0, 1_000_000)), "whole milliseconds");
        let times = [kind.queue_expiry, kind.progress_timeout].map(|time| time.map(|time| time.seconds));
        assert_eq!(times, [Some(5), Some(4)]);
        let retry = kind.retry.clone().unwrap_or_default();
        assert_eq!((retry.max_attempts, retry.multiplier_percent, retry.jitter_percent), (3, 0, 20));
        let initial = retry.initial_backoff.map(|time| (time.seconds, time.nanos));
        assert_eq!(initial, Some((0, 0)), "none is not the same as not set");
        assert!(retry.max_backoff.is_none());
        let splitter = kind.splitter.clone().unwrap_or_default();
        assert_eq!((kind.agents, splitter.by(), splitter.join()), (3, v1::SplitBy::Command, v1::Join::Reduce));
        assert_eq!((splitter.kind.as_str(), splitter.part_kind.as_str()), ("cut", "part"));
    }
}
