//! The credentials for a fleet on Kubernetes: the authorities that it trusts, from its ConfigMap, and a token of one of
//! its ServiceAccounts, which the API server makes for anyone who may create tokens of that account. The user's own
//! credentials for the API server never reach a coordinator.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use robeing_client::{ClientIdentity, CredentialsError, Security};
use robeing_crds::condition_types;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{KubernetesError, access::ApiServer, api::Resource};

/// The lifetime that is requested for tokens. The API server may make them for another one.
pub(super) const TOKEN_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// The interval at which the age of the token is looked at: how soon a renewal that failed is tried again, and how late
/// one is at most.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long a new connection waits for a renewal before it is made with the token that there is.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(5);
/// The key of the ConfigMap with the trusted authorities.
const TRUST_KEY: &str = "trust.crt";
/// The reason of the condition Identity while coordinators of a fleet may speak no TLS yet.
const MOVING_TO_TLS: &str = "MovingToTls";

/// What a fleet is accessed for, which decides whose token is requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Submit and read tasks, send messages, vote.
    #[default]
    Use,
    /// Also administer the fleet.
    Administer,
}

impl Access {
    /// Returns the name of the ServiceAccount that the operator makes for this access to a cluster.
    pub fn account(self, cluster: &str) -> String {
        match self {
            Self::Use => format!("{cluster}.user"),
            Self::Administer => format!("{cluster}.admin"),
        }
    }
}

/// The age of a token. It is measured by two clocks, because one of them stands still while the machine sleeps, and the
/// other one can be set.
#[derive(Clone, Copy, Debug)]
struct Age {
    requested: (Instant, SystemTime),
    lifetime: Duration,
}

impl Age {
    /// Returns how old the token is.
    fn passed(&self) -> Duration {
        let (instant, time) = self.requested;
        instant.elapsed().max(time.elapsed().unwrap_or_default())
    }
}

/// Returns whether a token is to be replaced: when half of its lifetime has passed.
fn is_due(passed: Duration, lifetime: Duration) -> bool {
    passed >= lifetime / 2
}

/// The credentials for a fleet. They are renewed as long as this exists.
pub struct Credentials {
    security: Security,
    renewal: Option<(Arc<Renewal>, AbortOnDropHandle<()>)>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("security", &self.security).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Obtains the credentials of an account for a cluster. A fleet without a ConfigMap of trusted authorities has no
    /// certificates, since an operator of an earlier version made it: it is believed without, and gets no token.
    pub(super) async fn obtain(
        server: &Arc<ApiServer>,
        resource: &Resource,
        account: String,
    ) -> Result<Self, KubernetesError> {
        let (server, cluster) = (Arc::clone(server), resource.metadata.name.clone());
        let failed = |error: CredentialsError| unusable(&server, &cluster, error.to_string());
        let Some((identity, age)) = identity(&server, &cluster, &account).await? else {
            return Ok(Self { security: Security::opportunistic().map_err(failed)?, renewal: None });
        };
        let moves = resource.condition(condition_types::IDENTITY).is_some_and(|found| found.reason == MOVING_TO_TLS);
        let made = if moves { Security::permissive(&identity) } else { Security::with_identity(&identity) };
        let security = made.map_err(failed)?;
        let age = Mutex::new(age);
        let renewal = Arc::new(Renewal { server, cluster, account, security: security.clone(), age });
        let task = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&renewal).keep_fresh()));
        Ok(Self { security, renewal: Some((renewal, task)) })
    }

    /// Returns how to connect. The clones of what is returned are renewed, too.
    pub fn security(&self) -> &Security {
        &self.security
    }

    /// Replaces a token of which half the lifetime has passed, before a new connection is made.
    ///
    /// # Errors
    /// If the API server makes no other one, and the one that there is has ended.
    pub(super) async fn freshen(&self) -> Result<(), KubernetesError> {
        let Some((renewal, _)) = &self.renewal else { return Ok(()) };
        // If there is no answer, the coordinator decides whether the token that there is will do.
        timeout(RENEWAL_TIMEOUT, renewal.freshen()).await.unwrap_or(Ok(()))
    }
}

/// Renews the credentials.
struct Renewal {
    server: Arc<ApiServer>,
    cluster: String,
    account: String,
    security: Security,
    age: Mutex<Age>,
}

impl Renewal {
    /// Looks at the token's age again and again.
    async fn keep_fresh(self: Arc<Self>) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            // What failed is tried again; a new connection reports it when the token has ended.
            let _ = self.freshen().await;
        }
    }

    fn age(&self) -> Age {
        *self.age.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn freshen(&self) -> Result<(), KubernetesError> {
        let age = self.age();
        if !is_due(age.passed(), age.lifetime) {
            return Ok(());
        }
        match self.renew().await {
            Err(error) if age.passed() >= age.lifetime => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads the trusted authorities again, which rotate, and requests another token.
    async fn renew(&self) -> Result<(), KubernetesError> {
        // If it is gone, so is the fleet.
        let Some((identity, age)) = identity(&self.server, &self.cluster, &self.account).await? else { return Ok(()) };
        let replaced = self.security.replace(&identity);
        replaced.map_err(|error| unusable(&self.server, &self.cluster, error.to_string()))?;
        *self.age.lock().unwrap_or_else(PoisonError::into_inner) = age;
        Ok(())
    }
}

/// Returns the name of the ConfigMap with the trusted authorities.
fn trust_name(cluster: &str) -> String {
    format!("{cluster}-trust")
}

fn unusable(server: &ApiServer, cluster: &str, problem: String) -> KubernetesError {
    KubernetesError::BadTrust { namespace: server.namespace().into(), name: trust_name(cluster), problem }
}

/// Reads the trusted authorities of a cluster and requests a token of an account; `None` if the cluster has none.
async fn identity(
    server: &ApiServer,
    cluster: &str,
    account: &str,
) -> Result<Option<(ClientIdentity, Age)>, KubernetesError> {
    let Some(mut config) = server.config_map(&trust_name(cluster)).await? else { return Ok(None) };
    let Some(trust) = config.data.remove(TRUST_KEY) else {
        return Err(unusable(server, cluster, format!("it has no key {TRUST_KEY}")));
    };
    // Before the request, so that the token is no older than this.
    let requested = (Instant::now(), SystemTime::now());
    let answer = server.token(account).await?;
    let lifetime = answer.spec.seconds.map_or(TOKEN_LIFETIME, Duration::from_secs);
    let token = Some(answer.status.token);
    let identity = ClientIdentity { cluster: cluster.to_owned(), trust, certificate: None, token };
    Ok(Some((identity, Age { requested, lifetime })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_when_half_of_its_lifetime_has_passed() {
        let second = Duration::from_secs(1);
        assert!(!is_due(TOKEN_LIFETIME / 2 - second, TOKEN_LIFETIME));
        assert!(is_due(TOKEN_LIFETIME / 2, TOKEN_LIFETIME));
        assert!(is_due(Duration::ZERO, Duration::ZERO), "one that ended at once");
    }

    #[test]
    fn the_renewal_is_looked_at_often_enough_for_the_shortest_tokens_of_kubernetes() {
        // The API server refuses a lifetime below ten minutes.
        assert!(LOOK_EVERY + RENEWAL_TIMEOUT < Duration::from_secs(600) / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_that_ran_further_counts() {
        let now = (Instant::now(), SystemTime::now());
        let lifetime = TOKEN_LIFETIME;
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(Age { requested: now, lifetime }.passed() >= Duration::from_secs(5));
        let before_sleep = now.1 - Duration::from_secs(7_200);
        assert!(Age { requested: (now.0, before_sleep), lifetime }.passed() >= Duration::from_secs(7_200));
        let before_set_back = now.1 + Duration::from_secs(7_200);
        assert_eq!(Age { requested: (now.0, before_set_back), lifetime }.passed(), Duration::from_secs(5));
    }

    #[test]
    fn each_access_has_an_account() {
        assert_eq!(Access::default().account("f"), "f.user");
        assert_eq!(Access::Administer.account("f"), "f.admin");
    }
}
