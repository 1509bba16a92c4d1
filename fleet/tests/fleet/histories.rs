//! Properties that hold for every history.

use std::collections::BTreeSet;

use proptest::prelude::*;
use robeing_fleet::{
    Amounts, Command, ControlCommand, Effect, Fleet, FleetConfig, IdentityCommand, Progress, Refusal, Reply, Stamp,
    TaskCommand,
};

use crate::{
    history::History,
    ops::{Op, steps},
};

fn replay(fleet: &mut Fleet, log: &[(Stamp, Command)]) -> (Vec<Reply>, Vec<Effect>) {
    let mut effects = Vec::new();
    let replies = log.iter().map(|(now, command)| fleet.apply(*now, command.clone(), &mut effects)).collect();
    (replies, effects)
}

/// Removes the wall times in recovery steps and refusals.
fn without_walls((mut replies, mut effects): (Vec<Reply>, Vec<Effect>)) -> (Vec<Reply>, Vec<Effect>) {
    for reply in &mut replies {
        if let Reply::Refused(Refusal::Barred { since, .. } | Refusal::NameHeld { since, .. }) = reply {
            *since = 0;
        }
    }
    for effect in &mut effects {
        if let Effect::Recovery { step, .. } = effect {
            step.at.wall = 0;
        }
    }
    (replies, effects)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_after_every_command(steps in steps()) {
        let mut history = History::new();
        for (passing, op) in &steps {
            history.step(*passing, op);
        }
    }

    #[test]
    fn the_same_log_gives_the_same_bytes_and_so_does_a_snapshot_with_the_rest_of_it(
        steps in steps(), cut in any::<prop::sample::Index>(),
    ) {
        let mut history = History::new();
        for (passing, op) in &steps {
            history.step(*passing, op);
        }
        let mut again = Fleet::new(FleetConfig::default());
        let (before, after) = history.log.split_at(cut.index(history.log.len()));
        replay(&mut again, before);
        let snapshot = again.encode();
        let mut restored = Fleet::decode(&snapshot).expect("a fleet's own snapshot");
        prop_assert_eq!(restored.encode(), snapshot);
        replay(&mut again, after);
        replay(&mut restored, after);
        prop_assert_eq!(again.checksum(), history.fleet.checksum());
        prop_assert_eq!(restored.checksum(), history.fleet.checksum());
        prop_assert_eq!(restored.encode(), history.fleet.encode());
        prop_assert_eq!(restored.next_due(), history.fleet.next_due());
    }

    /// The wall clocks jump by years, in any direction and at any time. Only how long used proofs are remembered depends
    /// on wall time.
    #[test]
    fn no_wall_time_decides_anything(steps in steps(), walls in prop::collection::vec(any::<u64>(), 1..20)) {
        let mut history = History::new();
        let by_proof = |op: &Op| match op {
            Op::Other(Command::Identity(IdentityCommand::Enrol(enrol))) => enrol.single_use.is_some(),
            _ => false,
        };
        for (passing, op) in steps.iter().filter(|(_, op)| !by_proof(op)) {
            history.step(*passing, op);
        }
        let mut jumping = history.log.clone();
        for ((now, _), wall) in jumping.iter_mut().zip(walls.iter().cycle()) {
            now.wall = *wall;
        }
        let (mut steady, mut shaken) = (Fleet::new(FleetConfig::default()), Fleet::new(FleetConfig::default()));
        let (decided, under_jumps) = (replay(&mut steady, &history.log), replay(&mut shaken, &jumping));
        prop_assert_eq!(without_walls(decided), without_walls(under_jumps));
        shaken.audit().expect("the invariants hold");
        prop_assert_eq!(shaken.next_due(), steady.next_due());
        prop_assert_eq!(shaken.revision(), steady.revision());
        prop_assert_eq!(shaken.now().fleet, steady.now().fleet);
        let restored = Fleet::decode(&shaken.encode()).expect("a fleet's own snapshot");
        prop_assert_eq!(restored.encode(), shaken.encode());
    }

    /// Those who wait no longer do, no task runs, and all leases have expired.
    #[test]
    fn all_is_free_once_all_holders_are_gone(steps in steps()) {
        let mut history = History::new();
        for (passing, op) in &steps {
            history.step(*passing, op);
        }
        let (mut fleet, mut now) = (history.fleet.clone(), history.fleet.now());
        for task in history.fleet.changed_tasks_since(0) {
            let cancel = TaskCommand::Cancel { task: task.id, reason: "the end".to_owned() };
            fleet.apply(now, Command::Task(cancel), &mut Vec::new());
        }
        // What waited may be granted by the first tick.
        for _ in 0..2 {
            now.fleet += 120_000;
            fleet.apply(now, Command::Control(ControlCommand::Tick), &mut Vec::new());
        }
        let sums = fleet.pool_sums();
        prop_assert_eq!((sums.used, sums.granted, sums.waiting), (Amounts::NONE, 0, 0));
        prop_assert_eq!(fleet.audit(), Ok(()));
    }

    #[test]
    fn no_proof_is_used_twice_whatever_the_wall_clocks_show(
        steps in steps(), walls in prop::collection::vec(0..10_000_000u64, 1..20),
    ) {
        let mut history = History::new();
        for (passing, op) in &steps {
            history.step(*passing, op);
        }
        let mut fleet = Fleet::new(FleetConfig::default());
        let (mut used, mut newest) = (BTreeSet::new(), 0);
        for ((now, command), wall) in history.log.iter().zip(walls.iter().cycle()) {
            let reply = fleet.apply(Stamp { wall: *wall, ..*now }, command.clone(), &mut Vec::new());
            if let (Command::Identity(IdentityCommand::Enrol(enrol)), Reply::Enrolled { epoch }) = (command, reply)
                && epoch > newest
            {
                newest = epoch;
                prop_assert!(enrol.single_use.is_none_or(|proof| used.insert(proof.id)), "{enrol:?}");
            }
        }
    }

    #[test]
    fn a_snapshot_taken_in_parts_between_commands_is_the_state_at_its_beginning(
        steps in steps(), begins in prop::collection::vec(any::<prop::sample::Index>(), 1..3),
        limit in 1..9usize, replaced in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let begins: Vec<usize> = begins.iter().map(|at| at.index(steps.len())).collect();
        let replaced = replaced.map(|at| at.index(steps.len()));
        let mut history = History::new();
        let mut taking = Vec::new();
        for (n, (passing, op)) in steps.iter().enumerate() {
            for _ in begins.iter().filter(|at| **at == n) {
                taking.push((history.fleet.encode(), history.fleet.begin_snapshot()));
            }
            if replaced == Some(n) {
                // As when a snapshot from the leader is installed; here it is the same state.
                let copy = Fleet::decode(&history.fleet.encode()).expect("a fleet's own snapshot");
                history.fleet.replace(copy);
            }
            history.step(*passing, op);
            for (_, snapshot) in &mut taking {
                if let Some(part) = snapshot.take(&history.fleet, limit) {
                    snapshot.encode(&part);
                }
            }
        }
        for (expected, mut snapshot) in taking {
            while let Some(part) = snapshot.take(&history.fleet, limit) {
                snapshot.encode(&part);
            }
            prop_assert_eq!(snapshot.finish().expect("all is taken"), expected);
        }
    }

    #[test]
    fn a_command_in_steps_does_what_it_does_in_one_go(steps in steps(), budget in 1..4usize) {
        let mut history = History::new();
        for (passing, op) in &steps {
            history.step(*passing, op);
        }
        let (mut whole, mut cut) = (Fleet::new(FleetConfig::default()), Fleet::new(FleetConfig::default()));
        for (now, command) in &history.log {
            let (mut expected, mut effects) = (Vec::new(), Vec::new());
            let reply = whole.apply(*now, command.clone(), &mut expected);
            let mut progress = cut.begin(*now, command.clone(), budget, &mut effects);
            let replied = loop {
                match progress {
                    Progress::Done(reply) => break reply,
                    Progress::Halfway(rest) => progress = cut.advance(rest, budget, &mut effects),
                }
            };
            prop_assert_eq!(replied, reply);
            prop_assert_eq!(effects, expected);
        }
        prop_assert_eq!(cut.encode(), whole.encode());
        prop_assert_eq!(cut.audit(), Ok(()));
    }
}
