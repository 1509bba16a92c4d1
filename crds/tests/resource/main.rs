//! The resource as users write it: what is accepted, what is refused and how, and what the API server gets.

mod definition;
mod hostile;
mod kinds;
mod kubectl;
mod manifests;
mod messages;
mod refusal;
mod refusals;
mod schedules;
mod status;
mod storage;
