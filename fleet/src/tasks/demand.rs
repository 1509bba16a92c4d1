//! What a task takes of its agent beyond one slot and one skill: several slots, several skills at once, or an object store.

use bilrost::Message;

use super::Task;
use crate::{
    Amounts, Fleet, Refusal, SubmitTask, TeamId,
    config::{check_name, invalid},
    limits::{MAX_SLOTS, MAX_TASK_SHAPES, MAX_TASK_SKILLS},
    schedule::{free_agents::Needs, needing::Shape},
};

/// What a task takes of its agent beyond one slot and one skill.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Demand {
    /// How many slots an attempt takes. 0 in a submission: as many as its kind says, else one.
    #[bilrost(1)]
    pub slots: u32,
    /// The specializations that the agent must have besides the required one; each once, and only if one is required.
    #[bilrost(2)]
    pub skills: Vec<String>,
    /// Whether the agent must have an object store, because the task's input is in it. Of a submission, this says nothing:
    /// it is set once the task is accepted.
    #[bilrost(3)]
    pub store: bool,
}

impl Demand {
    /// Returns what a task takes beyond one slot and one skill; `None` if that is nothing.
    pub(crate) fn of(slots: u32, skills: Vec<String>) -> Option<Box<Demand>> {
        Demand { slots, skills, store: false }.unless_nothing()
    }

    /// Returns what a task takes that has asked for this; `is_stored`: its input is in the object store.
    pub(crate) fn of_task(asked: Option<Box<Demand>>, is_stored: bool) -> Option<Box<Demand>> {
        let asked = asked.map(|asked| *asked).unwrap_or_default();
        Demand { store: is_stored, ..asked }.unless_nothing()
    }

    fn unless_nothing(self) -> Option<Box<Demand>> {
        let slots = self.slots.max(1);
        (slots > 1 || !self.skills.is_empty() || self.store).then(|| Box::new(Demand { slots, ..self }))
    }

    /// Returns the bytes that count against the fleet's budget.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.skills.iter().map(String::len).sum()
    }

    /// Returns whether a task that requires this skill may have this.
    pub(crate) fn is_sound(&self, required: Option<&str>) -> bool {
        let is_something = self.slots > 1 || !self.skills.is_empty() || self.store;
        self.slots > 0 && is_something && self.check(required).is_ok()
    }

    fn check(&self, required: Option<&str>) -> Result<(), Refusal> {
        check_slots(self.slots)?;
        check_skills(required.into_iter().chain(self.skills.iter().map(String::as_str)))?;
        match required {
            None if !self.skills.is_empty() => {
                Err(invalid("skills", "needs a required_specialization, which is the first of them"))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses more slots than an agent can have.
pub(crate) fn check_slots(slots: u32) -> Result<(), Refusal> {
    match slots {
        0..=MAX_SLOTS => Ok(()),
        slots => Err(invalid("slots", format!("is {slots}, the most is {MAX_SLOTS}"))),
    }
}

/// Refuses too many skills, and one that is there twice.
pub(crate) fn check_skills<'a>(skills: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    let mut known: Vec<&str> = Vec::new();
    for skill in skills {
        check_name("skills", skill)?;
        if known.contains(&skill) {
            return Err(invalid("skills", format!("has {skill:?} twice")));
        }
        known.push(skill);
    }
    if known.len() > MAX_TASK_SKILLS {
        return Err(invalid("skills", format!("has {} entries, the most is {MAX_TASK_SKILLS}", known.len())));
    }
    Ok(())
}

impl SubmitTask {
    /// Refuses what no task can take of an agent.
    pub(super) fn check_demand(&self) -> Result<(), Refusal> {
        let required = self.required_specialization.as_deref();
        self.demand.as_ref().map_or(Ok(()), |demand| demand.check(required))
    }

    /// Returns what the task will require of an agent.
    pub(crate) fn needs(&self) -> Needs<'_> {
        let skill = self.required_specialization.as_deref();
        let demand = self.demand.as_deref();
        Needs {
            role: self.required_role,
            specialization_required: skill.is_some(),
            domain: skill.unwrap_or(self.kind_to_run()),
            kind: self.kind_to_run(),
            slots: demand.map_or(1, |demand| demand.slots.max(1)),
            skills: demand.map_or(&[], |demand| &demand.skills),
            store: self.input_ref.is_some(),
        }
    }
}

impl Task {
    /// Returns how many slots an attempt takes.
    pub fn slots(&self) -> u32 {
        self.demand.as_ref().map_or(1, |demand| demand.slots)
    }

    /// Returns the specializations that the agent must have besides the required one.
    pub fn skills(&self) -> &[String] {
        self.demand.as_ref().map_or(&[], |demand| &demand.skills)
    }

    /// Returns whether the agent must have an object store. Once an input is divided, its parts have it.
    pub(crate) fn needs_store(&self) -> bool {
        self.demand.as_ref().is_some_and(|demand| demand.store) && !self.is_divided()
    }
}

impl Fleet {
    /// Refuses another unfinished task that takes several slots or skills, or has its input in the object store, and needs no
    /// resources, if too many others take something else. Those with resources are counted there.
    pub(super) fn check_demand_room(
        &self,
        needs: Needs<'_>,
        team: Option<TeamId>,
        lane: (&str, &str),
    ) -> Result<(), Refusal> {
        let wide = &self.indexes.schedule.wide;
        let has_room = !needs.is_demanding() || wide.len() < MAX_TASK_SHAPES;
        if has_room || wide.knows(&Shape::of(&needs, team, Amounts::NONE, lane)) {
            return Ok(());
        }
        Err(Refusal::Full {
            what: "different needs of unfinished tasks with several slots or skills, or with stored inputs".to_owned(),
            limit: MAX_TASK_SHAPES as u64,
            remedy: "ask for the same as other tasks, or submit this one when some have finished".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{TaskId, limits::MAX_NAME_BYTES};

    fn asked(slots: u32, skills: usize, required: bool) -> Result<(), Refusal> {
        let skills = (0..skills).map(|n| format!("skill-{n}")).collect();
        let demand = Some(Box::new(Demand { slots, skills, store: false }));
        let required_specialization = required.then(|| "first".to_owned());
        SubmitTask { demand, required_specialization, ..SubmitTask::new(TaskId(1), "k", Bytes::new()) }.check()
    }

    #[test]
    fn slots_and_skills_have_their_limits() {
        assert_eq!(asked(MAX_SLOTS, MAX_TASK_SKILLS - 1, true), Ok(()));
        assert!(asked(MAX_SLOTS + 1, 0, false).is_err());
        assert!(asked(1, MAX_TASK_SKILLS, true).is_err(), "one more with the required one");
        assert!(asked(1, 1, false).is_err(), "the first one is missing");
    }

    #[test]
    fn a_skill_is_named_once_and_no_longer_than_a_name() {
        let of = |skills: &[&str]| check_skills(skills.iter().copied());
        assert_eq!(of(&["a", "b"]), Ok(()));
        assert!(of(&["a", "b", "a"]).is_err() && of(&[""]).is_err());
        let longest = "x".repeat(MAX_NAME_BYTES);
        assert_eq!(of(&[&longest]), Ok(()));
        assert!(of(&[&format!("{longest}x")]).is_err());
    }

    #[test]
    fn one_slot_and_one_skill_are_no_demand_and_an_object_store_is() {
        let stored = Demand { slots: 1, skills: Vec::new(), store: true };
        assert_eq!((Demand::of_task(None, false), Demand::of_task(None, true)), (None, Some(Box::new(stored.clone()))));
        assert_eq!(Demand::of_task(Some(Box::new(stored)), false), None, "a submission does not say so");
        assert_eq!(Demand::of(0, Vec::new()), None);
        assert_eq!(Demand::of(1, Vec::new()), None);
        assert_eq!(Demand::of(0, vec!["a".to_owned()]).map(|demand| demand.slots), Some(1));
    }
}
