//! Whether this machine has a Vulkan adapter, and how it gets one.

use std::path::{Path, PathBuf};

use crate::command::{program, run, succeeds};

/// Debian's names of the loader and of Mesa's drivers, among them a software one.
const PACKAGES: [&str; 2] = ["libvulkan1", "mesa-vulkan-drivers"];

/// Whether wgpu will find an adapter; elsewhere than on Linux its API is part of the system.
pub fn available() -> bool {
    !cfg!(target_os = "linux") || (has_loader() && has_driver())
}

/// Tries to install a software adapter, and says what it did or what the user should do.
pub fn install() -> Result<(), String> {
    let advice = format!(
        "no Vulkan adapter was found; to test the WGSL kernels without a GPU, install Mesa's software driver (on \
         Debian and Ubuntu: apt-get install {})",
        PACKAGES.join(" ")
    );
    let mut probe = program("apt-get");
    probe.arg("--version");
    if !succeeds(probe) {
        return Err(advice);
    }
    let prefix: &[&str] = match () {
        _ if is_root() => &[],
        _ if succeeds(command(&["sudo", "-n", "true"])) => &["sudo", "-n"],
        _ => return Err(format!("{advice}; it takes root, or sudo without a password")),
    };
    println!("no Vulkan adapter was found: installing {}", PACKAGES.join(" and "));
    let apt = |args: &[&str]| {
        run(command(
            &[prefix, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"], args].concat(),
        ))
    };
    apt(&["update"])?;
    apt(&[&["install", "--yes", "--no-install-recommends"], &PACKAGES[..]].concat())?;
    if available() { Ok(()) } else { Err(format!("the packages are installed, but {advice}")) }
}

fn command(words: &[&str]) -> std::process::Command {
    let mut command = program(words[0]);
    command.args(&words[1..]);
    command
}

fn is_root() -> bool {
    command(&["id", "-u"]).output().is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

/// Whether the dynamic linker knows the Vulkan loader. Where it cannot be asked, the answer is yes.
fn has_loader() -> bool {
    ["ldconfig", "/sbin/ldconfig"]
        .iter()
        .find_map(|name| command(&[name, "-p"]).output().ok())
        .is_none_or(|out| String::from_utf8_lossy(&out.stdout).contains("libvulkan.so.1"))
}

/// Whether a driver is registered that has something to drive: a software driver always has, a hardware driver
/// (Mesa's package brings several) only where there is a device node.
fn has_driver() -> bool {
    for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        // The loader then looks nowhere else.
        if let Some(files) = std::env::var_os(name).filter(|files| !files.is_empty()) {
            return std::env::split_paths(&files).any(|file| file.exists());
        }
    }
    let manifests =
        ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"]
            .iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"));
    let hardware = has_device_node();
    let software = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("lvp_") || name.contains("swiftshader")
    };
    manifests.into_iter().any(|path| hardware || software(&path))
}

fn has_device_node() -> bool {
    let render = std::fs::read_dir("/dev/dri").is_ok_and(|nodes| {
        nodes.flatten().any(|node| node.file_name().to_string_lossy().starts_with("renderD"))
    });
    render || Path::new("/dev/nvidia0").exists()
}
