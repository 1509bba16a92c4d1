//! Verifies that a vote is its member's, before it is proposed.

use std::sync::Arc;

use bytes::Bytes;
use robeing_fleet::{Ballot, VoteEvidence, limits};
use robeing_identity::Certificate;
use robeing_net::{
    gate::Caller,
    security::{PeerIdentity, TrustClock},
};
use robeing_votes::{
    BallotContent, Evidence, Expect, MAX_AUTHORITY_BYTES, MAX_BINDING_BYTES, MAX_CERTIFICATE_BYTES, MAX_ENVELOPE_BYTES,
    ProvenKey, Signatures, issuer_in,
};
use tonic::{Code, Status};

use super::{
    BallotError, Ballots,
    keys::{KeyId, KnownKeys},
};
use crate::{
    api::convert::{self, BadField},
    identity::{enrolled, trust::FleetTrust},
};

// What is verified can be kept.
const _: () = assert!(MAX_ENVELOPE_BYTES <= limits::MAX_ENVELOPE_BYTES);
const _: () = assert!(MAX_BINDING_BYTES <= limits::MAX_BINDING_BYTES);
const _: () = assert!(MAX_CERTIFICATE_BYTES <= limits::MAX_VOTE_CERTIFICATE_BYTES);
const _: () = assert!(MAX_AUTHORITY_BYTES <= limits::MAX_VOTE_AUTHORITY_BYTES);

/// How long after a vote was verified it is counted at most, ms, with the difference of the coordinators' clocks. The
/// certificates have to be valid for so long.
const COUNTED_WITHIN_MS: u64 = 60_000;

/// What votes are verified with.
#[derive(Clone)]
pub struct Verifying {
    /// The authorities that have issued the members' certificates.
    pub trust: FleetTrust,
    /// The time by which certificates are judged.
    pub clock: Arc<TrustClock>,
    /// Whether all members have certificates: nobody gets in without TLS.
    pub is_strict: bool,
    /// The keys that earlier votes have proven to be their members'.
    pub keys: Arc<KnownKeys>,
}

/// A vote as it was cast: what its signature has to confirm, and the evidence, whose authority is not known yet.
pub struct Claim<'a> {
    pub member: &'a str,
    pub choice: robeing_fleet::Choice,
    pub option: u32,
    pub reason: &'a str,
    pub evidence: VoteEvidence,
}

/// Checks that a caller sends evidence if it has a certificate, and none otherwise. Returns whether it does.
///
/// # Errors
/// If it does not, or something is too large.
pub fn check_signed(caller: &Caller, evidence: &VoteEvidence) -> Result<bool, BadField> {
    let VoteEvidence { envelope, binding, certificate, .. } = evidence;
    let has_certificate = caller.member().is_some();
    let parts = [
        ("envelope", envelope, MAX_ENVELOPE_BYTES),
        ("binding", binding, MAX_BINDING_BYTES),
        ("certificate", certificate, MAX_CERTIFICATE_BYTES),
    ];
    for (field, part, most) in parts {
        let problem = match (has_certificate, part.len()) {
            (true, 0) => "it is empty; callers with a certificate sign their votes".to_owned(),
            (false, 1..) => "it is set; callers without a certificate can't sign, so leave it empty".to_owned(),
            (_, bytes) if bytes > most => format!("it has {bytes} bytes, the most is {most}"),
            _ => continue,
        };
        return Err(convert::bad(field, problem));
    }
    Ok(has_certificate)
}

/// Checks that the digest of a ballot is that of its content, so that no vote is counted in one whose members were
/// asked something else.
///
/// # Errors
/// [`BallotError::OtherContent`] if it is not.
pub fn check_content(ballot: &Ballot) -> Result<(), BallotError> {
    let content = BallotContent {
        fleet: &ballot.fleet,
        id: ballot.id.0,
        question: &ballot.question,
        options: &ballot.options,
        electorate: ballot.electorate.iter().map(|elector| (&*elector.name, elector.weight)).collect(),
        threshold: (ballot.threshold.numerator, ballot.threshold.denominator),
        ttl: ballot.ttl,
    };
    match content.digest() == ballot.digest {
        true => Ok(()),
        false => Err(BallotError::OtherContent { ballot: ballot.id }),
    }
}

/// Checks that the certificate with which a vote is proven is of the key with which its caller has connected.
///
/// # Errors
/// [`BallotError`] if it is not, or is no certificate.
pub fn check_key(peer: &PeerIdentity, certificate: &[u8]) -> Result<(), BallotError> {
    match Certificate::from_der(certificate) {
        Ok(stated) if stated.key == peer.key => Ok(()),
        Ok(_) => {
            let problem = "its certificate has another key than that with which you have connected; connect again";
            Err(BallotError::OtherProcess { problem: problem.to_owned() })
        }
        Err(error) => Err(convert::bad("certificate", error.to_string()).into()),
    }
}

impl Ballots {
    /// Checks that a caller with a certificate is the process that has enrolled last under its name, if it is an agent.
    ///
    /// # Errors
    /// [`BallotError`] if not, or it is not known.
    pub(super) async fn check_enrolled(&self, peer: &PeerIdentity) -> Result<(), BallotError> {
        if peer.id.role().is_agent() {
            enrolled::check(&self.state, peer).await.map_err(|status| not_enrolled(&status))?;
        }
        Ok(())
    }

    /// Verifies a signed vote in a ballot, and returns its evidence with the authority that has issued the certificate.
    /// Signatures that are known to be right are not verified again, and neither are the proofs of keys.
    ///
    /// # Errors
    /// [`BallotError`] if the vote is not proven to be the member's, or can't be verified now.
    pub(super) fn proven(
        &self,
        ballot: &Ballot,
        claim: Claim<'_>,
        known: &mut Signatures,
    ) -> Result<VoteEvidence, BallotError> {
        let Claim { member, choice, option, reason, evidence } = claim;
        let Some(Verifying { trust, clock, keys, .. }) = self.verifying.as_ref().filter(|with| with.clock.is_known())
        else {
            let problem = "this coordinator does not know yet by which time certificates are judged; try again";
            return Err(BallotError::NotReadable(problem.to_owned()));
        };
        let trusted = trust.with(self.state.look(|fleet| fleet.identity_config().cloned()));
        let VoteEvidence { envelope, binding, certificate, .. } = evidence;
        // The vote may be counted a little later than it is verified here, and is verified as of then later.
        let now = clock.now();
        let counted_until = now.saturating_add(COUNTED_WITHIN_MS);
        let expect = Expect {
            fleet: &ballot.fleet,
            member,
            ballot: ballot.id.0,
            digest: ballot.digest,
            choice: signed_choice(choice).number(),
            option,
            reason,
            at_unix_ms: now,
        };
        let not_proven = |problem| BallotError::NotProven { member: member.to_owned(), problem };
        let id = KeyId::new(&binding, &certificate);
        if let Some(key) = keys.get(id, &trusted.bundle, now, counted_until) {
            key.verify(&envelope, &expect, known).map_err(not_proven)?;
            return Ok(VoteEvidence { envelope, binding, certificate, authority: key.authority().clone() });
        }
        let issuer = issuer_in(&trusted.bundle, &certificate, counted_until);
        let Some(authority) = issuer.map(Bytes::copy_from_slice) else {
            return Err(BallotError::UnknownAuthority { member: member.to_owned() });
        };
        let evidence = Evidence { envelope, binding, certificate, authority };
        let key = ProvenKey::prove(&evidence, &expect, known).map_err(not_proven)?;
        evidence.lasts_until(counted_until).map_err(not_proven)?;
        keys.insert(id, key);
        let Evidence { envelope, binding, certificate, authority } = evidence;
        Ok(VoteEvidence { envelope, binding, certificate, authority })
    }
}

/// Returns why an agent may not vote.
fn not_enrolled(status: &Status) -> BallotError {
    let problem = status.message().to_owned();
    match status.code() {
        Code::PermissionDenied => BallotError::OtherProcess { problem },
        Code::Unauthenticated => BallotError::NotEnrolled { problem },
        _ => BallotError::NotReadable(problem),
    }
}

/// Returns a choice as it is signed.
fn signed_choice(choice: robeing_fleet::Choice) -> robeing_votes::Choice {
    match choice {
        robeing_fleet::Choice::Approve => robeing_votes::Choice::Approve,
        robeing_fleet::Choice::Reject => robeing_votes::Choice::Reject,
        robeing_fleet::Choice::Abstain => robeing_votes::Choice::Abstain,
    }
}

#[cfg(test)]
mod tests {
    use robeing_identity::PeerRole;

    use super::*;
    use crate::{fixture::closed_ballot, identity::fixture::realm};

    #[test]
    fn a_ballot_whose_digest_is_not_that_of_its_content_takes_no_votes() {
        let other = closed_ballot(7);
        assert_eq!(check_content(&other), Err(BallotError::OtherContent { ballot: other.id }));
        let content = BallotContent {
            fleet: "fleet",
            id: 7,
            question: "Ship it?",
            options: &[],
            electorate: vec![("client:ann", 1)],
            threshold: (2, 3),
            ttl: 60_000,
        };
        let right = Ballot { digest: content.digest(), ..(*other).clone() };
        assert_eq!(check_content(&right), Ok(()));
        let question = Ballot { question: "Delete it?".to_owned(), ..right.clone() };
        assert!(check_content(&question).is_err());
        assert!(check_content(&Ballot { fleet: "other".to_owned(), ..right }).is_err());
    }

    fn sizes(envelope: usize, binding: usize, certificate: usize) -> VoteEvidence {
        let of = |bytes: usize| Bytes::from(vec![1; bytes]);
        let (envelope, binding, certificate) = (of(envelope), of(binding), of(certificate));
        VoteEvidence { envelope, binding, certificate, authority: Bytes::new() }
    }

    #[test]
    fn who_has_a_certificate_signs_and_who_has_none_can_not() {
        let id = realm().member(PeerRole::Worker, "a").expect("it is a name");
        let member = Caller::Member(Arc::new(PeerIdentity { id, key: [7; 32] }));
        let user = Caller::user("ann");
        assert_eq!(check_signed(&member, &sizes(1, 1, 1)), Ok(true));
        let largest = sizes(MAX_ENVELOPE_BYTES, MAX_BINDING_BYTES, MAX_CERTIFICATE_BYTES);
        assert_eq!(check_signed(&member, &largest), Ok(true));
        for caller in [&user, &Caller::Plaintext] {
            assert_eq!(check_signed(caller, &sizes(0, 0, 0)), Ok(false));
        }
        for (caller, evidence, field) in [
            (&member, sizes(0, 1, 1), "envelope"),
            (&member, sizes(1, 0, 1), "binding"),
            (&member, sizes(1, 1, 0), "certificate"),
            (&member, sizes(MAX_ENVELOPE_BYTES + 1, 1, 1), "envelope"),
            (&member, sizes(1, MAX_BINDING_BYTES + 1, 1), "binding"),
            (&member, sizes(1, 1, MAX_CERTIFICATE_BYTES + 1), "certificate"),
            (&user, sizes(1, 0, 0), "envelope"),
            (&user, sizes(0, 1, 0), "binding"),
            (&user, sizes(0, 0, 1), "certificate"),
        ] {
            let problem = check_signed(caller, &evidence).expect_err(field).to_string();
            assert!(problem.starts_with(field), "{problem}");
        }
    }
}
