//! `nearkin devices`

use nearkin::{Device, Result};

use crate::print_line;

pub(crate) fn run(json: bool) -> Result<()> {
    let devices = Device::all();
    if json {
        let best = devices.iter().find(|d| d.best).map(|d| &d.id);
        return print_line(&serde_json::json!({ "devices": devices, "best": best }).to_string());
    }
    for d in devices {
        let memory = d.memory.map_or("memory unknown".into(), |b| {
            let what = if d.backend == "vulkan" || d.backend == "metal" || d.backend == "dx12" {
                "largest buffer"
            } else {
                "memory"
            };
            format!("{what} {:.1} GiB", b as f64 / (1u64 << 30) as f64)
        });
        let emulated = match d.backend == "cuda" && d.kind == "software" {
            true => "  (emulated: for tests, not for speed)",
            false => "",
        };
        let best = if d.best { "  <- auto" } else { "" };
        print_line(&format!("{:<8} {} ({}, {}){best}{emulated}", d.id, d.name, d.kind, d.backend))?;
        print_line(&format!("         {}; {memory}; {}", d.driver, d.features.join(", ")))?;
    }
    Ok(())
}
