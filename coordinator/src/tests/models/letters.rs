//! Those who wait for letters, and the mailboxes that are open.

use std::{collections::BTreeSet, sync::Arc};

use robeing_fleet::{Letter, LetterId, LetterOutcome};
use robeing_platform::sync::Mutex;
use shuttle::{future::block_on, thread};

use crate::{
    fixture,
    mail::{
        mailboxes::{Attended, Mailboxes},
        waiters::LetterWaiters,
    },
    tests::models::{ORDERS, explore},
};

#[test]
fn an_outcome_that_comes_up_while_one_begins_to_wait_is_not_missed() {
    let settled = fixture::letter(1, Some(LetterOutcome::Accepted));
    explore(ORDERS, move || {
        let waiters = Arc::new(LetterWaiters::default());
        let state: Arc<Mutex<Option<Letter>>> = Arc::default();
        let writer = {
            let (waiters, state, settled) = (Arc::clone(&waiters), Arc::clone(&state), settled.clone());
            thread::spawn(move || {
                *state.lock().unwrap() = Some(settled.clone());
                waiters.settled(&settled);
            })
        };
        let waiting = waiters.wait_for(BTreeSet::from([LetterId(1)])).expect("there is room");
        let known = state.lock().unwrap().clone();
        if let Some(outcome) = known.as_ref().and_then(Letter::outcome) {
            waiting.found(LetterId(1), outcome);
        }
        let outcomes = block_on(waiting.outcomes());
        assert!(outcomes.iter().all(|outcome| *outcome == (LetterId(1), LetterOutcome::Accepted)), "{outcomes:?}");
        writer.join().unwrap();
    });
}

#[test]
fn of_two_mailboxes_that_an_agent_opens_at_once_one_is_replaced_and_the_other_is_woken() {
    explore(ORDERS, || {
        let mailboxes = Arc::new(Mailboxes::default());
        let open = || {
            let mailboxes = Arc::clone(&mailboxes);
            thread::spawn(move || mailboxes.open("a").expect("there is room"))
        };
        let opened = [open(), open()].map(|opening| opening.join().unwrap());
        let (replaced, kept): (Vec<Attended>, Vec<Attended>) =
            opened.into_iter().partition(|attended| attended.mailbox.replaced.is_cancelled());
        assert_eq!((replaced.len(), kept.len()), (1, 1));
        let closing = thread::spawn(move || drop(replaced));
        mailboxes.wake("a");
        block_on(kept[0].mailbox.news.notified());
        closing.join().unwrap();
        assert_eq!(mailboxes.len(), 1);
        drop(kept);
        assert_eq!(mailboxes.len(), 0);
    });
}
