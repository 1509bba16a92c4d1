//! Tests of several parts of the coordinator together.

mod access;
mod agent;
mod approvals;
mod archive;
mod ballots;
mod ballots_at_once;
mod blobs;
mod bootstrap;
mod cancels;
mod dead_letters;
mod directory;
mod enrolment;
mod failure_detector;
mod fleet;
mod graphs;
mod kinds;
mod logs;
mod mail;
mod member;
mod membership_change;
#[cfg(debug_assertions)]
mod models;
mod ongoing;
mod policies;
mod progress;
mod queues;
mod resources;
mod review;
mod schedules;
mod scripted;
mod submissions;
mod teams;
mod transfer;
mod trust_admin;
mod verification;
mod watches;
