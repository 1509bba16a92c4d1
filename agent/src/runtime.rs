//! Assembles an agent in dependency order: its identity, its executor, its listener, its messages, the duties of its
//! role, and its session. Messages and duties end after the session has drained.
//!
//! This module reads neither settings nor the environment, so the simulator runs the shipped code.

use std::{io, sync::Arc};

use bytes::Bytes;
use robeing_blobs::{BlobError, BlobStore};
use robeing_net::Transport;
use robeing_platform::{Platform, Random};
use robeing_settings::{AgentConfig, Contribute};
use robeing_telemetry::Metrics;
use robeing_votes::VoteError;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::info;

use crate::{
    decisions::{
        Voter, VotingHandler, VotingMetrics,
        group::{GroupHandler, Groups},
    },
    executor::{Executor, ExecutorError},
    identity::{Identity, Secured, SecurityError},
    listener,
    mailbox::{self, DurableSender, MessengerPort},
    messaging::{
        self, Directory, FleetDirectory, KeyError, Messenger, PolicyHolder,
        driver::{Certified, MessagingMetrics, SentCount},
        handlers::{self, Handler, HandlerError, MessengerPost, Started},
        journal::JournalError,
        opening_key,
    },
    roles::{self, Duties, RoleError},
    session::{self, SessionError},
    teams::{PathHandler, TeamPaths},
    upstream::{SharedUpstream, Upstream},
};

/// Why an agent ended other than by a clean shutdown.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The agent can't listen.
    #[error("{0}; another process may listen there, or the address is not of this machine: change --listen")]
    Listen(#[source] io::Error),
    /// The executor can't be created or started.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// The agent can't begin to get a certificate.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// What handles messages can't be created or started.
    #[error(transparent)]
    Handler(#[from] HandlerError),
    /// The journal of messages can't be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The key that opens sealed messages can't be kept.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key that signs votes can't be made.
    #[error(transparent)]
    Voting(#[from] VoteError),
    /// The duties of the agent's role can't be done.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// The object store can't be used.
    #[error("{0}; change --object-store")]
    Store(#[source] BlobError),
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// What a program adds to an agent that it runs in its own process.
#[derive(Default)]
pub struct Extras {
    /// Handles the agent's messages, instead of what the settings specify.
    pub handler: Option<Arc<dyn Handler>>,
    /// Gets what sends messages, once there is something.
    pub post: Option<oneshot::Sender<MessengerPost>>,
}

/// Runs an agent until `shutdown` is cancelled and it has drained. `executor` creates the executor.
///
/// # Errors
/// When the executor can't be started, the agent can't listen, the work it held could not be handed back, or it can
/// never run tasks again.
pub async fn run(
    config: AgentConfig,
    platform: Platform,
    executor: impl Future<Output = Result<Arc<dyn Executor>, ExecutorError>>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    run_with(config, platform, executor, metrics, shutdown, Extras::default()).await
}

/// Runs an agent, as [`run`] does, with what the program adds to it.
///
/// # Errors
/// See [`run`].
pub async fn run_with(
    config: AgentConfig,
    platform: Platform,
    executor: impl Future<Output = Result<Arc<dyn Executor>, ExecutorError>>,
    metrics: Metrics,
    shutdown: CancellationToken,
    extras: Extras,
) -> Result<(), AgentError> {
    let config = AgentConfig { contribute: contribution(&config, &platform), ..config };
    let identity = Identity::claimed(&config);
    info!(
        name = identity.name,
        cluster = identity.cluster_id,
        version = env!("CARGO_PKG_VERSION"),
        role = ?identity.role,
        slots = config.slots,
        contributes = config.contribute.to_text(),
        "starting an agent"
    );
    let (executor, store) = (executor.await?, store(&config)?);
    let secured = Secured::begin(&config, &platform, &metrics).await?;
    let transport = secured.transport.clone();
    let listener = listener::listen(&config, &transport).await.map_err(AgentError::Listen)?;
    let upstream = Arc::new(Upstream::new(transport.clone(), config.coordinators.clone(), &*platform.random));
    let messages = Messages::start(&config, &platform, &transport, &*executor, &upstream, &metrics, extras).await?;
    let directory = Arc::clone(&messages.directory) as Arc<dyn Directory>;
    let (gate, authentication) = secured.gate(Arc::clone(&directory));
    let address = listener.advertised.clone();
    let _serving = listener.serve(&messages.messenger, gate, authentication).map_err(AgentError::Listen)?;
    let duties = roles::Deps {
        config: &config,
        platform: &platform,
        transport: &transport,
        upstream: &upstream,
        directory,
        metrics: &metrics,
    };
    let duties = Duties::start(duties).await?;
    let deps = session::Deps {
        metrics: session::SessionMetrics::new(&metrics, config.slots),
        readiness: metrics.readiness().clone(),
        sealing_key: messages.sealing_key.clone(),
        sent: messages.sent.clone(),
        address,
        config,
        platform,
        transport,
        executor,
        store,
    };
    tokio::select! {
        () = secured.ready() => {}
        () = shutdown.cancelled() => {
            stop_early(&messages, duties).await;
            return Ok(());
        }
    }
    let stop = messages.stop.clone();
    let session = async {
        // Messages are exchanged until the session has drained.
        let _ended = stop.drop_guard();
        session::run(deps, shutdown).await
    };
    let (ended, ()) = tokio::join!(session, messages.run());
    duties.stop().await;
    Ok(ended?)
}

/// Opens the object store, if the agent's settings name one.
fn store(config: &AgentConfig) -> Result<Option<Arc<BlobStore>>, AgentError> {
    let opened = config.object_store.as_deref().map(BlobStore::open).transpose();
    Ok(opened.map_err(AgentError::Store)?.map(Arc::new))
}

/// Returns what the agent contributes to the resource pool: what its settings say, and else what limits it. No disk
/// space that is not said: what is free on a disk is also free for all others that share it.
fn contribution(config: &AgentConfig, platform: &Platform) -> Contribute {
    let limits = platform.host.limits();
    let of_limits = Contribute { cpu: limits.cpu_millis, memory: limits.memory_bytes, ..Contribute::default() };
    config.contribute.or(of_limits).or(Contribute::NOTHING)
}

/// Ends what an agent does that has not opened a session.
async fn stop_early(messages: &Messages, duties: Duties) {
    messages.stop.cancel();
    messages.messenger.stopped().await;
    messages.groups.stopped().await;
    duties.stop().await;
}

/// What an agent needs to exchange messages.
struct Messages {
    messenger: Messenger,
    groups: Groups,
    directory: Arc<FleetDirectory>,
    upstream: SharedUpstream,
    random: Arc<dyn Random>,
    mailbox: mailbox::Deps,
    sealing_key: Bytes,
    sent: SentCount,
    stop: CancellationToken,
    /// However the agent ends, no task of the messenger outlives it.
    _ends: DropGuard,
}

/// Gives those who send messages what they send them with.
fn hand_out(post: impl Fn() -> MessengerPost, executor: &dyn Executor, wanted: Option<oneshot::Sender<MessengerPost>>) {
    if let Some(mail) = executor.mail() {
        mail.set_post(Arc::new(post()));
    }
    if let Some(wanted) = wanted {
        // The program may have stopped waiting for it.
        let _ = wanted.send(post());
    }
}

impl Messages {
    async fn start(
        config: &AgentConfig,
        platform: &Platform,
        transport: &Transport,
        executor: &dyn Executor,
        upstream: &SharedUpstream,
        metrics: &Metrics,
        extras: Extras,
    ) -> Result<Self, AgentError> {
        let Started { handler, inbox } = match extras.handler {
            Some(handler) => Started { handler, inbox: None },
            None => handlers::start(config.messages.as_ref(), executor.mail())?,
        };
        let (inbox, policies) = (inbox.ok_or(handler.name()), Arc::new(PolicyHolder::new(metrics)));
        let directory = Arc::new(FleetDirectory::with_policies(Arc::clone(&policies)));
        let key = opening_key(config.data.as_deref(), platform).await?;
        let sealing_key = Bytes::copy_from_slice(&key.public().to_bytes());
        let (name, stop): (Arc<str>, _) = (config.name.as_str().into(), CancellationToken::new());
        let (upstream, random) = (Arc::clone(upstream), Arc::clone(&platform.random));
        let voter = Voter::new(Arc::clone(&name), Arc::clone(&upstream), transport.clone(), Arc::clone(&random))?;
        let decider = roles::handler(config.role, handler);
        let handler = VotingHandler::new(Arc::clone(&decider), voter, VotingMetrics::new(metrics));
        let (counters, groups) =
            (MessagingMetrics::new(metrics), groups(config, platform, transport, (&stop, decider)));
        let sent = counters.sent_count();
        let messenger = Messenger::start(messaging::driver::Deps {
            name: Arc::clone(&name),
            role: messaging::Role::configured(config.role),
            directory: Arc::clone(&directory) as Arc<dyn Directory>,
            connect: Arc::new(Certified(transport.clone())),
            platform: platform.clone(),
            handler: Arc::new(GroupHandler::new(Arc::new(PathHandler::new(Arc::new(handler))), groups.clone())),
            policy: policies,
            keys: vec![key],
            data: config.data.clone(),
            metrics: counters,
            stop: stop.clone(),
        })
        .await?;
        let durable = DurableSender::new(Arc::clone(&upstream), platform.clone()).counted_by(sent.clone());
        hand_out(|| MessengerPost { messenger: messenger.clone(), durable: durable.clone() }, executor, extras.post);
        let mailbox = mailbox::Deps {
            cluster_id: config.cluster_id.clone(),
            name,
            upstream: Arc::clone(&upstream),
            port: Arc::new(MessengerPort::new(messenger.clone(), inbox)),
            random: Arc::clone(&random),
            stop: stop.clone(),
        };
        groups.start(Arc::new(messenger.clone())).await;
        Ok(Self {
            messenger,
            groups,
            directory,
            upstream,
            random,
            mailbox,
            sealing_key,
            sent,
            _ends: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Follows the directory and attends the mailbox until `stop` is cancelled and all messages have ended.
    async fn run(self) {
        let Self { messenger, groups, directory, upstream, random, mailbox, stop, .. } = self;
        let paths = TeamPaths {
            me: Arc::clone(&mailbox.name),
            messenger: messenger.clone(),
            directory: Arc::clone(&directory) as Arc<dyn Directory>,
            upstream: Arc::clone(&upstream),
            random: Arc::clone(&random),
        };
        // The policies come with the directory. A letter that came before them would be put off, behind those after it.
        let attending = async {
            tokio::select! {
                () = directory.known() => mailbox::run(mailbox).await,
                () = stop.cancelled() => {}
            }
        };
        tokio::join!(directory.run(upstream, random, stop.clone()), attending, paths.run(stop.clone()));
        messenger.stopped().await;
        groups.stopped().await;
    }
}

/// Returns the groups of an agent, which end with `stop`, and whose ballots `decider` decides.
fn groups(
    config: &AgentConfig,
    platform: &Platform,
    transport: &Transport,
    (stop, decider): (&CancellationToken, Arc<dyn Handler>),
) -> Groups {
    let (me, source) = (config.name.as_str().into(), Arc::new(transport.clone()));
    let groups = Groups::new(me, config.data.clone(), platform.clone(), source, stop.clone());
    groups.decide_by(decider);
    groups
}
