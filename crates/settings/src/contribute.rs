//! What an agent contributes to the fleet's resource pool.

use robeing_fleet::{Amounts, limits::MAX_AMOUNT};

use super::{
    ConfigError,
    definition::{For, Setting},
    quantities::{amount, amount_text, cpu_millis, cpu_text},
    sources::Value,
};

/// What an agent contributes; see [`Contribute`].
pub const CONTRIBUTE: Setting = Setting::new(
    For::Agents,
    "contribute",
    &["ROBEING_CONTRIBUTE"],
    "RESOURCES",
    "What the agent contributes to the fleet's resource pool: auto (what its cgroup limits), none, or \
     amounts such as cpu=2,memory=4Gi,storage=10Gi,bandwidth=1G; of what is not named, the same as with auto",
)
.unset("auto");

/// What a value may be, for errors.
const FORM: &str = "auto, none, or amounts such as cpu=2,memory=4Gi,storage=10Gi,bandwidth=1G, each at most 2^48 in \
                    thousandths of a processor, bytes or bits per second";

/// What an agent contributes to the fleet's resource pool, of each resource; `None`: as much as its limits allow, and
/// nothing of what is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contribute {
    /// Processor time, thousandths of a processor.
    pub cpu: Option<u64>,
    /// Memory, bytes.
    pub memory: Option<u64>,
    /// Disk space, bytes.
    pub storage: Option<u64>,
    /// Network bandwidth, bits per second.
    pub bandwidth: Option<u64>,
}

impl Contribute {
    /// Nothing of any resource.
    pub const NOTHING: Self = Self { cpu: Some(0), memory: Some(0), storage: Some(0), bandwidth: Some(0) };

    /// Returns what is contributed, with what is not said taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.or(other.cpu),
            memory: self.memory.or(other.memory),
            storage: self.storage.or(other.storage),
            bandwidth: self.bandwidth.or(other.bandwidth),
        }
    }

    /// Returns what is contributed; nothing of what is not said. No more than a fleet takes.
    pub fn amounts(self) -> Amounts {
        let some = |amount: Option<u64>| amount.unwrap_or(0).min(MAX_AMOUNT);
        Amounts {
            cpu: some(self.cpu),
            memory: some(self.memory),
            storage: some(self.storage),
            bandwidth: some(self.bandwidth),
        }
    }

    /// Formats it as [`CONTRIBUTE`] takes it.
    pub fn to_text(self) -> String {
        if self == Self::NOTHING {
            return "none".into();
        }
        let said = [
            ("cpu", self.cpu.map(cpu_text)),
            ("memory", self.memory.map(amount_text)),
            ("storage", self.storage.map(amount_text)),
            ("bandwidth", self.bandwidth.map(amount_text)),
        ];
        let said: Vec<String> = said.into_iter().filter_map(|(name, text)| Some(format!("{name}={}", text?))).collect();
        if said.is_empty() { "auto".into() } else { said.join(",") }
    }
}

/// Parses what an agent contributes.
pub(super) fn contribute(value: &Value) -> Result<Contribute, ConfigError> {
    match value.text.trim() {
        "" | "auto" => return Ok(Contribute::default()),
        "none" => return Ok(Contribute::NOTHING),
        _ => {}
    }
    let mut read = Contribute::default();
    for part in value.list() {
        let (field, given) = match part.split_once('=') {
            Some(("cpu", text)) => (&mut read.cpu, cpu_millis(text)),
            Some(("memory", text)) => (&mut read.memory, amount(text)),
            Some(("storage", text)) => (&mut read.storage, amount(text)),
            Some(("bandwidth", text)) => (&mut read.bandwidth, amount(text)),
            _ => return Err(value.wrong(FORM)),
        };
        let given = given.filter(|given| *given <= MAX_AMOUNT).ok_or_else(|| value.wrong(FORM))?;
        if field.replace(given).is_some() {
            return Err(value.wrong("each resource once"));
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Contribute, String> {
        let value = Value { text: text.into(), from: "--contribute".into() };
        contribute(&value).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read() {
        let some = Contribute { cpu: Some(1_500), storage: Some(10 << 30), ..Contribute::default() };
        for of in [Contribute::default(), Contribute::NOTHING, some, Contribute { cpu: Some(0), ..some }] {
            assert_eq!(read(&of.to_text()), Ok(of));
        }
        assert_eq!((some.to_text().as_str(), read(" none ")), ("cpu=1500m,storage=10Gi", Ok(Contribute::NOTHING)));
    }

    #[test]
    fn what_is_wrong_is_refused_and_the_error_says_what_to_give() {
        for wrong in ["cpu", "cpu=x", "disk=3", "memory=4GB", "memory=257Ti", "all"] {
            let error = read(wrong).expect_err(wrong);
            assert!(error.starts_with("--contribute is ") && error.contains("cpu=2,memory=4Gi"), "{error}");
        }
        assert!(read("cpu=1,cpu=2").expect_err("twice").ends_with("give each resource once"));
    }

    #[test]
    fn what_is_not_said_comes_from_the_limits() {
        let limits = Contribute { cpu: Some(4_000), memory: Some(8), ..Contribute::default() };
        let found = Contribute { cpu: Some(1_000), ..Contribute::default() }.or(limits).amounts();
        assert_eq!(found, Amounts { cpu: 1_000, memory: 8, ..Amounts::NONE });
    }
}
