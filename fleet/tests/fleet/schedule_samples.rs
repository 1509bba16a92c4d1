//! Samples of commands and replies about schedules, for the tests of their encoding.

use bytes::Bytes;
use robeing_fleet::{
    Command, Concurrency, ControlCommand, FireSchedule, FleetConfig, MissedRuns, Refusal, Reply, ScheduleCommand,
    ScheduleSpec, SetSchedule, TaskId,
};

use crate::schedules::{DUE, schedule, spec};

/// Of the first of these schedules, the first two moments are decided if the fleet's wall time is late enough.
pub fn schedule_commands() -> Vec<Command> {
    let (name, by) = ("nightly".to_owned(), "client:ann".to_owned());
    let fire = FireSchedule {
        schedule: 1,
        generation: 1,
        due: DUE,
        run_at: Some(DUE),
        next: Some(DUE + 1),
        missed: 0,
        input: None,
        problem: None,
    };
    let odd = ScheduleSpec {
        time_zone: String::new(),
        missed: MissedRuns::All,
        start_within: Some(300),
        concurrency: Concurrency::Replace,
        suspended: true,
        ..spec()
    };
    let problem = Some("no room".to_owned());
    let commands = vec![
        ScheduleCommand::Set(Box::new(schedule("nightly"))),
        ScheduleCommand::Set(Box::new(SetSchedule { managed: true, next: None, spec: odd, ..schedule("odd") })),
        ScheduleCommand::Fire(Box::new(fire.clone())),
        ScheduleCommand::Fire(Box::new(FireSchedule {
            due: DUE + 1,
            run_at: None,
            next: None,
            missed: 3,
            problem,
            ..fire.clone()
        })),
        ScheduleCommand::Fire(Box::new(FireSchedule { input: Some(Bytes::from_static(b"x")), ..fire })),
        ScheduleCommand::Run { name: name.clone(), task: TaskId(701), input: None },
        ScheduleCommand::Run { name: name.clone(), task: TaskId(703), input: Some(Bytes::from_static(b"y")) },
        ScheduleCommand::Suspend { name: name.clone(), suspended: true, next: None, by: by.clone() },
        ScheduleCommand::Suspend { name: name.clone(), suspended: false, next: Some(DUE + 300), by: by.clone() },
        ScheduleCommand::Remove { name: name.clone(), managed: false, by: by.clone() },
        ScheduleCommand::Remove { name, managed: true, by },
    ];
    let configure = FleetConfig { idempotency_window: 300, ..FleetConfig::default() };
    let configure = Command::Control(ControlCommand::Configure(configure));
    commands.into_iter().map(Command::Schedule).chain([configure]).collect()
}

pub fn schedule_replies() -> Vec<Reply> {
    let (name, task) = ("nightly".to_owned(), TaskId(5));
    vec![
        Reply::ScheduleSet { generation: 300, next: Some(DUE) },
        Reply::ScheduleSet { generation: 1, next: None },
        Reply::ScheduleFired { task: Some(task), existing: true },
        Reply::ScheduleFired { task: None, existing: false },
        Reply::Refused(Refusal::UnknownSchedule { name: name.clone() }),
        Reply::Refused(Refusal::ScheduleManaged { name: name.clone() }),
        Reply::Refused(Refusal::ScheduleMoved { schedule: 300 }),
        Reply::Refused(Refusal::ScheduleBusy { name, task }),
    ]
}
