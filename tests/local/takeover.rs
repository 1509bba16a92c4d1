//! An agent that dies, freezes or is partitioned loses its tasks to other agents, and its later messages about them are
//! refused.

use robeing_proto::v1::{AgentState, AttemptState, FailureKind, Task, TaskState};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    processes::group_members,
    proxy::Network,
    script::{Gate, answer, overlaps, task},
    wait::{check, eventually},
};

/// Submits a task that waits at a gate, and waits until an agent executes it. Returns its id and that agent.
async fn gated_task(fleet: &Fleet, gate: &Gate) -> (String, String) {
    let id = fleet.submit_one(task(&format!("{}\n{}", gate.wait(), answer("through")))).await;
    fleet.executing(&id, 1).await;
    let agent = fleet.task(&id).await.attempts[0].agent.clone();
    (id, agent)
}

fn assert_taken_over(task: &Task, lost: &str) {
    let [first, second] = &task.attempts[..] else { panic!("two attempts expected: {task:#?}") };
    assert_eq!((first.agent.as_str(), first.state()), (lost, AttemptState::Lost), "{task:#?}");
    let failure = first.failure.as_ref().expect("a lost attempt has a failure");
    assert_eq!(failure.kind(), FailureKind::AgentLost, "{task:#?}");
    assert_ne!(second.agent, lost, "{task:#?}");
    assert_eq!(second.state(), AttemptState::Succeeded, "{task:#?}");
    assert_eq!(String::from_utf8_lossy(&task.output), format!("{} 2 through\n", task.id), "{task:#?}");
}

#[tokio::test]
async fn tasks_of_a_killed_agent_run_elsewhere_and_a_standby_steps_in() {
    let spec = FleetSpec::new(3).pool(PoolSpec::new("work", 2).standby(1).slots(2));
    let mut fleet = Fleet::start(spec).await;
    let gate = fleet.gate("all");
    let tasks = (0..4).map(|_| task(&format!("{}\n{}", gate.wait(), answer("through")))).collect();
    let ids = fleet.submit(tasks).await;
    let mut groups = Vec::new();
    for id in &ids {
        groups.push(fleet.executing(id, 1).await);
    }
    let agents = fleet.agents().await;
    let standby = agents.iter().find(|agent| agent.state() == AgentState::Standby).expect("one waits").name.clone();
    let victim = agents.iter().find(|agent| agent.state() == AgentState::Live).expect("two work").name.clone();
    fleet.kill(&victim);

    fleet.agent_is(&victim, AgentState::Lost).await;
    fleet.agent_is(&standby, AgentState::Live).await;
    let mut of_victim = Vec::new();
    for (id, group) in ids.iter().zip(groups) {
        if fleet.task(id).await.attempts[0].agent == victim {
            fleet.executing(id, 2).await;
            eventually("the end of the dead agent's commands", async || {
                let left = group_members(group);
                check(left.is_empty(), (), left)
            })
            .await;
            of_victim.push(id.clone());
        }
    }
    assert_eq!(of_victim.len(), 2, "each of two agents has two slots and had two tasks");
    gate.open();
    for id in &ids {
        let ended = fleet.finished(id, TaskState::Succeeded).await;
        if of_victim.contains(id) {
            assert_taken_over(&ended, &victim);
            assert_eq!(ended.attempts[1].agent, standby, "the only agent with free slots: {ended:#?}");
        } else {
            assert_eq!(ended.attempts.len(), 1, "a healthy agent keeps its tasks: {ended:#?}");
        }
    }
    assert!(fleet.status().await.redistributed_total >= 2);

    // When it returns, it is a new process with a new session.
    let before = fleet.agents().await.into_iter().find(|agent| agent.name == victim).expect("it is still listed");
    fleet.start_one(&victim);
    let back = fleet.agent_such(&victim, "the agent back", |agent| agent.state() != AgentState::Lost).await;
    assert_ne!((back.session, back.incarnation), (before.session, before.incarnation));
}

#[tokio::test]
async fn tasks_of_a_frozen_agent_run_elsewhere_and_what_it_says_later_is_refused() {
    let mut fleet = Fleet::start(FleetSpec::new(3).pool(PoolSpec::new("work", 2))).await;
    let gate = fleet.gate("all");
    let (id, victim) = gated_task(&fleet, &gate).await;
    let before = fleet.agent_is(&victim, AgentState::Live).await;
    // Its command continues, so that the agent finds a result when it is thawed.
    fleet.freeze(&victim);
    fleet.agent_is(&victim, AgentState::Lost).await;
    fleet.executing(&id, 2).await;
    gate.open();
    let ended = fleet.finished(&id, TaskState::Succeeded).await;
    assert_taken_over(&ended, &victim);

    fleet.thaw(&victim);
    let expected = "the thawed agent in a new session";
    let back = fleet.agent_such(&victim, expected, |agent| agent.state() == AgentState::Live).await;
    assert_ne!(back.session, before.session);
    assert_eq!(fleet.task(&id).await, ended, "the result is unchanged");

    // It works again: enough concurrent tasks for both agents.
    let gate = fleet.gate("again");
    let tasks = (0..8).map(|_| task(&format!("{}\n{}", gate.wait(), answer("again")))).collect();
    let ids = fleet.submit(tasks).await;
    let mut agents = Vec::new();
    for id in &ids {
        fleet.executing(id, 1).await;
        agents.push(fleet.task(id).await.attempts[0].agent.clone());
    }
    assert!(agents.contains(&victim), "both agents have four slots: {agents:?}");
    gate.open();
    for id in &ids {
        fleet.finished(id, TaskState::Succeeded).await;
    }
}

// The proxies must not wait for the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_cut_off_stops_its_tasks_before_others_begin_them() {
    let mut fleet = Fleet::prepare(FleetSpec::new(3).pool(PoolSpec::new("work", 2)));
    // All connections go through the network, which can partition an agent.
    let direct: Vec<String> = fleet.coordinators().iter().map(|name| fleet.address(name)).collect();
    let network = Network::to(&direct).await;
    let through = network.addresses().to_vec();
    let members: Vec<String> =
        fleet.coordinators().iter().zip(&through).map(|(name, address)| format!("{name}={address}")).collect();
    for name in fleet.coordinators() {
        fleet.set_flag(&name, "initial-coordinators", &members.join(","));
    }
    for name in fleet.agent_names() {
        fleet.set_flag(&name, "coordinators", &through.join(","));
    }
    fleet.start_all();
    fleet.ready().await;

    let gate = fleet.gate("all");
    let (id, victim) = gated_task(&fleet, &gate).await;
    let before = fleet.agent_is(&victim, AgentState::Live).await;
    let group = fleet.executing(&id, 1).await;
    network.cut(&victim);

    fleet.agent_is(&victim, AgentState::Lost).await;
    fleet.executing(&id, 2).await;
    // The second attempt looked for processes of the first one when it began.
    assert_eq!(overlaps(&fleet.executions_file()), Vec::<String>::new(), "attempts that ran at the same time");
    assert_eq!(group_members(group), Vec::<u32>::new(), "the partitioned agent stopped its command on its own");
    gate.open();
    let ended = fleet.finished(&id, TaskState::Succeeded).await;
    assert_taken_over(&ended, &victim);

    network.mend();
    let expected = "the agent back in a new session";
    let back = fleet.agent_such(&victim, expected, |agent| agent.state() == AgentState::Live).await;
    assert_ne!(back.session, before.session);
    assert_eq!(back.pid, before.pid, "its process is the same");
    assert_eq!(fleet.task(&id).await, ended, "the result is unchanged");
}

#[tokio::test]
async fn another_process_of_the_same_name_waits_until_the_first_counts_as_lost() {
    let mut fleet = Fleet::start(FleetSpec::new(3).pool(PoolSpec::new("work", 1))).await;
    let gate = fleet.gate("twin");
    let (id, agent) = gated_task(&fleet, &gate).await;
    let group = fleet.executing(&id, 1).await;
    fleet.freeze(&agent);
    fleet.start_another(&agent, "twin");
    fleet.executing(&id, 2).await;
    // A zombie that its frozen parent can't reap does not run.
    assert_eq!(group_members(group), Vec::<u32>::new(), "attempts that ran at the same time");
    gate.open();
    let task = fleet.finished(&id, TaskState::Succeeded).await;
    let [first, second] = &task.attempts[..] else { panic!("two attempts expected: {task:#?}") };
    assert_eq!((first.state(), second.state()), (AttemptState::Lost, AttemptState::Succeeded), "{task:#?}");
    assert!(fleet.process("twin").log().contains("another process holds the agent name"), "it logs why it waits");
}
