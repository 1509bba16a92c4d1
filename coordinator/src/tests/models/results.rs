//! Results: a task ends, or arrives as ended with a leader's snapshot, while a client asks for its result.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use robeing_fleet::{Command, Completion, Fleet, Outcome, TaskCommand, TaskId};
use shuttle::{future::block_on, thread};

use crate::{
    apply::{observer::ApplyObserver, result_stream::ResultStream},
    fixture::{fleet_with_agent, task},
    leader::sessions::{SessionTable, SessionTiming},
    raft::{SharedFleet, modelled},
    tests::models::{ORDERS, apply, explore, fails, machine},
};

const TASK: TaskId = TaskId(1);
const TAG: u64 = 7;
pub const TIMING: SessionTiming = SessionTiming {
    heartbeat_interval: Duration::from_millis(500),
    timeout: Duration::from_secs(2),
    health_check_interval: Duration::from_secs(10),
    grace: Duration::from_millis(50),
};

/// Returns a fleet that runs a task, and the command that ends it.
fn running() -> (Fleet, Command) {
    let (mut fleet, agent, session) = fleet_with_agent();
    fleet.apply(
        robeing_fleet::Stamp::at(1),
        Command::Task(TaskCommand::Submit(task(1, Bytes::new()))),
        &mut Vec::new(),
    );
    let outcome = Outcome::Succeeded(Bytes::new());
    let end =
        Command::Task(TaskCommand::Complete(Completion { agent, session, task: TASK, attempt: 1, ran_us: 1, outcome }));
    (fleet, end)
}

/// How the end of the task arrives.
#[derive(Clone, Copy, Debug)]
enum End {
    Applied,
    Installed,
}

/// Advances the log until the task has ended.
fn end(by: End, fleet: &SharedFleet, observer: &Arc<ApplyObserver>, command: Command) {
    let mut machine = machine(fleet, observer);
    match by {
        End::Applied => apply(&mut machine, 2, &[command]),
        End::Installed => {
            let mut ended = running().0;
            ended.apply(robeing_fleet::Stamp::at(2), command, &mut Vec::new());
            modelled::install(&mut machine, 9, ended.encode());
        }
    }
}

/// Reads the state, and puts the result if the task has ended there and the observer has not put it.
fn look(fleet: &SharedFleet, observer: &ApplyObserver, mailbox: &Arc<ResultStream>) {
    let ended = ApplyObserver::result(&fleet.read(), TASK);
    if let Some(ended) = ended
        && observer.forget(TASK, mailbox, TAG)
    {
        mailbox.put(TAG, ended);
    }
}

/// Asks for the result as a stream of submissions does, and returns how often it was sent.
fn ask(fleet: &SharedFleet, observer: &ApplyObserver, wait_first: bool) -> usize {
    let mailbox = Arc::new(ResultStream::default());
    let mut installs = observer.installs();
    if wait_first {
        observer.wait_for(TASK, &mailbox, TAG);
        look(fleet, observer, &mailbox);
    } else {
        look(fleet, observer, &mailbox);
        observer.wait_for(TASK, &mailbox, TAG);
    }
    block_on(async {
        while mailbox.len() == 0 {
            tokio::select! {
                biased;
                () = mailbox.news() => {}
                Ok(()) = installs.changed() => look(fleet, observer, &mailbox),
            }
        }
    });
    mailbox.len()
}

fn model(by: End, wait_first: bool) -> impl Fn() + Send + Sync + 'static {
    move || {
        let (fleet, command) = running();
        let fleet = SharedFleet::new(fleet);
        let observer = Arc::new(ApplyObserver::new(SessionTable::new(TIMING)));
        let asking = [(); 2].map(|()| {
            let (fleet, observer) = (fleet.clone(), Arc::clone(&observer));
            thread::spawn(move || ask(&fleet, &observer, wait_first))
        });
        end(by, &fleet, &observer, command);
        for asking in asking {
            assert_eq!(asking.join().unwrap(), 1, "{by:?}: how often the result was sent");
        }
    }
}

#[test]
fn a_result_is_told_once_to_each_who_asks_whenever_it_comes() {
    for by in [End::Applied, End::Installed] {
        explore(ORDERS, model(by, true));
    }
}

#[test]
fn whoever_looks_before_asking_may_wait_for_ever() {
    assert!(fails(model(End::Applied, false)), "no order was found in which the end is missed");
}
