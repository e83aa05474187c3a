//! Harness, scenarios and benches.
