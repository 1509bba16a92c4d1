//! Enrolment with service-account tokens whose keys the fleet does not know: the API server says who they are.

use std::{path::Path, sync::Arc, time::Duration};

use robeing_fleet::{Command, IdentityCommand, IdentityConfig, Places, PoolTrust, Reply, Role, known_version};
use robeing_identity::PeerRole;
use robeing_net::{
    ConnectInfo,
    gate::{Caller, Gate, Ongoing, TokenUser},
    security::TrustClock,
};
use robeing_platform::{AtomicFile, Disk, Platform, simulated::SimulatedDisk};
use robeing_proto::{
    internal::v1::{EnrolRequest, enrol_request::Proof, enrolment_server::Enrolment as EnrolmentRpc},
    v1,
};
use robeing_settings::Enrolment;
use robeing_telemetry::Metrics;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request};

use crate::{
    identity::{
        access::Access,
        client_rights::{ClientRights, TokenReviewer, USER_PREFIX},
        enrolment::EnrolmentService,
        fixture::{Hands, NOW, Signer, certifier, config, realm, trust},
        kubernetes::{
            ALLOWED_FOR, Kubernetes, KubernetesConfig, USED_IN_OUTAGE_FOR,
            tests::api_server::{ApiServer, Mood},
        },
        ongoing::{LOOK_EVERY, OngoingCalls},
        pace::Pace,
        refusals::Refusals,
        room::Room,
    },
    leader::{pressure::TRICKLE, shortages::Shortages},
    policies::CallerRights,
    tests::{access::connection, fleet::TestFleet, member::TestMember},
};

const HOST: &str = "10.96.0.1";
const DIR: &str = "/secrets";

/// A coordinator beside an API server.
struct Fixture {
    fleet: TestFleet,
    server: ApiServer,
    kubernetes: Kubernetes,
    clock: Arc<TrustClock>,
    leader: usize,
}

impl Fixture {
    async fn new() -> Self {
        let fleet = TestFleet::start();
        let leader = fleet.led().await;
        let in_force = |fleet: &TestFleet| fleet.tested(leader).state.look(|state| state.version()) == known_version();
        fleet.until("identities in force", in_force).await;
        let (server, port) = ApiServer::start(&fleet.network, HOST, 443).await;
        server.known().own_token = "own".into();
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new(9));
        disk.create_dir_all(Path::new(DIR)).await.unwrap();
        for (name, content) in [("token", "own"), ("ca.crt", &server.authority)] {
            let mut file = AtomicFile::open(Arc::clone(&disk), &Path::new(DIR).join(name)).await.unwrap();
            file.replace(content.to_owned().into()).await.unwrap();
        }
        let variable = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some(HOST.to_owned()),
            _ => Some(port.to_string()),
        };
        let config = KubernetesConfig::in_cluster(variable, Some(Path::new(DIR)), "team", "test").unwrap();
        let platform = Platform { network: Arc::new(fleet.network.clone()), disk, ..Platform::real() };
        let kubernetes = Kubernetes::new(platform, config);
        let clock = Arc::new(TrustClock::new(Arc::new(Hands::default())));
        clock.learn(NOW);
        Self { fleet, server, kubernetes, clock, leader }
    }

    fn service(&self, reviewer: TokenReviewer) -> EnrolmentService {
        let tested = self.fleet.tested(self.leader);
        EnrolmentService {
            member: tested.member,
            realm: realm(),
            trust: trust(Arc::new(certifier()), Enrolment::Proof).1,
            reviewer,
            clock: Arc::clone(&self.clock),
            state: tested.state,
            proposer: tested.proposer,
            refusals: Refusals::new(&Metrics::default()),
            room: Room::new(Places { most: 1, kept: 0 }),
            pace: Pace::default(),
            shortages: Shortages::default(),
        }
    }

    /// Lets the service accounts of the pool `data` be these.
    async fn configure(&self, account: &str, signer: Option<&Signer>) {
        let pool = PoolTrust {
            pool: "data".into(),
            role: Role::Worker,
            service_accounts: vec![account.into()],
            secrets: vec![],
        };
        let issuers = signer.map(|signer| signer.issuer("another key")).into_iter().collect();
        let config = IdentityConfig { pools: vec![pool], issuers, ..config() };
        let proposer = self.fleet.tested(self.leader).proposer;
        let reply = proposer.propose_one(Command::Identity(IdentityCommand::Configure(config))).await;
        assert_eq!(reply.expect("it leads"), Reply::Done);
    }
}

async fn enrol(service: &EnrolmentService, name: &str, token: &str) -> Code {
    let member = TestMember::newcomer();
    let request = member.request(name, Some(Proof::ServiceAccountToken(token.into())));
    answer(service, request, true).await
}

async fn answer(service: &EnrolmentService, request: EnrolRequest, encrypted: bool) -> Code {
    let mut request = Request::new(request);
    request.extensions_mut().insert(ConnectInfo { encrypted, ..ConnectInfo::default() });
    match service.enrol(request).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_says_of_a_token_proves_the_same_as_the_token() {
    let fixture = Fixture::new().await;
    fixture.configure("default/s", None).await;
    let service = fixture.service(TokenReviewer(Some(fixture.kubernetes.clone())));
    let account = "good-system:serviceaccount:default:s";
    assert_eq!(enrol(&service, "w-0", account).await, Code::Ok);
    assert_eq!(enrol(&service, "w-1", &format!("{account}@w-1")).await, Code::Ok);
    assert_eq!(enrol(&service, "w-2", &format!("{account}@w-1")).await, Code::PermissionDenied, "another pod");
    let other = "good-system:serviceaccount:default:t";
    assert_eq!(enrol(&service, "w-2", other).await, Code::PermissionDenied, "another account");
    assert_eq!(enrol(&service, "w-2", "good-ann").await, Code::PermissionDenied, "a person");
    assert_eq!(enrol(&service, "w-2", "bad").await, Code::Unauthenticated);
    // A token that names a key that the fleet doesn't know is asked about, too; one that is wrong is not.
    let signer = Signer::new();
    fixture.configure("default/s", Some(&signer)).await;
    let asked = fixture.server.asked();
    assert_eq!(enrol(&service, "w-2", &signer.token(NOW, None)).await, Code::Unauthenticated);
    assert_eq!(fixture.server.asked(), asked + 1);
    assert_eq!(enrol(&service, "w-2", "x.y.z").await, Code::Unauthenticated);
    assert_eq!(fixture.server.asked(), asked + 1);
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_of_the_api_server_nobody_is_let_in_and_may_try_again() {
    let fixture = Fixture::new().await;
    fixture.configure("default/s", None).await;
    let service = fixture.service(TokenReviewer(Some(fixture.kubernetes.clone())));
    let account = "good-system:serviceaccount:default:s";
    fixture.server.known().mood = Mood::Status(503);
    assert_eq!(enrol(&service, "w-0", account).await, Code::Unavailable);
    // This coordinator may not ask.
    fixture.server.known().mood = Mood::Status(403);
    assert_eq!(enrol(&service, "w-0", account).await, Code::Unauthenticated);
    let without = fixture.service(TokenReviewer::default());
    assert_eq!(enrol(&without, "w-0", account).await, Code::Unauthenticated);
    fixture.server.known().mood = Mood::Well;
    assert_eq!(enrol(&service, "w-0", account).await, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn nobody_enrols_without_encryption_beyond_the_limit_or_before_the_time_is_known() {
    let fixture = Fixture::new().await;
    fixture.configure("default/s", None).await;
    let service = fixture.service(TokenReviewer(Some(fixture.kubernetes.clone())));
    let request = TestMember::newcomer().request("w-0", Some(Proof::ServiceAccountToken("good-x".into())));
    assert_eq!(answer(&service, request.clone(), false).await, Code::FailedPrecondition);
    let held = service.room.take(Role::Guardian).expect("the only place");
    assert_eq!(answer(&service, request.clone(), true).await, Code::ResourceExhausted);
    drop(held);
    assert_eq!(answer(&service, request.clone(), true).await, Code::PermissionDenied);
    let early = EnrolmentService { clock: Arc::new(TrustClock::new(Arc::new(Hands::default()))), ..service };
    assert_eq!(answer(&early, request, true).await, Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn with_too_little_cpu_an_enrolment_waits_before_its_proof_is_checked_and_one_without_as_a_worker() {
    let fixture = Fixture::new().await;
    let service = fixture.service(TokenReviewer::default());
    for _ in 0..100 {
        service.shortages.cpu.observe(Duration::from_secs(5));
    }
    let enrol = async |role: v1::Role, has_proof: bool| {
        let wrong = has_proof.then(|| Proof::JoinSecret(vec![0; 32].into()));
        let request = TestMember::newcomer().request("w-0", wrong);
        answer(&service, EnrolRequest { role: role.into(), ..request }, true).await
    };
    for n in 0..TRICKLE {
        assert_eq!(enrol(v1::Role::Worker, true).await, Code::Unauthenticated, "{n}");
    }
    assert_eq!(enrol(v1::Role::Worker, true).await, Code::ResourceExhausted);
    for role in [v1::Role::Specialist, v1::Role::Guardian] {
        assert_eq!(enrol(role, false).await, Code::ResourceExhausted, "{role:?} is only a claim");
        assert_eq!(enrol(role, true).await, Code::Unauthenticated, "{role:?} has a proof, which is wrong");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_sees_the_rights_that_are_granted_to_a_group_of_the_callers_token() {
    let fixture = Fixture::new().await;
    fixture.server.known().granted.insert(("devs".into(), "tasks".into()));
    let trust = trust(Arc::new(certifier()), Enrolment::Proof).1;
    let rights = CallerRights(Some((ClientRights::Kubernetes(fixture.kubernetes.clone()), trust)));
    let state = fixture.fleet.tested(fixture.leader).state;
    let rights_with = async |groups: &[&str]| {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let ann = Caller::User(Arc::new(TokenUser { name: "ann".into(), groups, ..TokenUser::default() }));
        rights.asker(&ann, true, &state).await.expect("the API server answers").rights
    };
    assert_eq!(rights_with(&["all", "devs"]).await, ["submit", "read"]);
    assert_eq!(rights_with(&["all"]).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_an_outage_of_the_api_server_and_ends_when_that_denies_the_right() {
    let fixture = Fixture::new().await;
    let user = format!("{USER_PREFIX}ann");
    fixture.server.known().granted.insert((user, "tasks".into()));
    let access = Arc::new(Access {
        state: fixture.fleet.tested(fixture.leader).state,
        clock: Arc::clone(&fixture.clock),
        trust: trust(Arc::new(certifier()), Enrolment::Proof).1,
        rights: ClientRights::Kubernetes(fixture.kubernetes.clone()),
        reviewer: TokenReviewer::default(),
        trusts_plaintext: false,
        refusals: Refusals::new(&Metrics::default()),
        calls: OngoingCalls::default(),
    });
    let _following = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&access).follow_rights()));
    let (ann, method) = (connection(Some((PeerRole::Client, "ann"))), "/robeing.v1.Fleet/WatchTasks");
    let admitted = async || access.admit(method, &ann, &http::HeaderMap::new()).await;
    let caller = admitted().await.expect("she has the right");
    let watch: Ongoing = access.follow(method, &ann, &caller).expect("it is a stream");
    let asked = fixture.server.asked();
    sleep(ALLOWED_FOR - LOOK_EVERY).await;
    assert_eq!(fixture.server.asked(), asked, "what is remembered is not asked for again");
    fixture.server.known().mood = Mood::Status(503);
    sleep(USED_IN_OUTAGE_FOR).await;
    assert_eq!(admitted().await.map(drop).map_err(|status| status.code()), Err(Code::Unavailable));
    assert!(watch.ended().is_none(), "it goes on");
    fixture.server.known().mood = Mood::Well;
    sleep(ALLOWED_FOR).await;
    assert!(watch.ended().is_none() && admitted().await.is_ok());
    fixture.server.known().granted.clear();
    sleep(ALLOWED_FOR + 2 * LOOK_EVERY).await;
    assert_eq!(watch.ended().map(|status| status.code()), Some(Code::PermissionDenied));
}
