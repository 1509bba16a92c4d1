//! Who is who in the fleet: this coordinator's own certificate ([`own`]), the authority by which coordinators certify
//! agents and clients ([`authority`]), how agents enrol ([`enrolment`]), and who may call what ([`access`]).
//!
//! ```text
//! authority directory ──► authority ──► own ──► credentials of the transport
//!                             │
//!  agents ──► enrolment ──────┴──► log: Enrol ──► certificate
//!  calls  ──► access (bars, roles, rights) ──► services
//! ```

pub mod access;
pub mod authority;
pub mod client_rights;
pub mod enrolment;
pub mod kubernetes;
pub mod own;
pub mod proofs;
pub mod refusals;
pub mod rights;
pub mod rights_file;
pub mod security;
pub mod table;
