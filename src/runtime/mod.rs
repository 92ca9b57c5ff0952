//! (placeholder)

pub mod clock;
pub mod dispatcher;
pub mod escalator;
pub mod ports;
pub mod receivers;
