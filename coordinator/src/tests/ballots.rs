//! Ballots in which agents and users vote, at any coordinator.

use std::{collections::BTreeMap, time::Duration};

use prost_types::Duration as WireDuration;
use robeing_fleet::{AgentCommand, BallotId, Command, Fraction, NOTICE_KIND, NOTICE_SENDER, Reply};
use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, SigningRequest};
use robeing_platform::Platform;
use robeing_proto::v1::{
    self, BallotState, CastVoteRequest, ElectorAddress, GetBallotRequest, ListBallotsRequest, OpenBallotRequest,
    VoteChoice, ballots_client::BallotsClient, ballots_server::Ballots as _,
};
use robeing_settings::{BallotDefaults, Enrolment};
use robeing_votes::{Choice, Evidence, Expect, KeyBinding, VoteStatement, VotingKey, hex, verify};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::{Code, Request, Status, transport::Channel};

use crate::{
    fixture,
    identity::fixture::realm,
    tests::{
        agent::TestAgent,
        enrolment::enrolled,
        fleet::TestFleet,
        mail::mailbox::{TestMailbox, in_force, start},
        member::{TestMember, code, retried},
    },
};

/// How long the ballots of the tests are open, unless a test says otherwise.
const OPEN_FOR: u64 = 600;

fn seconds(seconds: u64) -> Option<WireDuration> {
    Some(WireDuration { seconds: seconds as i64, nanos: 0 })
}

/// A ballot for these members, with an id.
pub(super) fn asked(id: u128, electorate: &[(&str, u32)]) -> OpenBallotRequest {
    let address = |(address, weight): &(&str, u32)| ElectorAddress { address: (*address).into(), weight: *weight };
    OpenBallotRequest {
        id: BallotId(id).to_string(),
        question: "Ship it?".into(),
        electorate: electorate.iter().map(address).collect(),
        deadline: seconds(OPEN_FOR),
        ..OpenBallotRequest::default()
    }
}

pub(super) async fn open(fleet: &TestFleet, at: usize, request: OpenBallotRequest) -> Result<v1::Ballot, Status> {
    let opened = fleet.tested(at).ballots.open_ballot(Request::new(request)).await?;
    Ok(opened.into_inner().ballot.expect("it says which"))
}

/// The vote of a member without TLS.
pub(super) fn vote(id: u128, member: &str, choice: VoteChoice) -> CastVoteRequest {
    CastVoteRequest {
        ballot: BallotId(id).to_string(),
        choice: choice.into(),
        member: member.into(),
        ..CastVoteRequest::default()
    }
}

async fn cast(fleet: &TestFleet, at: usize, request: CastVoteRequest) -> Result<v1::Ballot, Status> {
    let counted = fleet.tested(at).ballots.cast_vote(Request::new(request)).await?;
    Ok(counted.into_inner().ballot.expect("it says which"))
}

pub(super) async fn get(fleet: &TestFleet, at: usize, id: u128, wait: u64) -> Result<v1::Ballot, Status> {
    let request = GetBallotRequest { id: BallotId(id).to_string(), wait: seconds(wait), evidence: false };
    Ok(fleet.tested(at).ballots.get_ballot(Request::new(request)).await?.into_inner())
}

fn names(ballot: &v1::Ballot) -> Vec<(&str, u32, bool)> {
    ballot.electorate.iter().map(|member| (member.name.as_str(), member.weight, member.agent)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_ballot_is_opened_at_one_coordinator_and_its_members_are_told_and_vote_at_others() {
    let (fleet, leader) = start().await;
    let (_b, _c) = (TestAgent::join(&fleet, leader, "b").await, TestAgent::join_from(&fleet, leader, "c", 2).await);
    let [one, other] = fleet.followers(leader)[..] else { panic!("three coordinators") };
    let mut mailbox = TestMailbox::open(&fleet, other, "b").await;
    let electorate = [("client:ann", 2), ("b", 3), ("role:worker", 0)];
    let ballot = open(&fleet, one, asked(7, &electorate)).await.expect("it is opened");
    assert_eq!(names(&ballot), [("b", 3, true), ("c", 1, true), ("client:ann", 2, false)]);
    assert_eq!((ballot.state(), ballot.threshold.as_str(), ballot.fleet.as_str()), (BallotState::Open, "2/3", "test"));

    let letter = mailbox.letter().await;
    assert_eq!((&*letter.sender, &*letter.r#type, &*letter.receiver), (NOTICE_SENDER, NOTICE_KIND, "agent:b"));
    let notice: Value = serde_json::from_slice(&letter.payload).expect("it is JSON");
    assert_eq!(notice["ballot"], json!(ballot.id));
    assert_eq!(notice["digest"], json!(hex(&ballot.digest)));

    let after = cast(&fleet, leader, vote(7, "client:ann", VoteChoice::Abstain)).await.expect("it counts");
    assert_eq!(after.tally.as_ref().map(|tally| (tally.abstain, tally.total)), Some((2, 6)));
    let after = cast(&fleet, other, vote(7, "b", VoteChoice::Approve)).await.expect("it counts");
    assert_eq!(after.state(), BallotState::Open, "a half is not enough");
    let waiting = get(&fleet, other, 7, 60);
    let (closed, after) = tokio::join!(waiting, cast(&fleet, one, vote(7, "c", VoteChoice::Approve)));
    assert_eq!(after.expect("it counts").state(), BallotState::Approved);
    let closed = closed.expect("it is known");
    assert_eq!((closed.state(), closed.option, closed.closed_at.is_some()), (BallotState::Approved, 0, true));
    let votes: Vec<_> = closed.votes.iter().map(|vote| (vote.member.as_str(), vote.choice(), vote.signed)).collect();
    let expected = [("client:ann", VoteChoice::Abstain), ("b", VoteChoice::Approve), ("c", VoteChoice::Approve)];
    assert_eq!(votes, expected.map(|(member, choice)| (member, choice, false)));
    let attested: Vec<&str> = closed.votes.iter().map(|vote| vote.attested_by.as_str()).collect();
    assert_eq!(attested, [leader, other, one].map(crate::tests::fleet::name));
}

#[tokio::test(start_paused = true)]
async fn a_vote_is_counted_once_and_who_is_not_asked_has_none() {
    let (fleet, leader) = start().await;
    let at = fleet.followers(leader)[0];
    let request = OpenBallotRequest { threshold: "1/2".into(), ..asked(7, &[("client:ann", 1), ("client:bob", 1)]) };
    let request = OpenBallotRequest { options: vec!["a".into(), "b".into()], ..request };
    open(&fleet, leader, request).await.expect("it is opened");
    let approve = |member: &str, option| CastVoteRequest { option, ..vote(7, member, VoteChoice::Approve) };
    let eve = cast(&fleet, at, approve("client:eve", 1)).await.expect_err("nobody asks her");
    assert_eq!(eve.code(), Code::PermissionDenied, "{eve}");
    for (option, why) in [(3, "there is no such option"), (0, "it is for none")] {
        assert_eq!(code(cast(&fleet, at, approve("client:ann", option)).await), Code::InvalidArgument, "{why}");
    }
    let nothing = CastVoteRequest { choice: 0, ..approve("client:ann", 1) };
    assert_eq!(code(cast(&fleet, at, nothing).await), Code::InvalidArgument, "it is no choice");
    assert_eq!(code(cast(&fleet, at, vote(8, "client:ann", VoteChoice::Reject)).await), Code::NotFound);

    let reject = vote(7, "client:ann", VoteChoice::Reject);
    for n in 0..2 {
        let after = cast(&fleet, at, reject.clone()).await.expect("it counts");
        assert_eq!((after.votes.len(), after.state()), (1, BallotState::Open), "{n}");
    }
    let second = cast(&fleet, at, approve("client:ann", 1)).await.expect_err("she has voted");
    assert_eq!(second.code(), Code::AlreadyExists, "{second}");
    let after = cast(&fleet, leader, approve("client:bob", 2)).await.expect("it counts");
    assert_eq!((after.state(), after.option), (BallotState::Approved, 2));
    assert_eq!(after.tally.map(|tally| (tally.approval_rate, tally.per_option)), Some((0.5, vec![0, 1])));
    let again = cast(&fleet, at, reject).await.expect("it has counted");
    assert_eq!(again.votes.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_ballot_that_is_not_decided_expires_at_its_deadline() {
    let (fleet, leader) = start().await;
    let at = fleet.followers(leader)[0];
    let request = OpenBallotRequest { deadline: seconds(5), ..asked(7, &[("client:ann", 1), ("client:bob", 1)]) };
    open(&fleet, at, request).await.expect("it is opened");
    cast(&fleet, at, vote(7, "client:ann", VoteChoice::Approve)).await.expect("it counts");
    let early = get(&fleet, at, 7, 1).await.expect("it is known");
    assert_eq!(early.state(), BallotState::Open, "who waits is not made to wait longer than asked");
    let begun = Instant::now();
    let expired = get(&fleet, at, 7, 60).await.expect("it is known");
    assert_eq!((expired.state(), expired.votes.len()), (BallotState::Expired, 1));
    assert!((Duration::from_secs(2)..Duration::from_secs(30)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let late = cast(&fleet, at, vote(7, "client:bob", VoteChoice::Approve)).await.expect_err("it is closed");
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
    let at_once = get(&fleet, at, 7, 60).await.expect("it is known");
    assert_eq!(at_once.state(), BallotState::Expired);
    assert_eq!(code(get(&fleet, at, 8, 0).await), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_ballot_without_threshold_and_deadline_has_those_of_the_fleet() {
    let threshold = Fraction { numerator: 66, denominator: 100 };
    let fleet = TestFleet::start_with_ballots(BallotDefaults { threshold, deadline: Duration::from_secs(90) });
    let leader = fleet.led().await;
    in_force(&fleet).await;
    let at = fleet.followers(leader)[0];
    let unset = OpenBallotRequest { deadline: None, ..asked(7, &[("client:ann", 33), ("client:bob", 17)]) };
    let ballot = open(&fleet, at, unset.clone()).await.expect("it is opened");
    assert_eq!((ballot.threshold.as_str(), ballot.ttl_ms), ("66/100", 90_000));
    let after = cast(&fleet, leader, vote(7, "client:ann", VoteChoice::Approve)).await.expect("it counts");
    assert_eq!(after.state(), BallotState::Approved, "66 of 100 are 66 %, which are less than two thirds");
    let again = open(&fleet, leader, unset).await.expect("it is the same");
    assert_eq!((again.state(), again.ttl_ms), (BallotState::Approved, 90_000));
    let set = OpenBallotRequest { threshold: "2/3".into(), ..asked(8, &[("client:ann", 33), ("client:bob", 17)]) };
    let ballot = open(&fleet, at, set).await.expect("it is opened");
    assert_eq!((ballot.threshold.as_str(), ballot.ttl_ms), ("2/3", OPEN_FOR * 1_000));
    let after = cast(&fleet, leader, vote(8, "client:ann", VoteChoice::Approve)).await.expect("it counts");
    assert_eq!(after.state(), BallotState::Open, "it has the threshold that its opener sets");
}

#[tokio::test(start_paused = true)]
async fn a_ballot_that_can_not_be_approved_any_more_is_rejected_at_once() {
    let (fleet, leader) = start().await;
    open(&fleet, leader, asked(7, &[("client:ann", 1), ("client:bob", 1)])).await.expect("it is opened");
    let after = cast(&fleet, leader, vote(7, "client:ann", VoteChoice::Reject)).await.expect("it counts");
    assert_eq!(after.state(), BallotState::Rejected, "a half is left");
}

#[tokio::test(start_paused = true)]
async fn a_ballot_that_is_opened_again_is_the_same_and_another_one_under_its_id_is_refused() {
    let (fleet, leader) = start().await;
    let _b = TestAgent::join(&fleet, leader, "b").await;
    let [one, other] = fleet.followers(leader)[..] else { panic!("three coordinators") };
    let request = || asked(7, &[("everyone", 1)]);
    let (first, second) = tokio::join!(open(&fleet, one, request()), open(&fleet, other, request()));
    let [first, second] = [first, second].map(|opened| opened.expect("it is opened, once"));
    assert_eq!((&first.opened_at, names(&first)), (&second.opened_at, names(&second)));
    // Its address stands for one more by now.
    let _c = TestAgent::join_from(&fleet, leader, "c", 2).await;
    let again = open(&fleet, other, request()).await.expect("it is the same");
    assert_eq!(names(&again), [("b", 1, true)]);
    let different = OpenBallotRequest { question: "Or not?".into(), ..request() };
    let refused = open(&fleet, one, different).await.expect_err("it asks something else");
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    // The same members with other weights, and the same member by another address.
    for electorate in [&[("everyone", 2)], &[("b", 1)]] {
        let refused = open(&fleet, one, asked(7, electorate)).await.expect_err("it asks others");
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_stands_for_nobody_is_named_and_an_agent_that_is_away_is_a_member() {
    let (fleet, leader) = start().await;
    let b = TestAgent::join(&fleet, leader, "b").await;
    for nobody in ["skill:ocr", "ghost"] {
        let refused = open(&fleet, leader, asked(7, &[("b", 1), (nobody, 1)])).await.expect_err("it stands for nobody");
        assert_eq!(refused.code(), Code::NotFound);
        assert!(refused.message().contains(nobody), "{refused}");
    }
    b.end();
    let away = |fleet: &TestFleet| b.state(fleet, leader) == Some(robeing_fleet::AgentState::Lost);
    fleet.until("b is lost", away).await;
    assert_eq!(code(open(&fleet, leader, asked(7, &[("role:worker", 1)])).await), Code::NotFound);
    let ballot = open(&fleet, leader, asked(7, &[("b", 1)])).await.expect("it may come back");
    assert_eq!(names(&ballot), [("b", 1, true)]);
}

#[tokio::test(start_paused = true)]
async fn an_open_ballot_survives_a_change_of_leaders_and_so_does_who_waits_for_it() {
    let (mut fleet, leader) = start().await;
    let at = fleet.followers(leader)[0];
    open(&fleet, at, asked(7, &[("client:ann", 1), ("client:bob", 1)])).await.expect("it is opened");
    cast(&fleet, leader, vote(7, "client:ann", VoteChoice::Approve)).await.expect("it counts");
    fleet.take_away(leader);
    let fleet = fleet;
    let deciding = async {
        fleet.led().await;
        let other = fleet.followers(at)[0];
        cast(&fleet, other, vote(7, "client:bob", VoteChoice::Approve)).await.expect("it counts")
    };
    // The first waits for a leader; what it reads then is the ballot with the vote before.
    let waiting = retried(async || get(&fleet, at, 7, 300).await);
    let (closed, decided) = tokio::join!(waiting, deciding);
    let closed = closed.expect("it is known");
    assert_eq!((closed.state(), closed.votes.len()), (BallotState::Approved, 2));
    assert_eq!(decided.state(), BallotState::Approved);
}

#[tokio::test(start_paused = true)]
async fn ballots_are_listed_newest_first_a_page_at_a_time() {
    let (fleet, leader) = start().await;
    for id in 1..=5 {
        open(&fleet, leader, asked(id, &[("client:ann", 1)])).await.expect("it is opened");
    }
    cast(&fleet, leader, vote(4, "client:ann", VoteChoice::Approve)).await.expect("it counts");
    let at = fleet.followers(leader)[0];
    let listed = async |open: bool| {
        let (mut ids, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListBallotsRequest { open, limit: 2, page_token };
            let page = fleet.tested(at).ballots.list_ballots(Request::new(request)).await.expect("it is listed");
            let page = page.into_inner();
            assert!(page.ballots.len() <= 2);
            ids.extend(page.ballots.into_iter().map(|ballot| ballot.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return ids;
            }
        }
    };
    let of = |ids: &[u128]| ids.iter().map(|id| BallotId(*id).to_string()).collect::<Vec<_>>();
    assert_eq!(listed(false).await, of(&[5, 4, 3, 2, 1]));
    assert_eq!(listed(true).await, of(&[5, 3, 2, 1]));
    let odd = ListBallotsRequest { page_token: "x".into(), ..ListBallotsRequest::default() };
    assert_eq!(code(fleet.tested(at).ballots.list_ballots(Request::new(odd)).await), Code::InvalidArgument);
}

/// A fleet with TLS that knows the agents `b` and `c`, with an open ballot for them and for ann.
pub(super) async fn secured() -> (TestFleet, usize, v1::Ballot) {
    let fleet = TestFleet::start_secured(Enrolment::Proof);
    let leader = fleet.led().await;
    in_force(&fleet).await;
    for name in ["b", "c"] {
        let join = Command::Agent(AgentCommand::Joined(fixture::join(name, 1)));
        let joined = fleet.tested(leader).proposer.propose_one(join).await.expect("it leads");
        assert!(matches!(joined, Reply::Joined { .. }), "{joined:?}");
    }
    let ann = TestMember::certified(&fleet, PeerRole::Client, "ann");
    let request = asked(7, &[("b", 1), ("c", 1), ("client:ann", 1)]);
    let opened = retried(async || client(&ann, &fleet, leader).open_ballot(request.clone()).await).await;
    let ballot = opened.expect("she may").into_inner().ballot.expect("it says which");
    assert_eq!((ballot.opened_by.as_str(), &ballot.fleet), ("client:ann", &realm().to_string()));
    (fleet, leader, ballot)
}

pub(super) fn client(member: &TestMember, fleet: &TestFleet, at: usize) -> BallotsClient<Channel> {
    BallotsClient::new(member.channel(fleet, at))
}

/// A vote that is signed with a key that is bound to this member's certificate.
fn signed(member: &TestMember, name: &str, ballot: &v1::Ballot, choice: Choice) -> CastVoteRequest {
    let key = VotingKey::generate().expect("it is made");
    let id: uuid::Uuid = ballot.id.parse().expect("it is one");
    let statement = VoteStatement {
        fleet: ballot.fleet.clone(),
        ballot: id.as_u128().to_be_bytes(),
        digest: (*ballot.digest).try_into().expect("it has 32 bytes"),
        member: name.to_owned(),
        choice: choice.number(),
        option: 0,
        reason: "so".to_owned(),
    };
    let binding = KeyBinding::make(&ballot.fleet, name, &key, &member.key).expect("it is bound");
    CastVoteRequest {
        ballot: ballot.id.clone(),
        choice: choice.number().into(),
        reason: "so".into(),
        envelope: key.sign(&statement).to_bytes(),
        binding: binding.to_bytes(),
        certificate: member.certificate().to_vec().into(),
        ..CastVoteRequest::default()
    }
}

#[tokio::test(start_paused = true)]
async fn members_with_certificates_sign_and_what_proves_their_votes_is_kept() {
    let (fleet, leader, ballot) = secured().await;
    let members: BTreeMap<&str, TestMember> = BTreeMap::from([
        ("b", enrolled(&fleet, leader, "b").await),
        ("client:ann", TestMember::certified(&fleet, PeerRole::Client, "ann")),
    ]);
    for ((name, member), at) in members.iter().zip(fleet.followers(leader)) {
        let request = signed(member, name, &ballot, Choice::Approve);
        for _ in 0..2 {
            let cast = retried(async || client(member, &fleet, at).cast_vote(request.clone()).await).await;
            cast.expect("it counts, and again it is the same");
        }
        let other = signed(member, name, &ballot, Choice::Reject);
        assert_eq!(code(client(member, &fleet, at).cast_vote(other).await), Code::AlreadyExists, "{name}");
    }
    let ann = &members["client:ann"];
    let request = GetBallotRequest { id: ballot.id.clone(), wait: None, evidence: true };
    let kept = client(ann, &fleet, leader).get_ballot(request).await.expect("she may").into_inner();
    assert_eq!((kept.state(), kept.votes.len()), (BallotState::Approved, 2));
    for vote in kept.votes {
        assert!(vote.signed, "{}", vote.member);
        let at = vote.at.expect("it says when");
        let expect = Expect {
            fleet: &kept.fleet,
            member: &vote.member,
            ballot: 7,
            digest: (*kept.digest).try_into().expect("it has 32 bytes"),
            choice: Choice::Approve.number(),
            option: 0,
            reason: "so",
            at_unix_ms: at.seconds as u64 * 1_000 + at.nanos as u64 / 1_000_000,
        };
        let (envelope, binding, certificate) = (vote.envelope, vote.binding, vote.certificate);
        let evidence = Evidence { envelope, binding, certificate, authority: vote.authority };
        assert_eq!(verify(&evidence, &expect), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn no_member_votes_for_another_and_no_vote_counts_that_is_not_proven() {
    let (fleet, leader, ballot) = secured().await;
    let at = fleet.followers(leader)[0];
    let (b, c) = (enrolled(&fleet, leader, "b").await, enrolled(&fleet, leader, "c").await);
    let eve = TestMember::certified(&fleet, PeerRole::Client, "eve");
    let good = || signed(&b, "b", &ballot, Choice::Approve);
    let of_c = || signed(&c, "c", &ballot, Choice::Approve);
    let forged = signed(&foreign(&b), "b", &ballot, Choice::Approve);
    let unsigned = vote(7, "", VoteChoice::Approve);
    let elsewhere = v1::Ballot { id: BallotId(8).to_string(), ..ballot.clone() };
    let replayed = CastVoteRequest { ballot: ballot.id.clone(), ..signed(&b, "b", &elsewhere, Choice::Approve) };
    for (what, member, request, expected) in [
        ("unsigned", &b, unsigned, Code::InvalidArgument),
        ("as c", &b, CastVoteRequest { member: "c".into(), ..of_c() }, Code::PermissionDenied),
        ("what c has signed", &b, of_c(), Code::PermissionDenied),
        ("signed by b as c", &b, signed(&b, "c", &ballot, Choice::Approve), Code::PermissionDenied),
        ("bound to c", &b, CastVoteRequest { binding: of_c().binding, ..good() }, Code::PermissionDenied),
        ("another choice", &b, CastVoteRequest { choice: VoteChoice::Reject.into(), ..good() }, Code::PermissionDenied),
        ("another reason", &b, CastVoteRequest { reason: "no".into(), ..good() }, Code::PermissionDenied),
        ("another ballot's", &b, replayed, Code::PermissionDenied),
        ("of another authority", &b, forged, Code::PermissionDenied),
        ("of nobody who is asked", &eve, signed(&eve, "client:eve", &ballot, Choice::Approve), Code::PermissionDenied),
    ] {
        let cast = retried(async || client(member, &fleet, at).cast_vote(request.clone()).await).await;
        assert_eq!(code(cast), expected, "{what}");
    }
    let id = BallotId(7);
    let votes = |n: usize| fleet.tested(n).state.look(|state| state.ballot(id).map(|ballot| ballot.votes.len()));
    assert_eq!(votes(leader), Some(0), "none of them is in the log");
    retried(async || client(&b, &fleet, at).cast_vote(good()).await).await.expect("it is proven");
    assert_eq!(votes(at), Some(1));
}

#[tokio::test(start_paused = true)]
async fn an_agent_votes_as_the_process_that_has_enrolled_last_with_the_key_that_it_connects_with() {
    let (fleet, leader, ballot) = secured().await;
    let at = fleet.followers(leader)[0];
    let stranger = TestMember::certified(&fleet, PeerRole::Worker, "b");
    let cast = async |member: &TestMember, request: CastVoteRequest| {
        retried(async || client(member, &fleet, at).cast_vote(request.clone()).await).await
    };
    let unknown = cast(&stranger, signed(&stranger, "b", &ballot, Choice::Approve)).await;
    assert_eq!(code(unknown), Code::Unauthenticated, "it has not enrolled");
    let first = enrolled(&fleet, leader, "b").await;
    let second = enrolled(&fleet, leader, "b").await;
    let superseded = cast(&first, signed(&first, "b", &ballot, Choice::Approve)).await;
    assert_eq!(code(superseded), Code::PermissionDenied, "another process has the name");
    let stolen = cast(&second, signed(&first, "b", &ballot, Choice::Approve)).await;
    let stolen = stolen.expect_err("the key is another one");
    assert_eq!(stolen.code(), Code::PermissionDenied);
    assert!(stolen.message().contains("has another key"), "{stolen}");
    let [ann, other] = [0; 2].map(|_| TestMember::certified(&fleet, PeerRole::Client, "ann"));
    let stolen = cast(&ann, signed(&other, "client:ann", &ballot, Choice::Approve)).await;
    assert_eq!(code(stolen), Code::PermissionDenied, "of clients, too");
    cast(&second, signed(&second, "b", &ballot, Choice::Approve)).await.expect("it is the one");
}

#[tokio::test(start_paused = true)]
async fn without_tls_nobody_votes_for_an_agent_that_has_a_certificate() {
    let (fleet, leader, ballot) = secured().await;
    let signs: Vec<bool> = ballot.electorate.iter().map(|member| member.signs).collect();
    assert_eq!(signs, [true, true, false], "all agents have certificates where TLS is strict");
    // Where it is not, only those that have enrolled are known to have one.
    let mut permissive = fleet.tested(leader).ballots.clone();
    permissive.ballots.verifying.as_mut().expect("it has TLS").is_strict = false;
    enrolled(&fleet, leader, "b").await;
    let opened = permissive.open_ballot(Request::new(asked(8, &[("b", 1), ("c", 1), ("client:ann", 1)]))).await;
    let opened = opened.expect("it is opened").into_inner().ballot.expect("it says which");
    let signs: Vec<bool> = opened.electorate.iter().map(|member| member.signs).collect();
    assert_eq!(signs, [true, false, false]);
    let plain = async |member: &str| {
        let vote = vote(8, member, VoteChoice::Abstain);
        code(permissive.cast_vote(Request::new(vote)).await)
    };
    assert_eq!(plain("b").await, Code::PermissionDenied);
    let enrolled_since = enrolled(&fleet, leader, "c").await;
    assert_eq!(plain("c").await, Code::PermissionDenied, "it has one by now");
    drop(enrolled_since);
    assert_eq!(plain("client:ann").await, Code::Ok, "of users it is not known");
    // Whichever coordinator says so: the state machine refuses an unsigned vote.
    let unsigned = robeing_fleet::CastVote {
        ballot: BallotId(8),
        member: "b".into(),
        choice: robeing_fleet::Choice::Approve,
        option: 0,
        reason: String::new(),
        evidence: None,
        attested_by: "c-9".into(),
    };
    let command = Command::Ballot(robeing_fleet::BallotCommand::Cast(unsigned));
    let refused = fleet.tested(leader).proposer.propose_one(command).await.expect("it leads");
    let Reply::Refused(robeing_fleet::Refusal::Invalid { field, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(field, "evidence");
}

/// A process with the same name, of another authority.
fn foreign(member: &TestMember) -> TestMember {
    let stated = robeing_identity::Certificate::from_der(member.certificate()).expect("it is one");
    let now = Platform::real().clock.unix_millis();
    let authority = Authority::create(&realm(), now).expect("it is made");
    let stranger = TestMember::newcomer();
    let request = SigningRequest::from_der(&stranger.key.request().expect("it is signed")).expect("it is one");
    let issued = authority.issue(&request, &stated.id, &[], now, LEAF_LIFETIME).expect("it is issued");
    stranger.with(issued.certificate)
}
