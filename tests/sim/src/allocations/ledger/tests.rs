use robeing_proto::v1::{AgentResources, ResourceAmounts, ResourceSums, allocation::Part};

use super::*;
use crate::allocations::draft::DEFAULT;

const LEASE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(20);

fn of(cpu_millis: u64) -> ResourceAmounts {
    ResourceAmounts { cpu_millis, ..ResourceAmounts::default() }
}

fn draft(wait: Duration) -> Draft {
    let holder = "agent:c".to_owned();
    Draft { holder, queue: DEFAULT, parts: vec![of(3_000), of(1_000)], spread: true, lease: LEASE, wait }
}

fn ledger(ids: &[&str]) -> AllocationLedger {
    let mut ledger = AllocationLedger::default();
    ids.iter().for_each(|id| ledger.asks(Duration::ZERO, id, draft(Duration::ZERO)));
    ledger
}

/// Returns an allocation of that ledger, whose parts these agents give.
fn told(id: &str, state: AllocationState, token: u64, agents: [&str; 2]) -> v1::Allocation {
    let part = |(cpu, agent): (u64, &str)| Part { amounts: Some(of(cpu)), agent: agent.to_owned() };
    v1::Allocation {
        id: id.to_owned(),
        holder: "agent:c".to_owned(),
        queue: "default".to_owned(),
        parts: [3_000, 1_000].into_iter().zip(agents).map(part).collect(),
        spread: true,
        lease_ms: LEASE.as_millis() as u64,
        state: state.into(),
        token,
        ..v1::Allocation::default()
    }
}

fn granted(id: &str, token: u64) -> v1::Allocation {
    told(id, AllocationState::Granted, token, ["a", "b"])
}

fn ended(state: AllocationState) -> v1::Allocation {
    told("1", state, 0, ["a", "b"])
}

fn check(ledger: &mut AllocationLedger, now: Duration, told: &v1::Allocation) -> Option<Check> {
    ledger.told(now, Since::default(), told).err().map(|(check, _)| check)
}

/// Returns the check that fails if this is granted after a log entry that was stamped and applied at `now`.
fn apply(ledger: &mut AllocationLedger, now: Duration, granted: &[v1::Allocation]) -> Option<Check> {
    let granted: Vec<Granted> = granted.iter().map(Granted::told).collect();
    ledger.applied(now, now, &granted).err().map(|(check, _)| check)
}

/// Has the log grant the allocation of a ledger at the beginning.
fn held(ledger: &mut AllocationLedger) {
    assert_eq!(apply(ledger, Duration::ZERO, &[granted("1", 1)]), None);
}

#[test]
fn an_allocation_is_what_was_asked_for_and_is_granted_once() {
    let first = |told: &v1::Allocation| check(&mut ledger(&["1"]), SOON, told);
    assert_eq!(first(&granted("1", 1)), None);
    assert_eq!(first(&granted("2", 1)), Some(Check::Granted), "nobody asked for it");
    assert_eq!(first(&v1::Allocation { spread: false, ..granted("1", 1) }), Some(Check::Granted));
    assert_eq!(first(&told("1", AllocationState::Granted, 1, ["a", "a"])), Some(Check::Granted), "not spread");
    assert_eq!(first(&told("1", AllocationState::Granted, 1, ["a", ""])), Some(Check::Granted), "of nobody");
    let mut ledger = ledger(&["1"]);
    assert_eq!(check(&mut ledger, SOON, &granted("1", 1)), None);
    assert_eq!(check(&mut ledger, SOON, &granted("1", 2)), Some(Check::Granted), "with another token");
    let moved = told("1", AllocationState::Granted, 1, ["a", "c"]);
    assert_eq!(check(&mut ledger, SOON, &moved), Some(Check::Granted));
    let since = ledger.since("1");
    let waits = ended(AllocationState::Waiting);
    assert_eq!(ledger.told(SOON, since, &waits).err().map(|(check, _)| check), Some(Check::Leased));
}

#[test]
fn later_grants_have_higher_tokens_and_each_its_own() {
    let mut ledger = ledger(&["1", "2"]);
    assert_eq!(check(&mut ledger, SOON, &granted("1", 0)), Some(Check::Fenced));
    assert_eq!(check(&mut ledger, SOON, &granted("1", 5)), None);
    assert_eq!(check(&mut ledger, SOON, &granted("2", 5)), Some(Check::Fenced));
    ledger.asks(SOON, "3", draft(Duration::ZERO));
    assert_eq!(check(&mut ledger, SOON, &granted("3", 4)), Some(Check::Fenced));
    assert_eq!(check(&mut ledger, SOON, &granted("3", 6)), None);
}

#[test]
fn an_allocation_ends_for_a_reason_and_not_before_its_lease() {
    use AllocationState::{AgentLost, Expired, HolderGone, NotGranted, Released};
    let of = |state, now, prepare: fn(&mut AllocationLedger)| {
        let mut ledger = ledger(&["1"]);
        prepare(&mut ledger);
        check(&mut ledger, now, &ended(state))
    };
    let nothing = |_: &mut AllocationLedger| {};
    assert_eq!(of(Released, SOON, nothing), Some(Check::Leased));
    assert_eq!(of(Released, SOON, |ledger| ledger.releases("1")), None);
    assert_eq!(of(Expired, LATE, nothing), Some(Check::Leased), "it was never granted");
    assert_eq!([of(Expired, SOON, held), of(Expired, LATE, held)], [Some(Check::Leased), None]);
    let renewed = |ledger: &mut AllocationLedger| {
        held(ledger);
        ledger.renews("1", LATE - SOON);
    };
    assert_eq!(of(Expired, LATE, renewed), Some(Check::Leased));
    assert_eq!(of(AgentLost, SOON, |ledger| ledger.leaves("c", SOON)), Some(Check::Leased), "it gives nothing");
    assert_eq!(of(AgentLost, SOON, |ledger| ledger.leaves("b", SOON)), None);
    assert_eq!(of(HolderGone, SOON, |ledger| ledger.leaves("b", SOON)), Some(Check::Leased), "it holds nothing");
    assert_eq!(of(HolderGone, SOON, |ledger| ledger.leaves("c", SOON)), None);
    assert_eq!(of(NotGranted, LATE, nothing), Some(Check::Leased), "it does not wait");
    let waits = |ledger: &mut AllocationLedger| ledger.asks(Duration::ZERO, "1", draft(LEASE));
    assert_eq!([of(NotGranted, SOON, waits), of(NotGranted, LATE, waits)], [Some(Check::Leased), None]);
    let mut ledger = ledger(&["1"]);
    held(&mut ledger);
    assert_eq!(check(&mut ledger, LATE, &ended(Expired)), None);
    ledger.releases("1");
    assert_eq!(check(&mut ledger, LATE, &ended(Released)), Some(Check::Leased), "it had expired");
}

#[test]
fn a_lease_is_renewed_while_it_lasts() {
    let refused = |now, prepare: fn(&mut AllocationLedger)| {
        let mut ledger = ledger(&["1"]);
        assert_eq!(check(&mut ledger, Duration::ZERO, &granted("1", 1)), None);
        prepare(&mut ledger);
        ledger.is_over(now, "1").is_ok()
    };
    assert!(!refused(SOON, |_| {}) && refused(LATE, |_| {}));
    assert!(!refused(LATE, |ledger| ledger.renews("1", LATE - SOON)));
    assert!(refused(SOON, |ledger| ledger.releases("1")) && refused(SOON, |ledger| ledger.leaves("a", SOON)));
}

#[test]
fn no_agent_gives_more_than_it_contributes_and_every_allocation_is_listed() {
    let listed = |allocations: &[v1::Allocation], known: &[&str]| {
        let known = known.iter().map(|id| ((*id).to_owned(), Since::default())).collect();
        ledger(&["1", "2"]).listed(SOON, &known, true, allocations).err().map(|(check, _)| check)
    };
    let other = |agents| told("2", AllocationState::Granted, 2, agents);
    assert_eq!(listed(&[granted("1", 1), other(["b", "a"])], &["1", "2"]), None);
    assert_eq!(listed(&[granted("1", 1), other(["a", "b"])], &[]), Some(Check::Share));
    assert_eq!(listed(&[granted("1", 1)], &["2"]), Some(Check::Granted));
    let ended = BTreeMap::from([("2".to_owned(), Since(Stage::Ended))]);
    let live = |allocation| ledger(&["1", "2"]).listed(SOON, &ended, false, &[allocation]).is_ok();
    assert!(live(granted("1", 1)) && !live(other(["b", "a"])), "the second one has ended");
}

#[test]
fn what_is_used_or_not_free_is_noticed() {
    let of = |cpu_millis| Some(ResourceAmounts { cpu_millis, memory_bytes: MEMORY, ..ResourceAmounts::default() });
    let agent = |contributed, used| AgentResources { agent: "a".to_owned(), contributed, used, live: true };
    let pool = |contributed, used, free| ListResourcesResponse {
        agents: vec![agent(of(contributed), used)],
        sums: Some(ResourceSums { used, free: of(free), ..ResourceSums::default() }),
        ..ListResourcesResponse::default()
    };
    assert_eq!(overused(&pool(CPU, None, CPU)), None);
    assert_eq!(overused(&pool(CPU, of(CPU), 0)), None);
    assert!(overused(&pool(CPU, of(CPU + 1), 0)).is_some() && overused(&pool(CPU - 1, None, 0)).is_some());
    assert_eq!(unfreed(&pool(CPU, None, CPU)), None);
    assert!(unfreed(&ListResourcesResponse::default()).is_some(), "nobody contributes anything");
    assert!(unfreed(&pool(CPU, of(1), CPU)).is_some() && unfreed(&pool(CPU, None, CPU - 1)).is_some());
}

#[test]
fn a_lease_counts_from_its_grant_in_the_log_to_its_end_there() {
    let at = Duration::from_secs;
    for (freed, found) in [(at(19), Some(Check::Leased)), (at(21), None)] {
        let mut ledger = ledger(&["1"]);
        assert_eq!(apply(&mut ledger, at(11), &[granted("1", 1)]), None, "ten seconds are left");
        assert!(ledger.is_over(at(19), "1").is_err(), "it was asked for long before");
        assert_eq!(apply(&mut ledger, freed, &[]), None);
        assert_eq!(check(&mut ledger, at(30), &ended(AllocationState::Expired)), found, "{freed:?}");
    }
    let mut ledger = ledger(&["1"]);
    assert_eq!(apply(&mut ledger, SOON, &[granted("1", 1)]), None);
    let since = ledger.since("1");
    let waits = ledger.told(SOON, since, &ended(AllocationState::Waiting));
    assert_eq!(waits.err().map(|(check, _)| check), Some(Check::Leased), "the log has its grant");
}

#[test]
fn what_the_log_grants_is_what_was_asked_for_with_a_higher_token_each_time() {
    let mut ledger = ledger(&["1", "2", "3"]);
    let other = |id, token| told(id, AllocationState::Granted, token, ["b", "a"]);
    assert_eq!(apply(&mut ledger, SOON, &[granted("1", 5)]), None);
    assert_eq!(apply(&mut ledger, SOON, &[granted("1", 5)]), None, "it stays");
    assert_eq!(apply(&mut ledger, SOON, &[granted("1", 5), other("2", 4)]), Some(Check::Fenced));
    assert_eq!(apply(&mut ledger, SOON, &[granted("1", 5), other("2", 5)]), Some(Check::Fenced));
    assert_eq!(apply(&mut ledger, SOON, &[granted("1", 6)]), Some(Check::Granted), "once more");
    assert_eq!(apply(&mut ledger, SOON, &[granted("4", 7)]), Some(Check::Granted), "nobody asked for it");
    let small = v1::Allocation { parts: other("2", 8).parts[..1].to_vec(), ..other("2", 8) };
    assert_eq!(apply(&mut ledger, SOON, &[small]), Some(Check::Granted), "a part of it");
    assert_eq!(apply(&mut ledger, SOON, &[other("2", 9), other("3", 10)]), Some(Check::Share));
    let of_task = v1::Allocation { holder: "task:t".to_owned(), ..other("5", 11) };
    assert_eq!(apply(&mut ledger, SOON, &[of_task]), None, "its task is known elsewhere");
    assert_eq!(apply(&mut ledger, SOON, &[granted("1", 5)]), Some(Check::Leased), "it had ended");
}

#[test]
fn no_more_is_granted_from_a_queue_than_its_quota() {
    let of_queue = |quota| {
        let mut ledger = AllocationLedger::default();
        ledger.limits(quota);
        ledger.asks(Duration::ZERO, "1", Draft { queue: LIMITED, ..draft(Duration::ZERO) });
        let limited = v1::Allocation { queue: LIMITED.to_owned(), ..granted("1", 1) };
        apply(&mut ledger, SOON, &[limited])
    };
    assert_eq!([of_queue([4_000, 0]), of_queue([3_999, 0])], [None, Some(Check::Quota)]);
    let mut ledger = AllocationLedger::default();
    assert!(ledger.check_queues(false, &[]).is_ok() && ledger.check_queues(true, &[]).is_err());
    ledger.limits([4_000, 8]);
    let queue = |cpu_millis, used| v1::ResourceQueue {
        name: LIMITED.to_owned(),
        quota: Some(v1::ResourceQuota { cpu_millis, memory_bytes: Some(8), ..v1::ResourceQuota::default() }),
        used: Some(of(used)),
        ..v1::ResourceQueue::default()
    };
    assert!(ledger.check_queues(true, &[queue(Some(4_000), 4_000)]).is_ok());
    for wrong in [queue(Some(4_000), 4_001), queue(Some(3_000), 0), queue(None, 0)] {
        assert!(ledger.check_queues(true, &[wrong]).is_err());
    }
}
