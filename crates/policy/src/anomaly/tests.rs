//! Tests of the anomaly watch.

use proptest::prelude::*;

use super::*;

/// Ticks until a burst is found: the window in which it begins must be over.
const WITHIN_TICKS: u64 = 2;

/// Gives a number of signals in a window, and returns what the tick at its end finds.
fn window(watch: &mut Watch, agent: &str, signal: Signal, number: u64, count: u64) -> Vec<Anomaly> {
    for _ in 0..count {
        watch.observe(agent, signal, number * WINDOW_MS);
    }
    watch.tick((number + 1) * WINDOW_MS)
}

fn warmed_up(signal: Signal, rate: u64) -> Watch {
    let mut watch = Watch::new();
    for number in 0..WARM_UP_WINDOWS {
        assert_eq!(window(&mut watch, "a", signal, number, rate), []);
    }
    watch
}

/// All signals but the one of work.
const JUDGED: [Signal; 6] = [
    Signal::Message,
    Signal::Submission,
    Signal::Failure,
    Signal::FailedAuthentication,
    Signal::Disagreement,
    Signal::Overuse,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_steady_agent_is_never_an_anomaly(
        rate in 1_u64..300, signal in prop::sample::select(&Signal::ALL[..3]), jitter in prop::collection::vec(50_u64..=150, 200)
    ) {
        let mut watch = Watch::new();
        for (number, percent) in jitter.into_iter().enumerate() {
            prop_assert_eq!(window(&mut watch, "a", signal, number as u64, rate * percent / 100), []);
        }
    }

    #[test]
    fn a_sudden_tenfold_burst_is_found(
        rate in 3_u64..200, signal in prop::sample::select(&JUDGED[..]), jitter in prop::collection::vec(80_u64..=120, 60..120)
    ) {
        let mut watch = Watch::new();
        let mut number = 0;
        for percent in jitter {
            prop_assert_eq!(window(&mut watch, "a", signal, number, rate * percent / 100), []);
            number += 1;
        }
        let mut found = Vec::new();
        for _ in 0..WITHIN_TICKS {
            found.extend(window(&mut watch, "a", signal, number, rate * 10));
            number += 1;
        }
        prop_assert!(!found.is_empty());
        prop_assert!(found.iter().all(|anomaly| anomaly.what == signal && anomaly.observed > anomaly.expected * 4.0));
        prop_assert!(found.iter().all(|anomaly| anomaly.response == Response::Event), "not yet repeated");
    }

    #[test]
    fn equal_histories_have_equal_anomalies(
        steps in prop::collection::vec((0..3_usize, prop::sample::select(&Signal::ALL[..]), 0_u64..2_500), 0..400)
    ) {
        let run = || {
            let (mut watch, mut now, mut found) = (Watch::new(), 0, Vec::new());
            for (agent, signal, after) in &steps {
                now += after;
                (0..after % 50).for_each(|_| watch.observe(["a", "b", "c"][*agent], *signal, now));
                found.extend(watch.tick(now));
            }
            found
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn no_order_of_times_panics(times in prop::collection::vec(any::<u64>(), 0..60)) {
        let mut watch = Watch::new();
        for time in times {
            watch.observe("a", Signal::Overuse, time);
            watch.tick(time.rotate_left(7));
            prop_assert_eq!(watch.agents(), watch.by_window.len());
        }
    }
}

#[test]
fn nothing_is_judged_before_the_warm_up_is_over() {
    let mut watch = Watch::new();
    for number in 0..WARM_UP_WINDOWS {
        let count = if number + 1 == WARM_UP_WINDOWS { 1_000 } else { 1 };
        assert_eq!(window(&mut watch, "a", Signal::Failure, number, count), [], "window {number}");
    }
    assert_eq!(window(&mut watch, "a", Signal::Disagreement, WARM_UP_WINDOWS, 5).len(), 1);
}

#[test]
fn a_shorter_warm_up_judges_earlier_and_learns_as_slowly_afterwards() {
    const WINDOWS: u64 = 10;
    let mut watch = Watch::with_warm_up(WINDOWS);
    for number in 0..WINDOWS {
        assert_eq!(watch.judged(), 0, "window {number}");
        assert_eq!(window(&mut watch, "a", Signal::Message, number, 30), []);
    }
    assert_eq!(watch.judged(), 1);
    let found = window(&mut watch, "a", Signal::Message, WINDOWS, 300);
    assert_eq!(found.len(), 1, "it is judged");
    let longer = (WINDOWS + 1..4 * WINDOWS).flat_map(|number| window(&mut watch, "a", Signal::Message, number, 30));
    assert_eq!(longer.count(), 0);
    assert_eq!(watch.agents["a"].windows, 4 * WINDOWS, "the weight of a window still falls");
    assert_eq!(Watch::with_warm_up(0).rules.warm_up, 1);
}

#[test]
fn severe_and_repeated_anomalies_quarantine_once() {
    let mut watch = warmed_up(Signal::Message, 10);
    let mut responses = Vec::new();
    for number in 0..6 {
        let found =
            window(&mut watch, "a", Signal::FailedAuthentication, WARM_UP_WINDOWS + number, 1_000 << (2 * number));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Severe);
        responses.push(found[0].response);
    }
    let mut expected = vec![Response::Event; 6];
    expected[QUARANTINE_AFTER as usize - 1] = Response::Quarantine;
    assert_eq!(responses, expected);
    watch.release("a");
    let next = WARM_UP_WINDOWS + 6;
    assert_eq!(window(&mut watch, "a", Signal::FailedAuthentication, next, 1_000), [], "it warms up again");
}

#[test]
fn what_others_can_provoke_is_an_event_and_quarantines_only_where_the_watch_is_told_so() {
    for quarantines in [false, true] {
        let mut watch = Watch::new().quarantining_provoked(quarantines);
        for number in 0..WARM_UP_WINDOWS {
            assert_eq!(window(&mut watch, "a", Signal::Work, number, 1), [], "it has never sent");
        }
        let mut responses = Vec::new();
        for number in 0..u64::from(QUARANTINE_AFTER) {
            let found = window(&mut watch, "a", Signal::Message, WARM_UP_WINDOWS + number, 1_000 << (2 * number));
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].what, found[0].severity), (Signal::Message, Severity::Severe));
            responses.push(found[0].response);
        }
        assert_eq!(responses.contains(&Response::Quarantine), quarantines, "{responses:?}");
        // Nor do such windows count with those of other signals.
        let number = WARM_UP_WINDOWS + u64::from(QUARANTINE_AFTER);
        let found = window(&mut watch, "a", Signal::Disagreement, number, 1_000);
        assert_eq!((found.len(), found[0].response), (1, Response::Event));
    }
}

#[test]
fn severe_anomalies_that_are_rare_do_not_quarantine() {
    let mut watch = warmed_up(Signal::Message, 10);
    let apart = QUARANTINE_SPAN_MS / WINDOW_MS + 1;
    for round in 1..=u64::from(QUARANTINE_AFTER) + 2 {
        let number = WARM_UP_WINDOWS + round * apart;
        let found = window(&mut watch, "a", Signal::Disagreement, number, 1_000 << (2 * round));
        assert_eq!(found.len(), 1, "round {round}");
        assert_eq!(found[0].response, Response::Event, "round {round}");
    }
}

#[test]
fn unusual_but_not_severe_anomalies_never_quarantine() {
    let mut watch = warmed_up(Signal::Submission, 100);
    for number in 0..20 {
        for anomaly in window(&mut watch, "a", Signal::Submission, WARM_UP_WINDOWS + number, 600) {
            assert_eq!((anomaly.severity, anomaly.response), (Severity::Unusual, Response::Event));
        }
    }
}

#[test]
fn an_agent_that_works_in_bursts_is_usual_and_so_is_work_after_a_pause() {
    let mut watch = Watch::new();
    for number in 0..600 {
        let count = if number % 20 == 0 { 500 } else { 1 };
        assert_eq!(window(&mut watch, "a", Signal::Message, number, count), [], "window {number}");
    }
    assert_eq!(watch.tick(100_000 * WINDOW_MS), []);
    assert_eq!(window(&mut watch, "a", Signal::Message, 100_001, 500), []);
}

#[test]
fn a_late_tick_does_not_merge_windows() {
    let mut watch = warmed_up(Signal::Message, 30);
    for number in 0..30 {
        (0..30).for_each(|_| watch.observe("a", Signal::Message, (WARM_UP_WINDOWS + number) * WINDOW_MS));
    }
    assert_eq!(watch.tick((WARM_UP_WINDOWS + 31) * WINDOW_MS), []);
}

#[test]
fn the_watch_is_bounded_and_forgets_who_was_silent_for_longest() {
    let mut watch = Watch::new();
    for agent in 0..MAX_WATCHED_AGENTS {
        watch.observe(&format!("agent-{agent}"), Signal::Message, agent as u64 * WINDOW_MS);
    }
    watch.observe("agent-0", Signal::Message, MAX_WATCHED_AGENTS as u64 * WINDOW_MS);
    assert_eq!(watch.agents(), MAX_WATCHED_AGENTS);
    for agent in 0..1_000 {
        watch.observe(&format!("new-{agent}"), Signal::Message, (MAX_WATCHED_AGENTS as u64 + 1) * WINDOW_MS);
    }
    assert_eq!((watch.agents(), watch.by_window.len()), (MAX_WATCHED_AGENTS, MAX_WATCHED_AGENTS));
    assert!(watch.agents.contains_key("agent-0") && !watch.agents.contains_key("agent-1000"));
    assert!(watch.agents.contains_key("agent-1001"));
    watch.observe(&"n".repeat(MAX_AGENT_NAME_BYTES + 1), Signal::Message, u64::MAX);
    assert!(!watch.agents.contains_key("n".repeat(MAX_AGENT_NAME_BYTES + 1).as_str()));
    watch.observe(&"n".repeat(MAX_AGENT_NAME_BYTES), Signal::Message, u64::MAX);
    assert!(watch.agents.contains_key("n".repeat(MAX_AGENT_NAME_BYTES).as_str()));
    watch.forget("agent-0");
    assert_eq!((watch.agents(), watch.by_window.len()), (MAX_WATCHED_AGENTS - 1, MAX_WATCHED_AGENTS - 1));
}

#[test]
fn anomalies_that_wait_are_bounded_but_for_quarantines() {
    let mut watch = Watch::new();
    let agents = MAX_ANOMALIES + 10;
    for number in 0..WARM_UP_WINDOWS {
        for agent in 0..agents {
            watch.observe(&agent.to_string(), Signal::Message, number * WINDOW_MS);
        }
    }
    for agent in 0..agents {
        for _ in 0..5 {
            watch.observe(&agent.to_string(), Signal::Disagreement, WARM_UP_WINDOWS * WINDOW_MS);
        }
    }
    assert_eq!(watch.tick((WARM_UP_WINDOWS + 1) * WINDOW_MS).len(), MAX_ANOMALIES);
    assert_eq!(watch.dropped(), 10);
    assert_eq!(watch.tick((WARM_UP_WINDOWS + 2) * WINDOW_MS), []);
}
