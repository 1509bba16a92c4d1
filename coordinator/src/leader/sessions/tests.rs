use robeing_platform::Ending;

use super::*;

const TIMING: SessionTiming = SessionTiming {
    heartbeat_interval: Duration::from_millis(500),
    timeout: Duration::from_secs(2),
    health_check_interval: Duration::from_secs(10),
    grace: Duration::from_millis(50),
};
const AGENT: AgentId = AgentId(1);
const SESSION: SessionId = SessionId(1);
const AT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
const PROCESS: Option<SocketAddr> = Some(AT);
const MOST: usize = 100;

fn sessions(term: u64) -> SessionTable {
    let sessions = SessionTable::new(TIMING);
    sessions.begin(term);
    sessions
}

fn connect(sessions: &SessionTable, term: u64, now: Instant) -> Arc<SessionConnection> {
    connect_from(sessions, term, Origin::default(), now)
}

fn connect_from(sessions: &SessionTable, term: u64, origin: Origin, now: Instant) -> Arc<SessionConnection> {
    match sessions.connect(term, AGENT, SESSION, origin, now) {
        Connection::Taken(link) => link,
        _ => panic!("the connection is not accepted"),
    }
}

/// Returns the origin of an agent whose location is known, and the end of its connection.
fn located(guarded: bool) -> (Origin, Ending) {
    let ending = Ending::default();
    (Origin { process: PROCESS, ending: ending.clone(), guarded }, ending)
}

fn probe() -> Vec<Suspicion> {
    vec![Suspicion::Probe(AGENT, SESSION, AT)]
}

/// Probes the agent's location for the first time, with this answer.
fn reach(sessions: &SessionTable, answer: Option<bool>, now: Instant) {
    assert_eq!(sessions.suspicions(now, MOST), probe());
    assert_eq!(sessions.probed(AGENT, SESSION, answer, false, now), Verdict::Unproved);
}

fn silent() -> Vec<Suspicion> {
    vec![Suspicion::Silent(AGENT, SESSION)]
}

#[test]
fn what_agents_have_sent_is_known_while_they_are_connected_here_and_listed_in_pages() {
    let (sessions, now) = (sessions(1), Instant::now());
    let link = connect(&sessions, 1, now);
    assert_eq!(sessions.messages_sent(None, MOST), Some(vec![]), "no heartbeat has told it yet");
    sessions.sent(AGENT, &link, 7);
    let newer = connect(&sessions, 1, now);
    sessions.sent(AGENT, &link, 9);
    assert_eq!(sessions.messages_sent(None, MOST), Some(vec![]), "a connection that was replaced tells nothing");
    sessions.sent(AGENT, &newer, 9);
    assert_eq!(sessions.messages_sent(None, MOST), Some(vec![(AGENT, SESSION, 9)]));
    assert_eq!(sessions.messages_sent(None, 0), Some(vec![]));
    assert_eq!(sessions.messages_sent(Some(AGENT), MOST), Some(vec![]), "after it");
    sessions.end(1);
    assert_eq!(sessions.messages_sent(None, MOST), None, "another coordinator leads");
}

#[test]
fn an_agent_whose_session_began_elsewhere_is_missed_too() {
    let sessions = sessions(1);
    let start = Instant::now();
    sessions.started(AGENT, SESSION, PROCESS, start);
    // Recording it again grants no more time.
    sessions.started(AGENT, SESSION, PROCESS, start + TIMING.timeout / 2);
    assert_eq!(sessions.suspicions(start + TIMING.timeout / 2, MOST), [], "a refusal would prove nothing here");
    assert_eq!(sessions.suspicions(start + TIMING.timeout, MOST), silent());
    assert_eq!(sessions.suspicions(start + TIMING.timeout * 2, MOST), [], "its loss is proposed");
    sessions.ended(AGENT, SESSION);
    // A session that is connected stays connected.
    let link = connect(&sessions, 1, start);
    sessions.started(AGENT, SESSION, PROCESS, start);
    assert!(sessions.heard(AGENT, &link, start + TIMING.timeout));
    assert_eq!(sessions.suspicions(start + TIMING.timeout, MOST), []);
    assert_eq!(sessions.suspicions(start + TIMING.timeout * 2, MOST), silent());
}

#[test]
fn nobody_is_silent_while_no_heartbeat_could_be_answered() {
    let sessions = sessions(1);
    let start = Instant::now();
    connect(&sessions, 1, start);
    let contact = start + TIMING.timeout * 3;
    sessions.without_contact(contact);
    assert_eq!(sessions.suspicions(contact + TIMING.timeout - Duration::from_millis(1), MOST), []);
    assert_eq!(sessions.suspicions(contact + TIMING.timeout, MOST), silent());
}

#[test]
fn an_agent_that_came_back_before_the_leader_began_keeps_its_connection() {
    let sessions = sessions(1);
    let start = Instant::now();
    sessions.started(AGENT, SESSION, PROCESS, start);
    sessions.end(1);
    sessions.started(AGENT, SESSION, PROCESS, start);
    assert_eq!(sessions.suspicions(start + TIMING.timeout, MOST), [], "no leader watches over agents");
    let link = connect(&sessions, 2, start);
    sessions.begin(2);
    sessions.started(AGENT, SESSION, PROCESS, start);
    let late = start + TIMING.timeout;
    assert!(sessions.heard(AGENT, &link, late));
    assert_eq!(sessions.suspicions(late, MOST), []);
    // Nothing remains of an earlier term, and an agent that does not come back is detected as silent.
    sessions.end(1);
    assert!(sessions.heard(AGENT, &link, late), "the end of an earlier term does not affect this one");
    sessions.begin(3);
    assert!(!sessions.heard(AGENT, &link, late));
    assert!(matches!(sessions.connect(2, AGENT, SESSION, Origin::default(), late), Connection::TermOver));
    sessions.started(AGENT, SESSION, PROCESS, start);
    assert_eq!(sessions.suspicions(late, MOST), silent());
    sessions.end(3);
    assert!(matches!(sessions.connect(3, AGENT, SESSION, Origin::default(), late), Connection::TermOver));
}

#[test]
fn what_is_heard_of_an_agent_whose_loss_is_proposed_renews_nothing() {
    let sessions = sessions(1);
    let start = Instant::now();
    let link = connect(&sessions, 1, start);
    let late = start + TIMING.timeout;
    assert_eq!(sessions.suspicions(late, MOST), silent());
    assert!(!sessions.heard(AGENT, &link, late));
    sessions.take_back(AGENT, SESSION, late);
    assert!(sessions.heard(AGENT, &link, late), "the loss was not written");
    assert_eq!(sessions.suspicions(late + TIMING.timeout / 2, MOST), []);
    let again = connect(&sessions, 1, late);
    assert!(!sessions.heard(AGENT, &link, late), "another connection is the agent's");
    assert!(sessions.heard(AGENT, &again, late));
}

#[test]
fn an_agent_that_has_failed_renews_nothing_and_then_counts_as_lost() {
    let sessions = sessions(1);
    let start = Instant::now();
    let at = start + TIMING.timeout;
    let link = connect(&sessions, 1, start);
    let again = connect(&sessions, 1, start);
    sessions.failed(AGENT, &link, at);
    assert!(sessions.heard(AGENT, &again, start), "that connection was replaced");
    for _ in 0..2 {
        sessions.failed(AGENT, &again, at);
        assert!(!sessions.heard(AGENT, &again, start), "its lease must end");
        assert!(matches!(sessions.connect(1, AGENT, SESSION, Origin::default(), start), Connection::Losing(_)));
    }
    sessions.disconnected(AGENT, &again, start);
    assert_eq!(sessions.suspicions(at - Duration::from_millis(1), MOST), [], "it may still run something");
    let failed = [Suspicion::Failed(AGENT, SESSION)];
    assert_eq!(sessions.suspicions(at, MOST), failed);
    assert_eq!(sessions.suspicions(at + TIMING.timeout, MOST), [], "its loss is proposed");
    sessions.take_back(AGENT, SESSION, at);
    assert!(
        matches!(sessions.connect(1, AGENT, SESSION, Origin::default(), at), Connection::Losing(_)),
        "it is still to be lost"
    );
    assert_eq!(sessions.suspicions(at + LOSE_AGAIN, MOST), failed, "the loss was not written");
    sessions.ended(AGENT, SESSION);
    connect(&sessions, 1, at);
}

#[test]
fn an_agent_is_not_missed_for_the_time_in_which_nobody_could_be_heard() {
    let sessions = sessions(1);
    let start = Instant::now();
    connect(&sessions, 1, start);
    sessions.extend_all(TIMING.timeout);
    assert_eq!(sessions.suspicions(start + TIMING.timeout * 2 - TIMING.grace, MOST), []);
    assert_eq!(sessions.suspicions(start + TIMING.timeout * 2, MOST), silent());
    // An agent that is heard from later is not excused for the pause before.
    let sessions = self::sessions(1);
    sessions.extend_all(TIMING.timeout);
    connect(&sessions, 1, start);
    assert_eq!(sessions.suspicions(start + TIMING.timeout, MOST), silent());
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_connection_its_process_has_closed_is_looked_for_at_once_and_lost_when_refused() {
    let sessions = sessions(1);
    let start = Instant::now();
    let (origin, ending) = located(false);
    let link = connect_from(&sessions, 1, origin, start);
    reach(&sessions, Some(true), start);
    ending.close();
    sessions.disconnected(AGENT, &link, start);
    tokio::time::timeout(TIMING.grace, sessions.hurried()).await.expect("it is due at once");
    let mut now = start;
    for _ in 0..3 {
        assert_eq!(sessions.suspicions(now, MOST), probe());
        assert_eq!(sessions.suspicions(now, MOST), [], "once, until the answer arrives");
        assert_eq!(sessions.probed(AGENT, SESSION, Some(true), true, now), Verdict::Unproved);
        now += PROBE_PAUSE;
    }
    assert_eq!(sessions.suspicions(now, MOST), probe());
    assert_eq!(sessions.probed(AGENT, SESSION, Some(false), false, now), Verdict::Gone, "nothing listens there");
    assert_eq!(sessions.suspicions(now + TIMING.timeout, MOST), [], "its loss is proposed");
    assert!(matches!(sessions.connect(1, AGENT, SESSION, Origin::default(), now), Connection::Losing(_)));
}

#[test]
fn refusals_without_a_close_or_by_a_place_that_never_accepted_take_nothing_before_the_timeout() {
    for (accepts, closes) in [(Some(true), false), (Some(false), true), (None, true), (Some(false), false)] {
        let sessions = sessions(1);
        let start = Instant::now();
        let (origin, ending) = located(false);
        let link = connect_from(&sessions, 1, origin, start);
        reach(&sessions, accepts, start);
        if closes {
            ending.close();
        }
        sessions.disconnected(AGENT, &link, start);
        assert_eq!(sessions.suspicions(start, MOST), [], "it has a grace for coming back");
        let mut now = start + TIMING.grace;
        while now < start + TIMING.timeout {
            assert_eq!(sessions.suspicions(now, MOST), probe());
            assert_eq!(sessions.probed(AGENT, SESSION, Some(false), true, now), Verdict::Unproved);
            now += PROBE_PAUSE;
        }
        assert_eq!(sessions.suspicions(start + TIMING.timeout, MOST), silent(), "{accepts:?} {closes}");
    }
}

#[test]
fn a_place_that_did_not_accept_is_asked_again_later() {
    let sessions = sessions(1);
    let start = Instant::now();
    let (origin, _) = located(false);
    let link = connect_from(&sessions, 1, origin, start);
    reach(&sessions, None, start);
    let mut now = start;
    while now < start + REACH_AGAIN {
        assert_eq!(sessions.suspicions(now, MOST), []);
        now += TIMING.timeout / 4;
        assert!(sessions.heard(AGENT, &link, now));
    }
    reach(&sessions, Some(true), now);
    now += TIMING.timeout - TIMING.grace;
    assert_eq!(sessions.suspicions(now, MOST), [], "it is known now");
}

#[test]
fn a_guard_has_its_time_before_a_refusal_counts_and_its_report_needs_none() {
    let sessions = sessions(1);
    let start = Instant::now();
    let (origin, ending) = located(true);
    let link = connect_from(&sessions, 1, origin.clone(), start);
    reach(&sessions, Some(true), start);
    ending.close();
    sessions.disconnected(AGENT, &link, start);
    assert_eq!(sessions.suspicions(start, MOST), probe());
    assert_eq!(sessions.probed(AGENT, SESSION, Some(false), false, start), Verdict::GoneUnlessGuarded);
    assert_eq!(sessions.suspicions(start + PROBE_PAUSE, MOST), [], "the caller probes again");
    assert_eq!(sessions.probed(AGENT, SESSION, Some(false), true, start), Verdict::Gone);

    let sessions = self::sessions(1);
    assert_eq!(sessions.reported(1, AGENT, SESSION), None, "not known here yet");
    let link = connect_from(&sessions, 1, origin, start);
    assert_eq!(sessions.reported(2, AGENT, SESSION), None, "another term");
    assert_eq!(sessions.reported(1, AGENT, SessionId(2)), None, "another session");
    assert_eq!(sessions.reported(1, AGENT, SESSION), Some(true));
    assert_eq!(sessions.reported(1, AGENT, SESSION), Some(false), "its loss is proposed already");
    assert!(!sessions.heard(AGENT, &link, start), "its messages renew nothing");
    assert_eq!(sessions.suspicions(start + TIMING.timeout, MOST), []);
}

#[test]
fn no_more_are_suspected_at_once_than_asked_for_and_the_others_later() {
    let sessions = sessions(1);
    let start = Instant::now();
    for n in 0..5 {
        sessions.started(AgentId(n), SessionId(n.into()), PROCESS, start);
    }
    let late = start + TIMING.timeout;
    assert_eq!(sessions.suspicions(late, 0), []);
    assert_eq!(sessions.suspicions(late, 3).len(), 3);
    assert_eq!(sessions.suspicions(late, 3).len(), 2);
    assert!(sessions.sessions().looks.is_empty());
}

#[test]
fn a_process_whose_place_is_not_known_is_not_looked_for() {
    let start = Instant::now();
    let sessions = sessions(1);
    let ending = Ending::default();
    let link = connect_from(&sessions, 1, Origin { ending: ending.clone(), ..Origin::default() }, start);
    ending.close();
    sessions.disconnected(AGENT, &link, start);
    assert_eq!(sessions.suspicions(start + TIMING.timeout - TIMING.grace, MOST), []);
    assert_eq!(sessions.suspicions(start + TIMING.timeout, MOST), silent());
}

#[tokio::test(start_paused = true)]
async fn connections_of_one_name_are_opened_one_after_the_other() {
    let sessions = sessions(1);
    let first = sessions.turn("a").await;
    let other = sessions.turn("b").await;
    let second = sessions.turn("a");
    tokio::pin!(second);
    let patience = Duration::from_secs(1);
    assert!(tokio::time::timeout(patience, second.as_mut()).await.is_err(), "the first is not done");
    drop(other);
    assert!(tokio::time::timeout(patience, second.as_mut()).await.is_err(), "the other name is unrelated");
    drop(first);
    assert!(tokio::time::timeout(patience, second).await.is_ok());
    assert!(sessions.turns.names().is_empty());
}
