//! Tests of the client with a stub of a fleet.

use std::time::{SystemTime, UNIX_EPOCH};

use robeing_identity::{
    Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, TrustBundle, certificate_pem,
};
use robeing_net::{
    Transport,
    security::{Credentials, Tls, TrustClock},
};
use robeing_platform::Platform;
use robeing_proto::v1::{
    BarAgentRequest, CreateJoinTokenRequest, LogPosition, ReleaseAgentRequest, SendMessageRequest, SubmitRequest,
    TaskLogsRequest, TaskSpec, WatchTasksRequest, fleet_server::FleetServer,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Code;

use super::{
    coordinators::{Audit, CoordinatorClient},
    stub::{AUDIT_RECORDS, Manners, stub},
    *,
};

/// A port that nothing listens on.
async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    listener.local_addr().expect("it is bound").to_string()
}

fn specs(count: usize) -> Vec<TaskSpec> {
    (0..count).map(|_| TaskSpec { kind: "k".into(), ..Default::default() }).collect()
}

/// Submits and checks that each event of every task is reported exactly once.
async fn submit(client: &FleetClient, count: usize, options: SubmitOptions) -> Vec<String> {
    let (mut submitted, mut finished) = (vec![0; count], vec![0; count]);
    let mut ids = Vec::new();
    let wait = options.wait;
    client
        .submit_many(specs(count), options, |event| match event {
            SubmitEvent::Submitted { index, result } => {
                assert_eq!(result.refusal, None, "task {index} was refused");
                submitted[index] += 1;
                ids.push(result.task_id);
            }
            SubmitEvent::Finished { index, .. } => finished[index] += 1,
            SubmitEvent::Expired { index, .. } => panic!("task {index} did not expire"),
            SubmitEvent::NotTaken { index } => panic!("task {index} was not taken"),
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(submitted, vec![1; count], "each task is reported once as accepted");
    assert_eq!(finished, vec![usize::from(wait); count], "each task is reported once as finished");
    ids
}

#[tokio::test]
async fn a_fleet_that_is_not_there_is_told_in_one_sentence() {
    let port = closed_port().await;
    let client = FleetClient::new(&[&port, &port], Settings::default()).expect("the endpoints are good");
    let error = client.status(Consistency::Local).await.expect_err("nothing listens").to_string();
    assert_eq!(error, format!("no fleet answers at http://{port}, http://{port} (connection refused)"));
}

#[tokio::test]
async fn a_live_endpoint_is_found_among_dead_ones() {
    let mut running = stub(&[Manners::default()]).await;
    running.endpoints.insert(0, closed_port().await);
    let status = running.client().status(Consistency::Local).await.expect("one endpoint lives");
    assert_eq!(status.cluster_id, "stub");
}

#[tokio::test]
async fn a_call_is_repeated_while_there_is_no_leader() {
    let running = stub(&[Manners { unavailable: 3, ..Default::default() }]).await;
    running.client().status(Consistency::Linearizable).await.expect("the fourth try succeeds");
    assert_eq!(running.stub.shared().calls, 4);
}

#[tokio::test]
async fn an_endpoint_that_dies_is_replaced() {
    let running = stub(&[Manners::default(), Manners::default()]).await;
    let client = running.client();
    client.status(Consistency::Local).await.expect("both live");
    running.servers[client.current()].abort();
    client.status(Consistency::Local).await.expect("one still lives");
}

#[tokio::test]
async fn a_silent_endpoint_is_left_for_another() {
    let running = stub(&[Manners { silent: true, ..Default::default() }, Manners::default()]).await;
    let client = running.client();
    client.contact().await.expect("both take connections");
    client.inner.current.store(0, Ordering::Relaxed);
    client.status(Consistency::Local).await.expect("the other one answers");
}

#[tokio::test]
async fn a_fleet_without_a_leader_is_given_up_in_time() {
    let running = stub(&[Manners { unavailable: usize::MAX, ..Default::default() }]).await;
    let settings = Settings { request_timeout: Duration::from_millis(200), ..Settings::default() };
    let client = FleetClient::new(&running.endpoints, settings).expect("the endpoints are good");
    let error = client.status(Consistency::Linearizable).await.expect_err("it never answers");
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().ends_with("(no leader is known now)"), "{error}");
    let error = client.submit_many(specs(3), SubmitOptions::default(), |_| {}).await.expect_err("nor to submissions");
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_says_no_is_not_asked_for_again() {
    let running = stub(&[Manners::default(), Manners::default()]).await;
    let client = running.client();
    let error = client.get_task(GetTaskRequest { id: "x".into(), ..Default::default() }).await.expect_err("unknown");
    assert!(matches!(&error, ClientError::NotFound { message } if message == "there is no task x"), "{error:?}");
    let error = client.list_tasks(ListTasksRequest::default()).await.expect_err("refused");
    assert!(matches!(error, ClientError::Refused { code: Code::InvalidArgument, .. }), "{error:?}");
    assert_eq!(running.stub.shared().calls, 2);
}

#[tokio::test]
async fn more_tasks_than_one_watch_takes_are_awaited() {
    let breaking = Manners { break_after: Some(1_500), ..Default::default() };
    let running = stub(&[breaking]).await;
    submit(&running.client(), 2_000, SubmitOptions { window: 2_000, wait: true, ..Default::default() }).await;
    let mut watched: Vec<_> = running.stub.shared().watches.iter().map(|request| request.ids.len()).collect();
    watched.sort_unstable();
    assert_eq!(watched, [500, 1_000]);
}

#[tokio::test]
async fn tasks_are_submitted_once_over_a_stream_that_breaks() {
    for wait in [false, true] {
        let breaking = Manners { break_after: Some(100), ..Default::default() };
        let running = stub(&[breaking.clone(), breaking]).await;
        let ids = submit(&running.client(), 1_000, SubmitOptions { wait, ..Default::default() }).await;
        let shared = running.stub.shared();
        assert_eq!(shared.accepted.len(), 1_000, "each task has an id of its own");
        assert!(ids.iter().all(|id| shared.accepted.get(id) == Some(&1)), "each task was accepted once");
        assert_eq!(shared.watches.is_empty(), !wait, "only results that are waited for are watched");
    }
}

#[tokio::test]
async fn a_task_that_could_not_be_taken_at_the_time_is_sent_again() {
    let running = stub(&[Manners { refuse: 5, ..Default::default() }]).await;
    submit(&running.client(), 20, SubmitOptions { wait: true, ..Default::default() }).await;
    assert_eq!(running.stub.shared().accepted.len(), 20);
}

#[tokio::test]
async fn no_more_tasks_are_under_way_than_the_window_allows() {
    let running = stub(&[Manners { hold: 10, ..Default::default() }]).await;
    let options = SubmitOptions { window: 10, ..Default::default() };
    submit(&running.client(), 100, options).await;
    assert_eq!(running.stub.shared().most_unanswered, 10);
    let options = SubmitOptions { unfinished: 10, wait: true, ..Default::default() };
    submit(&running.client(), 100, options).await;
    assert_eq!(running.stub.shared().most_unanswered, 10);
}

#[tokio::test]
async fn a_result_that_expired_during_an_outage_is_told() {
    let breaking = Manners { break_after: Some(1), ..Default::default() };
    let running = stub(&[breaking]).await;
    let tasks = ["gone", "b"].map(|id| TaskSpec { id: id.into(), ..Default::default() });
    let mut events = Vec::new();
    let options = SubmitOptions { wait: true, ..Default::default() };
    running.client().submit_many(tasks, options, |event| events.push(event)).await.expect("it recovers");
    assert!(events.contains(&SubmitEvent::Expired { index: 0, task_id: "gone".into() }), "{events:?}");
    let is_finished = |event: &SubmitEvent| matches!(event, SubmitEvent::Finished { index: 1, .. });
    assert!(events.iter().any(is_finished), "{events:?}");
}

/// Passes connections on to an endpoint, and drops those that are open when it is notified.
async fn relay(endpoint: String, cut: Arc<Notify>) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let relaying = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (endpoint, cut) = (endpoint.clone(), Arc::clone(&cut));
            tokio::spawn(async move {
                let mut far = TcpStream::connect(endpoint).await.expect("the stub listens");
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = cut.notified() => {}
                }
            });
        }
    });
    (address, AbortOnDropHandle::new(relaying))
}

/// Waits for a task of which nothing is heard for longer than this time limit of a call. Then the connections break,
/// and new ones are taken if the fleet `returns`.
async fn wait_beyond(request_timeout: Duration, returns: bool) -> Result<(), ClientError> {
    // Nothing finishes on its streams.
    let running = stub(&[Manners { break_after: Some(usize::MAX), ..Default::default() }]).await;
    let cut = Arc::new(Notify::new());
    let (endpoint, mut relaying) = relay(running.endpoints[0].clone(), Arc::clone(&cut)).await;
    let settings = Settings { request_timeout, ..Settings::default() };
    let client = FleetClient::new(&[endpoint], settings).expect("the endpoint is good");
    let accepted = Notify::new();
    let options = SubmitOptions { wait: true, ..Default::default() };
    let submitting = client.submit_many(specs(1), options, |event| {
        if matches!(event, SubmitEvent::Submitted { .. }) {
            accepted.notify_one();
        }
    });
    let breaking = async {
        accepted.notified().await;
        tokio::time::pause();
        tokio::time::advance(request_timeout + Duration::from_secs(1)).await;
        tokio::time::resume();
        if !returns {
            relaying.abort();
            let _ = (&mut relaying).await;
        }
        cut.notify_waiters();
    };
    tokio::join!(submitting, breaking).0
}

#[tokio::test]
async fn a_wait_that_was_quiet_for_longer_than_a_call_may_take_outlives_its_connection() {
    wait_beyond(REQUEST_TIMEOUT, true).await.expect("the fleet answers again");
}

#[tokio::test]
async fn a_wait_is_given_up_if_the_fleet_does_not_return() {
    let error = wait_beyond(Duration::from_millis(500), false).await.expect_err("nothing listens");
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_caller_without_the_right_to_submit_is_told_that_no_task_was_taken() {
    let submitted = async |manners: &[Manners]| {
        let running = stub(manners).await;
        let client = running.client();
        let mut events = Vec::new();
        let submitting = client.submit_many(specs(2), SubmitOptions::default(), |event| events.push(event));
        let error = submitting.await.expect_err("it has no right");
        assert!(matches!(error, ClientError::Refused { code: Code::PermissionDenied, .. }), "{error:?}");
        events
    };
    let forbidding = Manners { forbids: true, ..Default::default() };
    let none = [0, 1].map(|index| SubmitEvent::NotTaken { index });
    assert_eq!(submitted(std::slice::from_ref(&forbidding)).await, none);
    let unavailable = Manners { unavailable: 1, ..forbidding };
    assert!(submitted(&[unavailable]).await.is_empty(), "the first try may have been accepted");
}

#[tokio::test]
async fn a_watch_goes_on_from_its_last_revision() {
    let ending = Manners { end_watches: true, ..Default::default() };
    let running = stub(&[ending.clone(), ending]).await;
    let mut watch = running.client().watch_tasks(WatchTasksRequest { from_revision: 3, ..Default::default() });
    for revision in [10, 17, 24] {
        assert_eq!(watch.next().await.expect("it goes on").revision, revision);
    }
    let asked: Vec<_> = running.stub.shared().watches.iter().map(|request| request.from_revision).collect();
    assert_eq!(asked, [3, 10, 17]);
}

#[tokio::test]
async fn who_follows_a_task_goes_on_after_the_last_line() {
    let ending = Manners { end_watches: true, ..Default::default() };
    let running = stub(&[ending.clone(), ending]).await;
    let mut logs = running.client().task_logs(TaskLogsRequest { id: "t".into(), follow: true, ..Default::default() });
    for expected in ["0", "1", "2"] {
        let said = logs.next().await.expect("it goes on").expect("it has not ended");
        assert_eq!(said.lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), [expected]);
    }
    let asked: Vec<_> = running.stub.shared().logs.iter().map(|request| request.after.clone()).collect();
    let position = |next| vec![LogPosition { attempt: 1, agent: "a".into(), next }];
    assert_eq!(asked, [vec![], position(1), position(2)]);
}

#[tokio::test]
async fn who_follows_a_task_is_told_its_end() {
    let running = stub(&[Manners::default()]).await;
    let mut logs = running.client().task_logs(TaskLogsRequest { id: "t".into(), follow: true, ..Default::default() });
    assert!(!logs.next().await.expect("a line").expect("a line").finished);
    assert!(logs.next().await.expect("the end").expect("the end").finished);
    assert!(logs.next().await.expect("it has ended").is_none());
}

#[tokio::test]
async fn what_is_there_now_of_a_task_is_returned_once() {
    let running = stub(&[Manners::default()]).await;
    let mut logs = running.client().task_logs(TaskLogsRequest { id: "t".into(), ..Default::default() });
    assert!(logs.next().await.expect("a line").is_some());
    assert!(logs.next().await.expect("no more").is_none());
}

#[tokio::test]
async fn a_server_of_another_kind_is_told_as_such() {
    let running = stub(&[Manners::default()]).await;
    let client = running.client();
    let answer = client.call(|mut rpc| async move { rpc.submit(SubmitRequest::default()).await }).await;
    let error = answer.expect_err("the stub has no such call");
    assert!(matches!(&error, ClientError::NotAFleet { .. }), "{error:?}");
    assert!(error.to_string().contains("is not a Robeing coordinator"), "{error}");
}

#[tokio::test]
async fn garbage_is_told_as_such() {
    use tokio::io::AsyncWriteExt;
    for banner in
        ["SSH-2.0-OpenSSH_9.6 and more that is not HTTP\r\n", "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let endpoint = listener.local_addr().expect("it is bound").to_string();
        let server = tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let _ = connection.write_all(banner.as_bytes()).await;
                // Keeps the connection open until the client closes it.
                let _ = tokio::io::copy(&mut connection, &mut tokio::io::sink()).await;
            }
        });
        let client = FleetClient::new(&[endpoint], Settings::default()).expect("the endpoint is good");
        let error = client.status(Consistency::Local).await.expect_err("it is no fleet");
        assert!(matches!(&error, ClientError::NotAFleet { .. }), "{error:?}");
        server.abort();
    }
}

#[tokio::test]
async fn a_call_of_the_admin_service_is_repeated_at_another_endpoint() {
    let running = stub(&[Manners { unavailable: 2, ..Default::default() }, Manners::default()]).await;
    let client = running.client();
    client.bar_agent(BarAgentRequest { agent: "a".into(), ..Default::default() }).await.expect("one answers");
    let release = ReleaseAgentRequest { agent: "a".into() };
    assert!(client.release_agent(release.clone()).await.expect("one answers").released);
    assert!(!client.release_agent(release).await.expect("one answers").released);
    let error = client.create_join_token(CreateJoinTokenRequest::default()).await.expect_err("no right");
    assert!(matches!(error, ClientError::Refused { code: Code::PermissionDenied, .. }), "{error:?}");
}

/// The authority of a fleet, and what it certifies.
struct Certifying(Authority);

/// When the authorities' certificates begin to be valid, before now.
const AUTHORITY_AGE: Duration = Duration::from_secs(1_000 * 60 * 60);

impl Certifying {
    fn new() -> Self {
        Self(Authority::create(&Self::realm(), Self::ago(AUTHORITY_AGE)).expect("an authority"))
    }

    fn realm() -> Realm {
        Realm::new("robeing.local", "default", "tested").expect("a realm")
    }

    fn ago(span: Duration) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        (now - span).as_millis() as u64
    }

    fn certify(&self, role: PeerRole, name: &str, ago: Duration) -> (Vec<u8>, PrivateKey) {
        let key = PrivateKey::generate().expect("a key");
        let request = SigningRequest::from_der(&key.request().expect("a request")).expect("it is right");
        let id = Self::realm().member(role, name).expect("an id");
        let issued = self.0.issue(&request, &id, &[], Self::ago(ago), LEAF_LIFETIME).expect("a certificate");
        (issued.certificate.to_vec(), key)
    }

    /// Serves the stub of a fleet, as a member with this role.
    async fn serve(&self, role: PeerRole) -> (String, AbortOnDropHandle<()>) {
        let (certificate, key) = self.certify(role, "c-0", Duration::ZERO);
        let clock = Arc::new(TrustClock::new(Platform::real().clock));
        let bundle = TrustBundle::from_pem(self.0.certificate_pem()).expect("a bundle");
        let own = Some((certificate.into(), &key));
        let credentials = Credentials::new("tested", Some(bundle), own, &clock).expect("they are right");
        let (_, receiver) = tokio::sync::watch::channel(Arc::new(credentials));
        let transport = Transport::secured(Platform::real().network, Tls::new(receiver, false));
        let bound = transport.bind("127.0.0.1:0").await.expect("a port is free");
        let address = bound.local_addr().expect("it is bound").to_string();
        let service = FleetServer::new(stub(&[Manners::default()]).await.stub.clone());
        let serving = async move { bound.serve(tonic::service::Routes::new(service), CancellationToken::new()).await };
        let serving = tokio::spawn(async move { serving.await.expect("it serves") });
        (address, AbortOnDropHandle::new(serving))
    }

    /// Returns the settings of a client with a certificate that was issued some time ago, which trusts `trusted`.
    fn client(&self, ago: Duration, trusted: &Self) -> Settings {
        let (certificate, key) = self.certify(PeerRole::Client, "ada", ago);
        let certificate = certificate_pem(&certificate);
        let identity = ClientIdentity {
            cluster: "tested".into(),
            trust: trusted.0.certificate_pem().to_owned(),
            certificate: Some((certificate, key.to_pem())),
            token: None,
        };
        let security = Security::with_identity(&identity).expect("it is right").trusted_from("trust.crt");
        Settings { request_timeout: Duration::from_secs(20), security, ..Settings::default() }
    }
}

async fn status_at(endpoints: &[&String], settings: Settings) -> Result<FleetStatus, ClientError> {
    let client = FleetClient::new(endpoints, settings).expect("the endpoints are good");
    client.status(Consistency::Local).await
}

#[tokio::test]
async fn a_coordinator_of_strangers_is_left_for_another_and_told_if_there_is_none() {
    let (ours, theirs) = (Certifying::new(), Certifying::new());
    let (stranger, _serving) = theirs.serve(PeerRole::Coordinator).await;
    let (own, _serving_own) = ours.serve(PeerRole::Coordinator).await;
    let error = status_at(&[&stranger], ours.client(Duration::ZERO, &ours)).await.expect_err("it is a stranger's");
    assert_eq!(
        error.to_string(),
        format!(
            "the coordinator at http://{stranger} is not trusted: its certificate is not from an authority in trust.crt"
        )
    );
    status_at(&[&stranger, &own], ours.client(Duration::ZERO, &ours)).await.expect("the other one is trusted");
    let (worker, _serving_worker) = ours.serve(PeerRole::Worker).await;
    let error = status_at(&[&worker], ours.client(Duration::ZERO, &ours)).await.expect_err("it is no coordinator");
    assert!(matches!(&error, ClientError::Untrusted { .. }), "{error:?}");
    assert!(error.to_string().ends_with("not a coordinator of this fleet"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_the_fleet_does_not_accept_is_told_as_such() {
    let (ours, theirs) = (Certifying::new(), Certifying::new());
    let (address, _serving) = ours.serve(PeerRole::Coordinator).await;
    let expired = ours.client(Duration::from_secs(100 * 60 * 60), &ours);
    for (settings, problem) in
        [(theirs.client(Duration::ZERO, &ours), "not from an authority of this fleet"), (expired, "it has expired")]
    {
        let error = status_at(&[&address], settings).await.expect_err("it is refused");
        assert!(matches!(&error, ClientError::CertificateRefused { .. }), "{error:?}");
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[tokio::test]
async fn a_server_without_tls_cannot_prove_who_it_is() {
    let ours = Certifying::new();
    let running = stub(&[Manners::default()]).await;
    let error = status_at(&[&running.endpoints[0]], ours.client(Duration::ZERO, &ours)).await.expect_err("no TLS");
    assert!(matches!(&error, ClientError::NoTls { .. }), "{error:?}");
}

#[tokio::test]
async fn to_coordinators_that_tell_no_keys_a_message_is_sent_only_where_plaintext_is_accepted() {
    let message = || SendMessageRequest {
        id: new_message_id(),
        deadline: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..SendMessageRequest::default()
    };
    let send = async |endpoint: &String, settings| {
        let client = FleetClient::new(&[endpoint], settings).expect("the endpoint is good");
        client.send_sealed(message()).await.expect_err("the stub has no messages").to_string()
    };
    let running = stub(&[Manners::default()]).await;
    let plain = send(&running.endpoints[0], Settings::default()).await;
    assert!(plain.contains("no messages yet"), "it is sent: {plain}");
    let ours = Certifying::new();
    let (address, _serving) = ours.serve(PeerRole::Coordinator).await;
    let strict = send(&address, ours.client(Duration::ZERO, &ours)).await;
    assert!(strict.contains("which keys to seal") && strict.contains("upgrade them"), "{strict}");
}

#[tokio::test]
async fn how_far_the_audit_log_was_read_is_known_only_once_something_of_it_was() {
    let running = stub(&[Manners { unavailable: 1, ..Manners::default() }]).await;
    let (coordinators, address) = (CoordinatorClient::default(), &running.endpoints[0]);
    let read = async |after, newest| coordinators.audit(address, &Security::plain(), after, newest).await;
    assert_eq!(read(AUDIT_RECORDS - 5, AUDIT_RECORDS).await, Audit::default(), "the first call fails");
    let audit = read(AUDIT_RECORDS - 5, AUDIT_RECORDS).await;
    assert_eq!((audit.records.len(), audit.read), (5, Some(AUDIT_RECORDS)));
    assert_eq!(read(AUDIT_RECORDS, AUDIT_RECORDS).await, Audit::default(), "there is nothing new");
    assert_eq!(read(AUDIT_RECORDS, 0).await, Audit::default(), "the coordinator says no number");
}

#[test]
fn ids_sort_by_time() {
    let ids: Vec<_> = (0..100).map(|_| new_task_id()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
}
