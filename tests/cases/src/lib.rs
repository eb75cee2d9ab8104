//! End-to-end cases: what a user does.
