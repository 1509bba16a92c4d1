//! The duties of messengers: a [`gateway`] for clients that don't speak gRPC, [`webhooks`] that are called when tasks end,
//! and the conversion of data between forms for other agents ([`convert`]). Passing on messages between agents that can't
//! reach each other is part of [`crate::messaging`].

pub mod convert;
pub mod gateway;
pub mod webhooks;

pub use convert::Converting;
pub use gateway::{Gateway, GatewayDeps, GatewayError};
pub use webhooks::{Webhooks, WebhooksDeps, WebhooksError};
