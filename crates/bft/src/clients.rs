//! That each request is executed once (1999, section 4.1: "the last reply-timestamp"; here with a window, so that a
//! client may have several requests outstanding). Part of the replicated state.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::{
    crypto::PublicKey,
    epoch::Membership,
    error::DecodeError,
    limits::{CLIENT_WINDOW, MAX_CLIENTS, MAX_MEMBERS, MAX_RESULT_BYTES, RESULTS_PER_CLIENT},
    wire::{Reader, Wire, put_length, wire_struct},
};

/// Whether a request was executed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// It was not.
    Fresh,
    /// It was, with this result, unless it is no longer kept.
    Executed(Option<Bytes>),
    /// It is too far below the client's highest id to know. It is never executed.
    TooOld,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    id: u64,
    result: Bytes,
}

wire_struct!(Entry { id, result });

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Client {
    /// The highest executed id.
    high: u64,
    /// Bit i: whether `high - i` was executed.
    executed: u64,
    /// The latest results, oldest first.
    results: Vec<Entry>,
}

wire_struct!(Client { high, executed, results });

/// What was executed for each client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientTable {
    clients: BTreeMap<PublicKey, Client>,
}

impl Wire for ClientTable {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.clients.len(), out);
        for (key, client) in &self.clients {
            key.put(out);
            client.put(out);
        }
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = input.length(MAX_CLIENTS + MAX_MEMBERS)?;
        let clients = (0..count).map(|_| Ok((Wire::take(input)?, Wire::take(input)?))).collect::<Result<_, _>>()?;
        Ok(Self { clients })
    }
}

impl ClientTable {
    /// Returns whether a client's request was executed.
    pub fn freshness(&self, client: &PublicKey, id: u64) -> Freshness {
        let Some(known) = self.clients.get(client) else { return Freshness::Fresh };
        let Some(below) = known.high.checked_sub(id) else { return Freshness::Fresh };
        if below >= CLIENT_WINDOW {
            return Freshness::TooOld;
        }
        if known.executed >> below & 1 == 0 {
            return Freshness::Fresh;
        }
        let kept = known.results.iter().find(|entry| entry.id == id);
        Freshness::Executed(kept.map(|entry| entry.result.clone()))
    }

    /// Records the execution of a fresh request, and returns the result as it is kept.
    pub(crate) fn record(&mut self, client: PublicKey, id: u64, result: Bytes) -> Bytes {
        let result = result.slice(..result.len().min(MAX_RESULT_BYTES));
        let known = self.clients.entry(client).or_default();
        if id > known.high {
            let shift = u32::try_from(id - known.high).unwrap_or(u32::MAX);
            known.executed = known.executed.checked_shl(shift).unwrap_or(0) | 1;
            known.high = id;
        } else if let Some(bit) = u32::try_from(known.high - id).ok().and_then(|below| 1_u64.checked_shl(below)) {
            known.executed |= bit;
        }
        let mut results = VecDeque::from(std::mem::take(&mut known.results));
        results.push_back(Entry { id, result: result.clone() });
        if results.len() > RESULTS_PER_CLIENT {
            results.pop_front();
        }
        known.results = results.into();
        result
    }

    /// Forgets clients that the next epoch does not have. Their old requests are not signed for it.
    pub(crate) fn retain(&mut self, next: &Membership) {
        self.clients.retain(|key, _| next.is_client(key));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const KEY: PublicKey = PublicKey([1; 32]);

    proptest! {
        #[test]
        fn each_id_is_executed_at_most_once(ids in proptest::collection::vec(1_u64..300, 0..400)) {
            let mut table = ClientTable::default();
            let mut executed = BTreeSet::new();
            for id in ids {
                let high = executed.last().copied().unwrap_or(0);
                match table.freshness(&KEY, id) {
                    Freshness::Fresh => {
                        prop_assert!(executed.insert(id));
                        table.record(KEY, id, Bytes::from(id.to_be_bytes().to_vec()));
                    }
                    Freshness::Executed(result) => {
                        prop_assert!(executed.contains(&id));
                        prop_assert!(result.is_none_or(|result| *result == id.to_be_bytes()));
                    }
                    Freshness::TooOld => prop_assert!(high - id >= CLIENT_WINDOW),
                }
                prop_assert_eq!(&ClientTable::decoded(&table.encoded()).unwrap(), &table);
            }
        }
    }

    #[test]
    fn the_window_ends_where_it_says() {
        let mut table = ClientTable::default();
        table.record(KEY, CLIENT_WINDOW + 1, Bytes::new());
        assert_eq!(table.freshness(&KEY, 1), Freshness::TooOld);
        assert_eq!(table.freshness(&KEY, 2), Freshness::Fresh);
        table.record(KEY, u64::MAX, Bytes::new());
        assert_eq!(table.freshness(&KEY, u64::MAX), Freshness::Executed(Some(Bytes::new())));
        assert_eq!(table.freshness(&KEY, CLIENT_WINDOW + 1), Freshness::TooOld);
    }

    #[test]
    fn results_are_bounded_in_number_and_size() {
        let mut table = ClientTable::default();
        let long = Bytes::from(vec![1; MAX_RESULT_BYTES + 1]);
        for id in 1..=RESULTS_PER_CLIENT as u64 + 1 {
            assert_eq!(table.record(KEY, id, long.clone()).len(), MAX_RESULT_BYTES);
        }
        assert_eq!(table.freshness(&KEY, 1), Freshness::Executed(None));
        assert!(matches!(table.freshness(&KEY, 2), Freshness::Executed(Some(_))));
    }
}
