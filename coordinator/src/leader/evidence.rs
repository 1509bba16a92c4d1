//! What proves that an agent runs nothing any more. Only on proof is its work given to others before its session times out.
//!
//! **Invariant.** When the loss of an agent is proposed before the session timeout, nothing of the session runs, and nothing of
//! it will be begun. Two things prove that, and nothing else does.
//!
//! 1. **The process is gone**, as its machine says. All of this is needed, in this order:
//!    - while the session had its connection to this leader, the *place* of the process accepted a connection. The place is the
//!      address that the session was opened from, with the port that the agent advertises
//!      ([`Transport::locate`](robeing_net::Transport::locate));
//!    - the session's own connection was closed by the peer, with FIN ([`Ending`]);
//!    - then the place refused a connection.
//!
//!    A kernel closes the connections and the ports of a process that has ended. FIN and then refusal at one address can come
//!    from a living process only if it closes its own connection and a firewall begins to reject in the same session. A
//!    firewall that rejects connections to agents fails the first condition; one that begins to reject what is there already
//!    resets connections, and never closes one in order, so it fails the second. A reset proves nothing: it is also what a
//!    kernel sends for a process that was killed before it had read everything, and then the guard or the timeout decides.
//!    *Not distinguished:* a proxy that has the agent's own address (a service mesh's sidecar) and ends while the agent lives.
//! 2. **Its guard says so.** The guard is a process beside the agent, which knows every process group that the agent has
//!    started. It reports that the agent's process is gone, or is stopped and its session revoked, only after the process
//!    groups are killed and gone; an agent whose session is revoked begins nothing of it when it goes on. The report carries
//!    the secret behind the session's incarnation, so nobody else can make it.
//!
//! What neither covers (silence, a reset, a refusal by an address that never accepted, a leader that never had the connection)
//! waits for the session timeout.
//!
//! Where a guard is known to be there it is given [`GUARD_FIRST`] before the refusal counts: it also waits for the end of the
//! commands that the process left behind.

use std::{net::SocketAddr, time::Duration};

use robeing_platform::Ending;

/// How long a guard has for its report before the refusal that proves the end of its agent's process counts alone: the guard
/// may have been killed with the agent.
pub const GUARD_FIRST: Duration = Duration::from_millis(15);
/// Pause before the place of a process that did not accept a connection is asked again.
pub const REACH_AGAIN: Duration = Duration::from_secs(10);

/// Where a session came from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Where its process listens for certain.
    pub process: Option<SocketAddr>,
    /// The end of its connection; of none that this leader had, if nothing ends.
    pub ending: Ending,
    /// Whether the process has a guard.
    pub guarded: bool,
}

/// The signs of one session, as this leader has seen them.
#[derive(Debug)]
pub struct Signs {
    origin: Origin,
    /// Its place accepted a connection while the session was connected.
    reached: bool,
}

/// What a look at the place of a process without a connection comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Its process is gone.
    Gone,
    /// The same, unless its guard has more to say: look once more after [`GUARD_FIRST`].
    GoneUnlessGuarded,
    /// Nothing is proved.
    Unproved,
}

impl Signs {
    /// Of a session that came from there.
    pub fn new(origin: Origin) -> Self {
        Self { origin, reached: false }
    }

    /// Where its process listens for certain.
    pub fn process(&self) -> Option<SocketAddr> {
        self.origin.process
    }

    /// Its place was asked while the session was connected. Whether it need not be asked again.
    pub fn asked(&mut self, accepted: Option<bool>) -> bool {
        self.reached |= accepted == Some(true);
        self.reached
    }

    /// Whether a refusal now would prove that the process is gone.
    pub fn await_refusal(&self) -> bool {
        self.reached && self.origin.ending.closed_by_peer()
    }

    /// What the answer of the place means once the session has lost its connection. `waited`: its guard had its time.
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
