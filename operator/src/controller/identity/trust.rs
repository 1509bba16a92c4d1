//! What the operator sends to the coordinators: whom to trust. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use robeing_crds::{Enrolment, Pool, RobeingCluster};
use robeing_identity::digest;
use robeing_proto::v1;

use super::{authority::AuthorityState, join::JoinState};
use crate::{controller::asking, names};

/// Returns the request that contains whom the coordinators are to trust.
pub fn request(
    cluster: &RobeingCluster,
    state: &AuthorityState,
    joins: &BTreeMap<String, JoinState>,
) -> v1::SetTrustRequest {
    let enrolment = match cluster.spec.identity.enrolment {
        Enrolment::Proof => v1::EnrolmentMode::Proof,
        Enrolment::Open => v1::EnrolmentMode::Open,
    };
    let issuers = state.issuer.iter().map(|known| v1::TokenIssuer {
        issuer: known.issuer.clone(),
        audience: names::TOKEN_AUDIENCE.to_owned(),
        jwks: known.jwks.clone(),
    });
    v1::SetTrustRequest {
        trust_bundle: state.bundle(),
        enrolment: enrolment.into(),
        issuers: issuers.collect(),
        // This includes pools that are not built: their existing agents keep running.
        pools: cluster.spec.pools.iter().map(|pool| pool_trust(cluster, pool, joins.get(&pool.name))).collect(),
    }
}

fn pool_trust(cluster: &RobeingCluster, pool: &Pool, join: Option<&JoinState>) -> v1::PoolTrust {
    let cluster_name = cluster.metadata.name.as_deref().unwrap_or_default();
    let namespace = cluster.metadata.namespace.as_deref().unwrap_or_default();
    let named = pool.template.as_ref().and_then(|template| template.service_account_name.clone());
    let account = named.unwrap_or_else(|| names::pool(cluster_name, &pool.name));
    v1::PoolTrust {
        pool: pool.name.clone(),
        role: asking::role(pool.role).into(),
        service_accounts: vec![format!("{namespace}/{account}")],
        join_secret_digests: join.map(JoinState::digests).unwrap_or_default().into_iter().map(Into::into).collect(),
    }
}

/// What this process has sent to the coordinators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    digest: [u8; 32],
    /// Node ids of the voters then. A fleet that has none of them any more has lost its state, too.
    voters: BTreeSet<String>,
}

impl Sent {
    /// Remembers that a request was accepted by a fleet with these voters.
    pub fn new(request: &impl fmt::Debug, status: &v1::FleetStatus) -> Self {
        Self { digest: digest_of(request), voters: voters(status) }
    }

    /// Returns whether the coordinators know this already.
    pub fn covers(&self, request: &impl fmt::Debug, status: &v1::FleetStatus) -> bool {
        let now = voters(status);
        self.digest == digest_of(request) && (self.voters.is_empty() || !self.voters.is_disjoint(&now))
    }
}

fn voters(status: &v1::FleetStatus) -> BTreeSet<String> {
    status.coordinators.iter().filter(|one| one.voter).map(|one| one.node_id.clone()).collect()
}

fn digest_of(request: &impl fmt::Debug) -> [u8; 32] {
    digest(format!("{request:?}").as_bytes())
}

#[cfg(test)]
mod tests {
    use robeing_crds::parse_manifest;

    use super::*;
    use crate::controller::identity::{authority::Pair, issuers::Issuer};

    const MANIFEST: &str = "
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: fleet, namespace: apps, uid: u}
spec:
  identity: {enrolment: Open}
  pools:
  - {name: data, executor: {echo: {}}}
  - {name: web, role: Guardian, executor: {worker: {}}, template: {serviceAccountName: mine}}
";

    fn state() -> AuthorityState {
        let pair = Pair { certificate: "one".into(), key: "key".into(), not_after: 9 };
        AuthorityState::first(pair, "", vec!["two".into()], "join".into())
    }

    #[test]
    fn coordinators_are_told_of_every_pools_accounts_and_secrets() {
        let cluster = parse_manifest(MANIFEST).expect("a manifest");
        let join = JoinState::new(0, None).expect("random numbers");
        let joins = BTreeMap::from([("data".to_owned(), join.clone())]);
        let issuer = Some(Issuer { issuer: "https://k".into(), jwks: "{}".into() });
        let told = request(&cluster, &AuthorityState { issuer, ..state() }, &joins);
        assert_eq!((told.trust_bundle.as_str(), told.enrolment()), ("onetwo", v1::EnrolmentMode::Open));
        assert_eq!(told.issuers[0].audience, "robeing");
        let [data, web] = &told.pools[..] else { panic!("two pools: {told:?}") };
        assert_eq!((data.role(), &data.service_accounts[..]), (v1::Role::Worker, &["apps/fleet-data".to_owned()][..]));
        assert_eq!(data.join_secret_digests, join.digests());
        // The pool is not built, because its process has no container, but its agents may still run.
        assert_eq!((web.role(), &web.service_accounts[..]), (v1::Role::Guardian, &["apps/mine".to_owned()][..]));
        assert!(web.join_secret_digests.is_empty());
        assert!(!format!("{told:?}").contains("key"), "no private key is told");
    }

    #[test]
    fn they_are_told_again_when_it_changes_or_their_state_is_lost() {
        let cluster = parse_manifest(MANIFEST).expect("a manifest");
        let told = request(&cluster, &state(), &BTreeMap::new());
        let fleet = |ids: &[&str]| v1::FleetStatus {
            coordinators: ids
                .iter()
                .map(|id| v1::Coordinator { node_id: (*id).into(), voter: true, ..v1::Coordinator::default() })
                .collect(),
            ..v1::FleetStatus::default()
        };
        let sent = Sent::new(&told, &fleet(&["a", "b", "c"]));
        assert!(sent.covers(&told, &fleet(&["c", "d"])));
        assert!(!sent.covers(&told, &fleet(&["d", "e"])), "nobody of then has a vote");
        assert!(!sent.covers(&request(&cluster, &state().finished(), &BTreeMap::new()), &fleet(&["a"])));
    }
}
