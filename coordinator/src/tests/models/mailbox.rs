//! The messages that wait for one stream of submissions, and for one agent.

use std::{collections::VecDeque, sync::Arc};

use robeing_fleet::TaskId;
use robeing_proto::v1::SubmitResult;
use shuttle::{future::block_on, thread};

use crate::{
    apply::result_stream::{Letter, ResultStream},
    leader::sessions::SessionConnection,
    tests::models::{ORDERS, explore},
};

/// Reads until `count` answers are there.
fn read(mailbox: &ResultStream, count: usize) -> Vec<(u64, bool)> {
    let mut found = Vec::new();
    block_on(async {
        while found.len() < count {
            mailbox.news().await;
            let taken: VecDeque<(u64, Letter)> = mailbox.take();
            found.extend(taken.into_iter().map(|(tag, letter)| (tag, letter.is_result())));
        }
    });
    found
}

#[test]
fn an_acceptance_comes_before_the_result_and_neither_is_lost() {
    explore(ORDERS, || {
        let mailbox = Arc::new(ResultStream::default());
        let put = |results: bool| {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                for tag in [1, 2] {
                    match results {
                        true => mailbox.put(tag, Letter::Ended(TaskId(u128::from(tag)))),
                        false => mailbox.put(tag, SubmitResult::default()),
                    }
                }
            })
        };
        mailbox.expect(1);
        mailbox.expect(2);
        let writers = [put(true), put(false)];
        let read = read(&mailbox, 4);
        for tag in [1, 2] {
            let of_tag: Vec<bool> = read.iter().filter(|(of, _)| *of == tag).map(|(_, result)| *result).collect();
            assert_eq!(of_tag, [false, true], "of {tag}: {read:?}");
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert_eq!(mailbox.len(), 0, "nothing is sent twice");
    });
}

#[test]
fn what_is_put_for_an_agent_is_taken_once() {
    explore(ORDERS, || {
        let link = Arc::new(SessionConnection::default());
        let put = |agent: u128| {
            let link = Arc::clone(&link);
            thread::spawn(move || {
                for attempt in 1..=2 {
                    link.put(|outbox| outbox.assignments.push((TaskId(agent), attempt)));
                }
            })
        };
        let writers = [put(1), put(2)];
        let mut taken = Vec::new();
        block_on(async {
            while taken.len() < 4 {
                taken.extend(link.take().await.assignments);
            }
        });
        taken.sort_unstable();
        assert_eq!(taken, [(TaskId(1), 1), (TaskId(1), 2), (TaskId(2), 1), (TaskId(2), 2)]);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert!(link.take_now().assignments.is_empty());
    });
}
