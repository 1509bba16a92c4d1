//! The identity of a fleet: its certificate authority, the proofs with which agents enrol, and the operator's own
//! certificate. The decisions are pure, in [`authority`] and [`join`]; this module reads and writes what they are
//! about. The state is in Secrets, so that it survives the operator, and what is remembered here may be lost at any
//! time.

pub mod authority;
pub mod issuers;
pub mod join;
pub(crate) mod link;
mod pools;
pub mod report;
mod secrets;
#[cfg(test)]
mod tests;
pub mod trust;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    jiff::Timestamp,
};
use kube::{Api, ResourceExt};
use robeing_client::{Security, coordinators::all_respond};
use robeing_crds::RobeingCluster;
use robeing_identity::{Authority, IdentityError, JoinSecret, Realm};
use robeing_proto::v1;
use tokio::time::Instant;
use tonic::Code;

use self::{
    authority::{AuthorityState, Found, Pair, Phase, Step, TRUST_KEY, View, Wanted},
    issuers::{Discovery, Issuer},
    join::JoinState,
    link::Link,
    report::{Problem, Report},
    secrets::Secrets,
    trust::Sent,
};
use crate::{
    controller::{
        ClusterCache, Context, Error, apply,
        observe::{Observation, addresses},
        validate::{FleetIdentity, Proof, Transport},
    },
    names,
    quorum::transport,
};

/// How often Secrets are read again. The operator does not watch them, so a change by hand takes effect only then.
const READ_EVERY: Duration = Duration::from_secs(10 * 60);
/// How soon a fleet is reconciled again while its authority is rotated and nothing else happens.
const ROTATION_POLL: Duration = Duration::from_secs(60);

/// How soon a Secret of the user's that is missing or wrong is read again.
const GIVEN_POLL: Duration = Duration::from_secs(10);
/// How soon a fleet is reconciled again after a step of a rotation.
const STEP_POLL: Duration = Duration::from_secs(1);

/// What is remembered of a fleet's identity from one reconciliation to the next.
#[derive(Debug, Default)]
pub(crate) struct IdentityCache {
    /// The authority, and the version of its Secret; no version if the Secret is to be made.
    authority: Option<(AuthorityState, Option<String>)>,
    /// The join secrets by pool, and the versions of their Secrets.
    joins: BTreeMap<String, (JoinState, String)>,
    /// When the Secrets were read.
    read_at: Option<Instant>,
    /// The authority that the user provides, or what is wrong with it, and the name of its Secret.
    given: Option<(String, Result<Pair, Problem>)>,
    /// The issuer of service-account tokens, once it was found.
    issuer: Option<Issuer>,
    link: Option<Link>,
    sent: Option<Sent>,
    /// What was found in this reconciliation.
    report: Report,
    /// When a phase of a rotation ends.
    due: Option<Duration>,
}

impl IdentityCache {
    /// Returns how to connect to the coordinators.
    pub(crate) fn security(&self) -> Security {
        self.link.as_ref().map_or_else(Security::plain, |link| link.security().clone())
    }

    /// Returns the authority that the user provides, if it can be read.
    fn given(&self) -> Option<&Pair> {
        self.given.as_ref()?.1.as_ref().ok()
    }

    /// Returns the state of the authority, if there is one.
    fn state(&self) -> Option<&AuthorityState> {
        self.authority.as_ref().map(|(state, _)| state)
    }

    /// Returns what was found.
    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    /// Returns the time until the next step of a rotation, or until the user's Secret, which is not watched, is read
    /// again because it is missing or wrong.
    pub(crate) fn due(&self) -> Option<Duration> {
        let waits = self.given.as_ref().is_some_and(|(_, given)| given.is_err());
        self.due.into_iter().chain(waits.then_some(GIVEN_POLL)).min()
    }
}

/// The time of this machine, Unix milliseconds.
fn wall() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
}

fn secrets<'a>(cluster: &'a RobeingCluster, context: &'a Context) -> Secrets<'a> {
    Secrets {
        client: &context.client,
        cluster: cluster.metadata.name.as_deref().unwrap_or_default(),
        namespace: cluster.metadata.namespace.as_deref().unwrap_or_default(),
        uid: cluster.metadata.uid.as_deref().unwrap_or_default(),
    }
}

/// Returns the value of the annotation that asks for a rotation.
fn asked(cluster: &RobeingCluster) -> Option<&str> {
    cluster.annotations().get(names::ANNOTATION_ROTATE).map(String::as_str)
}

fn realm(cluster: &RobeingCluster) -> Result<Realm, robeing_identity::SpiffeIdError> {
    let namespace = cluster.namespace().unwrap_or_default();
    Realm::new(&cluster.spec.identity.trust_domain, &namespace, &cluster.name_any())
}

/// Makes sure that the fleet has an authority, and that the operator can connect to its coordinators. Problems that
/// only affect this fleet are put into the report.
///
/// # Errors
/// If the API server is not reachable.
pub(crate) async fn prepare(
    cluster: &RobeingCluster,
    context: &Context,
    cache: &mut ClusterCache,
    permissive: bool,
) -> Result<(), Error> {
    cache.identity.report = Report::default();
    cache.identity.due = None;
    let realm = match realm(cluster) {
        Ok(realm) => realm,
        Err(error) => {
            cache.identity.report.problem("NameRefused", format!("The fleet can't be certified: {error}."));
            return Ok(());
        }
    };
    let named = cluster.spec.identity.authority.as_ref().map(|reference| reference.secret_name.as_str());
    learn_issuer(context, &mut cache.identity).await?;
    // What is wrong is read again each time, and so is what the spec names since then.
    let is_known = match &cache.identity.given {
        Some((name, given)) => named == Some(name) && given.is_ok(),
        None => named.is_none(),
    };
    let is_due = !is_known || cache.identity.read_at.is_none_or(|at| at.elapsed() >= READ_EVERY);
    if is_due || cache.identity.authority.is_none() {
        let uid = cluster.uid().unwrap_or_default();
        let name = names::authority(&cluster.name_any());
        let wish = || apply::fingerprint_of(&(&uid, &cluster.spec.identity.authority));
        let work = read(cluster, context, &mut cache.identity, &realm);
        match apply::unless_refused(&mut cache.refusals, ("Secret", &name, wish), work).await {
            Ok(()) => cache.identity.read_at = Some(Instant::now()),
            Err(error) if error.is_unreachable() => return Err(error.into()),
            Err(error) => cache.identity.report.problem("AuthorityUnavailable", format!("{error}.")),
        }
    }
    keep_issuer(cluster, context, cache).await?;
    let identity = &mut cache.identity;
    if let Some((_, Err(problem))) = &identity.given {
        identity.report.problems.push(problem.clone());
    }
    if let Some((state, _)) = &identity.authority
        && let Err(error) = link::renew(&mut identity.link, &realm, state, permissive, wall())
    {
        identity.report.problem("AuthorityUnusable", format!("The operator can't be certified: {error}."));
    }
    Ok(())
}

/// Reads the authority's Secret, and makes it if there is none.
async fn read(
    cluster: &RobeingCluster,
    context: &Context,
    identity: &mut IdentityCache,
    realm: &Realm,
) -> Result<(), apply::Error> {
    let secrets = secrets(cluster, context);
    identity.joins.clear();
    identity.given = match &cluster.spec.identity.authority {
        None => None,
        Some(reference) => {
            let name = reference.secret_name.clone();
            let given = read_given(secrets, &name).await?;
            Some((name, given))
        }
    };
    let name = names::authority(secrets.cluster);
    let found = secrets.get_own(&name).await?;
    let version = found.as_ref().and_then(ResourceExt::resource_version);
    let known = identity.state().cloned();
    let state = match found.as_ref().map(authority::from_secret) {
        Some(Found::Whole(state)) => {
            identity.authority = Some((*state, version));
            return Ok(());
        }
        Some(Found::Mended(state)) => Some(state.trusting(published(cluster, context).await?)),
        // The Secret was deleted or emptied by a hand. Members know the authority that is remembered.
        Some(Found::Lost { .. }) | None if known.is_some() => known,
        Some(Found::Lost { trusted, join_key }) => made(cluster, context, identity, realm, (trusted, join_key)).await?,
        None => made(cluster, context, identity, realm, (Vec::new(), None)).await?,
    };
    let Some(mut state) = state else { return Ok(()) };
    if state.join_key.trim().is_empty() {
        state.join_key = random()?;
    }
    store(secrets, identity, state, version).await.map(drop)
}

/// Reads the authority that the user provides.
async fn read_given(secrets: Secrets<'_>, name: &str) -> Result<Result<Pair, Problem>, apply::Error> {
    let Some(secret) = secrets.get(name).await? else {
        let message = format!("Secret {name}, which spec.identity.authority names, does not exist; create it.");
        return Ok(Err(Problem { reason: "AuthorityMissing", message }));
    };
    let text = |key: &str| text(&secret, key).unwrap_or_default();
    Ok(Pair::read(&text("tls.crt"), &text("tls.key")).map_err(|error| {
        let message = format!(
            "Secret {name}, which spec.identity.authority names, has no authority in tls.crt and tls.key: {error}."
        );
        Problem { reason: "AuthorityUnreadable", message }
    }))
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

/// Makes the state of a fleet whose authority is not known, or was lost with its key.
async fn made(
    cluster: &RobeingCluster,
    context: &Context,
    identity: &IdentityCache,
    realm: &Realm,
    (mut trusted, join_key): (Vec<String>, Option<String>),
) -> Result<Option<AuthorityState>, apply::Error> {
    for certificate in published(cluster, context).await? {
        if !trusted.contains(&certificate) {
            trusted.push(certificate);
        }
    }
    let (pair, source) = match &cluster.spec.identity.authority {
        None => (new_pair(realm)?, ""),
        Some(reference) => match identity.given() {
            Some(pair) => (pair.clone(), reference.secret_name.as_str()),
            None => return Ok(None),
        },
    };
    let join_key = match join_key {
        Some(join_key) => join_key,
        None => random()?,
    };
    let mut state = AuthorityState::first(pair, source, trusted, join_key);
    state.rotated_for = asked(cluster).map(str::to_owned);
    state.issuer.clone_from(&identity.issuer);
    Ok(Some(state))
}

fn new_pair(realm: &Realm) -> Result<Pair, apply::Error> {
    Authority::create(realm, wall()).map(|authority| Pair::of(&authority)).map_err(unmade)
}

fn random() -> Result<String, apply::Error> {
    JoinSecret::generate().map(|secret| secret.to_text()).map_err(unmade)
}

fn unmade(error: IdentityError) -> apply::Error {
    apply::Error::Unmade { what: "the authority of the fleet", source: Box::new(error) }
}

/// Returns the authorities in the ConfigMap that agents read; none if it does not belong to this cluster, because
/// anyone who may create ConfigMaps could make themselves trusted by one.
async fn published(cluster: &RobeingCluster, context: &Context) -> Result<Vec<String>, apply::Error> {
    let name = names::trust(&cluster.name_any());
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let found = api.get_opt(&name).await.map_err(|error| apply::Error::of("read", "ConfigMap", &name, error))?;
    let uid = cluster.metadata.uid.as_deref().unwrap_or_default();
    let own = found.filter(|found| apply::is_owned(&found.metadata, uid));
    let text = own.and_then(|found| found.data?.remove(TRUST_KEY));
    Ok(text.map(|text| authority::certificates(&text)).unwrap_or_default())
}

/// Writes a state. Returns whether it was written: if somebody else has changed the Secret, it is read again first.
async fn store(
    secrets: Secrets<'_>,
    identity: &mut IdentityCache,
    state: AuthorityState,
    version: Option<String>,
) -> Result<bool, apply::Error> {
    let name = names::authority(secrets.cluster);
    let written = secrets.write(&name, version.as_deref(), &authority::to_secret(&state)).await?;
    match written {
        Some(version) => identity.authority = Some((state, Some(version))),
        None => (identity.authority, identity.read_at) = (None, None),
    }
    Ok(identity.authority.is_some())
}

/// Learns the issuer of service-account tokens. Which proof agents have is not decided before.
async fn learn_issuer(context: &Context, identity: &mut IdentityCache) -> Result<(), apply::Error> {
    let found = context.issuers.get(&context.client).await;
    match found.map_err(|error| apply::Error::of("read", "issuer", "of service-account tokens", error)) {
        Ok(Discovery::Known(issuer)) => identity.issuer = Some(issuer),
        Ok(Discovery::Refused(why)) => identity.report.no_issuer = Some(why),
        Err(error) if error.is_unreachable() || identity.state().is_none_or(|state| state.issuer.is_none()) => {
            return Err(error);
        }
        Err(error) => identity.report.no_issuer = Some(error.to_string()),
    }
    Ok(())
}

/// Keeps the last known issuer with the authority, for the next operator.
async fn keep_issuer(
    cluster: &RobeingCluster,
    context: &Context,
    cache: &mut ClusterCache,
) -> Result<(), apply::Error> {
    let Some((state, version)) = &cache.identity.authority else { return Ok(()) };
    if cache.identity.issuer.is_none() || cache.identity.issuer == state.issuer {
        return Ok(());
    }
    let (state, version) = (state.clone(), version.clone());
    let state = AuthorityState { issuer: cache.identity.issuer.clone(), ..state };
    let stored = store(secrets(cluster, context), &mut cache.identity, state, version).await;
    refusable(stored, cache).map(drop)
}

/// Puts a refusal into the report; only an API server that is not reachable ends the reconciliation.
fn refusable<T>(result: Result<T, apply::Error>, cache: &mut ClusterCache) -> Result<Option<T>, apply::Error> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.is_unreachable() => Err(error),
        Err(error) => {
            cache.identity.report.problem("AuthorityUnavailable", format!("{error}."));
            Ok(None)
        }
    }
}

/// Returns the part of the fleet that depends on its identity: how its pods connect, what they prove themselves with,
/// and whom they trust.
pub(crate) async fn decide(observation: &Observation, context: &Context, cache: &mut ClusterCache) -> FleetIdentity {
    let view = observation.transports(cache.identity.state().is_some());
    let mut decided = transport::next(&view, false);
    if decided == Transport::Permissive && transport::next(&view, true) == Transport::Strict {
        let secured = strictly_reachable(observation, cache).await;
        decided = transport::next(&view, secured);
        if !secured {
            cache.identity.report.moving = Some(
                "every pod runs with the new settings, but not every coordinator speaks TLS; if they run an image of an \
                 earlier version, upgrade it"
                    .into(),
            );
        }
    } else if decided == Transport::Permissive && view.wanted == Transport::Strict {
        cache.identity.report.moving = Some(report::waits_for(&observation.unmoved()));
    }
    let is_known = cache.identity.state().is_some_and(|state| state.issuer.is_some());
    let proof = if is_known || observation.has_tokens() { Proof::Token } else { Proof::JoinSecret };
    if let Err(error) = pools::keep_secrets(observation, context, cache, proof).await {
        cache.identity.report.problem("JoinSecretUnavailable", format!("{error}."));
    }
    cache.identity.report.proof = proof;
    let state = cache.identity.state();
    FleetIdentity { transport: decided, proof, trust: state.map(AuthorityState::bundle).unwrap_or_default() }
}

/// Returns whether every coordinator responds over TLS.
async fn strictly_reachable(observation: &Observation, cache: &ClusterCache) -> bool {
    let (Some(state), Ok(realm)) = (cache.identity.state(), realm(&observation.cluster)) else { return false };
    let Ok(identity) = link::identity(&realm, state, wall()) else { return false };
    let Ok(security) = Security::with_identity(&identity) else { return false };
    let set = observation.stateful_set();
    let addresses = addresses(&observation.cluster, set, &observation.pods, None);
    all_respond(&addresses, &security).await
}

/// Sends the coordinators whom to trust, unless they have it, and takes the next step of a rotation.
///
/// # Errors
/// If the API server is not reachable.
pub(crate) async fn advance(
    observation: &Observation,
    context: &Context,
    cache: &mut ClusterCache,
) -> Result<(), Error> {
    let Some((state, version)) = cache.identity.authority.clone() else { return Ok(()) };
    let is_sent = send(observation, &state, context, cache).await;
    let cluster = &observation.cluster;
    let mut is_published = true;
    if state.phase != Phase::Steady {
        let found = published(cluster, context).await;
        let found = refusable(found, cache)?.unwrap_or_default();
        is_published = state.trust.iter().all(|certificate| found.contains(certificate));
    }
    let fleet = observation.fleet.as_ref().ok().and_then(|answer| fleet_time(&answer.status));
    let given = cache.identity.given().cloned();
    let wanted = match &cluster.spec.identity.authority {
        None => Wanted::Own,
        Some(reference) => Wanted::Given { secret: &reference.secret_name, pair: given.as_ref() },
    };
    // Without a leader nothing can be sent; this matters only if every certificate has expired.
    let published = is_published && (is_sent || observation.fleet.is_err());
    let overlap = context.authority_overlap;
    let view = View { now: wall(), fleet, overlap, asked: asked(cluster), wanted, published };
    let next = match taken(state, &view, cluster) {
        Err(error) => {
            cache.identity.report.problem("AuthorityUnusable", format!("{error}."));
            return Ok(());
        }
        Ok(next) => next,
    };
    let steps = next.is_some();
    if let Some((state, event)) = next {
        tracing::info!(cluster = cluster.name_any(), phase = ?state.phase, "the authority's next step");
        let stored = store(secrets(cluster, context), &mut cache.identity, state, version).await;
        if refusable(stored, cache)? == Some(true) {
            cache.identity.report.events.extend(event);
        }
    }
    let Some(state) = cache.identity.state().cloned() else { return Ok(()) };
    cache.identity.due = match state.phase {
        Phase::Steady => None,
        _ if steps => Some(STEP_POLL),
        _ => Some(authority::remaining(&state, &view).unwrap_or(ROTATION_POLL)),
    };
    cache.identity.report.phase = Some(state.phase);
    Ok(())
}

/// Returns the state after the next step, and the event that reports it; `None` if there is nothing to do.
fn taken(
    state: AuthorityState,
    view: &View<'_>,
    cluster: &RobeingCluster,
) -> Result<Option<(AuthorityState, Option<report::RotationEvent>)>, apply::Error> {
    let source = match view.wanted {
        Wanted::Own => "",
        Wanted::Given { secret, .. } => secret,
    };
    Ok(match authority::step(&state, view) {
        Step::Rest => None,
        Step::Begin(given) => {
            let pair = match (given, realm(cluster)) {
                (Some(pair), _) => pair,
                (None, Ok(realm)) => new_pair(&realm)?,
                (None, Err(_)) => return Ok(None),
            };
            Some((state.begun(pair, source, view.asked), Some(report::STARTED)))
        }
        Step::Stamp(at) => Some((state.stamped(at), None)),
        Step::Switch => Some((state.switched(view.fleet), Some(report::SWITCHED))),
        Step::Finish => Some((state.finished(), Some(report::FINISHED))),
    })
}

fn fleet_time(status: &v1::FleetStatus) -> Option<u64> {
    let now = status.now?;
    let millis = now.seconds.checked_mul(1_000)?.checked_add(i64::from(now.nanos / 1_000_000))?;
    u64::try_from(millis).ok().filter(|millis| *millis > 0)
}

/// Sends the coordinators whom to trust. Returns whether they have it.
async fn send(observation: &Observation, state: &AuthorityState, context: &Context, cache: &mut ClusterCache) -> bool {
    let Ok(answer) = &observation.fleet else { return false };
    let joins = cache.identity.joins.iter().map(|(pool, (join, _))| (pool.clone(), join.clone())).collect();
    let request = trust::request(&observation.cluster, state, &joins);
    if cache.identity.sent.as_ref().is_some_and(|sent| sent.covers(&request, &answer.status)) {
        return true;
    }
    let sent = Sent::new(&request, &answer.status);
    match context.coordinators.set_trust(&answer.from, &cache.identity.security(), request).await {
        Ok(()) => cache.identity.sent = Some(sent),
        // Coordinators of a version without TLS trust everybody.
        Err(error) if error.code() == Some(Code::Unimplemented) => {}
        Err(error) => {
            cache.identity.report.declined = Some(error.to_string());
            return false;
        }
    }
    true
}
