//! Embedding lookup, row gather and scatter.
