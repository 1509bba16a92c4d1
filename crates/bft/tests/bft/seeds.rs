//! Many runs with liars. `ROBEING_BFT_SEEDS` sets how many.

use robeing_bft::sabotage::{Mistake, plant};

use crate::{
    liars::Lie,
    world::{Plan, World},
};

/// The number of seeds of each part, unless the environment says otherwise.
const SEEDS: u64 = 100;

/// Seeds among which a planted mistake must be found.
const PLANTED_SEEDS: u64 = 300;

fn seeds() -> u64 {
    std::env::var("ROBEING_BFT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS)
}

fn violation(plan: Plan) -> Option<String> {
    let mut world = World::new(plan);
    world.run();
    world.checks.violation
}

fn part(of: u64) {
    let mut happened = [0; 4];
    for seed in (0..seeds()).filter(|seed| seed % 2 == of) {
        let mut world = World::new(Plan::of(seed));
        world.run();
        assert_eq!(world.checks.violation, None, "seed {seed}: {:?}", world.plan);
        happened.iter_mut().zip(world.checks.happened).for_each(|(sum, one)| *sum += one);
    }
    // Otherwise the seeds would prove little.
    assert!(happened.into_iter().all(|count| count > 0), "{happened:?}");
    println!("views left, views begun, checkpoints, transfers: {happened:?}");
}

#[test]
fn f_liars_break_nothing_in_even_seeds() {
    part(0);
}

#[test]
fn f_liars_break_nothing_in_odd_seeds() {
    part(1);
}

#[test]
fn nothing_is_decided_after_the_end_of_an_epoch() {
    for seed in 0..seeds() {
        let mut world = World::new(Plan { ends: true, ..Plan::of(seed) });
        world.run();
        let quorums = world.group.epoch.quorums();
        world.checks.nothing_after_the_end(quorums.faulty(), quorums.quorum());
        assert_eq!(world.checks.violation, None, "seed {seed}: {:?}", world.plan);
    }
}

#[test]
fn a_seed_always_gives_the_same_run() {
    let run = || {
        let mut world = World::new(Plan::of(3));
        world.run();
        (world.now, world.delivered, world.describe())
    };
    assert_eq!(run(), run());
}

/// Returns the first seed that violates safety.
fn found(lie: Lie, more: usize) -> Vec<u64> {
    let violates = |seed: &u64| {
        let mut plan = Plan { lie: Some(lie), patience: 20_000, ..Plan::of(*seed) };
        plan.liars += more;
        violation(plan).is_some_and(|violation| !violation.starts_with("not everything"))
    };
    (0..PLANTED_SEEDS).filter(violates).take(1).collect()
}

#[test]
fn one_liar_more_than_f_breaks_agreement() {
    let seeds = found(Lie::Equivocate, 1);
    println!("f + 1 liars: {seeds:?}");
    assert!(!seeds.is_empty(), "no seed shows what f + 1 liars can do");
}

#[test]
fn a_quorum_of_one_less_is_found() {
    plant(Some(Mistake::QuorumOfOneLess));
    let seeds = found(Lie::Equivocate, 0);
    println!("{seeds:?}");
    assert!(!seeds.is_empty());
}

#[test]
fn a_new_view_whose_proofs_are_not_checked_is_found() {
    plant(Some(Mistake::NewViewUnchecked));
    let seeds = found(Lie::ViewChanges, 0);
    println!("{seeds:?}");
    assert!(!seeds.is_empty());
}

#[test]
fn a_reused_sequence_number_is_found() {
    plant(Some(Mistake::SequenceReused));
    let seeds = found(Lie::Equivocate, 0);
    println!("{seeds:?}");
    assert!(!seeds.is_empty());
}
