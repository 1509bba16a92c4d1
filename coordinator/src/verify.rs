//! Compares the outputs of agents that run the same task, before they are proposed: the state machine compares digests,
//! because nothing that takes long may be done while the state is locked.

use ring::digest::{SHA256, digest};
use robeing_fleet::{Compared, Completion, Failure, FailureKind, Outcome};
use robeing_platform::compute;
use robeing_policy::canonical_part;

use crate::read::StateReader;

/// Computes the digests of the outputs that are to be compared with others. An output without the part that is compared
/// becomes a final failure. Only a leader may call it, because it knows all tasks.
pub fn compare(state: &StateReader, completions: &mut [Completion]) {
    let compared: Vec<Option<Compared>> = state.look(|fleet| match fleet.has_members() {
        true => completions.iter().map(|ended| fleet.compared_of(ended.task)).collect(),
        false => Vec::new(),
    });
    for (ended, compared) in completions.iter_mut().zip(compared) {
        let (Some(compared), Outcome::Succeeded(output)) = (compared, &ended.outcome) else { continue };
        let outcome = match compute(|| part_digest(output, &compared)) {
            Ok(digest) => Outcome::Answered { output: output.clone(), digest },
            Err(message) => Outcome::Failed(Failure::of(FailureKind::Disagreement, message)),
        };
        ended.outcome = outcome.within_limits();
    }
}

/// Returns the digest of what is compared of an output. JSON is brought into one form before.
///
/// # Errors
/// Why there is nothing to compare.
fn part_digest(output: &[u8], compared: &Compared) -> Result<[u8; 32], String> {
    let mut result = [0; 32];
    let hashed = match compared {
        Compared::Bytes => digest(&SHA256, output),
        Compared::Json(pointer) => match canonical_part(output, pointer) {
            Ok(Some(part)) => digest(&SHA256, &part),
            Ok(None) => return Err(format!("the output is no JSON, or has nothing at {pointer:?}, which is compared")),
            Err(problem) => return Err(format!("the output can't be read as JSON, to be compared: {problem}")),
        },
    };
    result.copy_from_slice(hashed.as_ref());
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_equal_by_their_bytes_or_by_a_part_of_their_json() {
        let same = |one: &str, other: &str, pointer: Option<&str>| {
            let compared = pointer.map_or(Compared::Bytes, |pointer| Compared::Json(pointer.to_owned()));
            let [one, other] = [one, other].map(|output| part_digest(output.as_bytes(), &compared));
            one.is_ok() && one == other
        };
        assert!(same("a", "a", None) && !same("a", "b", None));
        assert!(!same(r#"{"a": 1}"#, r#"{"a":1}"#, None));
        assert!(same(r#"{"a": 1, "t": 5}"#, r#"{"t":6,"a":1.0}"#, Some("/a")));
        assert!(same(r#"{"a": 1, "b": [2]}"#, r#"{"b":[2],"a":1}"#, Some("")));
        assert!(!same(r#"{"a": 1}"#, r#"{"a": "1"}"#, Some("/a")));
        for nothing in ["no JSON", r#"{"b": 1}"#, r#"{"a": 1, "a": 1}"#] {
            assert!(!same(nothing, nothing, Some("/a")), "{nothing}: two who say nothing don't agree");
        }
    }
}
