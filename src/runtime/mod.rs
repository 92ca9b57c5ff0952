//! (placeholder)

pub mod clock;
pub mod escalator;
