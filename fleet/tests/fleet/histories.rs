//! Properties of every history.

use proptest::prelude::*;
use robeing_fleet::{Command, Fleet, FleetConfig};

use crate::history::{History, steps};

fn replay(fleet: &mut Fleet, log: &[(u64, Command)]) {
    let mut effects = Vec::new();
    for (now, command) in log {
        fleet.apply(*now, command.clone(), &mut effects);
    }
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
}
