//! Tests of whole groups: a deterministic simulator with liars, and the edges of what a replica takes.

mod checks;
mod epochs;
mod fixture;
mod hostile;
mod keys;
mod lan;
mod ledger;
mod liars;
mod limits;
mod model;
mod order;
mod real_keys;
mod recovery;
mod seeds;
mod wire;
mod world;
