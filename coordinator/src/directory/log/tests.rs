use prost::Message;
use robeing_proto::{budget::MESSAGE_BUDGET_BYTES, v1};

use super::*;
use crate::directory::fixture::Watcher;

fn entry(name: &str, performance: u32) -> Bytes {
    v1::DirectoryEntry { name: name.into(), performance, ..v1::DirectoryEntry::default() }.encode_to_vec().into()
}

fn looked(at: u64) -> Look {
    Look { complete: at, up_to: at }
}

/// A log that knows these agents since revision 1.
fn log(names: &[&str]) -> DirectoryLog {
    let mut log = DirectoryLog::default();
    log.replace(names.iter().map(|name| (Arc::from(*name), entry(name, 0))).collect(), looked(1));
    log
}

fn set(log: &mut DirectoryLog, name: &str, performance: u32, at: u64) {
    assert!(log.change(vec![(name.into(), Some(entry(name, performance)))], looked(at)));
}

#[test]
fn a_new_watcher_gets_everything_and_then_changes() {
    let (mut log, mut watcher) = (log(&["a", "b"]), Watcher::default());
    let start = log.start(0).expect("it is known");
    let (position, _) = watcher.drain(&mut log, start);
    assert_eq!((watcher.names(), watcher.revision), (vec!["a", "b"], 1));
    set(&mut log, "c", 1, 2);
    assert!(log.change(vec![("a".into(), None)], looked(3)));
    assert_eq!(watcher.drain(&mut log, position).1, 0);
    assert_eq!((watcher.names(), watcher.revision), (vec!["b", "c"], 3));
}

#[test]
fn an_empty_directory_is_told_too() {
    let (mut log, mut watcher) =
        (log(&[]), Watcher { known: [("x".into(), Default::default())].into(), ..Default::default() });
    let start = log.start(0).expect("it is known");
    watcher.drain(&mut log, start);
    assert_eq!((watcher.names(), watcher.revision), (vec![], 1));
}

#[test]
fn a_watch_is_resumed_by_what_was_seen_elsewhere() {
    let mut log = log(&["a"]);
    for at in 2..10 {
        set(&mut log, "a", at as u32, at);
    }
    assert_eq!(log.start(9), Some(Position::Log(8)), "it knows everything");
    assert_eq!(log.start(5), Some(Position::Log(4)), "it lacks what followed");
    assert_eq!(log.start(1), Some(Position::Log(0)));
    assert_eq!(log.start(10), None, "more is known elsewhere");
    assert!(!log.change(Vec::new(), looked(12)), "nothing for watchers");
    assert_eq!(log.start(10), Some(Position::Log(8)));
    log.replace(BTreeMap::new(), looked(20));
    assert_eq!(log.next(Position::Log(8)), Next::Behind, "nor is what its watchers know from others");
    assert!(matches!(log.start(12), Some(Position::Full { .. })), "what happened in between is not known");
    assert_eq!(log.start(20), Some(Position::Log(9)));
    assert_eq!(DirectoryLog::default().start(0), None, "nothing is known yet");
}

#[test]
fn what_was_seen_before_its_effect_was_noted_is_sent_again_to_those_who_resume() {
    let mut log = log(&["a"]);
    // The look saw revision 3, but of 3 only a part is certain to be in it.
    log.change(vec![("a".into(), Some(entry("a", 7)))], Look { complete: 2, up_to: 3 });
    assert_eq!(log.start(2), Some(Position::Log(0)), "the change may be newer than what the watcher has seen");
    assert_eq!(log.start(3), None);
    log.change(Vec::new(), looked(3));
    assert_eq!(log.start(3), Some(Position::Log(1)));
}

#[test]
fn a_watcher_that_falls_behind_the_log_starts_over() {
    let (mut log, mut watcher) = (log(&["a"]), Watcher::default());
    let start = log.start(0).expect("it is known");
    let (position, _) = watcher.drain(&mut log, start);
    for at in 2..2 + MAX_MESSAGES as u64 {
        set(&mut log, "a", 1, at);
    }
    assert!(matches!(log.next(position), Next::Message(..)), "the log just holds everything");
    assert_eq!(log.start(1), Some(Position::Log(0)));
    set(&mut log, "b", 2, 1_000_000);
    assert_eq!(log.next(position), Next::Behind);
    assert!(matches!(log.start(1), Some(Position::Full { .. })), "the first change after 1 is not in the log any more");
    assert_eq!(log.start(2), Some(Position::Log(1)));
    assert_eq!(watcher.drain(&mut log, position).1, 1);
    assert_eq!((watcher.names(), watcher.revision), (vec!["a", "b"], 1_000_000));
}

#[test]
fn the_log_is_bounded_in_bytes() {
    let mut log = log(&[]);
    let large = |n: u64| (Arc::from(format!("a-{n}")), Some(Bytes::from(vec![0x0a; 100_000])));
    for at in 2..200 {
        log.change(vec![large(at)], looked(at));
        assert!(log.bytes <= MAX_LOG_BYTES && log.messages.iter().map(|m| m.message.len()).sum::<usize>() == log.bytes);
    }
    assert!(log.bytes > MAX_LOG_BYTES - 200_000, "it is used");
    // A single look may find more than fits.
    log.change((0..100).map(large).collect(), looked(300));
    assert!(log.bytes <= MAX_LOG_BYTES);
    assert!(matches!(log.start(299), Some(Position::Full { .. })));
    assert_eq!(log.start(300), Some(Position::Log(log.end())));
}

#[test]
fn everything_is_made_once_for_many_watchers_and_anew_when_much_has_followed() {
    let mut log = log(&["a"]);
    let first = log.everything();
    for at in 0..MAX_AFTER_FULL {
        assert_eq!(log.everything(), first);
        set(&mut log, "a", 1, 2 + at);
    }
    assert_eq!(log.everything(), first);
    set(&mut log, "a", 2, 1_000);
    let second = log.everything();
    assert_ne!(second, first);
    assert!(matches!(log.next(first), Next::Message(..)), "one that still reads it goes on");
    for n in 0..=MAX_AFTER_FULL {
        set(&mut log, "a", 3, 2_000 + n);
    }
    assert_ne!(log.everything(), second);
    assert_eq!(log.fulls.len(), MAX_FULLS);
    assert_eq!(log.next(first), Next::Behind);
    let mut watcher = Watcher::default();
    assert_eq!(watcher.drain(&mut log, first).1, 1);
    assert_eq!(watcher.known["a"].performance, 3);
}

#[test]
fn messages_are_filled_to_their_limits_and_only_the_last_has_the_revision() {
    let names: Vec<String> = (0..2 * MAX_IN_MESSAGE + 1).map(|n| format!("a-{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (count, expected) in [(MAX_IN_MESSAGE, 1), (MAX_IN_MESSAGE + 1, 2), (2 * MAX_IN_MESSAGE + 1, 3)] {
        let mut log = log(&names[..count]);
        log.everything();
        let all: Vec<_> =
            log.fulls[0].messages.iter().map(|m| v1::WatchAgentsResponse::decode(&m[..]).unwrap()).collect();
        assert_eq!(all.len(), expected);
        let flags: Vec<_> = all.iter().map(|m| (m.reset, m.revision)).collect();
        assert!(flags[0].0 && flags[1..].iter().all(|(reset, _)| !reset), "{flags:?}");
        assert_eq!(flags.last().map(|(_, revision)| *revision), Some(1));
        assert!(flags[..expected - 1].iter().all(|(_, revision)| *revision == 0));
        assert_eq!(all.iter().map(|m| m.agents.len()).sum::<usize>(), count);
    }
    let skills = vec!["s".repeat(1_000); 10];
    let large = |n: usize| {
        let entry = v1::DirectoryEntry { name: n.to_string(), skills: skills.clone(), ..Default::default() };
        (Arc::from(n.to_string()), Bytes::from(entry.encode_to_vec()))
    };
    let mut log = DirectoryLog::default();
    log.replace((0..MAX_IN_MESSAGE).map(large).collect(), looked(1));
    log.everything();
    assert!(log.fulls[0].messages.len() > 1);
    assert!(log.fulls[0].messages.iter().all(|message| message.len() <= MESSAGE_BUDGET_BYTES + 16));
}
