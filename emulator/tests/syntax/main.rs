//! The front end: what is read, and where and why a text is refused.

mod accepted;
mod hostile;
mod refused;
mod samples;
mod variables;
