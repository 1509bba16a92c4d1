use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

const FLEET: &str = "spiffe://robeing.local/ns/default/cluster/one";

fn expect(ballot: u128) -> Expect<'static> {
    Expect { fleet: FLEET, member: "w-0", ballot, digest: [7; 32], choice: 1, option: 0, reason: "so", at_unix_ms: NOW }
}

fn statement(ballot: u128) -> VoteStatement {
    let Expect { fleet, ballot, digest, member, choice, option, reason, .. } = expect(ballot);
    VoteStatement {
        fleet: fleet.to_owned(),
        ballot: ballot.to_be_bytes(),
        digest,
        member: member.to_owned(),
        choice,
        option,
        reason: reason.to_owned(),
    }
}

fn voter() -> Member {
    Member::new(&authority(), PeerRole::Worker, "w-0")
}

/// Returns the evidence of votes that are signed together, in ballots numbered from 0.
fn cast(voter: &Member, count: usize) -> Vec<Evidence> {
    let statements: Vec<VoteStatement> = (0..count as u128).map(statement).collect();
    let binding = voter.binding().to_bytes();
    let evidence = |envelope: Envelope| Evidence {
        envelope: envelope.to_bytes(),
        binding: binding.clone(),
        certificate: voter.certificate.clone(),
        authority: voter.authority.clone(),
    };
    voter.key.sign_all(&statements).into_iter().map(evidence).collect()
}

#[test]
fn votes_that_are_signed_together_have_one_signature_and_each_is_proved_without_the_others() {
    let voter = voter();
    for count in [1, 2, 3, MAX_SIGNED_TOGETHER] {
        let cast = cast(&voter, count);
        assert_eq!(cast.len(), count);
        let signature = |evidence: &Evidence| Envelope::from_bytes(&evidence.envelope).unwrap().signature;
        assert!(cast.iter().all(|evidence| signature(evidence) == signature(&cast[0])));
        for (ballot, evidence) in [(0, &cast[0]), (count as u128 - 1, &cast[count - 1])] {
            assert_eq!(verify(evidence, &expect(ballot)), Ok(()), "{ballot} of {count}");
            let other = verify(evidence, &expect(ballot + 1));
            assert!(matches!(other, Err(VoteError::Other { part: "ballot", .. })), "{other:?}");
        }
    }
    let more = cast(&voter, MAX_SIGNED_TOGETHER + 1);
    assert_eq!(verify(&more[MAX_SIGNED_TOGETHER], &expect(MAX_SIGNED_TOGETHER as u128)), Ok(()), "it is signed alone");
    assert!(Envelope::from_bytes(&more[MAX_SIGNED_TOGETHER].envelope).unwrap().path.is_empty());
    assert!(voter.key.sign_all(&[]).is_empty());
}

#[test]
fn a_vote_that_is_signed_alone_has_no_path() {
    let voter = voter();
    let alone = voter.key.sign(&statement(1));
    assert_eq!(voter.key.sign_all(&[statement(1)]), std::slice::from_ref(&alone));
    assert_eq!((&*alone.path, alone.place), (&[][..], 0));
}

#[test]
fn a_signature_that_is_known_to_be_right_proves_its_own_votes_alone() {
    let voter = voter();
    let cast = cast(&voter, 3);
    let mut known = Signatures::default();
    let key = ProvenKey::prove(&cast[0], &expect(0), &mut known).unwrap();
    assert_eq!(key.authority(), &voter.authority);
    assert_eq!(key.verify(&cast[1].envelope, &expect(1), &mut known), Ok(()));
    let second = Envelope::from_bytes(&cast[1].envelope).unwrap();
    // A vote that was not signed, with the signature of one that was.
    let forged = Envelope { payload: statement(9).to_bytes(), ..second.clone() };
    assert_eq!(key.verify(&forged.to_bytes(), &expect(9), &mut known), Err(VoteError::WrongSignature));
    let moved = Envelope { place: 2, ..second.clone() };
    assert_eq!(key.verify(&moved.to_bytes(), &expect(1), &mut known), Err(VoteError::WrongSignature));
    let alone = Envelope { path: Bytes::new(), place: 0, ..second.clone() };
    assert_eq!(key.verify(&alone.to_bytes(), &expect(1), &mut known), Err(VoteError::WrongSignature));
    let nowhere = Envelope { path: Bytes::new(), ..second };
    let refused = key.verify(&nowhere.to_bytes(), &expect(1), &mut known);
    assert!(matches!(refused, Err(VoteError::Malformed { .. })), "{refused:?}");
    // Another key of the same member is not the one that is proven.
    let other = Member::new(&authority(), PeerRole::Worker, "w-0").key.sign(&statement(1)).to_bytes();
    let refused = key.verify(&other, &expect(1), &mut known);
    assert!(matches!(refused, Err(VoteError::Other { part: "key", .. })), "{refused:?}");
    for other in [Expect { member: "w-1", ..expect(1) }, Expect { fleet: "spiffe://x/ns/y/cluster/z", ..expect(1) }] {
        assert!(key.verify(&cast[1].envelope, &other, &mut known).is_err());
    }
}

#[test]
fn a_proven_key_is_valid_as_long_as_its_certificates() {
    let (not_before, not_after) = (NOW - 300_000, NOW + 3_600_000);
    let key = ProvenKey::prove(&cast(&voter(), 1)[0], &expect(0), &mut Signatures::default()).unwrap();
    for (now, until) in [(NOW, NOW), (NOW, not_after), (not_after, not_after), (not_before - 300_000, NOW)] {
        assert!(key.is_valid(now, until), "{now} to {until}");
    }
    for (now, until) in [(NOW, not_after + 1), (not_before - 300_001, NOW), (NOW + 1, NOW)] {
        assert!(!key.is_valid(now, until), "{now} to {until}");
    }
}

#[test]
fn a_key_is_bound_once_to_each_certificate() {
    let voter = voter();
    let key = BoundKey::new(VotingKey::generate().unwrap());
    let bind = |certificate: &Bytes, signer: &PrivateKey| key.binding(FLEET, "w-0", certificate, signer).unwrap();
    let first = bind(&voter.certificate, &voter.signer);
    assert_eq!(first.1, voter.certificate);
    assert_eq!(bind(&voter.certificate, &voter.signer), first, "it is the same");
    let renewed = self::voter();
    let second = bind(&renewed.certificate, &renewed.signer);
    assert_ne!(second.0, first.0);
    let binding = KeyBinding::from_bytes(&second.0).unwrap();
    assert_eq!(binding.verify_signature(&renewed.certificate), Ok(()));
    assert_eq!(binding.statement().unwrap().key, key.key().public());
}

/// Votes that were signed together.
static PROVED: LazyLock<Vec<Evidence>> = LazyLock::new(|| cast(&voter(), 5));

proptest! {
    #[test]
    fn no_change_of_a_vote_that_was_signed_with_others_goes_unseen(
        ballot in 0..5_usize, at: prop::sample::Index, by in 1..=u8::MAX,
    ) {
        let Evidence { envelope, .. } = &PROVED[ballot];
        let mut changed = envelope.to_vec();
        changed[at.index(envelope.len())] ^= by;
        let changed = Evidence { envelope: changed.into(), ..PROVED[ballot].clone() };
        prop_assert!(verify(&changed, &expect(ballot as u128)).is_err());
    }
}
