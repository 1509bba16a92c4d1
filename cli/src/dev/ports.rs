//! Ports of the loopback address, for coordinators, agents that processes attach to, and gateways.

use std::{
    fs, io, iter,
    net::{Ipv4Addr, TcpListener},
    ops::{Range, RangeInclusive},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::DevError;

/// How long to wait for a busy port: processes of a fleet that was just killed may still hold theirs.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_POLL: Duration = Duration::from_millis(50);

/// The range that ports are taken from, except those that the system uses for outgoing connections: such a connection
/// could take a port before it is used, or while a process that died is being restarted.
const OF_OUR_OWN: Range<u16> = 20_000..32_000;

/// Returns this many free ports. They are not reserved, so use them at once. Two fleets that search at the same time
/// are unlikely to find the same ports, because each search starts at a different place.
pub(super) fn free(count: usize) -> Result<Vec<u16>, DevError> {
    let begin = Uuid::now_v7().as_u128() as usize % OF_OUR_OWN.len();
    let own = (0..OF_OUR_OWN.len()).map(|step| OF_OUR_OWN.start + ((begin + step) % OF_OUR_OWN.len()) as u16);
    let outgoing = outgoing();
    let own = own.filter(|port| !outgoing.contains(port));
    // Keep all listeners until all ports are known, so that they differ. If the range is exhausted, the system chooses
    // ports.
    let listeners: Vec<TcpListener> = own
        .filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(Ok))
        .chain(iter::repeat_with(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))))
        .take(count)
        .collect::<io::Result<_>>()
        .map_err(DevError::Listen)?;
    listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<io::Result<_>>()
        .map_err(DevError::Listen)
}

/// Returns the ports that the system uses for outgoing connections: on Linux as configured (ip(7)), elsewhere those of
/// RFC 6335, section 6.
fn outgoing() -> RangeInclusive<u16> {
    let said = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    said.as_deref().and_then(range).unwrap_or(49_152..=u16::MAX)
}

fn range(said: &str) -> Option<RangeInclusive<u16>> {
    let mut ends = said.split_whitespace().map(str::parse);
    match (ends.next(), ends.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Some(first..=last),
        _ => None,
    }
}

/// Returns consecutive ports starting at `base`.
pub(super) fn from_base(base: u16, count: usize) -> Result<Vec<u16>, DevError> {
    let no_room = || DevError::NoSuchPorts { base, count };
    (0..count).map(|index| u16::try_from(usize::from(base) + index).map_err(|_| no_room())).collect()
}

/// Returns this many ports for agents. With `base`, they follow the coordinators' ports.
pub(super) async fn for_agents(count: usize, base: Option<u16>, coordinators: usize) -> Result<Vec<u16>, DevError> {
    let Some(base) = base else { return free(count) };
    let ports = from_base(base, coordinators + count)?.split_off(coordinators);
    ensure_free(&ports, "choose another --port, or omit it to use free ports").await?;
    Ok(ports)
}

/// Checks that nothing listens on these ports.
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
    fn no_outgoing_connection_gets_a_port_meanwhile() {
        let outgoing = outgoing();
        if OF_OUR_OWN.clone().any(|port| outgoing.contains(&port)) {
            return; // The range overlaps with that of outgoing connections.
        }
        let ports = free(7).expect("seven ports are free");
        assert!(ports.iter().all(|port| OF_OUR_OWN.contains(port)), "{ports:?} {outgoing:?}");
    }

    #[test]
    fn the_range_of_outgoing_connections_is_read() {
        assert_eq!(range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!([range(""), range("1024"), range("a b")], [None, None, None]);
    }

    #[test]
    fn the_last_port_is_the_last() {
        assert_eq!(from_base(65_533, 3).expect("three are left"), [65_533, 65_534, 65_535]);
        let error = from_base(65_534, 3).expect_err("two are left");
        assert_eq!(error.to_string(), "--port 65534 leaves no room for 3 coordinators; the last port is 65535");
    }
}
