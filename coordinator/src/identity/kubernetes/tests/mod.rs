pub mod api_server;

use std::{path::Path, time::Duration};

use futures::future::join_all;
use robeing_net::https::HttpsError;
use robeing_platform::{
    AtomicFile, Clock, Disk, FileSystem, LinuxHost, TcpNetwork,
    simulated::{MemoryNetwork, SeededRandom, SimulatedDisk},
};
use serde_json::json;
use tokio::time::sleep;

use self::api_server::{ApiServer, Mood};
use super::{
    cache::{ALLOWED_FOR, DENIED_FOR, USED_IN_OUTAGE_FOR},
    circuit::{FAILURES_TO_OPEN, MAX_PAUSE},
    config::CALL_TIMEOUT,
    credentials::CHECK_INTERVAL,
    flights::MAX_FLIGHTS,
    messages::MAX_USER_BYTES,
    *,
};

const HOST: &str = "10.96.0.1";
const DIR: &str = "/secrets";
/// Unix milliseconds.
const NOW: u64 = 1_790_000_000_000;

struct At(u64);

impl Clock for At {
    fn unix_millis(&self) -> u64 {
        self.0
    }
}

fn config(host: &str, port: u16, credentials: &Path) -> KubernetesConfig {
    KubernetesConfig {
        host: host.into(),
        port,
        credentials: credentials.to_owned(),
        namespace: "team".into(),
        cluster: "fleet".into(),
        call_timeout: CALL_TIMEOUT,
    }
}

/// A coordinator's client and its API server, in memory.
struct Fixture {
    server: ApiServer,
    kubernetes: Kubernetes,
    network: MemoryNetwork,
    disk: SimulatedDisk,
}

impl Fixture {
    /// An API server that answers, and a client with its credentials.
    async fn new() -> Self {
        let fixture = Self::without_credentials().await;
        fixture.set_token("first").await;
        fixture.server.known().own_token = "first".into();
        fixture.write("ca.crt", &fixture.server.authority).await;
        fixture
    }

    async fn without_credentials() -> Self {
        let (network, disk) = (MemoryNetwork::default(), SimulatedDisk::new(0));
        let (server, port) = ApiServer::start(&network, HOST, 443).await;
        disk.create_dir_all(Path::new(DIR)).await.unwrap();
        let platform = Platform {
            network: Arc::new(network.clone()),
            clock: Arc::new(At(NOW)),
            random: Arc::new(SeededRandom::new(0)),
            disk: Arc::new(disk.clone()),
            host: Arc::new(LinuxHost),
        };
        let kubernetes = Kubernetes::new(platform, config(HOST, port, Path::new(DIR)));
        Self { server, kubernetes, network, disk }
    }

    async fn write(&self, name: &str, content: &str) {
        let path = Path::new(DIR).join(name);
        let mut file = AtomicFile::open(Arc::new(self.disk.clone()), &path).await.unwrap();
        file.replace(content.to_owned().into()).await.unwrap();
    }

    async fn set_token(&self, token: &str) {
        self.write("token", &format!("{token}\n")).await;
    }

    fn set_mood(&self, mood: Mood) {
        self.server.known().mood = mood;
    }

    fn grant(&self, user: &str, subresource: &str) {
        self.server.known().granted.insert((user.into(), subresource.into()));
    }

    /// Returns the name of a token's user.
    async fn name(&self, token: &str) -> Result<String, KubernetesError> {
        match self.kubernetes.authenticate(token).await? {
            Decision::Allowed(user) => Ok(user.name.clone()),
            Decision::Denied(reason) => Ok(format!("nobody: {reason}")),
        }
    }

    async fn may(&self, user: &str, right: Right) -> Result<bool, KubernetesError> {
        let user = User { name: user.into(), ..User::default() };
        Ok(self.kubernetes.authorize(&user, right).await?.is_allowed())
    }
}

fn late() -> KubernetesError {
    HttpsError::Late { address: format!("{HOST}:443"), within: CALL_TIMEOUT }.into()
}

#[tokio::test(start_paused = true)]
async fn the_user_of_a_token_and_its_rights_are_asked_for_and_remembered_for_a_while() {
    let fixture = Fixture::new().await;
    fixture.grant("ann", "tasks");
    for _ in 0..2 {
        assert_eq!(fixture.name("good-ann").await.unwrap(), "ann");
        assert_eq!(fixture.name(" bad\n").await.unwrap(), "nobody: invalid bearer token");
        assert!(fixture.may("ann", Right::Submit).await.unwrap());
        assert!(!fixture.may("ann", Right::Admin).await.unwrap());
        assert!(!fixture.may("bob", Right::Submit).await.unwrap());
    }
    assert_eq!(fixture.server.asked(), 5);
    let (path, question) = fixture.server.known().asked[0].clone();
    assert_eq!(path, "/apis/authentication.k8s.io/v1/tokenreviews");
    assert_eq!(question["spec"], json!({"token": "good-ann", "audiences": ["robeing"]}));
    // What is allowed is asked for again later than what is denied.
    sleep(DENIED_FOR).await;
    fixture.grant("ann", "admin");
    assert!(fixture.may("ann", Right::Admin).await.unwrap());
    fixture.server.known().granted.clear();
    sleep(ALLOWED_FOR - DENIED_FOR).await;
    assert!(!fixture.may("ann", Right::Submit).await.unwrap());
    assert!(fixture.may("ann", Right::Admin).await.unwrap());
    assert_eq!(fixture.server.asked(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_can_be_none_or_has_expired_is_not_sent() {
    let fixture = Fixture::new().await;
    // {"alg":"ES256"}, and {"exp":1789999940}, {"exp":1789999941}: 60 and 59 s ago.
    let expired = "eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjE3ODk5OTk5NDB9.AA";
    let valid = "eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjE3ODk5OTk5NDF9.AA";
    assert!(fixture.name(expired).await.unwrap().contains("has expired"));
    assert!(fixture.name(" \n").await.unwrap().contains("1 to 16384 bytes"));
    let longest = format!("good-{}", "x".repeat(MAX_TOKEN_BYTES - 5));
    assert!(fixture.name(&format!("{longest}x")).await.unwrap().contains("1 to 16384 bytes"));
    assert_eq!(fixture.server.asked(), 0);
    assert_eq!(fixture.name(valid).await.unwrap(), "nobody: invalid bearer token");
    // The user's name is too long, but the token is not.
    assert_eq!(fixture.name(&longest).await.unwrap(), longest.strip_prefix("good-").unwrap());
    assert_eq!(fixture.server.asked(), 2);
    let user = User { name: "x".repeat(MAX_USER_BYTES + 1), ..User::default() };
    assert!(!fixture.kubernetes.authorize(&user, Right::Read).await.unwrap().is_allowed());
    assert_eq!(fixture.server.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_credentials_are_read_again_when_they_change() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.name("good-1").await.unwrap(), "1");
    // The API server no longer takes the old token: the new one is used at once.
    fixture.set_token("second").await;
    fixture.server.known().own_token = "second".into();
    assert_eq!(fixture.name("good-2").await.unwrap(), "2");
    assert_eq!(fixture.server.asked(), 3);
    // It still takes the old one: the new one is used soon.
    fixture.set_token("third").await;
    sleep(CHECK_INTERVAL).await;
    fixture.server.known().own_token = "third".into();
    assert_eq!(fixture.name("good-3").await.unwrap(), "3");
    assert_eq!(fixture.server.asked(), 4);
    // With files that can't be used, it stays as it was.
    fixture.set_token("").await;
    fixture.write("ca.crt", "").await;
    sleep(CHECK_INTERVAL).await;
    assert_eq!(fixture.name("good-4").await.unwrap(), "4");
    fixture.disk.wipe();
    sleep(CHECK_INTERVAL).await;
    assert_eq!(fixture.name("good-5").await.unwrap(), "5");
    // An API server with another authority.
    fixture.disk.create_dir_all(Path::new(DIR)).await.unwrap();
    fixture.set_token("fourth").await;
    let stranger = Fixture::without_credentials().await;
    fixture.write("ca.crt", &stranger.server.authority).await;
    sleep(CHECK_INTERVAL).await;
    let refused = fixture.name("good-6").await.unwrap_err();
    assert!(refused.to_string().contains("invalid peer certificate"), "{refused}");
    fixture.write("ca.crt", &format!("{}{}", stranger.server.authority, fixture.server.authority)).await;
    fixture.server.known().own_token = "fourth".into();
    sleep(CHECK_INTERVAL).await;
    assert_eq!(fixture.name("good-6").await.unwrap(), "6");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_can_not_be_used_are_named() {
    let fixture = Fixture::without_credentials().await;
    let problem = |error: KubernetesError| match error {
        KubernetesError::Credentials { path, problem } => (path.display().to_string(), problem),
        other => panic!("{other}"),
    };
    let token = "/secrets/token".to_owned();
    assert_eq!(problem(fixture.name("good-1").await.unwrap_err()).0, token);
    sleep(MAX_PAUSE).await;
    fixture.set_token("a\u{1}b").await;
    for _ in 0..2 {
        let expected = (token.clone(), "there is no token in it".to_owned());
        assert_eq!(problem(fixture.name("good-1").await.unwrap_err()), expected);
        sleep(MAX_PAUSE).await;
    }
    fixture.set_token("first").await;
    fixture.write("ca.crt", "no certificate").await;
    let (path, said) = problem(fixture.name("good-1").await.unwrap_err());
    assert_eq!(path, "/secrets/ca.crt");
    assert!(said.contains("there are none"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_the_last_decision_is_used_for_five_minutes_and_then_none() {
    let fixture = Fixture::new().await;
    fixture.grant("ann", "tasks");
    assert_eq!(fixture.name("good-ann").await.unwrap(), "ann");
    assert!(fixture.may("ann", Right::Submit).await.unwrap());
    assert!(!fixture.may("ann", Right::Admin).await.unwrap());
    let decided = Instant::now();
    fixture.set_mood(Mood::Silent);
    assert_eq!(fixture.name("good-bob").await, Err(late()));
    while decided.elapsed() < USED_IN_OUTAGE_FOR - 2 * CALL_TIMEOUT {
        assert_eq!(fixture.name("good-ann").await.unwrap(), "ann");
        assert!(fixture.may("ann", Right::Submit).await.unwrap());
        assert!(!fixture.may("ann", Right::Admin).await.unwrap());
        sleep(Duration::from_secs(1)).await;
    }
    sleep(2 * CALL_TIMEOUT).await;
    let refused = fixture.may("ann", Right::Submit).await;
    assert_eq!(refused, Err(late()));
    assert!(refused.unwrap_err().to_string().starts_with("the API server of Kubernetes can't be asked: "));
    assert_eq!(fixture.name("good-ann").await, Err(late()));
    // It answers again.
    fixture.set_mood(Mood::Well);
    sleep(MAX_PAUSE).await;
    assert_eq!(fixture.name("good-ann").await.unwrap(), "ann");
    assert!(fixture.may("ann", Right::Submit).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_asked_now_and_then() {
    let fixture = Fixture::new().await;
    fixture.network.black_hole(format!("{HOST}:443").parse().unwrap());
    let began = Instant::now();
    let mut waited = 0;
    for n in 0..1_000 {
        let asked = Instant::now();
        assert!(matches!(fixture.name(&format!("good-{n}")).await, Err(KubernetesError::Unreachable(_))));
        waited += u32::from(asked.elapsed() > Duration::ZERO);
        sleep(Duration::from_millis(100)).await;
    }
    // Three at first, and then one after each pause.
    let trials = began.elapsed().as_secs() / MAX_PAUSE.as_secs();
    assert!(waited >= 6 && u64::from(waited) <= trials + 6, "{waited} questions in {:?}", began.elapsed());
    fixture.network.fill_black_hole(format!("{HOST}:443").parse().unwrap());
    sleep(MAX_PAUSE).await;
    assert_eq!(fixture.name("good-ann").await.unwrap(), "ann");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_none_is_an_outage_and_a_refusal_is_not() {
    let too_large = HttpsError::TooLarge { address: format!("{HOST}:443"), limit: MAX_BODY_BYTES };
    let body = |text: &str| Mood::Body(text.to_owned().into());
    let access = |status| KubernetesError::NotGranted { about: TOKEN_REVIEWS, status };
    let refused = |status| KubernetesError::Refused { about: TOKEN_REVIEWS, status };
    let unreadable = |problem: &str| KubernetesError::Answer { about: TOKEN_REVIEWS, problem: problem.into() };
    for (mood, expected, is_outage) in [
        (Mood::Status(500), KubernetesError::Failing(StatusCode::INTERNAL_SERVER_ERROR), true),
        (Mood::Status(503), KubernetesError::Failing(StatusCode::SERVICE_UNAVAILABLE), true),
        (Mood::Status(429), KubernetesError::Failing(StatusCode::TOO_MANY_REQUESTS), true),
        (Mood::Body(vec![b' '; MAX_BODY_BYTES + 1].into()), too_large.into(), true),
        (body("<html>"), unreadable("it is no such answer (line 1, column 1)"), true),
        (body("{\"status\": 1}"), unreadable("it is no such answer (line 1, column 12)"), true),
        (Mood::Status(401), access(StatusCode::UNAUTHORIZED), false),
        (Mood::Status(403), access(StatusCode::FORBIDDEN), false),
        (Mood::Status(404), refused(StatusCode::NOT_FOUND), false),
        (Mood::Status(422), refused(StatusCode::UNPROCESSABLE_ENTITY), false),
        (Mood::Status(302), refused(StatusCode::FOUND), false),
    ] {
        let fixture = Fixture::new().await;
        assert_eq!(fixture.name("good-ann").await.unwrap(), "ann");
        sleep(ALLOWED_FOR).await;
        fixture.set_mood(mood);
        assert_eq!(fixture.name("good-secret").await, Err(expected.clone()));
        assert!(!expected.to_string().contains("secret"), "{expected}");
        let known = fixture.name("good-ann").await;
        assert_eq!(known, if is_outage { Ok("ann".into()) } else { Err(expected) });
    }
    let fixture = Fixture::new().await;
    let mut largest = json!({"status": {"authenticated": false}}).to_string();
    largest.push_str(&" ".repeat(MAX_BODY_BYTES - largest.len()));
    fixture.set_mood(body(&largest));
    assert_eq!(fixture.name("good-ann").await.unwrap(), "nobody: the API server does not know the token");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_granted_for_one_kind_of_question_is_no_matter_for_the_other() {
    let fixture = Fixture::new().await;
    fixture.grant("ann", "tasks");
    fixture.set_mood(Mood::Status(403));
    for n in 0..100 {
        assert!(matches!(fixture.name(&format!("good-{n}")).await, Err(KubernetesError::NotGranted { .. })));
    }
    assert_eq!(fixture.server.asked(), FAILURES_TO_OPEN as usize);
    fixture.set_mood(Mood::Well);
    assert!(fixture.may("ann", Right::Read).await.unwrap());
    // A question that is refused keeps no other from being asked.
    fixture.set_mood(Mood::Status(422));
    for n in 0..10 {
        assert!(matches!(fixture.may(&format!("user-{n}"), Right::Read).await, Err(KubernetesError::Refused { .. })));
    }
    fixture.set_mood(Mood::Well);
    assert!(!fixture.may("bob", Right::Read).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn questions_at_one_time_are_bounded_and_each_is_asked_once() {
    let fixture = Fixture::new().await;
    fixture.set_mood(Mood::Slowly(Duration::from_millis(100)));
    let names: Vec<String> = (0..4 * MAX_CALLS).map(|n| format!("good-{n}")).collect();
    let all = join_all(names.iter().chain(&names).chain(&names).map(|name| fixture.name(name))).await;
    for (name, said) in names.iter().chain(&names).chain(&names).zip(all) {
        assert_eq!(said.unwrap(), name["good-".len()..]);
    }
    assert_eq!((fixture.server.asked(), fixture.server.most_at_once()), (names.len(), MAX_CALLS));

    fixture.set_mood(Mood::Silent);
    let names: Vec<String> = (0..=MAX_FLIGHTS).map(|n| format!("good-more-{n}")).collect();
    let all = join_all(names.iter().map(|name| fixture.name(name))).await;
    assert_eq!(all[MAX_FLIGHTS], Err(KubernetesError::Overloaded));
    assert!(all[..MAX_CALLS].iter().all(|said| *said == Err(late())));
    assert_eq!(all[MAX_CALLS], Err(KubernetesError::NoTurn(CALL_TIMEOUT)));
    assert_eq!(fixture.server.most_at_once(), MAX_CALLS);
}

#[tokio::test(start_paused = true)]
async fn a_question_whose_asker_is_gone_harms_no_other() {
    let fixture = Fixture::new().await;
    fixture.set_mood(Mood::Silent);
    for n in 0..3 * MAX_CALLS {
        let (client, token) = (fixture.kubernetes.clone(), format!("good-{n}"));
        let asked = tokio::time::timeout(Duration::from_millis(10), client.authenticate(&token)).await;
        assert!(asked.is_err(), "it waits");
    }
    fixture.set_mood(Mood::Well);
    assert_eq!(fixture.name("good-0").await.unwrap(), "0");
}

#[tokio::test]
async fn over_real_connections_with_real_files_it_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (server, port) = ApiServer::start(&TcpNetwork, "127.0.0.1", 0).await;
    server.known().own_token = "own".into();
    server.known().granted.insert(("ann".into(), "tasks".into()));
    std::fs::write(dir.path().join("token"), "own\n").unwrap();
    std::fs::write(dir.path().join("ca.crt"), &server.authority).unwrap();
    let platform = Platform { disk: Arc::new(FileSystem), ..Platform::real() };
    let mut config = config("127.0.0.1", port, dir.path());
    // Nothing here waits for it.
    config.call_timeout = Duration::from_secs(60);
    let kubernetes = Kubernetes::new(platform, config);
    let Decision::Allowed(user) = kubernetes.authenticate("good-ann").await.unwrap() else { panic!("it is good") };
    assert!(kubernetes.authorize(&user, Right::Read).await.unwrap().is_allowed());
    assert!(!kubernetes.authorize(&user, Right::Vote).await.unwrap().is_allowed());
}
