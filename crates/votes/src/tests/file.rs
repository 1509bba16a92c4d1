use robeing_identity::{TrustBundle, digest};

use super::*;

/// The options of a ballot, its votes, and what they decide.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, Choice, u32)], FileOutcome, u32);

/// A ballot with an option that a signed vote approves, which a program in another language wrote.
const WRITTEN_ELSEWHERE: &str = include_str!("ballot.json");

/// Returns a ballot of `client:ann` (weight 2), `w-0` and `w-1` (weight 1), with these options, that needs two thirds.
fn empty(options: &[&str]) -> BallotFile {
    let elector = |(name, weight): (&str, u32)| FileElector { name: name.to_owned(), weight };
    let mut file = BallotFile {
        api_version: FILE_VERSION.to_owned(),
        fleet: realm().to_string(),
        id: "01960000-0000-7000-8000-000000000001".to_owned(),
        question: "Deploy?".to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        electorate: [("client:ann", 2), ("w-0", 1), ("w-1", 1)].map(elector).to_vec(),
        threshold: FileThreshold { numerator: 2, denominator: 3 },
        ttl_ms: 30_000,
        digest: String::new(),
        opened_by: "client:bob".to_owned(),
        opened_at_ms: NOW,
        closed_at_ms: None,
        outcome: FileOutcome::Open,
        option: 0,
        votes: Vec::new(),
        authorities: Vec::new(),
    };
    file.digest = hex(&digest_of(&file));
    file
}

fn digest_of(file: &BallotFile) -> [u8; 32] {
    let electorate = file.electorate.iter().map(|elector| (elector.name.as_str(), elector.weight)).collect();
    let BallotFile { fleet, question, options, ttl_ms, .. } = file;
    BallotContent { fleet, id: ID, question, options, electorate, threshold: (2, 3), ttl: *ttl_ms }.digest()
}

fn closed(file: BallotFile, outcome: FileOutcome, option: u32) -> BallotFile {
    BallotFile { outcome, option, closed_at_ms: Some(NOW + 30_000), ..file }
}

fn attested(member: &str, choice: Choice, option: u32) -> FileVote {
    let (reason, attested_by) = (String::new(), "c-0".to_owned());
    FileVote { member: member.to_owned(), choice, option, reason, at_ms: NOW, attested_by, evidence: None }
}

/// Adds a signed vote.
fn sign(file: &mut BallotFile, member: &Member, choice: Choice, option: u32) {
    let vote = attested(&member.name, choice, option);
    let evidence = member.cast(&Expect {
        fleet: &file.fleet,
        member: &vote.member,
        ballot: ID,
        digest: digest_of(file),
        choice: choice.number(),
        option,
        reason: &vote.reason,
        at_unix_ms: NOW,
    });
    let Evidence { envelope, binding, certificate, authority } = evidence;
    let (envelope, binding, certificate) = (Base64(envelope), Base64(binding), Base64(certificate));
    let evidence = FileEvidence { envelope, binding, certificate, authority: file.authority(authority) };
    file.votes.push(FileVote { evidence: Some(evidence), ..vote });
}

/// Returns an approved ballot with two signed votes and its authority.
fn approved() -> (BallotFile, Authority) {
    let authority = authority();
    let mut file = empty(&[]);
    sign(&mut file, &Member::new(&authority, PeerRole::Client, "ann"), Choice::Approve, 0);
    sign(&mut file, &Member::new(&authority, PeerRole::Worker, "w-1"), Choice::Approve, 0);
    (closed(file, FileOutcome::Approved, 0), authority)
}

fn standings(report: &Report) -> Vec<&Standing> {
    report.votes.iter().map(|vote| &vote.standing).collect()
}

/// Returns why the last vote of a file does not count.
fn wrong(file: &BallotFile) -> String {
    match file.verify(None).votes.pop() {
        Some(CheckedVote { standing: Standing::Wrong(problem), .. }) => problem,
        other => panic!("it counts: {other:?}"),
    }
}

#[test]
fn a_file_is_read_as_it_was_written_and_verified_without_the_fleet() {
    let (file, authority) = approved();
    let read = BallotFile::from_json(file.to_json().as_bytes()).unwrap();
    assert_eq!(read, file);
    let bundle = TrustBundle::from_pem(authority.certificate_pem()).unwrap();
    for trusted in [None, Some(&bundle)] {
        let report = read.verify(trusted);
        assert!(report.is_right() && report.is_proved(), "{report:?}");
        assert_eq!(standings(&report), [&Standing::Signed, &Standing::Signed]);
        assert_eq!(report.tally, Tally { approve: 3, total: 4, ..Tally::default() });
        assert_eq!((report.decided, report.decided_option), (FileOutcome::Approved, 0));
        assert_eq!(report.authorities, [digest(authority.certificate())]);
    }
}

#[test]
fn an_authority_that_is_not_trusted_proves_nothing() {
    let (file, _) = approved();
    let other = TrustBundle::from_pem(authority().certificate_pem()).unwrap();
    let report = file.verify(Some(&other));
    assert!(!report.is_right());
    assert_eq!(report.tally, Tally { total: 4, ..Tally::default() });
    let problem = "the authority that issued the certificate is not one of those that are trusted";
    assert_eq!(report.votes[1].standing, Standing::Wrong(problem.to_owned()));
}

#[test]
fn a_change_of_the_question_or_of_a_vote_is_found() {
    let (file, _) = approved();
    let mut question = file.clone();
    question.question.push('?');
    let report = question.verify(None);
    assert!(!report.digest_matches && !report.outcome_follows && !report.is_right());
    let mut weight = file.clone();
    weight.electorate[1].weight = 2;
    assert!(!weight.verify(None).is_right());
    let mut vote = file.clone();
    vote.votes[1].choice = Choice::Reject;
    assert!(wrong(&vote).starts_with("the vote has the choice \"1\", not \"2\""), "{}", wrong(&vote));
    let mut later = file.clone();
    later.votes[1].at_ms += 86_400_000;
    assert!(wrong(&later).starts_with("the certificate proves nothing"), "{}", wrong(&later));
    let mut nowhere = file.clone();
    nowhere.authorities.clear();
    assert!(wrong(&nowhere).starts_with("the authority that issued"), "{}", wrong(&nowhere));
    let outcome = closed(file, FileOutcome::Rejected, 0).verify(None);
    assert!(outcome.digest_matches && !outcome.outcome_follows && !outcome.is_right());
}

#[test]
fn attested_votes_count_but_are_told_apart() {
    let mut file = empty(&[]);
    file.votes = vec![attested("w-0", Choice::Reject, 0), attested("client:ann", Choice::Abstain, 0)];
    let report = closed(file, FileOutcome::Rejected, 0).verify(None);
    let by_coordinator = Standing::Attested { by: "c-0".to_owned() };
    assert!(report.is_right(), "{report:?}");
    assert_eq!(standings(&report), [&by_coordinator, &by_coordinator]);
    assert_eq!(report.tally, Tally { reject: 1, abstain: 2, total: 4, ..Tally::default() });
    assert_eq!(report.votes[1].weight, 2);
}

#[test]
fn a_file_without_evidence_proves_nothing_whatever_it_says() {
    let (mut file, authority) = approved();
    for vote in &mut file.votes {
        (vote.evidence, vote.choice) = (None, Choice::Reject);
    }
    file.votes.truncate(1);
    file.outcome = FileOutcome::Rejected;
    let report = file.verify(None);
    assert!(report.is_right() && !report.is_proved(), "it is the word of whoever has written it: {report:?}");
    let bundle = TrustBundle::from_pem(authority.certificate_pem()).unwrap();
    let report = file.verify(Some(&bundle));
    assert!(!report.is_right() && !report.is_proved());
    let problem = "it is not signed, so no authority that is trusted proves it";
    assert_eq!(standings(&report), [&Standing::Wrong(problem.to_owned())]);
}

#[test]
fn a_vote_counts_once_of_a_member_for_an_option_and_before_the_decision() {
    let mut file = empty(&[]);
    file.votes = vec![attested("w-0", Choice::Approve, 0), attested("w-0", Choice::Approve, 0)];
    assert_eq!(wrong(&file), "it is the member's second vote");
    file.votes = vec![attested("w-2", Choice::Approve, 0)];
    assert_eq!(wrong(&file), "the member is not in the electorate");
    assert_eq!(file.verify(None).votes[0].weight, 0);
    file.votes = vec![attested("w-0", Choice::Approve, 1)];
    assert_eq!(wrong(&file), "the ballot has no such option");
    let votes = ["client:ann", "w-0", "w-1"].map(|member| attested(member, Choice::Approve, 0));
    file.votes = votes.to_vec();
    assert_eq!(wrong(&file), "the ballot was decided before it");
    let mut options = empty(&["a", "b"]);
    for (choice, option) in [(Choice::Approve, 0), (Choice::Approve, 3), (Choice::Reject, 1), (Choice::Abstain, 2)] {
        options.votes = vec![attested("w-0", choice, option)];
        assert_eq!(wrong(&options), "the ballot has no such option", "{choice} {option}");
    }
}

#[test]
fn the_outcome_follows_from_the_votes() {
    use Choice::{Abstain, Approve, Reject};
    use FileOutcome::{Approved, Expired, Open, Rejected};
    let cases: [Case<'_>; 9] = [
        (&[], &[], Open, 0),
        (&[], &[("client:ann", Approve, 0)], Open, 0),
        (&[], &[("client:ann", Approve, 0), ("w-1", Approve, 0)], Approved, 0),
        (&[], &[("client:ann", Reject, 0)], Rejected, 0),
        (&[], &[("w-0", Abstain, 0)], Open, 0),
        (&[], &[("w-0", Abstain, 0), ("w-1", Reject, 0)], Rejected, 0),
        (&["a", "b"], &[("client:ann", Approve, 2), ("w-0", Approve, 2)], Approved, 2),
        (&["a", "b"], &[("client:ann", Approve, 2), ("w-0", Approve, 1)], Open, 0),
        (&["a", "b"], &[("client:ann", Approve, 2), ("w-0", Approve, 1), ("w-1", Approve, 1)], Rejected, 0),
    ];
    for (options, votes, outcome, option) in cases {
        let mut file = empty(options);
        file.votes = votes.iter().map(|(member, choice, option)| attested(member, *choice, *option)).collect();
        let report = file.verify(None);
        assert_eq!((report.decided, report.decided_option), (outcome, option), "{votes:?}");
        assert_eq!(report.outcome_follows, outcome == Open, "{votes:?}");
        for recorded in [Approved, Rejected, Expired] {
            let follows = recorded == outcome || outcome == Open && recorded == Expired;
            let report = closed(file.clone(), recorded, option).verify(None);
            assert_eq!(report.outcome_follows, follows, "{recorded:?}: {votes:?}");
        }
    }
    // The option must be right, too, and a closed ballot has a time.
    let mut file = closed(empty(&["a", "b"]), Approved, 1);
    file.votes = vec![attested("client:ann", Approve, 2), attested("w-0", Approve, 2)];
    assert!(!file.verify(None).outcome_follows);
    let file = BallotFile { closed_at_ms: None, option: 2, ..file };
    assert!(!file.verify(None).outcome_follows);
}

#[test]
fn times_that_can_not_be_true_together_are_found() {
    use FileOutcome::{Expired, Rejected};
    // What the clock of the coordinators may be set back, and how much earlier a deadline of 30 s may seem to be over.
    const STEP: u64 = 5_000;
    const EARLIEST: u64 = NOW + 28_500 - STEP;
    let voted = |at_ms: u64, choice: Choice| FileVote { at_ms, ..attested("client:ann", choice, 0) };
    let with = |at_ms: u64, choice: Choice, outcome: FileOutcome, closed: u64| {
        let mut file = empty(&[]);
        file.votes = vec![voted(at_ms, choice)];
        BallotFile { outcome, closed_at_ms: Some(closed), ..file }
    };
    let cases = [
        (with(NOW - STEP, Choice::Reject, Rejected, NOW), None),
        (with(NOW - STEP - 1, Choice::Reject, Rejected, NOW), Some("client:ann voted before the ballot was opened")),
        (with(NOW, Choice::Reject, Rejected, NOW - STEP), None),
        (with(NOW, Choice::Reject, Rejected, NOW - STEP - 1), Some("it was closed before it was opened")),
        (with(NOW + 9 + STEP, Choice::Reject, Rejected, NOW + 9), None),
        (
            with(NOW + 10 + STEP, Choice::Reject, Rejected, NOW + 9),
            Some("client:ann voted after the ballot was closed"),
        ),
        (with(NOW, Choice::Approve, Expired, EARLIEST), None),
        (with(NOW, Choice::Approve, Expired, NOW + 86_400_000), None),
        (with(NOW, Choice::Approve, Expired, EARLIEST - 1), Some("it expired before its deadline")),
    ];
    for (file, contradiction) in cases {
        let report = file.verify(None);
        assert!(report.outcome_follows, "{file:?}");
        assert_eq!((report.contradiction.as_deref(), report.is_right()), (contradiction, contradiction.is_none()));
    }
    // Times of an untrusted file may be any number.
    let extreme =
        BallotFile { opened_at_ms: u64::MAX, ttl_ms: u64::MAX, ..with(0, Choice::Approve, Expired, u64::MAX) };
    assert!(extreme.verify(None).contradiction.is_some());
}

/// Returns why a file is refused.
fn refused(file: &BallotFile) -> String {
    BallotFile::from_json(file.to_json().as_bytes()).expect_err("it is refused").to_string()
}

#[test]
fn what_can_be_no_ballot_is_refused() {
    let good = empty(&["a", "b"]);
    assert_eq!(BallotFile::from_json(good.to_json().as_bytes()), Ok(good.clone()));
    let version = BallotFile { api_version: "robeing.io/ballot-file/v2".to_owned(), ..good.clone() };
    assert!(refused(&version).contains("apiVersion"), "{}", refused(&version));
    for (file, problem) in [
        (BallotFile { id: "1".to_owned(), ..good.clone() }, "no UUID"),
        (BallotFile { electorate: Vec::new(), ..good.clone() }, "0 electors"),
        (BallotFile { threshold: FileThreshold { numerator: 4, denominator: 3 }, ..good.clone() }, "threshold is 4/3"),
        (BallotFile { threshold: FileThreshold { numerator: 0, denominator: 3 }, ..good.clone() }, "threshold is 0/3"),
        (BallotFile { options: vec!["a".to_owned()], ..good.clone() }, "1 options"),
        (BallotFile { options: vec!["a".to_owned(); MAX_OPTIONS + 1], ..good.clone() }, "17 options"),
        (BallotFile { authorities: vec![Base64::default(); MAX_ELECTORS + 1], ..good.clone() }, "257 authorities"),
    ] {
        assert!(refused(&file).contains(problem), "{problem}: {}", refused(&file));
    }
    for weight in [0, MAX_WEIGHT + 1] {
        let mut file = good.clone();
        file.electorate[0].weight = weight;
        assert!(refused(&file).contains("must be 1 to 1000"), "{}", refused(&file));
    }
    let mut twice = good.clone();
    twice.electorate[2].name = "w-0".to_owned();
    assert!(refused(&twice).contains("each once"), "{}", refused(&twice));
    let many = |count: usize| (0..count).map(|n| FileElector { name: format!("w-{n:03}"), weight: 1 }).collect();
    let most = BallotFile { electorate: many(MAX_ELECTORS), ..good.clone() };
    assert!(BallotFile::from_json(most.to_json().as_bytes()).is_ok());
    assert!(refused(&BallotFile { electorate: many(MAX_ELECTORS + 1), ..good.clone() }).contains("257 electors"));
    let unknown = good.to_json().replacen('{', "{\"more\": 1,", 1);
    assert!(BallotFile::from_json(unknown.as_bytes()).is_err());
    let padded = [good.to_json().as_bytes(), &b" ".repeat(MAX_FILE_BYTES)[..]].concat();
    assert!(matches!(BallotFile::from_json(&padded), Err(VoteError::TooLarge { most: MAX_FILE_BYTES, .. })));
}

#[test]
fn a_file_that_was_written_earlier_by_another_program_stays_right() {
    let file = BallotFile::from_json(WRITTEN_ELSEWHERE.as_bytes()).unwrap();
    assert_eq!(file.to_json(), WRITTEN_ELSEWHERE);
    let report = file.verify(None);
    assert!(report.is_right(), "{report:?}");
    assert_eq!(standings(&report), [&Standing::Signed]);
    assert_eq!((report.decided, report.decided_option), (FileOutcome::Approved, 2));
}

#[test]
fn the_file_has_the_documented_form() {
    let (mut file, _) = approved();
    file.votes.truncate(1);
    let json: serde_json::Value = serde_json::from_str(&file.to_json()).unwrap();
    assert_eq!(json["apiVersion"], FILE_VERSION);
    assert_eq!(json["electorate"][0]["name"], "client:ann");
    assert_eq!(json["threshold"]["denominator"], 3);
    assert_eq!(json["ttlMs"], 30_000);
    assert_eq!(json["outcome"], "approved");
    assert_eq!(json["votes"][0]["choice"], "approve");
    assert_eq!(json["votes"][0]["attestedBy"], "c-0");
    assert_eq!(json["votes"][0]["evidence"]["authority"], 0);
    assert!(json["votes"][0]["evidence"]["envelope"].is_string());
    let bad = file.to_json().replacen("\"envelope\": \"", "\"envelope\": \"?", 1);
    let refused = BallotFile::from_json(bad.as_bytes()).unwrap_err().to_string();
    assert!(refused.contains("no Base64"), "{refused}");
}
