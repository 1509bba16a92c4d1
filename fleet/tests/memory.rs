//! How much memory tasks take, by what is allocated.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::Bytes;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, Command, Completion, ControlCommand, Effect, Fleet, FleetConfig, Outcome, Reply,
    Role, SessionId, Stamp, SubmitTask, TaskCommand, TaskId, known_version,
};

/// Bytes of each input.
const INPUT: usize = 64;
/// Most bytes of a queued task beside its input.
const QUEUED_BYTES: usize = 1_024;
/// Most bytes of an archived task that succeeded and is linked to no other. Its row takes 48, and each of three indexes
/// (of ids, revisions and expiries) 8: 72 in all. Blocks have room for up to 64 more than they have, which takes less
/// than 2 bytes of each, as do the trees of blocks; and what does not depend on the number of tasks is divided by it.
const ARCHIVED_BYTES: usize = 88;

/// Counts what each thread has allocated.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

fn allocated() -> usize {
    ALLOCATED.get()
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all that is asked of it is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|bytes| bytes.set(bytes.get().wrapping_add(layout.size())));
        // SAFETY: the caller promises the same of the layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let _ = ALLOCATED.try_with(|bytes| bytes.set(bytes.get().wrapping_sub(layout.size())));
        // SAFETY: the memory comes from `alloc` with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// A fleet that knows everything and has so many results in memory.
fn fleet(recent_results: u32) -> Fleet {
    let config = FleetConfig { recent_results, ..FleetConfig::default() };
    let mut fleet = Fleet::new(FleetConfig::default());
    for command in [ControlCommand::RaiseVersion(known_version()), ControlCommand::Configure(config)] {
        assert_eq!(apply(&mut fleet, Command::Control(command)), Reply::Done);
    }
    fleet
}

fn apply(fleet: &mut Fleet, command: Command) -> Reply {
    fleet.apply(Stamp::at(1), command, &mut Vec::<Effect>::new())
}

/// Submits a task, with an id as if it were random, and returns that.
fn submit(fleet: &mut Fleet, n: u128) -> TaskId {
    let id = TaskId(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    let task = SubmitTask::new(id, "product", Bytes::from(vec![7; INPUT]));
    let task = SubmitTask { submitter: "client".to_owned(), ..task };
    let reply = apply(fleet, Command::Task(TaskCommand::Submit(task)));
    assert_eq!(reply, Reply::Submitted { task: id, existing: false });
    id
}

fn worker(fleet: &mut Fleet) -> (AgentId, SessionId) {
    let join = AgentJoin {
        name: "worker".to_owned(),
        incarnation: 1,
        role: Role::Worker,
        pool: None,
        specializations: Vec::new(),
        slots: 1,
        address: "127.0.0.1:1".to_owned(),
        process: None,
        pid: 1,
        version: String::new(),
        sealing_key: None,
        contributed: None,
        lacks_store: false,
    };
    let reply = apply(fleet, Command::Agent(AgentCommand::Joined(join)));
    let Reply::Joined { agent, session } = reply else { panic!("{reply:?}") };
    (agent, session)
}

/// Submits a task and completes it.
fn run(fleet: &mut Fleet, n: u128, (agent, session): (AgentId, SessionId)) {
    let task = submit(fleet, n);
    let outcome = Outcome::Succeeded(Bytes::from(vec![7; INPUT]));
    let completion = Completion { agent, session, task, attempt: 1, ran_us: 1, outcome };
    assert_eq!(apply(fleet, Command::Task(TaskCommand::Complete(completion))), Reply::Completed);
}

#[test]
fn a_queued_task_takes_at_most_a_kibibyte_beside_its_input() {
    const TASKS: usize = 50_000;
    let mut fleet = fleet(0);
    let before = allocated();
    for n in 1..=TASKS as u128 {
        submit(&mut fleet, n);
    }
    let bytes = (allocated() - before) / TASKS - INPUT;
    assert!(bytes <= QUEUED_BYTES, "{bytes} bytes");
}

#[test]
fn an_archived_task_takes_little_whatever_its_input_and_output() {
    const TASKS: usize = 20_000;
    let mut fleet = fleet(1);
    let worker = worker(&mut fleet);
    run(&mut fleet, 1, worker);
    let before = allocated();
    for n in 2..=TASKS as u128 + 1 {
        run(&mut fleet, n, worker);
    }
    assert_eq!(fleet.archived_count(), TASKS);
    let bytes = (allocated() - before) / TASKS;
    assert!(bytes <= ARCHIVED_BYTES, "{bytes} bytes");
    // And no more when it was read from a snapshot.
    let state = fleet.encode();
    drop(fleet);
    let before = allocated();
    let fleet = Fleet::decode(&state).expect("a fleet's own snapshot");
    assert_eq!(fleet.archived_count(), TASKS);
    let bytes = (allocated() - before) / TASKS;
    assert!(bytes <= ARCHIVED_BYTES, "{bytes} bytes");
}
