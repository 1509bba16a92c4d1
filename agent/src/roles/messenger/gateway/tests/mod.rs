mod api;
pub mod client;
mod limits;
mod security;
pub mod stub;
