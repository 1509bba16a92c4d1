//! The duties of messengers: a [`gateway`] for clients that don't speak gRPC, and [`webhooks`] that are called when tasks
//! end. Passing on messages between agents that can't reach each other is part of [`crate::messaging`].

pub mod gateway;
pub mod webhooks;

pub use gateway::{Gateway, GatewayDeps, GatewayError};
pub use webhooks::{Webhooks, WebhooksDeps, WebhooksError};
