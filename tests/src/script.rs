//! Scenarios that are text.
