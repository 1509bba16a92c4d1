//! Conditions, phase and counts.

use super::*;

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
    assert_eq!(scene.events(&scene, Some(&down)), ["Normal Recovered: The fleet has recovered."]);
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
    assert!(scene.events(&scene, Some(&status)).is_empty(), "it is reported once");
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
    assert_eq!(events, ["Normal RolloutCompleted: Every coordinator matches the spec."]);
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
        crate::controller::observe::addresses(&seen.cluster, seen.stateful_set(), &seen.pods, None).len()
    };
    assert_eq!((addresses(&scene), scene.observation.coordinator_pods().len()), (3, 3));
    // A pod with only the labels and a name, one that another owner controls, and one with an ordinal beyond the set's
    // size.
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
    // A set that does not belong to this cluster has no coordinators.
    let mut set = DynamicObject::clone(&scene.observation.objects[0].object);
    set.metadata.owner_references = None;
    scene.observation.objects[0].object = Arc::new(set);
    assert_eq!((addresses(&scene), scene.observation.coordinator_pods().len()), (0, 0));
    // If the set does not exist, the pods may be left over from it.
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
fn a_deployment_that_somebody_paused_is_told() {
    let mut scene = scene();
    let mut paused = DynamicObject::clone(&deployment("fleet-data", 3).object);
    paused.data["status"]["conditions"] = json!([{"type": "Progressing", "status": "Unknown", "reason": "DeploymentPaused", "message": "Deployment is paused"}]);
    scene.observation.objects[1].object = Arc::new(paused);
    let status = scene.status(None);
    let (state, reason, message) = says(&status, "Degraded");
    assert_eq!((state, reason), ("True", "PoolNotProgressing"));
    assert!(message.contains("kubectl rollout resume deployment/fleet-data"), "{message}");
}

#[test]
fn a_fleet_whose_pods_are_not_ready_is_not_ready() {
    let mut scene = scene();
    assert_eq!(says(&scene.status(None), "Ready").0, "True");
    let mut deployment = DynamicObject::clone(&deployment("fleet-data", 3).object);
    deployment.data["status"]["readyReplicas"] = 1.into();
    scene.observation.objects[1] = Live::new("Deployment", deployment);
    let status = scene.status(None);
    assert_eq!(says(&status, "Ready"), ("False", "AgentsMissing", "Pool \"data\": 1 of 3 pods are ready."));
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
    assert!(message.starts_with("Only 1 of 3 coordinator pods exist."), "{message}");
    assert!(message.contains("kubectl describe statefulset fleet-coordinators"), "{message}");
}

#[test]
fn agents_of_no_pool_are_counted_apart() {
    let mut scene = scene();
    let mine = [agent("x", "", v1::AgentState::Live), agent("y", "gone", v1::AgentState::Standby)];
    let lost = agent("z", "", v1::AgentState::Lost);
    // No process has attached to it yet, and its pod belongs to a pool.
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

#[test]
fn what_is_wrong_with_the_identity_degrades_a_fleet_and_what_weakens_it_is_warned_of_once() {
    let mut scene = scene();
    let well = scene.status(None);
    let mut cluster = RobeingCluster::clone(&scene.observation.cluster);
    cluster.spec.identity.enrolment = robeing_crds::Enrolment::Open;
    scene.observation.cluster = Arc::new(cluster);
    let open = scene.status(Some(&well));
    assert_eq!((says(&open, "Identity").0, says(&open, "Identity").1), ("True", "OpenEnrolment"));
    assert_eq!(says(&open, "Degraded").0, "False");
    let warned = |events: Vec<String>| events.iter().filter(|event| event.starts_with("Warning OpenEnrolment")).count();
    assert_eq!(warned(scene.events(&scene, Some(&well))), 1);
    assert_eq!(warned(scene.events(&scene, Some(&open))), 0);
    scene.outcome.identity.problem("AuthorityMissing", "Secret mine does not exist.".into());
    let wrong = scene.status(Some(&open));
    assert_eq!((says(&wrong, "Identity").0, says(&wrong, "Identity").1), ("False", "AuthorityMissing"));
    assert_eq!(says(&wrong, "Degraded"), ("True", "AuthorityMissing", "Secret mine does not exist."));
}
