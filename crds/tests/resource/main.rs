//! The resource as users write it: what is taken, what is refused and how, and what the API server is given.

mod definition;
mod hostile;
mod kubectl;
mod manifests;
mod refusal;
mod refusals;
mod status;
