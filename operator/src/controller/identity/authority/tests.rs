//! The life of an authority, with clocks that jump, an operator that restarts, and Secrets that lose parts.

use std::{collections::BTreeMap, sync::LazyLock};

use k8s_openapi::api::core::v1::Secret;
use proptest::prelude::*;
use robeing_identity::Realm;

use super::*;
use crate::{controller::build, names};

const NOW: u64 = 1_800_000_000_000;
const OVERLAP: Duration = Duration::from_secs(2 * 60 * 60);
const HOURS: u64 = 60 * 60 * 1_000;
const YEAR: u64 = 365 * 24 * HOURS;

/// Authorities, made once, because keys take time.
static PAIRS: LazyLock<Vec<Pair>> = LazyLock::new(|| {
    let realm = Realm::new("robeing.local", "apps", "fleet").expect("a realm");
    (0..24).map(|_| Pair::of(&Authority::create(&realm, NOW).expect("an authority"))).collect()
});

fn pair(number: usize) -> Pair {
    PAIRS[number % PAIRS.len()].clone()
}

fn first() -> AuthorityState {
    AuthorityState::first(pair(0), "", vec![], "join".into())
}

fn view(fleet: Option<u64>) -> View<'static> {
    View { now: NOW, fleet, overlap: OVERLAP, asked: None, wanted: Wanted::Own, published: true }
}

fn written(state: &AuthorityState) -> Secret {
    build::secret("fleet", "apps", "u", "fleet-authority", &to_secret(state))
}

#[test]
fn an_authority_is_rotated_when_two_thirds_of_its_time_are_over() {
    let state = first();
    let due = state.issuing.not_after - YEAR / 3;
    assert_eq!(step(&state, &view(Some(due - 1))), Step::Rest);
    assert_eq!(step(&state, &view(Some(due))), Step::Begin(None));
    let late = View { now: due, ..view(None) };
    assert_eq!(step(&state, &late), Step::Begin(None), "without a fleet, the operator's clock counts");
}

#[test]
fn a_rotation_that_is_asked_for_happens_once_for_each_value() {
    let mut state = first();
    let asking = View { asked: Some("a"), ..view(Some(NOW)) };
    assert_eq!(step(&state, &asking), Step::Begin(None));
    state = state.begun(pair(1), "", Some("a"));
    assert_eq!(state.trust, [pair(0).certificate, pair(1).certificate]);
    assert_eq!(state.issuing, pair(0), "the next one is only trusted");
    assert_eq!(step(&state, &View { published: false, ..asking }), Step::Rest, "nobody can know it yet");
    assert_eq!(step(&state, &View { fleet: None, ..asking }), Step::Rest, "nobody says the time");
    assert_eq!(step(&state, &asking), Step::Stamp(NOW));
    state = state.stamped(NOW);
    let later = |ms: u64| View { fleet: Some(NOW + ms), ..asking };
    assert_eq!(step(&state, &later(2 * HOURS - 1)), Step::Rest);
    assert_eq!(remaining(&state, &later(2 * HOURS - 1)), Some(Duration::from_millis(1)));
    assert_eq!(step(&state, &later(2 * HOURS)), Step::Switch);
    state = state.switched(Some(NOW + 2 * HOURS));
    assert_eq!((&state.issuing, state.trust.len()), (&pair(1), 2));
    assert_eq!(step(&state, &later(4 * HOURS - 1)), Step::Rest);
    assert_eq!(step(&state, &later(4 * HOURS)), Step::Finish);
    state = state.finished();
    assert_eq!(state.trust, [pair(1).certificate]);
    assert_eq!(step(&state, &later(4 * HOURS)), Step::Rest);
    let again = View { asked: Some("b"), ..later(4 * HOURS) };
    assert_eq!(step(&state, &again), Step::Begin(None));
}

#[test]
fn a_clock_that_was_set_back_makes_phases_longer_and_never_endless() {
    let state = first().begun(pair(1), "", None).stamped(NOW + YEAR);
    assert_eq!(step(&state, &view(Some(NOW))), Step::Stamp(NOW));
    let retiring = state.switched(Some(NOW + YEAR));
    assert_eq!(step(&retiring, &view(Some(NOW))), Step::Stamp(NOW));
}

#[test]
fn an_expired_authority_is_replaced_without_waiting_since_nothing_of_it_is_valid() {
    let state = first().begun(pair(1), "", None);
    let expired = View { now: state.issuing.not_after, ..view(None) };
    assert_eq!(step(&state, &expired), Step::Switch, "the coordinators may find no leader without certificates");
    assert_eq!(step(&state, &View { published: false, ..expired }), Step::Rest);
    assert_eq!(step(&state, &View { fleet: Some(NOW), ..expired }), Step::Stamp(NOW), "the fleet's time counts");
}

#[test]
fn a_given_authority_replaces_the_operators_own_and_follows_its_secret() {
    let given = |pair| View { wanted: Wanted::Given { secret: "mine", pair }, ..view(Some(NOW)) };
    let (one, two) = (pair(1), pair(2));
    assert_eq!(step(&first(), &given(None)), Step::Rest, "it can't be read now");
    assert_eq!(step(&first(), &given(Some(&one))), Step::Begin(Some(one.clone())));
    let state = first().begun(one.clone(), "mine", None);
    assert_eq!(step(&state, &given(Some(&two))), Step::Begin(Some(two.clone())), "it was replaced meanwhile");
    let state = state.begun(two.clone(), "mine", None);
    assert_eq!(state.trust, [pair(0).certificate, two.certificate.clone()], "the abandoned one is not trusted");
    let state = state.stamped(NOW).switched(Some(NOW)).finished();
    assert_eq!(step(&state, &given(Some(&two))), Step::Rest);
    let late = View { fleet: Some(NOW + YEAR), ..given(Some(&two)) };
    assert_eq!(step(&state, &late), Step::Rest, "whoever made it renews it");
    assert_eq!(step(&state, &view(Some(NOW))), Step::Begin(None), "the spec names it no more");
}

#[test]
fn a_state_is_written_and_read_again_and_coordinators_read_no_key_that_does_not_issue() {
    let mut state = first().begun(pair(1), "", Some("a")).stamped(NOW);
    state.join_pools = vec!["a".into(), "b".into()];
    assert_eq!(from_secret(&written(&state)), Found::Whole(Box::new(state.clone())));
    for next in [state.clone().switched(Some(NOW)), state.clone().switched(None), state.finished()] {
        let next = AuthorityState { next: None, ..next };
        let Found::Whole(read) = from_secret(&written(&next)) else { panic!("{next:?}") };
        assert_eq!(*read, next);
    }
    assert!(KEYS_OF_COORDINATORS.iter().all(|key| !key.starts_with("next")));
}

#[test]
fn what_a_secret_lost_is_derived_from_the_rest() {
    let state = first().begun(pair(1), "", None).stamped(NOW);
    let without = |keys: &[&str]| {
        let mut secret = written(&state);
        secret.data.as_mut().expect("data").retain(|key, _| !keys.contains(&key.as_str()));
        from_secret(&secret)
    };
    let Found::Mended(found) = without(&["trust.crt"]) else { panic!("it is mended") };
    assert_eq!(found.phase, Phase::Adding { since: None }, "whether members know the next one is not known");
    assert_eq!(found.trust.len(), 2);
    let Found::Mended(found) = without(&["ca.key"]) else { panic!("it is mended") };
    assert_eq!((&found.issuing, found.phase), (&pair(1), Phase::Retiring { since: None }));
    assert!(found.trust.contains(&pair(0).certificate), "what the lost one issued is still valid");
    let Found::Mended(found) = without(&["next.key"]) else { panic!("it is mended") };
    assert_eq!((&found.issuing, found.phase), (&pair(0), Phase::Retiring { since: None }));
    let Found::Lost { trusted, join_key } = without(&["ca.key", "next.key"]) else { panic!("it is lost") };
    assert_eq!((trusted.len(), join_key.as_deref()), (2, Some("join")));
    let remade = AuthorityState::first(pair(5), "", trusted, "join".into());
    assert_eq!((remade.trust.len(), remade.phase), (3, Phase::Retiring { since: None }));
    let mut foreign = written(&state);
    foreign.data.as_mut().expect("data").insert("ca.crt".into(), k8s_openapi::ByteString(vec![0xff]));
    assert!(matches!(from_secret(&foreign), Found::Mended(_)));
    assert!(matches!(from_secret(&Secret::default()), Found::Lost { .. }));
}

#[test]
fn never_are_more_authorities_trusted_than_members_can_read() {
    let many: Vec<String> = (0..12).map(|number| pair(number).certificate).collect();
    let state = AuthorityState::first(pair(0), "", many, "join".into());
    assert_eq!(state.trust.len(), MAX_AUTHORITIES);
    let state = state.begun(pair(11), "", None);
    assert_eq!(state.trust.len(), MAX_AUTHORITIES);
    assert!(state.trust.contains(&pair(0).certificate) && state.trust.contains(&pair(11).certificate));
    assert!(TrustBundle::from_pem(&state.bundle()).is_ok());
}

#[test]
fn certificates_are_found_in_any_text_each_once_and_in_one_form() {
    let one = pair(0).certificate;
    let text = format!(
        "# ours\n{}\n{one}-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n",
        one.replace('\n', "\r\n")
    );
    assert_eq!(certificates(&text), [one]);
    assert!(certificates("-----BEGIN CERTIFICATE-----").is_empty());
}

/// Something that happens to a fleet and its operator.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Time passes, or the clock is set back, by this many minutes.
    Clock(i64),
    /// The operator's own clock differs by this many minutes from now on.
    OwnClock(i64),
    /// A leader responds from now on, or none.
    Fleet(bool),
    /// The ConfigMap is written, and the coordinators are told.
    Publish,
    /// Somebody asks for a rotation.
    Ask,
    /// The operator reconciles.
    Reconcile,
    /// The operator restarts: only the Secret is left.
    Restart,
    /// Somebody removes a key of the Secret, and the operator restarts.
    Lose(&'static str),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (-30_i64..240).prop_map(Event::Clock),
        1 => (-600_000_i64..600_000).prop_map(Event::OwnClock),
        1 => any::<bool>().prop_map(Event::Fleet),
        4 => Just(Event::Publish),
        2 => Just(Event::Ask),
        8 => Just(Event::Reconcile),
        2 => Just(Event::Restart),
        1 => prop::sample::select(vec!["trust.crt", "next.crt", "next.key", "join.key", "issuer.json"])
            .prop_map(Event::Lose),
    ]
}

/// A fleet that knows what was published, beside a model of when it learned of each authority.
struct World {
    state: AuthorityState,
    fleet: u64,
    own_differs: i64,
    leads: bool,
    /// The certificates that members can know, and when each was published last, by the fleet's time passed.
    published: Vec<String>,
    /// Time that really passed, milliseconds.
    passed: u64,
    known_since: BTreeMap<String, u64>,
    /// When each authority issued last.
    issued_at: BTreeMap<String, u64>,
    asked: u32,
    made: usize,
}

impl World {
    fn new() -> Self {
        Self {
            state: first(),
            fleet: NOW,
            own_differs: 0,
            leads: true,
            published: vec![],
            passed: 0,
            known_since: BTreeMap::new(),
            issued_at: BTreeMap::new(),
            asked: 0,
            made: 0,
        }
    }

    fn reconcile(&mut self) -> Result<(), TestCaseError> {
        let asked = self.asked.to_string();
        let view = View {
            now: self.fleet.saturating_add_signed(self.own_differs * 60_000),
            fleet: self.leads.then_some(self.fleet),
            overlap: OVERLAP,
            asked: (self.asked > 0).then_some(asked.as_str()),
            wanted: Wanted::Own,
            published: self.state.trust.iter().all(|certificate| self.published.contains(certificate)),
        };
        let before = self.state.clone();
        match step(&self.state, &view) {
            Step::Rest => {}
            Step::Begin(_) => {
                self.made += 1;
                self.state = before.clone().begun(pair(self.made), "", view.asked);
            }
            Step::Stamp(at) => self.state = before.clone().stamped(at),
            Step::Switch => {
                self.state = before.clone().switched(view.fleet);
                let issuing = &self.state.issuing.certificate;
                let expired = view.fleet.unwrap_or(view.now) >= before.issuing.not_after;
                let known = self.known_since.get(issuing).copied();
                prop_assert!(known.is_some(), "members can't know who issues");
                let long_enough = known.is_some_and(|since| self.passed - since >= OVERLAP.as_millis() as u64);
                prop_assert!(expired || long_enough, "members may not know who issues");
            }
            Step::Finish => {
                self.state = before.clone().finished();
                for dropped in before.trust.iter().filter(|known| !self.state.trust.contains(known)) {
                    let last = self.issued_at.get(dropped).copied();
                    let over = last.is_none_or(|last| self.passed - last >= OVERLAP.as_millis() as u64);
                    prop_assert!(over, "what it has issued may still be valid");
                }
            }
        }
        prop_assert!(self.state.trust.contains(&self.state.issuing.certificate), "the issuing one is trusted");
        prop_assert!(self.state.trust.len() <= MAX_AUTHORITIES);
        self.issued_at.insert(self.state.issuing.certificate.clone(), self.passed);
        Ok(())
    }

    fn restart(&mut self, lost: Option<&str>) -> Result<(), TestCaseError> {
        let mut secret = written(&self.state);
        if let Some(lost) = lost {
            secret.data.as_mut().expect("data").remove(lost);
        }
        let (Found::Whole(read) | Found::Mended(read)) = from_secret(&secret) else {
            return Err(TestCaseError::fail("the issuing key is there"));
        };
        let read = match lost {
            Some(_) => read.trusting(self.published.clone()),
            None => *read,
        };
        for known in self.state.trust.iter().filter(|known| self.published.contains(known)) {
            prop_assert!(read.trust.contains(known), "members trust it, and it may have certified some");
        }
        prop_assert_eq!(&read.issuing, &self.state.issuing);
        prop_assert!(read.trust.contains(&read.issuing.certificate));
        if lost.is_none() {
            prop_assert_eq!(&read, &self.state);
        }
        self.state = read;
        Ok(())
    }

    fn happens(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Clock(minutes) => {
                self.fleet = self.fleet.saturating_add_signed(minutes * 60_000);
                self.passed += u64::try_from(minutes * 60_000).unwrap_or(0);
                self.issued_at.insert(self.state.issuing.certificate.clone(), self.passed);
            }
            Event::OwnClock(minutes) => self.own_differs = minutes,
            Event::Fleet(leads) => self.leads = leads,
            Event::Publish => {
                self.published = self.state.trust.clone();
                for certificate in &self.published {
                    self.known_since.entry(certificate.clone()).or_insert(self.passed);
                }
            }
            Event::Ask => self.asked += 1,
            Event::Reconcile => self.reconcile()?,
            Event::Restart => self.restart(None)?,
            Event::Lose(key) => self.restart(Some(key))?,
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// In any order of what can happen: the issuing authority is always trusted, no authority issues before members
    /// could learn of it, and none is dropped while what it issued may be valid.
    #[test]
    fn members_always_trust_who_certified_them(events in prop::collection::vec(any_event(), 1..120)) {
        let mut world = World::new();
        for event in events {
            world.happens(event)?;
        }
    }

    /// Once nothing else happens, every rotation ends.
    #[test]
    fn every_rotation_comes_to_its_end(events in prop::collection::vec(any_event(), 0..40)) {
        let mut world = World::new();
        for event in events {
            world.happens(event)?;
        }
        (world.leads, world.own_differs) = (true, 0);
        for _ in 0..40 {
            world.happens(Event::Publish)?;
            world.happens(Event::Reconcile)?;
            world.happens(Event::Clock(60))?;
        }
        prop_assert_eq!(world.state.phase, Phase::Steady);
        prop_assert_eq!(world.state.trust.len(), 1);
    }
}

#[test]
fn the_annotation_names_the_phase_for_whoever_looks() {
    let annotations = written(&first().begun(pair(1), "", None)).metadata.annotations.expect("annotations");
    assert_eq!(annotations.get(names::ANNOTATION_PHASE).map(String::as_str), Some("adding"));
    assert_eq!(annotations.get(names::ANNOTATION_PHASE_SINCE), None);
}
