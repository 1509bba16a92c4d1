//! Kubernetes quantities, such as `1Gi` or `1.5e9`.

use k8s_openapi::{api::core::v1::PersistentVolumeClaim, apimachinery::pkg::api::resource::Quantity};

/// Suffixes and their factors.
const SUFFIXES: [(&str, f64); 15] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];

/// Returns whether `one` is less than `other`; `false` if either can't be parsed.
pub(crate) fn is_less(one: &Quantity, other: &Quantity) -> bool {
    match (amount(&one.0), amount(&other.0)) {
        (Some(one), Some(other)) => one < other,
        _ => false,
    }
}

/// Returns the disk size that a claim requests.
pub(crate) fn requested(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")
}

fn amount(text: &str) -> Option<f64> {
    let text = text.trim();
    let suffix = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (number, factor) = suffix.unwrap_or((text, 1.0));
    Some(number.parse::<f64>().ok().filter(|number| number.is_finite())? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_compared_whatever_their_suffix() {
        let less = |one: &str, other: &str| is_less(&Quantity(one.into()), &Quantity(other.into()));
        for (small, large) in
            [("1Gi", "2Gi"), ("1G", "1Gi"), ("1.5Gi", "2Gi"), ("900Mi", "1Gi"), ("1e9", "1Gi"), ("500", "1k")]
        {
            assert!(less(small, large), "{small} {large}");
            assert!(!less(large, small), "{large} {small}");
        }
        for (one, same) in [("1Gi", "1024Mi"), ("1E", "1e18"), ("1", "1000m")] {
            assert!(!less(one, same) && !less(same, one), "{one} {same}");
        }
        assert!(!less("plenty", "1Gi") && !less("1Gi", ""));
    }
}
