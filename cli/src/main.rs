//! The robeing command line.
fn main() {}
