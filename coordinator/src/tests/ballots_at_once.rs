//! Several ballots, and several votes, in one call.

use bytes::Bytes;
use robeing_fleet::{BallotId, BarKind, Command, IdentityCommand, Reply};
use robeing_identity::PeerRole;
use robeing_proto::v1::{
    self, BallotState, CastVoteRequest, CastVotesRequest, GetBallotRequest, OpenBallotRequest, OpenBallotsRequest,
    VoteChoice, ballots_server::Ballots as _,
};
use robeing_votes::{
    BoundKey, Choice, Evidence, Expect, MAX_OPENED_TOGETHER, MAX_SIGNED_TOGETHER, VoteStatement, VotingKey, verify,
};
use tonic::{Code, Request, Status};

use crate::tests::{
    ballots::{asked, client, get, open, secured, vote},
    enrolment::enrolled,
    fleet::TestFleet,
    mail::mailbox::start,
    member::{TestMember, code, retried},
};

/// The code of a result.
fn coded(code: i32) -> Code {
    Code::from(code)
}

async fn cast_all(
    fleet: &TestFleet,
    at: usize,
    votes: Vec<CastVoteRequest>,
) -> Result<Vec<v1::CastVoteResult>, Status> {
    let request = CastVotesRequest { votes, ..CastVotesRequest::default() };
    Ok(fleet.tested(at).ballots.cast_votes(Request::new(request)).await?.into_inner().results)
}

async fn open_all(
    fleet: &TestFleet,
    at: usize,
    ballots: Vec<OpenBallotRequest>,
) -> Result<Vec<v1::OpenBallotResult>, Status> {
    let request = OpenBallotsRequest { ballots };
    Ok(fleet.tested(at).ballots.open_ballots(Request::new(request)).await?.into_inner().results)
}

#[tokio::test(start_paused = true)]
async fn each_ballot_of_a_call_is_opened_or_refused_for_itself() {
    let (fleet, leader) = start().await;
    let [one, other] = fleet.followers(leader)[..] else { panic!("three coordinators") };
    open(&fleet, leader, asked(3, &[("client:ann", 1)])).await.expect("it is opened");
    let of_ann = |id| asked(id, &[("client:ann", 1)]);
    let different = |request| OpenBallotRequest { question: "Or not?".into(), ..request };
    let requests = vec![
        of_ann(1),
        asked(2, &[("skill:ocr", 1)]),
        of_ann(3),
        different(of_ann(3)),
        asked(4, &[]),
        of_ann(1),
        different(of_ann(1)),
        of_ann(5),
    ];
    for (n, at) in [one, one, other, leader].into_iter().enumerate() {
        let results = open_all(&fleet, at, requests.clone()).await.expect("some are opened");
        let codes: Vec<Code> = results.iter().map(|result| coded(result.code)).collect();
        let (good, exists) = (Code::Ok, Code::AlreadyExists);
        let expected = [good, Code::NotFound, good, exists, Code::InvalidArgument, good, exists, good];
        assert_eq!(codes, expected, "{n}");
        for (request, result) in requests.iter().zip(results) {
            let id = result.ballot.map(|ballot| ballot.id);
            assert_eq!(id, (coded(result.code) == good).then(|| request.id.clone()), "{}", result.message);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_vote_of_a_call_is_counted_or_refused_for_itself() {
    let (fleet, leader) = start().await;
    for (id, member) in [(1, "client:ann"), (2, "client:bob"), (3, "client:ann")] {
        open(&fleet, leader, asked(id, &[(member, 2), ("client:eve", 1)])).await.expect("it is opened");
    }
    let votes = vec![
        vote(1, "client:ann", VoteChoice::Approve),
        vote(2, "client:ann", VoteChoice::Approve),
        vote(9, "client:ann", VoteChoice::Approve),
        vote(3, "client:ann", VoteChoice::Abstain),
        vote(3, "client:ann", VoteChoice::Abstain),
        vote(3, "client:ann", VoteChoice::Reject),
        vote(1, "client:eve", VoteChoice::Reject),
        vote(2, "client:bob", VoteChoice::Unspecified),
    ];
    let (approved, rejected) = (BallotState::Approved, BallotState::Rejected);
    let unspecified = BallotState::Unspecified;
    for at in [fleet.followers(leader)[0], leader] {
        let results = cast_all(&fleet, at, votes.clone()).await.expect("some count");
        let results: Vec<_> = results.iter().map(|result| (coded(result.code), result.state())).collect();
        let expected = [
            (Code::Ok, approved),
            (Code::PermissionDenied, unspecified),
            (Code::NotFound, unspecified),
            (Code::Ok, rejected),
            (Code::Ok, rejected),
            (Code::AlreadyExists, unspecified),
            (Code::FailedPrecondition, unspecified),
            (Code::InvalidArgument, unspecified),
        ];
        assert_eq!(results, expected, "whoever is asked again says the same");
        let kept = get(&fleet, at, 3, 0).await.expect("it is known");
        assert_eq!((kept.state(), kept.votes.len()), (rejected, 1), "an abstention of two thirds leaves too little");
    }
}

#[tokio::test(start_paused = true)]
async fn one_call_has_so_many_ballots_and_votes() {
    let (fleet, leader) = start().await;
    let ballots = |count: usize| (1..=count as u128).map(|id| asked(id, &[("client:ann", 1)])).collect::<Vec<_>>();
    for wrong in [0, MAX_OPENED_TOGETHER + 1] {
        assert_eq!(code(open_all(&fleet, leader, ballots(wrong)).await), Code::InvalidArgument, "{wrong}");
    }
    let opened = open_all(&fleet, leader, ballots(MAX_OPENED_TOGETHER)).await.expect("so many are opened");
    assert!(opened.iter().all(|result| result.code == 0 && result.ballot.is_some()));
    let votes = |count: usize| {
        let id = |n: usize| 1 + (n % MAX_OPENED_TOGETHER) as u128;
        (0..count).map(|n| vote(id(n), "client:ann", VoteChoice::Approve)).collect::<Vec<_>>()
    };
    for wrong in [0, MAX_SIGNED_TOGETHER + 1] {
        assert_eq!(code(cast_all(&fleet, leader, votes(wrong)).await), Code::InvalidArgument, "{wrong}");
    }
    let counted = cast_all(&fleet, leader, votes(MAX_SIGNED_TOGETHER)).await.expect("so many are counted");
    assert_eq!(counted.len(), MAX_SIGNED_TOGETHER);
    assert!(counted.iter().all(|result| result.code == 0 && result.state() == BallotState::Approved));
}

#[tokio::test(start_paused = true)]
async fn of_ballots_for_which_there_is_no_room_together_the_first_ones_are_opened() {
    let (fleet, leader) = start().await;
    let names: Vec<String> = (0..50).map(|n| format!("client:{n}")).collect();
    let members: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let ballots = (1..=MAX_OPENED_TOGETHER as u128).map(|id| asked(id, &members)).collect();
    let opened = open_all(&fleet, fleet.followers(leader)[0], ballots).await.expect("some are opened");
    let count = opened.iter().take_while(|result| result.code == 0).count();
    assert!((1..MAX_OPENED_TOGETHER).contains(&count), "{count}");
    assert!(opened[count..].iter().all(|result| coded(result.code) == Code::ResourceExhausted), "{opened:?}");
    let one_more = open(&fleet, leader, asked(1_000, &members)).await;
    assert_eq!(code(one_more), Code::ResourceExhausted, "there is room for no other one");
}

/// Votes of a member for these ballots, signed together, whose key is bound to its certificate.
fn signed_together(member: &TestMember, name: &str, key: &BoundKey, ballots: &[&v1::Ballot]) -> CastVotesRequest {
    let statement = |ballot: &&v1::Ballot| VoteStatement {
        fleet: ballot.fleet.clone(),
        ballot: ballot.id.parse::<uuid::Uuid>().expect("it is one").into_bytes(),
        digest: (*ballot.digest).try_into().expect("it has 32 bytes"),
        member: name.to_owned(),
        choice: Choice::Approve.number(),
        option: 0,
        reason: "so".to_owned(),
    };
    let statements: Vec<VoteStatement> = ballots.iter().map(statement).collect();
    let envelopes = key.key().sign_all(&statements);
    let vote = |(ballot, envelope): (&&v1::Ballot, robeing_votes::Envelope)| CastVoteRequest {
        ballot: ballot.id.clone(),
        choice: VoteChoice::Approve.into(),
        reason: "so".into(),
        envelope: envelope.to_bytes(),
        ..CastVoteRequest::default()
    };
    let votes = ballots.iter().zip(envelopes).map(vote).collect();
    let bound = key.binding(&ballots[0].fleet, name, member.certificate(), &member.key);
    let (binding, certificate) = bound.expect("it is bound");
    CastVotesRequest { votes, binding, certificate }
}

/// Casts signed votes in one call, and returns the codes of the results. Repeats the call until the fleet can verify them.
async fn cast_signed(
    member: &TestMember,
    fleet: &TestFleet,
    at: usize,
    request: CastVotesRequest,
) -> Result<Vec<Code>, Status> {
    let cast = async || {
        let results = client(member, fleet, at).cast_votes(request.clone()).await?.into_inner().results;
        match results.iter().find(|result| coded(result.code) == Code::Unavailable) {
            Some(result) => Err(Status::unavailable(result.message.clone())),
            None => Ok(results.iter().map(|result| coded(result.code)).collect::<Vec<Code>>()),
        }
    };
    retried(cast).await
}

/// Opens more ballots for `b` and `c` in a fleet with TLS.
async fn more(fleet: &TestFleet, at: usize, ids: &[u128]) -> Vec<v1::Ballot> {
    let ann = TestMember::certified(fleet, PeerRole::Client, "ann");
    let ballots: Vec<OpenBallotRequest> = ids.iter().map(|id| asked(*id, &[("b", 1), ("c", 1)])).collect();
    let request = OpenBallotsRequest { ballots };
    let opened = retried(async || client(&ann, fleet, at).open_ballots(request.clone()).await).await;
    let results = opened.expect("she may").into_inner().results;
    results.into_iter().map(|result| result.ballot.expect("it is opened")).collect()
}

fn new_key() -> BoundKey {
    BoundKey::new(VotingKey::generate().expect("it is made"))
}

#[tokio::test(start_paused = true)]
async fn of_votes_that_are_signed_together_a_wrong_one_is_refused_alone_and_the_others_are_proven() {
    let (fleet, leader, first) = secured().await;
    let at = fleet.followers(leader)[0];
    let others = more(&fleet, leader, &[8, 9, 10]).await;
    let b = enrolled(&fleet, leader, "b").await;
    let key = new_key();
    let ballots: Vec<&v1::Ballot> = [&first].into_iter().chain(&others).collect();
    let mut request = signed_together(&b, "b", &key, &ballots);
    // One with the signature of another vote, one that says something else, and one that counts twice.
    request.votes[1].envelope = request.votes[0].envelope.clone();
    request.votes[2].reason = "no".into();
    request.votes.push(request.votes[3].clone());
    let (good, denied) = (Code::Ok, Code::PermissionDenied);
    let codes = cast_signed(&b, &fleet, at, request.clone()).await.expect("some count");
    assert_eq!(codes, [good, denied, denied, good, good]);
    for (ballot, count) in ballots.iter().zip([1, 0, 0, 1]) {
        let request = GetBallotRequest { id: ballot.id.clone(), wait: None, evidence: true };
        let kept = client(&b, &fleet, at).get_ballot(request).await.expect("it may").into_inner();
        assert_eq!(kept.votes.len(), count, "{}", kept.id);
        for vote in kept.votes {
            let at = vote.at.expect("it says when");
            let expect = Expect {
                fleet: &kept.fleet,
                member: "b",
                ballot: kept.id.parse::<uuid::Uuid>().expect("it is one").as_u128(),
                digest: (*kept.digest).try_into().expect("it has 32 bytes"),
                choice: Choice::Approve.number(),
                option: 0,
                reason: "so",
                at_unix_ms: at.seconds as u64 * 1_000 + at.nanos as u64 / 1_000_000,
            };
            let (envelope, binding, certificate) = (vote.envelope, vote.binding, vote.certificate);
            let evidence = Evidence { envelope, binding, certificate, authority: vote.authority };
            assert_eq!(verify(&evidence, &expect), Ok(()), "each is proven without the others");
        }
    }
    // The key is known by now, and what it has not signed is refused all the same.
    let mut forged = signed_together(&b, "b", &new_key(), &ballots[1..3]);
    forged.binding = request.binding.clone();
    assert_eq!(cast_signed(&b, &fleet, at, forged).await.expect("each for itself"), [denied; 2]);
    let again = signed_together(&b, "b", &key, &ballots[1..3]);
    assert_eq!(cast_signed(&b, &fleet, at, again).await.expect("they count"), [good; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_known_votes_for_its_member_alone_and_not_when_that_is_replaced_or_barred() {
    let (fleet, leader, first) = secured().await;
    let others = more(&fleet, leader, &[8, 9]).await;
    let (b, c) = (enrolled(&fleet, leader, "b").await, enrolled(&fleet, leader, "c").await);
    let key = new_key();
    let cast =
        async |member: &TestMember, request: CastVotesRequest| cast_signed(member, &fleet, leader, request).await;
    let of = |ballot: &v1::Ballot| signed_together(&b, "b", &key, &[ballot]);
    assert_eq!(cast(&b, of(&first)).await.expect("it counts"), [Code::Ok]);
    let stolen = of(&others[0]);
    assert_eq!(cast(&c, stolen.clone()).await.expect("each for itself"), [Code::PermissionDenied], "by another member");
    let with_own = CastVotesRequest { certificate: c.certificate().to_vec().into(), ..stolen.clone() };
    assert_eq!(cast(&c, with_own).await.expect("each for itself"), [Code::PermissionDenied], "bound to another one");
    let without = CastVotesRequest { binding: Bytes::new(), ..stolen };
    assert_eq!(cast(&b, without).await.expect("each for itself"), [Code::InvalidArgument], "bound to nothing");
    let second = enrolled(&fleet, leader, "b").await;
    assert_eq!(code(cast(&b, of(&others[0])).await), Code::PermissionDenied, "another process has the name");
    let of_second = |ballot: &v1::Ballot| signed_together(&second, "b", &key, &[ballot]);
    assert_eq!(cast(&second, of_second(&others[0])).await.expect("it counts"), [Code::Ok], "its key is bound anew");
    let bar =
        IdentityCommand::Bar { agent: "b".into(), kind: BarKind::Quarantined, reason: "odd".into(), by: "test".into() };
    let barred = fleet.tested(leader).proposer.propose_one(Command::Identity(bar)).await.expect("it leads");
    assert!(!matches!(barred, Reply::Refused(_)), "{barred:?}");
    assert_eq!(code(cast(&second, of_second(&others[1])).await), Code::PermissionDenied, "it is quarantined");
    let votes = fleet.tested(leader).state.look(|state| state.ballot(BallotId(9)).map(|ballot| ballot.votes.len()));
    assert_eq!(votes, Some(0));
}
