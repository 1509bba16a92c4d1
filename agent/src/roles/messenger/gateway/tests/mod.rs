mod api;
pub mod client;
mod docs;
mod limits;
mod security;
pub mod stub;
