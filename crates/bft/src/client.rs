//! The client's side (1999, section 4.1): it numbers its requests, sends them to the primary or to all replicas, and
//! believes a result that f + 1 replicas report.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    crypto::{Context, Signer, Verifier},
    epoch::{EpochChange, ReplicaId, Scope},
    limits::MAX_PENDING_PER_CLIENT,
    message::{Operation, Reply, Request, Signed},
};

/// A client of a group. Not for several processes at once: they would use the same ids.
#[derive(Debug)]
pub struct Client {
    scope: Scope,
    last: u64,
    waiting: BTreeMap<u64, BTreeMap<ReplicaId, Bytes>>,
}

impl Client {
    /// Makes a client whose last used id is known; 0 if it never made a request.
    pub fn new(scope: Scope, last: u64) -> Self {
        Self { scope, last, waiting: BTreeMap::new() }
    }

    /// The last used id, to be kept for a restart before the request is sent.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Makes the next request, or nothing if [`MAX_PENDING_PER_CLIENT`] wait for their results.
    pub fn call(&mut self, call: Bytes, signer: &dyn Signer) -> Option<Request> {
        self.request(Operation::Call(call), signer)
    }

    /// Makes a request for the next epoch, or nothing if [`MAX_PENDING_PER_CLIENT`] requests wait for their results.
    pub fn change(&mut self, change: EpochChange, signer: &dyn Signer) -> Option<Request> {
        self.request(Operation::NewEpoch(Box::new(change)), signer)
    }

    fn request(&mut self, operation: Operation, signer: &dyn Signer) -> Option<Request> {
        if self.waiting.len() >= MAX_PENDING_PER_CLIENT {
            return None;
        }
        self.last = self.last.checked_add(1)?;
        self.waiting.insert(self.last, BTreeMap::new());
        Some(Request::sign(&self.scope, self.last, operation, signer))
    }

    /// Takes a replica's reply. Returns the id and the result when f + 1 replicas have reported the same.
    pub fn reply(
        &mut self,
        reply: &Signed<Reply>,
        signer: &dyn Signer,
        verifier: &dyn Verifier,
    ) -> Option<(u64, Bytes)> {
        let Reply { client, id, result } = &reply.body;
        let known = self.waiting.get_mut(id)?;
        let scope = &self.scope;
        let good = scope.check_signature(Context::Reply, reply.replica, &reply.body, &reply.signature, verifier);
        if *client != signer.public_key() || good.is_err() {
            return None;
        }
        // One result is kept for each replica.
        known.entry(reply.replica).or_insert_with(|| result.clone());
        if known.values().filter(|one| *one == result).count() < self.scope.quorums().weak() {
            return None;
        }
        self.waiting.remove(id);
        Some((*id, result.clone()))
    }
}
