//! The seeds that the program's own encoders make. `robeing-fuzz --write-seeds fuzz/seeds` writes them; the folder also has
//! others, such as inputs that once crashed a target.

mod fleet;
mod gateway;
mod identity;
mod messages;
mod texts;
mod votes;

/// How many seeds of each target are also written cut short and changed.
const BROKEN: usize = 2;

/// An input of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The target's name.
    pub target: &'static str,
    /// The seed's name.
    pub name: String,
    /// The input.
    pub bytes: Vec<u8>,
}

impl Seed {
    fn new(target: &'static str, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { target, name: name.into(), bytes: bytes.into() }
    }
}

/// Returns all seeds: valid inputs, and for some of each target the same cut short, and with one byte changed. Keys,
/// certificates and signatures in them are new each time.
pub fn all() -> Vec<Seed> {
    let identities = [identity::seeds(), votes::seeds()].concat();
    let valid = [fleet::seeds(), gateway::seeds(), identities, messages::seeds(), texts::seeds()].concat();
    let mut all = Vec::with_capacity(2 * valid.len());
    for (n, seed) in valid.iter().enumerate() {
        let earlier = valid[..n].iter().filter(|other| other.target == seed.target).count();
        if earlier < BROKEN && seed.bytes.len() > 1 {
            let middle = seed.bytes.len() / 2;
            let mut changed = seed.bytes.clone();
            changed[middle] ^= 0x41;
            all.push(Seed::new(seed.target, format!("{}-cut", seed.name), &seed.bytes[..middle]));
            all.push(Seed::new(seed.target, format!("{}-changed", seed.name), changed));
        }
    }
    all.extend(valid);
    all
}
