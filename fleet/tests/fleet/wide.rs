//! Tasks that take several slots or skills: where they run, and what that leaves for others.

use robeing_fleet::{
    AgentCommand, AgentJoin, AgentState, Candidates, Command, Demand, Obstacle, Outcome, Refusal, Reply, Role,
    SubmitTask, TaskCommand, TaskState, UnmetNeeds,
    limits::{MAX_CANDIDATES_TOLD, MAX_SCANNED, MAX_TASK_SHAPES, MAX_WIDE_FOUND, MAX_WIDE_LOOKS},
};

use crate::{
    fixture::{OpenSession, Trial, pooled, success, task, worker},
    queue_samples::in_lane,
};

fn wide(n: u128, slots: u32) -> SubmitTask {
    SubmitTask { demand: Some(Box::new(Demand { slots, ..Demand::default() })), ..task(n) }
}

fn skilled(n: u128, skills: &[&str]) -> SubmitTask {
    let mut skills = skills.iter().map(|skill| (*skill).to_owned());
    let required_specialization = skills.next();
    let demand = Some(Box::new(Demand { skills: skills.collect(), ..Demand::default() }));
    SubmitTask { required_specialization, demand, ..task(n) }
}

fn with_slots(name: &str, slots: u32) -> AgentJoin {
    AgentJoin { slots, ..worker(name) }
}

fn used(trial: &Trial, stay: OpenSession) -> u32 {
    trial.fleet.agent(stay.agent).map_or(0, |agent| agent.used_slots())
}

#[test]
fn a_task_takes_its_slots_until_its_attempt_has_ended() {
    let mut trial = Trial::newest();
    let stay = trial.join(with_slots("a", 4));
    let first = trial.submit(wide(1, 3));
    assert_eq!((trial.holder(first), used(&trial, stay)), (Some(stay.agent), 3));
    let small = trial.submit(task(2));
    let second = trial.submit(wide(3, 2));
    assert_eq!((trial.holder(small), trial.state(second)), (Some(stay.agent), TaskState::Queued));
    trial.complete(stay, small, 1, success());
    assert_eq!(trial.state(second), TaskState::Queued, "one slot is free, and it takes two");
    trial.complete(stay, first, 1, success());
    assert_eq!((trial.assigned(), used(&trial, stay)), (vec![(second, 1)], 2));
    trial.complete(stay, second, 1, success());
    assert_eq!(used(&trial, stay), 0);
}

#[test]
fn the_slots_of_an_attempt_that_is_stopped_are_taken_until_it_has_stopped() {
    let mut trial = Trial::newest();
    let stay = trial.join(with_slots("a", 4));
    let id = trial.submit(wide(1, 4));
    let waiting = trial.submit(task(2));
    trial.cancel(id);
    assert_eq!((used(&trial, stay), trial.state(waiting)), (4, TaskState::Queued));
    trial.complete(stay, id, 1, Outcome::Stopped);
    assert_eq!((used(&trial, stay), trial.holder(waiting)), (1, Some(stay.agent)));
}

#[test]
fn a_wide_task_that_lost_its_agent_goes_where_there_is_room() {
    let mut trial = Trial::newest();
    let (a, small) = (trial.join(with_slots("a", 4)), trial.join(with_slots("b", 2)));
    let id = trial.submit(wide(1, 3));
    trial.lose(a);
    assert_eq!(trial.state(id), TaskState::Queued);
    assert_eq!(used(&trial, small), 0);
    let c = trial.join(with_slots("c", 3));
    assert_eq!((trial.holder(id), used(&trial, c)), (Some(c.agent), 3));
    trial.leave(c);
    assert_eq!(trial.state(id), TaskState::Queued);
}

#[test]
fn a_task_with_several_skills_goes_to_an_agent_that_has_all() {
    let mut trial = Trial::newest();
    let skills = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    trial.join(AgentJoin { specializations: skills(&["ocr"]), ..worker("a") });
    let id = trial.submit(skilled(1, &["ocr", "law"]));
    let missing = "an agent: no live one has specialization \"ocr\" and specialization \"law\"";
    assert_eq!(trial.fleet.waiting_for(id, trial.now).as_deref(), Some(missing));
    let both = trial.join(AgentJoin { specializations: skills(&["law", "ocr"]), ..worker("b") });
    assert_eq!(trial.holder(id), Some(both.agent));
}

#[test]
fn more_different_needs_than_are_indexed_are_refused_and_those_that_are_known_are_not() {
    let mut trial = Trial::newest();
    let mut submit = |n: u128, slots: u32| {
        let mut effects = Vec::new();
        trial.fleet.apply(trial.stamp(), Command::Task(TaskCommand::Submit(wide(n, slots))), &mut effects)
    };
    for n in 0..MAX_TASK_SHAPES as u32 {
        assert!(matches!(submit(u128::from(n), n + 2), Reply::Submitted { .. }), "{n}");
    }
    let more = MAX_TASK_SHAPES as u32 + 2;
    assert!(matches!(submit(10_000, more), Reply::Refused(Refusal::Full { .. })));
    assert!(matches!(submit(10_001, 2), Reply::Submitted { .. }), "others need the same");
}

#[test]
fn only_so_many_agents_are_looked_at_for_a_wide_task() {
    let mut trial = Trial::newest();
    let mut effects = Vec::new();
    let mut join = |trial: &mut Trial, n: usize, slots: u32| {
        let join = AgentCommand::Joined(with_slots(&format!("a{n}"), slots));
        trial.fleet.apply(trial.stamp(), Command::Agent(join), &mut effects)
    };
    // All are equally good, so that the order is that of their numbers.
    for n in 0..MAX_WIDE_LOOKS {
        join(&mut trial, n, 1);
    }
    join(&mut trial, MAX_WIDE_LOOKS, 2);
    let submit = |trial: &mut Trial, task: SubmitTask| {
        let id = task.id;
        trial.fleet.apply(trial.stamp(), Command::Task(TaskCommand::Submit(task)), &mut Vec::new());
        trial.fleet.task(id).map(|task| task.state)
    };
    assert_eq!(submit(&mut trial, wide(1, 2)), Some(TaskState::Queued), "the last agent is not looked at");
    assert_eq!(submit(&mut trial, task(2)), Some(TaskState::Assigned), "the first one has no free slot any more");
    assert_eq!(submit(&mut trial, wide(3, 2)), Some(TaskState::Assigned));
}

#[test]
fn no_more_candidates_of_a_wide_task_are_counted_than_are_compared() {
    for (agents, counted) in [(MAX_WIDE_FOUND, MAX_WIDE_FOUND), (MAX_WIDE_FOUND + 1, MAX_WIDE_FOUND)] {
        let mut trial = Trial::newest();
        for n in 0..agents {
            trial.join(with_slots(&format!("a{n}"), 2));
        }
        let id = trial.submit(wide(1, 2));
        let attempt = trial.task(id).current().expect("it runs");
        assert_eq!(attempt.candidates, counted as u32, "of {agents}");
    }
}

#[test]
fn a_task_that_waits_says_when_an_agent_is_expected_to_have_room() {
    let mut trial = Trial::newest();
    let stay = trial.join(with_slots("a", 2));
    let timed = |n| SubmitTask { attempt_timeout: Some(4_000), ..task(n) };
    let first = trial.submit(timed(1));
    trial.after(1_000);
    trial.submit(timed(2));
    let small = trial.submit(task(3));
    let large = trial.submit(wide(4, 2));
    let huge = trial.submit(wide(5, 3));
    let says = |trial: &Trial, id| trial.fleet.waiting_for(id, trial.now).expect("it waits");
    assert_eq!(says(&trial, small), "a free slot: the one fitting agent is busy; the first is expected in 3 s");
    assert_eq!(says(&trial, large), "2 free slots: the one fitting agent is busy; the first is expected in 4 s");
    assert_eq!(says(&trial, huge), "an agent with 3 slots: the one fitting agent has fewer");
    trial.complete_after(stay, first, 1, success(), 2_000_000);
    // It is known now that such tasks take two seconds.
    assert_eq!(says(&trial, large), "2 free slots: the one fitting agent is busy; the first is expected in 2 s");
}

#[test]
fn the_candidates_for_a_task_are_told_with_their_scores_and_what_is_in_the_way() {
    let mut trial = Trial::newest();
    trial.join(with_slots("small", 1));
    let busy = trial.join(with_slots("busy", 2));
    trial.join(AgentJoin { role: Role::Guardian, ..with_slots("other", 9) });
    trial.join(AgentJoin { slots: 9, ..pooled("first", Some(1), 1) });
    trial.join(AgentJoin { slots: 9, ..pooled("second", Some(1), 1) });
    let first = trial.submit(wide(1, 9));
    assert!(trial.holder(first).is_some());
    let second = trial.submit(SubmitTask { attempt_timeout: Some(4_000), ..wide(2, 2) });
    assert_eq!(trial.holder(second), Some(busy.agent));
    let id = trial.submit(wide(3, 2));
    let task = trial.task(id).clone();
    let mut candidates = Candidates::of(&task, trial.now);
    trial.fleet.agents().for_each(|agent| candidates.look(&trial.fleet, agent));
    let (best, left, others) = candidates.told();
    assert_eq!((best.len(), left, others), (4, 0, 1));
    let why = |name: &str| best.iter().find(|of| &*of.agent == name).and_then(|of| of.obstacle);
    assert_eq!(why("small"), Some(Obstacle::TooSmall { slots: 1 }));
    assert_eq!(why("busy"), Some(Obstacle::Busy { free_in: Some(4_000) }));
    assert_eq!(why("first"), Some(Obstacle::Busy { free_in: None }));
    assert_eq!(why("second"), Some(Obstacle::State(AgentState::Standby)));
    assert!(best.is_sorted_by(|one, next| one.score.total >= next.score.total), "{best:?}");
}

#[test]
fn no_more_candidates_are_told_than_so_many_and_the_others_are_counted() {
    let mut trial = Trial::newest();
    for n in 0..MAX_CANDIDATES_TOLD + 3 {
        trial.join(worker(&format!("a{n:03}")));
    }
    let id = trial.submit(SubmitTask { required_role: Some(Role::Guardian), ..task(1) });
    let other = trial.submit(task(2));
    let told = |id| {
        let mut candidates = Candidates::of(trial.task(id), trial.now);
        trial.fleet.agents().for_each(|agent| candidates.look(&trial.fleet, agent));
        let (best, left, others) = candidates.told();
        (best.len(), left, others)
    };
    assert_eq!(told(id), (0, 0, MAX_CANDIDATES_TOLD + 3));
    assert_eq!(told(other), (MAX_CANDIDATES_TOLD, 3, 0));
}

#[test]
fn what_no_agent_could_ever_run_is_found_and_what_one_could_is_not() {
    let mut trial = Trial::newest();
    trial.join(with_slots("a", 2));
    trial.submit(wide(1, 2));
    trial.submit(task(2));
    trial.submit(SubmitTask { required_role: Some(Role::Guardian), ..task(3) });
    trial.submit(SubmitTask { required_role: Some(Role::Guardian), ..task(4) });
    trial.submit(wide(5, 3));
    trial.submit(skilled(6, &["ocr"]));
    trial.submit(SubmitTask { delay: Some(1_000), ..skilled(7, &["law"]) });
    let found = |trial: &Trial| {
        let mut needs = UnmetNeeds::of(&trial.fleet);
        trial.fleet.agents().for_each(|agent| needs.look(&trial.fleet, agent));
        needs.told().into_iter().map(|need| (need.task.0, need.tasks, need.problem)).collect::<Vec<_>>()
    };
    let expected = [
        (3, 2, "no agent has role Guardian".to_owned()),
        (5, 1, "no agent has 3 slots".to_owned()),
        (6, 1, "no agent has specialization \"ocr\"".to_owned()),
    ];
    assert_eq!(found(&trial), expected);
    let lost = trial.join(AgentJoin { role: Role::Guardian, ..worker("g") });
    trial.lose(lost);
    assert_eq!(found(&trial).first().map(|(task, ..)| *task), Some(5), "it may come back");
}

#[test]
fn what_no_agent_could_run_is_found_behind_any_number_of_keys() {
    let mut trial = Trial::newest();
    trial.join(worker("a"));
    let mut submit = |task: SubmitTask| {
        trial.fleet.apply(trial.stamp(), Command::Task(TaskCommand::Submit(task)), &mut Vec::new());
    };
    for n in 0..=MAX_SCANNED as u128 {
        submit(in_lane(task(n), "", &format!("key-{n}")));
    }
    submit(in_lane(SubmitTask { required_role: Some(Role::Guardian), ..task(5_000) }, "", "the last key"));
    let mut needs = UnmetNeeds::of(&trial.fleet);
    trial.fleet.agents().for_each(|agent| needs.look(&trial.fleet, agent));
    let found: Vec<u128> = needs.told().iter().map(|need| need.task.0).collect();
    assert_eq!(found, [5_000]);
}
