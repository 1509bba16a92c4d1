//! Assembles a coordinator: only this module creates its handles, starts its tasks and builds its services. Every other
//! module receives just the handles that it uses.

mod ballots;
mod consensus;
mod directory;
mod fleet;
mod leading;
mod mail;
mod queues;
mod resources;
mod schedules;
mod teams;
#[cfg(test)]
mod tested;

use std::sync::Arc;

use robeing_net::{gate::gated, limited};
use robeing_proto::{
    FILE_DESCRIPTOR_SET,
    encoded::directory::directory_server::DirectoryServer,
    internal::v1::{
        enrolment_server::EnrolmentServer, guards_server::GuardsServer, logs_server::LogsServer,
        mailbox_server::MailboxServer, raft_server::RaftServer, session_server::SessionServer,
    },
    v1::{
        admin_server::AdminServer, ballots_server::BallotsServer, dead_letters_server::DeadLettersServer,
        fleet_server::FleetServer, messages_server::MessagesServer, queues_server::QueuesServer,
        resources_server::ResourcesServer, schedules_server::SchedulesServer, teams_server::TeamsServer,
    },
};
use robeing_settings::{BallotDefaults, CoordinatorConfig};
use robeing_telemetry::Metrics;
use tokio::sync::watch;
use tonic::service::Routes;
use tracing::{info, warn};

use self::consensus::{Consensus, election_timing};
#[cfg(test)]
pub use self::tested::Tested;
use crate::{
    CoordinatorError,
    api::{
        activity::Leading,
        admin::AdminService,
        directory::DirectoryService,
        flags::FlagPace,
        fleet::FleetService,
        guards::GuardReports,
        logs::LogsService,
        raft::RaftService,
        session::SessionService,
        trust::{Issuing, TrustAdmin},
    },
    apply::observer::ApplyObserver,
    archive::RecordReader,
    ballots::counters,
    clock::{self, FleetClock},
    data_dir::Identity,
    disk_space::{RoomWatch, Rooms},
    fleet_config,
    identity::{
        access::Access,
        enrolment::EnrolmentService,
        ongoing::OngoingCalls,
        pace::Pace,
        refusals::Refusals,
        room::{ENROLLING, Room},
        security::Security,
    },
    leader::{
        bootstrap::Bootstrap,
        describe::Descriptions,
        leader_watch::{LeaderConnections, LeaderLoss},
        membership_change::MembershipChange,
        recoveries,
        score::Scores,
        sessions::opening::SessionOpener,
        standing::Standing,
        transfer::Transfer,
    },
    lifetime::Lifetime,
    member::Member,
    members::Members,
    metrics,
    outside::Outside,
    policies::{CallerRights, Policies},
    propose::Proposer,
    raft::{ConsensusServer, RaftHandle, Restraint, SnapshotStats, log::Log},
    read::StateReader,
    unmet,
    upkeep::{self, SnapshotKeeper},
    warnings::Warnings,
};

/// A running coordinator that does not serve yet: what is needed to serve and to stop.
pub struct Assembled {
    /// Its services.
    pub routes: Routes,
    /// Its consensus.
    pub raft: RaftHandle,
    /// Transfers leadership.
    pub transfer: Transfer,
    /// Set to the reason why this coordinator must stop when a leader contradicts an entry that is applied here.
    pub contradicted: watch::Sender<Option<String>>,
    /// The handles that unit tests use.
    #[cfg(test)]
    pub tested: Tested,
}

/// What a coordinator found on its machine before it starts.
pub struct Local<'a> {
    /// Who it is, by its data directory.
    pub identity: &'a Identity,
    /// The address at which others reach it.
    pub address: String,
    /// Its log.
    pub log: Log,
}

/// Starts a coordinator and its tasks, which end with `lifetime`.
///
/// # Errors
/// The state can't be read, or consensus can't be started.
pub async fn assemble(
    config: &CoordinatorConfig,
    outside: Outside,
    security: Option<Security>,
    local: Local<'_>,
    metrics: &Metrics,
    lifetime: &Lifetime,
) -> Result<Assembled, CoordinatorError> {
    let Local { identity, address, log } = local;
    let consensus = Consensus::start(config, &outside, identity.node_id, &address, log, lifetime).await?;
    info!(name = config.name, node_id = format!("{:016x}", identity.node_id), address, "coordinator started");
    let member = Member::new(identity, address, outside.platform.host.pid());
    let rights = CallerRights(security.as_ref().map(|security| (security.rights.clone(), security.trust.clone())));
    let parts = Parts::new(consensus, member, outside, lifetime.clone(), rights, config.ballots, metrics);
    let restraint =
        Restraint::new(&parts.raft, election_timing(config), lifetime.tasks().clone(), lifetime.stop().clone());
    let connections = LeaderConnections::default();
    parts.start_membership(config);
    parts.start_leading(config, &connections, &restraint, metrics);
    parts.start_upkeep(config, metrics);
    let contradicted = watch::Sender::new(None);
    let consensus = parts.consensus_server(config, contradicted.clone(), restraint);
    let directory = parts.start_directory(security.as_ref());
    #[cfg(test)]
    let tested = parts.tested(directory.clone(), security.as_ref());
    let routes = parts.routes(consensus, connections, directory, security.as_ref(), metrics).await;
    let routes = match security {
        Some(security) => parts.secure(routes, security, metrics).await,
        None => routes,
    };
    Ok(Assembled {
        routes,
        #[cfg(test)]
        tested,
        raft: parts.raft,
        transfer: parts.change.transfer,
        contradicted,
    })
}

/// All handles of one coordinator during assembly. Nothing else has all of them; the functions below pick what each
/// module gets.
#[derive(Clone)]
struct Parts {
    member: Member,
    members: Members,
    standing: Standing,
    state: StateReader,
    descriptions: Descriptions,
    change: MembershipChange,
    proposer: Proposer,
    observer: Arc<ApplyObserver>,
    clock: FleetClock,
    raft: RaftHandle,
    log: Log,
    snapshots: Arc<SnapshotStats>,
    scores: Arc<Scores>,
    warnings: Arc<Warnings>,
    rooms: Arc<Rooms>,
    policies: Policies,
    rights: CallerRights,
    ballot_defaults: BallotDefaults,
    refusals: Refusals,
    outside: Outside,
    lifetime: Lifetime,
}

impl Parts {
    fn new(
        consensus: Consensus,
        member: Member,
        outside: Outside,
        lifetime: Lifetime,
        rights: CallerRights,
        ballot_defaults: BallotDefaults,
        metrics: &Metrics,
    ) -> Self {
        let Consensus { raft, log, fleet, observer, role, proposer, clock, snapshots, archive } = consensus;
        let standing = Standing::new(member.id(), raft.clone(), role, observer.sessions.timing.lease_margin());
        let members = Members::new(raft.clone());
        let records = RecordReader::new(archive, member.id(), members.clone(), &outside);
        let state = StateReader::new(fleet, Arc::clone(&observer), standing.clone(), records);
        let policies = Policies::new(state.clone(), Arc::clone(&observer), rights.clone(), metrics);
        let (scores, warnings, rooms): (Arc<Scores>, Arc<Warnings>, Arc<Rooms>) = Default::default();
        let descriptions = Descriptions {
            member: member.clone(),
            members: members.clone(),
            standing: standing.clone(),
            state: state.clone(),
            raft: raft.clone(),
            log: log.clone(),
            outside: outside.clone(),
            scores: Arc::clone(&scores),
            warnings: Arc::clone(&warnings),
            rooms: Arc::clone(&rooms),
        };
        let transfer = Transfer {
            member: member.clone(),
            members: members.clone(),
            standing: standing.clone(),
            descriptions: descriptions.clone(),
            raft: raft.clone(),
        };
        let change = MembershipChange {
            member: member.clone(),
            members: members.clone(),
            standing: standing.clone(),
            state: state.clone(),
            descriptions: descriptions.clone(),
            transfer,
            raft: raft.clone(),
            outside: outside.clone(),
            lifetime: lifetime.clone(),
        };
        Self {
            member,
            members,
            standing,
            state,
            descriptions,
            change,
            proposer,
            observer,
            clock,
            raft,
            log,
            snapshots,
            scores,
            warnings,
            rooms,
            policies,
            rights,
            ballot_defaults,
            refusals: Refusals::new(metrics),
            outside,
            lifetime,
        }
    }

    /// Starts the tasks that make this coordinator a member.
    fn start_membership(&self, config: &CoordinatorConfig) {
        let Self { member, members, standing, raft, outside, .. } = self.clone();
        let mut configured = config.initial_coordinators.clone();
        if configured.is_empty() {
            configured.push((config.name.clone(), member.address.to_string()));
        }
        let bootstrap = Bootstrap { member, members, standing, raft, outside };
        self.lifetime.spawn(bootstrap.clone().settle(configured));
        self.lifetime.spawn(bootstrap.notice_removal());
        if !self.member.identity.log_begun {
            let (observer, identity) = (Arc::clone(&self.observer), Arc::clone(&self.member.identity));
            self.lifetime.spawn(upkeep::note_log_begun(observer, identity, self.outside.clone(), config.data.clone()));
        }
    }

    /// Starts the tasks that make this coordinator the leader, and those that it runs as leader.
    fn start_leading(
        &self,
        config: &CoordinatorConfig,
        connections: &LeaderConnections,
        restraint: &Restraint,
        metrics: &Metrics,
    ) {
        let lifetime = &self.lifetime;
        lifetime.spawn(self.leader_loss(config, connections.clone(), restraint.clone()).run());
        lifetime.spawn(self.contact_keeper().run());
        lifetime.spawn(self.stall_watch().run());
        lifetime.spawn(self.failure_detector().run());
        self.observer.recoveries.register(metrics);
        self.observer.shortages.register(metrics);
        self.observer.ballot_counters.register(metrics);
        lifetime.spawn(self.observer.shortages.clone().run(self.proposer.clone()));
        lifetime.spawn(recoveries::run(self.standing.clone(), Arc::clone(&self.observer)));
        lifetime.spawn(counters::run(self.standing.clone(), Arc::clone(&self.observer)));
        lifetime.spawn(self.score_keeper().run());
        lifetime.spawn(self.version_raiser().run());
        lifetime.spawn(self.schedule_firer().run());
    }

    /// Starts the maintenance tasks: clock, timers, disk space, snapshots, fleet configuration and metrics.
    fn start_upkeep(&self, config: &CoordinatorConfig, metrics: &Metrics) {
        let Self { member, members, standing, state, proposer, observer, clock, log, .. } = self.clone();
        let Self { raft, snapshots, warnings, rooms, outside, lifetime, .. } = self.clone();
        lifetime.spawn(clock::run(clock.clone(), standing.clone(), members.clone()));
        lifetime.spawn(clock::compare(clock.clone(), member.clone(), Arc::clone(&warnings), metrics.clone()));
        lifetime.spawn(upkeep::timers(standing.clone(), state.clone(), proposer.clone(), clock, Arc::clone(&observer)));
        let room = RoomWatch {
            member,
            state: state.clone(),
            rooms: Arc::clone(&rooms),
            warnings,
            disk: outside.platform.disk,
            dir: config.data.clone(),
        };
        lifetime.spawn(room.run());
        let keeper = SnapshotKeeper {
            raft,
            log: log.clone(),
            state: state.clone(),
            rooms: Arc::clone(&rooms),
            stats: Arc::clone(&snapshots),
            after_entries: config.snapshot_after,
        };
        lifetime.spawn(keeper.run());
        lifetime.spawn(self.policies.clone().run(proposer.clone()));
        lifetime.spawn(unmet::run(state.clone(), metrics.clone()));
        lifetime.spawn(upkeep::configuration(standing.clone(), state.clone(), proposer, fleet_config(config)));
        let sources = metrics::Sources { standing, members, state, observer, log, rooms, snapshots };
        lifetime.spawn(metrics::run(sources, metrics.clone()));
    }

    fn leader_loss(
        &self,
        config: &CoordinatorConfig,
        connections: LeaderConnections,
        restraint: Restraint,
    ) -> LeaderLoss {
        let Self { member, standing, members, outside, raft, .. } = self.clone();
        let timing = election_timing(config);
        LeaderLoss { own: member.id(), connections, standing, members, outside, raft, timing, restraint }
    }

    fn consensus_server(
        &self,
        config: &CoordinatorConfig,
        contradicted: watch::Sender<Option<String>>,
        restraint: Restraint,
    ) -> ConsensusServer {
        let Self { member, state, raft, log, clock, outside, .. } = self.clone();
        let seed = outside.platform.random.next_u64();
        let (disk, dir) = (outside.platform.disk, config.data.clone());
        let (archive, peers) = (state.records().archive.clone(), outside.peers);
        ConsensusServer { id: member.id(), raft, log, contradicted, disk, dir, archive, peers, clock, seed, restraint }
    }

    fn session_service(&self) -> SessionService {
        let Self { member, members, standing, state, proposer, observer, clock, policies, outside, lifetime, .. } =
            self.clone();
        let opener = SessionOpener {
            members: members.clone(),
            standing: standing.clone(),
            state: state.clone(),
            proposer: proposer.clone(),
            observer: Arc::clone(&observer),
            transport: outside.transport,
        };
        let refusals = self.refusals.clone();
        SessionService {
            member,
            members,
            standing,
            state,
            proposer,
            observer,
            clock,
            opener,
            policies,
            refusals,
            lifetime,
        }
    }

    fn guard_reports(&self) -> GuardReports {
        let Self { member, lifetime, .. } = self.clone();
        GuardReports { member, detector: self.failure_detector(), lifetime }
    }

    fn admin_service(&self, security: Option<&Security>, metrics: &Metrics) -> AdminService {
        let Self { member, state, standing, proposer, outside, change, observer, .. } = self.clone();
        let leading = Leading { change, state: state.clone(), observer };
        let issuing = security.map(|security| Issuing {
            trust: security.trust.clone(),
            clock: Arc::clone(&security.clock),
            realm: security.realm.clone(),
        });
        let trust = TrustAdmin { member, state, proposer: proposer.clone(), issuing, flags: FlagPace::default() };
        AdminService::new(standing, proposer, outside.transport, leading, trust, metrics)
    }

    /// Puts the services behind the gate, adds the one for enrolment, and starts what keeps certificates up to date.
    async fn secure(&self, routes: Routes, security: Security, metrics: &Metrics) -> Routes {
        let Self { member, state, proposer, observer, clock, warnings, refusals, lifetime, .. } = self.clone();
        lifetime.spawn(refusals.clone().run(proposer.clone()));
        let enrolment = EnrolmentService {
            member,
            realm: security.realm.clone(),
            trust: security.trust.clone(),
            reviewer: security.reviewer.clone(),
            clock: Arc::clone(&security.clock),
            state: state.clone(),
            proposer,
            refusals: refusals.clone(),
            room: Room::new(ENROLLING),
            pace: Pace::default(),
            shortages: observer.shortages.clone(),
        };
        let access = Access {
            state: state.clone(),
            clock: Arc::clone(&security.clock),
            trust: security.trust.clone(),
            reviewer: security.reviewer.clone(),
            rights: security.rights.clone(),
            trusts_plaintext: security.tls.is_permissive(),
            refusals,
            calls: OngoingCalls::default(),
        };
        let access = Arc::new(access);
        lifetime.spawn(Arc::clone(&access).follow_bars(observer));
        lifetime.spawn(Arc::clone(&access).follow_rights());
        security.start(state, clock, warnings, metrics, &lifetime);
        gated(routes.add_service(limited!(EnrolmentServer::new(enrolment))), access)
    }

    fn raft_service(&self, consensus: ConsensusServer, connections: LeaderConnections) -> RaftService {
        let Self { standing, proposer, change, descriptions, lifetime, .. } = self.clone();
        RaftService { consensus, connections, standing, proposer, change, descriptions, lifetime }
    }

    async fn routes(
        &self,
        consensus: ConsensusServer,
        connections: LeaderConnections,
        directory: DirectoryService,
        security: Option<&Security>,
        metrics: &Metrics,
    ) -> Routes {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<FleetServer<FleetService>>().await;
        health.set_serving::<AdminServer<AdminService>>().await;
        let mut routes = Routes::builder();
        routes
            .add_service(limited!(FleetServer::new(self.fleet_service(security))))
            .add_service(limited!(DeadLettersServer::new(self.dead_letters_service())))
            .add_service(limited!(LogsServer::new(LogsService(self.leader_logs()))))
            .add_service(limited!(DirectoryServer::new(directory)))
            .add_service(limited!(SessionServer::new(self.session_service())))
            .add_service(limited!(GuardsServer::new(self.guard_reports())))
            .add_service(limited!(MessagesServer::new(self.messages_service())))
            .add_service(limited!(MailboxServer::new(self.mailbox_service())))
            .add_service(limited!(BallotsServer::new(self.ballots_service(security))))
            .add_service(limited!(TeamsServer::new(self.teams_service())))
            .add_service(limited!(ResourcesServer::new(self.resources_service())))
            .add_service(limited!(QueuesServer::new(self.queues_service())))
            .add_service(limited!(SchedulesServer::new(self.schedules_service())))
            .add_service(limited!(AdminServer::new(self.admin_service(security, metrics))))
            .add_service(limited!(RaftServer::new(self.raft_service(consensus, connections))))
            .add_service(health_service);
        match robeing_net::reflection(&[FILE_DESCRIPTOR_SET]) {
            Ok(reflection) => {
                routes.add_service(reflection);
            }
            Err(error) => warn!(%error, "gRPC reflection is not available"),
        }
        routes.routes()
    }
}
