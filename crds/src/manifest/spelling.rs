//! Suggests the known word that was probably meant by a misspelled one.

/// Maximum length of a word that is compared, in characters; longer words are not typos.
const LONGEST: usize = 64;

/// Returns the candidate with the smallest edit distance to `word`, if it is small enough.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    if length > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (length.min(candidate.len()) / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Returns the number of characters to add, remove, replace or swap with their neighbor to turn `a` into `b` (optimal
/// string alignment distance).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let fields = ["replicas", "role", "resources", "executor", "specializations", "slots"];
        for (typo, meant) in [
            ("replica", Some("replicas")),
            ("executer", Some("executor")),
            ("Specialisations", Some("specializations")),
            ("slost", Some("slots")),
            ("rol", Some("role")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typo, fields), meant, "{typo}");
        }
    }

    #[test]
    fn compares_words_up_to_the_longest_only() {
        let longest = "a".repeat(LONGEST);
        assert_eq!(nearest(&longest, [longest.as_str()]), Some(longest.as_str()));
        let longer = "a".repeat(LONGEST + 1);
        assert_eq!(nearest(&longer, [longer.as_str()]), None);
    }
}
