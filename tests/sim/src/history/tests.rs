//! Histories that can be explained, and some that can't.

use super::*;

const A: &str = "a";

fn call(op: Op, began: u64, ended: u64, answer: Answer) -> Call {
    Call { op, began, ended: Some(ended), answer }
}

fn unknown(op: Op, began: u64) -> Call {
    Call { op, began, ended: None, answer: Answer::Unknown }
}

fn submit(id: &str, key: Option<&str>) -> Op {
    Op::Submit { id: id.into(), key: key.map(str::to_owned), content: 1 }
}

fn get() -> Op {
    Op::Get(A.into())
}

fn found(ended: Option<TaskState>, revision: u64) -> Answer {
    Answer::Found(Seen { ended, revision })
}

fn verdict(calls: &[Call]) -> Vec<Verdict> {
    check(calls, &BTreeSet::new())
}

fn assert_explained(calls: &[Call]) {
    assert_eq!(verdict(calls), []);
}

fn assert_not(calls: &[Call]) {
    assert!(matches!(&verdict(calls)[..], [Verdict::Not(_)]), "{calls:?}");
}

#[test]
fn a_life_of_a_task_is_explained() {
    assert_explained(&[
        call(submit(A, None), 1, 2, Answer::New),
        call(get(), 3, 4, found(None, 7)),
        call(submit(A, None), 5, 6, Answer::Existing(A.into())),
        call(get(), 7, 8, found(Some(TaskState::Succeeded), 9)),
        call(Op::Cancel(A.into()), 9, 10, Answer::Ended(TaskState::Succeeded)),
        call(
            Op::List,
            11,
            12,
            Answer::All([(A.into(), Seen { ended: Some(TaskState::Succeeded), revision: 9 })].into()),
        ),
    ]);
}

#[test]
fn a_reading_that_misses_what_was_accepted_before_is_not() {
    let accepted = call(submit(A, None), 1, 2, Answer::New);
    assert_not(&[accepted.clone(), call(get(), 3, 4, Answer::NotFound)]);
    // Until the response to the submission, both are right.
    assert_explained(&[call(submit(A, None), 1, 5, Answer::New), call(get(), 3, 4, Answer::NotFound)]);
    assert_not(&[accepted, call(Op::List, 3, 4, Answer::All(BTreeMap::new()))]);
}

#[test]
fn a_call_without_an_answer_may_have_had_its_effect_at_any_time_or_not() {
    let seen = [call(get(), 3, 4, Answer::NotFound), call(get(), 5, 6, found(None, 1))];
    assert_explained(&[&[unknown(submit(A, None), 1)][..], &seen].concat());
    assert_explained(&[unknown(submit(A, None), 1), call(get(), 3, 4, Answer::NotFound)]);
    assert_not(&[call(get(), 3, 4, found(None, 1)), unknown(submit(A, None), 5)]);
}

#[test]
fn what_has_ended_does_not_change() {
    let ended = [call(submit(A, None), 1, 2, Answer::New), call(get(), 3, 4, found(Some(TaskState::Succeeded), 5))];
    assert_not(&[&ended[..], &[call(get(), 5, 6, found(None, 5))]].concat());
    assert_not(&[&ended[..], &[call(get(), 5, 6, found(Some(TaskState::Failed), 5))]].concat());
    assert_not(&[&ended[..], &[call(get(), 5, 6, found(Some(TaskState::Succeeded), 6))]].concat());
    assert_not(&[&ended[..], &[call(get(), 5, 6, Answer::NotFound)]].concat());
}

#[test]
fn revisions_do_not_go_back() {
    let accepted = call(submit(A, None), 1, 2, Answer::New);
    assert_not(&[accepted, call(get(), 3, 4, found(None, 5)), call(get(), 5, 6, found(None, 4))]);
}

#[test]
fn one_key_is_one_task() {
    let first = call(submit(A, Some("k")), 1, 2, Answer::New);
    assert_explained(&[first.clone(), call(submit("b", Some("k")), 3, 4, Answer::Existing(A.into()))]);
    assert_not(&[first.clone(), call(submit("b", Some("k")), 3, 4, Answer::New)]);
    assert_not(&[first, call(submit("b", Some("other")), 3, 4, Answer::Existing(A.into()))]);
}

#[test]
fn a_call_may_find_what_it_did_itself() {
    assert_explained(&[call(submit(A, None), 1, 2, Answer::Existing(A.into())), call(get(), 3, 4, found(None, 1))]);
    assert_not(&[call(submit("b", Some("k")), 1, 2, Answer::Existing(A.into()))]);
}

#[test]
fn other_content_is_a_conflict() {
    let first = call(submit(A, None), 1, 2, Answer::New);
    let other = Op::Submit { id: A.into(), key: None, content: 2 };
    assert_explained(&[first.clone(), call(other.clone(), 3, 4, Answer::Conflict)]);
    assert_not(&[first.clone(), call(other, 3, 4, Answer::Existing(A.into()))]);
    assert_not(&[first, call(submit(A, None), 3, 4, Answer::Conflict)]);
}

#[test]
fn a_cancelled_task_was_not_running_before_it_was_asked_for() {
    let accepted = call(submit(A, None), 1, 2, Answer::New);
    let cancelled = call(Op::Cancel(A.into()), 3, 4, Answer::Ended(TaskState::Cancelled));
    assert_explained(&[accepted.clone(), cancelled.clone(), call(get(), 5, 6, found(Some(TaskState::Cancelled), 3))]);
    assert_not(&[accepted, cancelled, call(get(), 5, 6, found(None, 3))]);
}

#[test]
fn only_what_is_kept_for_a_moment_is_forgotten() {
    let calls = [
        call(submit(A, None), 1, 2, Answer::New),
        call(get(), 3, 4, found(Some(TaskState::Succeeded), 5)),
        call(get(), 5, 6, Answer::NotFound),
        call(submit(A, None), 7, 8, Answer::New),
        call(get(), 9, 10, found(None, 8)),
    ];
    assert_not(&calls);
    assert_eq!(check(&calls, &BTreeSet::from([A.to_owned()])), []);
}

#[test]
fn many_readings_at_once_that_nothing_explains_are_decided() {
    let accepted = call(submit(A, None), 1, 2, Answer::New);
    let readings = |tells: &dyn Fn(u64) -> u64| {
        (0..40).map(|n| call(get(), 3 + n, 100, found(None, 10 + tells(n)))).collect::<Vec<_>>()
    };
    // Nothing changes between two reads, or each reports a later change.
    for tells in [&(|_| 0_u64) as &dyn Fn(u64) -> u64, &|n| n, &|n| 40 - n] {
        let mut calls = vec![accepted.clone()];
        calls.extend(readings(tells));
        assert_explained(&calls);
        calls.push(call(get(), 101, 102, Answer::NotFound));
        assert_not(&calls);
    }
}

#[test]
fn a_task_that_is_submitted_again_when_it_was_forgotten_is_explained() {
    let again = call(submit(A, None), 3, 10, Answer::New);
    let calls = [
        call(submit(A, None), 1, 2, Answer::New),
        // It begins before the task is known to be forgotten, and takes effect afterwards.
        again,
        call(get(), 5, 6, Answer::NotFound),
        call(get(), 11, 12, found(None, 206)),
    ];
    assert_eq!(check(&calls, &BTreeSet::from([A.to_owned()])), []);
}
