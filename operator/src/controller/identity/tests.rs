//! The identity of a fleet on a fake API server, which keeps Secrets and ConfigMaps and records its calls.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::ByteString;
use kube::client::{Body, Client};
use robeing_client::coordinators;
use robeing_crds::{AuthorityReference, parse_manifest};
use serde_json::{Value, json};

use super::*;
use crate::{
    controller::validate::OperatorContext,
    runtime::{fleet_watch::FleetWatches, metrics::Metrics, stores::Caches},
};

const MANIFEST: &str = "
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: fleet, namespace: apps, uid: u, generation: 1}
spec:
  pools:
  - {name: data, executor: {echo: {}}}
  - {name: web, executor: {echo: {}}}
";
const SECRETS: &str = "/api/v1/namespaces/apps/secrets";
const AUTHORITY: &str = "/api/v1/namespaces/apps/secrets/fleet-authority";
const TRUST: &str = "/api/v1/namespaces/apps/configmaps/fleet-trust";

#[derive(Default)]
struct Stored {
    objects: BTreeMap<String, Value>,
    calls: Vec<String>,
    version: u64,
    hides_issuer: bool,
    forbids_secrets: bool,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<Stored>>);

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
        "message": format!("this is {reason}"), "code": code});
    (code, status)
}

/// Applies a merge patch.
fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().expect("an object").remove(key);
        } else {
            merge(&mut into[key.as_str()], value);
        }
    }
}

impl Stored {
    fn put(&mut self, path: &str, mut object: Value) -> (u16, Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.to_owned(), object.clone());
        (200, object)
    }

    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        self.calls.push(format!("{method} {path}"));
        match (method.as_str(), path) {
            ("GET", "/.well-known/openid-configuration" | "/openid/v1/jwks") if self.hides_issuer => {
                refusal(403, "Forbidden")
            }
            ("GET", "/.well-known/openid-configuration") => (200, json!({"issuer": "https://k"})),
            ("GET", "/openid/v1/jwks") => (200, json!({"keys": [{"kid": "1"}]})),
            (_, path) if path.starts_with(SECRETS) && self.forbids_secrets => refusal(403, "Forbidden"),
            ("POST", SECRETS) => {
                let path = format!("{SECRETS}/{}", body["metadata"]["name"].as_str().expect("a name"));
                match self.objects.contains_key(&path) {
                    true => refusal(409, "AlreadyExists"),
                    false => self.put(&path, body.clone()),
                }
            }
            ("GET", path) => self.objects.get(path).map_or_else(|| refusal(404, "NotFound"), |it| (200, it.clone())),
            ("PATCH", path) => {
                let Some(mut object) = self.objects.get(path).cloned() else { return refusal(404, "NotFound") };
                if object["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return refusal(409, "Conflict");
                }
                merge(&mut object, body);
                self.put(path, object)
            }
            ("DELETE", path) => self.objects.remove(path).map_or_else(|| refusal(404, "NotFound"), |it| (200, it)),
            _ => refusal(405, "MethodNotAllowed"),
        }
    }
}

impl Server {
    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().expect("no test panics while it holds this")
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect().await.expect("a body").to_bytes();
                let body = serde_json::from_slice(&bytes).unwrap_or_default();
                let (code, answer) = server.stored().answer(&parts.method, parts.uri.path(), &body);
                let answer = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(Response::builder().status(code).body(answer).expect("a response"))
            }
        });
        Client::new(service, "apps")
    }

    fn context(&self) -> Context {
        let client = self.client();
        let (caches, _) = Caches::of(&client, Some("apps"));
        let operator_context = OperatorContext { default_image: "robeing:1".into(), operator_namespace: "s".into() };
        let news = FleetWatches::new(Arc::default());
        let (poll, instance) = (Duration::from_secs(3), "test".to_owned());
        Context::new(client, caches, news, Metrics::default(), operator_context, poll, instance)
    }

    fn writes(&self) -> usize {
        self.stored().calls.iter().filter(|call| !call.starts_with("GET")).count()
    }

    fn names(&self) -> BTreeSet<String> {
        let stored = self.stored();
        let names = stored.objects.keys().filter_map(|path| path.strip_prefix(SECRETS)?.strip_prefix('/'));
        names.map(str::to_owned).collect()
    }
}

/// Returns a ConfigMap of the owner with this uid, with trusted authorities.
fn trust_config(owner: &str, trust: &str) -> Value {
    let owner = json!({"apiVersion": "v1", "kind": "Any", "name": "fleet", "uid": owner, "controller": true});
    json!({"metadata": {"name": "fleet-trust", "ownerReferences": [owner]}, "data": {TRUST_KEY: trust}})
}

fn cluster() -> RobeingCluster {
    parse_manifest(MANIFEST).unwrap_or_else(|error| panic!("{error}"))
}

fn observation(cluster: &RobeingCluster) -> Observation {
    Observation {
        cluster: Arc::new(cluster.clone()),
        objects: vec![],
        pods: vec![],
        claims: vec![],
        fleet: Err(coordinators::Error::NoAddress),
        now: Timestamp::now(),
    }
}

/// An operator, as it is after a start.
struct Operator {
    context: Context,
    cache: ClusterCache,
}

impl Operator {
    fn start(server: &Server) -> Self {
        Self { context: server.context(), cache: ClusterCache::default() }
    }

    async fn prepare(&mut self, cluster: &RobeingCluster) {
        prepare(cluster, &self.context, &mut self.cache, false).await.unwrap_or_else(|error| panic!("{error}"));
    }

    async fn decide(&mut self, cluster: &RobeingCluster) -> FleetIdentity {
        self.prepare(cluster).await;
        decide(&observation(cluster), &self.context, &mut self.cache).await
    }

    fn authority(&self) -> &Pair {
        &self.cache.identity.state().expect("an authority").issuing
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.cache.identity.report().problems.iter().map(|problem| problem.reason).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_is_made_once_and_kept_by_every_operator_after() {
    let (server, cluster) = (Server::default(), cluster());
    let mut operator = Operator::start(&server);
    let identity = operator.decide(&cluster).await;
    assert_eq!((identity.transport, identity.proof), (Transport::Strict, Proof::Token));
    assert_eq!(identity.trust, operator.authority().certificate);
    assert!(operator.cache.identity.security().tls().is_some_and(|tls| !tls.is_permissive()));
    let writes = server.writes();
    assert_eq!(writes, 1, "the authority, with the issuer that was found: {:?}", server.stored().calls);
    assert_eq!(server.names(), BTreeSet::from(["fleet-authority".to_owned()]), "no join secrets are needed");
    let reads = server.stored().calls.len();
    operator.decide(&cluster).await;
    assert_eq!(server.stored().calls.len(), reads, "at rest nothing is asked");
    let mut next = Operator::start(&server);
    next.decide(&cluster).await;
    assert_eq!((next.authority(), server.writes()), (operator.authority(), writes));
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_was_deleted_by_hand_comes_back_while_it_is_remembered() {
    let (server, cluster) = (Server::default(), cluster());
    let mut operator = Operator::start(&server);
    operator.prepare(&cluster).await;
    server.stored().objects.remove(AUTHORITY);
    tokio::time::advance(READ_EVERY).await;
    operator.prepare(&cluster).await;
    let mut next = Operator::start(&server);
    next.prepare(&cluster).await;
    assert_eq!(next.authority(), operator.authority());
}

#[tokio::test(start_paused = true)]
async fn members_of_a_lost_authority_are_trusted_until_they_have_others() {
    let (server, cluster) = (Server::default(), cluster());
    let mut operator = Operator::start(&server);
    operator.prepare(&cluster).await;
    let lost = operator.authority().certificate.clone();
    for (owner, phase) in [("other", Phase::Steady), ("u", Phase::Retiring { since: None })] {
        server.stored().objects.remove(AUTHORITY);
        server.stored().put(TRUST, trust_config(owner, &lost));
        let mut next = Operator::start(&server);
        let identity = next.decide(&cluster).await;
        assert_ne!(next.authority().certificate, lost);
        assert!(identity.trust.contains(&next.authority().certificate));
        assert_eq!(identity.trust.contains(&lost), owner == "u", "another's ConfigMap must not make anybody trusted");
        assert_eq!(next.cache.identity.state().map(|state| state.phase), Some(phase));
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_somebody_elses_is_not_taken() {
    let (server, cluster) = (Server::default(), cluster());
    server.stored().put(AUTHORITY, json!({"metadata": {"name": "fleet-authority"}}));
    let mut operator = Operator::start(&server);
    let identity = operator.decide(&cluster).await;
    assert_eq!((operator.reasons(), server.writes()), (vec!["AuthorityUnavailable"], 0));
    assert!(identity.trust.is_empty() && operator.cache.identity.security().tls().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_refuses_is_reported_and_not_asked_for_without_pause() {
    let (server, cluster) = (Server::default(), cluster());
    server.stored().forbids_secrets = true;
    let mut operator = Operator::start(&server);
    for _ in 0..3 {
        operator.prepare(&cluster).await;
        assert_eq!(operator.reasons(), ["AuthorityUnavailable"]);
    }
    let asked = server.stored().calls.iter().filter(|call| call.contains("/secrets/")).count();
    assert_eq!(asked, 1);
    server.stored().forbids_secrets = false;
    tokio::time::advance(Duration::from_secs(2)).await;
    operator.prepare(&cluster).await;
    assert!(operator.reasons().is_empty());
}

#[tokio::test(start_paused = true)]
async fn pools_have_join_secrets_where_the_issuer_is_not_shown_and_lose_them_with_the_need() {
    let (server, mut cluster) = (Server::default(), cluster());
    server.stored().hides_issuer = true;
    let mut operator = Operator::start(&server);
    assert_eq!(operator.decide(&cluster).await.proof, Proof::JoinSecret);
    let all = ["fleet-authority", "fleet-data-join", "fleet-web-join"].map(str::to_owned);
    assert_eq!(server.names(), BTreeSet::from(all));
    let (_, reason, message) = operator.cache.identity.report().condition(&cluster);
    assert_eq!(reason, "NoTokenIssuer");
    assert!(message.contains("join secrets of their pools"), "{message}");
    let digests = |operator: &Operator| operator.cache.identity.joins["data"].0.digests();
    let first = digests(&operator);
    let mut next = Operator::start(&server);
    next.decide(&cluster).await;
    assert_eq!(digests(&next), first, "the next operator reads them");
    cluster.annotations_mut().insert(names::ANNOTATION_ROTATE.into(), "now".into());
    next.decide(&cluster).await;
    assert!(digests(&next).iter().all(|digest| !first.contains(digest)), "the one before is refused at once");
    cluster.spec.pools.pop();
    next.decide(&cluster).await;
    assert!(!server.names().contains("fleet-web-join"), "{:?}", server.names());
    server.stored().hides_issuer = false;
    tokio::time::advance(issuers::READ_EVERY).await;
    assert_eq!(next.decide(&cluster).await.proof, Proof::Token);
    assert_eq!(server.names(), BTreeSet::from(["fleet-authority".to_owned()]), "no pod has one any more");
}

#[tokio::test(start_paused = true)]
async fn an_authority_of_the_users_is_waited_for_and_copied() {
    let (server, mut cluster) = (Server::default(), cluster());
    cluster.spec.identity.authority = Some(AuthorityReference { secret_name: "mine".into() });
    let mut operator = Operator::start(&server);
    operator.prepare(&cluster).await;
    assert_eq!((operator.reasons(), server.writes()), (vec!["AuthorityMissing"], 0));
    assert_eq!(operator.cache.identity.due(), Some(GIVEN_POLL), "nobody tells when it is there");
    let path = format!("{SECRETS}/mine");
    let put = |certificate: &str, key: &str| {
        let bytes = |text: &str| json!(ByteString(text.as_bytes().to_vec()));
        let data = json!({"tls.crt": bytes(certificate), "tls.key": bytes(key)});
        server.stored().put(&path, json!({"metadata": {"name": "mine"}, "data": data}));
    };
    put("none", "none");
    operator.prepare(&cluster).await;
    assert_eq!((operator.reasons(), server.writes()), (vec!["AuthorityUnreadable"], 0));
    let realm = Realm::new("robeing.local", "apps", "fleet").expect("a realm");
    let made = Authority::create(&realm, wall()).expect("an authority");
    put(made.certificate_pem(), made.key_pem());
    operator.prepare(&cluster).await;
    assert!(operator.reasons().is_empty() && operator.cache.identity.due().is_none());
    assert_eq!(operator.authority(), &Pair::of(&made));
    // A fleet that has an authority keeps it when the user's is gone.
    server.stored().objects.remove(&path);
    let mut next = Operator::start(&server);
    next.prepare(&cluster).await;
    assert_eq!((next.authority(), next.reasons()), (&Pair::of(&made), vec!["AuthorityMissing"]));
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_recorded_before_anything_depends_on_it_and_needs_a_leader_to_go_on() {
    let (server, mut cluster) = (Server::default(), cluster());
    let mut operator = Operator::start(&server);
    operator.prepare(&cluster).await;
    let first = operator.authority().clone();
    cluster.annotations_mut().insert(names::ANNOTATION_ROTATE.into(), "now".into());
    let observation = observation(&cluster);
    for _ in 0..3 {
        operator.prepare(&cluster).await;
        let advanced = advance(&observation, &operator.context, &mut operator.cache).await;
        advanced.unwrap_or_else(|error| panic!("{error}"));
    }
    let state = operator.cache.identity.state().expect("an authority").clone();
    assert_eq!((&state.issuing, state.phase, state.trust.len()), (&first, Phase::Adding { since: None }, 2));
    let mut next = Operator::start(&server);
    next.prepare(&cluster).await;
    assert_eq!(next.cache.identity.state(), Some(&state));
    // Somebody else has written the Secret meanwhile: nothing is overwritten, and it is read again.
    let secret = server.stored().objects[AUTHORITY].clone();
    server.stored().put(AUTHORITY, secret);
    cluster.spec.identity.authority = None;
    let (known, version) = next.cache.identity.authority.clone().expect("an authority");
    let stored = store(secrets(&cluster, &next.context), &mut next.cache.identity, known, version).await;
    assert!(matches!(stored, Ok(false)) && next.cache.identity.state().is_none());
    next.prepare(&cluster).await;
    assert_eq!(next.cache.identity.state(), Some(&state));
}

/// A coordinator without TLS that keeps what it is told.
#[derive(Clone)]
struct Coordinator {
    told: Arc<Mutex<Vec<v1::SetTrustRequest>>>,
    knows_no_tls: bool,
}

/// Implements the service of administrators, of which these calls are refused.
macro_rules! admin_but {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl v1::admin_server::Admin for Coordinator {
            async fn set_trust(
                &self,
                request: tonic::Request<v1::SetTrustRequest>,
            ) -> Result<tonic::Response<v1::SetTrustResponse>, tonic::Status> {
                if self.knows_no_tls {
                    return Err(tonic::Status::unimplemented("an earlier version"));
                }
                self.told.lock().expect("no test panics while it holds this").push(request.into_inner());
                Ok(tonic::Response::new(v1::SetTrustResponse::default()))
            }

            $(async fn $name(
                &self,
                _: tonic::Request<v1::$request>,
            ) -> Result<tonic::Response<v1::$response>, tonic::Status> {
                Err(tonic::Status::unimplemented("not here"))
            })*
        }
    };
}

admin_but! {
    set_pools(SetPoolsRequest) -> SetPoolsResponse;
    add_coordinator(AddCoordinatorRequest) -> AddCoordinatorResponse;
    remove_coordinator(RemoveCoordinatorRequest) -> RemoveCoordinatorResponse;
    transfer_leadership(TransferLeadershipRequest) -> TransferLeadershipResponse;
    set_policies(SetPoliciesRequest) -> SetPoliciesResponse; get_policies(GetPoliciesRequest) -> Policies;
    set_task_kinds(SetTaskKindsRequest) -> SetTaskKindsResponse; get_task_kinds(GetTaskKindsRequest) -> TaskKinds;
    create_join_token(CreateJoinTokenRequest) -> CreateJoinTokenResponse;
    certify_client(CertifyClientRequest) -> CertifyClientResponse;
    bar_agent(BarAgentRequest) -> BarAgentResponse; release_agent(ReleaseAgentRequest) -> ReleaseAgentResponse;
    flag_agent(FlagAgentRequest) -> FlagAgentResponse;
    list_activity(ListActivityRequest) -> ListActivityResponse;
    list_audit_records(ListAuditRecordsRequest) -> ListAuditRecordsResponse;
}

/// Starts a coordinator, and returns its address and what it is told.
async fn coordinator(knows_no_tls: bool) -> (String, Arc<Mutex<Vec<v1::SetTrustRequest>>>) {
    let coordinator = Coordinator { told: Arc::default(), knows_no_tls };
    let told = Arc::clone(&coordinator.told);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let incoming = futures::stream::unfold(listener, |listener| async move {
        let stream = listener.accept().await.map(|(stream, _)| stream);
        Some((stream, listener))
    });
    let admin = v1::admin_server::AdminServer::new(coordinator);
    tokio::spawn(tonic::transport::Server::builder().add_service(admin).serve_with_incoming(incoming));
    (address, told)
}

/// Returns what is observed of a fleet whose time is this, Unix milliseconds.
fn led(cluster: &RobeingCluster, address: &str, now: u64) -> Observation {
    let mut status = v1::FleetStatus { cluster_id: "fleet".into(), leader: "one".into(), ..v1::FleetStatus::default() };
    status.now.get_or_insert_default().seconds = i64::try_from(now / 1_000).expect("a time");
    let fleet = Ok(coordinators::Answer { status, from: address.to_owned(), ..coordinators::Answer::default() });
    Observation { fleet, ..observation(cluster) }
}

/// Reconciles once, with an operator that has just started, and returns the reasons of its events.
async fn round(server: &Server, observation: &Observation) -> Vec<&'static str> {
    let mut operator = Operator::start(server);
    let (context, cache) = (&operator.context, &mut operator.cache);
    prepare(&observation.cluster, context, cache, true).await.unwrap_or_else(|error| panic!("{error}"));
    let identity = decide(observation, context, cache).await;
    server.stored().put(TRUST, trust_config("u", &identity.trust));
    advance(observation, context, cache).await.unwrap_or_else(|error| panic!("{error}"));
    cache.identity.report().events.iter().map(|(reason, _)| *reason).collect()
}

#[tokio::test]
async fn a_rotation_comes_to_its_end_though_the_operator_restarts_before_each_step() {
    let ((address, told), server, mut cluster) = (coordinator(false).await, Server::default(), cluster());
    cluster.annotations_mut().insert(names::ANNOTATION_ROTATE.into(), "first".into());
    let overlap = u64::try_from(crate::controller::AUTHORITY_OVERLAP.as_millis()).expect("milliseconds");
    let mut now = wall();
    assert_eq!(
        round(&server, &led(&cluster, &address, now)).await,
        Vec::<&str>::new(),
        "it was asked before it was made"
    );
    cluster.annotations_mut().insert(names::ANNOTATION_ROTATE.into(), "second".into());
    let mut events = Vec::new();
    for _ in 0..8 {
        events.extend(round(&server, &led(&cluster, &address, now)).await);
        now += overlap / 2;
    }
    assert_eq!(events, ["AuthorityRotationStarted", "AuthoritySwitched", "AuthorityRotationCompleted"]);
    let told = told.lock().expect("no test panics while it holds this");
    let trusted: Vec<usize> = told.iter().map(|told| authority::certificates(&told.trust_bundle).len()).collect();
    assert!(trusted.windows(2).all(|two| two[0].abs_diff(two[1]) <= 1) && trusted.contains(&2), "{trusted:?}");
    let (first, last) = (&told[0].trust_bundle, &told[told.len() - 1].trust_bundle);
    assert_ne!(first, last, "the old one is trusted no more");
    assert_eq!(told[0].issuers[0].issuer, "https://k");
}

#[tokio::test]
async fn coordinators_are_told_what_has_changed_and_nothing_twice() {
    let ((address, told), server, mut cluster) = (coordinator(false).await, Server::default(), cluster());
    let mut operator = Operator::start(&server);
    let (context, cache) = (&operator.context, &mut operator.cache);
    for pools in [2, 2, 1] {
        cluster.spec.pools.truncate(pools);
        let observation = led(&cluster, &address, wall());
        prepare(&cluster, context, cache, true).await.unwrap_or_else(|error| panic!("{error}"));
        advance(&observation, context, cache).await.unwrap_or_else(|error| panic!("{error}"));
    }
    let told = told.lock().expect("no test panics while it holds this");
    assert_eq!(told.iter().map(|told| told.pools.len()).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn coordinators_of_a_version_without_tls_are_no_failure_and_those_that_are_gone_are() {
    let ((address, _), server, cluster) = (coordinator(true).await, Server::default(), cluster());
    let mut operator = Operator::start(&server);
    let (context, cache) = (&operator.context, &mut operator.cache);
    prepare(&cluster, context, cache, true).await.unwrap_or_else(|error| panic!("{error}"));
    advance(&led(&cluster, &address, wall()), context, cache).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(cache.identity.report().declined, None);
    advance(&led(&cluster, "127.0.0.1:1", wall()), context, cache).await.unwrap_or_else(|error| panic!("{error}"));
    let declined = cache.identity.report().declined.clone().expect("nobody is there");
    assert!(declined.contains("SetTrust at 127.0.0.1:1"), "{declined}");
}
