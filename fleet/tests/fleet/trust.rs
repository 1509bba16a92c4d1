//! The domains of identities and of the audit log in the simplest form, as a check of every history: lists that are
//! searched from end to end.

use std::sync::Arc;

use proptest::prelude::*;
use robeing_fleet::{
    AgentCommand, AgentState, AuditCommand, AuditEntry, AuditOutcome, AuditRecord, BarKind, Command, ControlCommand,
    Effect, Enrol, EnrolmentMode, FIRST_VERSION, Feature, Fleet, IdentityCommand, IdentityConfig, KindCommand,
    PolicyCommand, PoolTrust, ProofKind, Refusal, Reply, SingleUse, Stamp, StoredPolicy, TaskKind,
    limits::{DEFAULT_QUEUE, MAX_PAGE, MAX_PROOFS_FORGOTTEN, SPENT_PROOF_GRACE_MS},
};

use crate::{
    life::Before,
    ops::{ROLES, name_of},
};

prop_compose! {
    fn enrol()(
        agent in 0..9u8, role in 0..4usize, pool in prop::option::of(0..2u8), key in 0..3u8, proof in 0..4usize,
        single_use in prop::option::of(0..8u8), names_agent in any::<bool>(),
    ) -> Enrol {
        let kinds = [ProofKind::ServiceAccount, ProofKind::PoolSecret, ProofKind::JoinToken, ProofKind::Open];
        Enrol {
            agent: name_of(agent),
            role: ROLES[role],
            pool: pool.map(|n| format!("pool-{n}")),
            key: [key; 32],
            proof: kinds[proof],
            single_use: single_use.map(|id| SingleUse { id: [id; 32], expires: u64::from(id) * 300_000 }),
            names_agent,
        }
    }
}

prop_compose! {
    fn trusted()(open in any::<bool>(), pools in prop::collection::vec(0..3u8, 0..3)) -> IdentityConfig {
        let trust = |n: u8| PoolTrust {
            pool: format!("pool-{n}"),
            role: ROLES[0],
            service_accounts: Vec::new(),
            secrets: vec![[n; 32]],
        };
        IdentityConfig {
            bundle: String::new(),
            enrolment: if open { EnrolmentMode::Open } else { EnrolmentMode::Proof },
            issuers: Vec::new(),
            // A pool that is there twice is refused.
            pools: pools.into_iter().map(trust).collect(),
        }
    }
}

fn entries() -> impl Strategy<Value = Vec<AuditEntry>> {
    let outcome = prop::sample::select(vec![AuditOutcome::Allowed, AuditOutcome::Denied, AuditOutcome::Failed]);
    let entry = (0..9u8, outcome).prop_map(|(agent, outcome)| AuditEntry {
        actor: name_of(agent),
        action: "message.send".to_owned(),
        subject: "everyone".to_owned(),
        outcome,
        detail: String::new(),
    });
    prop::collection::vec(entry, 0..4)
}

/// Commands of the domains that have a twin.
/// Sometimes two have the same name, and are refused.
fn policies() -> impl Strategy<Value = PolicyCommand> {
    let names = prop::collection::vec(prop::sample::select(vec!["p", "q", "r"]), 0..3);
    names.prop_map(|names| {
        let policies = names.into_iter().map(|name| StoredPolicy { name: name.to_owned(), json: "{}".to_owned() });
        PolicyCommand::Set { policies: policies.collect(), by: "carol".to_owned() }
    })
}

pub fn command() -> impl Strategy<Value = Command> {
    let by = || prop::sample::select(vec!["carol".to_owned(), "dave".to_owned()]);
    let bar = (0..10u8, any::<bool>(), by()).prop_map(|(agent, removed, by)| IdentityCommand::Bar {
        // Some have no name and are refused.
        agent: if agent < 9 { name_of(agent) } else { String::new() },
        kind: if removed { BarKind::Removed } else { BarKind::Quarantined },
        reason: "history".to_owned(),
        by,
    });
    let release = (0..9u8, by()).prop_map(|(agent, by)| IdentityCommand::Release { agent: name_of(agent), by });
    prop_oneof![
        8 => enrol().prop_map(|enrol| Command::Identity(IdentityCommand::Enrol(enrol))),
        2 => bar.prop_map(Command::Identity),
        4 => release.prop_map(Command::Identity),
        1 => trusted().prop_map(|config| Command::Identity(IdentityCommand::Configure(config))),
        1 => policies().prop_map(Command::Policy),
        1 => entries().prop_map(|entries| Command::Audit(AuditCommand::Record(entries))),
    ]
}

/// The content of a record: actor, action, subject, outcome, time.
type Told = (String, String, String, AuditOutcome, Stamp);

/// What the domains should contain.
pub struct Twin {
    version: u32,
    config: Option<IdentityConfig>,
    enrolled: Vec<(u64, Enrol, Stamp)>,
    spent: Vec<SingleUse>,
    forgotten_until: u64,
    bars: Vec<(String, BarKind, Stamp, String)>,
    records: Vec<Told>,
    epoch: u64,
    policies: Option<Vec<StoredPolicy>>,
    kinds: Option<Vec<TaskKind>>,
}

impl Default for Twin {
    fn default() -> Self {
        Twin {
            version: FIRST_VERSION,
            config: None,
            enrolled: Vec::new(),
            spent: Vec::new(),
            forgotten_until: 0,
            bars: Vec::new(),
            records: Vec::new(),
            epoch: 0,
            policies: None,
            kinds: None,
        }
    }
}

fn forgotten_at(proof: &SingleUse) -> u64 {
    proof.expires + SPENT_PROOF_GRACE_MS
}

impl Twin {
    /// Does what a command should do, and compares the reply, the effects and the state.
    pub fn check(&mut self, before: &Before, fleet: &Fleet, (command, reply): (&Command, &Reply), effects: &[Effect]) {
        let now = fleet.now();
        let changed = effects.iter().filter(|effect| **effect == Effect::TrustChanged).count();
        let mut changes = false;
        match command {
            Command::Control(ControlCommand::RaiseVersion(version)) if *reply == Reply::Done => self.version = *version,
            Command::Agent(AgentCommand::Joined(join))
                if (join.sealing_key.is_some() && self.version < Feature::Mail.since())
                    || (join.contributed.is_some() && self.version < Feature::Resources.since())
                    || (join.lacks_store && self.version < Feature::Blobs.since()) =>
            {
                assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
            }
            Command::Agent(AgentCommand::Joined(join)) if join.check().is_ok() => {
                let barred = self.bar_of(&join.name);
                assert_eq!(matches!(reply, Reply::Refused(Refusal::Barred { .. })), barred.is_some(), "{reply:?}");
            }
            Command::Identity(_) | Command::Audit(_) if self.version < Feature::Identity.since() => {
                assert!(matches!(reply, Reply::Refused(Refusal::NotInForce { .. })), "{reply:?}");
            }
            Command::Identity(command) => {
                let known = (self.enrolled.len(), self.epoch, self.bars.clone(), self.config.clone());
                let expected = self.identity(before, command, now);
                assert_eq!(*reply, expected, "{command:?}");
                changes = known != (self.enrolled.len(), self.epoch, self.bars.clone(), self.config.clone());
            }
            Command::Policy(_) if self.version < Feature::Policies.since() => {
                assert!(matches!(reply, Reply::Refused(Refusal::NotInForce { .. })), "{reply:?}");
            }
            Command::Policy(PolicyCommand::Set { policies, by }) => self.set_policies(policies, by, reply, fleet),
            Command::Kind(_) if self.version < Feature::Kinds.since() => {
                assert!(matches!(reply, Reply::Refused(Refusal::NotInForce { .. })), "{reply:?}");
            }
            Command::Kind(KindCommand::Set { kinds, by }) => self.set_kinds(kinds, by, reply, fleet),
            Command::Audit(AuditCommand::Record(entries)) => {
                for AuditEntry { actor, action, subject, outcome, .. } in entries.clone() {
                    self.records.push((actor, action, subject, outcome, now));
                }
            }
            _ => {}
        }
        assert_eq!(changed, usize::from(changes), "{command:?}");
        self.compare(fleet);
    }

    fn set_policies(&mut self, policies: &[StoredPolicy], by: &str, reply: &Reply, fleet: &Fleet) {
        let subject = (by, "policies.set", "policies");
        if let Err(refusal) = StoredPolicy::check_all(policies) {
            self.told(subject, AuditOutcome::Failed, fleet.now());
            assert_eq!(*reply, Reply::Refused(refusal));
            return;
        }
        let revision = fleet.policies().map_or(0, |list| list.revision);
        assert_eq!(*reply, Reply::PoliciesSet { revision });
        if self.policies.as_deref().unwrap_or_default() != policies {
            assert_eq!(revision, fleet.revision());
            self.told(subject, AuditOutcome::Done, fleet.now());
            self.policies = Some(policies.to_vec());
        }
    }

    /// Those that name a queue which is not set are refused.
    fn set_kinds(&mut self, kinds: &[TaskKind], by: &str, reply: &Reply, fleet: &Fleet) {
        let subject = (by, "kinds.set", "kinds");
        let Reply::KindsSet { revision } = reply else {
            let is_of_tasks = |name: &str| fleet.task_queue(name).is_some_and(|of| of.rules.is_some());
            let is_of_pool = |name: &str| fleet.resource_queues().iter().any(|of| of.name == name);
            let is_known = |name: &str| name == DEFAULT_QUEUE || is_of_pool(name) || is_of_tasks(name);
            let named = |kind: &TaskKind| match &kind.resources {
                Some(resources) => resources.queue.clone(),
                None => kind.queue.clone(),
            };
            let unknown = kinds.iter().map(named).any(|queue| !queue.is_empty() && !is_known(&queue));
            assert!(unknown || TaskKind::check_all(kinds).is_err(), "{reply:?}");
            return self.told(subject, AuditOutcome::Failed, fleet.now());
        };
        let mut sorted = kinds.to_vec();
        sorted.sort_by(|one, other| one.name.cmp(&other.name));
        assert_eq!(fleet.task_kinds().map_or(0, |list| list.revision), *revision);
        if self.kinds.as_deref().unwrap_or_default() != sorted {
            assert_eq!(*revision, fleet.revision());
            self.told(subject, AuditOutcome::Done, fleet.now());
            self.kinds = Some(sorted);
        }
    }

    fn bar_of(&self, agent: &str) -> Option<&(String, BarKind, Stamp, String)> {
        self.bars.iter().find(|bar| bar.0 == agent)
    }

    fn told(&mut self, (actor, action, subject): (&str, &str, &str), outcome: AuditOutcome, now: Stamp) {
        self.records.push((actor.to_owned(), action.to_owned(), subject.to_owned(), outcome, now));
    }

    fn identity(&mut self, before: &Before, command: &IdentityCommand, now: Stamp) -> Reply {
        let mut due: Vec<SingleUse> = self.spent.clone();
        due.retain(|proof| forgotten_at(proof) <= now.wall);
        due.sort_by_key(forgotten_at);
        due.truncate(MAX_PROOFS_FORGOTTEN);
        self.spent.retain(|proof| !due.contains(proof));
        self.forgotten_until = due.iter().map(forgotten_at).fold(self.forgotten_until, u64::max);
        match command {
            IdentityCommand::Configure(config) => {
                let subject = ("administrator", "identity.configure", "identity");
                match config.check() {
                    Err(refusal) => {
                        self.told(subject, AuditOutcome::Failed, now);
                        return Reply::Refused(refusal);
                    }
                    Ok(()) if self.config.as_ref() != Some(config) => {
                        self.told(subject, AuditOutcome::Done, now);
                        self.config = Some(config.clone());
                    }
                    Ok(()) => {}
                }
                Reply::Done
            }
            IdentityCommand::Enrol(enrol) => self.enrol(before, enrol, now),
            IdentityCommand::Bar { agent, kind, reason, by } => {
                let action = if *kind == BarKind::Removed { "agent.remove" } else { "agent.quarantine" };
                if self.bar_of(agent).is_some_and(|bar| bar.1 == *kind) {
                    return Reply::Done;
                }
                if agent.is_empty() {
                    self.told((by, action, agent), AuditOutcome::Failed, now);
                    let (field, problem) = ("agent".to_owned(), "must not be empty".to_owned());
                    return Reply::Refused(Refusal::Invalid { field, problem });
                }
                self.bars.retain(|bar| bar.0 != *agent);
                self.bars.push((agent.clone(), *kind, now, reason.clone()));
                if *kind == BarKind::Removed {
                    self.enrolled.retain(|(_, enrolled, _)| enrolled.agent != *agent);
                }
                self.told((by, action, agent), AuditOutcome::Done, now);
                Reply::Done
            }
            IdentityCommand::Release { agent, by } => {
                if self.bar_of(agent).is_some() {
                    self.bars.retain(|bar| bar.0 != *agent);
                    self.told((by, "agent.release", agent), AuditOutcome::Done, now);
                }
                Reply::Done
            }
        }
    }

    fn enrol(&mut self, before: &Before, enrol: &Enrol, now: Stamp) -> Reply {
        let known = self.enrolled.iter().find(|(_, known, _)| known.agent == enrol.agent);
        let same = |known: &Enrol| Enrol { names_agent: enrol.names_agent, ..known.clone() } == *enrol;
        if let Some((epoch, ..)) = known.filter(|(_, known, _)| same(known) && self.bar_of(&enrol.agent).is_none()) {
            return Reply::Enrolled { epoch: *epoch };
        }
        let agent = enrol.agent.clone();
        let live = before.agents.values().any(|known| *known.name == *agent && known.state != AgentState::Lost);
        let holder = known.filter(|(_, known, _)| live && known.key != enrol.key && !enrol.names_agent);
        let spent = |id| self.spent.iter().any(|spent| spent.id == id);
        let wants_proof = self.config.as_ref().is_some_and(|config| config.enrolment == EnrolmentMode::Proof);
        let refusal = match (self.bar_of(&agent), enrol.single_use) {
            (Some((_, kind, at, reason)), _) => {
                let by = self.records.iter().rev().find(|told| told.2 == agent && told.3 == AuditOutcome::Done);
                let (kind, since, reason) = (*kind, at.wall, reason.clone());
                let by = by.expect("it was barred").0.clone();
                Some(Refusal::Barred { agent: agent.clone(), kind, since, reason, by })
            }
            _ if wants_proof && enrol.proof == ProofKind::Open => Some(Refusal::OpenEnrolmentOff),
            (_, Some(proof)) if spent(proof.id) => Some(Refusal::ProofSpent { agent: agent.clone() }),
            (_, Some(proof)) if forgotten_at(&proof) <= now.wall.max(self.forgotten_until) => {
                Some(Refusal::ProofExpired { expired: proof.expires })
            }
            _ => holder.map(|(_, _, at)| Refusal::NameHeld { agent: agent.clone(), since: at.wall }),
        };
        if let Some(refusal) = refusal {
            self.told((&agent, "agent.enrol", &agent), AuditOutcome::Denied, now);
            return Reply::Refused(refusal);
        }
        self.spent.extend(enrol.single_use);
        self.epoch += 1;
        self.enrolled.retain(|(_, known, _)| known.agent != agent);
        self.enrolled.push((self.epoch, enrol.clone(), now));
        self.told((&agent, "agent.enrol", &agent), AuditOutcome::Allowed, now);
        Reply::Enrolled { epoch: self.epoch }
    }

    fn compare(&self, fleet: &Fleet) {
        assert_eq!(fleet.policies().map(|list| &list.policies), self.policies.as_ref());
        assert_eq!(fleet.task_kinds().map(|list| &list.kinds), self.kinds.as_ref());
        assert_eq!(fleet.identity_config().map(AsRef::as_ref), self.config.as_ref());
        assert_eq!(fleet.spent_proofs(), self.spent.len());
        let known = fleet.enrolments_after(0).zip(&self.enrolled);
        for (found, (epoch, enrol, at)) in known {
            let of_enrol = (&*enrol.agent, enrol.role, &enrol.pool, enrol.key, enrol.proof, enrol.single_use);
            let found_of = (&*found.agent, found.role, &found.pool, found.key, found.proof, found.single_use);
            assert_eq!((found.epoch, found.at, found_of), (*epoch, *at, of_enrol));
            assert_eq!(fleet.enrolment_of(&enrol.agent), Some(found));
        }
        assert_eq!(fleet.enrolments_after(0).count(), self.enrolled.len());
        let bars: Vec<_> =
            fleet.bars().map(|bar| (bar.agent.to_string(), bar.kind, bar.at, bar.reason.clone())).collect();
        assert_eq!(bars, self.bars);
        for (agent, kind, ..) in &self.bars {
            let known = fleet.agent_by_name(agent).map(|agent| agent.state);
            let allowed = if *kind == BarKind::Removed { None } else { known.and(Some(AgentState::Lost)) };
            assert_eq!(known, allowed, "{agent} is barred");
        }
        // Those of outvoted agents and of dead letters are checked elsewhere.
        let is_checked =
            |record: &&Arc<AuditRecord>| !matches!(&*record.action, "result.outvoted" | "dead.retry" | "dead.drop");
        let told = fleet.audit_records(0, MAX_PAGE).filter(is_checked).map(|record| {
            let [actor, action, subject] = [&record.actor, &record.action, &record.subject].map(String::clone);
            (actor, action, subject, record.outcome, record.at)
        });
        assert_eq!(told.collect::<Vec<_>>(), self.records);
        let others = fleet.audit_records(0, MAX_PAGE).filter(|record| !is_checked(record)).count();
        assert_eq!(fleet.audit_last(), (self.records.len() + others) as u64);
    }
}
