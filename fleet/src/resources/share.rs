//! Shares of the pool, compared exactly: dominant-resource fairness after Ghodsi et al., "Dominant Resource Fairness:
//! Fair Allocation of Multiple Resource Types" (NSDI 2011). The dominant share of a queue is the largest of its shares
//! of the resources; the queue with the smallest dominant share, divided by its weight, is served next.

use std::cmp::Ordering;

use super::amounts::{Amounts, Resource};

/// A fraction. `whole` is not 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    part: u128,
    whole: u128,
}

impl Share {
    fn new(part: u64, whole: u64) -> Share {
        Share { part: u128::from(part), whole: u128::from(whole.max(1)) }
    }

    /// Returns the share divided by a weight, which is not 0.
    pub(crate) fn per_weight(self, weight: u32) -> Share {
        // A whole has at most 64 bits before this, and a weight 32.
        Share { whole: self.whole * u128::from(weight.max(1)), ..self }
    }

    /// Compares two fractions without rounding, by Euclid's algorithm: products of the parts and wholes would not fit
    /// any integer.
    pub(crate) fn compare(self, other: Share) -> Ordering {
        let (mut a, mut b, mut c, mut d) = (self.part, self.whole, other.part, other.whole);
        loop {
            match (a / b).cmp(&(c / d)) {
                Ordering::Equal => {}
                order => return order,
            }
            let (left, right) = (a % b, c % d);
            match (left, right) {
                (0, 0) => return Ordering::Equal,
                (0, _) => return Ordering::Less,
                (_, 0) => return Ordering::Greater,
                // left/b < right/d exactly if d/right < b/left.
                _ => (a, b, c, d) = (d, right, b, left),
            }
        }
    }
}

/// Returns the resource of which `amounts` are the largest share of `total`, with this share. Of equal shares, the
/// first.
pub(crate) fn dominant(amounts: Amounts, total: Amounts) -> (Resource, Share) {
    let of = |resource: Resource| Share::new(amounts.get(resource), total.get(resource));
    let mut largest = (Resource::Cpu, of(Resource::Cpu));
    for resource in [Resource::Memory, Resource::Storage, Resource::Bandwidth] {
        let share = of(resource);
        if share.compare(largest.1) == Ordering::Greater {
            largest = (resource, share);
        }
    }
    largest
}
