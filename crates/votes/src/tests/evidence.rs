use std::sync::LazyLock;

use proptest::prelude::*;
use robeing_identity::TrustBundle;

use super::*;

const FLEET: &str = "spiffe://robeing.local/ns/default/cluster/one";

fn expect(member: &str) -> Expect<'_> {
    Expect {
        fleet: FLEET,
        member,
        ballot: ID,
        digest: [7; 32],
        choice: 1,
        option: 0,
        reason: "it is tested",
        at_unix_ms: NOW,
    }
}

/// Returns an agent's vote, which is proved.
static PROVED: LazyLock<Evidence> =
    LazyLock::new(|| Member::new(&authority(), PeerRole::Worker, "w-0").cast(&expect("w-0")));

#[test]
fn agents_and_clients_prove_their_votes() {
    let authority = authority();
    assert_eq!(realm().to_string(), FLEET);
    let long = "n".repeat(300);
    for (role, name, member) in [
        (PeerRole::Worker, "w-0", "w-0"),
        (PeerRole::Guardian, "g-0", "g-0"),
        (PeerRole::Client, "ann", "client:ann"),
        (PeerRole::Client, long.as_str(), "client:nnn"),
    ] {
        let voter = Member::new(&authority, role, name);
        assert!(voter.name.starts_with(member) && voter.name.len() <= 253, "{}", voter.name);
        assert_eq!(verify(&voter.cast(&expect(&voter.name)), &expect(&voter.name)), Ok(()));
    }
    for role in [PeerRole::Coordinator, PeerRole::Operator] {
        let voter = Member::new(&authority, role, "x");
        let refused = verify(&voter.cast(&expect(&voter.name)), &expect(&voter.name));
        assert!(matches!(refused, Err(VoteError::OtherMember { .. })), "{refused:?}");
    }
}

#[test]
fn a_long_name_is_cut_as_that_of_a_sender() {
    let id = realm().member(PeerRole::Client, &"n".repeat(300)).unwrap();
    let name = member_name(&id).unwrap();
    let (kept, digits) = name.split_once('~').unwrap();
    assert_eq!((name.len(), kept.len(), digits.len()), (253, 236, 16));
    let id = realm().member(PeerRole::Worker, &"n".repeat(253)).unwrap();
    assert_eq!(member_name(&id), Some("n".repeat(253)));
}

#[test]
fn evidence_proves_one_vote_and_no_other() {
    let is = expect("w-0");
    assert_eq!(verify(&PROVED, &is), Ok(()));
    for (other, part) in [
        (Expect { fleet: "spiffe://robeing.local/ns/default/cluster/two", ..is.clone() }, "fleet"),
        (Expect { member: "w-1", ..is.clone() }, "member"),
        (Expect { ballot: ID + 1, ..is.clone() }, "ballot"),
        (Expect { digest: [8; 32], ..is.clone() }, "digest of the ballot"),
        (Expect { choice: 2, ..is.clone() }, "choice"),
        (Expect { option: 1, ..is.clone() }, "option"),
        (Expect { reason: "", ..is.clone() }, "reason"),
    ] {
        let refused = verify(&PROVED, &other);
        let text = refused.unwrap_err().to_string();
        assert!(text.starts_with(&format!("the vote has the {part} \"")), "{text}");
    }
}

#[test]
fn a_vote_counts_while_its_certificate_was_valid() {
    let at = |at_unix_ms: u64| verify(&PROVED, &Expect { at_unix_ms, ..expect("w-0") });
    assert_eq!(at(NOW + 3_600_000 + 300_000), Ok(()));
    assert!(matches!(at(NOW + 3_600_000 + 300_001), Err(VoteError::Certificate(_))));
    assert!(matches!(at(NOW - 600_001), Err(VoteError::Certificate(_))));
}

#[test]
fn what_is_counted_a_little_later_than_it_is_verified_is_proved_by_certificates_that_are_still_valid() {
    let not_after = NOW + 3_600_000;
    assert_eq!(PROVED.lasts_until(not_after), Ok(()));
    let refused = PROVED.lasts_until(not_after + 1);
    assert!(matches!(refused, Err(VoteError::Certificate(_))), "there is no margin: {refused:?}");
    let (certificate, authority) = (PROVED.authority.clone(), PROVED.certificate.clone());
    let short = Evidence { certificate, authority, ..PROVED.clone() };
    assert!(matches!(short.lasts_until(not_after + 1), Err(VoteError::Certificate(_))), "of the authority, too");
}

#[test]
fn nobody_votes_with_the_key_or_the_certificate_of_somebody_else() {
    let authority = authority();
    let [one, other] = ["w-0", "w-1"].map(|name| Member::new(&authority, PeerRole::Worker, name));
    let is = expect("w-0");
    let (mine, theirs) = (one.cast(&is), other.cast(&is));
    // The other one signs a vote in the name of the first.
    let refused = verify(&theirs, &is);
    assert!(matches!(refused, Err(VoteError::Other { part: "member", .. })), "{refused:?}");
    let stolen = KeyBinding::make(FLEET, "w-0", &other.key, &other.signer).unwrap().to_bytes();
    let refused = verify(&Evidence { binding: stolen.clone(), ..theirs.clone() }, &is);
    assert!(matches!(refused, Err(VoteError::OtherMember { .. })), "{refused:?}");
    let with_mine = Evidence { binding: stolen, certificate: mine.certificate.clone(), ..theirs.clone() };
    assert!(matches!(verify(&with_mine, &is), Err(VoteError::WrongBinding(_))));
    let refused = verify(&Evidence { binding: mine.binding.clone(), ..theirs }, &is);
    assert!(matches!(refused, Err(VoteError::Other { part: "key", .. })), "{refused:?}");
    // A binding of another fleet.
    let elsewhere = KeyBinding::make("spiffe://x/ns/y/cluster/z", "w-0", &one.key, &one.signer).unwrap().to_bytes();
    let refused = verify(&Evidence { binding: elsewhere, ..mine }, &is);
    assert!(matches!(refused, Err(VoteError::Other { part: "fleet", .. })), "{refused:?}");
}

#[test]
fn the_authority_is_the_one_that_issued_the_certificate() {
    let (mine, other) = (authority(), authority());
    let voter = Member::new(&mine, PeerRole::Worker, "w-0");
    let proved = voter.cast(&expect("w-0"));
    let wrong = Evidence { authority: Bytes::copy_from_slice(other.certificate()), ..proved.clone() };
    assert!(matches!(verify(&wrong, &expect("w-0")), Err(VoteError::Certificate(_))));
    let itself = Evidence { authority: proved.certificate.clone(), ..proved };
    assert!(matches!(verify(&itself, &expect("w-0")), Err(VoteError::Certificate(_))));
    let both = TrustBundle::from_pem(&[other.certificate_pem(), mine.certificate_pem()].concat()).unwrap();
    for time in [NOW, u64::MAX] {
        assert_eq!(issuer_in(&both, &voter.certificate, time), Some(&mine.certificate()[..]));
    }
    let one = TrustBundle::from_pem(other.certificate_pem()).unwrap();
    assert_eq!(issuer_in(&one, &voter.certificate, NOW), None);
}

#[test]
fn evidence_is_bounded() {
    let is = expect("w-0");
    let larger = |most: usize| Bytes::from(vec![0; most + 1]);
    for (evidence, most) in [
        (Evidence { envelope: larger(MAX_ENVELOPE_BYTES), ..PROVED.clone() }, MAX_ENVELOPE_BYTES),
        (Evidence { binding: larger(MAX_BINDING_BYTES), ..PROVED.clone() }, MAX_BINDING_BYTES),
        (Evidence { certificate: larger(MAX_CERTIFICATE_BYTES), ..PROVED.clone() }, MAX_CERTIFICATE_BYTES),
        (Evidence { authority: larger(MAX_AUTHORITY_BYTES), ..PROVED.clone() }, MAX_AUTHORITY_BYTES),
    ] {
        let refused = verify(&evidence, &is);
        assert!(matches!(refused, Err(VoteError::TooLarge { most: limit, .. }) if limit == most), "{refused:?}");
    }
    let voter = Member::new(&authority(), PeerRole::Worker, "w-0");
    let refused = KeyBinding::make(&"f".repeat(MAX_BINDING_BYTES), "w-0", &voter.key, &voter.signer);
    assert!(matches!(refused, Err(VoteError::TooLarge { most: MAX_BINDING_BYTES, .. })), "{refused:?}");
    let longest = VoteStatement {
        fleet: "f".repeat(1_800),
        ballot: [1; 16],
        digest: [2; 32],
        member: "m".repeat(253),
        choice: 1,
        option: 16,
        reason: "r".repeat(MAX_REASON_BYTES),
    };
    assert!(voter.key.sign(&longest).to_bytes().len() <= MAX_ENVELOPE_BYTES);
    let together = voter.key.sign_all(&vec![longest; MAX_SIGNED_TOGETHER]);
    assert!(together.iter().all(|envelope| envelope.to_bytes().len() <= MAX_ENVELOPE_BYTES), "with its path, too");
}

#[test]
fn what_is_written_is_read_again_and_the_key_is_not_shown() {
    let voter = Member::new(&authority(), PeerRole::Worker, "w-0");
    let evidence = voter.cast(&expect("w-0"));
    let envelope = Envelope::from_bytes(&evidence.envelope).unwrap();
    assert_eq!((envelope.to_bytes(), envelope.key), (evidence.envelope, voter.key.public()));
    assert_eq!(envelope.statement().unwrap().to_bytes(), envelope.payload);
    let binding = KeyBinding::from_bytes(&evidence.binding).unwrap();
    assert_eq!(binding.to_bytes(), evidence.binding);
    assert_eq!(binding.statement().unwrap().key, voter.key.public());
    assert_eq!(format!("{:?}", voter.key), format!("VotingKey({})", hex(&voter.key.public())));
    assert_ne!(VotingKey::generate().unwrap().public(), voter.key.public());
    for choice in Choice::ALL {
        assert_eq!(Choice::from_number(choice.number()), Some(choice));
    }
    assert_eq!([0, 4].map(Choice::from_number), [None, None]);
}

/// Returns bytes with one of them changed.
fn changed(bytes: &Bytes, at: prop::sample::Index, by: u8) -> Bytes {
    let mut changed = bytes.to_vec();
    let at = at.index(changed.len());
    changed[at] ^= by;
    changed.into()
}

proptest! {
    #[test]
    fn no_change_of_the_evidence_goes_unseen(at: prop::sample::Index, by in 1..=u8::MAX, len: prop::sample::Index) {
        let is = expect("w-0");
        let Evidence { envelope, binding, certificate, .. } = &*PROVED;
        let cut = |bytes: &Bytes| bytes.slice(..len.index(bytes.len()));
        for evidence in [
            Evidence { envelope: changed(envelope, at, by), ..PROVED.clone() },
            Evidence { binding: changed(binding, at, by), ..PROVED.clone() },
            Evidence { certificate: changed(certificate, at, by), ..PROVED.clone() },
            Evidence { envelope: cut(envelope), ..PROVED.clone() },
            Evidence { binding: cut(binding), ..PROVED.clone() },
            Evidence { certificate: cut(certificate), ..PROVED.clone() },
        ] {
            prop_assert!(verify(&evidence, &is).is_err());
        }
    }

    #[test]
    fn bytes_from_elsewhere_are_read_as_they_would_be_written_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(envelope) = Envelope::from_bytes(&bytes) {
            prop_assert_eq!(&envelope.to_bytes()[..], &bytes[..]);
        }
        if let Ok(binding) = KeyBinding::from_bytes(&bytes) {
            prop_assert_eq!(&binding.to_bytes()[..], &bytes[..]);
        }
        if let Ok(statement) = VoteStatement::from_bytes(&bytes) {
            prop_assert_eq!(&statement.to_bytes()[..], &bytes[..]);
        }
        prop_assert!(BallotFile::from_json(&bytes).is_err());
    }

    #[test]
    fn every_statement_is_read_as_it_was_written(
        fleet in ".{0,40}", ballot: [u8; 16], digest: [u8; 32], member in ".{0,40}", choice: u8, option: u32,
        reason in ".{0,200}",
    ) {
        let statement = VoteStatement { fleet, ballot, digest, member, choice, option, reason };
        prop_assert_eq!(VoteStatement::from_bytes(&statement.to_bytes()), Ok(statement));
    }
}
