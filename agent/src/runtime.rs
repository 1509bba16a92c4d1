//! Assembles an agent in dependency order: its identity, its executor, its listener and its session. Planned components
//! (messages, role duties, decisions) will be created between listener and session, because the listener serves them
//! and they must end after the session has drained.
//!
//! This module reads neither settings nor the environment, so the simulator runs the shipped code.

use std::{io, sync::Arc};

use bytes::Bytes;
use robeing_platform::Platform;
use robeing_settings::AgentConfig;
use robeing_telemetry::Metrics;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    executor::{Executor, ExecutorError},
    identity::{Identity, Secured, SecurityError},
    listener,
    mailbox::{self, DurableSender, MessengerPort},
    messaging::{
        self, Directory, FleetDirectory, KeyError, Messenger, PolicyHolder,
        driver::{Certified, MessagingMetrics},
        handlers::{self, HandlerError, MessengerPost, Started},
        journal::JournalError,
        opening_key,
    },
    session::{self, SessionError},
    upstream::Upstream,
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
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
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
    let identity = Identity::claimed(&config);
    info!(
        name = identity.name,
        cluster = identity.cluster_id,
        version = env!("CARGO_PKG_VERSION"),
        role = ?identity.role,
        slots = config.slots,
        "starting an agent"
    );
    let executor = executor.await?;
    let Started { handler, inbox } = handlers::start(config.messages.as_ref(), executor.mail())?;
    let inbox = inbox.ok_or(handler.name());
    let secured = Secured::begin(&config, &platform).await?;
    let transport = secured.transport.clone();
    let listener = listener::listen(&config, &transport).await.map_err(AgentError::Listen)?;
    let upstream = Arc::new(Upstream::new(transport.clone(), config.coordinators.clone(), &*platform.random));
    let policies = Arc::new(PolicyHolder::new(&metrics));
    let directory = Arc::new(FleetDirectory::with_policies(Arc::clone(&policies)));
    let key = opening_key(config.data.as_deref(), &platform).await?;
    let sealing_key = Bytes::copy_from_slice(&key.public().to_bytes());
    let messaging_stop = CancellationToken::new();
    let messenger = Messenger::start(messaging::driver::Deps {
        name: config.name.as_str().into(),
        role: messaging::Role::configured(config.role),
        directory: Arc::clone(&directory) as Arc<dyn Directory>,
        connect: Arc::new(Certified(transport.clone())),
        platform: platform.clone(),
        handler,
        policy: policies,
        keys: vec![key],
        data: config.data.clone(),
        metrics: MessagingMetrics::new(&metrics),
        stop: messaging_stop.clone(),
    })
    .await?;
    if let Some(mail) = executor.mail() {
        let durable = DurableSender::new(Arc::clone(&upstream), platform.clone());
        mail.set_post(Arc::new(MessengerPost { messenger: messenger.clone(), durable }));
    }
    let mailbox = mailbox::Deps {
        cluster_id: config.cluster_id.clone(),
        name: config.name.as_str().into(),
        upstream: Arc::clone(&upstream),
        port: Arc::new(MessengerPort::new(messenger.clone(), inbox)),
        random: Arc::clone(&platform.random),
        stop: messaging_stop.clone(),
    };
    let deps = session::Deps {
        metrics: session::SessionMetrics::new(&metrics, config.slots),
        readiness: metrics.readiness().clone(),
        address: listener.advertised.clone(),
        config,
        platform,
        transport,
        executor,
        sealing_key,
    };
    let (gate, authentication) = secured.gate(Arc::clone(&directory) as Arc<dyn Directory>);
    let _serving = listener.serve(&messenger, gate, authentication).map_err(AgentError::Listen)?;
    tokio::select! {
        () = secured.ready() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    let random = Arc::clone(&deps.platform.random);
    let watching = async { directory.run(upstream, random, messaging_stop.clone()).await };
    let session = async {
        let ended = session::run(deps, shutdown).await;
        messaging_stop.cancel();
        ended
    };
    let (ended, (), ()) = tokio::join!(session, watching, mailbox::run(mailbox));
    messaging_stop.cancel();
    messenger.stopped().await;
    Ok(ended?)
}
