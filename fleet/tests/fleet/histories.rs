//! Properties of every history.

use proptest::prelude::*;
use robeing_fleet::{Command, Effect, Fleet, FleetConfig, Reply, Stamp};

use crate::history::{History, steps};

fn replay(fleet: &mut Fleet, log: &[(Stamp, Command)]) -> (Vec<Reply>, Vec<Effect>) {
    let mut effects = Vec::new();
    let replies = log.iter().map(|(now, command)| fleet.apply(*now, command.clone(), &mut effects)).collect();
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

    /// Wall clocks that jump by years, in any direction, whenever they like.
    #[test]
    fn no_wall_time_decides_anything(steps in steps(), walls in prop::collection::vec(any::<u64>(), 1..20)) {
        let mut history = History::new();
        for (passing, op) in &steps {
            history.step(*passing, op);
        }
        let mut jumping = history.log.clone();
        for ((now, _), wall) in jumping.iter_mut().zip(walls.iter().cycle()) {
            now.wall = *wall;
        }
        let (mut steady, mut shaken) = (Fleet::new(FleetConfig::default()), Fleet::new(FleetConfig::default()));
        prop_assert_eq!(replay(&mut steady, &history.log), replay(&mut shaken, &jumping));
        shaken.audit().expect("the invariants hold");
        prop_assert_eq!(shaken.next_due(), steady.next_due());
        prop_assert_eq!(shaken.revision(), steady.revision());
        prop_assert_eq!(shaken.now().fleet, steady.now().fleet);
        let restored = Fleet::decode(&shaken.encode()).expect("a fleet's own snapshot");
        prop_assert_eq!(restored.encode(), shaken.encode());
    }
}
