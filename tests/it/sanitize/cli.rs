//! `--sanitize` on the command line.
