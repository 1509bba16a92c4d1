//! Room for so many enrolments at once, of which the last places are kept for roles of higher priority.

use std::sync::atomic::{AtomicU32, Ordering};

use robeing_fleet::{Places, Role};

/// How many enrolments may be in progress at one coordinator; further ones are refused, and agents retry. The role is
/// the one that an agent claims, since its proof has not been verified yet.
pub const ENROLLING: Places = Places { most: 256, kept: 16 };

/// Room for enrolments.
#[derive(Debug)]
pub struct Room {
    places: Places,
    taken: AtomicU32,
}

/// A place, until this is dropped.
#[derive(Debug)]
pub struct Place<'a>(&'a Room);

impl Room {
    /// Creates room with these places.
    pub fn new(places: Places) -> Self {
        Self { places, taken: AtomicU32::new(0) }
    }

    /// Takes a place for an agent of this role; `None` if none is left for it.
    pub fn take(&self, role: Role) -> Option<Place<'_>> {
        let most = self.places.of(role);
        let one_more = |taken: u32| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_places_are_for_roles_of_higher_priority() {
        let room = Room::new(ENROLLING);
        let mut places = Vec::new();
        let mut fill = |role| {
            while let Some(place) = room.take(role) {
                places.push(place);
            }
            places.len()
        };
        assert_eq!(fill(Role::Messenger), 224);
        assert_eq!(fill(Role::Worker), 240);
        assert_eq!(fill(Role::Messenger), 240);
        assert_eq!(fill(Role::Guardian), 256);
        assert_eq!(fill(Role::Specialist), 256);
        places.pop();
        assert!(room.take(Role::Worker).is_none());
        assert!(room.take(Role::Guardian).is_some());
        places.clear();
        assert!(room.take(Role::Messenger).is_some(), "a place is free again when its enrolment is over");
    }
}
