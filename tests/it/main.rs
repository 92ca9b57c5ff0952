<<<<<<< HEAD
//! All integration tests in one program: linked once, and servers that several tests need are started once.

mod deploy;
mod fixtures_test;
mod parts;
=======
//! Integration tests: one binary.

mod rules;
>>>>>>> 2615592 (Read rules and policies: YAML to a checked rule set, or every problem at once)
