//! Who is who in the fleet: this coordinator's own certificate ([`own`]), the authority by which coordinators certify
//! agents and clients ([`authority`]), what is trusted ([`trust`]), how agents enrol ([`enrolment`], [`join_dir`]), and
//! who may call what ([`access`]), for as long as a call goes on ([`ongoing`]).
//!
//! ```text
//! authority directory ──► authority ─┐
//!      join directory ◄─► join_dir ──┼─► trust ──► own ──► credentials of the transport
//!       fleet's state ───────────────┘     │
//!                agents ──► enrolment ─────┴──► log: Enrol ──► certificate
//!                 calls ──► access (bars, roles, rights) ──► services
//! ```

pub mod access;
pub mod authority;
pub mod client_rights;
pub mod conflicts;
pub mod enrolled;
pub mod enrolment;
#[cfg(test)]
pub mod fixture;
pub mod join_dir;
pub mod kubernetes;
pub mod ongoing;
pub mod own;
pub mod pace;
pub mod proofs;
pub mod refusals;
pub mod rights;
pub mod rights_file;
pub mod room;
pub mod security;
pub mod table;
mod text_file;
pub mod trust;
