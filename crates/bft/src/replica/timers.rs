//! Timers (1999, sections 4.4 and 4.5.2). The timeout of a view doubles with each view since the one in which the last
//! new request was executed, so that members meet in a view for long enough once messages arrive in time.

use super::{Cx, Replica, Timer, TimerChange, TimerId};
use crate::{
    application::Application,
    certificate::{Seq, View},
    limits::{IDLE_FACTOR, MAX_DOUBLINGS, MAX_TIMEOUT_MS},
    pending::RequestKey,
};

/// What the view timer waits for. Each has a timeout of its own, so that a primary cannot ignore one request while it
/// executes others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaited {
    /// The new view.
    NewView(View),
    /// The execution of a request.
    Request(View, RequestKey),
    /// The execution of a sequence number.
    Decision(View, Seq),
}

/// The timers as they are set.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    token: u64,
    /// What the view timer waits for, and its token, while it is set.
    view: Option<(Awaited, u64)>,
    /// The token of the resend timer, and whether it was set to the short time.
    resend: Option<(u64, bool)>,
}

impl<A: Application> Replica<A> {
    /// A timer fired, which may have been set again since.
    pub(super) fn fired(&mut self, id: TimerId, cx: &mut Cx<'_>) {
        match id.timer {
            Timer::View if self.timers.view.is_some_and(|(_, token)| token == id.token) => {
                self.timers.view = None;
                self.start_view_change(self.view.next(), cx);
            }
            Timer::Resend if self.timers.resend.is_some_and(|(token, _)| token == id.token) => {
                self.timers.resend = None;
                self.tick(cx);
            }
            _ => {}
        }
    }

    /// Sets the timers to what is awaited after a step.
    pub(super) fn update_timers(&mut self, cx: &mut Cx<'_>) {
        let awaited = self.awaited();
        let current = self.timers.view.map(|(awaited, _)| awaited);
        if awaited != current {
            match awaited {
                Some(awaited) => {
                    let token = self.set(Timer::View, self.view_timeout(), cx);
                    self.timers.view = Some((awaited, token));
                }
                None => {
                    self.timers.view = None;
                    cx.out.timers.push(TimerChange::Cancel(Timer::View));
                }
            }
        }
        let busy = self.is_busy();
        if self.timers.resend.is_none_or(|(_, short)| busy && !short) {
            let resend = self.epoch.parameters.resend_ms;
            let after = if busy { resend } else { resend.saturating_mul(IDLE_FACTOR) };
            let token = self.set(Timer::Resend, after.min(MAX_TIMEOUT_MS), cx);
            self.timers.resend = Some((token, busy));
        }
    }

    fn set(&mut self, timer: Timer, after_ms: u64, cx: &mut Cx<'_>) -> u64 {
        let token = self.timers.token;
        self.timers.token = token.wrapping_add(1);
        let id = TimerId { timer, token };
        cx.out.timers.push(TimerChange::Set { id, view: self.view, after_ms });
        token
    }

    /// The timeout of the current view, in milliseconds.
    fn view_timeout(&self) -> u64 {
        let since = self.view.0.saturating_sub(self.good_view.0);
        let doublings = u32::try_from(since).unwrap_or(u32::MAX).min(MAX_DOUBLINGS);
        self.epoch.parameters.view_timeout_ms.saturating_mul(1 << doublings).min(MAX_TIMEOUT_MS)
    }

    /// Returns what the view timer has to wait for: what it waits for already as long as that is outstanding.
    fn awaited(&self) -> Option<Awaited> {
        if self.has_ended() || self.halted {
            return None;
        }
        let view = self.view;
        if !self.active {
            // Before a quorum moves, waiting is no sign of a faulty primary.
            return self.has_company().then_some(Awaited::NewView(view));
        }
        if let Some((current, _)) = self.timers.view {
            let outstanding = match current {
                Awaited::NewView(_) => false,
                Awaited::Request(of, key) => of == view && self.pending.contains(&key),
                Awaited::Decision(of, seq) => of == view && seq > self.executed && self.is_outstanding(),
            };
            if outstanding {
                return Some(current);
            }
        }
        let request = self.pending.oldest().map(|key| Awaited::Request(view, key));
        let decision = || self.is_outstanding().then_some(Awaited::Decision(view, self.executed.next()));
        request.or_else(decision)
    }

    /// Returns whether something is accepted in this view, or decided, and not executed.
    fn is_outstanding(&self) -> bool {
        let mut after = self.log.range(self.executed.next()..).map(|(_, slot)| slot);
        after.any(|slot| slot.decided.is_some() || slot.accepted_in(self.view).is_some())
    }

    fn is_busy(&self) -> bool {
        !self.active
            || !self.pending.is_empty()
            || self.transfer.is_some()
            || self.ahead.is_some()
            || !self.own_states.is_empty()
            || self.log.range(self.executed.next()..).next().is_some()
    }
}
