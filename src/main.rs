//! The program: see the library's tour.
fn main() {}
