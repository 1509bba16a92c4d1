//! Where a process gets its certificate from, and what keeps it renewed.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use robeing_identity::{PrivateKey, TrustBundle};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, watch};
use tonic::async_trait;
use tracing::{debug, info, warn};

use super::{Credentials, CredentialsError, TrustClock};

/// How often it is checked whether the certificate must be renewed. Far shorter than the life of a certificate, since
/// timers stand still while a machine is suspended.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// By up to how much of its life, in percent, a certificate is renewed before half of it is over. Each process has a
/// time of its own within this span, so that processes that were started together don't all renew together.
const RENEWAL_SPREAD: u64 = 10;
/// The first and the longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Number of failures for the same reason after which it is reported once more.
const REPORT_AGAIN: u32 = 60;

/// A certificate, and what came with it.
#[derive(Debug)]
pub struct Obtained {
    /// The certificate of the key.
    pub certificate: CertificateDer<'static>,
    /// The authorities to trust from now on.
    pub bundle: TrustBundle,
    /// The fleet's wall time, Unix milliseconds, if the source knows it.
    pub wall: Option<u64>,
}

/// Certifies the key of a process: the coordinators of its fleet, or another system that issues SPIFFE identities.
#[async_trait]
pub trait IdentitySource: Send + Sync + 'static {
    /// Obtains a certificate for the public key of `key`, for the first time or again.
    ///
    /// # Errors
    /// Why there is none, as a sentence. It will be tried again.
    async fn obtain(&self, key: &PrivateKey) -> Result<Obtained, String>;
}

/// Asks the keeper of a process for another certificate before it is due, because the fleet does not know the present one any
/// more. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Recertify(Arc<Notify>);

impl Recertify {
    /// Asks. However often that is done, there are pauses between two certificates.
    pub fn ask(&self) {
        self.0.notify_one();
    }

    async fn asked(&self) {
        self.0.notified().await;
    }
}

/// Keeps a process certified.
pub struct IdentityKeeper {
    cluster: String,
    source: Arc<dyn IdentitySource>,
    key: PrivateKey,
    clock: Arc<TrustClock>,
    sender: watch::Sender<Arc<Credentials>>,
    recertify: Recertify,
}

impl IdentityKeeper {
    /// Creates the keeper of a process of this cluster, with a new key, and the credentials that it keeps. Until there
    /// is a certificate, they trust `bundle`, or whatever they meet if there is none.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn new(
        cluster: &str,
        bundle: Option<TrustBundle>,
        source: impl FnOnce(&watch::Receiver<Arc<Credentials>>) -> Arc<dyn IdentitySource>,
        clock: Arc<TrustClock>,
    ) -> Result<(Self, watch::Receiver<Arc<Credentials>>), CredentialsError> {
        let key = PrivateKey::generate()?;
        let (sender, receiver) = watch::channel(Arc::new(Credentials::new(cluster, bundle, None, &clock)?));
        let source = source(&receiver);
        let recertify = Recertify::default();
        Ok((Self { cluster: cluster.to_owned(), source, key, clock, sender, recertify }, receiver))
    }

    /// Returns what asks this keeper for another certificate.
    pub fn recertify(&self) -> Recertify {
        self.recertify.clone()
    }

    /// Obtains the first certificate, however long it takes, and then renews it whenever about half of its life is
    /// over, or somebody asks for another one.
    pub async fn run(self) {
        loop {
            self.obtain_some().await;
            // Whoever has asked meanwhile has it now.
            let _ = self.recertify.asked().now_or_never();
            // Of an authority that expires soon, even a new certificate is due at once; it is asked for again only later.
            tokio::time::sleep(CHECK_EVERY).await;
            while self.is_fresh() {
                tokio::select! {
                    () = tokio::time::sleep(CHECK_EVERY) => {}
                    () = self.recertify.asked() => break,
                }
            }
        }
    }

    fn is_fresh(&self) -> bool {
        let credentials = self.sender.borrow();
        let Some(own) = credentials.own() else { return false };
        self.clock.now() < renew_at(own.stated.not_before, own.stated.not_after, self.key.public_digest())
    }

    /// Tries until a certificate is obtained.
    async fn obtain_some(&self) {
        let (mut pause, longest) = PAUSE;
        let mut reported = (String::new(), 0);
        loop {
            let obtained = self.source.obtain(&self.key).await;
            let problem = match obtained.map(|obtained| self.take(obtained)) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(problem) => problem,
            };
            if reported.0 != problem || reported.1 >= REPORT_AGAIN {
                match self.sender.borrow().own() {
                    None => warn!(problem, "there is no certificate for this process yet; trying again"),
                    Some(_) => warn!(problem, "the certificate of this process is not renewed yet; trying again"),
                }
                reported = (problem, 0);
            } else {
                debug!(problem, "there is still no new certificate for this process");
                reported.1 += 1;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    fn take(&self, obtained: Obtained) -> Result<(), CredentialsError> {
        if let Some(wall) = obtained.wall {
            self.clock.learn(wall);
        }
        let own = Some((obtained.certificate, &self.key));
        let credentials = Credentials::new(&self.cluster, Some(obtained.bundle), own, &self.clock)?;
        match (credentials.id(), self.sender.borrow().own().is_some()) {
            (Some(id), true) => debug!(%id, "renewed the certificate of this process"),
            (Some(id), false) => info!(%id, "this process is certified"),
            (None, _) => {}
        }
        self.sender.send_replace(Arc::new(credentials));
        Ok(())
    }
}

/// Returns when a certificate with this life is renewed, Unix milliseconds. The digest of the key spreads the times.
fn renew_at(from: u64, to: u64, key: [u8; 32]) -> u64 {
    let life = to.saturating_sub(from);
    let spread = life / 100 * RENEWAL_SPREAD;
    let part = u64::from(u16::from_be_bytes([key[0], key[1]]));
    from.saturating_add(life / 2).saturating_sub(spread * part / u64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use robeing_identity::{AUTHORITY_LIFETIME, Authority, LEAF_LIFETIME, PeerRole, Realm, SigningRequest};
    use robeing_platform::{Clock, simulated::MemoryNetwork};
    use tokio::time::{Instant, sleep, timeout};
    use tokio_util::task::AbortOnDropHandle;
    use tonic::Status;

    use super::*;
    use crate::{Transport, security::Tls};

    const NOW: u64 = 1_800_000_000_000;

    /// A machine's clock that goes with the test's time.
    struct Paused(Instant);

    impl Clock for Paused {
        fn unix_millis(&self) -> u64 {
            NOW + self.elapsed_millis()
        }
        fn elapsed_millis(&self) -> u64 {
            self.0.elapsed().as_millis() as u64
        }
    }

    /// A fleet whose clock is two hours ahead of this machine's.
    struct Fleet {
        authority: Authority,
        clock: Paused,
        asked: AtomicUsize,
        is_away: AtomicBool,
    }

    const AHEAD: u64 = 2 * 60 * 60 * 1_000;

    impl Fleet {
        fn now(&self) -> u64 {
            self.clock.unix_millis() + AHEAD
        }
    }

    #[async_trait]
    impl IdentitySource for Fleet {
        async fn obtain(&self, key: &PrivateKey) -> Result<Obtained, String> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.is_away.load(Ordering::SeqCst) {
                return Err("nobody answers".into());
            }
            let request = SigningRequest::from_der(&key.request().unwrap()).unwrap();
            let id = realm().member(PeerRole::Worker, "w-0").unwrap();
            let issued = self.authority.issue(&request, &id, &[], self.now(), LEAF_LIFETIME).unwrap();
            let bundle = TrustBundle::from_pem(self.authority.certificate_pem()).unwrap();
            Ok(Obtained { certificate: issued.certificate, bundle, wall: Some(self.now()) })
        }
    }

    fn realm() -> Realm {
        Realm::new("robeing.local", "default", "one").unwrap()
    }

    struct Kept {
        fleet: Arc<Fleet>,
        credentials: watch::Receiver<Arc<Credentials>>,
        clock: Arc<TrustClock>,
        recertify: Recertify,
        _keeping: AbortOnDropHandle<()>,
    }

    impl Kept {
        fn start() -> Self {
            Self::with(AUTHORITY_LIFETIME)
        }

        fn with(lifetime: Duration) -> Self {
            let begun = Instant::now();
            let fleet = Arc::new(Fleet {
                authority: Authority::create_for(&realm(), NOW + AHEAD, lifetime).unwrap(),
                clock: Paused(begun),
                asked: AtomicUsize::new(0),
                is_away: AtomicBool::new(false),
            });
            let clock = Arc::new(TrustClock::new(Arc::new(Paused(begun))));
            let source = Arc::clone(&fleet) as Arc<dyn IdentitySource>;
            let (keeper, credentials) = IdentityKeeper::new("one", None, |_| source, Arc::clone(&clock)).unwrap();
            let recertify = keeper.recertify();
            let _keeping = AbortOnDropHandle::new(tokio::spawn(keeper.run()));
            Self { fleet, credentials, clock, recertify, _keeping }
        }

        fn asked(&self) -> usize {
            self.fleet.asked.load(Ordering::SeqCst)
        }

        async fn changed(&mut self) -> Arc<Credentials> {
            let waited = timeout(Duration::from_secs(24 * 60 * 60), self.credentials.changed()).await;
            waited.expect("in time").expect("the keeper runs");
            Arc::clone(&self.credentials.borrow_and_update())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_renewed_about_when_half_of_its_life_is_over() {
        let mut kept = Kept::start();
        let first = kept.changed().await.own().expect("it is certified").clone();
        assert!(kept.clock.is_known() && kept.clock.now() >= NOW + AHEAD, "it has learned the fleet's time");
        let mut last = first;
        for renewals in 2..6 {
            let next = kept.changed().await.own().expect("it is certified").clone();
            assert_ne!(next.certificate, last.certificate);
            assert_eq!(next.stated.key, last.stated.key);
            let life = last.stated.not_after - last.stated.not_before;
            let (earliest, latest) = (life / 100 * (50 - RENEWAL_SPREAD), life / 2 + CHECK_EVERY.as_millis() as u64);
            let at = kept.fleet.now() - last.stated.not_before;
            assert!((earliest..=latest).contains(&at), "at {at} of {life}");
            assert_eq!(kept.asked(), renewals);
            last = next;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_certificate_is_obtained_soon_when_it_is_asked_for_and_not_without_a_pause() {
        let mut kept = Kept::start();
        let first = kept.changed().await.own().expect("it is certified").clone();
        sleep(Duration::from_secs(60)).await;
        assert_eq!(kept.asked(), 1);
        kept.recertify.ask();
        let next = timeout(CHECK_EVERY, kept.changed()).await.expect("at once").own().expect("it is certified").clone();
        assert_eq!(next.stated.key, first.stated.key, "of the same key");
        for _ in 0..60 {
            kept.recertify.ask();
            sleep(Duration::from_secs(1)).await;
        }
        assert!((12..=15).contains(&kept.asked()), "{}", kept.asked());
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_the_fleet_does_not_know_any_more_is_certified_again() {
        let mut kept = Kept::start();
        kept.changed().await.own().expect("it is certified");
        let tls = Tls::new(kept.credentials.clone(), false).recertified_by(kept.recertify.clone());
        let transport = Transport::secured(Arc::new(MemoryNetwork::default()), tls);
        transport.recertify_if_unknown(&Status::permission_denied("that it may not do"));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(kept.asked(), 1);
        transport.recertify_if_unknown(&Status::unauthenticated("who is it?"));
        timeout(CHECK_EVERY, kept.changed()).await.expect("at once");
        assert_eq!(kept.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn while_its_authority_is_about_to_expire_a_certificate_is_renewed_often_but_not_without_a_pause() {
        let mut kept = Kept::with(Duration::from_secs(60));
        kept.changed().await.own().expect("it is certified");
        sleep(Duration::from_secs(60)).await;
        assert!((11..=13).contains(&kept.asked()), "{}", kept.asked());
    }

    #[tokio::test(start_paused = true)]
    async fn while_nobody_answers_it_is_tried_again_and_again_with_growing_pauses() {
        let mut kept = Kept::start();
        kept.fleet.is_away.store(true, Ordering::SeqCst);
        sleep(Duration::from_secs(60)).await;
        // 0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 3.2 s, then every 5 s.
        assert!((15..=18).contains(&kept.asked()), "{}", kept.asked());
        kept.fleet.is_away.store(false, Ordering::SeqCst);
        kept.changed().await.own().expect("it is certified");
        // Away until the certificate has expired: it is renewed all the same when the fleet is back.
        kept.fleet.is_away.store(true, Ordering::SeqCst);
        sleep(2 * LEAF_LIFETIME).await;
        kept.fleet.is_away.store(false, Ordering::SeqCst);
        let own = kept.changed().await.own().expect("it is certified").clone();
        assert!(own.stated.not_after > kept.fleet.now());
    }

    #[test]
    fn processes_renew_at_different_times_before_half_of_the_life_is_over() {
        assert_eq!(renew_at(1_000, 101_000, [0; 32]), 51_000);
        assert_eq!(renew_at(1_000, 101_000, [255; 32]), 41_000);
        assert_eq!(renew_at(5, 3, [255; 32]), 5, "a life that ends before it begins");
    }
}
