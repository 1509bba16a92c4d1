use std::{sync::Arc, time::Duration};

use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, TrustBundle};
use robeing_platform::{Clock, Platform};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::*;
use crate::{ConnectError, Transport, described_routes};

const NOW: u64 = 1_800_000_000_000;
const HOUR: u64 = 60 * 60 * 1_000;
/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine's clock that is wrong by some milliseconds.
struct Ahead(i64);

impl Clock for Ahead {
    fn unix_millis(&self) -> u64 {
        NOW.saturating_add_signed(self.0)
    }
}

fn realm(cluster: &str) -> Realm {
    Realm::new("robeing.local", "default", cluster).unwrap()
}

fn authority(cluster: &str) -> Authority {
    Authority::create(&realm(cluster), NOW - 1_000 * HOUR).unwrap()
}

fn bundle(authorities: &[&Authority]) -> TrustBundle {
    let pem: String = authorities.iter().map(|authority| authority.certificate_pem()).collect();
    TrustBundle::from_pem(&pem).unwrap()
}

/// A process of a fleet.
struct Process {
    sender: watch::Sender<Arc<Credentials>>,
    clock: Arc<TrustClock>,
    transport: Transport,
}

impl Process {
    fn new(cluster: &str, trusted: &[&Authority], own: Option<(&Authority, PeerRole, &str, u64)>, ahead: i64) -> Self {
        Self::made(cluster, trusted, own, ahead, false)
    }

    fn made(
        cluster: &str,
        trusted: &[&Authority],
        own: Option<(&Authority, PeerRole, &str, u64)>,
        ahead: i64,
        permissive: bool,
    ) -> Self {
        let clock = Arc::new(TrustClock::new(Arc::new(Ahead(ahead))));
        let (sender, receiver) = watch::channel(Arc::new(credentials(cluster, trusted, own, &clock)));
        let tls = Tls::new(receiver, permissive);
        let transport = Transport::secured(Arc::clone(&Platform::real().network), tls);
        Self { sender, clock, transport }
    }

    fn stats(&self) -> &TlsStats {
        self.transport.tls().unwrap().stats()
    }

    async fn serve(&self) -> (String, AbortOnDropHandle<()>) {
        let bound = self.transport.bind("127.0.0.1:0").await.unwrap();
        let address = bound.local_addr().unwrap().to_string();
        let routes = described_routes(&[]).unwrap();
        let serving = tokio::spawn(async move { bound.serve(routes, CancellationToken::new()).await.unwrap() });
        (address, AbortOnDropHandle::new(serving))
    }
}

fn credentials(
    cluster: &str,
    trusted: &[&Authority],
    own: Option<(&Authority, PeerRole, &str, u64)>,
    clock: &Arc<TrustClock>,
) -> Credentials {
    let bundle = (!trusted.is_empty()).then(|| bundle(trusted));
    let Some((authority, role, name, issued_at)) = own else {
        return Credentials::new(cluster, bundle, None, clock).unwrap();
    };
    let key = PrivateKey::generate().unwrap();
    let request = SigningRequest::from_der(&key.request().unwrap()).unwrap();
    let id = realm(cluster).member(role, name).unwrap();
    let issued = authority.issue(&request, &id, &[], issued_at, LEAF_LIFETIME).unwrap();
    Credentials::new(cluster, bundle, Some((issued.certificate, &key)), clock).unwrap()
}

async fn check(channel: Channel) -> Result<(), Status> {
    let call = HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(drop);
    match call {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => other,
    }
}

/// Calls the server at an address.
async fn call(from: &Process, address: &str) -> Result<(), String> {
    let channel = from.transport.connect(address, PATIENCE).await.map_err(|error: ConnectError| error.to_string())?;
    check(channel).await.map_err(|status| format!("{status:?}"))
}

#[test]
fn a_process_has_the_key_of_its_own_certificate_and_none_without_one() {
    let ours = authority("one");
    let clock = Process::new("one", &[&ours], None, 0).clock;
    let own = credentials("one", &[&ours], Some((&ours, PeerRole::Worker, "w-0", NOW)), &clock);
    let signer = own.signer().expect("it has a certificate");
    assert_eq!(signer.public_digest(), own.own().expect("it has a certificate").stated.key);
    assert!(credentials("one", &[&ours], None, &clock).signer().is_none());
}

#[tokio::test]
async fn members_of_one_fleet_talk_and_strangers_do_not() {
    let (ours, theirs) = (authority("one"), authority("one"));
    let server = Process::new("one", &[&ours], Some((&ours, PeerRole::Coordinator, "c-0", NOW)), 0);
    let (address, _serving) = server.serve().await;
    let worker = Process::new("one", &[&ours], Some((&ours, PeerRole::Worker, "w-0", NOW)), 0);
    call(&worker, &address).await.unwrap();
    assert_eq!((server.stats().authenticated(), server.stats().anonymous()), (1, 0));
    let newcomer = Process::new("one", &[&ours], None, 0);
    call(&newcomer, &address).await.unwrap();
    assert_eq!((server.stats().authenticated(), server.stats().anonymous()), (1, 1));

    // It trusts the server, which doesn't trust it.
    let stranger = Process::new("one", &[&ours], Some((&theirs, PeerRole::Worker, "w-1", NOW)), 0);
    assert!(call(&stranger, &address).await.is_err());
    assert_eq!(server.stats().refused(Refused::UnknownAuthority), 1);
    // An authority of several fleets does not make them one.
    let other = Process::new("two", &[&ours], Some((&ours, PeerRole::Worker, "w-2", NOW)), 0);
    let refused = call(&other, &address).await.unwrap_err();
    assert!(refused.contains("not a coordinator of this fleet"), "{refused}");
    // It doesn't trust the server.
    let doubting = Process::new("one", &[&theirs], Some((&ours, PeerRole::Worker, "w-3", NOW)), 0);
    assert!(call(&doubting, &address).await.is_err());
}

#[tokio::test]
async fn a_server_that_is_not_who_is_expected_is_not_called() {
    let ours = authority("one");
    let agent = Process::new("one", &[&ours], Some((&ours, PeerRole::Worker, "w-0", NOW)), 0);
    let (address, _serving) = agent.serve().await;
    let caller = Process::new("one", &[&ours], Some((&ours, PeerRole::Messenger, "m-0", NOW)), 0);
    let refused = call(&caller, &address).await.unwrap_err();
    assert!(refused.contains("worker/w-0, not a coordinator of this fleet"), "{refused}");
    let to = |name: &str| caller.transport.channel_to(&address, Expected::Agent(name.into())).unwrap();
    check(to("w-0")).await.unwrap();
    check(to("w-1")).await.unwrap_err();
}

#[tokio::test]
async fn expired_certificates_are_refused_by_the_fleets_time() {
    let ours = authority("one");
    let server = Process::new("one", &[&ours], Some((&ours, PeerRole::Coordinator, "c-0", NOW)), 0);
    server.clock.learn(NOW);
    let (address, _serving) = server.serve().await;
    for (issued_at, why) in [(NOW - 2 * HOUR, Refused::Expired), (NOW + 2 * HOUR, Refused::NotYetValid)] {
        let client = Process::new("one", &[&ours], Some((&ours, PeerRole::Worker, "w-0", issued_at)), 0);
        assert!(call(&client, &address).await.is_err());
        assert_eq!(server.stats().refused(why), 1, "{why:?}");
    }
}

#[tokio::test]
async fn whose_certificate_has_expired_can_still_connect_without_it() {
    let ours = authority("one");
    let server = Process::new("one", &[&ours], Some((&ours, PeerRole::Coordinator, "c-0", NOW)), 0);
    server.clock.learn(NOW);
    let (address, _serving) = server.serve().await;
    let late = Process::new("one", &[&ours], Some((&ours, PeerRole::Worker, "w-0", NOW - 2 * HOUR)), 0);
    assert!(call(&late, &address).await.is_err());
    let nameless = late.transport.with_tls(&late.transport.tls().unwrap().nameless());
    check(nameless.connect(&address, PATIENCE).await.unwrap()).await.unwrap();
    assert_eq!((server.stats().authenticated(), server.stats().anonymous()), (0, 1));
}

#[tokio::test]
async fn a_certificate_that_ends_before_it_begins_is_refused_and_nothing_else_happens() {
    let ours = authority("one");
    let server = Process::new("one", &[&ours], Some((&ours, PeerRole::Coordinator, "c-0", NOW)), 0);
    let (address, _serving) = server.serve().await;
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let id = realm("one").member(PeerRole::Worker, "w-0").unwrap().to_string();
    params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
    params.not_before = rcgen::date_time_ymd(2027, 2, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    let certificate = params.self_signed(&pair).unwrap().der().clone();
    let key = PrivateKey::from_pem(&pair.serialize_pem()).unwrap();
    let client = Process::new("one", &[&ours], None, 0);
    let odd = Credentials::new("one", Some(bundle(&[&ours])), Some((certificate, &key)), &client.clock).unwrap();
    client.sender.send_replace(Arc::new(odd));
    assert!(call(&client, &address).await.is_err());
    assert_eq!(Refused::ALL.map(|why| server.stats().refused(why)).iter().sum::<u64>(), 1, "it was judged");
}

#[tokio::test]
async fn who_trusts_no_authority_yet_takes_nobodys_word_for_who_calls() {
    let ours = authority("one");
    let server = Process::new("one", &[], Some((&ours, PeerRole::Coordinator, "c-0", NOW)), 0);
    let (address, _serving) = server.serve().await;
    let caller = Process::new("one", &[&ours], Some((&ours, PeerRole::Worker, "w-0", NOW)), 0);
    assert!(call(&caller, &address).await.is_err());
    assert_eq!(server.stats().refused(Refused::UnknownAuthority), 1);
    call(&Process::new("one", &[&ours], None, 0), &address).await.unwrap();
}

#[tokio::test]
async fn a_wrong_clock_costs_no_connection() {
    let ours = authority("one");
    let server = Process::new("one", &[&ours], Some((&ours, PeerRole::Coordinator, "c-0", NOW)), 0);
    server.clock.learn(NOW);
    let (address, _serving) = server.serve().await;
    let hours = |hours: i64| hours * HOUR.cast_signed();
    for ahead in [hours(2), hours(-2)] {
        let client = Process::new("one", &[&ours], Some((&ours, PeerRole::Worker, "w-0", NOW)), ahead);
        call(&client, &address).await.unwrap();
        // And once it knows the time of the fleet, its own clock does not matter.
        client.clock.learn(NOW);
        call(&client, &address).await.unwrap();
    }
    let client = Process::new("one", &[&ours], Some((&ours, PeerRole::Worker, "w-0", NOW)), hours(26));
    assert!(call(&client, &address).await.is_err(), "beyond the tolerance");
}

#[tokio::test]
async fn credentials_are_replaced_without_losing_a_connection() {
    let (old, new) = (authority("one"), authority("one"));
    let server = Process::new("one", &[&old], Some((&old, PeerRole::Coordinator, "c-0", NOW)), 0);
    let (address, _serving) = server.serve().await;
    let client = Process::new("one", &[&old], Some((&old, PeerRole::Worker, "w-0", NOW)), 0);
    let channel = client.transport.connect(&address, PATIENCE).await.unwrap();
    check(channel.clone()).await.unwrap();
    // Both are trusted first, then the new one alone is used.
    let replace = |of: &Process, trusted: &[&Authority], by: &Authority, role, name| {
        let renewed = credentials("one", trusted, Some((by, role, name, NOW)), &of.clock);
        of.sender.send_replace(Arc::new(renewed));
    };
    for (trusted, by) in [(&[&old, &new][..], &old), (&[&old, &new][..], &new), (&[&new][..], &new)] {
        replace(&server, trusted, by, PeerRole::Coordinator, "c-0");
        replace(&client, trusted, by, PeerRole::Worker, "w-0");
        check(channel.clone()).await.unwrap();
        call(&client, &address).await.unwrap();
    }
    assert_eq!(server.stats().authenticated(), 4, "the first connection lived through all of it");
    let late = Process::new("one", &[&old, &new], Some((&old, PeerRole::Worker, "w-1", NOW)), 0);
    assert!(call(&late, &address).await.is_err(), "the old authority is not trusted any more");
}

#[tokio::test]
async fn a_first_contact_without_an_authority_trusts_what_it_meets() {
    let ours = authority("one");
    let server = Process::new("one", &[&ours], Some((&ours, PeerRole::Coordinator, "c-0", NOW)), 0);
    let (address, _serving) = server.serve().await;
    call(&Process::new("one", &[], None, 0), &address).await.unwrap();
    let refused = call(&Process::new("two", &[], None, 0), &address).await.unwrap_err();
    assert!(refused.contains("of this fleet"), "even then, only its own fleet: {refused}");
}

#[tokio::test]
async fn plaintext_is_refused_unless_the_fleet_is_moving_to_tls() {
    let ours = authority("one");
    let own = || Some((&ours, PeerRole::Coordinator, "c-0", NOW));
    let strict = Process::new("one", &[&ours], own(), 0);
    let permissive = Process::made("one", &[&ours], own(), 0, true);
    let plain = Transport::new(Arc::clone(&Platform::real().network));
    let (address, _strict) = strict.serve().await;
    assert!(check(plain.channel(&address).unwrap()).await.is_err());
    assert_eq!(strict.stats().refused(Refused::Plaintext), 1);

    let (address, _permissive) = permissive.serve().await;
    check(plain.channel(&address).unwrap()).await.unwrap();
    call(&Process::new("one", &[&ours], own(), 0), &address).await.unwrap();
    assert_eq!(permissive.stats().authenticated(), 1);

    // A permissive process also calls those that don't speak TLS yet.
    let bound = plain.bind("127.0.0.1:0").await.unwrap();
    let address = bound.local_addr().unwrap().to_string();
    let routes = described_routes(&[]).unwrap();
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move {
        bound.serve(routes, CancellationToken::new()).await.unwrap();
    }));
    call(&permissive, &address).await.unwrap();
    assert!(call(&strict, &address).await.is_err(), "a strict one does not");

    // What may only be sent over TLS is not, and it is noted which servers speak it.
    let (tls, server) = (permissive.transport.tls().unwrap().clone(), NoTls::default());
    let over = |tls: &Tls, address: &str| check(plain.with_tls(tls).channel(address).unwrap());
    assert!(over(&tls.strict(), &address).await.is_err());
    assert!(over(&tls.strict().noting(&server), &address).await.is_err());
    assert!(server.is_found());
    over(&tls.noting(&server), &address).await.unwrap();
    assert!(server.is_found());
    let (address, _strict) = strict.serve().await;
    over(&tls.noting(&server), &address).await.unwrap();
    assert!(!server.is_found(), "it speaks TLS by now");
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_and_delays_nobody() {
    let ours = authority("one");
    let server = Process::new("one", &[&ours], Some((&ours, PeerRole::Coordinator, "c-0", NOW)), 0);
    let (address, _serving) = server.serve().await;
    // The beginning of a handshake, and then silence.
    let mut slow = TcpStream::connect(&address).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    let mut broken = TcpStream::connect(&address).await.unwrap();
    broken.write_all(&[22, 3, 1, 0, 4, 9, 9, 9, 9]).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, broken.read_to_end(&mut answer)).await.expect("it is closed").ok();
    assert_eq!(server.stats().refused(Refused::Malformed), 1);
    call(&Process::new("one", &[&ours], None, 0), &address).await.unwrap();
    drop(slow);
}

#[tokio::test]
async fn one_address_can_not_use_up_the_connections_of_a_listener() {
    let ours = authority("one");
    let server = Process::new("one", &[&ours], Some((&ours, PeerRole::Coordinator, "c-0", NOW)), 0);
    let (address, _serving) = server.serve().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_ANONYMOUS_PER_ADDRESS {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    // The next one is closed at once.
    let mut next = TcpStream::connect(&address).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, next.read_to_end(&mut answer)).await.expect("it is closed").ok();
    assert_eq!(server.stats().refused(Refused::TooMany), 1);
    drop(silent);
    let served = async { while call(&Process::new("one", &[&ours], None, 0), &address).await.is_err() {} };
    timeout(PATIENCE, served).await.expect("there is room again");
}
