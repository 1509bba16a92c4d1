//! Which agent gets which task: the queue of ready tasks, the agents with free slots, and how they are scored. Knows tasks and
//! agents, and changes neither.

pub(crate) mod free_agents;
pub(crate) mod queue;
pub(crate) mod score;
pub(crate) mod speed;
