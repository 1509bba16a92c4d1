//! The limits of queues of tasks at their edges.

use robeing_fleet::{
    AgentJoin, Command, ControlCommand, Fleet, Holder, Limit, QueueRules, Refusal, Reply, ResourceCommand, SubmitTask,
    TaskCommand, TaskId, TeamId, limits::*,
};

use crate::{
    fixture::{Trial, amounts, request, task, team, worker},
    queue_samples::{at_once, in_lane, limited, of_identity, per_time, update},
};

fn refused(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn limit_of(reply: Reply) -> u64 {
    match refused(reply) {
        Refusal::Full { limit, .. } => limit,
        other => panic!("not full: {other:?}"),
    }
}

/// Applies a command without an audit, which takes long for many.
fn quick(trial: &mut Trial, command: Command) -> Reply {
    trial.fleet.apply(trial.stamp(), command, &mut Vec::new())
}

fn submit(trial: &mut Trial, submission: SubmitTask) -> Reply {
    quick(trial, Command::Task(TaskCommand::Submit(submission)))
}

/// Sets or removes so many queues, as many in a command as one may have.
fn many(trial: &mut Trial, names: &[String], limits: Option<Vec<Limit>>) -> Vec<Reply> {
    let update = |names: &[String]| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match &limits {
            Some(limits) => update(&names.iter().map(|name| (*name, limited(limits.clone()))).collect::<Vec<_>>(), &[]),
            None => update(&[], &names),
        }
    };
    names.chunks(MAX_UPDATED_QUEUES).map(|names| quick(trial, update(names))).collect()
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

#[test]
fn a_command_sets_and_removes_only_so_many_queues_and_each_once() {
    let mut trial = Trial::newest();
    let of = |count| names("q", count).into_iter().map(|name| (name, limited(Vec::new()))).collect::<Vec<_>>();
    let set = |queues: &[(String, QueueRules)], remove: &[&str]| {
        update(&queues.iter().map(|(name, rules)| (name.as_str(), rules.clone())).collect::<Vec<_>>(), remove)
    };
    assert_eq!(quick(&mut trial, set(&of(MAX_UPDATED_QUEUES - 1), &["r"])), Reply::Done);
    let is_invalid = |reply| matches!(refused(reply), Refusal::Invalid { .. });
    assert!(is_invalid(quick(&mut trial, set(&of(MAX_UPDATED_QUEUES), &["r"]))));
    assert!(is_invalid(quick(&mut trial, set(&of(1), &["q-0"]))), "both set and removed");
    assert!(is_invalid(quick(&mut trial, update(&[], &[""]))));
    trial.fleet.audit().expect("nothing else has changed");
}

#[test]
fn only_so_many_queues_are_set_whatever_was_before() {
    let mut trial = Trial::newest();
    let all = names("q", MAX_TASK_QUEUES);
    assert!(many(&mut trial, &all, Some(Vec::new())).into_iter().all(|reply| reply == Reply::Done));
    let one_more = update(&[("more", limited(Vec::new()))], &[]);
    assert_eq!(limit_of(quick(&mut trial, one_more)), MAX_TASK_QUEUES as u64);
    assert_eq!(quick(&mut trial, update(&[("q-0", limited(Vec::new()))], &[])), Reply::Done, "it is there");
    assert_eq!(quick(&mut trial, update(&[("more", limited(Vec::new()))], &["q-1"])), Reply::Done, "in its place");
    trial.fleet.audit().expect("all is as it should be");
    assert!(Fleet::decode(&trial.fleet.encode()).is_ok());
}

#[test]
fn only_so_many_queues_are_removed_while_something_is_granted_from_them() {
    let mut trial = Trial::newest();
    let contributed = Some(Box::new(amounts(1 << 20, 0)));
    trial.join(AgentJoin { contributed, ..worker("w") });
    let mut id = 0;
    let mut use_all = |trial: &mut Trial, names: &[String]| {
        assert!(many(trial, names, Some(Vec::new())).into_iter().all(|reply| reply == Reply::Done));
        for queue in names {
            id += 1;
            let mut request = request(id, amounts(1, 0));
            let client = format!("client-{}", id % 1_000);
            request.holder = Holder::Client(client.clone());
            (request.queue, request.requested_by) = (queue.clone(), client);
            let reply = quick(trial, Command::Resource(ResourceCommand::Request(request)));
            assert!(matches!(reply, Reply::Allocated { token: Some(_), .. }), "{reply:?}");
        }
    };
    let all = names("q", MAX_TASK_QUEUES);
    use_all(&mut trial, &all);
    assert!(many(&mut trial, &all, None).into_iter().all(|reply| reply == Reply::Done));
    use_all(&mut trial, &names("another", 1));
    assert_eq!(limit_of(quick(&mut trial, update(&[], &["another-0"]))), MAX_TASK_QUEUES as u64);
    trial.fleet.audit().expect("all is as it should be");
}

#[test]
fn only_so_many_queues_are_removed_while_they_have_tasks() {
    let mut trial = Trial::newest();
    let mut id = 0;
    let mut use_all = |trial: &mut Trial, names: &[String]| {
        assert!(many(trial, names, Some(Vec::new())).into_iter().all(|reply| reply == Reply::Done));
        for queue in names {
            id += 1;
            let reply = submit(trial, in_lane(task(id), queue, ""));
            assert!(matches!(reply, Reply::Submitted { .. }), "{reply:?}");
        }
    };
    let all = names("q", MAX_TASK_QUEUES);
    use_all(&mut trial, &all);
    assert!(many(&mut trial, &all, None).into_iter().all(|reply| reply == Reply::Done));
    use_all(&mut trial, &names("another", 1));
    assert_eq!(limit_of(quick(&mut trial, update(&[], &["another-0"]))), MAX_TASK_QUEUES as u64);
    trial.cancel(TaskId(1));
    assert_eq!(quick(&mut trial, update(&[], &["another-0"])), Reply::Done);
}

#[test]
fn the_texts_of_where_a_task_waits_are_held_to_their_limits() {
    let mut trial = Trial::newest();
    let is_invalid = |reply| matches!(refused(reply), Refusal::Invalid { .. });
    let long = |bytes| "x".repeat(bytes);
    trial.set_queues(&[(&long(MAX_NAME_BYTES), limited(Vec::new()))]);
    let most = in_lane(task(1), &long(MAX_NAME_BYTES), &long(MAX_NAME_BYTES));
    let accepted = submit(&mut trial, of_identity(most, &long(MAX_SENDER_BYTES)));
    assert!(matches!(accepted, Reply::Submitted { .. }), "{accepted:?}");
    for more in [
        in_lane(task(2), &long(MAX_NAME_BYTES + 1), ""),
        in_lane(task(2), "", &long(MAX_NAME_BYTES + 1)),
        of_identity(task(2), &long(MAX_SENDER_BYTES + 1)),
    ] {
        assert!(is_invalid(submit(&mut trial, more)));
    }
    assert_eq!(trial.fleet.stored_bytes(), (3 + 2 * MAX_NAME_BYTES + MAX_SENDER_BYTES) as u64, "with its input");
    trial.fleet.audit().expect("all is as it should be");
}

/// Whenever a limit of the queue holds nothing back any more, each costs a look.
#[test]
fn only_so_many_kinds_of_tasks_wait_in_a_queue_with_limits() {
    for of_team in [None, Some(TeamId(1))] {
        let mut trial = Trial::newest();
        trial.set_queues(&[("batch", limited(vec![at_once("", 1)]))]);
        trial.join(worker("w"));
        trial.form(team(1, 1));
        trial.submit(task(30_000));
        let kind = |n: usize| {
            let waits = in_lane(task(n as u128), "batch", "");
            SubmitTask { kind: format!("kind-{n}"), team: of_team, ..waits }
        };
        for n in 0..MAX_LIMITED_DOMAINS {
            assert!(matches!(submit(&mut trial, kind(n)), Reply::Submitted { .. }), "{n}");
        }
        let same = SubmitTask { kind: "kind-0".to_owned(), ..kind(20_000) };
        assert!(matches!(submit(&mut trial, same), Reply::Submitted { .. }), "of a kind that waits");
        assert_eq!(limit_of(submit(&mut trial, kind(MAX_LIMITED_DOMAINS))), MAX_LIMITED_DOMAINS as u64);
        trial.fleet.audit().expect("all is as it should be");
    }
}

#[test]
fn only_so_many_keys_have_started_faster_than_their_rates() {
    let mut trial = Trial::newest();
    trial.set_queues(&[("mail", limited(vec![per_time("*", 1, 60_000, 2)]))]);
    for n in 0..=MAX_BUCKETS as u32 / MAX_SLOTS {
        trial.join(AgentJoin { slots: MAX_SLOTS, ..worker(&format!("w-{n}")) });
    }
    let of_key = |n: usize, key: usize| in_lane(task(n as u128), "mail", &format!("key-{key}"));
    for n in 0..MAX_BUCKETS {
        assert!(matches!(submit(&mut trial, of_key(n, n)), Reply::Submitted { .. }), "{n}");
    }
    assert_eq!(limit_of(submit(&mut trial, of_key(MAX_BUCKETS, MAX_BUCKETS))), MAX_BUCKETS as u64);
    assert!(matches!(submit(&mut trial, of_key(20_000, 0)), Reply::Submitted { .. }), "of a key that has started");
    trial.fleet.audit().expect("all is as it should be");
    trial.now += 120_000;
    quick(&mut trial, Command::Control(ControlCommand::Tick));
    let accepted = submit(&mut trial, of_key(MAX_BUCKETS, MAX_BUCKETS));
    assert!(matches!(accepted, Reply::Submitted { .. }), "as others have all their tokens again");
}
