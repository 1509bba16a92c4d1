//! Tests of whole groups: a deterministic simulator with liars, and the edges of what a replica takes.

mod checks;
mod epochs;
mod fixture;
mod hostile;
mod keys;
mod ledger;
mod liars;
mod recovery;
mod seeds;
mod wire;
mod world;
