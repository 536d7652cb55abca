//! Exact top-k similarity search.
