//! Builds what the end-to-end tests run and watches it run.
