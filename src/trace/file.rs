//! Trace folders.
