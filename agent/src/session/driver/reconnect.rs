//! Finding the leader: what the driver does when it has no stream, or no usable one.

use futures::FutureExt;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    super::{
        link::{self, LinkError},
        search::Step,
    },
    Driver, LeaderLink,
};

impl Driver {
    /// Abandons the stream; the session may still be valid.
    pub(super) fn broken(&mut self, why: &str, suspect: bool) {
        if let LeaderLink::Open(link) = &self.leader_link {
            let held = self.held.len();
            info!(leader = link.address, why, held, "the connection to the leader is lost; looking for the leader");
        }
        self.begin_search(Instant::now(), suspect);
    }

    pub(super) fn begin_search(&mut self, now: Instant, suspect: bool) {
        match std::mem::replace(&mut self.leader_link, LeaderLink::Pausing(now)) {
            LeaderLink::Open(link) => {
                self.search.begin(now, &link.address, now - link.opened, suspect);
                self.suspect_link = Some(link).filter(|_| suspect);
            }
            LeaderLink::Greeting(address, _) => self.search.failed(&address, now),
            LeaderLink::Pausing(until) => self.leader_link = LeaderLink::Pausing(until),
        }
    }

    pub(super) fn search_on(&mut self) {
        let now = Instant::now();
        self.leader_link = match self.search.next(now, &*self.deps.platform.random) {
            Step::Pause(pause) => LeaderLink::Pausing(now + pause),
            Step::Try(address) => {
                let greeting = link::greet(self.deps.transport.clone(), address.clone(), self.hello());
                LeaderLink::Greeting(address, greeting.boxed())
            }
        };
    }

    pub(super) fn not_greeted(&mut self, error: &LinkError) {
        if let LinkError::Refused(status) = error {
            self.deps.transport.recertify_if_unknown(status);
        }
        if let LeaderLink::Greeting(address, _) = &self.leader_link {
            self.search.failed(address, Instant::now());
            let complaint = format!("{address}: {error}");
            if complaint == self.complaint {
                debug!(coordinator = address, %error, "no session yet");
            } else {
                warn!(coordinator = address, %error, "no session yet; retrying");
                self.complaint = complaint;
            }
        }
        self.search_on();
    }
}
