//! A progress bar on stderr that vanishes when done, and is not drawn where stderr is not a terminal.

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) fn bar(what: &'static str, total: usize) -> ProgressBar {
    let bar = ProgressBar::new(total as u64).with_message(what);
    let style = "{msg:<12} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
    bar
}
