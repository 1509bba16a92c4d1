mod api;
mod client;
mod limits;
mod security;
mod stub;
