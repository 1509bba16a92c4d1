//! Voting against a coordinator that the test plays.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use robeing_fleet::{NOTICE_KIND, NOTICE_SENDER};
use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, TrustBundle};
use robeing_net::{
    Transport,
    security::{Credentials, Tls, TrustClock},
};
use robeing_platform::{Clock, Platform, SystemClock, simulated::MemoryNetwork};
use robeing_proto::v1::{
    Ballot, CastVoteRequest, CastVoteResponse, CastVoteResult, CastVotesRequest, CastVotesResponse, GetBallotRequest,
    ListBallotsRequest, ListBallotsResponse, OpenBallotRequest, OpenBallotResponse, OpenBallotsRequest,
    OpenBallotsResponse, VoteChoice,
    ballots_server::{Ballots, BallotsServer},
};
use robeing_telemetry::Metrics;
use robeing_votes::{Choice, Envelope, Evidence, Expect, issuer_in, verify};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, service::Routes};
use uuid::Uuid;

use super::{
    Decision, Ended, MAX_DECISIONS, Notice, Voter, VotingHandler, VotingMetrics,
    casting::DOUBTED_FOR,
    fixture::{FLEET, notice},
};
use crate::{
    messaging::{
        Packet,
        handlers::{Delivery, Handler, HandlerOutcome},
        tests::fixture::packet,
    },
    upstream::Upstream,
};

/// A test that waits for longer has failed.
const WITHIN: Duration = Duration::from_secs(300);

/// A coordinator that answers as the test says: that the vote is counted, unless another answer is prepared.
#[derive(Clone)]
struct Played {
    /// How many votes were in each call.
    calls: Arc<Mutex<Vec<usize>>>,
    cast: mpsc::UnboundedSender<CastVoteRequest>,
    refusals: Arc<Mutex<VecDeque<Code>>>,
}

#[tonic::async_trait]
impl Ballots for Played {
    async fn open_ballot(&self, _: Request<OpenBallotRequest>) -> Result<Response<OpenBallotResponse>, Status> {
        Err(Status::unimplemented("agents don't call it"))
    }

    async fn open_ballots(&self, _: Request<OpenBallotsRequest>) -> Result<Response<OpenBallotsResponse>, Status> {
        Err(Status::unimplemented("agents don't call it"))
    }

    async fn cast_vote(&self, _: Request<CastVoteRequest>) -> Result<Response<CastVoteResponse>, Status> {
        Err(Status::unimplemented("agents don't call it"))
    }

    async fn cast_votes(&self, request: Request<CastVotesRequest>) -> Result<Response<CastVotesResponse>, Status> {
        let CastVotesRequest { votes, binding, certificate } = request.into_inner();
        self.calls.lock().unwrap().push(votes.len());
        let mut results = Vec::new();
        for mut vote in votes {
            if vote.binding.is_empty() {
                vote.binding = binding.clone();
            }
            vote.certificate = certificate.clone();
            let _ = self.cast.send(vote);
            let code = self.refusals.lock().unwrap().pop_front().unwrap_or(Code::Ok).into();
            results.push(CastVoteResult {
                code,
                message: "the coordinator says so".into(),
                ..CastVoteResult::default()
            });
        }
        Ok(Response::new(CastVotesResponse { results }))
    }

    async fn get_ballot(&self, _: Request<GetBallotRequest>) -> Result<Response<Ballot>, Status> {
        Err(Status::unimplemented("agents don't call it"))
    }

    async fn list_ballots(&self, _: Request<ListBallotsRequest>) -> Result<Response<ListBallotsResponse>, Status> {
        Err(Status::unimplemented("agents don't call it"))
    }
}

/// Decides as the test says.
struct Decider {
    asked: mpsc::UnboundedSender<Packet>,
    outcomes: Arc<Mutex<VecDeque<HandlerOutcome>>>,
}

#[async_trait]
impl Handler for Decider {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        let _ = self.asked.send(delivery.packet);
        self.outcomes.lock().unwrap().pop_front().expect("the test has prepared an outcome")
    }

    fn at_once(&self) -> usize {
        3
    }

    fn name(&self) -> &'static str {
        "command"
    }
}

/// The agent `b` of a fleet, and its coordinator.
struct Stage {
    handler: VotingHandler,
    asked: mpsc::UnboundedReceiver<Packet>,
    outcomes: Arc<Mutex<VecDeque<HandlerOutcome>>>,
    calls: Arc<Mutex<Vec<usize>>>,
    cast: mpsc::UnboundedReceiver<CastVoteRequest>,
    refusals: Arc<Mutex<VecDeque<Code>>>,
    metrics: Metrics,
    fleet: &'static str,
    stop: CancellationToken,
    _senders: Vec<watch::Sender<Arc<Credentials>>>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Returns the credentials of a member of the fleet.
fn credentials(authority: &Authority, role: PeerRole, name: &str) -> Credentials {
    let key = PrivateKey::generate().expect("a key");
    let request = SigningRequest::from_der(&key.request().expect("a request")).expect("it is one");
    let id = realm().member(role, name).expect("a name");
    let issued = authority.issue(&request, &id, &[], SystemClock.unix_millis(), LEAF_LIFETIME).expect("it is issued");
    let clock = Arc::new(TrustClock::new(Arc::new(SystemClock)));
    let bundle = TrustBundle::from_pem(authority.certificate_pem()).expect("a bundle");
    Credentials::new("one", Some(bundle), Some((issued.certificate, &key)), &clock).expect("they fit")
}

/// Returns the transport of a member of the fleet, and what keeps its credentials.
fn transport(
    platform: &Platform,
    authority: &Authority,
    role: PeerRole,
    name: &str,
) -> (Transport, watch::Sender<Arc<Credentials>>) {
    let (sender, receiver) = watch::channel(Arc::new(credentials(authority, role, name)));
    (Transport::secured(Arc::clone(&platform.network), Tls::new(receiver, false)), sender)
}

fn realm() -> Realm {
    Realm::new("robeing.local", "default", "one").expect("a realm")
}

impl Stage {
    async fn plain() -> Self {
        Self::start(None).await
    }

    async fn start(authority: Option<&Authority>) -> Self {
        let platform = Platform { network: Arc::new(MemoryNetwork::default()), ..Platform::real() };
        let mut senders = Vec::new();
        let mut transport = |role, name| match authority {
            None => Transport::new(Arc::clone(&platform.network)),
            Some(authority) => {
                let (transport, sender) = transport(&platform, authority, role, name);
                senders.push(sender);
                transport
            }
        };
        let (coordinator, agent) = (transport(PeerRole::Coordinator, "c-0"), transport(PeerRole::Worker, "b"));
        let ((casting, cast), (asking, asked)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let (outcomes, refusals) = (Arc::<Mutex<VecDeque<_>>>::default(), Arc::<Mutex<VecDeque<_>>>::default());
        let (stop, metrics) = (CancellationToken::new(), Metrics::default());
        let bound = coordinator.bind("127.0.0.1:0").await.expect("an address");
        let address = bound.local_addr().expect("an address").to_string();
        let calls = Arc::<Mutex<Vec<usize>>>::default();
        let played = Played { calls: Arc::clone(&calls), cast: casting, refusals: Arc::clone(&refusals) };
        tokio::spawn(bound.serve(Routes::new(BallotsServer::new(played)), stop.clone()));
        let upstream = Arc::new(Upstream::new(agent.clone(), vec![address], &*platform.random));
        let voter = Voter::new("b".into(), upstream, agent, Arc::clone(&platform.random)).expect("there is a key");
        let decider = Arc::new(Decider { asked: asking, outcomes: Arc::clone(&outcomes) });
        let handler = VotingHandler::new(decider, voter, VotingMetrics::new(&metrics));
        let fleet = if authority.is_some() { FLEET } else { "one" };
        Self { handler, asked, outcomes, calls, cast, refusals, metrics, fleet, stop, _senders: senders }
    }

    /// Prepares what the handler replies next.
    fn replies(&self, reply: &str) {
        self.decides(HandlerOutcome::Accepted { reply: Some(Bytes::copy_from_slice(reply.as_bytes())) });
    }

    fn decides(&self, outcome: HandlerOutcome) {
        self.outcomes.lock().unwrap().push_back(outcome);
    }

    /// Prepares what the coordinator answers next.
    fn refuses(&self, codes: &[Code]) {
        self.refusals.lock().unwrap().extend(codes);
    }

    /// Delivers the notice of a ballot.
    async fn notified(&self, ballot: u128, options: &[&str]) -> HandlerOutcome {
        let payload = notice(self.fleet, ballot, options).to_string();
        timeout(WITHIN, self.handler.deliver(delivery(NOTICE_SENDER, payload))).await.expect("it is answered")
    }

    /// Returns the votes that were cast since the last time.
    fn cast(&mut self) -> Vec<CastVoteRequest> {
        std::iter::from_fn(|| self.cast.try_recv().ok()).collect()
    }

    fn times_asked(&mut self) -> usize {
        std::iter::from_fn(|| self.asked.try_recv().ok()).count()
    }

    fn counted(&self, outcome: &str) -> bool {
        let line = format!("robeing_agent_ballot_notices_total{{outcome=\"{outcome}\"}} 1");
        self.metrics.encode().lines().any(|other| other == line)
    }
}

fn delivery(sender: &str, payload: String) -> Delivery {
    let packet = Packet { kind: NOTICE_KIND.into(), sender: sender.into(), payload: payload.into(), ..packet(1) };
    Delivery { packet, deadline: Instant::now() + WITHIN }
}

fn accepted() -> HandlerOutcome {
    HandlerOutcome::Accepted { reply: None }
}

#[tokio::test(start_paused = true)]
async fn the_handlers_decision_is_signed_with_the_digest_of_what_it_was_asked() {
    let authority = Authority::create(&realm(), SystemClock.unix_millis()).expect("an authority");
    let mut stage = Stage::start(Some(&authority)).await;
    stage.replies("{\"vote\": \"approve\", \"option\": \"blue\", \"reason\": \"it is calm\"}\n");
    assert_eq!(stage.notified(7, &["red", "blue"]).await, accepted());
    let cast = stage.cast();
    let [vote] = &cast[..] else { panic!("one vote is cast") };
    assert_eq!((vote.choice(), vote.option, &*vote.reason), (VoteChoice::Approve, 2, "it is calm"));
    assert_eq!(vote.member, "", "the certificate says who it is");
    let bundle = TrustBundle::from_pem(authority.certificate_pem()).expect("a bundle");
    let issuer = issuer_in(&bundle, &vote.certificate, SystemClock.unix_millis()).expect("the authority has issued it");
    let evidence = Evidence {
        envelope: vote.envelope.clone(),
        binding: vote.binding.clone(),
        certificate: vote.certificate.clone(),
        authority: Bytes::copy_from_slice(issuer),
    };
    let text = notice(FLEET, 7, &["red", "blue"]).to_string();
    let digest = Notice::read(text.as_bytes(), "b", Some(FLEET)).expect("it is right").digest;
    let expect = Expect {
        fleet: FLEET,
        member: "b",
        ballot: 7,
        digest,
        choice: Choice::Approve.number(),
        option: 2,
        reason: "it is calm",
        at_unix_ms: SystemClock.unix_millis(),
    };
    assert_eq!(verify(&evidence, &expect), Ok(()));
    let asked = stage.asked.try_recv().expect("the handler was asked");
    assert_eq!((&*asked.kind, &*asked.sender), (NOTICE_KIND, NOTICE_SENDER));
    assert_eq!(asked.payload, text.as_bytes(), "it gets the notice as it is");
    assert!(stage.counted("voted"));
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_a_certificate_says_who_it_is() {
    let mut stage = Stage::plain().await;
    stage.replies(r#"{"vote": "reject"}"#);
    assert_eq!(stage.notified(7, &[]).await, accepted());
    let cast = stage.cast();
    let [vote] = &cast[..] else { panic!("one vote is cast") };
    assert_eq!((vote.choice(), &*vote.member), (VoteChoice::Reject, "b"));
    assert_eq!(vote.ballot, Uuid::from_u128(7).to_string());
    assert!(vote.envelope.is_empty() && vote.binding.is_empty() && vote.certificate.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_reply_has_not_voted() {
    let mut stage = Stage::plain().await;
    stage.decides(accepted());
    assert_eq!(stage.notified(1, &[]).await, accepted());
    assert!(stage.counted("no_vote"));
    stage.decides(HandlerOutcome::Refused { reason: "I am busy".into() });
    assert_eq!(stage.notified(2, &[]).await, HandlerOutcome::Refused { reason: "I am busy".into() });
    stage.replies("yes, of course");
    let HandlerOutcome::Refused { reason } = stage.notified(3, &[]).await else { panic!("it is no vote") };
    assert!(reason.starts_with("the handler's reply is no vote: expected value"), "{reason}");
    assert!(stage.counted("bad_reply"));
    assert_eq!((stage.cast().len(), stage.times_asked()), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_vote_is_cast_again_until_it_is_counted_and_decided_once() {
    let authority = Authority::create(&realm(), SystemClock.unix_millis()).expect("an authority");
    let mut stage = Stage::start(Some(&authority)).await;
    stage.replies(r#"{"vote": "abstain"}"#);
    let codes = [Code::Unavailable, Code::ResourceExhausted, Code::NotFound, Code::Unimplemented, Code::Internal];
    stage.refuses(&codes);
    assert_eq!(stage.notified(7, &[]).await, accepted());
    let votes = stage.cast();
    assert_eq!((votes.len(), stage.times_asked()), (codes.len() + 1, 1));
    assert!(votes.iter().all(|vote| vote.envelope == votes[0].envelope), "it is the same vote");
    assert!(stage.counted("voted"));
}

#[tokio::test(start_paused = true)]
async fn votes_that_are_due_while_one_is_cast_are_signed_and_cast_together() {
    let authority = Authority::create(&realm(), SystemClock.unix_millis()).expect("an authority");
    let mut stage = Stage::start(Some(&authority)).await;
    for _ in 0..5 {
        stage.replies(r#"{"vote": "approve"}"#);
    }
    // The third one is refused at first, and cast again alone.
    stage.refuses(&[Code::Ok, Code::Ok, Code::Unavailable]);
    let notified = join_all((1..=5).map(|ballot| stage.notified(ballot, &[]))).await;
    assert_eq!(notified, vec![accepted(); 5]);
    assert_eq!(*stage.calls.lock().unwrap(), [1, 4, 1]);
    let votes = stage.cast();
    let ballots: Vec<String> = votes.iter().map(|vote| vote.ballot.clone()).collect();
    assert_eq!(ballots, [1, 2, 3, 4, 5, 3].map(|ballot| Uuid::from_u128(ballot).to_string()));
    let signature = |vote: &CastVoteRequest| Envelope::from_bytes(&vote.envelope).expect("it is one").signature;
    assert!(votes[2..5].iter().all(|vote| signature(vote) == signature(&votes[1])), "one signature is of all of them");
    assert_ne!(signature(&votes[0]), signature(&votes[1]));
    assert!(votes.iter().all(|vote| vote.binding == votes[0].binding), "the key is bound once");
    assert_eq!(stage.times_asked(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_decision_outlives_the_time_of_one_delivery() {
    let mut stage = Stage::plain().await;
    stage.replies(r#"{"vote": "approve"}"#);
    stage.refuses(&[Code::Unavailable; 50]);
    let text = notice(stage.fleet, 7, &[]).to_string();
    let short = Duration::from_secs(1);
    let delivered = timeout(short, stage.handler.deliver(delivery(NOTICE_SENDER, text))).await;
    assert!(delivered.is_err(), "it is not counted yet");
    stage.refusals.lock().unwrap().clear();
    assert_eq!(stage.notified(7, &[]).await, accepted());
    assert_eq!(stage.times_asked(), 1, "the decision was kept");
    // Once it is counted, it is forgotten: the fleet knows it.
    stage.replies(r#"{"vote": "approve"}"#);
    assert_eq!(stage.notified(7, &[]).await, accepted());
    assert_eq!(stage.times_asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_for_good_is_not_cast_again() {
    for (codes, times, outcome) in [
        (&[Code::FailedPrecondition][..], 1, "late"),
        (&[Code::AlreadyExists][..], 1, "voted_before"),
        (&[Code::InvalidArgument][..], 1, "refused"),
    ] {
        let mut stage = Stage::plain().await;
        stage.replies(r#"{"vote": "approve"}"#);
        stage.refuses(codes);
        let answered = stage.notified(7, &[]).await;
        assert_eq!(matches!(answered, HandlerOutcome::Refused { .. }), outcome == "refused", "{answered:?}");
        assert_eq!(stage.cast().len(), times, "{codes:?}");
        assert!(stage.counted(outcome), "{codes:?} is {outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_coordinator_may_know_better_is_cast_again_until_it_is_clear() {
    for code in [Code::PermissionDenied, Code::NotFound, Code::Unauthenticated] {
        let mut stage = Stage::plain().await;
        stage.replies(r#"{"vote": "approve"}"#);
        // Eight tries take more than ten seconds: an election may.
        stage.refuses(&[code; 8]);
        assert_eq!(stage.notified(7, &[]).await, accepted(), "{code:?}");
        assert_eq!(stage.cast().len(), 9, "{code:?}");
        assert!(stage.counted("voted"));

        let stage = Stage::plain().await;
        stage.replies(r#"{"vote": "approve"}"#);
        stage.refuses(&[code; 1_000]);
        let begun = Instant::now();
        assert!(matches!(stage.notified(7, &[]).await, HandlerOutcome::Refused { .. }), "{code:?}");
        // The ballot of the notice is open for less than the longest doubt.
        let open_for = Duration::from_secs(30);
        assert!(open_for < DOUBTED_FOR);
        assert!((open_for..open_for + Duration::from_secs(15)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert!(stage.counted("refused"));
    }
}

#[tokio::test(start_paused = true)]
async fn notices_of_others_never_get_to_the_handler_and_other_messages_do() {
    let mut stage = Stage::plain().await;
    let right = notice(stage.fleet, 7, &[]);
    for sender in ["a", "client:ada", "coordinator:c-0", "coordinator:ballots2"] {
        let outcome = stage.handler.deliver(delivery(sender, right.to_string())).await;
        let reason = "coordinators alone send notices of ballots".to_owned();
        assert_eq!(outcome, HandlerOutcome::Refused { reason }, "{sender}");
    }
    let mut changed = right.clone();
    changed["question"] = "delete everything?".into();
    let outcome = stage.handler.deliver(delivery(NOTICE_SENDER, changed.to_string())).await;
    assert!(matches!(outcome, HandlerOutcome::Refused { .. }), "{outcome:?}");
    assert!(stage.counted("bad_notice"));
    assert_eq!((stage.times_asked(), stage.cast().len()), (0, 0));
    stage.replies("hello");
    let delivery = Delivery { packet: packet(2), deadline: Instant::now() + WITHIN };
    let outcome = stage.handler.deliver(delivery).await;
    assert_eq!(outcome, HandlerOutcome::Accepted { reply: Some(Bytes::from_static(b"hello")) });
    assert_eq!((stage.times_asked(), stage.cast().len()), (1, 0));
    assert_eq!((stage.handler.at_once(), stage.handler.name()), (3, "command"));
}

#[tokio::test]
async fn so_many_decisions_are_kept() {
    let platform = Platform::real();
    let plain = Transport::new(platform.network);
    let upstream = Arc::new(Upstream::new(plain.clone(), Vec::new(), &*platform.random));
    let voter = Voter::new("b".into(), upstream, plain, platform.random).expect("there is a key");
    for ballot in 0..=MAX_DECISIONS as u128 {
        let text = notice("one", ballot, &[]).to_string();
        let notice = Notice::read(text.as_bytes(), "b", None).expect("it is right");
        let decision = Decision { choice: Choice::Approve, option: 0, reason: String::new() };
        voter.decide(notice, decision);
    }
    assert!(voter.decided(Uuid::from_u128(0)).is_none(), "the oldest is forgotten");
    assert!(voter.decided(Uuid::from_u128(1)).is_some());
    assert!(voter.decided(Uuid::from_u128(MAX_DECISIONS as u128)).is_some());
}

#[tokio::test]
async fn a_vote_that_was_decided_without_a_certificate_is_signed_once_there_is_one() {
    let platform = Platform::real();
    let authority = Authority::create(&realm(), SystemClock.unix_millis()).expect("an authority");
    let bundle = TrustBundle::from_pem(authority.certificate_pem()).expect("a bundle");
    let clock = Arc::new(TrustClock::new(Arc::new(SystemClock)));
    let without = Credentials::new("one", Some(bundle), None, &clock).expect("they fit");
    let (sender, receiver) = watch::channel(Arc::new(without));
    let transport = Transport::secured(Arc::clone(&platform.network), Tls::new(receiver, true));
    let upstream = Arc::new(Upstream::new(transport.clone(), Vec::new(), &*platform.random));
    let voter = Voter::new("b".into(), upstream, transport, platform.random).expect("there is a key");
    let text = notice(FLEET, 7, &[]).to_string();
    let notice = Notice::read(text.as_bytes(), "b", None).expect("it is right");
    let decided = voter.decide(notice, Decision { choice: Choice::Reject, option: 0, reason: "no".into() });
    let request = async || {
        let CastVotesRequest { mut votes, binding, certificate } =
            voter.request(&[Arc::clone(&decided)]).await.expect("it can be cast");
        CastVoteRequest { binding, certificate, ..votes.pop().expect("one vote") }
    };
    let unsigned = request().await;
    assert_eq!((&*unsigned.member, unsigned.envelope.len()), ("b", 0), "it says who it is");
    sender.send_replace(Arc::new(credentials(&authority, PeerRole::Worker, "b")));
    let signed = request().await;
    assert_eq!((&*signed.member, signed.choice()), ("", VoteChoice::Reject));
    assert!(!signed.envelope.is_empty() && !signed.binding.is_empty() && !signed.certificate.is_empty());
    let again = request().await;
    assert_eq!((again.envelope, again.binding), (signed.envelope, signed.binding), "it is the same vote");
}

#[test]
fn every_outcome_is_counted_under_a_name_of_its_own() {
    let metrics = Metrics::default();
    let counting = VotingMetrics::new(&metrics);
    let all = [
        Ended::Voted,
        Ended::VotedBefore,
        Ended::Late,
        Ended::Refused,
        Ended::NoVote,
        Ended::BadReply,
        Ended::BadNotice,
        Ended::Forged,
    ];
    for ended in all {
        counting.count(ended);
    }
    assert_eq!(metrics.encode().matches("robeing_agent_ballot_notices_total{").count(), all.len());
}
