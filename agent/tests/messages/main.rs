//! Messages between agents over TCP, policies on them, and what handles them: a command, a server, an attached process, the inbox.

mod command;
mod fixture;
mod http;
mod inbox;
mod policy;
mod worker;
