//! Selects the coordinator pod that a connection is forwarded to. Pure: takes pods and returns a name.
//!
//! A client has as many slots as the fleet has coordinators, and each slot starts its search at a different pod. So
//! moving to the next slot also moves to another pod if there is one.

use robeing_crds::{condition_types, limits::MAX_COORDINATORS};

use super::api::{Pod, Resource};

/// The state that a coordinator pod must be in to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It has a vote and is in contact with a leader.
    Ready,
    /// Its process runs. Pods that are ready are still preferred.
    Running,
}

/// Returns the number of slots of a client, for these pods and the desired number of coordinators.
pub(super) fn slots(pods: &[Pod], desired: usize) -> usize {
    pods.len().max(desired).clamp(1, MAX_COORDINATORS as usize)
}

/// Returns the slot that starts at the leader, or the first slot.
pub(super) fn first(pods: &[Pod], leader: Option<&str>) -> usize {
    pods.iter().position(|pod| Some(pod.metadata.name.as_str()) == leader).unwrap_or(0)
}

/// Returns the pod for a connection of this slot. The pods must be sorted by name.
pub(super) fn pick(pods: &[Pod], slot: usize, need: Need) -> Option<&str> {
    candidates(pods, slot, need).next()
}

/// Returns the pods for a connection of this slot, in order of preference.
pub(super) fn candidates(pods: &[Pod], slot: usize, need: Need) -> impl Iterator<Item = &str> {
    let from_slot = move || pods.iter().cycle().skip(slot % pods.len().max(1)).take(pods.len());
    let ready = from_slot().filter(|pod| pod.is_ready());
    let running = from_slot().filter(move |pod| need == Need::Running && pod.is_running() && !pod.is_ready());
    ready.chain(running).map(|pod| pod.metadata.name.as_str())
}

/// Describes why no pod can be used, as far as the resource shows.
pub(super) fn why_none(pods: &[Pod], resource: &Resource) -> String {
    let pods = match (pods.len(), pods.iter().filter(|pod| pod.is_running()).count()) {
        (0, _) => "it has no coordinator pod".to_owned(),
        (all, 0) => format!("none of its {all} coordinators runs"),
        (all, running) => format!("{running} of its {all} coordinators run"),
    };
    let told = [condition_types::QUORUM_HEALTHY, condition_types::READY]
        .into_iter()
        .filter_map(|kind| resource.condition(kind))
        .find(|condition| condition.status != "True");
    match told {
        Some(told) => format!("{pods}; {}: {} ({})", resource.phase(), told.message, told.reason),
        None => format!("{pods}; {}", resource.phase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::api::Condition;

    /// Creates pods a, b, c …, one per letter: r ready, u running but not ready, p pending, t ready but being deleted.
    fn pods(states: &str) -> Vec<Pod> {
        let pod = |(index, state): (usize, char)| {
            let mut pod = Pod::default();
            pod.metadata.name = char::from(b'a' + index as u8).to_string();
            pod.metadata.deletion_timestamp = (state == 't').then(|| "2026-01-01T00:00:00Z".into());
            pod.status.phase = if state == 'p' { "Pending" } else { "Running" }.into();
            let ready = if "rt".contains(state) { "True" } else { "False" };
            pod.status.conditions = vec![condition("Ready", ready)];
            pod
        };
        states.chars().enumerate().map(pod).collect()
    }

    fn condition(kind: &str, status: &str) -> Condition {
        let (kind, status) = (kind.into(), status.into());
        Condition { kind, status, reason: "NoLeader".into(), message: "no majority answers".into() }
    }

    #[test]
    fn each_slot_has_a_pod_of_its_own_while_all_are_ready() {
        let pods = pods("rrr");
        let picked: Vec<_> = (0..4).map(|slot| pick(&pods, slot, Need::Ready)).collect();
        assert_eq!(picked, [Some("a"), Some("b"), Some("c"), Some("a")]);
    }

    #[test]
    fn only_pods_that_are_ready_and_stay_are_picked() {
        for (states, slot, picked) in [
            ("urr", 0, Some("b")),
            ("rrp", 2, Some("a")),
            ("trr", 0, Some("b")),
            ("tuu", 0, None),
            ("upp", 1, None),
            ("", 0, None),
            ("", 3, None),
        ] {
            assert_eq!(pick(&pods(states), slot, Need::Ready), picked, "{states} from {slot}");
        }
    }

    #[test]
    fn one_that_only_runs_will_do_where_it_is_allowed_and_none_is_ready() {
        for (states, slot, picked) in
            [("uur", 0, Some("c")), ("puu", 0, Some("b")), ("puu", 2, Some("c")), ("tpp", 0, None), ("", 0, None)]
        {
            assert_eq!(pick(&pods(states), slot, Need::Running), picked, "{states} from {slot}");
        }
    }

    #[test]
    fn there_is_a_slot_for_each_coordinator_and_at_least_one() {
        for (states, desired, expected) in [("", 0, 1), ("r", 3, 3), ("rrrrr", 3, 5), ("r", 7, 7), ("r", 8, 7)] {
            assert_eq!(slots(&pods(states), desired), expected, "{states} of {desired}");
        }
    }

    #[test]
    fn the_leader_is_asked_first_where_it_is_known() {
        assert_eq!(first(&pods("rrr"), Some("c")), 2);
        assert_eq!(first(&pods("rrr"), Some("gone")), 0);
        assert_eq!(first(&pods("rrr"), None), 0);
    }

    #[test]
    fn why_there_is_none_is_told_in_the_operators_words() {
        let mut resource = Resource::default();
        assert_eq!(why_none(&[], &resource), "it has no coordinator pod; not yet seen by an operator");
        resource.status.phase = Some("Degraded".into());
        assert_eq!(why_none(&pods("ppt"), &resource), "none of its 3 coordinators runs; Degraded");
        resource.status.conditions =
            vec![condition("Ready", "False"), condition("QuorumHealthy", "False"), condition("Degraded", "True")];
        assert_eq!(
            why_none(&pods("uup"), &resource),
            "2 of its 3 coordinators run; Degraded: no majority answers (NoLeader)"
        );
    }
}
