//! What proves that an agent runs nothing any more. Only with a proof is its work given to others before its session
//! times out.
//!
//! **Invariant.** When the loss of an agent is proposed before the session timeout, nothing of the session runs, and
//! nothing of it will be started. Only the following two things prove that.
//!
//! 1. **The process is gone**, according to its machine. All of the following is needed, in this order:
//!    - while the session was connected to this leader, the *location* of the process accepted a connection. The
//!      location is the address that the session was opened from, with the port that the agent advertises
//!      ([`Transport::locate`](robeing_net::Transport::locate));
//!    - the peer closed the session's own connection with FIN ([`Ending`]);
//!    - then the location refused a connection.
//!
//!    A kernel closes the connections and the ports of a process that has ended. A FIN followed by a refusal at the
//!    same address can come from a living process only if it closes its own connection and a firewall begins to reject
//!    connections during the same session. A firewall that always rejects connections to agents fails the first
//!    condition; one that begins to reject existing connections resets them and never closes them in order, so it fails
//!    the second. A reset proves nothing: a kernel also sends one for a process that was killed before it had read
//!    everything; the guard or the timeout decides then. *Not distinguished:* a proxy that has the agent's own address
//!    (a service mesh's sidecar) and ends while the agent lives.
//! 2. **Its guard reports it.** The guard is a process beside the agent that knows every process group that the agent
//!    has started. It reports that the agent's process is gone, or is stopped and its session revoked, only after the
//!    process groups are killed and gone; an agent whose session is revoked starts nothing of it when it resumes. The
//!    report carries the secret behind the session's incarnation, so nobody else can make it.
//!
//! Anything that neither covers (silence, a reset, a refusal by an address that never accepted, a leader that never had
//! the connection) waits for the session timeout.
//!
//! A guard that is known to exist has [`GUARD_FIRST`] to report before the refusal counts: it also waits for the end of
//! the commands that the process left behind.

use std::{net::SocketAddr, time::Duration};

use robeing_platform::Ending;

/// How long a guard has to report before the refusal alone proves the end of its agent's process: the guard may have
/// been killed with the agent.
pub const GUARD_FIRST: Duration = Duration::from_millis(15);
/// Pause before the location of a process that did not accept a connection is probed again.
pub const REACH_AGAIN: Duration = Duration::from_secs(10);

/// The origin of a session.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The address at which its process is certain to listen, if known.
    pub process: Option<SocketAddr>,
    /// The end of its connection. The default never ends, for a session that has had no connection to this leader.
    pub ending: Ending,
    /// Whether the process has a guard.
    pub guarded: bool,
}

/// The evidence about one session, as this leader has observed it.
#[derive(Debug)]
pub struct Signs {
    origin: Origin,
    /// Whether its location accepted a connection while the session was connected.
    reached: bool,
}

/// The conclusion from probing the location of a process without a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The process is gone.
    Gone,
    /// The process is gone, unless its guard has more to report: probe again after [`GUARD_FIRST`].
    GoneUnlessGuarded,
    /// Nothing is proved.
    Unproved,
}

impl Signs {
    /// Creates the evidence about a session from `origin`, with nothing observed yet.
    pub fn new(origin: Origin) -> Self {
        Self { origin, reached: false }
    }

    /// Returns the address at which its process is certain to listen, if known.
    pub fn process(&self) -> Option<SocketAddr> {
        self.origin.process
    }

    /// Records a probe of its location that was made while the session was connected. Returns whether no further probe
    /// is needed.
    pub fn asked(&mut self, accepted: Option<bool>) -> bool {
        self.reached |= accepted == Some(true);
        self.reached
    }

    /// Returns whether a refusal now would prove that the process is gone.
    pub fn await_refusal(&self) -> bool {
        self.reached && self.origin.ending.closed_by_peer()
    }

    /// Evaluates a probe of the location after the session has lost its connection. `waited` states whether its guard
    /// has had [`GUARD_FIRST`] to report.
    pub fn judge(&self, accepted: Option<bool>, waited: bool) -> Verdict {
        match accepted {
            Some(false) if self.await_refusal() && (waited || !self.origin.guarded) => Verdict::Gone,
            Some(false) if self.await_refusal() => Verdict::GoneUnlessGuarded,
            _ => Verdict::Unproved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(guarded: bool, accepted: Option<bool>, closed: bool) -> Signs {
        let ending = Ending::default();
        if closed {
            ending.close();
        }
        let process = Some(SocketAddr::from(([10, 0, 0, 1], 7000)));
        let mut signs = Signs::new(Origin { process, ending, guarded });
        signs.asked(accepted);
        signs
    }

    #[test]
    fn only_acceptance_then_a_close_by_the_peer_then_refusal_prove_that_a_process_is_gone() {
        for accepted_before in [Some(true), Some(false), None] {
            for closed in [true, false] {
                for answer in [Some(true), Some(false), None] {
                    let proved = signs(false, accepted_before, closed).judge(answer, true) == Verdict::Gone;
                    let expected = (accepted_before, closed, answer) == (Some(true), true, Some(false));
                    assert_eq!(proved, expected, "{accepted_before:?} {closed} {answer:?}");
                }
            }
        }
    }

    #[test]
    fn a_place_that_accepted_once_is_remembered() {
        let mut signs = signs(false, Some(true), true);
        assert!(signs.asked(None));
        assert_eq!(signs.judge(Some(false), false), Verdict::Gone);
    }

    #[test]
    fn a_guard_has_its_time_to_report_first() {
        let guarded = signs(true, Some(true), true);
        assert_eq!(guarded.judge(Some(false), false), Verdict::GoneUnlessGuarded);
        assert_eq!(guarded.judge(Some(false), true), Verdict::Gone, "it may have been killed with the agent");
        assert_eq!(guarded.judge(Some(true), true), Verdict::Unproved);
    }
}
