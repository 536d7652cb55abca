//! Ragged scaled-dot-product attention.
