//! Tests of several parts of the coordinator together.

mod access;
mod agent;
mod approvals;
mod ballots;
mod bootstrap;
mod cancels;
mod directory;
mod enrolment;
mod failure_detector;
mod fleet;
mod logs;
mod mail;
mod member;
mod membership_change;
#[cfg(debug_assertions)]
mod models;
mod ongoing;
mod policies;
mod resources;
mod review;
mod scripted;
mod submissions;
mod teams;
mod transfer;
mod trust_admin;
mod verification;
mod watches;
