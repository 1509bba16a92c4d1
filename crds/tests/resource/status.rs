//! The status type: the serialized form of an empty and of a full status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use robeing_crds::{
    AgentCounts, CoordinatorCounts, Phase, PoolStatus, RobeingClusterStatus, RunState, ScheduleStatus, TaskCounts,
    condition_types,
};
use serde_json::json;

#[test]
fn an_empty_status_is_read_and_written_with_zeros() {
    let status: RobeingClusterStatus = serde_json::from_value(json!({})).expect("every field has a default");
    assert_eq!(status, RobeingClusterStatus::default());
    insta::assert_yaml_snapshot!(status);
}

fn schedule() -> ScheduleStatus {
    let at = |text: &str| serde_json::from_value(json!(text)).expect("a time");
    ScheduleStatus {
        name: "nightly".into(),
        accepted: true,
        spec_digest: "0123456789abcdef".into(),
        generation: 2,
        next_run: Some(at("2026-11-02T03:30:00Z")),
        last_run: Some(at("2026-11-01T03:30:00Z")),
        last_task: Some("0190a0b0-0000-8000-8000-000000000001".into()),
        last_state: Some(RunState::Active),
        last_success: Some(at("2026-10-31T03:30:00Z")),
        active: 1,
        not_started: 3,
        message: Some("m".into()),
    }
}

#[test]
fn a_full_status_survives_the_wire() {
    let conditions = [
        condition_types::READY,
        condition_types::PROGRESSING,
        condition_types::DEGRADED,
        condition_types::QUORUM_HEALTHY,
        condition_types::SUSPENDED,
    ]
    .map(|name| {
        serde_json::from_value::<Condition>(json!({
            "type": name, "status": "True", "reason": "Tested", "message": "m", "lastTransitionTime": "2026-11-01T00:00:00Z",
        }))
        .expect("a condition")
    });
    let status = RobeingClusterStatus {
        observed_generation: Some(7),
        phase: Some(Phase::Running),
        leader: Some("c-coordinators-1".into()),
        term: Some(12),
        agents: AgentCounts { ready: 5, desired: 6, standby: 1, other: 2, summary: "5/6+2".into() },
        coordinators: CoordinatorCounts { ready: 3, desired: 3, voters: 3, summary: "3/3".into() },
        tasks: TaskCounts { queued: 1, running: 2, succeeded: 3, failed: 4 },
        pools: vec![PoolStatus { name: "data".into(), ready: 5, desired: 6 }],
        teams: vec![],
        schedules: vec![schedule()],
        replicas: 4,
        selector: Some("robeing.io/cluster=c".into()),
        image: Some("robeing:1".into()),
        conditions: conditions.into(),
    };
    let wire = serde_json::to_value(&status).expect("a status has a JSON form");
    assert_eq!(serde_json::from_value::<RobeingClusterStatus>(wire).expect("read back"), status);
    insta::assert_yaml_snapshot!(status);
}
