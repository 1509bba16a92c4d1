//! What a new view has to propose (1999, section 4.4). The new primary computes it from V, and every backup computes
//! it again to check the primary.

use std::collections::BTreeMap;

use crate::{
    certificate::{Kind, Proposal, Seq, Stable, View},
    epoch::Epoch,
    message::{Batch, ViewChange},
};

/// What follows from the view changes of a quorum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    /// The sequence number of the latest stable checkpoint in V: min-s.
    pub low: Seq,
    /// Its proof; nothing for the epoch's start.
    pub stable: Option<Stable>,
    /// The proposals for all sequence numbers from min-s to max-s, but none after the end of the epoch.
    pub proposals: Vec<Proposal>,
}

/// Computes what follows from V: for each sequence number between min-s and max-s, the batch with a prepared
/// certificate in the highest view, or the null request if there is none.
///
/// If this is the decision for the next epoch, nothing is proposed after it. That loses nothing: replicas prepare and
/// commit in order, so that a later sequence number can only be decided if this one has another batch.
pub fn select<'a>(epoch: &Epoch, view: View, view_changes: impl IntoIterator<Item = &'a ViewChange>) -> Selection {
    let (mut low, mut stable) = (epoch.start().seq, None);
    let mut best: BTreeMap<Seq, Proposal> = BTreeMap::new();
    for message in view_changes {
        if let Some(certificate) = &message.stable
            && certificate.checkpoint.seq > low
        {
            low = certificate.checkpoint.seq;
            stable = Some(certificate.clone());
        }
        for prepared in &message.prepared {
            let proposal = prepared.proposal;
            let known = best.entry(proposal.seq).or_insert(proposal);
            if proposal.view > known.view {
                *known = proposal;
            }
        }
    }
    let best = best.split_off(&low.next());
    let last = best.last_key_value().map_or(low, |(seq, _)| *seq);
    let null = Batch::null().digest();
    let mut proposals = Vec::new();
    let mut seq = low.next();
    while seq <= last {
        let (kind, digest) = best.get(&seq).map_or((Kind::Null, null), |known| (known.kind, known.digest));
        proposals.push(Proposal { view, seq, kind, digest });
        if kind == Kind::Epoch {
            break;
        }
        seq = seq.next();
    }
    Selection { low, stable, proposals }
}
