//! What users see, as snapshots.

use jiff::Timestamp;
use robeing_proto::v1::{
    Agent, AgentCounts, AgentState, Attempt, AttemptState, AuditRecord, Comparison, Coordinator, CoordinatorState,
    Failure, FailureKind, FleetStatus, LeaderScore, PoolStatus, Quarantine, RecoveryAction, RecoveryStep,
    ResourceAmounts, Role, Score, Task, TaskApproval, TaskCounts, TaskState, Verify,
};

use super::*;
use crate::kubernetes::{Condition, Resource};

const NOW: i64 = 1_700_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).expect("a time of this century")
}

fn ago(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: NOW - seconds, nanos: 0 })
}

fn succeeded() -> Task {
    Task {
        id: "0190a5c8-0000-7000-8000-000000000001".into(),
        kind: "data_processing".into(),
        state: TaskState::Succeeded.into(),
        priority: 5,
        submitter: "ada".into(),
        input: "eins zwei\n".into(),
        output: "2\n".into(),
        max_attempts: 5,
        attempts: vec![
            Attempt {
                number: 1,
                agent: "data-0".into(),
                state: AttemptState::Lost.into(),
                assigned_at: ago(60),
                ended_at: ago(58),
                score: Some(Score { specialization: 50.0, load: -2.5, performance: 10.0, total: 57.5 }),
                candidates: 3,
                failure: Some(Failure {
                    kind: FailureKind::AgentLost.into(),
                    message: "data-0 was lost: its connection dropped".into(),
                    retryable: true,
                    ..Default::default()
                }),
                ..Default::default()
            },
            Attempt {
                number: 2,
                agent: "data-1".into(),
                state: AttemptState::Succeeded.into(),
                assigned_at: ago(58),
                ended_at: ago(57),
                score: Some(Score { specialization: 50.0, load: 0.0, performance: 9.25, total: 59.25 }),
                candidates: 2,
                failure: None,
                ..Default::default()
            },
        ],
        submitted_at: ago(60),
        finished_at: ago(57),
        revision: 42,
        attempt: 2,
        attempts_used: 2,
        ..Default::default()
    }
}

fn failed() -> Task {
    Task {
        id: "0190a5c8-0000-7000-8000-000000000002".into(),
        kind: "résumé".into(),
        state: TaskState::Failed.into(),
        priority: 9,
        input: vec![0xff, 0x00].into(),
        max_attempts: 1,
        failure: Some(Failure {
            kind: FailureKind::Exit.into(),
            message: "the command exited with code 3".into(),
            code: Some(3),
            stderr_tail: "line one\n\x1b[31mline two\n".into(),
            retryable: false,
            ..Default::default()
        }),
        submitted_at: ago(7_200),
        finished_at: ago(7_199),
        attempt: 1,
        attempts_used: 1,
        ..Default::default()
    }
}

fn queued() -> Task {
    Task {
        id: "0190a5c8-0000-7000-8000-000000000003".into(),
        kind: "k".into(),
        state: TaskState::Queued.into(),
        priority: 1,
        max_attempts: 5,
        submitted_at: ago(1),
        waiting_for: "an agent with the specialization \"gpu\"; none is in the fleet".into(),
        required_specialization: "gpu".into(),
        deadline: ago(-30),
        ..Default::default()
    }
}

fn agent(name: &str, state: AgentState) -> Agent {
    Agent {
        name: name.into(),
        role: Role::Specialist.into(),
        state: state.into(),
        pool: "data".into(),
        specializations: vec!["data_processing".into(), "text".into()],
        slots: 4,
        used_slots: 1,
        address: "127.0.0.1:40000".into(),
        pid: 4242,
        joined_at: ago(300),
        succeeded: 17,
        performance: 0.875,
        session: u64::MAX,
        ..Default::default()
    }
}

fn status() -> FleetStatus {
    FleetStatus {
        cluster_id: "example".into(),
        leader: "coordinator-1".into(),
        leader_address: "127.0.0.1:4002".into(),
        term: 3,
        revision: 99,
        coordinators: vec![
            Coordinator {
                name: "coordinator-0".into(),
                state: CoordinatorState::Unreachable.into(),
                voter: true,
                ..Default::default()
            },
            Coordinator {
                name: "coordinator-1".into(),
                node_id: "00ff".into(),
                address: "127.0.0.1:4002".into(),
                state: CoordinatorState::Leader.into(),
                voter: true,
                matched_index: 120,
                pid: 77,
                leader_score: Some(LeaderScore { total: 0.91, ..Default::default() }),
                version: "0.1.0".into(),
            },
        ],
        agents: Some(AgentCounts { live: 3, standby: 1, draining: 0, lost: 2, unhealthy: 0 }),
        tasks: Some(TaskCounts { queued: 5, running: 2, succeeded: 10, ..Default::default() }),
        finished_total: Some(TaskCounts { succeeded: 1_000_000_000_000, ..Default::default() }),
        pools: vec![PoolStatus { name: "data".into(), live: 3, standby: 1, desired: 3 }],
        redistributed_total: 4,
        ..Default::default()
    }
}

fn printed(format: Format, tasks: &[Task]) -> String {
    let mut out = Vec::new();
    print_list(&mut out, format, tasks, |tasks| tasks_table(tasks, now())).expect("memory takes it");
    String::from_utf8(out).expect("the output is text")
}

#[test]
fn tasks_as_a_table() {
    insta::assert_snapshot!(printed(Format::Table, &[succeeded(), failed(), queued()]));
}

#[test]
fn tasks_as_json() {
    insta::assert_snapshot!(printed(Format::Json, &[succeeded(), failed()]));
}

#[test]
fn tasks_as_yaml() {
    insta::assert_snapshot!(printed(Format::Yaml, &[succeeded(), failed()]));
}

#[test]
fn json_and_yaml_say_the_same() {
    let tasks = [succeeded(), failed(), queued()];
    let json: serde_json::Value = serde_json::from_str(&printed(Format::Json, &tasks)).expect("it is JSON");
    let yaml: serde_json::Value = serde_yaml::from_str(&printed(Format::Yaml, &tasks)).expect("it is YAML");
    assert_eq!(json, yaml);
}

#[test]
fn an_empty_list_is_an_empty_array() {
    assert_eq!(printed(Format::Json, &[]), "[]\n");
    assert_eq!(printed(Format::Yaml, &[]), "[]\n");
    assert_eq!(printed(Format::Table, &[]), "no tasks\n");
}

#[test]
fn large_numbers_are_strings_and_text_is_beside_bytes() {
    let form =
        serde_json::to_value(Document::of(&agent("a", AgentState::Live)).expect("it has a form")).expect("plain");
    assert_eq!(form["session"], u64::MAX.to_string());
    let form = serde_json::to_value(Document::of(&succeeded()).expect("it has a form")).expect("plain");
    assert_eq!((&form["output"], &form["outputText"]), (&"Mgo=".into(), &"2\n".into()));
    let form = serde_json::to_value(Document::of(&failed()).expect("it has a form")).expect("plain");
    assert_eq!((&form["input"], form.get("inputText")), (&"/wA=".into(), None));
}

#[test]
fn what_the_role_of_an_agent_is_for_is_printed() {
    let agent = Agent {
        responsibilities: vec!["domain_expertise".into(), "deep_analysis".into()],
        capabilities: vec!["specialized_processing".into()],
        role_priority: 2,
        ..agent("a", AgentState::Live)
    };
    let form = serde_json::to_value(Document::of(&agent).expect("it has a form")).expect("plain");
    assert_eq!(form["responsibilities"], serde_json::json!(["domain_expertise", "deep_analysis"]));
    assert_eq!(form["capabilities"], serde_json::json!(["specialized_processing"]));
    assert_eq!((&form["rolePriority"], &form["role"]), (&2.into(), &"ROLE_SPECIALIST".into()));
    let yaml = serde_yaml::to_string(&Document::of(&agent).expect("it has a form")).expect("plain");
    assert!(yaml.contains("responsibilities:\n- domain_expertise\n- deep_analysis\n"), "{yaml}");
}

#[test]
fn every_message_that_is_printed_has_a_form() {
    use robeing_proto::v1::{CancelResult, SubmitResult};
    Document::of(&SubmitResult::default()).expect("a form");
    Document::of(&CancelResult::default()).expect("a form");
    Document::of(&status()).expect("a form");
}

#[test]
fn the_id_of_a_task_has_one_name() {
    use robeing_proto::v1::{CancelResult, SubmitResult};
    let submitted = SubmitResult { task_id: "t".into(), existing: true, ..Default::default() };
    let form = serde_json::to_value(Document::of(&submitted).expect("it has a form")).expect("plain");
    assert_eq!(form, serde_json::json!({"id": "t", "existing": true}));
    let cancelled = CancelResult { task_id: "t".into(), state: TaskState::Cancelled.into(), ..Default::default() };
    let form = serde_json::to_value(Document::of(&cancelled).expect("it has a form")).expect("plain");
    assert_eq!(form, serde_json::json!({"id": "t", "state": "TASK_STATE_CANCELLED"}));
}

#[test]
fn a_state_has_one_name() {
    let assigned = Task { state: TaskState::Assigned.into(), ..Default::default() };
    assert!(tasks_table(&[assigned], now()).contains("Assigned"));
    let text = status_text(&status());
    assert!(text.contains("5 queued, 2 assigned,") && !text.contains("running"), "{text}");
}

#[test]
fn a_task_in_full_and_why() {
    insta::assert_snapshot!(task_text(&succeeded(), true, now()));
}

#[test]
fn a_failed_task_in_full() {
    insta::assert_snapshot!(task_text(&failed(), false, now()));
}

#[test]
fn why_a_task_waits() {
    insta::assert_snapshot!(task_text(&queued(), true, now()));
}

#[test]
fn changes_of_a_task_are_lines() {
    let lines: String = [queued(), succeeded(), failed()].iter().map(|task| change_line(task, now())).collect();
    insta::assert_snapshot!(lines);
}

#[test]
fn results_as_a_table() {
    insta::assert_snapshot!(results_table(&[succeeded(), failed()]));
}

#[test]
fn agents_as_a_table() {
    let mut lost = agent("data-1", AgentState::Lost);
    lost.lost_reason = "its connection dropped".into();
    insta::assert_snapshot!(agents_table(&[agent("data-0", AgentState::Live), lost], now()));
}

fn step(seconds: i64, action: RecoveryAction, took_ms: i32) -> RecoveryStep {
    let took = prost_types::Duration { seconds: i64::from(took_ms / 1000), nanos: took_ms % 1000 * 1_000_000 };
    RecoveryStep { at: ago(seconds), action: action.into(), took: Some(took), ..RecoveryStep::default() }
}

#[test]
fn why_an_agent_is_as_it_is() {
    let lost =
        RecoveryStep { reason: "no heartbeat for the session timeout".into(), ..step(300, RecoveryAction::Lost, 0) };
    let unhealthy = RecoveryStep {
        reason: "http://127.0.0.1:9000/healthz answered 503\nService Unavailable".into(),
        ..step(90, RecoveryAction::Unhealthy, 0)
    };
    let recovered = Agent {
        unhealthy_reason: unhealthy.reason.clone(),
        unhealthy_since: ago(90),
        recovery: vec![
            lost,
            RecoveryStep { tasks: 3, ..step(300, RecoveryAction::Redistribute, 12) },
            RecoveryStep { standby: "data-3".into(), ..step(300, RecoveryAction::ActivateStandby, 0) },
            step(300, RecoveryAction::Remove, 0),
            step(270, RecoveryAction::AttemptRecovery, 30_000),
            RecoveryStep { waits: true, ..step(270, RecoveryAction::Readmit, 30_000) },
            unhealthy,
            RecoveryStep { tasks: 1, ..step(90, RecoveryAction::Redistribute, 1) },
        ],
        ..agent("data-0", AgentState::Unhealthy)
    };
    insta::assert_snapshot!(agent_text(&recovered, now()));
    assert!(
        agent_text(&agent("data-1", AgentState::Live), now())
            .ends_with("It has been neither unhealthy nor lost since it joined.\n")
    );
}

#[test]
fn an_agent_in_quarantine_is_shown_with_who_put_it_there_and_why() {
    let reason = "40 denials\nin a second".to_owned();
    let quarantine = Quarantine { since: ago(60), by: "guardian/watch-0".into(), reason };
    let lost = Agent {
        lost_reason: "it was barred from the fleet".into(),
        quarantine: Some(quarantine),
        ..agent("data-1", AgentState::Lost)
    };
    let text = agent_text(&lost, now());
    assert!(text.contains("\nState:          Lost (in quarantine)\n"), "{text}");
    assert!(text.contains("\nQuarantine:     since 2023-11-14T22:12:20"), "{text}");
    assert!(text.contains(" ago), by guardian/watch-0: 40 denials in a second\n"), "{text}");
    let table = agents_table(&[lost], now());
    assert!(table.contains("Lost (in quarantine)"), "{table}");
}

#[test]
fn the_status_in_words() {
    insta::assert_snapshot!(status_text(&status()));
}

#[test]
fn the_status_as_json() {
    let mut out = Vec::new();
    print_one(&mut out, Format::Json, &status(), status_text).expect("memory takes it");
    insta::assert_snapshot!(String::from_utf8(out).expect("the output is text"));
}

#[test]
fn a_task_shows_the_resources_that_it_needs() {
    let resources = Some(ResourceAmounts { cpu_millis: 1_500, memory_bytes: 1 << 30, ..ResourceAmounts::default() });
    let text = task_text(&Task { resources, queue: "batch".into(), ..queued() }, false, now());
    assert!(text.contains("\nResources:      cpu 1500m, memory 1Gi from queue \"batch\"\n"), "{text}");
}

#[test]
fn a_task_shows_what_is_known_of_its_approval() {
    let shown = |approved: bool, task: Task| {
        let approval = Some(TaskApproval { ballot: "b".into(), approved });
        let text = task_text(&Task { approval, ..task }, false, now());
        text.lines().find_map(|line| line.strip_prefix("Approval:       ").map(str::to_owned))
    };
    assert_eq!(shown(true, succeeded()).as_deref(), Some("approved by ballot b"));
    assert_eq!(shown(false, queued()).as_deref(), Some("waits for ballot b"));
    assert_eq!(shown(false, failed()).as_deref(), Some("ballot b; see `robeing vote show b`"));
}

#[test]
fn the_agent_of_a_verified_task_is_the_first_that_was_right() {
    let attempt =
        |agent: &str, state: AttemptState| Attempt { agent: agent.into(), state: state.into(), ..Attempt::default() };
    let attempts = vec![
        attempt("data-0", AttemptState::Outvoted),
        attempt("data-1", AttemptState::Succeeded),
        attempt("data-2", AttemptState::Succeeded),
        attempt("data-3", AttemptState::Cancelled),
    ];
    let verified = Task { verify: Some(Verify::default()), attempts, ..succeeded() };
    let line = change_line(&verified, now());
    assert!(line.contains("by data-1 after"), "{line}");
    let line = change_line(&Task { verify: None, ..verified }, now());
    assert!(line.contains("by data-3 after"), "{line}");
}

#[test]
fn digests_are_announced_only_if_there_are_some() {
    let mut verified = Task { verify: Some(Verify::default()), ..succeeded() };
    let text = task_text(&verified, true, now());
    assert!(!text.contains("same digest"), "{text}");
    verified.attempts[1].digest = vec![0xab; 32].into();
    let text = task_text(&verified, true, now());
    assert!(text.contains("same output:\n  abababababababab  data-1 (Succeeded)\n"), "{text}");
}

#[test]
fn what_was_compared_is_shown_with_who_has_found_what() {
    let attempt = |number: u32, agent: &str| Attempt { number, agent: agent.into(), ..Attempt::default() };
    let compared = |one, other, agent: &str, equal| Comparison { one, other, agent: agent.into(), equal };
    let compares = Task {
        verify: Some(Verify { agents: 3, agree: 2, pointer: None, compare: "near".into() }),
        attempts: vec![attempt(1, "data-0"), attempt(2, "data-1"), attempt(3, "data-2")],
        comparisons: vec![
            compared(1, 2, "judge-0", Some(false)),
            compared(1, 3, "", Some(true)),
            compared(2, 3, "", None),
        ],
        ..succeeded()
    };
    let text = task_text(&compares, true, now());
    assert!(text.contains("2 of 3 agents must give the same output, as tasks of the kind \"near\" say\n"), "{text}");
    let told = "\nOutputs that were compared:\n  attempts 1 (data-0) and 2 (data-1) differ, says judge-0\n  \
                attempts 1 (data-0) and 3 (data-2) are equal\n  \
                attempts 2 (data-1) and 3 (data-2) are being compared\n";
    assert!(text.contains(told), "{text}");
}

#[test]
fn a_status_without_a_leader_says_so() {
    assert!(status_text(&FleetStatus::default()).contains("Leader:         none (no majority"));
}

#[test]
fn a_status_shows_what_coordinators_warn_of() {
    let warning =
        robeing_proto::v1::Warning { reason: "ClockSkew".into(), message: "c-1's clock is\n2 h ahead".into() };
    let text = status_text(&FleetStatus { warnings: vec![warning], ..status() });
    assert!(text.contains("\nWarning:        ClockSkew: c-1's clock is 2 h ahead\n"), "{text}");
}

#[test]
fn a_fleet_on_kubernetes_is_told_with_its_phase_and_conditions() {
    let mut resource = Resource::default();
    resource.metadata.namespace = "team".into();
    resource.metadata.name = "first".into();
    assert_eq!(resource_text(&resource), "RobeingCluster: team/first\nPhase:          not yet seen by an operator\n\n");
    resource.status.phase = Some("Degraded".into());
    resource.status.conditions = vec![Condition {
        kind: "Ready".into(),
        status: "False".into(),
        reason: "AgentsMissing".into(),
        message: "1 of 2 agents\nare there".into(),
    }];
    insta::assert_snapshot!(resource_text(&resource), @"
    RobeingCluster: team/first
    Phase:          Degraded

    CONDITION   STATUS   REASON          MESSAGE
    Ready       False    AgentsMissing   1 of 2 agents are there
    ");
}

#[test]
fn the_live_view_shows_all() {
    insta::assert_snapshot!(live_view(&status(), &[agent("data-0", AgentState::Standby)], now()));
}

#[test]
fn the_audit_log_as_a_table_and_as_lines() {
    let record = |seq: u64, actor: &str, action: &str, subject: &str, outcome: &str, detail: &str| AuditRecord {
        seq,
        at: ago(100 - seq as i64),
        actor: actor.into(),
        action: action.into(),
        subject: subject.into(),
        outcome: outcome.into(),
        detail: detail.into(),
    };
    let records = [
        record(9, "data-0", "agent.enrol", "data-0", "allowed", "role Worker, pool data, by join token, epoch 3"),
        record(10, "client/ada", "agent.quarantine", "data-0", "done", "it answers\nnonsense \u{1b}[31m"),
        AuditRecord { seq: 11, ..AuditRecord::default() },
    ];
    insta::assert_snapshot!(audit_table(&records));
    insta::assert_snapshot!(records.iter().map(audit_line).collect::<String>());
    assert_eq!(audit_table(&[]), "no records\n");
}
