//! The duties of messengers: a [`gateway`] for clients that don't speak gRPC. Passing on messages between agents that
//! can't reach each other is part of [`crate::messaging`].

pub mod gateway;

pub use gateway::{Gateway, GatewayDeps, GatewayError};
