//! How a call is made: at which endpoints, how often, and for how long.
//!
//! An endpoint may take connections and never answer, as a frozen process does, whose kernel goes on. So a call that one
//! endpoint has not answered soon is made at the next one as well, and the first answer counts. A call that must not be
//! under way twice, and one that waits for something, is made at one endpoint at a time, but only at one that has just
//! been heard from.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use futures::stream::{FuturesUnordered, Stream, StreamExt};
use robeing_net::{client::answers, pushback::asked_pause};
use robeing_proto::v1::{admin_client::AdminClient, fleet_client::FleetClient as Rpc};
use tokio::time::{Instant, error::Elapsed, sleep, sleep_until, timeout, timeout_at};
use tonic::{Code, Response, Status};

use super::{ClientError, FleetClient, Inner, Wire, distrust, error};

/// How long an endpoint has to answer before a call is made at the next one as well.
pub(super) const HEDGE_AFTER: Duration = Duration::from_secs(1);
/// How long one endpoint has to answer while there are others to try.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a good answer of another endpoint is waited for once one has refused a call that is under way at several.
const OTHERS_WITHIN: Duration = Duration::from_secs(1);
/// Pause after every endpoint has failed once; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// What an endpoint answers in its time.
type Answer<T> = Result<Result<Response<T>, Status>, Elapsed>;

/// How a call may be repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repeat {
    /// At several endpoints at once: it changes nothing, or the fleet knows it by an id that the caller has drawn, and so
    /// does it once.
    AtOnce,
    /// At one endpoint after another: it sets or makes something, and one that is late could undo what was set after it.
    InTurn,
}

impl FleetClient {
    /// Makes a call. If an endpoint does not answer, the call is made at the next one, also while the first may still
    /// answer, for as long as the settings allow; so it must be one that changes nothing, or that the fleet knows by its
    /// id.
    pub async fn call<T, F, A>(&self, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(Rpc<Wire>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_for(Repeat::AtOnce, Duration::ZERO, |target| attempt(self.rpc(target))).await
    }

    /// Makes a call of the Admin service.
    pub(crate) async fn call_admin<T, F, A>(&self, repeat: Repeat, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(AdminClient<Wire>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_for(repeat, Duration::ZERO, |target| attempt(self.admin(target))).await
    }

    /// Makes a call that `attempt` makes at an endpoint, until one answers. An answer may take `extra` longer than
    /// usual, because the call waits for something: then it is made at one endpoint at a time.
    pub(crate) async fn call_for<T, F, A>(&self, repeat: Repeat, extra: Duration, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(usize) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        if repeat == Repeat::AtOnce && extra.is_zero() {
            self.contact().await?;
            return self.call_at(self.inner.targets.len(), extra, attempt).await;
        }
        self.find_answering().await?;
        self.call_at(1, extra, attempt).await
    }

    /// Makes an endpoint the first one that has answered just now, if there are several.
    pub(crate) async fn find_answering(&self) -> Result<(), ClientError> {
        self.contact().await?;
        let all = self.inner.targets.len();
        if all == 1 {
            return Ok(());
        }
        self.call_at(all, Duration::ZERO, |target| {
            let channel = self.inner.targets[target].channels.channel();
            async move { answers(channel).await.map(Response::new) }
        })
        .await
    }

    /// Makes a call that `attempt` makes at an endpoint, until one answers, at no more than `most` endpoints at once.
    /// Each has at most one attempt under way.
    async fn call_at<T, F, A>(&self, most: usize, extra: Duration, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(usize) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let mut tries = Tries { extra, ..Tries::new(self) };
        let begin = |target: usize, ends: Instant| {
            let answer = timeout_at(ends, attempt(target));
            async move { (target, answer.await) }
        };
        let (mut asked, mut under_way) = (BTreeSet::new(), FuturesUnordered::new());
        // When the next endpoint is asked.
        let mut next_at = Instant::now();
        loop {
            // Not by the timer, which can be a millisecond late.
            if asked.len() < most && Instant::now() >= next_at {
                if let Some(target) = self.unasked(&asked) {
                    asked.insert(target);
                    under_way.push(begin(target, tries.attempt_ends()));
                }
                next_at = Instant::now() + HEDGE_AFTER;
            }
            tokio::select! {
                Some((target, answer)) = under_way.next(), if !asked.is_empty() => {
                    asked.remove(&target);
                    let status = match answer {
                        Ok(Ok(answer)) => {
                            self.prefer(target);
                            return Ok(answer.into_inner());
                        }
                        Ok(Err(status)) => status,
                        Err(_) => Status::unavailable(format!("{} did not answer in time", self.name(target))),
                    };
                    // What the others are doing is not known yet.
                    tries.may_be_done |= !asked.is_empty();
                    next_at = match tries.note(target, &status) {
                        Ok(pause) => Instant::now() + pause,
                        Err(error) => return self.good_answer(under_way).await.ok_or(error),
                    };
                }
                () = sleep_until(next_at), if asked.len() < most => {}
            }
        }
    }

    /// Returns the first good answer of those that still owe one, if it comes soon. What one endpoint refuses, another one
    /// may have done already: the one that refuses can be of an earlier version, or no coordinator at all.
    async fn good_answer<T>(&self, mut under_way: impl Stream<Item = (usize, Answer<T>)> + Unpin) -> Option<T> {
        let good = async {
            while let Some((target, answer)) = under_way.next().await {
                if let Ok(Ok(answer)) = answer {
                    self.prefer(target);
                    return Some(answer.into_inner());
                }
            }
            None
        };
        timeout(OTHERS_WITHIN, good).await.ok().flatten()
    }

    /// Moves to an endpoint that has answered.
    fn prefer(&self, target: usize) {
        self.inner.current.store(target, Ordering::Relaxed);
    }

    /// Moves from `target` to the next endpoint, unless another call already has.
    fn fail_over(&self, target: usize) {
        let next = (target + 1) % self.inner.targets.len();
        let _ = self.inner.current.compare_exchange(target, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Returns the first endpoint, from the current one on, that owes no answer.
    fn unasked(&self, asked: &BTreeSet<usize>) -> Option<usize> {
        let (all, first) = (self.inner.targets.len(), self.current());
        (0..all).map(|step| (first + step) % all).find(|target| !asked.contains(target))
    }
}

/// The retries of one call: its deadline and the pauses between rounds.
pub(crate) struct Tries {
    client: FleetClient,
    pub(super) began: Instant,
    failures: usize,
    /// Number of failures in a row because an endpoint and this client do not trust each other.
    distrusts: usize,
    /// Whether an attempt that failed may have done something.
    may_be_done: bool,
    pause: Duration,
    /// How much longer than usual an answer may take.
    extra: Duration,
}

impl Tries {
    pub(crate) fn new(client: &FleetClient) -> Self {
        Self {
            client: client.clone(),
            began: Instant::now(),
            failures: 0,
            distrusts: 0,
            may_be_done: false,
            pause: FIRST_PAUSE,
            extra: Duration::ZERO,
        }
    }

    pub(super) fn ends(&self) -> Instant {
        self.began + self.client.inner.settings.request_timeout + self.extra
    }

    /// Returns the deadline of an attempt that starts now.
    pub(crate) fn attempt_ends(&self) -> Instant {
        match self.client.inner.targets.len() {
            1 => self.ends(),
            _ => self.ends().min(Instant::now() + ATTEMPT_TIMEOUT + self.extra),
        }
    }

    /// Resets the time limit and the pauses after an answer.
    pub(crate) fn succeeded(&mut self) {
        self.began = Instant::now();
        self.failures = 0;
        self.distrusts = 0;
        self.may_be_done = false;
        self.pause = FIRST_PAUSE;
    }

    /// Records a failed attempt at an endpoint, and pauses if all endpoints have failed in this round.
    ///
    /// # Errors
    /// The failure as a [`ClientError`], if a retry would not help or there is no time left for one.
    pub(crate) async fn failed(&mut self, target: usize, status: Status) -> Result<(), ClientError> {
        let pause = self.note(target, &status)?;
        if !pause.is_zero() {
            sleep(pause).await;
        }
        Ok(())
    }

    /// Records a failed attempt at an endpoint. Returns the pause before the next one, which is not zero if all endpoints
    /// have failed in this round.
    ///
    /// # Errors
    /// As [`Tries::failed`].
    fn note(&mut self, target: usize, status: &Status) -> Result<Duration, ClientError> {
        let Inner { targets, settings, .. } = &*self.client.inner;
        let endpoint = &targets[target].name;
        if is_foreign(status) {
            return Err(ClientError::NotAFleet { endpoint: endpoint.clone(), cause: error::cause(status) });
        }
        let asked_pause = asked_pause(status);
        if asked_pause.is_none() && !may_retry(status) {
            return Err(ClientError::refused(status));
        }
        self.may_be_done |= asked_pause.is_none();
        let distrust = distrust::distrust(status, endpoint, settings.security.trust_source());
        self.distrusts = if distrust.is_some() { self.distrusts + 1 } else { 0 };
        self.client.fail_over(target);
        self.failures += 1;
        let round_is_over = self.failures.is_multiple_of(targets.len());
        let pause = if round_is_over { self.pause.max(asked_pause.unwrap_or_default()) } else { Duration::ZERO };
        let is_late = Instant::now() + pause >= self.ends();
        match distrust {
            // One of them may be another fleet's; if it is all of them, trying again does not help.
            Some(error) if is_late || self.distrusts >= targets.len() => return Err(error),
            None if is_late && !self.may_be_done => return Err(ClientError::refused(status)),
            None if is_late => {
                return Err(ClientError::Unavailable {
                    endpoints: self.client.endpoints().join(", "),
                    waited: self.began.elapsed(),
                    cause: error::cause(status),
                });
            }
            _ => {}
        }
        if round_is_over {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        Ok(pause)
    }
}

/// What the HTTP/2 library reports when the peer does not speak HTTP/2.
const NO_HTTP2: [&str; 2] = ["frame with invalid size", "unspecific protocol error detected"];

/// Returns the error of a call of a service or method that a fleet of the version before lacks, as `lacks` says: it is a
/// fleet nevertheless, which [`is_foreign`] would not know.
pub(crate) fn too_old(status: Status, lacks: &str) -> Status {
    match status.code() {
        Code::Unimplemented => {
            Status::failed_precondition(format!("this fleet {lacks} yet: upgrade its coordinators to this version"))
        }
        _ => status,
    }
}

/// Returns whether the answer is from a server that does not have this service or does not speak gRPC.
fn is_foreign(status: &Status) -> bool {
    let cause = error::cause(status);
    status.code() == Code::Unimplemented
        || cause.starts_with("grpc-status header missing")
        || NO_HTTP2.iter().any(|words| cause.contains(words))
}

/// Returns whether another coordinator, or the same one a little later, might answer. A status with a source was
/// created on this side, because the connection broke.
fn may_retry(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || retryable(status.code())
}

/// Returns whether a fleet that answers with this code might answer differently a little later.
fn retryable(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use robeing_net::pushback::again_in;
    use robeing_proto::v1::{BarAgentRequest, Consistency, GetStatusRequest, TaskSpec, WatchTasksRequest};
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        Settings, SubmitOptions,
        stub::{Manners, stub},
    };

    /// Too short for one endpoint that is silent, and enough to ask another one as well.
    const LIMIT: Duration = Duration::from_millis(2_800);

    /// Returns a client that asks the first of these endpoints first.
    async fn client(endpoints: &[String]) -> FleetClient {
        let settings = Settings { request_timeout: LIMIT, ..Settings::default() };
        let client = FleetClient::new(endpoints, settings).expect("the endpoints are good");
        client.contact().await.expect("they take connections");
        client.prefer(0);
        client
    }

    /// Returns an endpoint at which the kernel takes connections for a process that does nothing.
    async fn frozen() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let endpoint = listener.local_addr().expect("it is bound").to_string();
        (listener, endpoint)
    }

    #[tokio::test]
    async fn calls_of_all_kinds_get_past_an_endpoint_that_takes_connections_and_is_frozen() {
        assert!(HEDGE_AFTER < LIMIT && LIMIT < ATTEMPT_TIMEOUT);
        let running = stub(&[Manners::default()]).await;
        let (_listener, endpoint) = frozen().await;
        let endpoints = [endpoint, running.endpoints[0].clone()];
        let status = client(&endpoints).await.status(Consistency::Local).await.expect("one answers a question");
        assert_eq!(status.cluster_id, "stub");
        let bar = BarAgentRequest { agent: "a".into(), ..BarAgentRequest::default() };
        client(&endpoints).await.bar_agent(bar).await.expect("one does what it is told");
        let tasks = [TaskSpec { kind: "k".into(), ..TaskSpec::default() }];
        let submitting = client(&endpoints).await;
        submitting.submit_many(tasks, SubmitOptions::default(), |_| {}).await.expect("one takes tasks");
        let mut watch = client(&endpoints).await.watch_tasks(WatchTasksRequest::default());
        watch.next().await.expect("one is watched");
        let waiting = client(&endpoints).await;
        let wait = waiting.call_for(Repeat::AtOnce, Duration::from_secs(600), |target| {
            let mut rpc = waiting.rpc(target);
            async move { rpc.get_status(GetStatusRequest::default()).await }
        });
        wait.await.expect("one answers a question that may take long");
    }

    /// Makes a call that the second of two endpoints refuses, and the first one answers after this time, if it does. Returns
    /// how long that took as well.
    async fn refused_by_the_second(first: Option<Duration>) -> (Result<u32, ClientError>, Duration) {
        let running = stub(&[Manners::default(), Manners::default()]).await;
        let client = client(&running.endpoints).await;
        tokio::time::pause();
        let began = Instant::now();
        let answer = client.call_for(Repeat::AtOnce, Duration::ZERO, |target| async move {
            match (target, first) {
                (0, Some(after)) => sleep(after).await,
                (0, None) => std::future::pending().await,
                _ => return Err(Status::permission_denied("not you")),
            }
            Ok(Response::new(7))
        });
        (answer.await, began.elapsed())
    }

    #[tokio::test]
    async fn a_good_answer_counts_more_than_a_refusal_of_another_endpoint_if_it_comes_soon() {
        let (answer, _) = refused_by_the_second(Some(HEDGE_AFTER + OTHERS_WITHIN / 2)).await;
        assert_eq!(answer.expect("the first one has done it"), 7);
    }

    #[tokio::test]
    async fn a_refusal_is_told_although_another_endpoint_is_silent() {
        let (answer, took) = refused_by_the_second(None).await;
        let error = answer.expect_err("the second one refuses");
        assert!(matches!(&error, ClientError::Refused { code: Code::PermissionDenied, .. }), "{error:?}");
        assert!(took < HEDGE_AFTER + OTHERS_WITHIN + Duration::from_millis(100), "{took:?}");
    }

    /// Makes a call at two endpoints that is refused for now by all attempts before this one. The answer to the first one
    /// may be lost instead. Returns how many attempts there were as well.
    async fn refused_for_now(lost: bool, until: usize) -> (Result<u32, ClientError>, usize) {
        let running = stub(&[Manners::default(), Manners::default()]).await;
        let client = client(&running.endpoints).await;
        tokio::time::pause();
        let attempts = AtomicUsize::new(0);
        let answer = client.call_for(Repeat::AtOnce, Duration::ZERO, |_| {
            let attempt = attempts.fetch_add(1, Ordering::Relaxed);
            async move {
                match attempt {
                    0 if lost => Err(Status::unavailable("lost")),
                    attempt if attempt < until => Err(again_in(LONGEST_PAUSE, "16 calls are opening ballots here")),
                    _ => Ok(Response::new(7)),
                }
            }
        });
        let answer = answer.await;
        tokio::time::resume();
        (answer, attempts.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn what_is_refused_for_now_is_asked_again() {
        for lost in [false, true] {
            let (answer, attempts) = refused_for_now(lost, 5).await;
            assert_eq!((answer.expect("there is room in the end"), attempts), (7, 6));
        }
    }

    #[tokio::test]
    async fn what_is_refused_until_the_end_is_refused_unless_an_answer_was_lost() {
        let (refused, attempts) = refused_for_now(false, usize::MAX).await;
        assert!(matches!(&refused, Err(ClientError::Refused { code: Code::ResourceExhausted, .. })), "{refused:?}");
        // Two in each round, and no more rounds than there are pauses.
        let most = 2 * (LIMIT.as_millis() / LONGEST_PAUSE.as_millis() + 1) as usize;
        assert!((4..=most).contains(&attempts), "{attempts}");
        let (open, _) = refused_for_now(true, usize::MAX).await;
        assert!(matches!(&open, Err(ClientError::Unavailable { .. })), "it may have been done: {open:?}");
    }

    #[tokio::test]
    async fn an_endpoint_that_has_answered_is_asked_first_from_then_on() {
        let running = stub(&[Manners { silent: true, ..Manners::default() }, Manners::default()]).await;
        let client = client(&running.endpoints).await;
        for calls in [2, 3] {
            client.status(Consistency::Local).await.expect("the second one answers");
            assert_eq!((client.current(), running.stub.shared().calls), (1, calls));
        }
    }

    #[tokio::test]
    async fn a_call_is_under_way_at_each_endpoint_once_at_most() {
        let silent = Manners { silent: true, ..Manners::default() };
        let running = stub(&[silent.clone(), silent]).await;
        let error = client(&running.endpoints).await.status(Consistency::Local).await.expect_err("nobody answers");
        assert!(matches!(&error, ClientError::Unavailable { .. }), "{error:?}");
        assert_eq!(running.stub.shared().calls, 2);
    }

    #[tokio::test]
    async fn what_sets_something_is_under_way_at_one_endpoint_alone() {
        let running = stub(&[Manners { silent: true, ..Manners::default() }, Manners::default()]).await;
        let bar = BarAgentRequest { agent: "a".into(), ..BarAgentRequest::default() };
        let error = client(&running.endpoints).await.bar_agent(bar).await.expect_err("its time is over");
        assert!(matches!(&error, ClientError::Unavailable { .. }), "{error:?}");
        let shared = running.stub.shared();
        assert_eq!((shared.calls, shared.barred.len()), (1, 0));
    }
}
