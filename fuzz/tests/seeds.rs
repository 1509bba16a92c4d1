//! Every seed of every target, and some changes of each, so that a target that is broken, or an input that once crashed
//! one, is found without fuzzing.

use std::{
    collections::BTreeSet,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use robeing_fuzz::{TARGETS, Target, seeds};

/// How many changes of each seed are run.
const CHANGES: u64 = 24;
/// How many bytes a change replaces, inserts or removes at most.
const CHANGED: usize = 4;
/// Bytes at which parsers have edges.
const EDGES: [u8; 12] = [0, 1, 0x0a, b'"', b'.', b'/', b':', b'}', 0x7f, 0x80, 0xfe, 0xff];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

/// Returns the seeds of a target, with their file names.
fn seeds_of(target: &Target) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut seeds = Vec::new();
    for file in fs::read_dir(folder().join(target.name))? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        seeds.push((name, fs::read(path)?));
    }
    seeds.sort();
    Ok(seeds)
}

/// Returns a change of a seed, as a fuzzer makes it.
fn changed(seed: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(1..=CHANGED) {
        let at = random.random_range(0..=bytes.len());
        let edge = EDGES[random.random_range(0..EDGES.len())];
        match random.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] = edge,
            1 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes.insert(at, random.next_u32().to_le_bytes()[0]),
            3 => bytes.truncate(at.max(bytes.len() / 2)),
            _ => drop(bytes.drain(at..(at + CHANGED).min(bytes.len()))),
        }
    }
    bytes
}

/// Runs an input; an error if the target panics.
fn run(target: &Target, what: &str, input: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input)))
        .map_err(|_| format!("{}: {what}: {}", target.name, input.escape_ascii()))
}

/// Runs each seed of the targets and changes of it.
fn all_are_handled(targets: impl Iterator<Item = &'static Target>) {
    let mut failures = Vec::new();
    for target in targets {
        for (name, seed) in seeds_of(target).expect("each target has a folder of seeds") {
            failures.extend(run(target, &name, &seed).err());
            for n in 0..CHANGES {
                let mut random = StdRng::seed_from_u64(n);
                let what = format!("change {n} of {name}");
                failures.extend(run(target, &what, &changed(&seed, &mut random)).err());
            }
        }
    }
    assert!(failures.is_empty(), "{} inputs are not handled:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_seed_of_the_first_half_of_the_targets_and_changes_of_it_are_handled() {
    all_are_handled(TARGETS.iter().step_by(2));
}

#[test]
fn every_seed_of_the_other_half_and_changes_of_it_are_handled() {
    all_are_handled(TARGETS.iter().skip(1).step_by(2));
}

#[test]
fn every_target_has_seeds_and_every_folder_of_seeds_a_target() {
    let targets: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(targets.len(), TARGETS.len(), "names are unique");
    for target in TARGETS {
        let seeds = seeds_of(target).unwrap_or_else(|error| panic!("{}: {error}", target.name));
        assert!(seeds.len() > 1, "{}", target.name);
        let longest = seeds.iter().map(|(_, bytes)| bytes.len()).max().unwrap_or_default();
        assert!(longest <= target.max_len, "{}: a seed of {longest} bytes is never fuzzed whole", target.name);
    }
    let folders = fs::read_dir(folder()).expect("the seeds").map(|entry| entry.expect("a folder").file_name());
    for folder in folders {
        assert!(targets.contains(&*folder.to_string_lossy()), "{folder:?} is no target");
    }
}

#[test]
fn every_seed_that_the_encoders_make_is_in_its_folder() {
    for seed in seeds::all() {
        let file = folder().join(seed.target).join(&seed.name);
        assert!(file.is_file(), "{}: write the seeds again, see CONTRIBUTING.md", file.display());
    }
}
