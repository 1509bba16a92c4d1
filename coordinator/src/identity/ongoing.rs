//! Follows the calls that go on after they were admitted, and ends those that their callers may not make any more.
//!
//! What an agent may call is a matter of its role, which stays, and of bars, of which the state machine tells. So nothing is
//! done for the calls of agents until one is barred, however many of them follow the directory. What a client may call is a
//! matter of rights, which files and API servers change without a word: they are looked up every second, once for each
//! client and right, however many calls it has.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use robeing_identity::PeerRole;
use robeing_net::{
    ConnectInfo,
    gate::{Caller, Ongoing, WeakOngoing},
    security::PeerIdentity,
};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use tokio::{
    task::yield_now,
    time::{MissedTickBehavior, interval, sleep},
};
use tonic::Status;

use super::{
    access::{Access, name_of},
    client_rights::Proven,
    enrolled,
    kubernetes::{MAX_CALLS, User},
    rights::Right,
    table::{Allowed, streaming},
};
use crate::{apply::observer::ApplyObserver, directory::changed::Noted};

/// How often the rights of clients are looked up that have calls.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after a bar the calls of an agent are ended. Until then, the services that have more to say to it can end them
/// themselves: sessions and mailboxes.
pub const BAR_GRACE: Duration = Duration::from_millis(250);
/// Number of agents of which is found out at once whether they are barred.
const MAX_AT_ONCE: usize = 256;

/// Who has the right by which a call was admitted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// Everybody.
    Anonymous,
    /// This client.
    Client(Proven),
}

/// A right, and who has it.
type Held = (Holder, Right);

/// What a call depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Basis {
    /// The agent that must not be barred.
    agent: Option<Arc<str>>,
    /// The right that somebody must have.
    right: Option<Held>,
}

/// What is recorded of a call that is ended.
struct About {
    method: &'static str,
    peer: Option<SocketAddr>,
    /// Who has the right to make it. A client for which a messenger makes it is named with the messenger.
    caller: String,
    /// The agent that makes it.
    agent: Option<Arc<PeerIdentity>>,
}

#[derive(Clone)]
struct Call {
    ongoing: WeakOngoing,
    about: Arc<About>,
}

/// Calls by their numbers.
type Group = BTreeMap<u64, Call>;

#[derive(Default)]
struct Calls {
    /// The calls of each agent. No group is empty.
    agents: BTreeMap<Arc<str>, Group>,
    /// The calls that each right allows. No group is empty.
    rights: BTreeMap<Held, Group>,
    last: u64,
}

/// The calls of one coordinator that go on. Cheap to clone.
#[derive(Clone, Default)]
pub struct OngoingCalls(Arc<Mutex<Calls>>);

/// Removes a call when it is over.
struct Entry {
    calls: OngoingCalls,
    number: u64,
    basis: Basis,
}

fn remove<K: Ord>(groups: &mut BTreeMap<K, Group>, key: &K, number: u64) {
    let Some(group) = groups.get_mut(key) else { return };
    group.remove(&number);
    if group.is_empty() {
        groups.remove(key);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut calls = self.calls.lock();
        if let Some(agent) = &self.basis.agent {
            remove(&mut calls.agents, agent, self.number);
        }
        if let Some(right) = &self.basis.right {
            remove(&mut calls.rights, right, self.number);
        }
    }
}

impl OngoingCalls {
    // No call is dropped while it is locked: that would lock it again.
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, basis: Basis, about: About) -> Ongoing {
        let mut calls = self.lock();
        calls.last += 1;
        let number = calls.last;
        let ongoing = Ongoing::new(Entry { calls: self.clone(), number, basis: basis.clone() });
        let call = Call { ongoing: ongoing.downgrade(), about: Arc::new(about) };
        if let Some(agent) = basis.agent {
            calls.agents.entry(agent).or_default().insert(number, call.clone());
        }
        if let Some(right) = basis.right {
            calls.rights.entry(right).or_default().insert(number, call);
        }
        ongoing
    }

    fn agents(&self) -> Vec<Arc<str>> {
        self.lock().agents.keys().cloned().collect()
    }

    fn rights(&self) -> Vec<Held> {
        self.lock().rights.keys().cloned().collect()
    }

    fn of_agent(&self, agent: &str) -> Vec<Call> {
        self.lock().agents.get(agent).into_iter().flat_map(Group::values).cloned().collect()
    }

    fn of_right(&self, right: &Held) -> Vec<Call> {
        self.lock().rights.get(right).into_iter().flat_map(Group::values).cloned().collect()
    }

    /// Returns the numbers of agents and of rights on which calls depend.
    #[cfg(test)]
    pub fn sizes(&self) -> (usize, usize) {
        let calls = self.lock();
        (calls.agents.len(), calls.rights.len())
    }
}

impl Access {
    /// Begins to follow a call that was admitted, if it has a stream, and if anything can happen by which its caller may not
    /// make it any more.
    pub(super) fn begin(&self, method: &str, connection: &ConnectInfo, caller: &Caller) -> Option<Ongoing> {
        let (method, allowed) = streaming(method)?;
        let holder = match caller {
            Caller::Plaintext => return None,
            Caller::Anonymous => Some(Holder::Anonymous),
            Caller::User(user) => Some(Holder::Client(Proven::Token(Arc::new(User::from(&**user))))),
            Caller::Member(peer) if peer.id.role() == PeerRole::Client => {
                Some(Holder::Client(Proven::Certificate(peer.id.name().to_owned())))
            }
            Caller::Member(_) => None,
        };
        let right = match allowed {
            Allowed::With(right, _) => holder.map(|holder| (holder, right)),
            Allowed::Anyone | Allowed::Coordinators | Allowed::Agents => None,
        };
        // Also the messenger that makes a call on behalf of a client.
        let agent = connection.identity.as_ref().filter(|peer| peer.id.role().is_agent());
        let basis = Basis { agent: agent.map(|peer| peer.id.name().into()), right };
        if basis == Basis::default() {
            return None;
        }
        let method = method.trim_start_matches('/');
        // As the gate names a client when it refuses a call that a messenger makes for it.
        let caller = match (caller, agent) {
            (Caller::Member(peer), Some(by)) if peer.id != by.id => {
                format!("{} through {}", caller.name(), name_of(&by.id))
            }
            _ => caller.name(),
        };
        let about = About { method, peer: connection.peer, caller, agent: agent.cloned() };
        let agent = basis.agent.clone();
        let ongoing = self.calls.begin(basis, about);
        // It may have been barred since the call was admitted, and before it was followed.
        if let Some(agent) = agent
            && let Err(status) = self.check_not_barred(&agent)
        {
            ongoing.end(status);
        }
        Some(ongoing)
    }

    /// Ends the calls of agents that are barred, or were and are not any more. Runs until the coordinator stops.
    pub async fn follow_bars(self: Arc<Self>, observer: Arc<ApplyObserver>) {
        loop {
            observer.barred.woken().await;
            match observer.barred.take() {
                Noted::Agents(agents) => {
                    // What went on when an agent was barred ends, also if the bar is lifted during the grace.
                    let begun = self.begun_before_bars(agents).await;
                    sleep(BAR_GRACE).await;
                    for some in begun.chunks(MAX_AT_ONCE) {
                        some.iter().for_each(|(call, status)| self.end_of_agent(call, status));
                        yield_now().await;
                    }
                }
                Noted::Everything => {
                    sleep(BAR_GRACE).await;
                    if self.end_outdated().await.is_err() {
                        // No leader could say what is up to date.
                        observer.barred.note_everything();
                    }
                }
            }
        }
    }

    /// Returns the calls of agents that were barred a moment ago, and with what they end.
    async fn begun_before_bars(&self, agents: impl IntoIterator<Item = Arc<str>>) -> Vec<(Call, Status)> {
        let mut begun = Vec::new();
        for (n, agent) in agents.into_iter().enumerate() {
            let calls = self.calls.of_agent(&agent);
            if !calls.is_empty() {
                let released = || {
                    let problem = format!("the agent {agent} was barred, and released since; call again");
                    Status::permission_denied(problem)
                };
                let status = self.check_not_barred(&agent).err().unwrap_or_else(released);
                begun.extend(calls.into_iter().map(|call| (call, status.clone())));
            }
            if n % MAX_AT_ONCE == MAX_AT_ONCE - 1 {
                yield_now().await;
            }
        }
        begun
    }

    /// Ends the calls of agents that may not be in the fleet, when any of them may have changed: those that are barred,
    /// and those that have been removed and released, or replaced, since they enrolled.
    ///
    /// # Errors
    /// The enrolments that are known here may be out of date.
    async fn end_outdated(&self) -> Result<(), Status> {
        let agents = self.calls.agents();
        let mut unknown = Vec::new();
        for some in agents.chunks(MAX_AT_ONCE) {
            for agent in some {
                self.end_if_barred(agent);
                let calls = self.calls.of_agent(agent).into_iter();
                unknown.extend(calls.filter(|call| self.not_enrolled(call).is_some()));
            }
            yield_now().await;
        }
        if unknown.is_empty() {
            return Ok(());
        }
        // They may have enrolled a moment ago, which may not be applied here yet.
        self.state.ready_to_read(0).await?;
        for some in unknown.chunks(MAX_AT_ONCE) {
            for call in some {
                if let Some(status) = self.not_enrolled(call) {
                    self.end_of_agent(call, &status);
                }
            }
            yield_now().await;
        }
        Ok(())
    }

    /// Returns why the agent that makes a call is not enrolled any more, as far as is known here.
    fn not_enrolled(&self, call: &Call) -> Option<Status> {
        enrolled::applied(&self.state, call.about.agent.as_ref()?).err()
    }

    /// Ends the calls of clients that have lost the right to make them. Runs until the coordinator stops.
    pub async fn follow_rights(self: Arc<Self>) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let rights = stream::iter(self.calls.rights());
            rights.for_each_concurrent(MAX_CALLS, |right| self.end_if_lost(right)).await;
        }
    }

    fn end_if_barred(&self, agent: &str) {
        if let Err(status) = self.check_not_barred(agent) {
            self.calls.of_agent(agent).iter().for_each(|call| self.end_of_agent(call, &status));
        }
    }

    async fn end_if_lost(&self, held: Held) {
        let (holder, right) = &held;
        let has = match holder {
            Holder::Anonymous => Ok(self.anyone_has(*right)),
            Holder::Client(client) => self.rights.has(client, *right).await,
        };
        // While nobody can say what the client may do, what it has begun goes on: it could be all clients.
        if let Ok(false) = has {
            for call in self.calls.of_right(&held) {
                let who = &call.about.caller;
                let status = Status::permission_denied(format!("{who} does not have the right {right} any more"));
                self.end(&call, status, who);
            }
        }
    }

    /// Ends a call because of the agent that makes it, whoever has the right to it.
    fn end_of_agent(&self, call: &Call, status: &Status) {
        let agent = call.about.agent.as_ref().map(|peer| name_of(&peer.id));
        self.end(call, status.clone(), agent.as_ref().unwrap_or(&call.about.caller));
    }

    fn end(&self, call: &Call, status: Status, who: &str) {
        let (code, About { method, peer, .. }) = (status.code(), &*call.about);
        if call.ongoing.upgrade().is_some_and(|ongoing| ongoing.end(status)) {
            self.refusals.count(method, code, *peer, who);
        }
    }
}
