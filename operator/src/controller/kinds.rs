//! Sends what the spec says of kinds of tasks to the coordinators.

use std::time::Duration;

use robeing_client::coordinators::Error;
use robeing_crds::{TaskKind, TaskKindRetry};
use robeing_proto::v1;
use tokio::time::Instant;
use tonic::Code;

use super::{
    ClusterCache, Context, apply,
    asking::{is_refusal, required_role},
    identity::trust::Sent,
    observe::Observation,
    requeue,
};
use crate::runtime::retry::Refusals;

/// The kind and the name under which a refusal is noted.
const KIND: &str = "TaskKinds";
const NAME: &str = "spec.taskKinds";

/// Returns the kinds as the coordinators take them.
pub fn request(kinds: &[TaskKind]) -> Vec<v1::TaskKind> {
    kinds.iter().map(told).collect()
}

/// Returns a time in the coordinators' unit: what is less than a millisecond does not count.
fn whole_millis(time: robeing_crds::Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.get().as_millis()).unwrap_or(u64::MAX))
}

fn told(kind: &TaskKind) -> v1::TaskKind {
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
        role: required_role(kind.role).into(),
        skills: kind.skills.clone(),
        slots: kind.slots,
        resources: amounts,
        queue: kind.queue.clone().unwrap_or_default(),
        deadline_in: span(kind.deadline),
        attempt_timeout: span(kind.attempt_timeout),
        retry: kind.retry.as_ref().map(retry),
        queue_expiry: span(kind.queue_expiry),
        progress_timeout: span(kind.progress_timeout),
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

/// Sends the kinds to the coordinators, if they don't have them and have not refused them lately. Returns why they are
/// not in force.
pub(crate) async fn set(observation: &Observation, context: &Context, cache: &mut ClusterCache) -> Option<String> {
    let Ok(answer) = &observation.fleet else { return None };
    let spec = &observation.cluster.spec.task_kinds;
    let kinds = request(spec);
    if cache.kinds.as_ref().is_some_and(|sent| sent.covers(&kinds, &answer.status)) {
        return None;
    }
    let wish = apply::fingerprint_of(spec);
    if let Some(refusal) = cache.refusals.of(KIND, NAME, wish, Instant::now()) {
        return Some(refusal.sentence.clone());
    }
    let sent = Sent::new(&kinds, &answer.status);
    match context.coordinators.set_task_kinds(&answer.from, &cache.identity.security(), kinds).await {
        Ok(()) => {
            cache.kinds = Some(sent);
            cache.refusals.done(KIND, NAME);
            None
        }
        // A fleet that has coordinators of a version without kinds has none.
        Err(error)
            if spec.is_empty() && matches!(error.code(), Some(Code::Unimplemented | Code::FailedPrecondition)) =>
        {
            None
        }
        Err(error) => Some(not_in_force(&mut cache.refusals, wish, &error)),
    }
}

/// Returns why the kinds are not in force, and notes a refusal, so that they are sent again ever more seldom: each refusal
/// is a record in the fleet's audit log, where it takes the place of others.
fn not_in_force(refusals: &mut Refusals, wish: u64, error: &Error) -> String {
    let sentence =
        format!("What spec.taskKinds says is not in force, and what was set before stays in force: {error}.");
    if is_refusal(error) {
        refusals.note((KIND, NAME, wish), (false, sentence.clone()), Instant::now(), requeue::chance());
    }
    sentence
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
             deadline: 1m, attemptTimeout: 1.5ms, queueExpiry: 5s, progressTimeout: 4s, \
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
    }
    #[test]
    fn kinds_that_were_refused_are_not_sent_again_at_once_unless_they_change() {
        let of = |code| Error::Refused {
            method: "SetTaskKinds",
            address: "a".to_owned(),
            code,
            message: "the queue was not set".to_owned(),
        };
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let why = not_in_force(&mut refusals, 1, &of(Code::InvalidArgument));
        assert!(why.contains("stays in force") && why.contains("the queue was not set"), "{why}");
        assert_eq!(refusals.of(KIND, NAME, 1, now).map(|refusal| refusal.sentence.as_str()), Some(why.as_str()));
        assert!(refusals.of(KIND, NAME, 2, now).is_none(), "they are others");
        let mut refusals = Refusals::default();
        not_in_force(&mut refusals, 1, &of(Code::Unavailable));
        assert!(refusals.of(KIND, NAME, 1, now).is_none(), "nobody has decided against them");
    }
}
