//! Lines and progress of attempts that are followed.

use robeing_fleet::TaskId;

use super::*;

const AGENT: AgentId = AgentId(7);
const ANOTHER: AgentId = AgentId(8);
const KEY: AttemptKey = (TaskId(1), 2);

fn lines(texts: &[&str]) -> Vec<v1::LogLine> {
    texts.iter().map(|text| v1::LogLine { text: (*text).to_owned(), ..v1::LogLine::default() }).collect()
}

fn log(first: u64, texts: &[&str]) -> internal::AttemptLog {
    let (task_id, attempt) = (KEY.0.to_string(), KEY.1);
    internal::AttemptLog { task_id, attempt, first, lines: lines(texts), ..Default::default() }
}

fn followed() -> (KeptLogs, Instant) {
    let (logs, now) = (KeptLogs::default(), Instant::now());
    logs.follow(KEY, AGENT, now).expect("there is room");
    (logs, now)
}

fn read(logs: &KeptLogs, from: u64) -> (u64, Vec<String>) {
    let Read { first, lines, .. } = logs.read(KEY, from, 0, usize::MAX);
    (first, lines.into_iter().map(|line| line.text).collect())
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn an_agent_is_asked_once_for_all_who_follow_and_told_when_the_last_one_has_gone() {
    let (logs, now) = (KeptLogs::default(), Instant::now());
    let (mut news, order) = logs.follow(KEY, AGENT, now).expect("there is room");
    let order = order.expect("it is asked");
    assert_eq!((order.from, order.stop, order.attempt), (0, false, 2));
    let (_, again) = logs.follow(KEY, AGENT, now).expect("there is room");
    assert_eq!(again, None);
    logs.received(AGENT, log(0, &["one", "two"]));
    assert!(news.has_changed().expect("it is kept"));
    news.mark_unchanged();
    assert_eq!(logs.unfollow(KEY, now), None);
    let stop = logs.unfollow(KEY, now).expect("the last one");
    assert!(stop.stop);
    // Who follows it later gets what is kept, and the rest from the agent.
    let (_, order) = logs.follow(KEY, AGENT, now).expect("there is room");
    assert_eq!(order.map(|order| order.from), Some(2));
    assert_eq!(read(&logs, 0), (0, owned(&["one", "two"])));
}

#[test]
fn lines_that_come_again_are_taken_once_and_those_that_are_lost_leave_a_gap() {
    let (logs, _) = followed();
    logs.received(AGENT, log(0, &["0", "1", "2"]));
    logs.received(AGENT, log(1, &["1", "2", "3"]));
    assert_eq!(read(&logs, 0), (0, owned(&["0", "1", "2", "3"])));
    assert_eq!(read(&logs, 3), (3, owned(&["3"])));
    logs.received(AGENT, log(7, &["7"]));
    assert_eq!(read(&logs, 0), (7, owned(&["7"])));
    logs.received(AGENT, log(u64::MAX, &["nonsense"]));
    assert_eq!(read(&logs, 0), (7, owned(&["7"])));
}

#[test]
fn only_the_agent_that_has_the_attempt_is_listened_to() {
    let (logs, _) = followed();
    logs.received(ANOTHER, log(0, &["a lie"]));
    logs.received(AGENT, internal::AttemptLog { attempt: 3, ..log(0, &["of another attempt"]) });
    logs.received(AGENT, internal::AttemptLog { task_id: "none".into(), ..log(0, &["of none"]) });
    assert_eq!(read(&logs, 0), (0, owned(&[])));
}

#[test]
fn lines_are_kept_up_to_their_number_and_their_bytes() {
    let (logs, _) = followed();
    let short = vec!["12345"; MAX_LINES];
    logs.received(AGENT, log(0, &short));
    assert_eq!(logs.read(KEY, 0, 0, usize::MAX).lines.len(), MAX_LOG_BYTES / (LINE_OVERHEAD + 5));
    let empty = vec![""; MAX_LINES + 1];
    let (logs, _) = followed();
    logs.received(AGENT, log(0, &empty[..MAX_LINES]));
    assert_eq!(logs.read(KEY, 0, 0, usize::MAX).first, 0);
    logs.received(AGENT, log(MAX_LINES as u64, &empty[..1]));
    let kept = logs.read(KEY, 0, 0, usize::MAX);
    assert_eq!((kept.first, kept.lines.len()), (1, MAX_LINES));
    let long = "é".repeat(MAX_LINE_BYTES);
    logs.received(AGENT, log(MAX_LINES as u64 + 1, &[&long]));
    let last = logs.read(KEY, MAX_LINES as u64 + 1, 0, usize::MAX).lines.pop().expect("it is kept");
    assert_eq!((last.text.len(), last.cut), (MAX_LINE_BYTES, true));
}

#[test]
fn of_a_message_with_more_lines_than_are_kept_the_last_ones_are() {
    let (logs, _) = followed();
    logs.received(AGENT, log(0, &["0", "1", "2"]));
    let many: Vec<String> = (1..MAX_LINES + 5).map(|n| n.to_string()).collect();
    let texts: Vec<&str> = many.iter().map(String::as_str).collect();
    logs.received(AGENT, log(1, &texts));
    let (first, lines) = read(&logs, 0);
    let last = MAX_LINES + 4;
    assert_eq!((first + lines.len() as u64, lines.last()), (last as u64 + 1, Some(&last.to_string())));
    assert_eq!(lines.first(), Some(&first.to_string()));
}

#[test]
fn progress_is_told_once_and_within_the_limits() {
    let (logs, _) = followed();
    let with = |fraction, text: &str| {
        let progress = Some(internal::Progress { fraction, text: text.to_owned() });
        internal::AttemptLog { progress, ..log(0, &[]) }
    };
    logs.received(AGENT, with(f64::NAN, "no number"));
    assert_eq!(logs.read(KEY, 0, 0, 0).progress, None);
    logs.received(AGENT, with(7.0, &"x".repeat(MAX_PROGRESS_TEXT + 1)));
    let (progress, times) = logs.read(KEY, 0, 0, 0).progress.expect("it is new");
    assert_eq!((progress.fraction, progress.text.len(), times), (1.0, MAX_PROGRESS_TEXT, 1));
    assert_eq!(logs.read(KEY, 0, 1, 0).progress, None);
}

#[test]
fn who_reads_in_parts_is_caught_up_and_at_the_end_after_the_last_one() {
    let (logs, _) = followed();
    let end = internal::AttemptLog { caught_up: true, ended: true, ..log(0, &["a", "b", "c"]) };
    logs.received(AGENT, end);
    let part = logs.read(KEY, 0, 0, 2 * (LINE_OVERHEAD + 1));
    assert_eq!((part.lines.len(), part.is_caught_up, part.has_ended), (2, false, false));
    let rest = logs.read(KEY, 2, 0, 2 * (LINE_OVERHEAD + 1));
    assert_eq!((rest.lines.len(), rest.is_caught_up, rest.has_ended), (1, true, true));
    assert_eq!(logs.unfollow(KEY, Instant::now()), None, "the agent has nothing to stop");
}

#[test]
fn as_many_attempts_are_kept_as_may_be_and_those_that_are_followed_stay() {
    let (logs, now) = (KeptLogs::default(), Instant::now());
    let key = |n: usize| (TaskId(n as u128), 1);
    for n in 0..MAX_KEPT {
        let at = now + Duration::from_millis(n as u64);
        assert!(logs.follow(key(n), AGENT, at).is_some());
    }
    assert!(logs.follow(key(MAX_KEPT), AGENT, now).is_none(), "all are followed");
    assert!(logs.follow(key(0), AGENT, now).is_some(), "it is kept already");
    logs.unfollow(key(5), now + Duration::from_secs(1));
    logs.unfollow(key(3), now + Duration::from_secs(2));
    assert!(logs.follow(key(MAX_KEPT), AGENT, now + Duration::from_secs(3)).is_some());
    let attempts = logs.attempts();
    assert_eq!(attempts.kept.len(), MAX_KEPT);
    assert!(!attempts.kept.contains_key(&key(5)) && attempts.kept.contains_key(&key(3)), "it was left first");
}

#[test]
fn what_nobody_follows_is_forgotten_after_a_while() {
    let (logs, now) = followed();
    logs.received(AGENT, log(0, &["one"]));
    logs.unfollow(KEY, now);
    let other = (TaskId(9), 1);
    logs.follow(other, AGENT, now + KEPT_FOR - Duration::from_millis(1)).expect("there is room");
    assert_eq!(read(&logs, 0), (0, owned(&["one"])));
    logs.follow((TaskId(10), 1), AGENT, now + KEPT_FOR).expect("there is room");
    assert_eq!(read(&logs, 0), (0, owned(&[])));
    assert!(logs.attempts().kept.contains_key(&other), "it is followed");
}

#[test]
fn no_more_follow_than_may() {
    let (logs, now) = (KeptLogs::default(), Instant::now());
    for _ in 0..MAX_FOLLOWERS {
        assert!(logs.follow(KEY, AGENT, now).is_some());
    }
    assert!(logs.follow(KEY, AGENT, now).is_none());
    logs.unfollow(KEY, now);
    assert!(logs.follow(KEY, AGENT, now).is_some());
}

#[test]
fn an_agent_that_comes_back_is_asked_for_the_rest_of_what_is_followed() {
    let (logs, now) = followed();
    logs.follow((TaskId(2), 1), ANOTHER, now).expect("there is room");
    logs.received(AGENT, internal::AttemptLog { caught_up: true, ..log(0, &["one"]) });
    assert!(logs.read(KEY, 1, 0, 0).is_caught_up);
    let orders = logs.orders_for(AGENT);
    assert_eq!(orders.iter().map(|(key, order)| (*key, order.from, order.stop)).collect::<Vec<_>>(), [(KEY, 1, false)]);
    assert!(!logs.read(KEY, 1, 0, 0).is_caught_up, "it may have more by now");
    logs.received(AGENT, internal::AttemptLog { ended: true, ..log(1, &[]) });
    assert_eq!(logs.orders_for(AGENT), []);
}
