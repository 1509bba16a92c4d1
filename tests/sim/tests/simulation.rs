//! Tests the simulator itself: a few of its seeds hold, a seed does the same again, and a planted mistake is noticed.
//! `make sim` runs many more.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use robeing_fleet::sabotage::Mistake;

fn simulate(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_robeing-sim");
    Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("cannot run {program}: {e}"))
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_few_seeds_hold_every_invariant_and_the_first_does_the_same_again() {
    let output = simulate(&["--seeds", "3"]);
    let told = told(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("seed 0: ok") && told.contains("(again: the same)"), "{told}");
    assert_eq!(told.matches(": ok").count(), 3, "{told}");
}

#[test]
fn another_seed_is_another_run() {
    let trace = |seed| {
        let output = simulate(&["--seed", seed]);
        let told = told(&output);
        told.rsplit("trace ").next().map(str::trim).map(str::to_owned).unwrap_or_else(|| panic!("no trace in {told}"))
    };
    assert_ne!(trace("3"), trace("5"));
}

#[test]
fn disks_that_lose_what_they_said_was_synced_are_noticed() {
    // One run may be lucky, because what was lost may not have mattered.
    let output = simulate(&["--seeds", "4", "--first", "1", "--break", "lying-disks"]);
    let told = told(&output);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("FAILED"), "{told}");
    let signs = ["is damaged", "does not exist", "differ", "on disk but had granted"];
    assert!(signs.iter().any(|sign| told.contains(sign)), "{told}");
}

#[test]
fn a_result_that_is_not_of_the_current_attempt_is_noticed() {
    let output = simulate(&["--seed", "1", "--break", "wrong-output"]);
    let told = told(&output);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("is not that of its last attempt"), "{told}");
}

#[test]
fn a_ballot_whose_outcome_is_not_that_of_its_votes_is_noticed() {
    let output = simulate(&["--seed", "1", "--break", "share-of-voters"]);
    let told = told(&output);
    assert!(!output.status.success() && told.contains("verdict: ballot"), "{told}");
}

#[test]
fn a_mistake_that_is_planted_is_found_and_there_is_none_otherwise() {
    let planted = told(&simulate(&["--sabotage", "input-cut", "--seeds", "3"]));
    assert!(planted.contains("input-cut: found by seed"), "{planted}");
    let other = simulate(&["--seed", "1", "--break", "no-such-mistake"]);
    assert!(!other.status.success() && told(&other).contains("no such sabotage here"), "{}", told(&other));
}

#[test]
fn every_planted_mistake_has_a_place_where_it_is_made() {
    let mut sources = String::new();
    for folder in ["fleet/src", "coordinator/src", "agent/src"] {
        read_into(&mut sources, &Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder));
    }
    for mistake in Mistake::ALL {
        assert!(sources.contains(&format!("planted(Mistake::{mistake:?})")), "nothing makes {mistake:?}");
    }
}

/// Appends every source file in a folder and its subfolders to a text.
fn read_into(text: &mut String, folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => read_into(text, &path),
            false => text.push_str(&fs::read_to_string(&path).expect("a source file")),
        }
    }
}

#[test]
fn every_promise_has_a_check_with_a_name() {
    let told = told(&simulate(&["--checks"]));
    let general = ["lost", "alone", "history", "votes", "damage", "verdict", "approved", "verified", "dead"];
    let of_agents = ["after", "joined", "leader", "addressed", "leased", "quota", "claimed", "limited", "fair"];
    for check in general.into_iter().chain(of_agents) {
        assert!(told.lines().any(|line| line.starts_with(check)), "{check} is not in {told}");
    }
}
