//! Requests that wait for their execution at one replica. Bounded for each client and in total.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    clients::{ClientTable, Freshness},
    crypto::PublicKey,
    epoch::Scope,
    limits::{MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, MAX_PENDING_BYTES, MAX_PENDING_PER_CLIENT},
    message::{Batch, Operation, Request},
};

/// A request's client and id.
pub type RequestKey = (PublicKey, u64);

/// What became of a request that was added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// It waits now.
    New,
    /// It waited already.
    Known,
    /// There are too many already.
    Full,
}

#[derive(Clone, Debug)]
struct Entry {
    request: Request,
    order: u64,
}

/// Requests by their order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    requests: BTreeMap<RequestKey, Entry>,
    order: BTreeMap<u64, RequestKey>,
    /// Those that are in no proposal of this view.
    unproposed: BTreeSet<u64>,
    bytes: usize,
    arrived: u64,
}

impl Pending {
    /// Adds a request.
    pub fn add(&mut self, request: Request) -> Added {
        let key = (request.client, request.id);
        if self.requests.contains_key(&key) {
            return Added::Known;
        }
        let size = request.size();
        let of_client = self.requests.range((request.client, 0)..=(request.client, u64::MAX)).count();
        if of_client >= MAX_PENDING_PER_CLIENT || self.bytes.saturating_add(size) > MAX_PENDING_BYTES {
            return Added::Full;
        }
        self.arrived += 1;
        self.bytes += size;
        self.order.insert(self.arrived, key);
        self.unproposed.insert(self.arrived);
        self.requests.insert(key, Entry { request, order: self.arrived });
        Added::New
    }

    fn remove(&mut self, key: &RequestKey) {
        if let Some(entry) = self.requests.remove(key) {
            self.order.remove(&entry.order);
            self.unproposed.remove(&entry.order);
            self.bytes = self.bytes.saturating_sub(entry.request.size());
        }
    }

    /// Removes the requests of a client that will not be executed (again).
    pub fn settle(&mut self, client: &PublicKey, table: &ClientTable) {
        let of_client = self.requests.range((*client, 0)..=(*client, u64::MAX)).map(|(key, _)| *key);
        let is_settled = |key: &RequestKey| table.freshness(&key.0, key.1) != Freshness::Fresh;
        let settled: Vec<RequestKey> = of_client.filter(is_settled).collect();
        settled.iter().for_each(|key| self.remove(key));
    }

    /// Removes the requests of all clients that will not be executed (again).
    pub fn settle_all(&mut self, table: &ClientTable) {
        let clients: BTreeSet<PublicKey> = self.requests.keys().map(|key| key.0).collect();
        clients.iter().for_each(|client| self.settle(client, table));
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        *self = Self { arrived: self.arrived, ..Self::default() };
    }

    /// Returns the request that has waited for longest.
    pub fn oldest(&self) -> Option<RequestKey> {
        self.order.first_key_value().map(|(_, key)| *key)
    }

    /// Returns the first requests, by arrival.
    pub fn first(&self, count: usize) -> impl Iterator<Item = &Request> {
        self.order.values().take(count).filter_map(|key| self.requests.get(key)).map(|entry| &entry.request)
    }

    /// Returns the requests of a client, of which there are at most [`MAX_PENDING_PER_CLIENT`].
    pub fn of(&self, client: &PublicKey) -> impl Iterator<Item = &Request> {
        self.requests.range((*client, 0)..=(*client, u64::MAX)).map(|(_, entry)| &entry.request)
    }

    /// Returns whether this request waits.
    pub fn contains(&self, key: &RequestKey) -> bool {
        self.requests.contains_key(key)
    }

    /// Returns whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Notes that these requests are in a proposal of this view.
    pub fn mark_proposed(&mut self, batch: &Batch) {
        for request in batch.requests() {
            if let Some(entry) = self.requests.get(&(request.client, request.id)) {
                self.unproposed.remove(&entry.order);
            }
        }
    }

    /// Notes that a new view begins, in which nothing is proposed.
    pub fn new_view(&mut self) {
        self.unproposed = self.order.keys().copied().collect();
    }

    /// Returns the next batch: the requests that have waited for longest and are in no proposal of this view, or a
    /// change of members alone. Returns nothing if there are none.
    pub fn next_batch(&self, scope: &Scope) -> Option<Batch> {
        let most = MAX_BATCH_REQUESTS.min(scope.parameters.batch_requests as usize);
        let (mut batch, mut bytes) = (Vec::new(), 0_usize);
        for key in self.unproposed.iter().filter_map(|order| self.order.get(order)) {
            let Some(Entry { request, .. }) = self.requests.get(key) else { continue };
            let is_change = matches!(request.operation, Operation::NewEpoch(_));
            bytes = bytes.saturating_add(request.size());
            if batch.len() == most || bytes > MAX_BATCH_BYTES || is_change && !batch.is_empty() {
                break;
            }
            batch.push(request.clone());
            if is_change {
                break;
            }
        }
        (!batch.is_empty()).then(|| Batch::new(batch))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{crypto::Signature, limits::MAX_REQUEST_BYTES};

    fn request(client: u16, id: u64, size: usize) -> Request {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&client.to_be_bytes());
        let operation = Operation::Call(vec![0; size].into());
        Request { client: PublicKey(key), id, operation, signature: Signature([0; 64]) }
    }

    #[test]
    fn one_client_cannot_fill_it() {
        let mut pending = Pending::default();
        for id in 1..=MAX_PENDING_PER_CLIENT as u64 {
            assert_eq!(pending.add(request(1, id, 10)), Added::New);
        }
        assert_eq!(pending.add(request(1, 1, 10)), Added::Known);
        assert_eq!(pending.add(request(1, 1_000, 10)), Added::Full);
        assert_eq!(pending.add(request(2, 1, 10)), Added::New);
        let mut table = ClientTable::default();
        table.record(request(1, 1, 0).client, 1, Bytes::new());
        pending.settle_all(&table);
        assert_eq!(pending.add(request(1, 1_000, 10)), Added::New);
    }

    #[test]
    fn all_clients_together_cannot_exceed_its_bytes() {
        let mut pending = Pending::default();
        let mut requests = (1..).flat_map(|client| (1..=MAX_PENDING_PER_CLIENT as u64).map(move |id| (client, id)));
        let full = requests.find(|(client, id)| pending.add(request(*client, *id, MAX_REQUEST_BYTES)) == Added::Full);
        let (client, _) = full.unwrap();
        assert!(pending.bytes <= MAX_PENDING_BYTES && pending.bytes + 2 * MAX_REQUEST_BYTES > MAX_PENDING_BYTES);
        assert!(usize::from(client) <= MAX_PENDING_BYTES / MAX_REQUEST_BYTES / MAX_PENDING_PER_CLIENT + 1);
        pending.clear();
        assert_eq!((pending.bytes, pending.oldest()), (0, None));
    }
}
