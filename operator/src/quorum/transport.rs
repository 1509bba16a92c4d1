//! Decides whether the processes of a fleet speak TLS alone. A fleet without TLS moves to it in two rolling updates: at
//! first every process is replaced by one that speaks both, and then by one that speaks TLS alone. Nothing is recorded:
//! the decision follows from the templates and pods that exist. Pure.

/// How a process connects and is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// Without TLS.
    Plaintext,
    /// With TLS, and without it where the other process doesn't speak it.
    Permissive,
    /// With TLS alone.
    #[default]
    Strict,
}

/// Pods that are created from one template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What the template sets.
    pub transport: Transport,
    /// Whether every pod was created from this template and none of an older one is left.
    pub settled: bool,
}

/// What the decision is made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What the spec asks for: [`Transport::Permissive`] or [`Transport::Strict`].
    pub wanted: Transport,
    /// Whether there is an authority, without which no process can speak TLS.
    pub has_authority: bool,
    /// The coordinators; `None` if there are none.
    pub coordinators: Option<Workload>,
    /// The pools' Deployments.
    pub pools: Vec<Workload>,
}

/// Returns how the processes are to connect. `secured` is whether every coordinator was seen to speak TLS: one of an
/// image of an earlier version does not, whatever its template sets.
pub fn next(view: &View, secured: bool) -> Transport {
    let pools = || view.pools.iter();
    let Some(coordinators) = view.coordinators else {
        // Agents may be left of coordinators whose StatefulSet was deleted.
        return match pools().map(|pool| pool.transport).min() {
            Some(Transport::Plaintext) if !view.has_authority => Transport::Plaintext,
            Some(Transport::Plaintext | Transport::Permissive) => Transport::Permissive,
            Some(Transport::Strict) | None => view.wanted,
        };
    };
    match coordinators.transport {
        Transport::Plaintext if view.has_authority => Transport::Permissive,
        Transport::Plaintext => Transport::Plaintext,
        Transport::Strict => view.wanted,
        Transport::Permissive => {
            let moved = |workload: &Workload| workload.settled && workload.transport != Transport::Plaintext;
            let all = moved(&coordinators) && pools().all(moved);
            if all && secured { view.wanted } else { Transport::Permissive }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Transport::*, *};

    const fn workload(transport: Transport, settled: bool) -> Workload {
        Workload { transport, settled }
    }

    fn view(coordinators: Option<Workload>, pools: &[Workload]) -> View {
        View { wanted: Strict, has_authority: true, coordinators, pools: pools.to_vec() }
    }

    #[test]
    fn a_new_fleet_is_what_its_spec_says() {
        for wanted in [Permissive, Strict] {
            assert_eq!(next(&View { wanted, ..view(None, &[]) }, false), wanted);
            assert_eq!(next(&View { wanted, has_authority: false, ..view(None, &[]) }, false), wanted);
        }
    }

    #[test]
    fn a_fleet_without_tls_moves_to_it_in_two_steps() {
        let plain = view(Some(workload(Plaintext, true)), &[workload(Plaintext, true)]);
        assert_eq!(next(&plain, false), Permissive);
        assert_eq!(next(&View { has_authority: false, ..plain }, false), Plaintext, "it is not rolled for nothing");
        let steps = [
            (workload(Permissive, false), workload(Plaintext, true), Permissive),
            (workload(Permissive, true), workload(Plaintext, true), Permissive),
            (workload(Permissive, true), workload(Permissive, false), Permissive),
            (workload(Permissive, false), workload(Permissive, true), Permissive),
            (workload(Permissive, true), workload(Permissive, true), Strict),
            (workload(Strict, false), workload(Permissive, true), Strict),
            (workload(Strict, true), workload(Strict, false), Strict),
        ];
        for (coordinators, pool, expected) in steps {
            assert_eq!(next(&view(Some(coordinators), &[pool]), true), expected, "{coordinators:?} {pool:?}");
        }
    }

    #[test]
    fn coordinators_that_were_not_seen_to_speak_tls_are_not_required_to() {
        let moved = view(Some(workload(Permissive, true)), &[workload(Permissive, true)]);
        assert_eq!(next(&moved, false), Permissive);
    }

    fn any_workload() -> impl Strategy<Value = Workload> {
        let transport = prop::sample::select(vec![Plaintext, Permissive, Strict]);
        (transport, any::<bool>()).prop_map(|(transport, settled)| workload(transport, settled))
    }

    proptest! {
        #[test]
        fn nobody_who_does_not_speak_tls_is_left_alone(
            coordinators in prop::option::of(any_workload()),
            pools in prop::collection::vec(any_workload(), 0..4),
            (has_authority, strict, secured) in any::<(bool, bool, bool)>(),
        ) {
            let wanted = if strict { Strict } else { Permissive };
            let view = View { wanted, has_authority, coordinators, pools };
            let decided = next(&view, secured);
            if decided == Strict {
                prop_assert_eq!(wanted, Strict);
                let were_strict = view.coordinators.is_none_or(|coordinators| coordinators.transport == Strict);
                let all = view.pools.iter().chain(&view.coordinators);
                let moved = all.clone().all(|one| one.transport != Plaintext && one.settled) && secured;
                prop_assert!(were_strict || moved);
            }
            if decided == Plaintext {
                prop_assert!(!has_authority, "only for want of an authority");
            }
            // The decision stays as it is when it has been applied and nothing else happens.
            let applied = Workload { transport: decided, settled: false };
            let after = View { coordinators: Some(applied), pools: vec![applied; view.pools.len()], ..view };
            prop_assert!(next(&after, secured) >= decided.min(wanted));
        }
    }
}
