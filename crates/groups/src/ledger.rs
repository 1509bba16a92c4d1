//! What a group's decisions do: the same proposal is decided once.
//!
//! A proposal is recognized by the digest of all of it, with its signature, and not by its id: the state does not know
//! who may sign, so whoever lies could use the id of another's proposal, and that would then count as decided.

use std::collections::VecDeque;

use bytes::Bytes;
use robeing_bft::{
    application::Application,
    certificate::Seq,
    crypto::{Digest, PublicKey},
    error::DecodeError,
    wire::Wire,
};

use crate::{Proposal, Signed};

/// Number of latest proposals that are remembered, to recognize one that is proposed again. Honest members propose none
/// that is older than [`MAX_AGE_MS`](crate::MAX_AGE_MS). One that lies can have so many others decided that an old one is
/// forgotten, and then have that decided again.
pub const REMEMBERED: usize = 4_096;
/// Size of a remembered proposal in a snapshot, bytes.
pub(crate) const ENTRY: usize = 40;

/// The replicated state of a group: which proposals were decided last, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    latest: VecDeque<(Digest, Seq)>,
}

impl Ledger {
    fn place_of(&self, digest: &Digest) -> Option<Seq> {
        self.latest.iter().find(|(known, _)| known == digest).map(|(_, seq)| *seq)
    }

    /// Reads the result of a proposal: the number of the decision. `None` if what was proposed was none.
    pub fn result(bytes: &[u8]) -> Option<Seq> {
        Seq::decoded(bytes).ok()
    }
}

/// Reads a call of the ledger.
pub(crate) fn proposal_of(call: &[u8]) -> Option<(Signed, Proposal)> {
    let signed = Signed::decoded(call).ok()?;
    let proposal = Proposal::read(&signed).ok()?;
    Some((signed, proposal))
}

impl Application for Ledger {
    fn execute(&mut self, seq: Seq, _: &PublicKey, call: &Bytes) -> Bytes {
        // A member that lies proposes anything. All honest members ignore it alike.
        if proposal_of(call).is_none() {
            return Bytes::new();
        }
        let digest = Digest::of_bytes(call);
        if let Some(earlier) = self.place_of(&digest) {
            return earlier.encoded().into();
        }
        self.latest.push_back((digest, seq));
        if self.latest.len() > REMEMBERED {
            self.latest.pop_front();
        }
        seq.encoded().into()
    }

    fn snapshot(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.latest.len() * ENTRY);
        for (digest, seq) in &self.latest {
            digest.put(&mut out);
            seq.put(&mut out);
        }
        out.into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let (entries, rest) = snapshot.as_chunks::<ENTRY>();
        if !rest.is_empty() || entries.len() > REMEMBERED {
            return Err("the state of the group has another form; run the version that made it".into());
        }
        let read = |entry: &[u8; ENTRY]| -> Result<(Digest, Seq), DecodeError> {
            let (digest, seq) = entry.split_at(32);
            Ok((Wire::decoded(digest)?, Wire::decoded(seq)?))
        };
        let latest: Result<VecDeque<_>, DecodeError> = entries.iter().map(read).collect();
        self.latest = latest.map_err(|error| error.to_string())?;
        Ok(())
    }
}
