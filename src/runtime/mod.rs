//! (placeholder)

pub mod clock;
pub mod dispatcher;
pub mod escalator;
