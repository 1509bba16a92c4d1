//! The administrator of the fleet: changes its coordinators, its leader and the sizes of its pools while faults happen,
//! and finally restores the initial state.

use std::{sync::Arc, time::Duration};

use robeing_net::Transport;
use robeing_platform::Platform;
use robeing_proto::v1::{self, admin_client::AdminClient};
use tonic::{Code, Response, Status, transport::Channel};

use crate::{checks::Check, clients::below, record::Record};

/// The timeout of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(6);
/// The pause before a call is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The changes that are made.
#[derive(Clone, Copy, Debug)]
pub struct Changes {
    /// Coordinators are added and removed.
    pub members: bool,
    /// Leadership is transferred.
    pub leader: bool,
    /// Pools grow and shrink.
    pub pools: bool,
}

/// An administrator of the fleet.
pub struct Operator {
    /// Its platform.
    pub platform: Platform,
    /// The names and addresses of the coordinators with which the fleet starts.
    pub coordinators: Vec<(String, String)>,
    /// The name and address of an additional coordinator.
    pub spare: (String, String),
    /// The name of the pool, and its initial size.
    pub pool: (String, u32),
    /// The changes that are made.
    pub changes: Changes,
    /// The time for which changes are made.
    pub during: Duration,
    /// The record of the run.
    pub record: Record,
}

impl Operator {
    fn below(&self, bound: u64) -> u64 {
        below(&*self.platform.random, bound)
    }

    /// Makes one call to any coordinator; returns whether it succeeded.
    async fn call<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        call: impl FnOnce(AdminClient<Channel>) -> F,
    ) -> bool {
        let transport = Transport::new(Arc::clone(&self.platform.network));
        let (_, address) = &self.coordinators[self.below(self.coordinators.len() as u64) as usize];
        let channel = transport.channel(address).expect("the simulation's addresses are host:port");
        match tokio::time::timeout(CALL_TIMEOUT, call(AdminClient::new(channel))).await {
            Ok(Ok(_)) => true,
            Ok(Err(status)) if matches!(status.code(), Code::Internal | Code::InvalidArgument) => {
                self.record.violation(Check::Admin, format!("a change was refused: {status}"));
                false
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    async fn add(&self, (name, address): (String, String)) -> bool {
        let request = v1::AddCoordinatorRequest { name, address };
        self.call(async |mut admin| admin.add_coordinator(request).await).await
    }

    async fn remove(&self, name: String) -> bool {
        let request = v1::RemoveCoordinatorRequest { name };
        self.call(async |mut admin| admin.remove_coordinator(request).await).await
    }

    async fn transfer(&self) {
        let request = v1::TransferLeadershipRequest { to: String::new() };
        self.call(async |mut admin| admin.transfer_leadership(request).await).await;
    }

    async fn set_pool(&self, replicas: u32, standby: u32) -> bool {
        let pool = v1::PoolSize { name: self.pool.0.clone(), replicas: Some(replicas), standby };
        let request = v1::SetPoolsRequest { pools: vec![pool] };
        self.call(async |mut admin| admin.set_pools(request).await).await
    }

    /// Makes the next step of a change of members; there are always at least three members.
    async fn change_members(&self, step: &mut usize) {
        let gone = &self.coordinators[(*step / 4) % self.coordinators.len()];
        let done = match *step % 4 {
            0 => self.add(self.spare.clone()).await,
            1 => self.remove(gone.0.clone()).await,
            2 => self.add(gone.clone()).await,
            _ => self.remove(self.spare.0.clone()).await,
        };
        if done {
            *step += 1;
        }
    }

    /// Runs the administrator; returns when the fleet is in its initial state again.
    pub async fn run(self) {
        let ends = tokio::time::Instant::now() + self.during;
        let mut step = 0;
        while tokio::time::Instant::now() < ends {
            tokio::time::sleep(Duration::from_millis(200 + self.below(1_500))).await;
            match self.below(3) {
                0 if self.changes.members => self.change_members(&mut step).await,
                1 if self.changes.leader => self.transfer().await,
                2 if self.changes.pools => {
                    self.set_pool(1 + self.below(u64::from(self.pool.1)) as u32, self.below(3) as u32).await;
                }
                _ => {}
            }
        }
        if self.changes.pools {
            while !self.set_pool(self.pool.1, 1).await {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
        if self.changes.members {
            for coordinator in &self.coordinators {
                while !self.add(coordinator.clone()).await {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
            while !self.remove(self.spare.0.clone()).await {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}
