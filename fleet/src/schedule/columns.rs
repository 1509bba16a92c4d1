//! Something for each need that waiting tasks may have of an agent: the role, and the domain. An agent looks at a few of
//! these columns, however many kinds of tasks wait.

use std::{collections::BTreeMap, sync::Arc};

use super::{free_agents::Needs, turns::Name};
use crate::{Agent, Role};

/// Number of columns with the same domain: one for each role, and the first one for tasks that require none.
const COLUMNS: usize = 5;

/// What tasks require of an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Column<'a> {
    /// The domain of all tasks in the column: the required specialization, else the kind. `None`: the tasks that require no
    /// specialization, whatever their domain.
    pub domain: Option<&'a str>,
    /// The place of the required role; see [`place_of`].
    pub(super) role: usize,
}

/// Something that is dropped when nothing is left in it.
pub(crate) trait Vacant {
    /// Returns whether nothing is left in it.
    fn is_vacant(&self) -> bool;
}

/// One `T` for each column. Those of a domain are there while one of them is not vacant.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Columns<T> {
    general: [T; COLUMNS],
    domains: BTreeMap<Name, [T; COLUMNS]>,
}

/// Returns the place of a required role.
fn place_of(role: Option<Role>) -> usize {
    role.map_or(0, |role| role as usize + 1)
}

/// Returns the columns that a task is in: that of its domain, and unless it requires a specialization, one without.
pub(crate) fn columns_of<'a>(needs: &Needs<'a>) -> impl Iterator<Item = Column<'a>> + use<'a> {
    let role = place_of(needs.role);
    let general = (!needs.specialization_required).then_some(Column { domain: None, role });
    general.into_iter().chain([Column { domain: Some(needs.domain), role }])
}

/// Returns the columns of the tasks whose domain is one of an agent's specializations.
pub(crate) fn own_columns(agent: &Agent) -> impl Iterator<Item = Column<'_>> {
    agent.specializations.iter().flat_map(move |name| matched_columns(name, agent.role))
}

/// Returns the columns of the tasks with this domain that an agent with this role can take, as it has the specialization.
pub(crate) fn matched_columns(domain: &str, role: Role) -> [Column<'_>; 2] {
    [0, place_of(Some(role))].map(|role| Column { domain: Some(domain), role })
}

/// Returns the columns of the other tasks that an agent with this role can take.
pub(crate) fn general_columns<'a>(role: Role) -> impl Iterator<Item = Column<'a>> {
    let everyone = matches!(role, Role::Worker | Role::Specialist).then_some(0);
    everyone.into_iter().chain([place_of(Some(role))]).map(|role| Column { domain: None, role })
}

impl<T: Default + Vacant> Columns<T> {
    /// Returns what is in a column; `None` if nothing ever was, or not any more.
    pub(crate) fn at(&self, column: Column<'_>) -> Option<&T> {
        match column.domain {
            None => self.general.get(column.role),
            Some(domain) => self.domains.get(domain)?.get(column.role),
        }
    }

    /// As [`Columns::at`], for a change after which it is not vacant.
    pub(crate) fn at_mut(&mut self, column: Column<'_>) -> Option<&mut T> {
        match column.domain {
            None => self.general.get_mut(column.role),
            Some(domain) => self.domains.get_mut(domain)?.get_mut(column.role),
        }
    }

    /// Changes what is in a column, after which it is not vacant.
    pub(crate) fn grow<R>(&mut self, column: Column<'_>, change: impl FnOnce(&mut T) -> R) -> R {
        let Some(domain) = column.domain else { return change(&mut self.general[column.role]) };
        let columns = match self.domains.get_mut(domain) {
            Some(columns) => columns,
            None => self.domains.entry(Name::from(domain)).or_default(),
        };
        change(&mut columns[column.role])
    }

    /// Changes what is in a column, after which it may be vacant. Does nothing if nothing is there.
    pub(crate) fn shrink<R>(&mut self, column: Column<'_>, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let Some(domain) = column.domain else { return Some(change(&mut self.general[column.role])) };
        let columns = self.domains.get_mut(domain)?;
        let result = change(&mut columns[column.role]);
        if columns.iter().all(T::is_vacant) {
            self.domains.remove(domain);
        }
        Some(result)
    }

    /// Returns the columns that are not vacant.
    pub(crate) fn used(&self) -> impl Iterator<Item = Column<'_>> {
        let of = |domain, columns: &[T; COLUMNS]| {
            let used = (0..COLUMNS).filter(|role| !columns[*role].is_vacant());
            used.map(|role| Column { domain, role }).collect::<Vec<_>>()
        };
        let general = of(None, &self.general);
        general.into_iter().chain(self.domains.iter().flat_map(move |(name, columns)| of(Some(&**name), columns)))
    }

    /// Returns what is in the columns with a domain: each task is in one of them.
    pub(crate) fn of_domains(&self) -> impl Iterator<Item = &T> {
        self.domains.values().flatten().filter(|of| !of.is_vacant())
    }

    /// Returns the different domains.
    pub(crate) fn domains(&self) -> impl Iterator<Item = &str> {
        self.domains.keys().map(|name| &**name)
    }

    /// Returns the domain of a column, if it has one and something with this domain is there.
    pub(crate) fn domain_of(&self, column: Column<'_>) -> Option<Name> {
        self.domains.get_key_value(column.domain?).map(|(name, _)| Arc::clone(name))
    }

    /// Returns the number of different domains.
    pub(crate) fn domain_count(&self) -> usize {
        self.domains.len()
    }

    /// Returns whether there is something with this domain.
    pub(crate) fn has_domain(&self, domain: &str) -> bool {
        self.domains.contains_key(domain)
    }
}

impl<T: Vacant> Vacant for Columns<T> {
    /// Every task has a domain.
    fn is_vacant(&self) -> bool {
        self.domains.is_empty()
    }
}
