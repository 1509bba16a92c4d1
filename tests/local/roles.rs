//! What each role does: every duty in docs/roles.md has a test that exercises it, here or elsewhere, and this is checked.
//! Some of these tests are here, with fleets of real processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use robeing_fleet::{COORDINATOR_TRAITS, RoleTraits};
use robeing_identity::PeerRole;
use robeing_proto::{
    internal::v1::{EnrolRequest, enrol_request::Proof, enrolment_client::EnrolmentClient},
    v1::{Role, TaskState},
};
use robeing_tests::{
    counter::Counter,
    fleet::{Fleet, FleetSpec, PoolSpec},
    script::{answer, task},
    thief::{CLUSTER, Thief, now},
};
use serde_json::json;
use tonic::Code;

/// The duties: role, responsibility or capability, and the test that exercises it, which no other duty has.
const TESTS: [(&str, &str, &str); 23] = [
    (
        "coordinator",
        "task_distribution",
        "the_specialist_of_the_kind_is_preferred_and_its_score_is_kept_with_the_attempt",
    ),
    ("coordinator", "conflict_resolution", "an_agent_does_not_get_the_name_of_one_whose_role_has_a_higher_priority"),
    (
        "coordinator",
        "resource_management",
        "a_coordinator_without_cpu_admits_guardians_first_and_workers_once_it_is_over",
    ),
    ("coordinator", "overview", "a_watch_of_the_status_tells_each_change_and_nothing_at_rest"),
    ("coordinator", "planning", "a_delayed_task_starts_when_its_delay_has_passed"),
    ("coordinator", "monitoring", "an_unhealthy_agent_gets_nothing_new_keeps_its_session_and_hands_back_at_no_cost"),
    ("specialist", "domain_expertise", "a_freed_specialist_takes_its_own_kind_before_more_urgent_others"),
    ("specialist", "deep_analysis", "a_required_role_or_specialization_is_waited_for"),
    ("specialist", "specialized_processing", "the_services_do_the_tasks_of_both_specializations"),
    ("specialist", "expert_knowledge", "an_address_of_one_agent_goes_to_the_best_that_fits"),
    ("guardian", "security", "a_guardian_quarantines_agents_and_removes_none"),
    ("guardian", "monitoring", "guardians_flag_agents_at_a_pace_and_read_how_active_they_are_and_others_do_neither"),
    ("guardian", "validation", "a_result_is_denied_or_redacted_before_it_gets_into_the_log"),
    (
        "guardian",
        "threat_detection",
        "an_agent_that_begins_to_fail_is_flagged_and_not_quarantined_where_guardians_only_report",
    ),
    (
        "guardian",
        "access_control",
        "an_agent_whose_calls_begin_to_be_refused_is_flagged_quarantined_kept_out_and_released",
    ),
    ("worker", "task_execution", "a_freed_worker_takes_by_priority_then_by_acceptance"),
    ("worker", "data_processing", "a_command_gets_its_input_and_returns_its_output"),
    ("worker", "parallel_processing", "a_worker_runs_as_many_tasks_at_once_as_it_has_slots"),
    ("worker", "batch_operations", "thousands_of_tasks_share_messages_and_writes_and_each_has_its_own_outcome"),
    ("messenger", "communication", "a_messenger_joins_agents_that_can_not_reach_each_other"),
    ("messenger", "data_transfer", "a_broadcast_to_many_goes_through_messengers_and_each_receiver_handles_it_once"),
    ("messenger", "protocol_handling", "clients_without_grpc_submit_tasks_and_send_messages_by_their_own_rights_alone"),
    ("messenger", "format_conversion", "every_form_becomes_every_other"),
];

/// Returns all duties of all roles.
fn duties() -> BTreeSet<(&'static str, &'static str)> {
    let agents = robeing_fleet::Role::ALL.map(|role| {
        let name = match role {
            robeing_fleet::Role::Worker => "worker",
            robeing_fleet::Role::Specialist => "specialist",
            robeing_fleet::Role::Messenger => "messenger",
            robeing_fleet::Role::Guardian => "guardian",
        };
        (name, role.traits())
    });
    let all = agents.into_iter().chain([("coordinator", COORDINATOR_TRAITS)]);
    all.flat_map(|(role, RoleTraits { responsibilities, capabilities, .. })| {
        responsibilities.iter().chain(capabilities).map(move |duty| (role, *duty))
    })
    .collect()
}

/// Adds the names of the tests in the sources below a folder, each with its file.
fn add_tests(folder: &Path, tests: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            add_tests(&path, tests)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let mut lines = text.lines().map(str::trim);
            while let Some(line) = lines.next() {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    let function = lines.by_ref().find(|line| !line.starts_with("#[")).unwrap_or_default();
                    let name = function.trim_start_matches("async ").trim_start_matches("fn ");
                    let name = name.split('(').next().unwrap_or_default();
                    tests.insert(name.to_owned(), path.clone());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_duty_of_every_role_has_a_test_of_its_own() {
    let proved: BTreeSet<(&str, &str)> = TESTS.iter().map(|(role, duty, _)| (*role, *duty)).collect();
    assert_eq!(proved, duties());
    let names: BTreeSet<&str> = TESTS.iter().map(|(_, _, test)| *test).collect();
    assert_eq!(names.len(), TESTS.len(), "a test is of one duty");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project's folder");
    let mut tests = BTreeMap::new();
    for folder in ["agent", "coordinator", "crates", "fleet", "tests"] {
        add_tests(&root.join(folder), &mut tests).unwrap_or_else(|error| panic!("{folder}: {error}"));
    }
    for (role, duty, test) in TESTS {
        assert!(tests.contains_key(test), "the test {test} for {duty} of {role} does not exist");
    }
}

#[tokio::test]
async fn a_command_gets_its_input_and_returns_its_output() {
    let count = json!({"command": {"argv": ["/bin/sh", "-c", "wc -c"]}});
    let fleet = Fleet::start(FleetSpec::new(1).pool(PoolSpec::new("work", 1).executor(count))).await;
    let input = "x".repeat(1024 * 1024);
    let id = fleet.submit_one(task(&input)).await;
    let output = fleet.finished(&id, TaskState::Succeeded).await.output;
    assert_eq!(String::from_utf8_lossy(&output).trim(), input.len().to_string());
}

#[tokio::test]
async fn a_worker_runs_as_many_tasks_at_once_as_it_has_slots() {
    const SLOTS: u32 = 4;
    let fleet = Fleet::start(FleetSpec::new(1).pool(PoolSpec::new("work", 1).slots(SLOTS))).await;
    let gate = fleet.gate("held");
    let held = || task(&format!("{}\n{}", gate.wait(), answer("done")));
    let ids = fleet.submit((0..=SLOTS).map(|_| held()).collect()).await;
    let (running, waiting) = ids.split_at(SLOTS as usize);
    for id in running {
        fleet.executing(id, 1).await;
    }
    assert_eq!(fleet.task(&waiting[0]).await.state(), TaskState::Queued, "one more waits");
    gate.open();
    for id in &ids {
        fleet.finished(id, TaskState::Succeeded).await;
    }
}

#[tokio::test]
async fn an_agent_does_not_get_the_name_of_one_whose_role_has_a_higher_priority() {
    let guardian = PoolSpec::new("watch", 1).role("Guardian").executor(json!({"echo": {}}));
    let messenger = PoolSpec::new("relay", 1).role("Messenger").executor(json!({"echo": {}}));
    let fleet = Fleet::start(FleetSpec::new(1).pool(guardian).pool(messenger).with_tls()).await;
    let (thief, address) = (Thief::in_dir(fleet.dir()), fleet.address("coordinator-0"));
    let conflicts = Counter::of(&fleet.metrics_address("coordinator-0"), "robeing_name_conflicts_total").await;
    let enrol = async |name: &str| {
        let identity = thief.nobody();
        let request = EnrolRequest {
            cluster_id: CLUSTER.into(),
            name: name.into(),
            role: Role::Worker.into(),
            pool: "work".into(),
            signing_request: identity.signing_request().into(),
            proof: Some(Proof::JoinToken(thief.token(PeerRole::Worker, "work", Some(name), now()))),
        };
        let enrolled = EnrolmentClient::new(identity.channel(&address)).enrol(request).await;
        enrolled.map(drop).map_err(|status| status.code())
    };
    assert_eq!(enrol("watch-0").await, Err(Code::AlreadyExists), "a worker does not get the name of a guardian");
    conflicts.rises_by(1).await;
    assert_eq!(enrol("relay-0").await, Ok(()), "it gets that of a messenger");
    conflicts.rises_by(2).await;
    assert_eq!(enrol("work-0").await, Ok(()), "nobody has this one");
    assert_eq!(conflicts.now().await, 2);
    let agents = fleet.agents().await;
    assert!(agents.iter().any(|agent| agent.name == "watch-0" && agent.role() == Role::Guardian), "{agents:?}");
}
