//! The coordinator's Prometheus metrics, refreshed every second.

mod queues;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use robeing_fleet::Resource;
use robeing_telemetry::Metrics;

use self::queues::QueueGauges;
use crate::{
    apply::observer::ApplyObserver,
    disk_space::Rooms,
    leader::standing::Standing,
    members::Members,
    raft::{SnapshotStats, log::Log},
    read::StateReader,
    teams::figures::TeamFigures,
};

const REFRESH: Duration = Duration::from_secs(1);

/// Converts a count for a gauge.
pub fn gauged(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The sources of the metrics.
pub struct Sources {
    pub standing: Standing,
    pub members: Members,
    pub state: StateReader,
    pub observer: Arc<ApplyObserver>,
    pub log: Log,
    pub rooms: Arc<Rooms>,
    pub snapshots: Arc<SnapshotStats>,
}

/// The metrics of messages through the coordinators, of ballots, of teams, of queues, and of the resource pool. Votes, and
/// ballots that close, are counted in [`ballots::counters`](crate::ballots::counters).
struct DomainGauges {
    waiting: Gauge,
    bytes: Gauge,
    mailboxes: Gauge,
    ballots: Gauge,
    teams: Gauge,
    degraded_teams: Gauge,
    team_members: Gauge,
    of_teams: TeamFigures,
    of_queues: QueueGauges,
    resources: ResourceGauges,
    archived: Gauge,
    missing: Gauge,
}

impl DomainGauges {
    fn new(metrics: &Metrics) -> Self {
        Self {
            waiting: metrics
                .gauge("letters_waiting", "Messages through the coordinators that wait for their receivers"),
            bytes: metrics.gauge("letter_bytes", "Bytes of messages through the coordinators and of their replies"),
            mailboxes: metrics.gauge("mailboxes_open", "Mailboxes that agents have open at this coordinator"),
            ballots: metrics.gauge("ballots_open", "Ballots that are open"),
            teams: metrics.gauge("teams_active", "Teams with all members and a path between every two of them"),
            degraded_teams: metrics.gauge("teams_degraded", "Teams that lack members or paths"),
            team_members: metrics.gauge("team_members", "Agents that are in a team"),
            of_teams: TeamFigures::register(metrics),
            of_queues: QueueGauges::register(metrics),
            resources: ResourceGauges::new(metrics),
            archived: metrics.gauge("results_archived", "Results that are kept on disk alone"),
            missing: metrics.gauge(
                "archive_records_missing",
                "Reads of results that are missing or damaged in this coordinator's archive, since the start",
            ),
        }
    }

    fn refresh(&self, state: &StateReader, observer: &ApplyObserver) {
        let (counts, ballots, teams) =
            state.look(|fleet| (fleet.mail_counts(), fleet.ballot_counts(), fleet.team_counts()));
        self.waiting.set(counts.waiting.into());
        self.bytes.set((counts.bytes + counts.reply_bytes) as i64);
        self.mailboxes.set(observer.mailboxes.len() as i64);
        self.ballots.set(ballots.open.into());
        self.teams.set(teams.active.into());
        self.degraded_teams.set(teams.degraded.into());
        self.team_members.set(teams.members.into());
        self.archived.set(state.look(|fleet| fleet.archived_count()) as i64);
        self.missing.set(state.records().archive.missing() as i64);
        self.of_teams.refresh(state);
        self.of_queues.refresh(state);
        self.resources.refresh(state);
    }
}

/// The metrics of the resource pool.
struct ResourceGauges {
    contributed: [Gauge; 4],
    used: [Gauge; 4],
    waiting: Gauge,
    granted: Gauge,
}

impl ResourceGauges {
    fn new(metrics: &Metrics) -> Self {
        let each = |what: &str, help: &str| {
            Resource::ALL.map(|resource| {
                let unit = match resource {
                    Resource::Cpu => "millis",
                    Resource::Memory | Resource::Storage => "bytes",
                    Resource::Bandwidth => "bits_per_second",
                };
                metrics.gauge(&format!("resources_{what}_{}_{unit}", resource.name()), help)
            })
        };
        Self {
            contributed: each("contributed", "What agents contribute to the resource pool"),
            used: each("used", "What is granted of the resource pool"),
            waiting: metrics.gauge("allocations_waiting", "Requests for resources that wait"),
            granted: metrics.gauge("allocations_granted", "Allocations of resources that are granted"),
        }
    }

    fn refresh(&self, state: &StateReader) {
        let sums = state.look(|fleet| fleet.pool_sums());
        for (gauges, amounts) in [(&self.contributed, sums.contributed), (&self.used, sums.used)] {
            for (gauge, resource) in gauges.iter().zip(Resource::ALL) {
                gauge.set(gauged(amounts.get(resource)));
            }
        }
        self.waiting.set(sums.waiting.into());
        self.granted.set(sums.granted.into());
    }
}

/// Keeps the metrics up to date until the coordinator stops.
pub async fn run(sources: Sources, metrics: Metrics) {
    let Sources { standing, members, state, observer, log, rooms, snapshots } = sources;
    let gauge = |name: &str, help: &str| -> Gauge { metrics.gauge(name, help) };
    let leading = gauge("coordinator_leading", "1 while this coordinator leads");
    let voters = gauge("coordinators_voting", "Coordinators with a vote, according to this one");
    let learners = gauge("coordinators_learning", "Learners: coordinators that replicate the log and have no vote yet");
    let queued = gauge("tasks_queued", "Queued tasks");
    let running = gauge("tasks_running", "Running tasks");
    let succeeded = gauge("tasks_succeeded", "Tasks that succeeded since the fleet began");
    let failed = gauge("tasks_failed", "Tasks that failed or were dead-lettered since the fleet began");
    let redistributed = gauge("tasks_redistributed", "Attempts taken from lost agents since the fleet began");
    let stale = gauge("completions_stale", "Completions refused because their attempt was not current");
    let live = gauge("agents_live", "Live agents");
    let standby = gauge("agents_standby", "Standby agents");
    let unhealthy = gauge("agents_unhealthy", "Agents that failed their health checks and get no tasks");
    let lost = gauge("agents_lost", "Lost agents that are still kept in the state");
    let stored = gauge("stored_bytes", "Bytes of inputs and outputs held");
    let applied = gauge("log_applied_index", "Index of the newest log entry applied");
    let entries = gauge("log_entries", "Log entries appended since the start");
    let syncs = gauge("log_syncs", "Syncs of the log since the start");
    let bytes = gauge("log_written_bytes", "Bytes written to the log since the start");
    let free = gauge("disk_free_bytes", "Bytes free on the disk of the data directory");
    let needed = gauge("disk_needed_bytes", "Bytes that must be free there to finish what was accepted");
    let short = gauge("disk_short", "1 while fewer bytes are free than needed");
    let skipped = gauge("snapshots_skipped", "Snapshots skipped for lack of room since the start");
    let domains = DomainGauges::new(&metrics);
    loop {
        domains.refresh(&state, &observer);
        let (counts, totals, agents, held) =
            state.look(|fleet| (fleet.counts(), *fleet.totals(), fleet.agent_counts(), fleet.stored_bytes()));
        leading.set(i64::from(standing.term().is_some()));
        metrics.readiness().set(standing.is_ready());
        let known = members.all();
        let with_vote = known.iter().filter(|(_, _, voter)| *voter).count();
        voters.set(with_vote as i64);
        learners.set((known.len() - with_vote) as i64);
        queued.set(counts.queued.into());
        running.set(counts.assigned.into());
        succeeded.set(totals.succeeded as i64);
        failed.set((totals.failed + totals.dead_lettered) as i64);
        redistributed.set(totals.redistributed as i64);
        stale.set(totals.stale_refused as i64);
        live.set(agents.live.into());
        standby.set(agents.standby.into());
        unhealthy.set(agents.unhealthy.into());
        lost.set(agents.lost.into());
        stored.set(held as i64);
        applied.set(*observer.applied_indexes().borrow() as i64 - 1);
        let written = log.stats();
        entries.set(written.entries.load(Ordering::Relaxed) as i64);
        syncs.set(written.syncs.load(Ordering::Relaxed) as i64);
        bytes.set(written.bytes.load(Ordering::Relaxed) as i64);
        let room = rooms.own();
        free.set(gauged(room.free));
        needed.set(gauged(room.needed));
        short.set(room.short.into());
        skipped.set(snapshots.skipped.load(Ordering::Relaxed) as i64);
        tokio::time::sleep(REFRESH).await;
    }
}
