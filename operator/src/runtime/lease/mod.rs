//! Leader election among the operator's replicas by a Lease, which is only ever written over the version that was read.
//! The holder renews it. A holder that can't renew it exits, by its own monotonic clock, before another replica may
//! take the lease.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::names;

/// How long the lease is valid, and how often it is renewed or checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// How long other replicas wait after the last renewal that they saw.
    pub duration: Duration,
    /// How long the holder may stay active without a renewal; shorter than [`Timings::duration`].
    pub deadline: Duration,
    /// Pause between two attempts.
    pub retry: Duration,
}

impl Timings {
    /// Returns the timings, or an error if they could allow two holders at once.
    pub fn new(duration: Duration, deadline: Duration, retry: Duration) -> Result<Self, WrongTimings> {
        let whole_seconds = duration.subsec_nanos() == 0 && duration.as_secs() >= 1;
        if whole_seconds && deadline < duration && retry * 2 <= deadline && !retry.is_zero() {
            Ok(Self { duration, deadline, retry })
        } else {
            Err(WrongTimings { duration, deadline, retry })
        }
    }
}

/// Timings that could allow two active replicas at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "lease duration {duration:?}, renew deadline {deadline:?}, retry period {retry:?}: the duration must be whole \
     seconds, the deadline shorter than it, and the retry period at most half the deadline"
)]
pub struct WrongTimings {
    duration: Duration,
    deadline: Duration,
    retry: Duration,
}

/// Why the lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Another replica holds it.
    #[error("another replica took the lease")]
    Taken,
    /// The API server accepted no renewal in time.
    #[error("the lease could not be renewed in time")]
    Expired,
}

/// A replica's side of the leader election.
#[derive(Clone, Debug)]
pub struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    timings: Timings,
}

/// A lease that this replica holds.
#[derive(Debug)]
pub struct Held {
    elector: Elector,
    lease: Lease,
    /// Without a renewal, this replica is active only until then.
    until: Instant,
}

/// The version of another holder's lease, and when this replica first saw it.
#[derive(Debug)]
struct Seen {
    version: Option<String>,
    since: Instant,
}

impl Elector {
    /// Creates an elector for the lease `name` in a namespace. `identity` must be unique to this replica.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String, timings: Timings) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), identity, timings }
    }

    /// Waits until this replica holds the lease.
    pub async fn acquire(self) -> Held {
        let mut seen = None;
        loop {
            let tried = Instant::now();
            match timeout(self.timings.deadline, self.try_acquire(&mut seen)).await {
                Ok(Ok(Some(lease))) => {
                    tracing::info!(lease = self.name, identity = self.identity, "holding the lease");
                    // Measured from before the call: other replicas measure from when they see the renewal, which is
                    // later.
                    let until = tried + self.timings.deadline;
                    return Held { elector: self, lease, until };
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "the lease could not be read or taken"),
                Err(_) => tracing::warn!(lease = self.name, "the request for the lease timed out"),
            }
            sleep(self.timings.retry).await;
        }
    }

    async fn try_acquire(&self, seen: &mut Option<Seen>) -> kube::Result<Option<Lease>> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease { metadata: self.metadata(), spec: Some(self.spec(None)) };
            return taken(self.api.create(&PostParams::default(), &lease).await);
        };
        if !self.is_free(&lease, seen) {
            return Ok(None);
        }
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        taken(self.replace(&lease).await)
    }

    /// Returns whether the lease may be taken: it was released, this replica already holds it, or it has not changed
    /// for its whole duration. The holder's clock is not used, only how long this replica has seen the same version.
    fn is_free(&self, lease: &Lease, seen: &mut Option<Seen>) -> bool {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let version = lease.metadata.resource_version.clone();
        let known = seen.take().filter(|seen| seen.version == version);
        let seen = seen.insert(known.unwrap_or(Seen { version, since: Instant::now() }));
        let said = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let said = said.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        seen.since.elapsed() > said.unwrap_or(self.timings.duration)
    }

    fn metadata(&self) -> ObjectMeta {
        let labels = [(names::LABEL_NAME, names::OPERATOR)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        ObjectMeta { name: Some(self.name.clone()), labels: Some(labels.into()), ..ObjectMeta::default() }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let own = |spec: &&LeaseSpec| spec.holder_identity.as_deref() == Some(&self.identity);
        let transitions = before.map_or(0, |spec| spec.lease_transitions.unwrap_or(0) + i32::from(!own(&spec)));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timings.duration.as_secs()).ok(),
            acquire_time: before.filter(own).and_then(|spec| spec.acquire_time.clone()).or_else(|| now.clone()),
            renew_time: now,
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Replaces the lease. Fails if it has changed since it was read, since it contains the resource version.
    async fn replace(&self, lease: &Lease) -> kube::Result<Lease> {
        self.api.replace(&self.name, &PostParams::default(), lease).await
    }
}

/// Maps a conflict to `None`: another replica was faster.
fn taken(result: kube::Result<Lease>) -> kube::Result<Option<Lease>> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        other => other.map(Some),
    }
}

impl Held {
    /// Renews the lease until that fails. Returns why the lease was lost.
    pub async fn keep(&mut self) -> Lost {
        loop {
            let pause = sleep(self.elector.timings.retry);
            if timeout_at(self.until, pause).await.is_err() {
                return Lost::Expired;
            }
            let tried = Instant::now();
            // A call that hangs must leave time for another attempt.
            let answer_by = self.until.min(tried + self.elector.timings.deadline / 2);
            match timeout_at(answer_by, self.renew()).await {
                Ok(Ok(())) => self.until = tried + self.elector.timings.deadline,
                Ok(Err(Failed::Taken)) => return Lost::Taken,
                Ok(Err(Failed::Kube(error))) => tracing::warn!(%error, "the lease could not be renewed; trying again"),
                Err(_) if Instant::now() >= self.until => return Lost::Expired,
                Err(_) => tracing::warn!("the renewal of the lease timed out; trying again"),
            }
        }
    }

    async fn renew(&mut self) -> Result<(), Failed> {
        let mut lease = self.lease.clone();
        lease.spec = Some(self.elector.spec(lease.spec.as_ref()));
        match self.elector.replace(&lease).await {
            Ok(lease) => self.lease = lease,
            Err(kube::Error::Api(status)) if status.code == 409 => self.reread().await?,
            // Whoever deleted the lease may have wanted a new election.
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(Failed::Taken),
            Err(error) => return Err(Failed::Kube(Box::new(error))),
        }
        Ok(())
    }

    /// Reads the lease after a conflict. A write whose response was lost also leads to one, and then this replica still
    /// holds the lease.
    async fn reread(&mut self) -> Result<(), Failed> {
        let lease = self.elector.api.get(&self.elector.name).await.map_err(|error| Failed::Kube(Box::new(error)))?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder != Some(self.elector.identity.as_str()) {
            return Err(Failed::Taken);
        }
        self.lease = lease;
        Err(Failed::Kube(Box::new(kube::Error::Service("the lease was written meanwhile".into()))))
    }

    /// Releases the lease, so that another replica need not wait. To be called only after all work under the lease has
    /// ended.
    pub async fn release(mut self) {
        if let Some(spec) = &mut self.lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        match timeout_at(self.until, self.elector.replace(&self.lease)).await {
            Ok(Ok(_)) => tracing::info!("released the lease"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease could not be released; it expires"),
            Err(_) => tracing::warn!("the lease could not be released in time; it expires"),
        }
    }
}

enum Failed {
    Taken,
    Kube(Box<kube::Error>),
}

#[cfg(test)]
mod tests;
