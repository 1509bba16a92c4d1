//! Inputs and outputs in the object store: what of an input is there is fetched before its attempt runs, and an output that
//! is too large for a completion is put there. Both count as time of the attempt.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use robeing_blobs::{BlobError, BlobRef, BlobStore, MAX_BLOB_BYTES};
use robeing_fleet::limits::MAX_INPUT_BYTES;
use robeing_proto::{
    internal::v1::{self as internal, completion},
    v1,
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::wire;
use crate::executor::{Attempt, Executor, Outcome};

const _: () = assert!(MAX_BLOB_BYTES == robeing_fleet::limits::MAX_BLOB_BYTES);

/// How long a task waits for its next attempt after a store has failed, ms, unless its backoff is longer: attempts that
/// follow at once would all be used up by one short outage.
const RETRY_AFTER_MS: u64 = 30_000;

/// The object store of an agent, as far as its coordinator knows such stores.
#[derive(Clone, Copy)]
pub(super) struct Store<'a> {
    /// The store, if the agent has one.
    pub blobs: Option<&'a BlobStore>,
    /// Whether the coordinator takes references to outputs.
    pub takes_refs: bool,
}

/// Why an input can't be given to an attempt, or an output not to the coordinator.
struct Problem {
    message: String,
    retryable: bool,
    /// How long the next attempt has to wait at least, ms.
    retry_after_ms: u64,
}

impl Problem {
    fn new(message: &str, retryable: bool) -> Self {
        Self { message: message.to_owned(), retryable, retry_after_ms: 0 }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        let retryable = error.is_retryable();
        Self { message: error.to_string(), retryable, retry_after_ms: if retryable { RETRY_AFTER_MS } else { 0 } }
    }
}

/// Runs an attempt with an input of which these parts are in the object store. Returns how it ended.
pub(super) async fn run(
    executor: &dyn Executor,
    store: Store<'_>,
    mut attempt: Attempt,
    parts: Vec<internal::StoredPart>,
    cancel: CancellationToken,
) -> completion::Outcome {
    let (begun, limit) = (Instant::now(), attempt.time_limit);
    if !parts.is_empty() {
        // In a box, since most attempts don't need it.
        let fetched = Box::pin(within(limit, &cancel, input(store.blobs, &attempt.input, &parts))).await;
        match fetched {
            Ok(input) => attempt.input = input,
            Err(ended) => return ended,
        }
        let took = begun.elapsed();
        attempt.time_limit = limit.map(|limit| limit.saturating_sub(took));
        if let Some(deadline) = &mut attempt.deadline {
            deadline.left = deadline.left.saturating_sub(took);
        }
    }
    let used = store.blobs.map(|blobs| (blobs, cancel.clone()));
    match (executor.run(attempt, cancel).await, used) {
        (Outcome::Succeeded { output }, Some((blobs, cancel))) if output.len() > MAX_INPUT_BYTES => {
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            let put = Box::pin(within(left, &cancel, put(blobs, store.takes_refs, output))).await;
            put.map_or_else(|ended| ended, completion::Outcome::OutputRef)
        }
        (outcome, _) => wire::outcome(outcome),
    }
}

/// Uses the store, unless the attempt is cancelled or has no time left.
async fn within<T>(
    left: Option<Duration>,
    cancel: &CancellationToken,
    used: impl Future<Output = Result<T, Problem>>,
) -> Result<T, completion::Outcome> {
    let in_time = async {
        match left {
            Some(left) if left.is_zero() => None,
            Some(left) => timeout(left, used).await.ok(),
            None => Some(used.await),
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(completion::Outcome::Stopped(internal::Stopped {})),
        ended = in_time => match ended {
            Some(ended) => ended.map_err(|problem| failed(v1::FailureKind::Internal, problem)),
            None => {
                let message = "the attempt's time limit passed while the object store was used";
                Err(failed(v1::FailureKind::TimedOut, Problem::new(message, true)))
            }
        },
    }
}

/// Returns the end of an attempt as the coordinator knows such ends. One of the version before knows neither references to
/// outputs nor subtasks: it would refuse the completion, and never end the attempt.
pub(super) fn known(takes_refs: bool, outcome: completion::Outcome) -> completion::Outcome {
    let (kind, message) = match outcome {
        completion::Outcome::OutputRef(_) if !takes_refs => (
            v1::FailureKind::OutputTooLarge,
            "the output is in the object store; the fleet can refer to it once all coordinators are upgraded",
        ),
        completion::Outcome::Suspended(_) if !takes_refs => (
            v1::FailureKind::Reported,
            "the attempt asked for subtasks; the fleet can have them once all coordinators are upgraded",
        ),
        known => return known,
    };
    failed(kind, Problem::new(message, true))
}

fn failed(kind: v1::FailureKind, problem: Problem) -> completion::Outcome {
    let Problem { message, retryable, retry_after_ms } = problem;
    let kind = kind.into();
    completion::Outcome::Failure(v1::Failure { kind, message, retryable, retry_after_ms, ..v1::Failure::default() })
}

/// Returns an input with its parts from the store.
async fn input(store: Option<&BlobStore>, inline: &Bytes, parts: &[internal::StoredPart]) -> Result<Bytes, Problem> {
    let no_store =
        || Problem::new("the input is in the object store, and this agent has none; set --object-store", true);
    let store = store.ok_or_else(no_store)?;
    let blobs: Vec<(u64, BlobRef)> = parts.iter().map(read).collect::<Result<_, Problem>>()?;
    let bytes = blobs.iter().fold(inline.len() as u64, |sum, (_, blob)| sum.saturating_add(blob.bytes));
    if bytes > MAX_BLOB_BYTES {
        return Err(BlobError::TooLarge { bytes, limit: MAX_BLOB_BYTES }.into());
    }
    if let ([(_, whole)], true) = (&blobs[..], inline.is_empty()) {
        return Ok(store.get(*whole).await?);
    }
    let mut input = BytesMut::with_capacity(usize::try_from(bytes).unwrap_or_default());
    let mut from = 0;
    for (at, blob) in blobs {
        let at = usize::try_from(at).unwrap_or(usize::MAX).clamp(from, inline.len());
        input.extend_from_slice(&inline[from..at]);
        input.extend_from_slice(&store.get(blob).await?);
        from = at;
    }
    input.extend_from_slice(&inline[from..]);
    Ok(input.freeze())
}

fn read(part: &internal::StoredPart) -> Result<(u64, BlobRef), Problem> {
    let blob = part.object.as_ref().and_then(|object| BlobRef::from_parts(&object.sha256, object.bytes));
    let blob = blob.ok_or_else(|| Problem::new("the reference to a part of the input is none", false))?;
    Ok((part.at, blob))
}

/// Stores an output that is too large for a completion.
async fn put(store: &BlobStore, takes_refs: bool, output: Bytes) -> Result<v1::BlobRef, Problem> {
    if !takes_refs {
        let message = format!(
            "the output has {} bytes, the limit is {MAX_INPUT_BYTES} until all coordinators know object stores",
            output.len()
        );
        return Err(Problem::new(&message, false));
    }
    let BlobRef { sha256, bytes } = store.put(output).await?;
    Ok(v1::BlobRef { sha256: sha256.to_vec().into(), bytes })
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tempfile::TempDir;

    use super::*;
    use crate::executor::{AttemptLog, Deadline, EchoExecutor};

    fn store() -> (TempDir, BlobStore) {
        let folder = TempDir::new().expect("a directory");
        let store = BlobStore::open(&format!("file://{}", folder.path().display())).expect("it can be opened");
        (folder, store)
    }

    fn attempt(input: &'static str) -> Attempt {
        Attempt {
            task_id: "t".to_owned(),
            attempt: 1,
            kind: "k".to_owned(),
            input: Bytes::from_static(input.as_bytes()),
            deadline: Some(Deadline { left: Duration::from_secs(60), unix_ms: 0 }),
            time_limit: Some(Duration::from_secs(60)),
            allowance: None,
            log: AttemptLog::default(),
            results: Vec::new(),
            carried: Bytes::new(),
        }
    }

    fn part(at: u64, blob: BlobRef) -> internal::StoredPart {
        let object = v1::BlobRef { sha256: blob.sha256.to_vec().into(), bytes: blob.bytes };
        internal::StoredPart { at, object: Some(object) }
    }

    async fn echo(
        blobs: Option<&BlobStore>,
        takes_refs: bool,
        input: &'static str,
        parts: Vec<internal::StoredPart>,
    ) -> completion::Outcome {
        let store = Store { blobs, takes_refs };
        run(&EchoExecutor, store, attempt(input), parts, CancellationToken::new()).await
    }

    fn failure(ended: completion::Outcome) -> v1::Failure {
        match ended {
            completion::Outcome::Failure(failure) => failure,
            other => panic!("it has not failed: {other:?}"),
        }
    }

    #[test]
    fn what_commands_do_not_inherit_is_what_the_store_reads() {
        assert_eq!(robeing_blobs::OWN_VARIABLES, robeing_settings::OBJECT_STORE_VARIABLES);
    }

    #[tokio::test]
    async fn a_large_input_is_fetched_and_a_large_output_is_stored() {
        let (_folder, store) = store();
        let content = Bytes::from(vec![7; 5 << 20]);
        let blob = store.put(content).await.expect("it is stored");
        let ended = echo(Some(&store), true, "", vec![part(0, blob)]).await;
        let same = v1::BlobRef { sha256: blob.sha256.to_vec().into(), bytes: blob.bytes };
        assert_eq!(ended, completion::Outcome::OutputRef(same), "the output is the input");
        assert_eq!(known(true, ended.clone()), ended);
        let unknown = failure(known(false, ended));
        assert_eq!((unknown.kind(), unknown.retryable), (v1::FailureKind::OutputTooLarge, true));
        let asked = completion::Outcome::Suspended(internal::Suspended::default());
        assert_eq!(known(true, asked.clone()), asked);
        let unknown = failure(known(false, asked));
        assert_eq!((unknown.kind(), unknown.retryable), (v1::FailureKind::Reported, true));
        let refused = failure(echo(Some(&store), false, "", vec![part(0, blob)]).await);
        assert!(!refused.retryable && refused.message.contains("until all coordinators"), "{refused:?}");
    }

    #[tokio::test]
    async fn parts_are_put_where_they_belong_and_what_is_small_stays_in_the_completion() {
        let (_folder, store) = store();
        let one = store.put("1,".into()).await.expect("it is stored");
        let two = store.put("2,".into()).await.expect("it is stored");
        for (inline, parts, whole) in [
            ("", vec![part(0, one)], "1,"),
            ("own,", vec![part(4, one), part(4, two)], "own,1,2,"),
            ("own,end", vec![part(0, two), part(4, one)], "2,own,1,end"),
            ("own", vec![part(99, one)], "own1,"),
        ] {
            let ended = echo(Some(&store), true, inline, parts).await;
            assert_eq!(ended, completion::Outcome::Output(Bytes::from_static(whole.as_bytes())), "{inline}");
        }
    }

    #[tokio::test]
    async fn what_can_not_be_fetched_is_a_failure_that_says_why() {
        let (_folder, store) = store();
        let missing = BlobRef::of(b"it was never stored");
        for (blobs, parts, retryable, said) in [
            (Some(&store), vec![part(0, missing)], true, "there is no object sha256/"),
            (None, vec![part(0, missing)], true, "set --object-store"),
            (Some(&store), vec![part(0, BlobRef { bytes: MAX_BLOB_BYTES, ..missing }); 2], false, "too large"),
            (Some(&store), vec![internal::StoredPart::default()], false, "is none"),
        ] {
            let failed = failure(echo(blobs, true, "", parts).await);
            assert!(failed.retryable == retryable && failed.message.contains(said), "{failed:?}");
            let pause = if retryable && blobs.is_some() { RETRY_AFTER_MS } else { 0 };
            assert_eq!(failed.retry_after_ms, pause, "an outage of the store must not use up all attempts: {failed:?}");
        }
    }

    /// Says how much time is left.
    struct Tells;

    #[async_trait]
    impl Executor for Tells {
        async fn run(&self, attempt: Attempt, _: CancellationToken) -> Outcome {
            let left = attempt.time_limit.expect("it is limited");
            Outcome::Succeeded { output: format!("{}", left < Duration::from_secs(60)).into() }
        }

        fn name(&self) -> &'static str {
            "tells"
        }
    }

    #[tokio::test]
    async fn the_time_for_fetching_is_that_of_the_attempt_and_who_is_cancelled_fetches_nothing() {
        let (_folder, store) = store();
        let blob = store.put("1,".into()).await.expect("it is stored");
        let blobs = Store { blobs: Some(&store), takes_refs: true };
        let ended = run(&Tells, blobs, attempt(""), vec![part(0, blob)], CancellationToken::new()).await;
        assert_eq!(ended, completion::Outcome::Output(Bytes::from_static(b"true")));
        let late = Attempt { time_limit: Some(Duration::ZERO), ..attempt("") };
        let missing = vec![part(0, BlobRef::of(b"it was never stored"))];
        let ended = failure(run(&Tells, blobs, late, missing.clone(), CancellationToken::new()).await);
        assert_eq!((ended.kind(), ended.retryable), (v1::FailureKind::TimedOut, true));
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        let ended = run(&Tells, blobs, attempt(""), missing, cancelled).await;
        assert_eq!(ended, completion::Outcome::Stopped(internal::Stopped {}));
    }
}
