//! Follows the fleet's tasks for one webhook.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
use tracing::{debug, info, warn};

use super::{
    MAX_AT_ONCE, MAX_PENDING, MAX_PENDING_BYTES, WebhookMetrics, WebhooksDeps, WebhooksError,
    config::Webhook,
    delivery::Delivery,
    event::{Event, event_id, task_of},
    place::{Place, PlaceFile, Review, folder},
    reached::Reached,
    share::Share,
};
use crate::roles::messenger::gateway::coordinators::has_ended;

/// How often it is looked who is a messenger, and how far the webhook is is kept.
const TICK: Duration = Duration::from_secs(1);
/// The first and the longest pause after a watch that failed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// An event that is not delivered yet.
struct Undelivered {
    /// Its size.
    bytes: usize,
    /// The revision at which its task ended.
    revision: u64,
}

/// Follows the fleet's tasks for one webhook, and delivers their events.
pub struct Follower {
    deps: Arc<WebhooksDeps>,
    delivery: Arc<Delivery>,
    file: PlaceFile,
    place: Place,
    /// Whether this is one of the active messengers.
    is_one: bool,
    reached: Reached,
    /// The events that are not delivered yet, by id.
    undelivered: BTreeMap<String, Undelivered>,
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
            is_one: false,
            reached: Reached::default(),
            undelivered: BTreeMap::new(),
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

    /// Follows the tasks at one coordinator until that fails, or a messenger is gone.
    async fn follow(&mut self, channel: Channel, pause: &mut Duration) -> Result<(), Status> {
        let mut client = limited!(FleetClient::new(channel));
        if self.file.kept().is_none() {
            // What has ended before the webhook was there is not its.
            let request = GetStatusRequest { consistency: Consistency::Local.into() };
            self.place.revision = client.get_status(request).await?.into_inner().revision;
            self.keep().await;
        }
        if self.reached.oldest().is_none() {
            let since = self.place.look_back.unwrap_or(self.place.revision);
            self.reached.note(since, None, Instant::now());
        }
        self.resume(&mut client).await?;
        let from = match self.reached.oldest() {
            Some(oldest) if self.place.review.is_some() => oldest,
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
        self.take_from(&mut client, watch, pause).await
    }

    async fn take_from(
        &mut self,
        client: &mut FleetClient<Channel>,
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
                    if self.one_is_gone() {
                        return Ok(());
                    }
                    self.close_eras(client).await?;
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
        self.is_one
            && self.undelivered.len() < MAX_PENDING
            && self.undelivered.values().map(|event| event.bytes).sum::<usize>() < MAX_PENDING_BYTES
    }

    /// Looks who is a messenger now, and returns whether one is gone. Then tasks are looked at again that ended before:
    /// its events may not have been delivered.
    fn one_is_gone(&mut self) -> bool {
        let share = Share::of(&self.deps.directory.snapshot());
        self.is_one = share.has(&self.deps.name);
        // While this one is not active itself, it knows too little of the others.
        if !self.is_one || share == *self.place.history.present() {
            return false;
        }
        if share.count() > 1 {
            let (webhook, messengers) = (&self.delivery.webhook.name, share.count());
            info!(webhook, messengers, "messengers share the events of a webhook; each must have it in its list");
        }
        let former = self.place.history.clone();
        let one_is_gone = self.place.history.change(share, Instant::now());
        // Of two reviews, the earlier one counts: by then, the fewest were surely looked at.
        if one_is_gone && self.place.review.is_none() {
            self.place.review = Some(Review { until: self.place.revision, former });
        }
        one_is_gone
    }

    /// Notes at which revision the times of earlier sets of messengers ended. That is where the fleet is now, not where
    /// this webhook is.
    async fn close_eras(&mut self, client: &mut FleetClient<Channel>) -> Result<(), Status> {
        if self.place.history.is_due(Instant::now()) {
            let request = GetStatusRequest { consistency: Consistency::Local.into() };
            let revision = client.get_status(request).await?.into_inner().revision;
            self.place.history.close(revision, Instant::now());
        }
        Ok(())
    }

    /// Takes what a watch has returned.
    fn seen(&mut self, seen: WatchTasksResponse) {
        for task in &seen.tasks {
            if self.is_for_this(task) {
                self.begin(task);
            }
        }
        if self.place.review.as_ref().is_some_and(|review| seen.revision >= review.until) {
            self.place.review = None;
        }
        if seen.revision > self.place.revision {
            self.place.revision = seen.revision;
            let undelivered = self.undelivered.values().map(|event| event.revision).min();
            self.reached.note(seen.revision, undelivered, Instant::now());
            self.place.look_back = self.reached.oldest();
            if let Some(oldest) = self.place.look_back {
                self.place.history.forget(oldest);
            }
        }
    }

    fn is_for_this(&self, task: &Task) -> bool {
        let (webhook, name) = (&self.delivery.webhook, &self.deps.name);
        let Place { history, review, .. } = &self.place;
        let fits = has_ended(task.state())
            && webhook.states.contains(&task.state())
            && (webhook.kinds.is_empty() || webhook.kinds.contains(&task.kind));
        let was_for_this =
            |review: &Review| task.revision <= review.until && review.former.is_for(name, &task.id, task.revision);
        fits && history.is_for(name, &task.id, task.revision) && !review.as_ref().is_some_and(was_for_this)
    }

    /// Begins to deliver the event of a task, unless that has begun.
    fn begin(&mut self, task: &Task) {
        if self.undelivered.contains_key(&event_id(task)) {
            return;
        }
        let event = Event::of(task, &self.deps.cluster);
        let undelivered = Undelivered { bytes: event.body.len(), revision: task.revision };
        self.undelivered.insert(event.id.clone(), undelivered);
        self.place.pending.insert(event.id.clone());
        let delivery = Arc::clone(&self.delivery);
        self.deliveries.spawn(async move {
            delivery.deliver(&event).await;
            event.id
        });
    }

    fn delivered(&mut self, id: Option<String>) {
        // A delivery that panicked stays pending until the next start; the panic has been reported.
        if let Some(id) = id {
            self.undelivered.remove(&id);
            self.place.pending.remove(&id);
        }
    }

    /// Begins to deliver what an earlier process has left.
    async fn resume(&mut self, client: &mut FleetClient<Channel>) -> Result<(), Status> {
        let is_left = |id: &&String| !self.undelivered.contains_key(*id);
        let left: Vec<String> = self.place.pending.iter().filter(is_left).take(MAX_PENDING).cloned().collect();
        if left.is_empty() {
            return Ok(());
        }
        let mut open: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for event in left {
            open.entry(task_of(&event).to_owned()).or_default().push(event);
        }
        let ids = open.keys().cloned().collect();
        let request = WatchTasksRequest { ids, include_output: true, ..WatchTasksRequest::default() };
        let mut watch = client.watch_tasks(request).await?.into_inner();
        while !open.is_empty() {
            let Some(seen) = watch.message().await? else {
                return Err(Status::unavailable("the coordinator ended the watch"));
            };
            for id in seen.gone_ids {
                self.give_up(open.remove(&id).unwrap_or_default(), "the task has expired");
            }
            for task in &seen.tasks {
                let Some(events) = open.remove(&task.id) else { continue };
                // What it was when it ended before it was tried again can't be read any more. Whether a later end is for
                // this webhook is decided when it is watched.
                let is_readable = |event: &String| has_ended(task.state()) && *event == event_id(task);
                let (readable, others): (Vec<String>, Vec<String>) = events.into_iter().partition(is_readable);
                self.give_up(others, "the task was tried again");
                if !readable.is_empty() {
                    self.begin(task);
                }
            }
        }
        Ok(())
    }

    /// Forgets events that were not delivered.
    fn give_up(&mut self, events: Vec<String>, why: &str) {
        let webhook = &self.delivery.webhook.name;
        for event in events {
            self.place.pending.remove(&event);
            WebhookMetrics::count(&self.delivery.metrics.given_up, webhook);
            warn!(webhook, event, why, "an event was never delivered");
        }
    }

    async fn keep(&mut self) {
        if let Err(error) = self.file.keep(&self.place).await {
            let webhook = &self.delivery.webhook.name;
            warn!(webhook, %error, "how far a webhook is can't be written; events may be repeated after a restart");
        }
    }
}
