//! A watch cache of one kind of object, indexed by fleet: the cost of reading a fleet's objects does not depend on the
//! number of other fleets. It keeps a value derived from each object, not the object.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::ResourceExt;
use kube_runtime::watcher::Event;
use tokio::sync::watch;

use crate::names;

/// Namespace and name of a fleet.
pub(crate) type Key = (String, String);
/// Namespace and name of an object.
type Place = (String, String);

/// The cache. Cheap to clone.
pub(crate) struct Index<V> {
    state: Arc<Mutex<State<V>>>,
    filled: watch::Sender<bool>,
}

struct State<V> {
    known: Objects<V>,
    /// The objects received so far of a list in progress.
    listed: Option<Objects<V>>,
}

struct Objects<V> {
    /// The objects of each fleet, sorted by name.
    fleets: HashMap<Arc<Key>, Vec<Entry<V>>>,
    /// The fleet that each object belongs to; an object's label can change.
    places: HashMap<Place, Arc<Key>>,
}

#[derive(Clone)]
struct Entry<V> {
    name: String,
    version: Option<String>,
    value: V,
}

impl<V> Clone for Index<V> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), filled: self.filled.clone() }
    }
}

impl<V: Clone> Default for Index<V> {
    fn default() -> Self {
        let state = State { known: Objects::default(), listed: None };
        Self { state: Arc::new(Mutex::new(state)), filled: watch::Sender::new(false) }
    }
}

impl<V> Default for Objects<V> {
    fn default() -> Self {
        Self { fleets: HashMap::new(), places: HashMap::new() }
    }
}

/// Returns the fleet that an object belongs to, from its label.
fn fleet<K: ResourceExt>(object: &K) -> Option<Key> {
    let name = object.labels().get(names::LABEL_INSTANCE)?;
    Some((object.namespace()?, name.clone()))
}

impl<V: Clone> Objects<V> {
    fn of(&self, key: &Key) -> &[Entry<V>] {
        self.fleets.get(key).map_or(&[], Vec::as_slice)
    }

    /// Inserts an object, and returns the fleet that it belonged to before if that is a different one.
    fn put(&mut self, place: Place, key: Key, entry: Entry<V>) -> Option<Arc<Key>> {
        let before = self.places.get(&place).cloned();
        let moved = before.clone().filter(|before| **before != key);
        if moved.is_some() {
            self.take(&place);
        }
        // All objects of a fleet share one allocation of its key.
        let key = self.fleets.get_key_value(&key).map_or_else(|| Arc::new(key), |(known, _)| Arc::clone(known));
        self.places.insert(place, Arc::clone(&key));
        let entries = self.fleets.entry(key).or_default();
        match entries.binary_search_by(|known| known.name.cmp(&entry.name)) {
            Ok(at) => entries[at] = entry,
            Err(at) => {
                // Most fleets have only one or a few objects of a kind.
                entries.reserve_exact(1);
                entries.insert(at, entry);
            }
        }
        moved
    }

    fn take(&mut self, place: &Place) -> Option<Arc<Key>> {
        let key = self.places.remove(place)?;
        if let Some(entries) = self.fleets.get_mut(&key) {
            entries.retain(|entry| entry.name != place.1);
            if entries.is_empty() {
                self.fleets.remove(&key);
            }
        }
        Some(key)
    }

    /// Releases spare capacity after many objects were removed.
    fn shrink(&mut self) {
        let sparse = |length: usize, capacity: usize| capacity > 64 && length < capacity / 4;
        if sparse(self.places.len(), self.places.capacity()) {
            self.places.shrink_to_fit();
        }
        if sparse(self.fleets.len(), self.fleets.capacity()) {
            self.fleets.shrink_to_fit();
        }
    }
}

impl<V: Clone> Index<V> {
    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a watch event and returns the fleets whose objects changed. When objects are listed again, an unchanged
    /// object is not a change, and a missing one is. `keep` returns the value to cache for an object.
    pub(crate) fn apply<K: ResourceExt>(&self, event: Event<K>, keep: impl FnOnce(K) -> V) -> HashSet<Arc<Key>> {
        let mut state = self.lock();
        match event {
            Event::Init => state.listed = Some(Objects::default()),
            Event::InitApply(object) => {
                let Some(key) = fleet(&object) else { return HashSet::new() };
                let (place, version) = (place(&object), object.resource_version());
                let known = state.known.of(&key).iter().find(|known| known.name == place.1 && known.version == version);
                let entry = match known.cloned() {
                    Some(known) => known,
                    None => Entry { name: place.1.clone(), version, value: keep(object) },
                };
                state.listed.get_or_insert_default().put(place, key, entry);
            }
            Event::InitDone => {
                let listed = state.listed.take().unwrap_or_default();
                let changed = different(&state.known, &listed);
                state.known = listed;
                self.filled.send_replace(true);
                return changed;
            }
            Event::Apply(object) => {
                let Some(key) = fleet(&object) else { return HashSet::new() };
                let place = place(&object);
                let entry = Entry { name: place.1.clone(), version: object.resource_version(), value: keep(object) };
                let moved = state.known.put(place, key.clone(), entry);
                return moved.into_iter().chain([Arc::new(key)]).collect();
            }
            Event::Delete(object) => {
                let gone = state.known.take(&place(&object));
                state.known.shrink();
                return gone.into_iter().collect();
            }
        }
        HashSet::new()
    }

    /// Waits until the cache has been filled for the first time.
    pub(crate) async fn filled(&self) {
        // This never fails: the cache owns the sender.
        let _ = self.filled.subscribe().wait_for(|filled| *filled).await;
    }

    /// Returns the cached values of a fleet's objects, sorted by the objects' names.
    pub(crate) fn of(&self, namespace: &str, name: &str) -> Vec<V> {
        let key = (namespace.to_owned(), name.to_owned());
        self.lock().known.of(&key).iter().map(|entry| entry.value.clone()).collect()
    }
}

fn place<K: ResourceExt>(object: &K) -> Place {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Returns the fleets whose objects differ, in name or version, between the two.
fn different<V>(one: &Objects<V>, other: &Objects<V>) -> HashSet<Arc<Key>> {
    let same = |key: &Arc<Key>| {
        let versions = |objects: &Objects<V>| -> Vec<(String, Option<String>)> {
            let entries = objects.fleets.get(key).into_iter().flatten();
            entries.map(|entry| (entry.name.clone(), entry.version.clone())).collect()
        };
        versions(one) == versions(other)
    };
    one.fleets.keys().chain(other.fleets.keys()).filter(|key| !same(key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(fleet: &str, name: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("n".into());
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(version.into());
        object.metadata.labels = Some([(names::LABEL_INSTANCE.to_owned(), fleet.to_owned())].into());
        object
    }

    fn kept(object: ConfigMap) -> String {
        format!("{}@{}", object.name_any(), object.resource_version().unwrap_or_default())
    }

    /// Applies an event and returns the names of the fleets that it triggers, sorted.
    fn tell(index: &Index<String>, event: Event<ConfigMap>) -> Vec<String> {
        let mut woken: Vec<String> = index.apply(event, kept).iter().map(|key| key.1.clone()).collect();
        woken.sort();
        woken
    }

    fn list(index: &Index<String>, objects: &[(&str, &str, &str)]) -> Vec<String> {
        tell(index, Event::Init);
        for (fleet, name, version) in objects {
            assert_eq!(tell(index, Event::InitApply(object(fleet, name, version))), Vec::<String>::new());
        }
        tell(index, Event::InitDone)
    }

    #[test]
    fn a_fleet_has_its_own_objects_by_name() {
        let index = Index::default();
        assert_eq!(list(&index, &[("one", "b", "1"), ("one", "a", "1"), ("two", "c", "1")]), ["one", "two"]);
        assert_eq!(index.of("n", "one"), ["a@1", "b@1"]);
        assert_eq!(index.of("n", "two"), ["c@1"]);
        assert_eq!(index.of("elsewhere", "one"), Vec::<String>::new());
        assert_eq!(tell(&index, Event::Apply(object("one", "a", "2"))), ["one"]);
        assert_eq!(tell(&index, Event::Apply(object("one", "aa", "3"))), ["one"]);
        assert_eq!(index.of("n", "one"), ["a@2", "aa@3", "b@1"]);
        assert_eq!(tell(&index, Event::Delete(object("one", "aa", "4"))), ["one"]);
        assert_eq!(tell(&index, Event::Delete(object("one", "aa", "4"))), Vec::<String>::new(), "it was gone already");
        assert_eq!(index.of("n", "one"), ["a@2", "b@1"]);
    }

    #[test]
    fn an_object_whose_label_changes_wakes_the_fleet_that_lost_it_as_well() {
        let index = Index::default();
        list(&index, &[("one", "a", "1"), ("one", "b", "1")]);
        assert_eq!(tell(&index, Event::Apply(object("two", "a", "2"))), ["one", "two"]);
        assert_eq!((index.of("n", "one"), index.of("n", "two")), (vec!["b@1".into()], vec!["a@2".into()]));
        // When an object loses the label, the watch reports its deletion, with the object's current form.
        let mut bare = object("two", "a", "3");
        bare.metadata.labels = None;
        assert_eq!(tell(&index, Event::Delete(bare)), ["two"]);
        assert_eq!(index.of("n", "two"), Vec::<String>::new());
    }

    #[test]
    fn a_list_that_is_made_again_wakes_those_of_which_something_changed_meanwhile() {
        let index = Index::default();
        list(&index, &[("same", "a", "1"), ("changed", "b", "1"), ("gone", "c", "1")]);
        tell(&index, Event::Init);
        assert_eq!(index.of("n", "gone"), ["c@1"], "the known objects remain until the list is complete");
        let now = [("same", "a", "1"), ("changed", "b", "2"), ("new", "d", "1")];
        assert_eq!(list(&index, &now), ["changed", "gone", "new"]);
        assert_eq!((index.of("n", "gone"), index.of("n", "same")), (vec![], vec!["a@1".into()]));
    }

    #[tokio::test]
    async fn it_is_filled_once_all_is_listed() {
        let index = Index::<String>::default();
        tell(&index, Event::Init);
        tell(&index, Event::InitApply(object("one", "a", "1")));
        let waiting = tokio::time::timeout(Duration::ZERO, index.filled()).await;
        assert!(waiting.is_err(), "the list has not ended");
        tell(&index, Event::InitDone);
        index.filled().await;
        index.clone().filled().await;
    }

    #[test]
    fn what_a_look_costs_does_not_grow_with_the_other_fleets() {
        let took = |others: usize| {
            let index = Index::default();
            for number in 0..others {
                tell(&index, Event::Apply(object(&format!("other-{number}"), &format!("of-{number}"), "1")));
            }
            tell(&index, Event::Apply(object("one", "a", "1")));
            let round = || {
                let began = Instant::now();
                for _ in 0..1_000 {
                    assert_eq!(index.of("n", "one").len(), 1);
                }
                began.elapsed()
            };
            // The minimum of several rounds: other load on the machine only makes rounds slower.
            (0..10).map(|_| round()).min().unwrap_or_default()
        };
        let (few, many) = (took(10), took(20_000));
        // A scan of all objects would take 2,000 times as long.
        assert!(many < few * 50, "{few:?} beside 10 others, {many:?} beside 20,000");
    }

    #[test]
    fn room_is_given_back_when_objects_go() {
        let index = Index::default();
        for number in 0..10_000 {
            tell(&index, Event::Apply(object(&format!("fleet-{number}"), &format!("of-{number}"), "1")));
        }
        for number in 0..10_000 {
            tell(&index, Event::Delete(object(&format!("fleet-{number}"), &format!("of-{number}"), "2")));
        }
        let state = index.lock();
        assert!(state.known.fleets.capacity() <= 64 && state.known.places.capacity() <= 64);
    }
}
