//! Follows the fleet's tasks for one webhook.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use robeing_net::limited;
use robeing_platform::jittered;
use robeing_proto::v1::{
    Consistency, GetStatusRequest, Task, WatchTasksRequest, WatchTasksResponse, fleet_client::FleetClient,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tonic::{Status, Streaming, transport::Channel};
use tracing::{debug, warn};

use super::{
    HANDOVER, MAX_AT_ONCE, MAX_PENDING, MAX_PENDING_BYTES, WebhookMetrics, WebhooksDeps, WebhooksError,
    config::Webhook,
    delivery::Delivery,
    event::Event,
    place::{Place, PlaceFile, folder},
    share::Share,
};
use crate::roles::messenger::gateway::coordinators::has_ended;

/// How often it is looked who is a messenger, and how far the webhook is is kept.
const TICK: Duration = Duration::from_secs(1);
/// The first and the longest pause after a watch that failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A look back at tasks that have ended before the set of messengers changed.
struct Review {
    /// Up to this revision, tasks were looked at by the former set.
    until: u64,
    former: Share,
}

/// Follows the fleet's tasks for one webhook, and delivers their events.
pub struct Follower {
    deps: Arc<WebhooksDeps>,
    delivery: Arc<Delivery>,
    file: PlaceFile,
    place: Place,
    share: Share,
    review: Option<Review>,
    /// When which revision was reached; the oldest first.
    reached: VecDeque<(Instant, u64)>,
    /// The size of the events that are not delivered yet, by id.
    sizes: BTreeMap<String, usize>,
    /// Returns the id of its event.
    deliveries: JoinSet<String>,
}

impl Follower {
    /// Opens the place of a webhook.
    ///
    /// # Errors
    /// If the data folder can't be used.
    pub async fn open(
        webhook: Webhook,
        deps: Arc<WebhooksDeps>,
        metrics: WebhookMetrics,
    ) -> Result<Self, WebhooksError> {
        let data = deps.data.as_deref();
        let wrong = |source| WebhooksError::Place { dir: data.map(folder).unwrap_or_default(), source };
        let file = PlaceFile::open(&deps.platform.disk, data, &webhook.name).await.map_err(wrong)?;
        let place = file.kept().cloned().unwrap_or_default();
        let room = Semaphore::new(MAX_AT_ONCE);
        let delivery = Arc::new(Delivery { webhook, platform: deps.platform.clone(), metrics, room });
        Ok(Self {
            deps,
            delivery,
            file,
            place,
            share: Share::default(),
            review: None,
            reached: VecDeque::new(),
            sizes: BTreeMap::new(),
            deliveries: JoinSet::new(),
        })
    }

    /// Follows the tasks. It never ends.
    pub async fn run(mut self) {
        let mut pause = PAUSES.0;
        loop {
            let Some((generation, channel)) = self.deps.upstream.channel() else {
                tokio::time::sleep(PAUSES.1).await;
                continue;
            };
            let Err(status) = self.follow(channel, &mut pause).await else { continue };
            debug!(webhook = self.delivery.webhook.name, %status, "the tasks are not followed now; trying again");
            self.deps.upstream.failed(generation);
            tokio::time::sleep(jittered(&*self.deps.platform.random, pause)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Follows the tasks at one coordinator until that fails, or the set of messengers has changed.
    async fn follow(&mut self, channel: Channel, pause: &mut Duration) -> Result<(), Status> {
        let mut client = limited!(FleetClient::new(channel));
        if self.file.kept().is_none() {
            // What has ended before the webhook was there is not its.
            let request = GetStatusRequest { consistency: Consistency::Local.into() };
            self.place.revision = client.get_status(request).await?.into_inner().revision;
            self.keep().await;
        }
        if self.reached.is_empty() {
            self.reached.push_back((Instant::now(), self.place.revision));
        }
        self.resume(&mut client).await?;
        let from = match self.reached.front() {
            Some((_, oldest)) if self.review.is_some() => *oldest,
            _ => self.place.revision,
        };
        let webhook = &self.delivery.webhook;
        let kind = if let [kind] = &webhook.kinds[..] { kind.clone() } else { String::new() };
        let request = WatchTasksRequest {
            from_revision: from,
            states: webhook.states.iter().map(|state| i32::from(*state)).collect(),
            kind,
            include_output: true,
            ..WatchTasksRequest::default()
        };
        let watch = client.watch_tasks(request).await?.into_inner();
        self.take_from(watch, pause).await
    }

    async fn take_from(
        &mut self,
        mut watch: Streaming<WatchTasksResponse>,
        pause: &mut Duration,
    ) -> Result<(), Status> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(ended) = self.deliveries.join_next() => self.delivered(ended.ok()),
                _ = ticks.tick() => {
                    self.keep().await;
                    if self.has_changed() {
                        return Ok(());
                    }
                }
                // What is not read waits at the coordinator, and in the fleet.
                seen = watch.message(), if self.has_room() => match seen? {
                    Some(seen) => {
                        *pause = PAUSES.0;
                        self.seen(seen);
                    }
                    None => return Err(Status::unavailable("the coordinator ended the watch")),
                },
            }
        }
    }

    fn has_room(&self) -> bool {
        self.share.has(&self.deps.name)
            && self.sizes.len() < MAX_PENDING
            && self.sizes.values().sum::<usize>() < MAX_PENDING_BYTES
    }

    /// Looks who is a messenger now. If the set has changed, tasks that ended shortly before are looked at again: those
    /// of one that is gone may not have been delivered.
    fn has_changed(&mut self) -> bool {
        let share = Share::of(&self.deps.directory.snapshot());
        if share == self.share {
            return false;
        }
        let former = std::mem::replace(&mut self.share, share);
        let was_one = former.has(&self.deps.name);
        // Of two reviews, the earlier set counts: it has the fewest that were surely looked at.
        if was_one && self.review.is_none() {
            self.review = Some(Review { until: self.place.revision, former });
        }
        // The first set changes nothing: the watch has only begun.
        was_one
    }

    /// Takes what a watch has returned.
    fn seen(&mut self, seen: WatchTasksResponse) {
        for task in &seen.tasks {
            if self.is_for_this(task) {
                self.begin(task);
            }
        }
        if self.review.as_ref().is_some_and(|review| seen.revision >= review.until) {
            self.review = None;
        }
        if seen.revision > self.place.revision {
            self.place.revision = seen.revision;
            let now = Instant::now();
            // One that is older is kept, since the revision was the same since then.
            while self.reached.get(1).is_some_and(|(at, _)| now.duration_since(*at) > HANDOVER) {
                self.reached.pop_front();
            }
            if self.reached.back().is_none_or(|(at, _)| now.duration_since(*at) >= TICK) {
                self.reached.push_back((now, seen.revision));
            }
        }
    }

    fn is_for_this(&self, task: &Task) -> bool {
        let (webhook, name) = (&self.delivery.webhook, &self.deps.name);
        let fits = has_ended(task.state())
            && webhook.states.contains(&task.state())
            && (webhook.kinds.is_empty() || webhook.kinds.contains(&task.kind));
        let is_reviewed = |review: &Review| task.revision <= review.until && review.former.is_for(name, &task.id);
        fits && self.share.is_for(name, &task.id) && !self.review.as_ref().is_some_and(is_reviewed)
    }

    /// Begins to deliver the event of a task, unless that has begun.
    fn begin(&mut self, task: &Task) {
        if self.sizes.contains_key(&task.id) {
            return;
        }
        let event = Event::of(task, &self.deps.cluster);
        self.sizes.insert(task.id.clone(), event.body.len());
        self.place.pending.insert(task.id.clone());
        let delivery = Arc::clone(&self.delivery);
        self.deliveries.spawn(async move {
            delivery.deliver(&event).await;
            event.id
        });
    }

    fn delivered(&mut self, id: Option<String>) {
        // A delivery that panicked stays pending until the next start; the panic has been reported.
        if let Some(id) = id {
            self.sizes.remove(&id);
            self.place.pending.remove(&id);
        }
    }

    /// Begins to deliver what an earlier process has left.
    async fn resume(&mut self, client: &mut FleetClient<Channel>) -> Result<(), Status> {
        let left: Vec<String> =
            self.place.pending.iter().filter(|id| !self.sizes.contains_key(*id)).take(MAX_PENDING).cloned().collect();
        if left.is_empty() {
            return Ok(());
        }
        let mut open: BTreeSet<String> = left.iter().cloned().collect();
        let request = WatchTasksRequest { ids: left, include_output: true, ..WatchTasksRequest::default() };
        let mut watch = client.watch_tasks(request).await?.into_inner();
        while !open.is_empty() {
            let Some(seen) = watch.message().await? else {
                return Err(Status::unavailable("the coordinator ended the watch"));
            };
            for id in seen.gone_ids {
                open.remove(&id);
                self.place.pending.remove(&id);
                let webhook = &self.delivery.webhook.name;
                WebhookMetrics::count(&self.delivery.metrics.given_up, webhook);
                warn!(webhook, task = id, "an event was never delivered: the task has expired");
            }
            for task in seen.tasks.iter().filter(|task| has_ended(task.state())) {
                if open.remove(&task.id) {
                    self.begin(task);
                }
            }
        }
        Ok(())
    }

    async fn keep(&mut self) {
        if let Err(error) = self.file.keep(&self.place).await {
            let webhook = &self.delivery.webhook.name;
            warn!(webhook, %error, "how far a webhook is can't be written; events may be repeated after a restart");
        }
    }
}
