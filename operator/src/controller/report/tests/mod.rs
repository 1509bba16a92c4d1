mod audits;
mod conditions;
mod events;
mod schedules;
mod teams;
mod unmet;

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
use crate::controller::{
    observe::{Live, reduced_claim, reduced_pod},
    validate::{Kept, OperatorContext, RefusedPool, validate},
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

/// A healthy fleet, which each test modifies.
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
    coordinators::Answer { status, agents, from: "10.0.0.1:8080".into(), audit: coordinators::Audit::default() }
}

fn cluster(manifest: &str) -> Arc<RobeingCluster> {
    Arc::new(parse_manifest(manifest).unwrap_or_else(|error| panic!("{error}")))
}

fn scene() -> Scene {
    let cluster = cluster(MANIFEST);
    let operator_context = OperatorContext { default_image: "robeing:1".into(), operator_namespace: "system".into() };
    let fleet = validate(&cluster, &operator_context, &Kept::default()).expect("valid");
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
            policies: None,
            kinds: None,
            teams: None,
            schedules: None,
            identity: Report::default(),
        },
    }
}

/// Returns the observation with its objects as the caches keep them.
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
    /// Returns the status from complete objects, and asserts that it is the same from what the caches keep of them.
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
        let snapshot = Snapshot::of(&seen.observation, None);
        let after = self.status(before);
        let events = happened(&self.observation, &self.outcome, snapshot.as_ref(), before, &after);
        events.into_iter().map(|event| format!("{:?} {}: {}", event.importance, event.reason, event.note)).collect()
    }
}

fn says<'a>(status: &'a RobeingClusterStatus, of: &str) -> (&'a str, &'a str, &'a str) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == of).expect("the condition is there");
    (&condition.status, &condition.reason, &condition.message)
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
