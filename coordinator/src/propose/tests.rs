use robeing_fleet::{Fleet, FleetConfig};

use super::{
    driver::{FORWARD_TIMEOUT, while_following},
    *,
};
use crate::raft::Peer;

const MIB: usize = 1024 * 1024;

/// A proposer without a driver: only the test takes its requests.
fn idle() -> (Proposer, mpsc::Receiver<Request>) {
    let (requests, receiver) = mpsc::channel(MAX_WAITING);
    let rooms = Lane::ALL.map(|lane| Arc::new(Semaphore::new(lane.room())));
    let fleet = SharedFleet::new(Fleet::new(FleetConfig::default()));
    let proposer = Proposer {
        requests,
        rooms,
        settled: Arc::default(),
        senders: Arc::default(),
        raft_role: watch::channel(RaftRole::Leaderless).1,
        fleet,
    };
    (proposer, receiver)
}

fn hand_in(proposer: &Proposer, lane: Lane, bytes: usize) -> tokio::task::JoinHandle<Answer> {
    let (proposer, sender) = (proposer.clone(), proposer.sender());
    let commands = vec![vec![0; bytes].into()];
    tokio::spawn(async move { proposer.request(lane, sender, commands, Scope::Here).await })
}

#[tokio::test(start_paused = true)]
async fn a_full_lane_keeps_others_waiting_and_other_lanes_are_not_concerned() {
    let (proposer, mut requests) = idle();
    let mut large: Vec<_> = (0..9).map(|_| hand_in(&proposer, Lane::Users, 4 * MIB)).collect();
    let mut taken = Vec::new();
    for _ in 0..7 {
        taken.push(requests.recv().await.expect("there is room"));
    }
    let small = hand_in(&proposer, Lane::Users, 10);
    let loss = hand_in(&proposer, Lane::Fleet, 10);
    assert_eq!(requests.recv().await.map(|request| request.lane), Some(Lane::Fleet), "the next one there is room for");
    assert!(requests.try_recv().is_err(), "the lane of users is full");
    // An answer frees capacity, in the order in which it was asked for.
    drop(taken.remove(0));
    taken.push(requests.recv().await.expect("there is room for one"));
    assert!(taken.iter().all(|request| request.bytes > MIB), "the small one is behind another large one");
    // Other commands were written meanwhile, so the error says that this one was not.
    proposer.settled.fetch_add(1, Ordering::Relaxed);
    let last = large.pop().expect("nine were handed in");
    assert_eq!(last.await.unwrap(), Err(ProposeError::Busy));
    assert_eq!(requests.recv().await.map(|request| request.bytes < MIB), Some(true), "there is room behind it");
    drop((large, small, loss, taken));
}

#[test]
fn a_request_that_may_be_in_the_log_is_never_said_to_have_been_left_out() {
    let settled = AtomicU64::new(7);
    assert_eq!(given_up(6, &settled, false), ProposeError::Busy);
    assert_eq!(given_up(7, &settled, false), ProposeError::NoLeader, "nothing was written");
    assert_eq!(given_up(6, &settled, true), ProposeError::Unanswered, "it was on its way once");
}

#[tokio::test]
async fn of_commands_in_several_requests_it_is_only_said_that_none_was_written_if_so() {
    for (written, expected) in [(0, ProposeError::Busy), (1, ProposeError::Unanswered)] {
        let (proposer, mut requests) = idle();
        let commands: Vec<Bytes> = vec![vec![0; MESSAGE_BUDGET_BYTES].into(); 3];
        let proposing =
            tokio::spawn(async move { proposer.propose_encoded(Lane::Users, proposer.sender(), commands).await });
        for answer in std::iter::repeat_n(Ok(vec![Reply::Done]), written).chain([Err(ProposeError::Busy)]) {
            let request = requests.recv().await.expect("it is handed in");
            request.answer.send(answer).expect("it is waited for");
        }
        assert_eq!(proposing.await.unwrap(), Err(expected));
    }
}

/// A request of this scope, and the receiver of its answer.
async fn request_of(scope: Scope) -> (Request, oneshot::Receiver<Answer>) {
    let (answer, answered) = oneshot::channel();
    let room = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("it is open");
    let request = Request {
        lane: Lane::Fleet,
        sender: OWN,
        commands: Vec::new(),
        bytes: 0,
        answer,
        deadline: Instant::now(),
        scope,
        settled: 0,
        tried: false,
        refused: gate::Refused::default(),
        _room: room,
    };
    (request, answered)
}

/// A leader with a slow disk refuses to write for a while and then continues in its term. A request for that term must
/// not be given up meanwhile, because the caller would conclude that the term is over.
#[tokio::test]
async fn what_was_refused_is_proposed_again_in_its_term_and_what_may_be_written_is_not() {
    for scope in [Scope::InTerm(3), Scope::Here, Scope::Anywhere] {
        let (request, mut answered) = request_of(scope).await;
        let again = request.once_more(true).expect("it was refused, so it is nowhere");
        assert!(!again.tried && answered.try_recv().is_err(), "{scope:?}: it is as it was");
    }
    let (request, answered) = request_of(Scope::InTerm(3)).await;
    assert!(request.once_more(false).is_none());
    assert_eq!(answered.await.unwrap(), Err(ProposeError::NotLeader));
    let (request, _answered) = request_of(Scope::Anywhere).await;
    assert!(request.once_more(false).is_some_and(|request| request.tried), "it may be written twice, and says so");
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused() {
    let (proposer, _requests) = idle();
    let refused = hand_in(&proposer, Lane::Users, MAX_REQUEST_BYTES).await.unwrap();
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })), "{refused:?}");
}

fn following(leader: NodeId) -> RaftRole {
    RaftRole::Following { leader, peer: Peer { name: "leader".into(), address: "127.0.0.1:1".into() } }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_answers_nothing_is_waited_for_only_while_it_leads() {
    let (raft_role, receiver) = watch::channel(following(1));
    let mut call = tokio::spawn(while_following(receiver, 1, futures::future::pending::<()>()));
    let waited = tokio::time::timeout(FORWARD_TIMEOUT * 2, &mut call).await;
    assert!(waited.is_err(), "given up though the leader is the same");
    raft_role.send_replace(following(2));
    assert_eq!(call.await.unwrap(), None, "there is another leader to ask");
}

#[tokio::test]
async fn an_answer_of_the_leader_counts() {
    let (_standing, receiver) = watch::channel(following(1));
    assert_eq!(while_following(receiver, 1, async { 7 }).await, Some(7));
}
