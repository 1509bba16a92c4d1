//! Ports of the loopback address, for coordinators and for agents to which processes attach.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::DevError;

/// How long a port that is busy is waited for: processes of a fleet that was killed a moment ago still hold theirs.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_POLL: Duration = Duration::from_millis(50);

/// So many free ports. Nothing reserves them, so they are to be used at once.
pub(super) fn free(count: usize) -> Result<Vec<u16>, DevError> {
    // All are held until all are known, so that they differ.
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<_>>()
        .map_err(DevError::Listen)?;
    listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<io::Result<_>>()
        .map_err(DevError::Listen)
}

/// The ports from `base` on.
pub(super) fn from_base(base: u16, count: usize) -> Result<Vec<u16>, DevError> {
    let no_room = || DevError::NoSuchPorts { base, count };
    (0..count).map(|index| u16::try_from(usize::from(base) + index).map_err(|_| no_room())).collect()
}

/// The ports at which processes attach to so many agents: those after the coordinators' where the first of these is given.
pub(super) async fn for_attaching(count: usize, base: Option<u16>, coordinators: usize) -> Result<Vec<u16>, DevError> {
    let Some(base) = base else { return free(count) };
    let ports = from_base(base, coordinators + count)?.split_off(coordinators);
    ensure_free(&ports, "choose another --port, or leave it out to take free ones").await?;
    Ok(ports)
}

/// Makes sure that nothing listens on these ports.
pub(super) async fn ensure_free(ports: &[u16], remedy: &str) -> Result<(), DevError> {
    let patience = Instant::now() + BUSY_PATIENCE;
    for &port in ports {
        loop {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    if Instant::now() >= patience {
                        return Err(DevError::PortBusy { port, remedy: remedy.into() });
                    }
                    sleep(BUSY_POLL).await;
                }
                Err(error) => return Err(DevError::Listen(error)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let mut ports = free(7).expect("seven ports are free");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 7);
    }

    #[test]
    fn the_last_port_is_the_last() {
        assert_eq!(from_base(65_533, 3).expect("three are left"), [65_533, 65_534, 65_535]);
        let error = from_base(65_534, 3).expect_err("two are left");
        assert_eq!(error.to_string(), "--port 65534 leaves no room for 3 coordinators; the last port is 65535");
    }
}
