//! Placeholder while the CPU is measured.
