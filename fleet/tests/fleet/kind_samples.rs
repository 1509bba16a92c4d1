//! Samples of commands about kinds of tasks, for the tests of their encoding.

use robeing_fleet::{
    Command, Demand, KindCommand, RetryDefaults, Role, SubmitTask, TaskCommand, TaskKind, TaskResources,
};

use crate::{
    fixture::{amounts, task},
    time_samples::timing,
};

/// Kinds, and tasks that take several slots or skills.
pub fn kind_commands() -> Vec<Command> {
    let set = |kinds| Command::Kind(KindCommand::Set { kinds, by: "carol".to_owned() });
    let demand = |slots, skills: &[&str]| {
        let skills = skills.iter().map(|skill| (*skill).to_owned()).collect();
        Some(Box::new(Demand { slots, skills, store: false }))
    };
    let whole = TaskKind {
        name: "whole".to_owned(),
        role: Some(Role::Specialist),
        skills: vec!["law".to_owned(), "ocr".to_owned()],
        slots: 300,
        resources: Some(Box::new(TaskResources { amounts: amounts(500, 1 << 20), queue: "default".to_owned() })),
        deadline_in: Some(60_000),
        attempt_timeout: Some(1_000),
        retry: RetryDefaults {
            max_attempts: Some(3),
            initial_backoff: Some(10),
            max_backoff: Some(100),
            multiplier_percent: Some(150),
        },
        timing: Some(Box::new(timing())),
        ..TaskKind::default()
    };
    let wide = TaskKind { name: "sum".to_owned(), slots: 2, ..TaskKind::default() };
    vec![
        set(vec![whole, wide]),
        Command::Task(TaskCommand::Submit(SubmitTask { demand: demand(3, &[]), ..task(60) })),
        Command::Task(TaskCommand::Submit(SubmitTask {
            required_specialization: Some("law".to_owned()),
            demand: demand(0, &["ocr"]),
            ..task(61)
        })),
        set(Vec::new()),
    ]
}
