//! What agents do besides running tasks, by their roles.

pub mod guardian;
pub mod messenger;

use std::{env, sync::Arc};

use robeing_net::Transport;
use robeing_platform::Platform;
use robeing_settings::{AgentConfig, AgentRole};
use robeing_telemetry::Metrics;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    guardian::{Guardian, GuardianMetrics},
    messenger::{Converting, Gateway, GatewayDeps, GatewayError, Webhooks, WebhooksDeps, WebhooksError},
};
use crate::{
    messaging::{Directory, handlers::Handler},
    upstream::SharedUpstream,
};

/// Why an agent can't do the duties of its role.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The gateway can't be started.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// Webhooks can't be called.
    #[error(transparent)]
    Webhooks(#[from] WebhooksError),
}

/// What the duties of a role need.
pub struct Deps<'a> {
    /// The agent's settings.
    pub config: &'a AgentConfig,
    /// Clock, disk, network and randomness.
    pub platform: &'a Platform,
    /// The agent's transport.
    pub transport: &'a Transport,
    /// The agent's way to the coordinators.
    pub upstream: &'a SharedUpstream,
    /// Knows the other agents.
    pub directory: Arc<dyn Directory>,
    /// Where metrics are registered.
    pub metrics: &'a Metrics,
}

/// The duties of an agent's role, until it is dropped or stopped.
#[derive(Default)]
pub struct Duties {
    gateway: Option<Gateway>,
    _webhooks: Option<Webhooks>,
    guardian: Option<(AbortOnDropHandle<()>, CancellationToken)>,
}

impl Duties {
    /// Starts what an agent of this role does.
    ///
    /// # Errors
    /// [`RoleError`] if its settings are wrong, or the gateway can't listen.
    pub async fn start(deps: Deps<'_>) -> Result<Self, RoleError> {
        match deps.config.role {
            AgentRole::Worker | AgentRole::Specialist => Ok(Self::default()),
            AgentRole::Messenger => Self::of_messenger(deps).await,
            AgentRole::Guardian => Ok(Self::of_guardian(&deps)),
        }
    }

    async fn of_messenger(deps: Deps<'_>) -> Result<Self, RoleError> {
        let Deps { config, platform, transport, upstream, directory, metrics } = deps;
        let mut duties = Self::default();
        if let Some(listen) = config.gateway_listen.clone() {
            let gateway = Gateway::start(GatewayDeps {
                listen,
                transport: transport.clone(),
                upstream: Arc::clone(upstream),
                coordinators: config.coordinators.clone(),
                platform: platform.clone(),
                metrics: metrics.clone(),
            });
            duties.gateway = Some(gateway.await?);
        }
        if let Some(file) = config.webhooks.clone() {
            let webhooks = Webhooks::start(WebhooksDeps {
                file,
                env: Arc::new(|name| env::var(name).ok()),
                data: config.data.clone(),
                cluster: config.cluster_id.clone(),
                name: config.name.clone(),
                upstream: Arc::clone(upstream),
                directory,
                platform: platform.clone(),
                metrics: metrics.clone(),
            });
            duties._webhooks = Some(webhooks.await?);
        }
        Ok(duties)
    }

    fn of_guardian(deps: &Deps<'_>) -> Self {
        let stop = CancellationToken::new();
        let guardian = Guardian {
            name: deps.config.name.clone(),
            upstream: Arc::clone(deps.upstream),
            on_anomaly: deps.config.on_anomaly,
            warm_up: deps.config.anomaly_warm_up,
            metrics: GuardianMetrics::new(deps.metrics),
            stop: stop.clone(),
        };
        let running = AbortOnDropHandle::new(tokio::spawn(guardian.run()));
        Self { guardian: Some((running, stop)), ..Self::default() }
    }

    /// Ends the duties.
    pub async fn stop(self) {
        if let Some((guardian, stop)) = self.guardian {
            stop.cancel();
            // It has been reported if it panicked.
            let _ = guardian.await;
        }
        if let Some(gateway) = self.gateway {
            gateway.stop().await;
        }
    }
}

/// Returns the handler of the messages of an agent of this role: messengers convert data, too.
pub fn handler(role: AgentRole, handler: Arc<dyn Handler>) -> Arc<dyn Handler> {
    match role {
        AgentRole::Messenger => Arc::new(Converting::new(handler)),
        AgentRole::Worker | AgentRole::Specialist | AgentRole::Guardian => handler,
    }
}
