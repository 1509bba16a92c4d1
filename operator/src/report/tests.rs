use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Pod},
    jiff::{SignedDuration, Timestamp},
};
use kube::api::DynamicObject;
use robeing_client::coordinators;
use robeing_crds::{RobeingCluster, RobeingClusterStatus, parse_manifest};
use serde_json::{Value, json};
use tonic::Code;

use super::*;
use crate::{
    observe::{Live, reduced_claim, reduced_pod},
    validate::{Kept, RefusedPool, Surroundings, validate},
};

const MANIFEST: &str = "
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: fleet, namespace: apps, uid: u, generation: 2}
spec:
  coordinators: {replicas: 3, storage: {size: 1Gi}}
  pools:
  - {name: data, replicas: 2, standby: 1, executor: {echo: {}}}
  - {name: auto, executor: {echo: {}}}
";
const NOW: &str = "2026-11-23T12:00:00.5Z";

/// A fleet in which all is well, to be changed by each test.
struct Scene {
    observation: Observation,
    outcome: Outcome,
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("well-formed")
}

fn live(kind: &str, value: Value) -> Live {
    Live::new(kind, from::<DynamicObject>(value))
}

fn deployment(name: &str, replicas: u32) -> Live {
    let value = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "apps", "generation": 1},
        "spec": {"replicas": replicas},
        "status": {"observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas},
    });
    live("Deployment", value)
}

fn pod(name: &str, labels: Value, status: Value) -> Arc<Pod> {
    let mut labels = labels;
    labels["app.kubernetes.io/instance"] = "fleet".into();
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "fleet-coordinators", "uid": "s", "controller": true});
    Arc::new(from(json!({
        "metadata": {"name": name, "namespace": "apps", "uid": name, "labels": labels, "ownerReferences": [set]},
        "status": status,
    })))
}

fn coordinator(ordinal: u32) -> Arc<Pod> {
    let labels = json!({"app.kubernetes.io/component": "coordinator", "controller-revision-hash": "new"});
    let status = json!({"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]});
    pod(&names::coordinator("fleet", ordinal), labels, status)
}

fn agent_pod(name: &str, status: Value) -> Arc<Pod> {
    pod(name, json!({"app.kubernetes.io/component": "agent", "robeing.io/pool": "data"}), status)
}

fn agent(name: &str, pool: &str, state: v1::AgentState) -> v1::Agent {
    v1::Agent { name: name.into(), pool: pool.into(), state: state.into(), session: 1, ..v1::Agent::default() }
}

fn answer() -> coordinators::Answer {
    let member = |ordinal: u32| v1::Coordinator {
        name: names::coordinator("fleet", ordinal),
        voter: true,
        state: if ordinal == 1 { v1::CoordinatorState::Leader } else { v1::CoordinatorState::Follower }.into(),
        matched_index: 100,
        ..v1::Coordinator::default()
    };
    let status = v1::FleetStatus {
        cluster_id: "fleet".into(),
        leader: names::coordinator("fleet", 1),
        term: 4,
        coordinators: (0..3).map(member).collect(),
        tasks: Some(v1::TaskCounts { queued: 3, running: 2, ..v1::TaskCounts::default() }),
        finished_total: Some(v1::TaskCounts {
            succeeded: 10,
            failed: 1,
            dead_lettered: 2,
            ..v1::TaskCounts::default()
        }),
        log_applied_index: 100,
        ..v1::FleetStatus::default()
    };
    let (live, standby) = (v1::AgentState::Live, v1::AgentState::Standby);
    let agents = [("a", "data", live), ("b", "data", live), ("c", "data", standby), ("d", "auto", live)];
    let agents = agents.map(|(name, pool, state)| agent(name, pool, state)).into();
    coordinators::Answer { status, agents, from: "10.0.0.1:8080".into() }
}

fn cluster(manifest: &str) -> Arc<RobeingCluster> {
    Arc::new(parse_manifest(manifest).unwrap_or_else(|error| panic!("{error}")))
}

fn scene() -> Scene {
    let cluster = cluster(MANIFEST);
    let surroundings = Surroundings { default_image: "robeing:1".into(), operator_namespace: "system".into() };
    let fleet = validate(&cluster, &surroundings, &Kept::default()).expect("valid");
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {
            "name": "fleet-coordinators", "namespace": "apps", "generation": 1, "uid": "s",
            "ownerReferences": [{"apiVersion": "v", "kind": "k", "name": "fleet", "uid": "u", "controller": true}],
        },
        "spec": {"replicas": 3}, "status": {"observedGeneration": 1, "updateRevision": "new"},
    });
    Scene {
        observation: Observation {
            cluster,
            objects: vec![live("StatefulSet", set), deployment("fleet-data", 3), deployment("fleet-auto", 1)],
            pods: (0..3).map(coordinator).collect(),
            claims: Vec::<Arc<PersistentVolumeClaim>>::new(),
            fleet: Ok(answer()),
            now: NOW.parse().expect("a time"),
        },
        outcome: Outcome {
            fleet: Some(fleet),
            unbuildable: None,
            refused: vec![],
            changing: false,
            scale: scale::Plan::new(3, scale::Step::Settled),
            rollout: rollout::Step::Done,
            declined: vec![],
            unapplied: false,
            uncreated: None,
        },
    }
}

/// As the caches have it.
fn reduced(observation: &Observation) -> Observation {
    let live = |live: &Live| Live::reduced(&live.kind, DynamicObject::clone(&live.object));
    Observation {
        objects: observation.objects.iter().map(live).collect(),
        pods: observation.pods.iter().map(|pod| Arc::new(reduced_pod(Pod::clone(pod)))).collect(),
        claims: observation
            .claims
            .iter()
            .map(|claim| Arc::new(reduced_claim(PersistentVolumeClaim::clone(claim))))
            .collect(),
        ..observation.clone()
    }
}

impl Scene {
    /// Of all that there is, which is the same as of what the caches keep of it.
    fn status(&self, previous: Option<&RobeingClusterStatus>) -> RobeingClusterStatus {
        let whole = status(&self.observation, &self.outcome, previous);
        assert_eq!(status(&reduced(&self.observation), &self.outcome, previous), whole, "the caches lack what is read");
        whole
    }

    fn answer(&mut self) -> &mut coordinators::Answer {
        self.observation.fleet.as_mut().expect("an answer")
    }

    fn leaderless(&mut self) {
        self.observation.fleet = Err(coordinators::Error::Refused {
            method: "GetStatus",
            address: "10.0.0.1:8080".into(),
            code: Code::Unavailable,
            message: "no coordinator leads".into(),
        });
    }

    fn events(&self, seen: &Scene, before: Option<&RobeingClusterStatus>) -> Vec<String> {
        let snapshot = Snapshot::of(&seen.observation);
        let after = self.status(before);
        let events = happened(&self.observation, &self.outcome, snapshot.as_ref(), before, &after);
        events.into_iter().map(|event| format!("{:?} {}: {}", event.importance, event.reason, event.note)).collect()
    }
}

fn says<'a>(status: &'a RobeingClusterStatus, of: &str) -> (&'a str, &'a str, &'a str) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == of).expect("the condition is there");
    (&condition.status, &condition.reason, &condition.message)
}

#[test]
fn a_fleet_that_is_well_says_so() {
    insta::assert_yaml_snapshot!(scene().status(None));
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut scene = scene();
    let first = scene.status(None);
    scene.observation.now += SignedDuration::from_secs(60);
    assert_eq!(scene.status(Some(&first)), first, "nothing changed, so nothing is patched");
    scene.answer().agents.pop();
    let second = scene.status(Some(&first));
    let time = |status: &RobeingClusterStatus, of: &str| {
        let condition = status.conditions.iter().find(|condition| condition.type_ == of).expect("there");
        condition.last_transition_time.0
    };
    assert_eq!(time(&second, "QuorumHealthy"), time(&first, "QuorumHealthy"));
    assert_eq!(time(&second, "Ready"), time(&first, "Ready") + SignedDuration::from_secs(60));
    let expected: Timestamp = "2026-11-23T12:00:00Z".parse().expect("a time");
    assert_eq!(time(&first, "Ready"), expected, "the API server keeps whole seconds");
}

#[test]
fn a_lost_leader_leaves_what_is_known_and_says_that_nothing_is_accepted() {
    let mut scene = scene();
    let before = scene.status(None);
    scene.leaderless();
    let status = scene.status(Some(&before));
    assert_eq!((status.leader.as_ref(), status.term, status.phase), (None, Some(4), Some(Phase::Degraded)));
    assert_eq!(status.tasks, before.tasks);
    let (state, reason, message) = says(&status, "QuorumHealthy");
    assert_eq!((state, reason), ("False", "NoLeader"));
    assert!(message.contains("3 of 3 coordinator pods are ready"), "{message}");
    let events = scene.events(&scene, Some(&before));
    assert!(events.iter().any(|event| event.starts_with("Warning QuorumLost")), "{events:?}");
}

#[test]
fn a_fleet_that_never_had_a_leader_is_pending_and_not_degraded() {
    let mut scene = scene();
    scene.leaderless();
    let status = scene.status(None);
    assert_eq!(status.phase, Some(Phase::Pending));
    assert_eq!(says(&status, "QuorumHealthy").1, "Starting");
    assert_eq!(says(&status, "Degraded").0, "False");
}

#[test]
fn a_crash_loop_is_told_with_its_pool_container_reason_and_last_words() {
    let mut scene = scene();
    let crash = json!({
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{
            "name": "agent", "image": "x", "imageID": "", "ready": false, "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 1m20s"}},
            "lastState": {"terminated": {"exitCode": 127, "reason": "Error", "message": "no such program\n"}},
        }],
    });
    scene.observation.pods.push(agent_pod("fleet-data-1", crash));
    let status = scene.status(None);
    assert_eq!(status.phase, Some(Phase::Degraded));
    insta::assert_snapshot!(says(&status, "Degraded").2, @r#"Pool "data" fails: container "agent" of pod fleet-data-1: it ended 4 times, last with exit code 127 (Error): no such program."#);
    assert_eq!(says(&status, "Degraded").1, "CrashLooping");
}

#[test]
fn pods_that_no_node_takes_and_images_that_are_not_there_are_told() {
    for (status, reason, words) in [
        (
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "lastTransitionTime": "2026-11-23T11:59:00Z", "message": "0/3 nodes are available: insufficient cpu."}]}),
            "Unschedulable",
            "insufficient cpu",
        ),
        (
            json!({"containerStatuses": [{"name": "agent", "image": "nowhere:1", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}]}),
            "ImagePullFailed",
            "nowhere:1",
        ),
    ] {
        let mut scene = scene();
        scene.observation.pods.push(agent_pod("fleet-data-1", status));
        let status = scene.status(None);
        let (state, said, message) = says(&status, "Degraded");
        assert_eq!((state, said), ("True", reason));
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn everything_that_is_wrong_is_told_and_the_reason_is_the_worst() {
    let mut scene = scene();
    scene.outcome.refused.push("Service fleet exists and does not belong to this RobeingCluster".into());
    let waiting = json!({"containerStatuses": [{"name": "agent", "image": "nowhere:1", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]});
    scene.observation.pods.push(agent_pod("fleet-data-1", waiting));
    let status = scene.status(None);
    let (_, reason, message) = says(&status, "Degraded");
    assert_eq!(reason, "ApplyFailed");
    assert!(message.contains("Also: Pool \"data\" fails"), "{message}");
}

#[test]
fn a_coordinator_whose_node_is_gone_is_told_with_its_disk() {
    let mut scene = scene();
    let mut gone = Pod::clone(&scene.observation.pods[2]);
    gone.metadata.deletion_timestamp = Some(from(json!("2026-11-23T11:58:00Z")));
    gone.spec = Some(from(json!({
        "nodeName": "n3", "containers": [],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-fleet-coordinators-2"}}],
    })));
    scene.observation.pods[2] = Arc::new(gone);
    let status = scene.status(None);
    let (state, reason, message) = says(&status, "Degraded");
    assert_eq!((state, reason), ("True", "NodeGone"));
    assert!(message.contains("n3") && message.contains("data-fleet-coordinators-2"), "{message}");
}

#[test]
fn a_voter_that_stays_away_is_told_with_its_node() {
    let mut scene = scene();
    scene.answer().status.coordinators[2].set_state(v1::CoordinatorState::Unreachable);
    let mut away = Pod::clone(&scene.observation.pods[2]);
    away.spec = Some(from(json!({"nodeName": "n3", "containers": []})));
    let ran = json!([{
        "name": "coordinator", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-11-23T10:00:00Z"}},
    }]);
    let not_ready = |since: &str| -> k8s_openapi::api::core::v1::PodStatus {
        let ready = json!({"type": "Ready", "status": "False", "lastTransitionTime": since});
        from(json!({"conditions": [ready], "containerStatuses": ran.clone()}))
    };
    for (since, reason) in [("2026-11-23T11:59:50Z", "AsExpected"), ("2026-11-23T11:59:40Z", "CoordinatorDown")] {
        away.status = Some(not_ready(since));
        scene.observation.pods[2] = Arc::new(away.clone());
        let status = scene.status(None);
        assert_eq!(says(&status, "Degraded").1, reason, "not ready since {since}");
    }
    let status = scene.status(None);
    assert!(says(&status, "Degraded").2.contains("node n3"), "{}", says(&status, "Degraded").2);
    assert_eq!(says(&status, "QuorumHealthy").0, "True");
}

#[test]
fn a_voter_in_a_new_pod_has_time_for_its_image() {
    let mut scene = scene();
    scene.answer().status.coordinators[2].set_state(v1::CoordinatorState::Unreachable);
    for (since, reason) in [("2026-11-23T11:58:10Z", "AsExpected"), ("2026-11-23T11:57:50Z", "CoordinatorDown")] {
        let mut starting = Pod::clone(&scene.observation.pods[2]);
        let ready = json!({"type": "Ready", "status": "False", "lastTransitionTime": since});
        starting.status = Some(from(json!({"phase": "Pending", "conditions": [ready]})));
        scene.observation.pods[2] = Arc::new(starting);
        let status = scene.status(None);
        assert_eq!(says(&status, "Degraded").1, reason, "not ready since {since}");
        assert!(!says(&status, "Degraded").2.contains("delete"), "{}", says(&status, "Degraded").2);
    }
}

#[test]
fn nothing_has_recovered_before_every_voter_answers() {
    let mut scene = scene();
    let well = scene.status(None);
    scene.outcome.refused.push("a quota was exceeded".into());
    let wrong = scene.status(Some(&well));
    scene.outcome.refused.clear();
    scene.answer().status.coordinators[2].set_state(v1::CoordinatorState::Unreachable);
    assert_eq!(says(&scene.status(Some(&well)), "Degraded").0, "False", "nothing was wrong before");
    let down = scene.status(Some(&wrong));
    assert_eq!(says(&down, "Degraded").1, "CoordinatorDown");
    assert!(!scene.events(&scene, Some(&wrong)).iter().any(|event| event.contains("Recovered")));
    scene.answer().status.coordinators[2].set_state(v1::CoordinatorState::Follower);
    assert_eq!(scene.events(&scene, Some(&down)), ["Normal Recovered: What was wrong with the fleet is over."]);
}

#[test]
fn missing_agents_are_counted_and_a_pool_that_is_left_to_an_autoscaler_should_be_what_it_was_scaled_to() {
    let mut scene = scene();
    scene.observation.objects[2] = deployment("fleet-auto", 4);
    let status = scene.status(None);
    assert_eq!((status.agents.ready, status.agents.desired, status.agents.standby), (4, 7, 1));
    let (state, reason, message) = says(&status, "Ready");
    assert_eq!((state, reason, message), ("False", "AgentsMissing", "Pool \"auto\" has 1 of 4 agents."));
}

#[test]
fn a_rollout_that_is_paused_is_degraded_and_does_not_progress() {
    let mut scene = scene();
    let before = scene.status(None);
    let message = "fleet-coordinators-2 was made from the new template and does not run".to_owned();
    scene.outcome.rollout = rollout::Step::Paused { reason: "UpdatedPodFails", message };
    let status = scene.status(Some(&before));
    assert_eq!(says(&status, "Progressing").0, "False");
    assert_eq!(says(&status, "Degraded").1, "UpdatedPodFails");
    assert_eq!(says(&status, "Ready").0, "True", "the fleet still works");
    let events = scene.events(&scene, Some(&before));
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].starts_with("Warning RolloutPaused"), "{events:?}");
    assert!(scene.events(&scene, Some(&status)).is_empty(), "it is told once");
}

#[test]
fn a_rollout_is_told_from_its_start_to_its_end() {
    let mut scene = scene();
    let before = scene.status(None);
    scene.outcome.rollout = rollout::Step::Replace { pod: "fleet-coordinators-2".into(), uid: "u".into() };
    assert!(scene.events(&scene, Some(&before))[0].contains("RolloutStarted"));
    let rolling = scene.status(Some(&before));
    scene.outcome.rollout = rollout::Step::Settling("fleet-coordinators-2 is not ready yet".into());
    let settling = scene.status(Some(&rolling));
    assert_eq!(says(&settling, "Progressing").1, "RollingCoordinators");
    scene.outcome.rollout = rollout::Step::Done;
    let events = scene.events(&scene, Some(&settling));
    assert_eq!(events, ["Normal RolloutCompleted: Every coordinator runs what the spec says."]);
}

#[test]
fn what_happens_between_two_looks_is_told() {
    let seen = scene();
    let before = seen.status(None);
    let mut now = scene();
    now.observation.objects[1] = deployment("fleet-data", 6);
    let answer = now.answer();
    answer.status.leader = names::coordinator("fleet", 2);
    answer.status.term = 5;
    answer.status.recovery_steps = vec![
        recovery_step(
            1,
            "a",
            v1::RecoveryStep { action: v1::RecoveryAction::Lost.into(), ..v1::RecoveryStep::default() },
        ),
        recovery_step(
            2,
            "a",
            v1::RecoveryStep { action: v1::RecoveryAction::Redistribute.into(), tasks: 3, ..after_ms(12) },
        ),
        recovery_step(
            3,
            "a",
            v1::RecoveryStep {
                action: v1::RecoveryAction::ActivateStandby.into(),
                standby: "c".into(),
                ..v1::RecoveryStep::default()
            },
        ),
        recovery_step(
            4,
            "a",
            v1::RecoveryStep { action: v1::RecoveryAction::Remove.into(), ..v1::RecoveryStep::default() },
        ),
    ];
    answer.status.coordinators.remove(0);
    answer.agents[0].state = v1::AgentState::Lost.into();
    answer.agents[0].lost_reason = "its process is gone".into();
    answer.agents[2].state = v1::AgentState::Live.into();
    let events: Vec<String> = now.events(&seen, Some(&before));
    insta::assert_snapshot!(events.join("\n"));
}

fn after_ms(ms: i32) -> v1::RecoveryStep {
    let mut step = v1::RecoveryStep::default();
    let took = step.took.get_or_insert_default();
    (took.seconds, took.nanos) = (i64::from(ms / 1000), ms % 1000 * 1_000_000);
    step
}

fn recovery_step(number: u64, agent: &str, step: v1::RecoveryStep) -> v1::FleetRecoveryStep {
    v1::FleetRecoveryStep { number, agent: agent.into(), pool: "data".into(), step: Some(step) }
}

fn unhealthy(number: u64, agent: &str, seconds: i64) -> v1::FleetRecoveryStep {
    let mut step = v1::RecoveryStep {
        action: v1::RecoveryAction::Unhealthy.into(),
        reason: "http://127.0.0.1:9000/healthz answered 503 Service Unavailable".into(),
        ..v1::RecoveryStep::default()
    };
    step.at.get_or_insert_default().seconds = seconds;
    recovery_step(number, agent, step)
}

#[test]
fn an_agent_that_is_unhealthy_and_recovers_is_told_step_by_step_and_once() {
    use v1::RecoveryAction::{AttemptRecovery, Readmit, Redistribute};
    let (seen, mut now) = (scene(), scene());
    let before = seen.status(None);
    let step = |action: v1::RecoveryAction, ms| v1::RecoveryStep { action: action.into(), ..after_ms(ms) };
    now.answer().status.recovery_steps = vec![
        unhealthy(1, "a", 0),
        recovery_step(2, "a", v1::RecoveryStep { tasks: 1, ..step(Redistribute, 3) }),
        recovery_step(3, "a", step(AttemptRecovery, 20_000)),
        recovery_step(4, "a", v1::RecoveryStep { waits: true, ..step(Readmit, 30_000) }),
        recovery_step(5, "b", step(Readmit, 0)),
    ];
    insta::assert_snapshot!(now.events(&seen, Some(&before)).join("\n"));
    assert!(now.events(&now, Some(&before)).is_empty(), "nothing is told twice");
    // As events have a name by their number, another operator does not tell them twice either.
    let status = now.status(None);
    let snapshot = Snapshot::of(&seen.observation);
    let events = happened(&now.observation, &now.outcome, snapshot.as_ref(), Some(&status), &status);
    let numbers: Vec<_> = events.iter().map(|event| event.once.as_deref().expect("a number")).collect();
    assert_eq!(numbers, ["1", "2", "3", "4", "5"]);
}

#[test]
fn unhealthy_agents_degrade_the_fleet_and_are_named_up_to_a_limit() {
    let mut scene = scene();
    for agent in &mut scene.answer().agents {
        agent.state = v1::AgentState::Unhealthy.into();
        agent.unhealthy_reason = "503".into();
    }
    let status = scene.status(None);
    let told = ("True", "AgentsUnhealthy", "4 agents are unhealthy and given no tasks: a (503), b (503), c (503), ….");
    assert_eq!(says(&status, "Degraded"), told);
    assert_eq!((status.agents.ready, status.phase), (0, Some(Phase::Degraded)));
    scene.answer().agents.truncate(1);
    let message = "1 agent is unhealthy and given no tasks: a (503).";
    assert_eq!(says(&scene.status(None), "Degraded").2, message);
}

#[test]
fn steps_that_the_fleet_did_not_keep_are_counted_and_a_fleet_made_again_begins_again() {
    let (mut seen, mut now) = (scene(), scene());
    let before = seen.status(None);
    let at = now.observation.now.as_second();
    seen.answer().status.recovery_steps = vec![unhealthy(10, "a", 0)];
    now.answer().status.recovery_steps = vec![unhealthy(14, "b", 0)];
    let events = now.events(&seen, Some(&before));
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[1].starts_with("Normal RecoveryStepsOmitted: 3 further steps"), "{events:?}");
    now.answer().status.recovery_steps = vec![unhealthy(1, "b", at - 301), unhealthy(2, "b", at)];
    assert_eq!(now.events(&seen, Some(&before)).len(), 1, "what is old is no news");
}

#[test]
fn many_events_of_a_kind_are_told_in_one() {
    let (seen, mut now) = (scene(), scene());
    let before = seen.status(None);
    now.answer().status.recovery_steps = (1..=100).map(|n| unhealthy(n, &format!("agent-{n}"), 0)).collect();
    let events = now.events(&seen, Some(&before));
    assert_eq!(events.len(), 9, "{events:?}");
    assert!(events[8].contains("AgentUnhealthy: 92 more at once, the last of them: Agent agent-100 "), "{events:?}");
    now.answer().status.recovery_steps.truncate(9);
    assert_eq!(now.events(&seen, Some(&before)).len(), 9, "one more is told as it is");
}

#[test]
fn a_coordinator_with_a_new_disk_is_told_once_it_has_the_vote_of_the_old_one() {
    let (seen, mut both, mut after) = (scene(), scene(), scene());
    let mut new = both.answer().status.coordinators[2].clone();
    new.node_id = "new".into();
    both.answer().status.coordinators.push(new);
    after.answer().status.coordinators[2].node_id = "new".into();
    let status = seen.status(None);
    assert!(both.events(&seen, Some(&status)).is_empty(), "the old one votes, too");
    let told = [
        "Normal CoordinatorReplaced: fleet-coordinators-2 is a new coordinator with an empty disk; it has the vote of \
                 the old one.",
    ];
    assert_eq!(after.events(&both, Some(&status)), told);
    assert_eq!(after.events(&seen, Some(&status)), told);
    assert!(after.events(&after, Some(&status)).is_empty());
}

#[test]
fn a_first_look_tells_no_old_news() {
    let scene = scene();
    let status = scene.status(None);
    let events = happened(&scene.observation, &scene.outcome, None, Some(&status), &status);
    assert!(events.is_empty(), "{events:?}");
}

#[test]
fn an_agent_that_was_lost_and_is_back_between_two_looks_is_told() {
    let (seen, mut now) = (scene(), scene());
    let before = seen.status(None);
    now.answer().agents[0].session = 2;
    let events = now.events(&seen, Some(&before));
    assert_eq!(events, [r#"Warning AgentLost: Agent a of pool "data" was lost for a moment and is back."#]);
}

#[test]
fn an_operator_that_just_began_tells_of_agents_that_were_lost_lately() {
    for (seconds, told) in [(300, true), (301, false)] {
        let mut scene = scene();
        let now = scene.observation.now.as_second();
        let agent = &mut scene.answer().agents[0];
        agent.state = v1::AgentState::Lost.into();
        agent.lost_at.get_or_insert_default().seconds = now - seconds;
        let status = scene.status(None);
        let events = happened(&scene.observation, &scene.outcome, None, Some(&status), &status);
        assert_eq!(events.iter().any(|event| event.reason == "AgentLost"), told, "{seconds} s ago: {events:?}");
        assert!(events.iter().all(|event| event.once.as_deref() == Some("a 1")), "{events:?}");
    }
}

#[test]
fn a_suspended_fleet_is_suspended_and_wants_no_agents() {
    let mut scene = scene();
    scene.observation.cluster = cluster(&format!("{MANIFEST}  suspend: true\n"));
    let status = scene.status(None);
    assert_eq!((status.phase, status.agents.desired), (Some(Phase::Suspended), 0));
    assert_eq!(says(&status, "Suspended").1, "Suspending");
    scene.answer().agents.clear();
    assert_eq!(says(&scene.status(None), "Suspended").1, "Suspended");
}

#[test]
fn coordinators_without_a_disk_are_warned_of_without_being_degraded() {
    let mut scene = scene();
    let manifest = MANIFEST.replace(", storage: {size: 1Gi}", "");
    scene.observation.cluster = cluster(&manifest);
    let status = scene.status(None);
    let (state, reason, message) = says(&status, "Degraded");
    assert_eq!((state, reason), ("False", "EphemeralStorage"));
    assert!(message.contains("spec.coordinators.storage"), "{message}");
    let events = scene.events(&scene, None);
    assert!(events.iter().any(|event| event.starts_with("Warning EphemeralStorage")), "{events:?}");
}

#[test]
fn what_coordinators_warn_of_degrades_the_fleet_until_it_is_over() {
    let mut scene = scene();
    let before = scene.status(None);
    let warning = |reason: &str, message: &str| v1::Warning { reason: reason.into(), message: message.into() };
    scene.answer().status.warnings =
        vec![warning("ClockSkew", "fleet-coordinators-1's clock is 2 h ahead"), warning("not a reason", "it is odd.")];
    let status = scene.status(Some(&before));
    let expected = ("True", "ClockSkew", "fleet-coordinators-1's clock is 2 h ahead. Also: it is odd.");
    assert_eq!(says(&status, "Degraded"), expected);
    assert_eq!(status.phase, Some(Phase::Degraded));
    let events = scene.events(&scene, Some(&before));
    assert!(events.iter().any(|event| event.starts_with("Warning ClockSkew: fleet-coord")), "{events:?}");
    scene.answer().status.warnings.remove(0);
    assert_eq!(says(&scene.status(None), "Degraded").1, "CoordinatorWarning");
    scene.answer().status.warnings.clear();
    assert_eq!(says(&scene.status(Some(&status)), "Degraded").1, "AsExpected");
}

#[test]
fn only_pods_of_the_clusters_own_stateful_set_are_coordinators() {
    let mut scene = scene();
    let addresses = |scene: &Scene| {
        let seen = &scene.observation;
        crate::observe::addresses(&seen.cluster, seen.stateful_set(), &seen.pods, None).len()
    };
    assert_eq!((addresses(&scene), scene.observation.coordinator_pods().len()), (3, 3));
    // One with the labels and a name alone, one that somebody else controls, and one beyond the set's number.
    let owned_by = |ordinal: u32, owner: Option<&str>| {
        let mut pod = Pod::clone(&coordinator(ordinal));
        let owners = pod.metadata.owner_references.as_mut().expect("an owner");
        match owner {
            Some(uid) => owners[0].uid = uid.into(),
            None => owners.clear(),
        }
        Arc::new(pod)
    };
    scene.observation.pods.extend([owned_by(7, None), owned_by(8, Some("theirs")), coordinator(3)]);
    assert_eq!((addresses(&scene), scene.observation.coordinator_pods().len()), (3, 4));
    // Of a set that is not this cluster's there is none.
    let mut set = DynamicObject::clone(&scene.observation.objects[0].object);
    set.metadata.owner_references = None;
    scene.observation.objects[0].object = Arc::new(set);
    assert_eq!((addresses(&scene), scene.observation.coordinator_pods().len()), (0, 0));
    // Where there is no set, its pods may be what is left of it.
    scene.observation.objects.remove(0);
    assert_eq!((addresses(&scene), scene.observation.coordinator_pods().len()), (0, 6));
}

#[test]
fn pods_that_are_refused_are_told_at_once() {
    let mut scene = scene();
    let mut refused = DynamicObject::clone(&deployment("fleet-data", 3).object);
    refused.data["status"]["conditions"] = json!([
        {"type": "Progressing", "status": "True", "message": "it goes on"},
        {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: q"},
    ]);
    scene.observation.objects[1].object = Arc::new(refused);
    let status = scene.status(None);
    let (state, reason, message) = says(&status, "Degraded");
    assert_eq!((state, reason), ("True", "PoolNotProgressing"));
    assert!(message.contains("exceeded quota: q"), "{message}");
}

#[test]
fn a_fleet_whose_pods_are_not_ready_is_not_ready() {
    let mut scene = scene();
    assert_eq!(says(&scene.status(None), "Ready").0, "True");
    let mut deployment = DynamicObject::clone(&deployment("fleet-data", 3).object);
    deployment.data["status"]["readyReplicas"] = 1.into();
    scene.observation.objects[1] = Live::new("Deployment", deployment);
    let status = scene.status(None);
    assert_eq!(says(&status, "Ready"), ("False", "AgentsMissing", "Of the 3 pods of pool \"data\" 1 are ready."));
    assert_eq!((says(&status, "Progressing").1, status.agents.ready), ("StartingAgents", 4));
}

#[test]
fn a_fleet_with_an_object_that_is_not_what_it_should_be_is_not_ready() {
    let mut scene = scene();
    scene.outcome.unapplied = true;
    assert_eq!(says(&scene.status(None), "Ready").1, "ApplyFailed");
}

fn refuse(scene: &mut Scene, pool: &str) {
    let fleet = scene.outcome.fleet.as_mut().expect("a fleet");
    fleet.pools.retain(|built| built.name != pool);
    let message = format!("Pool {pool:?} is not built: it can't be.");
    fleet.refused.push(RefusedPool { name: pool.into(), reason: "InvalidPool", message, account: None });
}

#[test]
fn a_fleet_is_not_what_the_spec_says_while_any_of_it_is_refused() {
    let unbuildable = |scene: &mut Scene| {
        (scene.outcome.fleet, scene.outcome.unbuildable) = (None, Some("no image".into()));
        scene.outcome.scale = scale::Plan::new(0, scale::Step::Settled);
    };
    type Change<'a> = &'a dyn Fn(&mut Scene);
    let cases: [(Change<'_>, &str); 3] = [
        (&unbuildable, "SpecRefused"),
        (&|scene| scene.outcome.unapplied = true, "ApplyFailed"),
        (&|scene| refuse(scene, "data"), "PoolRefused"),
    ];
    for (change, reason) in cases {
        let mut scene = scene();
        change(&mut scene);
        let status = scene.status(None);
        for condition in ["Progressing", "Ready"] {
            let (state, said, message) = says(&status, condition);
            assert_eq!((state, said), ("False", reason), "{condition}");
            assert!(message.ends_with("see Degraded."), "{message}");
        }
    }
}

#[test]
fn nothing_is_on_its_way_for_a_pool_that_is_not_built() {
    let mut scene = scene();
    scene.answer().agents.retain(|agent| agent.pool != "data");
    assert_eq!(says(&scene.status(None), "Progressing").1, "StartingAgents");
    refuse(&mut scene, "data");
    assert_eq!(says(&scene.status(None), "Progressing").1, "PoolRefused");
}

#[test]
fn a_rollout_is_not_completed_by_a_spec_that_is_refused() {
    let mut scene = scene();
    scene.outcome.rollout = rollout::Step::Replace { pod: "fleet-coordinators-2".into(), uid: "u".into() };
    let rolling = scene.status(None);
    (scene.outcome.fleet, scene.outcome.unbuildable) = (None, Some("no image".into()));
    scene.outcome.rollout = rollout::Step::Done;
    let events = scene.events(&scene, Some(&rolling));
    assert!(!events.iter().any(|event| event.contains("RolloutCompleted")), "{events:?}");
}

#[test]
fn disks_that_are_larger_than_the_spec_says_are_told_without_being_wrong() {
    let mut scene = scene();
    for (size, told) in [("1Gi", false), ("2Gi", true)] {
        let claim = json!({
            "metadata": {"name": "data-fleet-coordinators-0"}, "spec": {"resources": {"requests": {"storage": size}}},
        });
        scene.observation.claims = vec![Arc::new(from(claim))];
        let status = scene.status(None);
        let (state, reason, message) = says(&status, "Degraded");
        assert_eq!((state, reason), ("False", "AsExpected"));
        assert_eq!(message.contains("no disk can shrink"), told, "{message}");
    }
}

#[test]
fn conditions_of_others_are_no_change_of_the_operators() {
    let status = scene().status(None);
    let mut shown = status.clone();
    let mut theirs = shown.conditions[0].clone();
    theirs.type_ = "TheirsIsWell".into();
    shown.conditions.insert(1, theirs);
    assert_eq!(own(&shown), own(&status));
    shown.conditions[0].message = "changed by hand".into();
    assert_ne!(own(&shown), own(&status));
}

#[test]
fn the_image_that_nobody_named_is_kept_in_the_status() {
    let mut scene = scene();
    let before = scene.status(None);
    assert_eq!(before.image.as_deref(), Some("robeing:1"));
    let fleet = scene.outcome.fleet.as_mut().expect("a fleet");
    (fleet.image_is_default, fleet.image) = (false, "robeing:2".into());
    assert_eq!(scene.status(Some(&before)).image, None);
    scene.outcome.fleet = None;
    assert_eq!(scene.status(Some(&before)).image, before.image);
}

#[test]
fn coordinators_that_nobody_makes_are_told_as_such() {
    let mut scene = scene();
    scene.outcome.uncreated = Some((1, 3));
    let status = scene.status(None);
    let (state, reason, message) = says(&status, "Degraded");
    assert_eq!((state, reason), ("True", "CoordinatorsNotCreated"));
    assert!(message.starts_with("Of 3 coordinators only 1 have a pod."), "{message}");
    assert!(message.contains("kubectl describe statefulset fleet-coordinators"), "{message}");
}

#[test]
fn agents_of_no_pool_are_counted_apart() {
    let mut scene = scene();
    let mine = [agent("x", "", v1::AgentState::Live), agent("y", "gone", v1::AgentState::Standby)];
    let lost = agent("z", "", v1::AgentState::Lost);
    // Nothing is attached to it yet, and its pod is a pool's.
    let waits = agent("w", "", v1::AgentState::Live);
    scene.answer().agents.extend(mine.into_iter().chain([lost, waits]));
    scene.observation.pods.push(agent_pod("w", json!({})));
    let status = scene.status(None);
    assert_eq!((status.agents.ready, status.agents.other, status.agents.summary.as_str()), (4, 2, "4/4+2"));
    let told = "The fleet has a leader and all its agents: 4, and 2 of no pool.";
    assert_eq!(says(&status, "Ready"), ("True", "FleetReady", told));
}

#[test]
fn the_scaled_pool_is_what_autoscalers_see() {
    let mut scene = scene();
    let mut cluster = RobeingCluster::clone(&scene.observation.cluster);
    cluster.spec.pools[0].replicas = None;
    (cluster.spec.scaled_pool, cluster.spec.replicas) = (Some("data".into()), Some(2));
    scene.observation.cluster = Arc::new(cluster);
    let status = scene.status(None);
    assert_eq!((status.replicas, status.pools[0].desired), (2, 3), "a standby is not counted");
    assert!(status.selector.is_some_and(|selector| selector.contains("robeing.io/pool=data")));
}
