//! Ports for coordinators, whose addresses must be known before they start. The ports are below the range that the
//! kernel uses for outgoing connections, and each is locked, so that no other test takes it.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

const RANGE: Range<u16> = 12_000..32_000;

/// Ports of the loopback address, reserved until this is dropped.
#[derive(Debug)]
pub struct Ports {
    numbers: Vec<u16>,
    _locks: Vec<File>,
}

impl Ports {
    /// Reserves `count` ports.
    ///
    /// # Panics
    /// If fewer ports are free.
    pub fn take(count: usize) -> Self {
        let dir = env::temp_dir().join("robeing-test-ports");
        fs::create_dir_all(&dir).expect("the directory for temporary files can be written to");
        let mut taken = Self { numbers: Vec::new(), _locks: Vec::new() };
        for port in RANGE {
            if taken.numbers.len() == count {
                return taken;
            }
            let Ok(lock) = File::create(dir.join(port.to_string())) else { continue };
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                taken.numbers.push(port);
                taken._locks.push(lock);
            }
        }
        panic!("no {count} ports in {RANGE:?} are free")
    }

    /// Returns the port numbers.
    pub fn numbers(&self) -> &[u16] {
        &self.numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let (first, second) = (Ports::take(3), Ports::take(3));
        assert_eq!(first.numbers().len(), 3);
        assert!(first.numbers().iter().all(|port| !second.numbers().contains(port)), "{first:?} {second:?}");
    }
}
