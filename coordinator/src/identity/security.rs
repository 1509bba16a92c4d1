//! The TLS of a coordinator: opens the authority, certifies the coordinator, and starts what keeps both up to date.

use std::{env, path::Path, sync::Arc, time::Duration};

use robeing_identity::{Realm, SpiffeIdError};
use robeing_net::security::{Tls, TrustClock};
use robeing_platform::Platform;
use robeing_settings::{CoordinatorConfig, TlsMode};
use robeing_telemetry::{ConnectionMetrics, Metrics};
use tokio::sync::watch;

use super::{
    authority::{AuthorityError, AuthorityKeeper},
    client_rights::{ClientRights, TokenReviewer},
    join_dir::{JoinDir, JoinDirError},
    kubernetes::{Kubernetes, KubernetesConfig},
    own::{OwnCertifier, OwnError},
    rights_file::{RightsFile, RightsFileError},
    trust::FleetTrust,
};
use crate::{
    clock::FleetClock,
    lifetime::Lifetime,
    read::StateReader,
    warnings::{Reason, Warnings},
};

/// How often metrics and warnings are refreshed.
const REFRESH: Duration = Duration::from_secs(1);
/// The reason of the warning while anyone may enrol.
pub const OPEN_ENROLMENT: Reason = "OpenEnrolment";
/// The reason of the warning while connections without TLS are accepted.
pub const PLAINTEXT_ACCEPTED: Reason = "PlaintextAccepted";
/// The reason of the warning while the authority is about to expire.
pub const AUTHORITY_EXPIRES: Reason = "AuthorityExpires";
/// How long before an authority expires there is a warning.
const EXPIRES_SOON: Duration = Duration::from_secs(24 * 60 * 60);
/// How often it is checked.
const LOOK_AT_EXPIRY: Duration = Duration::from_secs(60);

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A name can't be in a certificate.
    #[error(transparent)]
    Name(#[from] SpiffeIdError),
    /// The authority can't be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The clients' rights can't be read.
    #[error(transparent)]
    Rights(#[from] RightsFileError),
    /// The join directory can't be used.
    #[error(transparent)]
    Join(#[from] JoinDirError),
    /// This coordinator can't be certified.
    #[error("this coordinator can't be certified: {0}")]
    Own(#[from] OwnError),
}

/// The TLS of a coordinator, before its other parts are assembled.
pub struct Security {
    pub tls: Tls,
    pub realm: Realm,
    pub clock: Arc<TrustClock>,
    /// What is trusted.
    pub trust: FleetTrust,
    /// What clients may do.
    pub rights: ClientRights,
    /// Finds out whose the tokens are whose keys are not known here.
    pub reviewer: TokenReviewer,
    rights_file: Option<RightsFile>,
    join_dir: Option<JoinDir>,
    keeper: AuthorityKeeper,
    own: OwnCertifier,
    name: String,
}

impl Security {
    /// Sets TLS up for a coordinator that clients reach at `address`; `None` if it runs without.
    ///
    /// # Errors
    /// If the authority can't be used.
    pub async fn open(
        config: &CoordinatorConfig,
        platform: &Platform,
        address: &str,
    ) -> Result<Option<Self>, SecurityError> {
        if config.tls == TlsMode::Off {
            return Ok(None);
        }
        let authority = &config.authority;
        let realm = Realm::new(&authority.trust_domain, &authority.namespace, &config.cluster_id)?;
        let clock = Arc::new(TrustClock::new(Arc::clone(&platform.clock)));
        let dir: Option<&Path> = authority.directory.as_deref();
        let (keeper, authorities) = AuthorityKeeper::open(platform, dir, &config.data, &realm).await?;
        let (join_dir, join_secret) = match &authority.join {
            Some(dir) => JoinDir::open(platform, dir).await.map(|(dir, secret)| (Some(dir), secret))?,
            None => (None, watch::channel(None).1),
        };
        let trust = FleetTrust::new(authorities, authority.enrolment(), join_secret);
        let hosts = hosts(&realm, &config.name, address);
        let (own, credentials) =
            OwnCertifier::new(realm.clone(), &config.name, hosts, trust.clone(), Arc::clone(&clock))?;
        let tls = Tls::new(credentials, config.tls == TlsMode::Permissive);
        let rights_file = match &authority.rights {
            Some(file) => Some(RightsFile::open(Arc::clone(&platform.disk), file).await?),
            None => None,
        };
        let variable = |name: &str| env::var(name).ok();
        let in_cluster = KubernetesConfig::in_cluster(variable, None, realm.namespace(), realm.cluster());
        let kubernetes = in_cluster.ok().map(|config| Kubernetes::new(platform.clone(), config));
        let rights = match (&rights_file, &kubernetes) {
            (Some(file), _) => ClientRights::File(file.rights()),
            (None, Some(kubernetes)) => ClientRights::Kubernetes(kubernetes.clone()),
            (None, None) => ClientRights::CertifiedMayAll,
        };
        let (name, reviewer) = (config.name.clone(), TokenReviewer(kubernetes));
        Ok(Some(Self { tls, realm, clock, trust, rights, reviewer, rights_file, join_dir, keeper, own, name }))
    }

    /// Starts the tasks that keep the certificate, the authority, metrics and warnings up to date.
    pub fn start(
        self,
        state: StateReader,
        clock: FleetClock,
        warnings: Arc<Warnings>,
        metrics: &Metrics,
        lifetime: &Lifetime,
    ) {
        let Self { tls, keeper, own, name, rights_file, join_dir, trust, clock: trust_clock, .. } = self;
        if let Some(file) = rights_file {
            lifetime.spawn(file.follow(Arc::clone(&warnings)));
        }
        if let Some(dir) = join_dir {
            lifetime.spawn(dir.run(trust.clone(), state.clone(), Arc::clone(&warnings)));
        }
        lifetime.spawn(warn_of_expiry(trust.clone(), trust_clock, name.clone(), Arc::clone(&warnings)));
        lifetime.spawn(keeper.run(Arc::clone(&warnings)));
        lifetime.spawn(own.run(state.clone(), clock));
        lifetime.spawn(watch_connections(tls, trust, name, state, warnings, metrics.clone()));
    }
}

/// Returns the names and addresses at which clients of other makers reach the coordinator.
fn hosts(realm: &Realm, name: &str, address: &str) -> Vec<String> {
    let (cluster, namespace) = (realm.cluster(), realm.namespace());
    let own = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let mut hosts = vec![own.to_owned(), name.to_owned(), cluster.to_owned()];
    hosts.extend([format!("{cluster}.{namespace}"), format!("{cluster}.{namespace}.svc")]);
    hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    hosts
}

/// Warns while the authority that issues is about to expire. Runs until the coordinator stops.
async fn warn_of_expiry(trust: FleetTrust, clock: Arc<TrustClock>, name: String, warnings: Arc<Warnings>) {
    loop {
        let left = trust.certifier().authority.not_after().saturating_sub(clock.now());
        let is_due = left < EXPIRES_SOON.as_millis() as u64;
        let message = format!(
            "the certificate authority of coordinator {name} expires within a day, and with it every certificate that it \
             has issued; replace it, and keep the old one in trust.crt for an hour"
        );
        warnings.set(AUTHORITY_EXPIRES, is_due.then_some(message));
        tokio::time::sleep(LOOK_AT_EXPIRY).await;
    }
}

/// Refreshes metrics and warnings. Runs until the coordinator stops.
async fn watch_connections(
    tls: Tls,
    trust: FleetTrust,
    name: String,
    state: StateReader,
    warnings: Arc<Warnings>,
    metrics: Metrics,
) {
    let connections = ConnectionMetrics::new(&metrics);
    loop {
        connections.refresh(tls.stats());
        let is_open = trust.with(state.look(|fleet| fleet.identity_config().cloned())).is_open();
        let open = format!(
            "enrolment at coordinator {name} is open: anyone who reaches it can become a worker or a specialist, and \
             submit and read tasks; give agents a proof and set --enrolment=proof"
        );
        warnings.set(OPEN_ENROLMENT, is_open.then_some(open));
        let plaintext = format!(
            "coordinator {name} also accepts connections without TLS and trusts them; set --tls=strict once every process \
             of the fleet speaks TLS"
        );
        warnings.set(PLAINTEXT_ACCEPTED, tls.is_permissive().then_some(plaintext));
        tokio::time::sleep(REFRESH).await;
    }
}
