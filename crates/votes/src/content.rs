//! What a ballot is about.

use bilrost::Message;
use robeing_identity::digest;

use crate::dsse;

/// The type of a ballot's content, of which its digest is.
pub const CONTENT_TYPE: &str = "application/vnd.robeing.ballot.v1+bilrost";

/// What a ballot is about, who votes, and what decides it. Nothing of it changes after the ballot was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BallotContent<'a> {
    /// The fleet: how the SPIFFE ids of its members begin, as a [`Realm`](robeing_identity::Realm) is shown.
    pub fleet: &'a str,
    /// The ballot's id.
    pub id: u128,
    /// The question.
    pub question: &'a str,
    /// The options; none: the question is to be approved or rejected.
    pub options: &'a [String],
    /// The members who vote, by name, and their weights.
    pub electorate: Vec<(&'a str, u32)>,
    /// The numerator and the denominator of the threshold, as a fraction of the weight of the whole electorate.
    pub threshold: (u32, u32),
    /// How long the ballot is open, ms.
    pub ttl: u64,
}

/// The encoding of a ballot's content.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
struct Encoded {
    #[bilrost(1)]
    fleet: String,
    #[bilrost(tag(2), encoding(plainbytes))]
    id: [u8; 16],
    #[bilrost(3)]
    question: String,
    #[bilrost(4)]
    options: Vec<String>,
    #[bilrost(5)]
    electorate: Vec<EncodedElector>,
    #[bilrost(6)]
    numerator: u32,
    #[bilrost(7)]
    denominator: u32,
    #[bilrost(8)]
    ttl: u64,
}

/// A member of the electorate in the encoding.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
struct EncodedElector {
    #[bilrost(1)]
    name: String,
    #[bilrost(2)]
    weight: u32,
}

impl BallotContent<'_> {
    /// Returns the SHA-256 digest of the content, which every vote names. The order of the options and of the
    /// electorate matters.
    pub fn digest(&self) -> [u8; 32] {
        let elector = |(name, weight): &(&str, u32)| EncodedElector { name: (*name).to_owned(), weight: *weight };
        let encoded = Encoded {
            fleet: self.fleet.to_owned(),
            id: self.id.to_be_bytes(),
            question: self.question.to_owned(),
            options: self.options.to_vec(),
            electorate: self.electorate.iter().map(elector).collect(),
            numerator: self.threshold.0,
            denominator: self.threshold.1,
            ttl: self.ttl,
        };
        digest(&dsse::encoding(CONTENT_TYPE, &encoded.encode_to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_part_of_the_content_changes_the_digest() {
        let (none, some, joined) = (Vec::new(), ["a", "b"].map(String::from), ["ab"].map(String::from));
        let one = BallotContent {
            fleet: "spiffe://a/ns/b/cluster/c",
            id: 1,
            question: "Deploy?",
            options: &none,
            electorate: vec![("ann", 1), ("bob", 2)],
            threshold: (2, 3),
            ttl: 30_000,
        };
        let of = |electorate: &[(&'static str, u32)]| BallotContent { electorate: electorate.to_vec(), ..one.clone() };
        let all = [
            one.clone(),
            BallotContent { fleet: "spiffe://a/ns/b/cluster/d", ..one.clone() },
            BallotContent { id: 2, ..one.clone() },
            BallotContent { question: "Deploy", ..one.clone() },
            BallotContent { options: &some, ..one.clone() },
            BallotContent { options: &joined, ..one.clone() },
            of(&[("ann", 1)]),
            of(&[("ann", 1), ("bob", 3)]),
            of(&[("bob", 2), ("ann", 1)]),
            of(&[("annbob", 1)]),
            BallotContent { threshold: (3, 4), ..one.clone() },
            BallotContent { threshold: (4, 6), ..one.clone() },
            BallotContent { ttl: 30_001, ..one.clone() },
        ];
        let digests: BTreeSet<[u8; 32]> = all.iter().map(BallotContent::digest).collect();
        assert_eq!(digests.len(), all.len());
        assert_eq!(one.digest(), one.clone().digest());
    }
}
