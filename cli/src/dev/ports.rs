//! Ports of the loopback address, for coordinators and for agents to which processes attach.

use std::{
    fs, io, iter,
    net::{Ipv4Addr, TcpListener},
    ops::{Range, RangeInclusive},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::DevError;

/// How long a port that is busy is waited for: processes of a fleet that was killed a moment ago still hold theirs.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_POLL: Duration = Duration::from_millis(50);

/// Where ports are taken from, if the system gives none of these to outgoing connections: those could have one meanwhile,
/// also while a process that died is started again.
const OF_OUR_OWN: Range<u16> = 20_000..32_000;

/// So many free ports. Nothing reserves them, so they are to be used at once. Two fleets that look at the same time are
/// unlikely to find the same ones, since each begins anywhere.
pub(super) fn free(count: usize) -> Result<Vec<u16>, DevError> {
    let begin = Uuid::now_v7().as_u128() as usize % OF_OUR_OWN.len();
    let own = (0..OF_OUR_OWN.len()).map(|step| OF_OUR_OWN.start + ((begin + step) % OF_OUR_OWN.len()) as u16);
    let outgoing = outgoing();
    let own = own.filter(|port| !outgoing.contains(port));
    // All are held until all are known, so that they differ. Where none are our own, the system chooses.
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

/// The ports that the system gives to outgoing connections: as Linux says it (ip(7)), elsewhere those of RFC 6335,
/// section 6.
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
    fn no_outgoing_connection_gets_a_port_meanwhile() {
        let outgoing = outgoing();
        if OF_OUR_OWN.clone().any(|port| outgoing.contains(&port)) {
            return; // This system leaves us none.
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
