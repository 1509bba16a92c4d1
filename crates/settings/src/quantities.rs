//! Quantities of resources as text, as Kubernetes writes them: `500m`, `1.5`, `4Gi`, `100M`. Everything is an exact
//! integer; what is none is refused, not rounded.

/// The suffixes of amounts, with what they multiply by.
const SUFFIXES: [(&str, u128); 11] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("", 1),
];

/// Longest number, digits: the largest amounts have fewer.
const MAX_DIGITS: usize = 20;

/// Returns a decimal number times a factor; `None` if it is no number, or the result is no integer of 64 bits.
fn scaled(number: &str, factor: u128) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let is_number = !whole.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || digits.len() > MAX_DIGITS || number.ends_with('.') {
        return None;
    }
    let divisor = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = digits.parse::<u128>().ok()?.checked_mul(factor)?;
    (product % divisor == 0).then_some(product / divisor).and_then(|scaled| u64::try_from(scaled).ok())
}

/// Reads processor time, in thousandths of a processor: `2`, `1.5` or `500m`.
pub fn cpu_millis(text: &str) -> Option<u64> {
    match text.strip_suffix('m') {
        Some(millis) => scaled(millis, 1),
        None => scaled(text, 1_000),
    }
}

/// Reads bytes or bits: `1024`, `4Gi`, `100M`.
pub fn amount(text: &str) -> Option<u64> {
    let (suffix, factor) = SUFFIXES.into_iter().find(|(suffix, _)| text.ends_with(suffix))?;
    scaled(text.strip_suffix(suffix)?, factor)
}

/// Formats processor time: `2`, `1500m`.
pub fn cpu_text(millis: u64) -> String {
    if millis.is_multiple_of(1_000) { (millis / 1_000).to_string() } else { format!("{millis}m") }
}

/// Formats an amount by the largest unit that divides it: `4Gi`, `1500M`, `7`.
pub fn amount_text(amount: u64) -> String {
    let divides = |(_, factor): &(&str, u128)| amount > 0 && u128::from(amount) % factor == 0;
    let (suffix, factor) = SUFFIXES.into_iter().filter(divides).max_by_key(|(_, factor)| *factor).unwrap_or(("", 1));
    format!("{}{suffix}", u128::from(amount) / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_exactly_or_not_at_all() {
        for (text, millis) in [("2", 2_000), ("1.5", 1_500), ("0.001", 1), ("500m", 500), ("0", 0), ("0m", 0)] {
            assert_eq!(cpu_millis(text), Some(millis), "{text}");
        }
        for (text, bytes) in
            [("7", 7), ("4Gi", 4 << 30), ("1.5Ki", 1536), ("100M", 100_000_000), ("1k", 1_000), ("256Ti", 1 << 48)]
        {
            assert_eq!(amount(text), Some(bytes), "{text}");
        }
        for wrong in ["", "m", "-1", "1.", ".5", "1e3", "0.0001", "1.5m", "two", "99999999999999999999", "1 "] {
            assert_eq!(cpu_millis(wrong), None, "{wrong}");
        }
        for wrong in ["", "Gi", "1.0001", "1g", "4GiB", "99999P"] {
            assert_eq!(amount(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for millis in [0, 1, 999, 1_000, 1_500, 64_000] {
            assert_eq!(cpu_millis(&cpu_text(millis)), Some(millis));
        }
        for bytes in [0, 1, 1_000, 1_024, 1 << 30, 3 << 40, 1_500_000_000, u64::MAX] {
            assert_eq!(amount(&amount_text(bytes)), Some(bytes));
        }
        let shown = [cpu_text(2_000), cpu_text(1_500), amount_text(4 << 30), amount_text(1_500)];
        assert_eq!(shown, ["2", "1500m", "4Gi", "1500"]);
    }
}
