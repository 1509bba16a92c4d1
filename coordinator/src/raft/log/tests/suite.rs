//! The consensus library's own storage tests, run against this log and the state machine.

use std::{path::Path, sync::Arc};

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use robeing_fleet::{Fleet, FleetConfig};
use robeing_platform::Platform;

use super::{Rig, new_disk};
use crate::{
    clock::FleetClock,
    raft::{Observer, SharedFleet, StateMachine, Told, TypeConfig, log::Log},
};

struct Nobody;

impl Observer for Nobody {
    fn applied(&self, _: u64, _: u64, _: Vec<Told>) {}
    fn installed(&self, _: u64, _: u64) {}
    fn progressed(&self, _: u64) {}
}

struct Builder;

impl StoreBuilder<TypeConfig, Log, StateMachine> for Builder {
    async fn build(&self) -> Result<((), Log, StateMachine), StorageError<TypeConfig>> {
        let rig = Rig::open(&new_disk().await, 16 * 1024).await;
        let disk = Arc::new(rig.disk.clone());
        let fleet = SharedFleet::new(Fleet::new(FleetConfig::default()));
        let clock = FleetClock::new(1, Platform::real().clock);
        let state_machine =
            StateMachine::open(disk, Path::new("/data"), fleet, Arc::new(Nobody), &rig.log, clock).await.unwrap();
        Ok(((), rig.log, state_machine))
    }
}

#[tokio::test]
async fn the_librarys_own_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}
