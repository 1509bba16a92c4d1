//! What a group's decisions do: the same proposal is decided once, and ballots are counted.
//!
//! A proposal is recognized by the digest of all of it, with its signature, and not by its id: the state does not know
//! who may sign, so whoever lies could use the id of another's proposal, and that would then count as decided.

use std::collections::VecDeque;

use bytes::Bytes;
use robeing_bft::{
    application::Application,
    certificate::Seq,
    crypto::{Digest, PublicKey},
    epoch::Scope,
    error::DecodeError,
    wire::{Reader, Wire},
};

use crate::{
    ballot::{Ballots, Electorate, Refusal},
    call::Call,
};

/// Number of latest proposals that are remembered, to recognize one that is proposed again. Honest members propose none
/// that is older than [`MAX_AGE_MS`](crate::MAX_AGE_MS). One that lies can have so many others decided that an old one is
/// forgotten, and then have that decided again.
pub const REMEMBERED: usize = 4_096;
/// Size of a remembered proposal in a snapshot, bytes.
pub(crate) const ENTRY: usize = 40;

/// Begins a snapshot with ballots. One without them has nothing before its entries, which begin with a digest: nobody
/// finds a proposal whose digest begins like that.
const WITH_BALLOTS: &[u8; 16] = b"robeing.ledger.2";

/// The replicated state of a group: which proposals were decided last, and where; and the latest ballots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// It is known from the epoch, and is in no snapshot.
    electorate: Electorate,
    latest: VecDeque<(Digest, Seq)>,
    ballots: Ballots,
}

impl Ledger {
    /// Creates the ledger of an epoch, whose members vote in its ballots.
    pub fn of(scope: &Scope) -> Self {
        Self { electorate: Electorate::of(scope), ..Self::default() }
    }

    /// Returns the ballots.
    pub fn ballots(&self) -> &Ballots {
        &self.ballots
    }

    fn place_of(&self, digest: &Digest) -> Option<Seq> {
        self.latest.iter().find(|(known, _)| known == digest).map(|(_, seq)| *seq)
    }

    /// Reads the result of a call: the number of the decision. `None` if what was proposed was none, or was refused.
    pub fn result(bytes: &[u8]) -> Option<Seq> {
        Seq::decoded(bytes).ok()
    }

    /// Reads why a ballot was not opened, or a vote not counted, in the result of a call.
    pub fn refusal(bytes: &[u8]) -> Option<Refusal> {
        Refusal::from_bytes(bytes)
    }

    /// Decides a proposal, once.
    fn decide(&mut self, seq: Seq, call: &[u8]) -> Seq {
        let digest = Digest::of_bytes(call);
        if let Some(earlier) = self.place_of(&digest) {
            return earlier;
        }
        self.latest.push_back((digest, seq));
        if self.latest.len() > REMEMBERED {
            self.latest.pop_front();
        }
        seq
    }

    fn read(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let other = || "the state of the group has another form; run the version that made it".to_owned();
        let undecodable = |_: DecodeError| other();
        let (entries, ballots) = match snapshot.strip_prefix(WITH_BALLOTS) {
            Some(rest) => {
                let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(other)?;
                let length = (u32::from_be_bytes(*count) as usize).checked_mul(ENTRY).ok_or_else(other)?;
                rest.split_at_checked(length).ok_or_else(other)?
            }
            None => (snapshot, &[][..]),
        };
        let (entries, rest) = entries.as_chunks::<ENTRY>();
        if !rest.is_empty() || entries.len() > REMEMBERED {
            return Err(other());
        }
        let entry = |entry: &[u8; ENTRY]| -> Result<(Digest, Seq), DecodeError> {
            let (digest, seq) = entry.split_at(32);
            Ok((Wire::decoded(digest)?, Wire::decoded(seq)?))
        };
        let latest = entries.iter().map(entry).collect::<Result<VecDeque<_>, _>>().map_err(undecodable)?;
        let mut input = Reader::new(ballots);
        let ballots = match ballots {
            [] => Ballots::default(),
            _ => Ballots::take(&mut input, &self.electorate).map_err(undecodable)?,
        };
        input.finish().map_err(undecodable)?;
        (self.latest, self.ballots) = (latest, ballots);
        Ok(())
    }
}

impl Application for Ledger {
    fn execute(&mut self, seq: Seq, client: &PublicKey, call: &Bytes) -> Bytes {
        // A member that lies calls anything. All honest members ignore it alike.
        let Some(read) = Call::read(call) else { return Bytes::new() };
        let by = (seq, client);
        let decided = match read {
            Call::Propose(..) => Ok(self.decide(seq, call)),
            Call::Open(signed, opening) => self.ballots.open(by, &self.electorate, signed.encoded().into(), opening),
            Call::Vote(vote) => self.ballots.vote(by, &self.electorate, vote),
            Call::Expire(ballot) => self.ballots.expire(by, &self.electorate, &ballot),
        };
        match decided {
            Ok(seq) => seq.encoded().into(),
            Err(refusal) => refusal.to_bytes(),
        }
    }

    fn snapshot(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.latest.len() * ENTRY);
        // A group without ballots has the same state as before there were any.
        if !self.ballots.is_empty() {
            out.extend_from_slice(WITH_BALLOTS);
            u32::try_from(self.latest.len()).unwrap_or(u32::MAX).put(&mut out);
        }
        for (digest, seq) in &self.latest {
            digest.put(&mut out);
            seq.put(&mut out);
        }
        if !self.ballots.is_empty() {
            self.ballots.put(&self.electorate, &mut out);
        }
        out.into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.read(snapshot)
    }
}
