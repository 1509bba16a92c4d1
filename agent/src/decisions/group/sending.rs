//! The state that is being sent to another agent, which gets it in parts: it is read and encoded once for all of them.
//!
//! One is kept at a time, of at most [`MAX_STATE_BYTES`](robeing_bft::limits::MAX_STATE_BYTES): until its last part is
//! taken, or for [`STATE_WITHIN`], after which the other agent has given up.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use robeing_groups::exchange::{MAX_PAGE_BYTES, StatePart};
use robeing_platform::sync::{Mutex, MutexGuard};
use robeing_votes::Base64;
use tokio::{sync::OnceCell, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use super::limits::STATE_WITHIN;

/// Which state it is: the fingerprint of the group in the epoch that this member is in, and the number of the epoch
/// that starts with the state.
pub type Key = (String, u64);

struct Sent {
    key: Key,
    bytes: Arc<OnceCell<Bytes>>,
    /// Forgets it in time.
    _end: AbortOnDropHandle<()>,
}

/// The state that is being sent, if one is.
#[derive(Default)]
pub struct Sending(Arc<Mutex<Option<Sent>>>);

impl Sending {
    fn sent(&self) -> MutexGuard<'_, Option<Sent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the place of this state. If there is none, it replaces the state before it.
    fn place(&self, key: &Key) -> Arc<OnceCell<Bytes>> {
        let mut sent = self.sent();
        if let Some(known) = sent.as_ref().filter(|known| known.key == *key) {
            return Arc::clone(&known.bytes);
        }
        let bytes = Arc::new(OnceCell::new());
        let place = Arc::downgrade(&self.0);
        let end = tokio::spawn(async move {
            sleep(STATE_WITHIN).await;
            if let Some(place) = place.upgrade() {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        });
        *sent = Some(Sent { key: key.clone(), bytes: Arc::clone(&bytes), _end: AbortOnDropHandle::new(end) });
        bytes
    }

    fn forget(&self, key: &Key) {
        let mut sent = self.sent();
        if sent.as_ref().is_some_and(|sent| sent.key == *key) {
            *sent = None;
        }
    }

    /// Returns the part of a state that begins with the byte `from`, at most [`MAX_PAGE_BYTES`]. `encode` is run only
    /// if the state is not being sent.
    ///
    /// # Errors
    /// That of `encode`.
    pub async fn part(
        &self,
        key: &Key,
        from: u64,
        encode: impl Future<Output = Result<Bytes, String>>,
    ) -> Result<StatePart, String> {
        let place = self.place(key);
        let bytes = place.get_or_try_init(|| encode).await?.clone();
        let from = usize::try_from(from).map_or(bytes.len(), |from| from.min(bytes.len()));
        let to = bytes.len().min(from.saturating_add(MAX_PAGE_BYTES));
        if to == bytes.len() {
            self.forget(key);
        }
        Ok(StatePart { bytes: Base64(bytes.slice(from..to)), size: bytes.len() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::*;

    /// Two whole parts and one more byte.
    const SIZE: usize = 2 * MAX_PAGE_BYTES + 1;

    /// A member that sends the states with which epochs start, and the number of states that it has encoded.
    #[derive(Default)]
    struct Member {
        sending: Sending,
        encodings: Cell<u32>,
    }

    impl Member {
        /// Returns a part of a state.
        async fn part(&self, epoch: u64, from: usize) -> Bytes {
            let encode = async {
                self.encodings.set(self.encodings.get() + 1);
                Ok(Bytes::from(vec![epoch as u8; SIZE]))
            };
            let part = self.sending.part(&("council".to_owned(), epoch), from as u64, encode).await;
            let StatePart { bytes: Base64(bytes), size } = part.expect("a part");
            assert_eq!(size, SIZE as u64);
            bytes
        }

        /// Sends a whole state, in parts.
        async fn send(&self, epoch: u64) {
            let mut got = Vec::new();
            while got.len() < SIZE {
                got.extend_from_slice(&self.part(epoch, got.len()).await);
            }
            assert_eq!(got, vec![epoch as u8; SIZE]);
        }

        fn keeps_one(&self) -> bool {
            self.sending.sent().is_some()
        }
    }

    #[tokio::test]
    async fn a_state_is_encoded_once_for_all_of_its_parts() {
        let member = Member::default();
        member.send(1).await;
        assert_eq!((member.encodings.get(), member.keeps_one()), (1, false));
        member.send(1).await;
        assert_eq!((member.encodings.get(), member.keeps_one()), (2, false), "it is another transfer");
        let (one, other) = tokio::join!(member.part(1, 0), member.part(1, MAX_PAGE_BYTES));
        assert_eq!((one.len(), other.len()), (MAX_PAGE_BYTES, MAX_PAGE_BYTES));
        assert_eq!(member.encodings.get(), 3, "once for both");
        assert!(member.part(1, SIZE + 1).await.is_empty() && !member.keeps_one(), "there is no such part");
    }

    #[tokio::test]
    async fn one_state_is_kept_and_another_one_replaces_it() {
        let member = Member::default();
        member.part(1, 0).await;
        member.send(2).await;
        assert_eq!((member.encodings.get(), member.keeps_one()), (2, false));
        member.send(1).await;
        assert_eq!(member.encodings.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_nobody_gets_to_its_end_is_forgotten() {
        let member = Member::default();
        member.part(1, 0).await;
        assert!(member.keeps_one());
        sleep(STATE_WITHIN + Duration::from_millis(1)).await;
        assert!(!member.keeps_one());
    }

    #[tokio::test]
    async fn a_state_that_can_not_be_read_is_read_again() {
        let member = Member::default();
        let failed = member.sending.part(&("council".to_owned(), 1), 0, async { Err("no disk".to_owned()) }).await;
        assert_eq!(failed, Err("no disk".to_owned()));
        member.send(1).await;
        assert_eq!(member.encodings.get(), 1);
    }
}
