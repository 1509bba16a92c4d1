//! Generated histories compared with a model: the log holds everything acknowledged, and at most a prefix of the rest.

use openraft::storage::RaftLogStorage;
use proptest::{prelude::*, test_runner::TestCaseResult};

use super::{Content, Flushed, Rig, entry, id, new_disk};
use crate::raft::Vote;

#[derive(Clone, Debug)]
enum Step {
    /// Appends `count` entries of `len` bytes, without waiting.
    Append {
        count: u64,
        len: usize,
    },
    /// Waits for all appends.
    Settle,
    /// Removes this many entries and starts a new term.
    Truncate {
        back: u64,
    },
    /// Purges all but this many entries.
    Purge {
        keep: u64,
    },
    /// Installs a snapshot this far ahead of the log.
    Skip {
        ahead: u64,
    },
    Vote,
    Committed,
    /// The process restarts.
    Reopen,
    /// The power fails now.
    Crash {
        seed: u64,
    },
    /// The power fails some operations later.
    PowerOff {
        operations: u64,
    },
    /// A sync fails some operations later.
    FailSync {
        good: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..6u64, 0..700usize).prop_map(|(count, len)| Step::Append { count, len }),
        3 => Just(Step::Settle),
        2 => (0..8u64).prop_map(|back| Step::Truncate { back }),
        2 => (0..12u64).prop_map(|keep| Step::Purge { keep }),
        1 => (0..20u64).prop_map(|ahead| Step::Skip { ahead }),
        2 => Just(Step::Vote),
        2 => Just(Step::Committed),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => (1..12u64).prop_map(|operations| Step::PowerOff { operations }),
        1 => (0..6u64).prop_map(|good| Step::FailSync { good }),
    ]
}

/// The log, and the states that a crash may leave it in: those since the last acknowledgement, oldest first.
struct History {
    rig: Option<Rig>,
    states: Vec<Content>,
    waiting: Vec<Flushed>,
    term: u64,
    crashes: u64,
}

impl History {
    fn now(&self) -> Content {
        self.states.last().cloned().unwrap_or_default()
    }

    fn rig(&mut self) -> &mut Rig {
        self.rig.as_mut().expect("the log is open between steps")
    }

    fn acknowledged(&mut self) {
        self.states.drain(..self.states.len() - 1);
    }

    /// Waits for the appends; `Err` if the log has failed.
    async fn settle(&mut self) -> std::io::Result<()> {
        for flushed in std::mem::take(&mut self.waiting) {
            flushed.await.expect("the writer answers everything")?;
        }
        self.acknowledged();
        Ok(())
    }

    /// Notes that a record was written, or that writing it failed.
    fn record(&mut self, result: std::io::Result<()>, state: Content) -> std::io::Result<()> {
        self.states.push(state);
        result?;
        self.acknowledged();
        Ok(())
    }

    async fn append(&mut self, count: u64, len: usize) -> std::io::Result<()> {
        let mut state = self.now();
        let mut entries = Vec::new();
        for index in (state.next_index()..).take(count as usize) {
            entries.push(entry(self.term, index, len));
            state.entries.push(entry(self.term, index, len));
            self.states.push(state.clone());
        }
        let flushed = self.rig().begin_append(entries).await?;
        self.waiting.push(flushed);
        Ok(())
    }

    async fn truncate(&mut self, back: u64) -> std::io::Result<()> {
        let mut state = self.now();
        let keep = state.entries.len().saturating_sub(back as usize);
        state.entries.truncate(keep);
        self.term += 1;
        let last = state.last();
        let result = self.rig().log.truncate_after(last).await;
        self.record(result, state)
    }

    async fn purge(&mut self, upto: Option<super::LogId>) -> std::io::Result<()> {
        let Some(upto) = upto else { return Ok(()) };
        let mut state = self.now();
        state.entries.retain(|entry| entry.log_id.index > upto.index);
        state.purged = Some(upto);
        let result = self.rig().purge(upto).await;
        self.record(result, state)
    }

    async fn take(&mut self, step: &Step) -> std::io::Result<()> {
        match *step {
            Step::Append { count, len } => self.append(count, len).await,
            Step::Settle => self.settle().await,
            Step::Truncate { back } => self.truncate(back).await,
            Step::Purge { keep } => {
                let entries = self.now().entries;
                let gone = entries.len().saturating_sub(keep as usize);
                self.purge(gone.checked_sub(1).map(|last| entries[last].log_id)).await
            }
            Step::Skip { ahead } => {
                // As the library does: first the entries that differ are removed, then what the snapshot covers is
                // purged.
                self.truncate(u64::MAX).await?;
                let upto = id(self.term, self.now().next_index() + ahead);
                self.purge(Some(upto)).await
            }
            Step::Vote => {
                self.term += 1;
                let (vote, mut state) = (Vote::new(self.term, 1), self.now());
                state.vote = Some(vote);
                let result = self.rig().log.save_vote(&vote).await;
                self.record(result, state)
            }
            Step::Committed => {
                let last = self.now().last();
                self.rig().log.save_committed(last).await
            }
            Step::PowerOff { operations } => {
                self.rig().disk.power_off_during(operations);
                Ok(())
            }
            Step::FailSync { good } => {
                self.rig().disk.fail_sync_after(good);
                Ok(())
            }
            Step::Reopen | Step::Crash { .. } => Ok(()),
        }
    }

    /// Reopens the log after any kind of end. Its content must be one of the states that it may have.
    async fn come_back(&mut self, crash: Option<u64>) -> TestCaseResult {
        self.waiting.clear();
        let rig = self.rig.take().expect("the log is open between steps");
        let segment_bytes = rig.segment_bytes;
        let disk = rig.close().await;
        self.crashes += 1;
        match crash {
            Some(seed) => disk.crash(seed),
            // A process that exits leaves nothing half written, but the injected fault may still be ahead.
            None if Rig::try_open(&disk, segment_bytes).await.is_ok() => {}
            None => disk.crash(self.crashes),
        }
        let mut rig = match Rig::try_open(&disk, segment_bytes).await {
            Ok(rig) => rig,
            Err(e) => {
                // Only an injected fault may prevent it.
                disk.crash(self.crashes);
                Rig::try_open(&disk, segment_bytes)
                    .await
                    .map_err(|again| TestCaseError::fail(format!("the log does not open: {again} (before: {e})")))?
            }
        };
        let found = rig.content().await;
        prop_assert!(
            self.states.iter().any(|state| state.may_be_found_as(&found)),
            "found {found:?}\nwhich is none of {} states from {:?}\nto {:?}",
            self.states.len(),
            self.states.first(),
            self.states.last()
        );
        let committed = rig.log.read_committed().await.expect("it is in memory");
        prop_assert!(committed <= found.last(), "committed {committed:?} beyond the end {:?}", found.last());
        self.states = vec![found];
        self.rig = Some(rig);
        Ok(())
    }

    async fn run(segment_bytes: usize, steps: &[Step]) -> TestCaseResult {
        let rig = Rig::open(&new_disk().await, segment_bytes).await;
        let mut history =
            History { rig: Some(rig), states: vec![Content::default()], waiting: Vec::new(), term: 1, crashes: 0 };
        for step in steps {
            let failed = history.take(step).await.is_err();
            match step {
                Step::Crash { seed } => history.come_back(Some(*seed)).await?,
                Step::Reopen => history.come_back(None).await?,
                _ if failed => {
                    // A failed log stays failed.
                    let next = history.now().next_index();
                    let again = match history.rig().begin_append(vec![entry(99, next, 1)]).await {
                        Ok(flushed) => flushed.await.expect("the writer answers everything"),
                        Err(e) => Err(e),
                    };
                    prop_assert!(again.is_err(), "acknowledged after a failure");
                    let crash = history.crashes.is_multiple_of(2).then_some(history.crashes);
                    history.come_back(crash).await?;
                }
                _ => {}
            }
        }
        if history.settle().await.is_ok() {
            let (expected, found) = (history.now(), history.rig().content().await);
            prop_assert_eq!(expected, found);
        }
        history.come_back(Some(0)).await?;
        history.come_back(Some(1)).await
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_holds_what_was_acknowledged_whatever_happens(
        segment_bytes in prop_oneof![Just(4096usize), Just(8192), Just(65536)],
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(History::run(segment_bytes, &steps))?;
    }
}
