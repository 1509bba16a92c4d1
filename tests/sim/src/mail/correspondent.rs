//! Correspondents: clients that send messages to agents through any coordinator, repeat them, and follow what becomes of
//! every message that the coordinators keep.

use std::{cell::Cell, sync::Arc, time::Duration};

use robeing_net::{Transport, limited};
use robeing_platform::Platform;
use robeing_proto::v1::{
    GetMessageRequest, MessageCode, MessageStatus, SendMessageRequest, messages_client::MessagesClient,
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Response, Status, transport::Channel};

use super::{ARRIVES_WITHIN, Draft, Fate, Traffic, Way, agents, status_ends};
use crate::{
    checks::Check,
    clients::below,
    profile::between,
    record::Record,
    tasks::{self, millis},
};

/// The timeout of a call, besides the time that the receiver has.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// The time that a receiver has for a message that is not kept, in milliseconds.
const BRIEF: (u64, u64) = (200, 2_500);
/// One of this many messages is not kept.
const BRIEF_ONE_OF: u64 = 4;
/// One of this many is sent again.
const AGAIN_ONE_OF: u64 = 5;
/// The longest pause before a call is repeated, in milliseconds.
const PAUSE: u64 = 300;
/// The longest time for which a call waits for an outcome, in milliseconds.
const WAIT: u64 = 300;

/// A correspondent.
pub struct Correspondent {
    /// Its name.
    pub name: String,
    /// Its platform.
    pub platform: Platform,
    /// The addresses of the coordinators.
    pub coordinators: Vec<String>,
    /// What it sends.
    pub traffic: Traffic,
    /// The time over which it sends.
    pub during: Duration,
    /// The record of the run.
    pub record: Record,
}

impl Correspondent {
    fn below(&self, bound: u64) -> u64 {
        below(&*self.platform.random, bound)
    }

    async fn pause(&self, most: u64) {
        sleep(Duration::from_millis(1 + self.below(most))).await;
    }

    fn now(&self) -> Duration {
        self.record.notes().now
    }

    /// Makes one call to any coordinator.
    async fn call<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        within: Duration,
        call: impl FnOnce(MessagesClient<Channel>) -> F,
    ) -> Result<T, Status> {
        let transport = Transport::new(Arc::clone(&self.platform.network));
        let address = &self.coordinators[self.below(self.coordinators.len() as u64) as usize];
        let channel = transport.channel(address).expect("the simulation's addresses are host:port");
        match timeout(within, call(limited!(MessagesClient::new(channel)))).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer")),
        }
    }

    /// Runs the correspondent; returns when it is known what has become of every message that the coordinators keep,
    /// and every agent has reached every other one.
    pub async fn run(self) {
        let is_written = Cell::new(false);
        let write = async {
            self.write().await;
            self.write_to_all().await;
            is_written.set(true);
        };
        tokio::join!(write, self.follow(&is_written));
    }

    async fn write(&self) {
        let apart = self.during.as_millis() as u64 / self.traffic.letters;
        for number in 1..=self.traffic.letters {
            self.pause(2 * apart).await;
            let is_durable = self.below(BRIEF_ONE_OF) != 0;
            let bounds = if is_durable { (self.traffic.ttl / 4, self.traffic.ttl) } else { BRIEF };
            let ttl = Duration::from_millis(between(&*self.platform.random, bounds));
            let mut all = agents();
            let to = all.swap_remove(self.below(all.len() as u64) as usize);
            let draft = Draft::draw(&*self.platform.random, (&self.name, number), to, Way::Letter, ttl);
            self.send(draft, is_durable).await;
        }
    }

    /// Sends a message to every agent that is not gone for good, once nothing is wrong: it must arrive.
    async fn write_to_all(&self) {
        let calm_from = self.record.notes().calm_from;
        sleep(calm_from.saturating_sub(self.now())).await;
        for (to, number) in agents().into_iter().zip(self.traffic.letters + 1..) {
            if self.record.notes().retired.contains(&to) {
                continue;
            }
            let names = (self.name.as_str(), number);
            let mut draft = Draft::draw(&*self.platform.random, names, to.clone(), Way::Letter, ARRIVES_WITHIN);
            draft.posted.is_bad = false;
            let id = self.send(draft, true).await;
            self.record.notes().ledger.must_arrive(&id);
        }
    }

    /// Sends a message until a coordinator has told what becomes of it. Returns its id.
    async fn send(&self, draft: Draft, is_durable: bool) -> String {
        let id = tasks::new_id(&self.platform);
        let request = SendMessageRequest {
            id: id.clone(),
            to: draft.posted.to.clone(),
            r#type: draft.kind().to_owned(),
            payload: draft.payload.clone(),
            priority: draft.posted.priority,
            deadline: Some(millis(draft.posted.ttl.as_millis() as u64)),
            durable: is_durable,
            ..SendMessageRequest::default()
        };
        let within = CALL_TIMEOUT + if is_durable { Duration::ZERO } else { draft.posted.ttl };
        self.record.message(|ledger, now| {
            ledger.posts(now, &id, draft.posted);
            Ok(())
        });
        let mut is_first = true;
        while !self.try_to_send(&request, within, is_first).await {
            is_first = false;
            self.pause(PAUSE).await;
        }
        // One that was not posted may well be posted this time.
        let is_posted = self.record.notes().ledger.fate(&id) != Some(Fate::NotHandled);
        if is_posted && self.below(AGAIN_ONE_OF) == 0 {
            self.pause(PAUSE).await;
            self.try_to_send(&request, within, false).await;
        }
        id
    }

    /// Makes one call to send a message; returns whether it was told what becomes of it.
    async fn try_to_send(&self, request: &SendMessageRequest, within: Duration, is_first: bool) -> bool {
        let sent = request.clone();
        let outcomes = match self.call(within, async |mut client| client.send_message(sent).await).await {
            Ok(response) => response.outcomes,
            Err(status) => {
                self.refused(&request.id, &status);
                return false;
            }
        };
        let [status] = &outcomes[..] else {
            let what = format!("message {} to one agent has the outcomes {outcomes:?}", request.id);
            self.record.violation(Check::Outcome, what);
            return true;
        };
        self.record.message(|ledger, now| {
            if !request.durable && status.code() == MessageCode::DeadlinePassed {
                // The coordinators may have learned later what became of it.
                ledger.is_kept(&request.id);
                return Ok(());
            }
            status_ends(ledger, now, &request.id, status, !is_first)
        });
        true
    }

    fn refused(&self, id: &str, status: &Status) {
        if matches!(
            status.code(),
            Code::InvalidArgument | Code::AlreadyExists | Code::Internal | Code::PermissionDenied
        ) {
            self.record.violation(Check::Letters, format!("message {id} was refused: {status}"));
        }
    }

    /// Asks what has become of the messages that the coordinators keep.
    async fn follow(&self, is_written: &Cell<bool>) {
        loop {
            let (open, missing, now) = {
                let notes = self.record.notes();
                let missing = if notes.now < notes.calm_from { None } else { notes.ledger.missing(&notes.retired) };
                (notes.ledger.open(), missing, notes.now.saturating_sub(notes.calm_from))
            };
            if is_written.get() && open.is_empty() && missing.is_none() {
                return;
            }
            if let Some((from, to)) = missing.filter(|_| now > ARRIVES_WITHIN) {
                self.record.violation(Check::Reach, format!("{from} has not reached {to} within {ARRIVES_WITHIN:?}"));
                return;
            }
            if !open.is_empty() {
                self.look(&open[self.below(open.len() as u64) as usize]).await;
            }
            self.pause(PAUSE).await;
        }
    }

    /// Asks once what has become of a message.
    async fn look(&self, id: &str) {
        let wait = self.below(WAIT);
        let request = GetMessageRequest { id: id.to_owned(), wait: Some(millis(wait)) };
        match self.call(CALL_TIMEOUT, async |mut client| client.get_message(request).await).await {
            Ok(status) => self.note(id, &status),
            Err(status) if status.code() == Code::NotFound => {
                self.record.violation(Check::Letters, format!("message {id} was kept, but does not exist: {status}"));
            }
            Err(status) => self.refused(id, &status),
        }
    }

    fn note(&self, id: &str, status: &MessageStatus) {
        self.record.message(|ledger, now| status_ends(ledger, now, id, status, false));
        let notes = self.record.notes();
        let is_late = notes.ledger.fate(id) == Some(Fate::Expired) && notes.ledger.has_to_arrive(id);
        drop(notes);
        if is_late {
            self.record.violation(Check::Reach, format!("message {id} has not reached {} in time", status.agent));
        }
    }
}
