//! What tests do without a device: unit tests of the crate, and, by a `#[path]`, those of its surface.

use std::fmt::Display;

/// A device that a test opened as `cpu`, `cuda` or `wgpu`. One that is missing is reported and the test is to skip it;
/// `NEARKIN_REQUIRE=cpu,cuda,wgpu` makes that a failure.
pub(crate) fn required<T, E: Display>(name: &str, opened: Result<T, E>) -> Option<T> {
    match opened {
        Ok(device) => Some(device),
        Err(e) => {
            let required = std::env::var("NEARKIN_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|d| d == name),
                "NEARKIN_REQUIRE names {name}, but: {e}"
            );
            eprintln!("skipped on {name}: {e}");
            None
        }
    }
}
