//! Who may call what: every method of the table, for every kind of caller.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use robeing_fleet::{
    BarKind, Command, Enrol, EnrolmentMode, IdentityCommand, IdentityConfig, ProofKind, Reply, Role, known_version,
};
use robeing_identity::PeerRole;
use robeing_net::{
    ConnectInfo,
    gate::{Caller, Gate, ON_BEHALF_OF},
    security::{PeerIdentity, TrustClock},
};
use robeing_settings::Enrolment;
use robeing_telemetry::Metrics;
use tonic::Code;

use crate::{
    assembly::Tested,
    identity::{
        access::Access,
        client_rights::{ClientRights, TokenReviewer},
        fixture::{Hands, NOW, Signer, certifier, config, realm, trust},
        ongoing::OngoingCalls,
        refusals::Refusals,
        rights::{ClientRights as Rights, MAX_NAME_BYTES, Right},
        rights_file::CurrentRights,
        table::{Allowed, TABLE, is_for_gateways},
    },
    tests::fleet::TestFleet,
};

/// Ann may do everything, bob nothing.
const RIGHTS: &str = "clients: [{name: ann, rights: [submit, read, vote, message, admin]}, {name: bob, rights: []}]";

/// The digest of the key of whoever connects.
pub(super) const KEY: [u8; 32] = [7; 32];

pub(super) struct Fixture {
    _fleet: TestFleet,
    pub tested: Tested,
    clock: Arc<TrustClock>,
    signer: Signer,
}

impl Fixture {
    pub async fn new() -> Self {
        let fleet = TestFleet::start();
        let leader = fleet.led().await;
        let in_force = |fleet: &TestFleet| fleet.tested(leader).state.look(|state| state.version()) == known_version();
        fleet.until("identities in force", in_force).await;
        let clock = Arc::new(TrustClock::new(Arc::new(Hands::default())));
        clock.learn(NOW);
        Self { tested: fleet.tested(leader), _fleet: fleet, clock, signer: Signer::new() }
    }

    pub async fn propose(&self, command: IdentityCommand) {
        let reply = self.tested.proposer.propose_one(Command::Identity(command)).await;
        assert_eq!(reply.expect("it leads"), Reply::Done);
    }

    /// Enrols an agent with this key; that of [`connection`] is [`KEY`].
    pub async fn enrol(&self, agent: &str, key: [u8; 32]) {
        let reply = self.tested.proposer.propose_one(enrol_of(agent, key)).await;
        assert!(matches!(reply, Ok(Reply::Enrolled { .. })), "{reply:?}");
    }

    /// The gate of a coordinator that is configured so.
    pub fn access(&self, enrolment: Enrolment, rights: &str, trusts_plaintext: bool) -> Access {
        let rights = Rights::parse(rights.as_bytes()).expect("they are rights");
        Access {
            state: self.tested.state.clone(),
            clock: Arc::clone(&self.clock),
            trust: trust(Arc::new(certifier()), enrolment).1,
            rights: ClientRights::File(CurrentRights::fixed(rights)),
            reviewer: TokenReviewer::default(),
            trusts_plaintext,
            refusals: Refusals::new(&Metrics::default()),
            calls: OngoingCalls::default(),
        }
    }
}

/// What enrols an agent with the key of this digest. Nothing of what these tests check depends on its role.
pub(super) fn enrol_of(agent: &str, key: [u8; 32]) -> Command {
    let (role, proof) = (Role::Worker, ProofKind::PoolSecret);
    let agent = agent.to_owned();
    let enrol = Enrol { agent, role, pool: None, key, proof, single_use: None, names_agent: false };
    Command::Identity(IdentityCommand::Enrol(enrol))
}

/// A connection with TLS, with the certificate of this member if one is given.
pub(super) fn connection(member: Option<(PeerRole, &str)>) -> ConnectInfo {
    let identity = member.map(|(role, name)| {
        let id = realm().member(role, name).expect("it is a name");
        Arc::new(PeerIdentity { id, key: KEY })
    });
    ConnectInfo { identity, encrypted: true, ..ConnectInfo::default() }
}

fn bearer(token: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("it is text");
    HeaderMap::from_iter([(http::header::AUTHORIZATION, value)])
}

/// What becomes of a call: who it is of, or the code of the refusal.
type Decided = Result<&'static str, Code>;

async fn decide(access: &Access, method: &str, connection: &ConnectInfo, headers: &HeaderMap) -> Decided {
    match access.admit(method, connection, headers).await {
        Ok(Caller::Plaintext) => Ok("plaintext"),
        Ok(Caller::Anonymous) => Ok("anonymous"),
        Ok(Caller::Member(peer)) => {
            assert_eq!(Some(peer), connection.identity);
            Ok("member")
        }
        Ok(Caller::User(user)) => {
            assert_eq!(user.name, "system:serviceaccount:default:s");
            assert!(user.groups.contains(&"system:serviceaccounts:default".to_owned()), "{user:?}");
            Ok("user")
        }
        Err(status) => Err(status.code()),
    }
}

/// Checks every row of the table for one kind of caller.
async fn check(
    who: &str,
    access: &Access,
    (connection, headers): (&ConnectInfo, &HeaderMap),
    expected: impl Fn(Allowed) -> Decided,
) {
    for (method, allowed) in TABLE {
        let decided = decide(access, method, connection, headers).await;
        assert_eq!(decided, expected(*allowed), "{who} calls {method}");
    }
    let unknown = decide(access, "/robeing.v1.Fleet/Destroy", connection, headers).await;
    assert_eq!(unknown, Err(Code::Unimplemented), "{who} calls what is not there");
}

fn either(is_let_in: bool, as_whom: &'static str) -> Decided {
    if is_let_in { Ok(as_whom) } else { Err(Code::PermissionDenied) }
}

#[tokio::test(start_paused = true)]
async fn without_a_certificate_one_does_what_is_for_anyone_and_where_enrolment_is_open_submits_and_reads() {
    let fixture = Fixture::new().await;
    let nobody = (&connection(None), &HeaderMap::new());
    let closed = |allowed| match allowed {
        Allowed::Anyone => Ok("anonymous"),
        _ => Err(Code::Unauthenticated),
    };
    let open = |allowed| match allowed {
        Allowed::Anyone | Allowed::With(Right::Submit | Right::Read, _) => Ok("anonymous"),
        _ => Err(Code::Unauthenticated),
    };
    check("nobody", &fixture.access(Enrolment::Proof, RIGHTS, false), nobody, closed).await;
    check("nobody", &fixture.access(Enrolment::Open, RIGHTS, false), nobody, open).await;
    let readers = "clients: [{name: anonymous, rights: [submit, read]}]";
    check("nobody", &fixture.access(Enrolment::Proof, readers, false), nobody, open).await;
    // The fleet's configuration counts before the coordinator's.
    fixture.propose(IdentityCommand::Configure(config())).await;
    check("nobody", &fixture.access(Enrolment::Open, RIGHTS, false), nobody, closed).await;
    let opened = IdentityConfig { enrolment: EnrolmentMode::Open, ..config() };
    fixture.propose(IdentityCommand::Configure(opened)).await;
    check("nobody", &fixture.access(Enrolment::Proof, RIGHTS, false), nobody, open).await;
}

#[tokio::test(start_paused = true)]
async fn members_do_what_is_for_their_role() {
    let fixture = Fixture::new().await;
    fixture.enrol("x", KEY).await;
    // Nothing of this depends on how others enrol, or on connections without TLS.
    for (enrolment, plaintext) in [(Enrolment::Proof, false), (Enrolment::Open, false), (Enrolment::Open, true)] {
        let access = fixture.access(enrolment, RIGHTS, plaintext);
        for role in PeerRole::ALL.into_iter().filter(|role| *role != PeerRole::Client) {
            let connection = connection(Some((role, "x")));
            let is_agent = !matches!(role, PeerRole::Coordinator | PeerRole::Operator);
            let expected = |allowed| match allowed {
                Allowed::Anyone => Ok("member"),
                Allowed::Coordinators => either(role == PeerRole::Coordinator, "member"),
                Allowed::Agents => either(is_agent, "member"),
                Allowed::With(_, agents) => either(!is_agent || agents.contains(&role), "member"),
            };
            check(role.as_str(), &access, (&connection, &HeaderMap::new()), expected).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn clients_do_what_they_have_the_right_to() {
    let fixture = Fixture::new().await;
    let access = fixture.access(Enrolment::Open, RIGHTS, false);
    for (name, has_rights) in [("ann", true), ("bob", false), ("carol", false)] {
        let connection = connection(Some((PeerRole::Client, name)));
        let expected = |allowed| match allowed {
            Allowed::Anyone => Ok("member"),
            Allowed::Coordinators | Allowed::Agents => Err(Code::PermissionDenied),
            Allowed::With(..) => either(has_rights, "member"),
        };
        check(name, &access, (&connection, &HeaderMap::new()), expected).await;
    }
    // Without a file and without Kubernetes, a certificate is enough.
    let access = Access { rights: ClientRights::CertifiedMayAll, ..access };
    let connection = connection(Some((PeerRole::Client, "carol")));
    let expected = |allowed| match allowed {
        Allowed::Anyone | Allowed::With(..) => Ok("member"),
        Allowed::Coordinators | Allowed::Agents => Err(Code::PermissionDenied),
    };
    check("carol", &access, (&connection, &HeaderMap::new()), expected).await;
}

#[tokio::test(start_paused = true)]
async fn barred_agents_do_nothing_and_no_one_else_of_their_name_is_affected() {
    let fixture = Fixture::new().await;
    let access = fixture.access(Enrolment::Open, RIGHTS, true);
    let bar =
        |agent: &str, kind| IdentityCommand::Bar { agent: agent.into(), kind, reason: "odd".into(), by: "test".into() };
    fixture.propose(bar("removed", BarKind::Removed)).await;
    fixture.propose(bar("quarantined", BarKind::Quarantined)).await;
    for role in PeerRole::ALL.into_iter().filter(|role| role.is_agent()) {
        for name in ["removed", "quarantined"] {
            let connection = connection(Some((role, name)));
            check(name, &access, (&connection, &HeaderMap::new()), |_| Err(Code::PermissionDenied)).await;
        }
    }
    let connection = connection(Some((PeerRole::Coordinator, "removed")));
    let decided = decide(&access, "/robeing.internal.v1.Raft/Append", &connection, &HeaderMap::new()).await;
    assert_eq!(decided, Ok("member"));
    fixture.propose(IdentityCommand::Release { agent: "removed".into(), by: "test".into() }).await;
    let connection = self::connection(Some((PeerRole::Worker, "removed")));
    let decided = decide(&access, "/robeing.internal.v1.Session/Open", &connection, &HeaderMap::new()).await;
    assert_eq!(decided, Ok("member"));
}

#[tokio::test(start_paused = true)]
async fn an_agent_calls_nothing_with_the_certificate_of_an_enrolment_that_is_gone_or_anothers() {
    let fixture = Fixture::new().await;
    let access = fixture.access(Enrolment::Proof, RIGHTS, true);
    let (agent, none) = (connection(Some((PeerRole::Messenger, "m-0"))), HeaderMap::new());
    let behalf = on_behalf_of(&["ann"]);
    let calls = async || {
        let own = decide(&access, "/robeing.v1.Fleet/ListAgents", &agent, &none).await;
        let for_ann = access.admit("/robeing.v1.Fleet/Submit", &agent, &behalf).await;
        [own.map(drop), for_ann.map(drop).map_err(|status| status.code())]
    };
    let both = |decided: Result<(), Code>| [decided; 2];
    assert_eq!(calls().await, both(Err(Code::Unauthenticated)), "it was removed, or its enrolment lost");
    for open in [
        "/robeing.internal.v1.Enrolment/Enrol",
        "/grpc.health.v1.Health/Check",
        // They answer so that the agent enrols again.
        "/robeing.internal.v1.Session/Open",
        "/robeing.internal.v1.Mailbox/Attend",
    ] {
        assert_eq!(decide(&access, open, &agent, &none).await, Ok("member"), "{open}");
    }
    fixture.enrol("m-0", KEY).await;
    assert_eq!(calls().await, both(Ok(())));
    fixture.enrol("m-0", [8; 32]).await;
    assert_eq!(calls().await, both(Err(Code::PermissionDenied)), "another process has its name");
}

#[tokio::test(start_paused = true)]
async fn the_user_of_a_token_does_what_it_has_the_right_to() {
    let fixture = Fixture::new().await;
    let known = IdentityConfig { issuers: vec![fixture.signer.issuer("one")], ..config() };
    let good = bearer(&fixture.signer.token(NOW, None));
    let stranger = connection(None);
    let unauthenticated = |allowed| match allowed {
        Allowed::Anyone => Ok("anonymous"),
        _ => Err(Code::Unauthenticated),
    };
    let any = "clients: [{name: \"*\", rights: [submit, read, vote, message, admin]}]";
    let access = fixture.access(Enrolment::Open, any, false);
    check("a user of nobody", &access, (&stranger, &good), unauthenticated).await;
    fixture.propose(IdentityCommand::Configure(known)).await;
    for (rights, has_rights) in [(any, true), (RIGHTS, false)] {
        let expected = |allowed| match allowed {
            Allowed::Anyone => Ok("anonymous"),
            Allowed::Coordinators | Allowed::Agents => Err(Code::PermissionDenied),
            Allowed::With(..) => either(has_rights, "user"),
        };
        let access = fixture.access(Enrolment::Proof, rights, false);
        check("a user", &access, (&stranger, &good), expected).await;
    }
    let other = fixture.access(Enrolment::Proof, RIGHTS, false);
    other.admit("/robeing.v1.Fleet/Submit", &stranger, &good).await.expect_err("it has no rights");
    assert_eq!(other.refusals.actors(), ["client/system:serviceaccount:default:s ()"], "it is no agent's name");
    // It is not known that the issuer's users are clients of this fleet.
    let access = Access { rights: ClientRights::CertifiedMayAll, ..access };
    let decided = decide(&access, "/robeing.v1.Admin/SetPools", &stranger, &good).await;
    assert_eq!(decided, Err(Code::PermissionDenied));

    let forged = Signer::new().token(NOW, None);
    let late = fixture.signer.token(NOW - 2 * 60 * 60 * 1_000, None);
    let mut malformed = HeaderMap::new();
    malformed.insert(http::header::AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
    for bad in [bearer(&forged), bearer(&late), bearer("x"), bearer(""), malformed] {
        // Even where callers without a token may read, one with a wrong token is refused.
        check("a wrong token", &access, (&stranger, &bad), unauthenticated).await;
    }
    // The certificate proves who the caller is, whatever token comes along.
    let worker = connection(Some((PeerRole::Worker, "w-0")));
    let decided = decide(&access, "/robeing.v1.Admin/SetPools", &worker, &good).await;
    assert_eq!(decided, Err(Code::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn while_a_fleet_moves_to_tls_whoever_has_no_certificate_is_trusted() {
    let fixture = Fixture::new().await;
    let access = fixture.access(Enrolment::Proof, RIGHTS, true);
    let plain = ConnectInfo::default();
    for connection in [&plain, &connection(None)] {
        check("plaintext", &access, (connection, &HeaderMap::new()), |_| Ok("plaintext")).await;
    }
}

pub(super) fn on_behalf_of(names: &[&str]) -> HeaderMap {
    names.iter().map(|name| (ON_BEHALF_OF.parse().expect("a name"), name.parse().expect("a value"))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_messenger_does_for_a_client_what_that_client_has_the_right_to_and_nothing_else() {
    let fixture = Fixture::new().await;
    let access = fixture.access(Enrolment::Open, RIGHTS, false);
    fixture.enrol("m-0", KEY).await;
    let messenger = connection(Some((PeerRole::Messenger, "m-0")));
    for (name, has_rights) in [("ann", true), ("bob", false), ("carol", false)] {
        let headers = on_behalf_of(&[name]);
        for (method, allowed) in TABLE {
            let expected = match allowed {
                // Neither what messengers may do themselves, nor administration, nor what no gateway needs.
                Allowed::With(..) if has_rights && is_for_gateways(method) => Ok(()),
                _ => Err(Code::PermissionDenied),
            };
            let decided = access.admit(method, &messenger, &headers).await;
            if let Ok(caller) = &decided {
                assert_eq!(caller.name(), format!("client/{name}"));
            }
            assert_eq!(decided.map(drop).map_err(|status| status.code()), expected, "{name} calls {method}");
        }
    }
    let long = "x".repeat(MAX_NAME_BYTES);
    assert_eq!(decide_for(&access, &[&long], &messenger).await, Err(Code::PermissionDenied), "it is a name");
    for bad in [&[""][..], &["a/b"], &["ann", "bob"], &[&format!("{long}x")]] {
        assert_eq!(decide_for(&access, bad, &messenger).await, Err(Code::InvalidArgument), "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_client_may_not_do_is_held_against_the_client_and_not_against_the_messenger() {
    let fixture = Fixture::new().await;
    let access = fixture.access(Enrolment::Open, RIGHTS, false);
    fixture.enrol("m-0", KEY).await;
    let messenger = connection(Some((PeerRole::Messenger, "m-0")));
    let headers = on_behalf_of(&["bob"]);
    for (method, actor) in [
        ("/robeing.v1.Fleet/Submit", "client/bob through messenger/m-0 ()"),
        // This the messenger should not have asked for.
        ("/robeing.v1.Admin/SetPools", "messenger/m-0 ()"),
    ] {
        access.admit(method, &messenger, &headers).await.expect_err("bob has no rights");
        assert_eq!(access.refusals.actors(), [actor], "{method}");
    }
}

async fn decide_for(access: &Access, names: &[&str], connection: &ConnectInfo) -> Result<(), Code> {
    let decided = access.admit("/robeing.v1.Fleet/Submit", connection, &on_behalf_of(names)).await;
    decided.map(drop).map_err(|status| status.code())
}

#[tokio::test(start_paused = true)]
async fn nobody_but_messengers_calls_on_behalf_of_others() {
    let fixture = Fixture::new().await;
    let access = fixture.access(Enrolment::Open, RIGHTS, false);
    let members = PeerRole::ALL.into_iter().filter(|role| *role != PeerRole::Messenger);
    for connection in members.map(|role| connection(Some((role, "x")))).chain([connection(None)]) {
        assert_eq!(decide_for(&access, &["ann"], &connection).await, Err(Code::PermissionDenied), "{connection:?}");
    }
    let (agent, by) = ("m-0".to_owned(), "test".to_owned());
    let bar = IdentityCommand::Bar { agent, kind: BarKind::Quarantined, reason: "odd".into(), by };
    fixture.propose(bar).await;
    let barred = connection(Some((PeerRole::Messenger, "m-0")));
    assert_eq!(decide_for(&access, &["ann"], &barred).await, Err(Code::PermissionDenied));
}
