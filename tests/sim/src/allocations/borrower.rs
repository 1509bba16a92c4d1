//! The borrower: a client that asks for resources at any coordinator, some of them from a queue with a quota, renews
//! some leases, and releases what it has, or forgets it. In the end all has to be free.

use std::time::Duration;

use futures::future::join_all;
use robeing_net::limited;
use robeing_proto::v1::{
    self, AllocationState, GetAllocationRequest, ListAllocationsRequest, ListResourcesRequest, ListResourcesResponse,
    ReleaseResourcesRequest, RenewLeaseRequest, resources_client::ResourcesClient,
};
use tonic::{Code, Status};

use super::{
    draft::{Draft, LIMITED},
    ledger::{Since, overused, unfreed},
};
use crate::{
    calls::{Calls, PAUSE, is_refusal},
    checks::Check,
    tasks::{self, millis},
};

/// The number of requests.
const REQUESTS: usize = 6;
/// How often a request may be refused for want of resources before it is given up. The first one is not.
const MOST_REFUSED: u32 = 12;
/// The longest time for which a call waits for an allocation to be granted, in milliseconds.
const WAIT: u64 = 2_000;
/// How long an allocation is held at most, in milliseconds.
const HOLDS: u64 = 7_000;
/// One of this many allocations is not renewed, and one of as many is forgotten instead of released.
const CARELESS_ONE_OF: u64 = 3;
/// One of this many renewals is preceded by one with another token, and one of as many by a listing.
const EXTRA_ONE_OF: u64 = 4;
/// The longest pause before an allocation is read again, in milliseconds.
const READ_AGAIN: u64 = 1_000;
/// How often something that must be refused is tried, until there is a response.
const MOST_TRIES: u32 = 5;
/// The page size of listings.
const PAGE: u32 = 100;
/// How long after the fleet is calm, and all tasks that need resources have ended, everything must be free: the longest
/// wait and the longest lease, and some more.
const FREED_WITHIN: Duration = Duration::from_secs(20);

/// The borrower.
pub struct Borrower {
    /// Makes its calls.
    pub calls: Calls,
}

impl Borrower {
    /// Runs the borrower; returns when every allocation has ended, and everything is free.
    pub async fn run(self) {
        join_all((0..REQUESTS).map(|number| self.activity(number))).await;
        self.calls.calm().await;
        for coordinator in 0..self.calls.coordinators.len() {
            while !self.list(coordinator, false).await {
                self.calls.pause(PAUSE).await;
            }
        }
        self.wait_until_free().await;
    }

    fn since(&self, id: &str) -> Since {
        self.calls.record.notes().allocations.since(id)
    }

    fn told(&self, since: Since, allocation: &v1::Allocation) {
        self.calls.record.allocation(|ledger, now| ledger.told(now, since, allocation));
    }

    /// Records a refusal for which there is no reason.
    fn refused(&self, id: &str, status: &Status) {
        if is_refusal(status.code()) {
            self.calls.record.violation(Check::Granted, format!("allocation {id}: a call was refused: {status}"));
        }
    }

    /// Runs through the life of one request.
    async fn activity(&self, number: usize) {
        self.calls.pause_to_begin().await;
        let Some(id) = self.request(number).await else { return };
        let allocation = loop {
            match self.look(&id, WAIT).await {
                Some(allocation) if allocation.state() != AllocationState::Waiting => break allocation,
                _ => self.calls.pause(PAUSE).await,
            }
        };
        if allocation.state() != AllocationState::Granted {
            return;
        }
        self.hold(&allocation).await;
        if self.calls.below(CARELESS_ONE_OF) != 0 {
            while !self.release(&allocation).await {
                self.calls.pause(PAUSE).await;
            }
        }
        while self.look(&id, 0).await.is_none_or(|allocation| allocation.state() == AllocationState::Granted) {
            self.calls.pause(READ_AGAIN).await;
        }
        self.renew_in_vain(&id, allocation.token).await;
    }

    /// Asks for resources; returns the id of the request once it is granted or waits. `None`: there are too few.
    async fn request(&self, number: usize) -> Option<String> {
        let id = tasks::new_id(&self.calls.platform);
        let draft = Draft::draw(&*self.calls.platform.random, &self.calls.name, number);
        let request = draft.request(&id);
        // Before, the queue is refused.
        while draft.queue == LIMITED && !self.calls.record.notes().allocations.has_quota() {
            self.calls.pause(PAUSE).await;
        }
        self.calls.record.allocation(|ledger, now| {
            ledger.asks(now, &id, draft);
            Ok(())
        });
        let mut refused = 0;
        while number == 0 || refused < MOST_REFUSED {
            let (since, request) = (self.since(&id), request.clone());
            let asking = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(ResourcesClient::new(channel)).request_resources(request).await
            });
            match asking.await {
                Ok(response) => {
                    self.told(since, &response.allocation.unwrap_or_default());
                    self.calls.record.notes().allocations.acknowledges(&id);
                    return Some(id);
                }
                // There is too little, or the agent that is to be the holder has no session, or the coordinators have
                // not agreed on the version that has resources yet.
                Err(status) if matches!(status.code(), Code::ResourceExhausted | Code::FailedPrecondition) => {
                    refused += 1;
                }
                Err(status) => self.refused(&id, &status),
            }
            self.calls.pause(PAUSE).await;
        }
        None
    }

    /// Reads an allocation that was acknowledged, and may wait for its grant for at most `wait` ms.
    async fn look(&self, id: &str, wait: u64) -> Option<v1::Allocation> {
        let (since, wait) = (self.since(id), if wait == 0 { 0 } else { self.calls.below(wait) });
        let request = GetAllocationRequest { id: id.to_owned(), wait: Some(millis(wait)) };
        let reading = self.calls.call(self.calls.any(), Duration::from_millis(wait), async |channel| {
            limited!(ResourcesClient::new(channel)).get_allocation(request).await
        });
        match reading.await {
            Ok(allocation) => {
                self.told(since, &allocation);
                Some(allocation)
            }
            Err(status) => {
                self.refused(id, &status);
                None
            }
        }
    }

    /// Holds an allocation for a while. Mostly renews its lease until then.
    async fn hold(&self, allocation: &v1::Allocation) {
        let (id, token) = (&allocation.id, allocation.token);
        let until = self.calls.now() + Duration::from_millis(self.calls.below(HOLDS));
        let renews = self.calls.below(CARELESS_ONE_OF) != 0;
        while self.calls.now() < until {
            self.calls.pause(allocation.lease_ms / 2).await;
            match self.calls.below(EXTRA_ONE_OF) {
                0 => self.renew_in_vain(id, token + 1).await,
                1 => drop(self.list(self.calls.any(), true).await),
                _ => {}
            }
            if renews && !self.renew(id, token).await {
                return;
            }
        }
    }

    async fn try_to_renew(&self, id: &str, token: u64) -> Result<(), Status> {
        let request = RenewLeaseRequest { id: id.to_owned(), token };
        let renewing = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
            limited!(ResourcesClient::new(channel)).renew_lease(request).await
        });
        renewing.await.map(drop)
    }

    /// Renews a lease; returns whether it may last.
    async fn renew(&self, id: &str, token: u64) -> bool {
        let sent = self.calls.now();
        match self.try_to_renew(id, token).await {
            Ok(()) => self.calls.record.notes().allocations.renews(id, sent),
            Err(status) if status.code() == Code::FailedPrecondition => {
                self.calls.record.allocation(|ledger, now| ledger.is_over(now, id));
                return false;
            }
            Err(status) => self.refused(id, &status),
        }
        true
    }

    /// Renews a lease that is over, or with a token that it does not have, which must be refused.
    async fn renew_in_vain(&self, id: &str, token: u64) {
        for _ in 0..MOST_TRIES {
            let what = match self.try_to_renew(id, token).await {
                Ok(()) => "was renewed".to_owned(),
                Err(status) if status.code() == Code::FailedPrecondition => return,
                Err(status) if is_refusal(status.code()) => format!("was refused otherwise: {status}"),
                Err(_) => {
                    self.calls.pause(PAUSE).await;
                    continue;
                }
            };
            let what = format!("allocation {id}: with token {token}, which it does not have now, it {what}");
            return self.calls.record.violation(Check::Fenced, what);
        }
    }

    /// Releases an allocation; returns whether there was a response.
    async fn release(&self, allocation: &v1::Allocation) -> bool {
        let (id, any) = (&allocation.id, self.calls.below(2) == 0);
        self.calls.record.notes().allocations.releases(id);
        let request = ReleaseResourcesRequest { id: id.clone(), token: if any { 0 } else { allocation.token } };
        let releasing = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
            limited!(ResourcesClient::new(channel)).release_resources(request).await
        });
        match releasing.await {
            Ok(_) => true,
            Err(status) => {
                self.refused(id, &status);
                false
            }
        }
    }

    /// Lists the allocations at a coordinator, of which none may be missing unless only those are listed that have not
    /// ended. Returns whether there was a response.
    async fn list(&self, coordinator: usize, live: bool) -> bool {
        let (known, ended) = {
            let notes = self.calls.record.notes();
            (notes.allocations.acknowledged(), notes.needs.ended())
        };
        let request = ListAllocationsRequest { live, limit: PAGE, ..ListAllocationsRequest::default() };
        let listing = self.calls.call(coordinator, Duration::ZERO, async |channel| {
            limited!(ResourcesClient::new(channel)).list_allocations(request).await
        });
        match listing.await {
            Ok(page) => {
                self.calls.record.allocation(|ledger, now| ledger.listed(now, &known, !live, &page.allocations));
                self.calls.record.check(|notes| notes.needs.listed(&ended, &page.allocations));
                true
            }
            Err(status) => {
                self.refused("of a listing", &status);
                false
            }
        }
    }

    /// Reads what agents contribute, and what of it is used.
    async fn pool(&self) -> Option<ListResourcesResponse> {
        let was_set = self.calls.record.notes().allocations.has_quota();
        let reading = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
            limited!(ResourcesClient::new(channel)).list_resources(ListResourcesRequest::default()).await
        });
        let pool = reading.await.ok()?;
        self.calls.record.allocation(|ledger, _| {
            overused(&pool).map_or(Ok(()), Err)?;
            ledger.check_queues(was_set, &pool.queues)
        });
        Some(pool)
    }

    /// Waits until nothing is granted or waited for, and everything is free.
    async fn wait_until_free(&self) {
        while !self.calls.record.notes().needs.is_over() {
            self.calls.pause(PAUSE).await;
        }
        let until = self.calls.now() + FREED_WITHIN;
        loop {
            let taken = match self.pool().await {
                Some(pool) => unfreed(&pool),
                None => Some("nobody tells".to_owned()),
            };
            let Some(taken) = taken else { return };
            if self.calls.now() > until {
                let what = format!("{FREED_WITHIN:?} after all tasks have ended, not everything is free: {taken}");
                return self.calls.record.violation(Check::Freed, what);
            }
            self.calls.pause(PAUSE).await;
        }
    }
}
