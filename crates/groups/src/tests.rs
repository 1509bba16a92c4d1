//! Groups whose members have real certificates.

use bytes::Bytes;
use proptest::prelude::*;
use robeing_bft::{
    application::Application,
    certificate::Seq,
    crypto::{Ed25519Signer, PublicKey, Signer},
    epoch::{Incarnation, ReplicaId},
    wire::Wire,
};
use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, TrustBundle};
use robeing_votes::Base64;

use super::{exchange::Ask, ledger::ENTRY, log_file::entry_of, *};

pub(crate) const NOW: u64 = 1_800_000_000_000;

/// Somebody with a certificate.
pub(crate) struct Somebody {
    key: PrivateKey,
    certificate: Vec<u8>,
    authority: Vec<u8>,
}

impl Somebody {
    pub(crate) fn own(&self) -> Own<'_> {
        Own { certificate: &self.certificate, authority: &self.authority, key: &self.key }
    }
}

fn realm() -> Realm {
    Realm::new("robeing.local", "default", "one").unwrap()
}

pub(crate) fn certified(authority: &Authority, role: PeerRole, name: &str) -> Somebody {
    let key = PrivateKey::generate().unwrap();
    let request = SigningRequest::from_der(&key.request().unwrap()).unwrap();
    let id = realm().member(role, name).unwrap();
    let certificate = authority.issue(&request, &id, &[], NOW, LEAF_LIFETIME).unwrap().certificate.to_vec();
    Somebody { key, certificate, authority: authority.certificate().to_vec() }
}

pub(crate) fn signer(number: u8) -> Ed25519Signer {
    Ed25519Signer::from_seed(&[number; 32]).unwrap()
}

fn names() -> Vec<String> {
    ["a", "b", "c", "d"].map(str::to_owned).to_vec()
}

fn enrolment(name: &str, number: u8) -> Enrolment {
    Enrolment {
        fleet: realm().to_string(),
        group: "council".into(),
        members: names(),
        name: name.into(),
        incarnation: Incarnation([number; 16]),
        key: signer(number).public_key(),
        at_ms: NOW,
    }
}

pub(crate) fn enrolled(authority: &Authority) -> Vec<Signed> {
    let sign = |(name, number): (String, u8)| {
        let member = certified(authority, PeerRole::Worker, &name);
        enrolment(&name, number).sign(&member.own()).unwrap()
    };
    names().into_iter().zip(1..).map(sign).collect()
}

/// Returns the enrolments of the same members for a later epoch.
pub(crate) fn enrolled_next(authority: &Authority) -> Vec<Signed> {
    let sign = |(name, number): (String, u8)| {
        let member = certified(authority, PeerRole::Worker, &name);
        enrolment(&name, number).sign_next(&member.own()).unwrap()
    };
    names().into_iter().zip(1..).map(sign).collect()
}

pub(crate) fn authority() -> Authority {
    Authority::create(&realm(), NOW).unwrap()
}

#[test]
fn the_description_of_a_group_is_what_its_members_signed() {
    let authority = authority();
    let mut enrolments = enrolled(&authority);
    enrolments.reverse();
    let file = GroupFile::of(enrolments).unwrap();
    let again = GroupFile::from_json(file.to_json().as_bytes()).unwrap();
    let group = again.verify().unwrap();
    assert_eq!(group.names().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    assert_eq!(group.fingerprint().len(), 64);
    assert_eq!(group.name_of(&signer(2).public_key()), Some("b"));
    let trusted = TrustBundle::from_der(&[authority.certificate().to_vec()]).unwrap();
    assert_eq!(group.check_trust(&trusted), Ok(()));
    let others = TrustBundle::from_der(&[self::authority().certificate().to_vec()]).unwrap();
    assert_eq!(group.check_trust(&others), Err(GroupError::Untrusted("a".into())));
    assert_eq!(group.check_age(NOW + MAX_AGE_MS), Ok(()));
    assert!(matches!(group.check_age(NOW + MAX_AGE_MS + 1), Err(GroupError::Stale { .. })));
    assert!(matches!(group.check_age(NOW - MAX_AGE_MS - 1), Err(GroupError::Stale { .. })));
}

#[test]
fn nobody_puts_a_key_of_its_own_into_a_group() {
    let authority = authority();
    let good = enrolled(&authority);
    let verify = |members: Vec<Signed>| {
        GroupFile { api_version: GROUP_FILE_VERSION.into(), members, earlier: Vec::new() }.verify()
    };
    assert!(verify(good.clone()).is_ok());
    // Signed by another member.
    let other = certified(&authority, PeerRole::Worker, "e");
    let mut forged = good.clone();
    forged[1] = enrolment("b", 9).sign(&other.own()).unwrap();
    assert!(matches!(verify(forged), Err(GroupError::OtherSigner { .. })));
    // By a client of the same name.
    let client = certified(&authority, PeerRole::Client, "b");
    let mut forged = good.clone();
    forged[1] = enrolment("b", 9).sign(&client.own()).unwrap();
    assert!(matches!(verify(forged), Err(GroupError::OtherSigner { .. })));
    // With the signature of the right one.
    let mut forged = good.clone();
    forged[1].statement = Base64(enrolment("b", 9).encoded().into());
    assert!(matches!(verify(forged), Err(GroupError::NotProved { .. })));
    // Of an enrolment in another group, or one of other members.
    let member = certified(&authority, PeerRole::Worker, "b");
    let mut forged = good.clone();
    forged[1] = Enrolment { group: "others".into(), ..enrolment("b", 2) }.sign(&member.own()).unwrap();
    assert_eq!(verify(forged).unwrap_err(), GroupError::Other { what: "enrolment of a member", part: "group" });
    let mut forged = good.clone();
    let members = ["a", "b", "c", "x"].map(str::to_owned).to_vec();
    forged[1] = Enrolment { members, ..enrolment("b", 2) }.sign(&member.own()).unwrap();
    assert!(matches!(verify(forged), Err(GroupError::Other { part: "list of members", .. })));
    // One is left out, or there twice, or the key is another's.
    assert!(verify(good[..3].to_vec()).is_err());
    let mut forged = good.clone();
    forged[1] = good[0].clone();
    assert!(verify(forged).is_err());
    let mut forged = good.clone();
    forged[1] = Enrolment { key: signer(1).public_key(), ..enrolment("b", 2) }.sign(&member.own()).unwrap();
    assert!(matches!(verify(forged), Err(GroupError::Epoch(_))));
    assert_eq!(verify(Vec::new()).unwrap_err(), GroupError::Members(0));
}

#[test]
fn a_group_has_four_to_sixteen_members_and_a_plain_name() {
    let names = |count: usize| (0..count).map(|number| format!("m-{number:02}")).collect::<Vec<_>>();
    assert_eq!(Enrolment::in_order(&names(3)), Err(GroupError::Members(3)));
    assert!(Enrolment::in_order(&names(MIN_GROUP_MEMBERS)).is_ok());
    assert!(Enrolment::in_order(&names(MAX_GROUP_MEMBERS)).is_ok());
    assert_eq!(Enrolment::in_order(&names(MAX_GROUP_MEMBERS + 1)), Err(GroupError::Members(MAX_GROUP_MEMBERS + 1)));
    let twice = [names(4), names(1)].concat();
    assert_eq!(Enrolment::in_order(&twice), Err(GroupError::Members(4)));
    for good in ["a", "council-2", "0", &*"x".repeat(MAX_GROUP_NAME)] {
        assert!(is_group_name(good), "{good}");
    }
    for bad in ["", "-a", "A", "a/b", "..", "a b", "é", &*"x".repeat(MAX_GROUP_NAME + 1)] {
        assert!(!is_group_name(bad), "{bad}");
    }
}

#[test]
fn whoever_passes_enrolments_for_the_next_epoch_on_forms_no_new_group_with_them() {
    let authority = authority();
    let (founding, next) = (enrolled(&authority), enrolled_next(&authority));
    assert!(matches!(GroupFile::of(next.clone()), Err(GroupError::NotProved { .. })));
    let new = GroupFile { api_version: GROUP_FILE_VERSION.into(), members: next.clone(), earlier: Vec::new() };
    assert!(matches!(new.verify(), Err(GroupError::NotProved { .. })));
    let group = GroupFile::of(founding.clone()).unwrap().verify().unwrap();
    assert!(NextEpoch::verify(&group, next).is_ok());
    assert!(matches!(NextEpoch::verify(&group, founding), Err(GroupError::NotProved { .. })), "nor the reverse");
}

#[test]
fn an_epoch_that_could_not_be_described_is_not_decided_on() {
    let authority = authority();
    let next = enrolled_next(&authority);
    let mut file = GroupFile::of(enrolled(&authority)).unwrap();
    let group = file.clone().verify().unwrap();
    let membership = NextEpoch::verify(&group, next.clone()).unwrap().membership().clone();
    let ended = EarlierEpoch { members: Vec::new(), decision: Base64(Bytes::new()), stable: Base64(Bytes::new()) };
    file.earlier = vec![ended.clone(); MAX_EPOCHS - 2];
    assert_eq!(file.check_room(&membership, &next), Ok(()));
    file.earlier.push(ended.clone());
    assert!(matches!(file.check_room(&membership, &next), Err(GroupError::Malformed { .. })), "it is the last epoch");
    // As large as may be, and a little larger.
    file.earlier = vec![ended];
    let grown = |bytes: usize| {
        let mut file = file.clone();
        file.earlier[0].decision = Base64(vec![0; bytes].into());
        file.check_room(&membership, &next)
    };
    let (mut fits, mut too_large) = (0, MAX_GROUP_FILE_BYTES);
    while too_large - fits > 1 {
        let middle = usize::midpoint(fits, too_large);
        *(if grown(middle).is_ok() { &mut fits } else { &mut too_large }) = middle;
    }
    assert!(matches!(grown(too_large), Err(GroupError::TooLarge { bytes, .. }) if bytes <= MAX_GROUP_FILE_BYTES + 4));
    assert!(grown(fits).is_ok() && fits > MAX_GROUP_FILE_BYTES / 2, "{fits}");
}

#[test]
fn an_approval_is_of_the_member_that_gives_it() {
    let authority = authority();
    let group = GroupFile::of(enrolled(&authority)).unwrap().verify().unwrap();
    let next = NextEpoch::verify(&group, enrolled_next(&authority)).unwrap();
    let approval = |replica: u16, number: u8| {
        let given = next.membership().approve(group.epoch().scope(), ReplicaId(replica), &signer(number));
        Base64(given.encoded().into())
    };
    assert!(next.is_approval(&group, "b", &approval(1, 2)));
    assert!(!next.is_approval(&group, "a", &approval(1, 2)), "another one has given it");
    assert!(!next.is_approval(&group, "b", &approval(2, 2)), "it would stand for another one");
    assert!(!next.is_approval(&group, "b", &approval(1, 3)), "another one has signed it");
    assert!(!next.is_approval(&group, "e", &approval(1, 2)), "no member has given it");
    assert!(!next.is_approval(&group, "b", &Base64(Bytes::from_static(b"x"))));
}

fn proposal(group: &Group, id: u8, text: &str) -> Proposal {
    let text = Bytes::copy_from_slice(text.as_bytes());
    Proposal { group: *group.epoch().domain(), id: [id; 16], at_ms: NOW, text }
}

#[test]
fn a_proposal_is_of_its_author_and_for_one_group() {
    let authority = authority();
    let group = GroupFile::of(enrolled(&authority)).unwrap().verify().unwrap();
    let ada = certified(&authority, PeerRole::Client, "ada");
    let signed = proposal(&group, 1, "deploy").sign(&ada.own()).unwrap();
    let (read, author) = Proposal::verify(&signed, &group).unwrap();
    assert_eq!((read.text, author), (Bytes::from_static(b"deploy"), "client:ada".to_owned()));
    let mut changed = signed.clone();
    changed.statement = Base64(proposal(&group, 1, "delete").encoded().into());
    assert!(matches!(Proposal::verify(&changed, &group), Err(GroupError::NotProved { .. })));
    let elsewhere = Proposal { group: Default::default(), ..proposal(&group, 1, "deploy") };
    let elsewhere = elsewhere.sign(&ada.own()).unwrap();
    assert_eq!(Proposal::verify(&elsewhere, &group), Err(GroupError::Other { what: "proposal", part: "group" }));
    let coordinator = certified(&authority, PeerRole::Coordinator, "c-0");
    let signed = proposal(&group, 1, "deploy").sign(&coordinator.own()).unwrap();
    assert!(matches!(Proposal::verify(&signed, &group), Err(GroupError::OtherSigner { .. })));
    let longest = "x".repeat(MAX_TEXT_BYTES);
    assert!(proposal(&group, 1, &longest).sign(&ada.own()).is_ok());
    assert!(matches!(
        proposal(&group, 1, &format!("{longest}x")).sign(&ada.own()),
        Err(GroupError::TooLarge { bytes, .. }) if bytes == MAX_TEXT_BYTES + 1
    ));
}

#[test]
fn a_proposal_is_decided_once_and_the_state_is_restored_as_it_was() {
    let authority = authority();
    let group = GroupFile::of(enrolled(&authority)).unwrap().verify().unwrap();
    let ada = certified(&authority, PeerRole::Client, "ada");
    let call = |id: u8| Bytes::from(proposal(&group, id, "x").sign(&ada.own()).unwrap().encoded());
    let mut ledger = Ledger::default();
    let key = PublicKey::default();
    let mut decide = |seq: u64, call: &Bytes| Ledger::result(&ledger.execute(Seq(seq), &key, call));
    let first = call(1);
    assert_eq!(decide(1, &first), Some(Seq(1)));
    assert_eq!(decide(2, &call(2)), Some(Seq(2)));
    assert_eq!(decide(3, &first), Some(Seq(1)), "it was decided before");
    assert_eq!(decide(4, &Bytes::from_static(b"nothing")), None);
    let mut again = Ledger::default();
    again.restore(&ledger.snapshot()).unwrap();
    assert_eq!(again, ledger);
    assert!(again.restore(b"x").is_err());
    let mut long = vec![0; ENTRY * REMEMBERED];
    assert!(again.restore(&long).is_ok());
    long.extend([0; ENTRY]);
    assert!(again.restore(&long).is_err());
}

#[test]
fn whoever_uses_the_id_of_a_proposal_does_not_suppress_it() {
    let authority = authority();
    let group = GroupFile::of(enrolled(&authority)).unwrap().verify().unwrap();
    let sign = |text: &str, own: &Somebody| proposal(&group, 1, text).sign(&own.own()).unwrap();
    let ada = certified(&authority, PeerRole::Client, "ada");
    let right = sign("deploy", &ada);
    // Before it, a member that lies has its id decided: with a signature that is none, by another author, and by one
    // of the same name that a stranger has certified.
    let nobody = Signed { statement: sign("delete", &ada).statement, ..right.clone() };
    let eve = sign("delete", &certified(&authority, PeerRole::Client, "eve"));
    let stranger = sign("delete", &certified(&self::authority(), PeerRole::Client, "ada"));
    let calls: Vec<Bytes> = [&nobody, &eve, &stranger, &right].map(|signed| Bytes::from(signed.encoded())).to_vec();
    let (mut ledger, key) = (Ledger::default(), PublicKey::default());
    for (call, seq) in calls.iter().zip(1..) {
        assert_eq!(Ledger::result(&ledger.execute(Seq(seq), &key, call)), Some(Seq(seq)));
    }
    let trusted = TrustBundle::from_der(&[authority.certificate().to_vec()]).unwrap();
    let mut seen = Seen::new();
    let mut entry = |call: &Bytes| entry_of(group.epoch(), ("a".into(), &call[..]), Some(&trusted), &mut seen);
    let entries: Vec<CheckedEntry> = calls.iter().map(&mut entry).collect();
    assert!(entries.iter().all(|entry| !entry.is_repeated), "{entries:?}");
    let authors: Vec<_> = entries.iter().map(|entry| entry.author.as_deref().ok()).collect();
    assert_eq!(authors, [None, Some("client:eve"), Some("client:ada"), Some("client:ada")]);
    assert_eq!(entries[2].is_trusted, Some(false));
    assert!(entry(&calls[3]).is_repeated, "it comes again");
}

#[test]
fn a_decision_of_something_else_is_not_that_of_a_proposal() {
    let group = GroupFile::of(enrolled(&authority())).unwrap().verify().unwrap();
    let decided = |entries: Vec<CheckedEntry>| CheckedDecision { seq: 1, signers: Vec::new(), entries };
    let entry = |proposal: &Proposal, author: Result<&str, GroupError>| CheckedEntry {
        proposed_by: "a".into(),
        author: author.map(str::to_owned),
        is_trusted: None,
        proposal: Some(proposal.clone()),
        ballot: None,
        is_repeated: false,
    };
    let mine = proposal(&group, 1, "deploy");
    let right = entry(&mine, Ok("client:ada"));
    // The same id with another text, another author, and nobody's signature.
    let wrong = [
        entry(&proposal(&group, 1, "delete"), Ok("client:ada")),
        entry(&proposal(&group, 2, "deploy"), Ok("client:ada")),
        entry(&mine, Ok("client:eve")),
        entry(&mine, Err(GroupError::Members(0))),
        CheckedEntry { proposal: None, ..right.clone() },
    ];
    assert!(!decided(wrong.to_vec()).decides(&mine, "client:ada"));
    assert!(!decided(Vec::new()).decides(&mine, "client:ada"));
    assert!(decided([&wrong[..], &[right]].concat()).decides(&mine, "client:ada"));
}

#[test]
fn what_is_asked_is_read_as_it_was_written() {
    let file = GroupFile::of(enrolled(&authority())).unwrap();
    let (group, members) = ("council".to_owned(), names());
    for ask in [
        Ask::Enrol { group: group.clone(), members },
        Ask::Form { file },
        Ask::Show { group: group.clone() },
        Ask::ShowBallot { group: group.clone(), ballot: "00".repeat(32) },
        Ask::Log { group, from: 1, limit: 2 },
    ] {
        assert_eq!(Ask::from_bytes(&ask.to_bytes()), Ok(ask));
    }
    assert!(Ask::from_bytes(br#"{"drop": {"group": "council"}}"#).is_err());
    let message = exchange::to_peer("council", b"message");
    assert_eq!(exchange::from_peer(&message), Some(("council", Bytes::from_static(b"message"))));
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes: Vec<u8>) {
        let _ = exchange::from_peer(&bytes.clone().into());
        prop_assert!(Ask::from_bytes(&bytes).is_err());
        prop_assert!(GroupFile::from_json(&bytes).is_err());
        prop_assert!(LogFile::from_json(&bytes).is_err());
        prop_assert!(ballot::GroupBallotFile::from_json(&bytes).is_err());
        let _ = Signed::decoded(&bytes);
        let _ = Enrolment::decoded(&bytes);
        let _ = Proposal::decoded(&bytes);
        let _ = Ledger::default().restore(&[&b"robeing.ledger.2"[..], &bytes[..]].concat());
        for kind in ["", "RB-open1", "RB-vote1", "RB-over1"] {
            let call = [kind.as_bytes(), &bytes[..]].concat();
            let _ = Ledger::default().execute(Seq(1), &PublicKey::default(), &call.into());
        }
    }
}
