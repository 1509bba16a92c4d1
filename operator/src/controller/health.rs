//! Describes what is wrong with a pod, from the pod's own status. Pure.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStatus, PersistentVolumeClaim, Pod, PodCondition},
    jiff::Timestamp,
};
use kube::ResourceExt;

use crate::controller::observe::NODE_GONE_AFTER;

/// How long after its last start a container that was restarted more than once still counts as failing.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// How long a coordinator may take to become ready again after a restart.
const RESTARTED_WITHIN: Duration = Duration::from_secs(15);
/// How long a coordinator in a new pod may take to become ready; its image may have to be pulled first.
const STARTED_WITHIN: Duration = Duration::from_secs(120);
/// How long the scheduler may take, including the time to provision a disk.
const SCHEDULED_WITHIN: Duration = Duration::from_secs(10);
/// Maximum rounding error of a time in a status, which has whole seconds.
const ROUNDED: Duration = Duration::from_secs(1);
/// Maximum length of a container's message that is quoted, in characters.
const MAX_WORDS: usize = 300;

/// The pod conditions that the operator reads.
pub const READ_CONDITIONS: [&str; 2] = ["Ready", "PodScheduled"];

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A container terminates repeatedly.
    CrashLooping,
    /// An image can't be pulled.
    ImagePull,
    /// A container can't be created.
    ContainerConfig,
    /// No node can run the pod.
    Unschedulable,
    /// The pod's node does not respond.
    NodeGone,
}

impl Kind {
    /// Returns the reason for a condition.
    pub fn reason(self) -> &'static str {
        match self {
            Self::CrashLooping => "CrashLooping",
            Self::ImagePull => "ImagePullFailed",
            Self::ContainerConfig => "ContainerConfigWrong",
            Self::Unschedulable => "Unschedulable",
            Self::NodeGone => "NodeGone",
        }
    }
}

/// What is wrong with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The pod's name.
    pub pod: String,
    /// The kind of failure.
    pub kind: Kind,
    /// The failing container, if the failure is that of a container.
    pub container: Option<String>,
    /// The description.
    pub words: String,
}

impl Failure {
    /// Returns the failure as a clause of a sentence.
    pub fn text(&self) -> String {
        match &self.container {
            Some(container) => format!("container {container:?} of pod {}: {}", self.pod, self.words),
            None => format!("pod {}: {}", self.pod, self.words),
        }
    }

    /// Returns whether another pod template may fix the failure; not if the node is gone.
    pub fn at_fault(&self) -> bool {
        self.kind != Kind::NodeGone
    }
}

/// Returns whether a pod is ready.
pub fn ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Returns whether a container has run in this pod; init containers don't count.
pub fn has_run(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut states = statuses.flat_map(|status| [&status.state, &status.last_state]).flatten();
    states.any(|state| state.running.is_some() || state.terminated.is_some())
}

/// Returns whether a pod has been unready for longer than a restart takes or, if no container has run yet, than a
/// start.
pub fn away_for_long(pod: &Pod, now: Timestamp) -> bool {
    let patience = if has_run(pod) { RESTARTED_WITHIN } else { STARTED_WITHIN };
    let Some(ready) = condition(pod, "Ready").filter(|ready| ready.status != "True") else { return false };
    let since = ready.last_transition_time.as_ref().map(|since| now.duration_since(since.0));
    since.is_some_and(|since| since.is_positive() && since.unsigned_abs() > patience)
}

/// Returns whether a claim has lost its volume.
pub fn disk_lost(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Lost"))
}

fn condition<'a>(pod: &'a Pod, of: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == of)
}

/// Returns what is wrong with a pod, if anything.
pub fn failure(pod: &Pod, now: Timestamp) -> Option<Failure> {
    let of = |kind, container: Option<&str>, words: String| {
        Some(Failure { pod: pod.name_any(), kind, container: container.map(ToOwned::to_owned), words })
    };
    if let Some(deleted) = &pod.metadata.deletion_timestamp {
        // The deletion timestamp is the end of the grace period.
        let overdue = now.duration_since(deleted.0);
        return (overdue.unsigned_abs() > NODE_GONE_AFTER && overdue.is_positive())
            .then(|| of(Kind::NodeGone, None, node_gone(pod)))?;
    }
    for status in statuses(pod) {
        if let Some((kind, words)) = container_failure(status, now) {
            return of(kind, Some(&status.name), words);
        }
    }
    let unscheduled = condition(pod, "PodScheduled").filter(|scheduled| scheduled.status == "False")?;
    let waits = unscheduled.last_transition_time.as_ref().map(|since| now.duration_since(since.0));
    waits
        .is_some_and(|waits| waits.is_positive() && waits.unsigned_abs() > SCHEDULED_WITHIN)
        .then(|| of(Kind::Unschedulable, None, unschedulable(pod, unscheduled.message.as_deref())))?
}

/// Returns when [`failure`] or [`away_for_long`] may next change merely because time passes; `None` if never.
pub fn changes_at(pod: &Pod, now: Timestamp) -> Option<Timestamp> {
    let since = |of: &str| {
        let condition = condition(pod, of).filter(|condition| condition.status != "True")?;
        Some(condition.last_transition_time.as_ref()?.0)
    };
    let (unready, unscheduled) = (since("Ready"), since("PodScheduled"));
    let running = statuses(pod).filter(|status| status.restart_count >= 2).filter_map(|status| {
        let running = status.state.as_ref()?.running.as_ref()?;
        Some((running.started_at.as_ref()?.0, STABLE_AFTER))
    });
    let moments = [
        unready.map(|since| (since, RESTARTED_WITHIN)),
        unready.map(|since| (since, STARTED_WITHIN)),
        unscheduled.map(|since| (since, SCHEDULED_WITHIN)),
        pod.metadata.deletion_timestamp.as_ref().map(|at| (at.0, NODE_GONE_AFTER)),
    ];
    let moments = moments.into_iter().flatten().chain(running);
    // The recorded times are rounded down to whole seconds.
    let moments = moments.filter_map(|(since, after)| since.checked_add(after + ROUNDED).ok());
    moments.filter(|moment| *moment > now).min()
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let statuses = pod.status.iter();
    statuses.flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    })
}

fn node_gone(pod: &Pod) -> String {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("<unknown>");
    let disks = claims(pod);
    let disk = if disks.is_empty() {
        String::new()
    } else {
        format!(" Its disk is PersistentVolumeClaim {}; delete that too if it is lost with the node.", disks.join(", "))
    };
    format!(
        "node {node} does not confirm that the pod has terminated. If the node will not come back, delete the Node \
         object, or the pod with --force.{disk}"
    )
}

fn unschedulable(pod: &Pod, message: Option<&str>) -> String {
    let message = message.unwrap_or("no node can run it");
    match &claims(pod)[..] {
        [] => message.to_owned(),
        disks => format!("{message} (its disk is PersistentVolumeClaim {})", disks.join(", ")),
    }
}

/// Returns the names of the PersistentVolumeClaims that a pod uses.
pub fn claims(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())).collect()
}

fn container_failure(status: &ContainerStatus, now: Timestamp) -> Option<(Kind, String)> {
    let state = status.state.as_ref()?;
    let last = status.last_state.as_ref();
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let message = waiting.message.as_deref().unwrap_or(reason);
        return match reason {
            "CrashLoopBackOff" => Some((Kind::CrashLooping, crash(status, last))),
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                Some((Kind::ImagePull, format!("image {:?}: {}", status.image, shorten(message))))
            }
            "RunContainerError" if status.restart_count > 0 => Some((Kind::CrashLooping, crash(status, last))),
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                Some((Kind::ContainerConfig, shorten(message)))
            }
            _ => None,
        };
    }
    if status.restart_count < 2 {
        return None;
    }
    if let Some(running) = &state.running {
        let since = running.started_at.as_ref().map(|at| now.duration_since(at.0));
        return since
            .is_some_and(|since| since.unsigned_abs() < STABLE_AFTER)
            .then(|| (Kind::CrashLooping, crash(status, last)));
    }
    state.terminated.is_some().then(|| (Kind::CrashLooping, crash(status, Some(state))))
}

fn crash(status: &ContainerStatus, ended: Option<&ContainerState>) -> String {
    let restarts = format!("it ended {} times", status.restart_count);
    let Some(ended) = ended.and_then(|state| state.terminated.as_ref()) else { return restarts };
    let reason = ended.reason.as_deref().unwrap_or("Error");
    let signal = ended.signal.filter(|signal| *signal != 0).map(|signal| format!(", signal {signal}"));
    let how = format!("last with exit code {}{} ({reason})", ended.exit_code, signal.unwrap_or_default());
    match ended.message.as_deref().map(str::trim) {
        None | Some("") => format!("{restarts}, {how}"),
        Some(words) => format!("{restarts}, {how}: {}", shorten(words)),
    }
}

/// Returns the end of a text, which usually contains the cause, on one line.
fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().rev().nth(MAX_WORDS - 1) {
        Some((start, _)) if start > 0 => format!("…{}", &line[start..]),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T00:{text}Z").parse().expect("a time")
    }

    /// Returns what is reported of a pod.
    fn said(pod: &Pod, now: Timestamp) -> (Option<Failure>, bool) {
        (failure(pod, now), away_for_long(pod, now))
    }

    #[test]
    fn every_moment_at_which_more_is_said_of_a_pod_is_known_before() {
        let unready = json!({"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let unscheduled =
            json!({"type": "PodScheduled", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let container = |restarts: u32| json!({"name": "agent", "image": "a", "imageID": "", "ready": false, "restartCount": restarts, "state": running});
        let pods = [
            json!({"metadata": {"name": "a"}, "status": {"conditions": [unscheduled]}}),
            json!({"metadata": {"name": "a"}, "status": {"conditions": [unready]}}),
            json!({"metadata": {"name": "a"}, "status": {"conditions": [unready], "containerStatuses": [container(0)]}}),
            json!({"metadata": {"name": "a"}, "status": {"conditions": [unready, unscheduled], "containerStatuses": [container(3)]}}),
            json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        ];
        for value in pods {
            let (pod, mut now, mut changes) = (pod(value), at("00:00"), 0);
            while let Some(next) = changes_at(&pod, now) {
                assert!(next > now);
                let before = said(&pod, now);
                // The result changes at these moments only.
                let last = next - Duration::from_secs(1);
                assert_eq!(said(&pod, last - Duration::from_millis(1)), before, "{pod:?} before {next}");
                changes += usize::from(said(&pod, next) != before);
                now = next;
            }
            assert!(changes > 0, "the result for {pod:?} never changes");
            assert_eq!(said(&pod, now), said(&pod, at("59:59")), "{pod:?} after {now}");
        }
    }

    #[test]
    fn a_pod_that_is_well_changes_by_no_time() {
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let pod = pod(json!({"metadata": {"name": "a"}, "status": {"conditions": [ready]}}));
        assert_eq!(changes_at(&pod, at("00:01")), None);
    }
}
