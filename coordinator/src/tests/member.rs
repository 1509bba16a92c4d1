//! Processes that connect to coordinators with TLS.

use std::{sync::Arc, time::Duration};

use robeing_fleet::Reply;
use robeing_identity::{LEAF_LIFETIME, PeerRole, PrivateKey, SigningRequest, TrustBundle};
use robeing_net::{
    Transport, limited,
    security::{Credentials, Tls, TrustClock},
};
use robeing_platform::{Platform, simulated::HostNetwork};
use robeing_proto::{
    internal::v1::{
        self as internal, AgentMessage, agent_message::Message as FromAgent, coordinator_message::Message as ToAgent,
        enrol_request::Proof, enrolment_client::EnrolmentClient, session_client::SessionClient,
    },
    v1::{self, admin_client::AdminClient, fleet_client::FleetClient},
};
use rustls::pki_types::CertificateDer;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    identity::fixture::realm,
    tests::{
        access::enrol_of,
        fleet::{CLUSTER, FleetSecurity, TestFleet, address},
    },
};

/// How long a call may take, in the test's time.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause before a call is repeated.
const RETRY: Duration = Duration::from_millis(50);

/// A process with a key, and a certificate if it has got one.
pub struct TestMember {
    pub key: PrivateKey,
    certificate: Option<CertificateDer<'static>>,
}

impl TestMember {
    /// A process that nobody knows yet.
    pub fn newcomer() -> Self {
        Self { key: PrivateKey::generate().expect("it is made"), certificate: None }
    }

    /// A process that the fleet's authority has certified, without any enrolment.
    pub fn certified(fleet: &TestFleet, role: PeerRole, name: &str) -> Self {
        let key = PrivateKey::generate().expect("it is made");
        let request = SigningRequest::from_der(&key.request().expect("it is signed")).expect("it is one");
        let id = realm().member(role, name).expect("it is a name");
        let now = Platform::real().clock.unix_millis();
        let issued = security(fleet).certifier.authority.issue(&request, &id, &[], now, LEAF_LIFETIME);
        Self { key, certificate: Some(issued.expect("it is issued").certificate) }
    }

    /// The same process with this certificate of its key.
    pub fn with(self, certificate: CertificateDer<'static>) -> Self {
        Self { certificate: Some(certificate), ..self }
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.certificate.as_ref().expect("it has one")
    }

    /// A process that the fleet's authority has certified, and that is enrolled if it is an agent.
    pub async fn enrolled(fleet: &TestFleet, at: usize, role: PeerRole, name: &str) -> Self {
        let member = Self::certified(fleet, role, name);
        let enrol = enrol_of(name, member.key.public_digest());
        let is_enrolled = async {
            let propose = async || fleet.tested(at).proposer.propose_one(enrol.clone()).await;
            while !matches!(propose().await, Ok(Reply::Enrolled { .. })) {
                sleep(RETRY).await;
            }
        };
        if role.is_agent() {
            timeout(PATIENCE, is_enrolled).await.expect("identities are in force");
        }
        member
    }

    /// A channel to a coordinator. The process presents its certificate, if it has one.
    pub fn channel(&self, fleet: &TestFleet, at: usize) -> Channel {
        let bundle = TrustBundle::clone(&security(fleet).certifier.bundle);
        let clock = Arc::new(TrustClock::new(Platform::real().clock));
        let own = self.certificate.clone().map(|certificate| (certificate, &self.key));
        let credentials = Credentials::new(CLUSTER, Some(bundle), own, &clock).expect("they fit");
        let tls = Tls::new(watch::channel(Arc::new(credentials)).1, false);
        let network = HostNetwork::new(fleet.network.clone(), CancellationToken::new()).at([10, 0, 3, 1]);
        Transport::secured(Arc::new(network), tls).channel(&address(at)).expect("it is an address")
    }

    /// The Admin service of a coordinator.
    pub fn admin(&self, fleet: &TestFleet, at: usize) -> AdminClient<Channel> {
        AdminClient::new(self.channel(fleet, at))
    }

    /// The Fleet service of a coordinator.
    pub fn fleet(&self, fleet: &TestFleet, at: usize) -> FleetClient<Channel> {
        FleetClient::new(self.channel(fleet, at))
    }

    /// What the process sends to enrol as a worker of the pool `data`.
    pub fn request(&self, name: &str, proof: Option<Proof>) -> internal::EnrolRequest {
        internal::EnrolRequest {
            cluster_id: CLUSTER.into(),
            name: name.into(),
            role: v1::Role::Worker.into(),
            pool: "data".into(),
            signing_request: self.key.request().expect("it is signed").into(),
            proof,
        }
    }

    /// Enrols, without a certificate. A certificate that it gets is used from then on.
    pub async fn enrol(
        &mut self,
        fleet: &TestFleet,
        at: usize,
        request: internal::EnrolRequest,
    ) -> Result<internal::EnrolResponse, Status> {
        let stranger = Self { key: PrivateKey::generate().expect("it is made"), certificate: None };
        let channel = stranger.channel(fleet, at);
        let response = retried(async || limited!(EnrolmentClient::new(channel.clone())).enrol(request.clone()).await);
        let response = response.await?.into_inner();
        self.certificate = Some(CertificateDer::from(response.certificate.to_vec()));
        Ok(response)
    }

    /// Opens a session, and returns it with the first message in it.
    pub async fn open(&self, fleet: &TestFleet, at: usize, hello: internal::Hello) -> Result<Opened, Status> {
        let (sender, messages) = mpsc::channel(1);
        sender.send(AgentMessage { message: Some(FromAgent::Hello(hello)) }).await.expect("there is room");
        let mut client = limited!(SessionClient::new(self.channel(fleet, at)));
        let mut told = client.open(ReceiverStream::new(messages)).await?.into_inner();
        let first = loop {
            let next = timeout(PATIENCE, told.message()).await.expect("in time")?;
            match next.and_then(|message| message.message).expect("a message") {
                // It takes as long as the log takes.
                ToAgent::Opening(_) => {}
                first => break first,
            }
        };
        Ok(Opened { first, _sender: sender, _told: told })
    }
}

/// A session, open until this is dropped.
pub struct Opened {
    pub first: ToAgent,
    _sender: mpsc::Sender<AgentMessage>,
    _told: Streaming<internal::CoordinatorMessage>,
}

/// What a worker of the pool `data` says first.
pub fn hello(name: &str) -> internal::Hello {
    internal::Hello {
        cluster_id: CLUSTER.into(),
        name: name.into(),
        incarnation: 1,
        role: v1::Role::Worker.into(),
        pool: "data".into(),
        slots: 1,
        address: "10.0.3.1:7000".into(),
        ..internal::Hello::default()
    }
}

/// Repeats a call until the fleet can answer: it knows its time and has identities in force.
pub async fn retried<T>(call: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
    let answered = async {
        loop {
            match call().await {
                Err(status) if matches!(status.code(), Code::Unavailable | Code::FailedPrecondition) => {
                    sleep(RETRY).await;
                }
                answered => return answered,
            }
        }
    };
    timeout(PATIENCE, answered).await.expect("the fleet answers")
}

/// The code of a refusal.
pub fn code<T>(answer: Result<T, Status>) -> Code {
    match answer {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

fn security(fleet: &TestFleet) -> &FleetSecurity {
    fleet.security.as_ref().expect("it has TLS")
}
