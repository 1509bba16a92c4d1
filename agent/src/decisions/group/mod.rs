//! Groups of agents that decide by Byzantine agreement, of which this agent is a member.
//!
//! A group is formed in two steps, which any client may take through any way that messages go: each member enrols, and
//! each gets the description of the group, which consists of the enrolments ([`robeing_groups`]). From then on the
//! members send each other messages of the type [`PEER_KIND`], and clients ask them by messages of the type
//! [`CLIENT_KIND`].
//!
//! Invariants:
//!
//! 1. **Nobody but the members decides.** Every message of the protocol is verified by the keys that the members have
//!    signed for the group. Who passes a message on can lose it, and no more.
//! 2. **What is sent is on the disk.** One task drives a replica ([`host`]): it syncs the records of its steps before
//!    it sends what depends on them ([`storage`]).
//! 3. **A member that lost its disk does not come back.** It is refused by its own records, or by their lack.
//! 4. **Bounded.** What waits for a replica, for another member or for a client has a named limit ([`limits`]); what is
//!    more is dropped or refused.
//! 5. **The handler of messages waits for no message between members.** They are verified by tasks of their own
//!    ([`inbox`]).
//!
//! | module | job |
//! |---|---|
//! | [`storage`] | the disk of a member |
//! | [`host`] | drives the replica of one group |
//! | [`inbox`] | verifies what other members send, each within its share of the room |
//! | [`missing`] | which missing decisions no other member has any more |
//! | [`post`] | sends to the other members |
//! | [`papers`] | the agent's certificate, and whom it trusts |
//! | [`clients`] | enrolling, forming, proposing, showing |
//! | [`ballots`] | has the agent's handler of messages decide ballots of its groups |
//! | `epochs` | other members follow |
//! | `sending` | the state that another agent starts with, in parts |

pub mod ballots;
mod clients;
mod epochs;
#[cfg(test)]
mod fixture;
pub mod host;
pub mod inbox;
pub mod limits;
pub mod missing;
pub mod papers;
pub mod post;
mod sending;
pub mod storage;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    pin::pin,
    sync::{Arc, OnceLock, PoisonError},
};

use async_trait::async_trait;
use robeing_groups::{
    Group,
    exchange::{CLIENT_KIND, PEER_KIND, from_peer},
    is_group_name,
};
use robeing_platform::{Platform, sync::Mutex};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error};

use self::{
    host::{Command, Host, HostError, Queues},
    inbox::Inbox,
    limits::{MAX_COMMANDS, RETRY_PAUSE},
    papers::PaperSource,
    post::Post,
    sending::Sending,
    storage::Folder,
};
use crate::messaging::{
    Packet,
    handlers::{Delivery, Handler, HandlerOutcome},
};

/// The folder of all groups in the agent's data folder.
const GROUPS: &str = "groups";

/// A group of which this agent is a member.
struct Member {
    group: Arc<Group>,
    inbox: Inbox,
    commands: mpsc::Sender<Command>,
    /// Why the agent does not take part; empty: it does.
    problem: Mutex<String>,
    /// Ends the replica: when the agent stops, or another epoch follows.
    stop: CancellationToken,
    /// Is cancelled when the replica has ended, and its disk is free.
    ended: CancellationToken,
}

impl Member {
    /// Returns why the agent does not take part.
    fn problem(&self) -> String {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if problem.is_empty() { "this agent is shutting down".to_owned() } else { problem.clone() }
    }

    fn set_problem(&self, problem: String) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Asks the replica.
    ///
    /// # Errors
    /// Why it can't be asked.
    fn command(&self, command: Command) -> Result<(), String> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => format!("{MAX_COMMANDS} questions wait for this member; ask later"),
            mpsc::error::TrySendError::Closed(_) => self.problem(),
        })
    }
}

struct Inner {
    me: Arc<str>,
    data: Option<PathBuf>,
    platform: Platform,
    source: Arc<dyn PaperSource>,
    post: OnceLock<Arc<dyn Post>>,
    /// Decides ballots of groups.
    decider: OnceLock<Arc<dyn Handler>>,
    members: Mutex<BTreeMap<String, Arc<Member>>>,
    /// Groups whose descriptions can't be used, and why.
    unusable: Mutex<BTreeMap<String, String>>,
    /// Groups are enrolled for and formed one after another.
    forming: tokio::sync::Mutex<()>,
    /// The room for the one group whose next epoch this agent starts in.
    adopting: Arc<Semaphore>,
    /// The state with which an epoch starts that another agent gets from this one.
    sending: Sending,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The groups of which this agent is a member. Cheap to clone.
#[derive(Clone)]
pub struct Groups(Arc<Inner>);

impl Groups {
    /// Creates the groups of the agent `me`, with this data folder. They begin with [`Groups::start`], and end when
    /// `stop` is cancelled.
    pub fn new(
        me: Arc<str>,
        data: Option<PathBuf>,
        platform: Platform,
        source: Arc<dyn PaperSource>,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            me,
            data,
            platform,
            source,
            post: OnceLock::new(),
            decider: OnceLock::new(),
            members: Mutex::new(BTreeMap::new()),
            unusable: Mutex::new(BTreeMap::new()),
            forming: tokio::sync::Mutex::new(()),
            adopting: Arc::new(Semaphore::new(1)),
            sending: Sending::default(),
            stop,
            tasks: TaskTracker::new(),
        }))
    }

    /// Has `handler` decide the ballots of this agent's groups: the handler of messages itself, as it also decides
    /// those of the coordinators. Before [`Groups::start`], and once only; without it, the agent votes in none.
    pub fn decide_by(&self, handler: Arc<dyn Handler>) {
        // A second one is not used.
        let _ = self.0.decider.set(handler);
    }

    fn groups_folder(&self) -> Option<PathBuf> {
        self.0.data.as_ref().map(|data| data.join(GROUPS))
    }

    /// Returns the names of the groups in the data folder.
    async fn names(&self) -> Vec<String> {
        let Some(folder) = self.groups_folder() else { return Vec::new() };
        match self.0.platform.disk.list(&folder).await {
            Ok(names) => names.into_iter().filter(|name| is_group_name(name)).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                error!(%error, "the groups of this agent can't be read, and it takes part in none");
                Vec::new()
            }
        }
    }

    /// Takes part in the groups of which this agent is a member by its data folder. Once only.
    pub async fn start(&self, post: Arc<dyn Post>) {
        let _turn = self.0.forming.lock().await;
        if self.0.post.set(post).is_err() {
            return;
        }
        let Some(groups) = self.groups_folder() else { return };
        for name in self.names().await {
            match Folder::new(&self.0.platform, &groups, &name).group().await {
                Ok(Some(group)) if group.name() == name => {
                    self.attend(Arc::new(group));
                }
                Ok(Some(group)) => error!(folder = name, group = group.name(), "a group is in the folder of another"),
                Ok(None) => debug!(group = name, "this agent has a key for a group that was not formed"),
                Err(error) => {
                    error!(group = name, %error, "this agent does not take part in a group until it starts again");
                    let mut unusable = self.0.unusable.lock().unwrap_or_else(PoisonError::into_inner);
                    unusable.insert(name, error.to_string());
                }
            }
        }
    }

    /// Waits until all groups have ended, after `stop` was cancelled.
    pub async fn stopped(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn member(&self, group: &str) -> Option<Arc<Member>> {
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner).get(group).cloned()
    }

    /// Returns why this agent is no member of a group.
    fn no_member(&self, group: &str) -> String {
        let unusable = self.0.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        let none = || format!("this agent is no member of a group {group:?}");
        unusable.get(group).cloned().unwrap_or_else(none)
    }

    /// Begins to take part in a group.
    fn attend(&self, group: Arc<Group>) -> Arc<Member> {
        let (inbox, messages) = Inbox::start(&group, &self.0.me);
        let (commands, asked) = mpsc::channel(MAX_COMMANDS);
        let (stop, ended) = (self.0.stop.child_token(), CancellationToken::new());
        let problem = Mutex::new(String::new());
        let member = Arc::new(Member { group: Arc::clone(&group), inbox, commands, problem, stop, ended });
        let (open, ballots) = watch::channel(Vec::new());
        let queues = Queues { inbox: messages, commands: asked, ballots: open };
        self.0.tasks.spawn(serve(self.clone(), Arc::clone(&member), queues));
        self.0.tasks.spawn(ballots::take_part(self.clone(), Arc::clone(&member), ballots));
        let mut members = self.0.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.insert(group.name().to_owned(), Arc::clone(&member));
        member
    }

    /// Starts the replica of a group, and drives it until the agent stops.
    async fn drive(&self, member: &Member, queues: &mut Queues) -> Result<(), HostError> {
        let (Some(groups), Some(post)) = (self.groups_folder(), self.0.post.get()) else { return Ok(()) };
        let folder = Folder::new(&self.0.platform, &groups, member.group.name());
        let mut host = Host::start(&folder, &member.group, &self.0.me, post).await?;
        member.set_problem(String::new());
        host.run(queues, &member.stop).await
    }

    /// Takes a message of another member.
    fn receive(&self, packet: &Packet) -> HandlerOutcome {
        let Some((group, bytes)) = from_peer(&packet.payload) else {
            return HandlerOutcome::Refused { reason: "the message names no group".into() };
        };
        // Only members are heard. Which of them has said it, the signature proves.
        let member = self.member(group).filter(|member| member.group.names().any(|name| name == &*packet.sender));
        let Some(member) = member else {
            let reason = format!("this agent and the sender are not members of one group {group:?}");
            return HandlerOutcome::Refused { reason };
        };
        member.inbox.receive(&packet.sender, bytes);
        HandlerOutcome::Accepted { reply: None }
    }
}

/// Takes part in a group until it is stopped, or must not continue.
async fn serve(groups: Groups, member: Arc<Member>, mut queues: Queues) {
    let _ended = member.ended.clone().drop_guard();
    loop {
        let Err(error) = groups.drive(&member, &mut queues).await else { return };
        let group = member.group.name();
        error!(group, %error, "this agent does not take part in a group");
        member.set_problem(error.to_string());
        if !error.is_temporary() {
            return;
        }
        let mut pause = pin!(sleep(RETRY_PAUSE));
        loop {
            tokio::select! {
                () = member.stop.cancelled() => return,
                () = &mut pause => break,
                // A client that asks meanwhile is told the problem, as nobody answers.
                Some(command) = queues.commands.recv() => drop(command),
            }
        }
    }
}

/// Handles the messages of groups, and passes all others on.
pub struct GroupHandler {
    inner: Arc<dyn Handler>,
    groups: Groups,
    /// The room for questions of clients, which may wait until something is decided.
    questions: Semaphore,
}

impl GroupHandler {
    /// Creates a handler that passes other messages on to `inner`.
    pub fn new(inner: Arc<dyn Handler>, groups: Groups) -> Self {
        // The other half is for what other members send, and for all else.
        let questions = Semaphore::new((inner.at_once() / 2).clamp(1, Semaphore::MAX_PERMITS));
        Self { inner, groups, questions }
    }

    /// Answers a client, unless too many wait.
    async fn answer(&self, packet: &Packet) -> HandlerOutcome {
        let Ok(_room) = self.questions.try_acquire() else {
            let reason = "too many questions to the groups of this agent wait; ask another member, or again later";
            return HandlerOutcome::Refused { reason: reason.into() };
        };
        match self.groups.answer(&packet.payload).await {
            Ok(reply) => HandlerOutcome::Accepted { reply: Some(reply) },
            Err(reason) => HandlerOutcome::Refused { reason },
        }
    }
}

#[async_trait]
impl Handler for GroupHandler {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        match &*delivery.packet.kind {
            PEER_KIND => self.groups.receive(&delivery.packet),
            CLIENT_KIND => self.answer(&delivery.packet).await,
            _ => self.inner.deliver(delivery).await,
        }
    }

    fn at_once(&self) -> usize {
        self.inner.at_once()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}
