//! Contact sheets: search results as a page of pictures.

use std::path::Path;

use nearkin::files::Replacement;
use nearkin::search::Hit;
use nearkin::{Result, shown as visible};

use crate::images::is_image;

const HEAD: &str = r#"<!doctype html>
<meta charset="utf-8">
<title>nearkin search</title>
<style>
body { font: 14px sans-serif; margin: 1em; }
section { margin-bottom: 2em; }
.hits { display: flex; flex-wrap: wrap; gap: 8px; }
figure { margin: 0; width: 180px; }
img { width: 180px; height: 180px; object-fit: contain; background: #eee; }
figcaption { overflow-wrap: anywhere; }
</style>
"#;

/// Gathers results until they are written.
pub(crate) struct Sheet {
    html: String,
}

impl Sheet {
    pub(crate) fn new() -> Sheet {
        Sheet { html: HEAD.into() }
    }

    /// A query with what was found for it. Ids that name images are shown as such.
    pub(crate) fn add(&mut self, query: &str, hits: &[Hit]) {
        self.html += &format!("<section>\n<h2>{}</h2>\n<div class=\"hits\">\n", shown(query));
        for hit in hits {
            let (picture, score) = (shown(&hit.id), hit.score);
            self.html +=
                &format!("<figure>{picture}<figcaption>{score:.4}</figcaption></figure>\n");
        }
        self.html += "</div>\n</section>\n";
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        Replacement::write(file, self.html.as_bytes())
    }
}

/// An image where an id names one, else its text.
fn shown(id: &str) -> String {
    let text = escaped(id);
    match is_image(Path::new(id)) {
        true => format!("<img src=\"{}\" alt=\"{text}\"><br>{text}", address(id)),
        false => text,
    }
}

fn escaped(text: &str) -> String {
    visible(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A path as an address: absolute, so that the page can be in any folder, with special characters as %xx. It has no host, even
/// if the path begins with two slashes.
fn address(id: &str) -> String {
    let path = std::path::absolute(id).unwrap_or_else(|_| id.into());
    let path = path.to_string_lossy();
    let separators: &[char] = if cfg!(windows) { &['/', '\\'] } else { &['/'] };
    let mut address = String::from("file:///");
    for byte in path.trim_start_matches(separators).bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'~' => address.push(byte as char),
            b'\\' if cfg!(windows) => address.push('/'),
            byte if byte.is_ascii_alphanumeric() => address.push(byte as char),
            byte => address += &format!("%{byte:02X}"),
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_escaped() {
        assert_eq!(shown("<script>"), "&lt;script&gt;");
        let picture = shown("a <b>&\".jpg");
        assert!(picture.contains("a%20%3Cb%3E%26%22.jpg"), "{picture}");
        assert!(picture.contains("alt=\"a &lt;b&gt;&amp;&quot;.jpg\""), "{picture}");
        assert_eq!(shown("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn two_slashes_are_no_host() {
        for id in ["//host/a.jpg", "///host/a.jpg", "/host/a.jpg"] {
            assert!(shown(id).contains("src=\"file:///host/a.jpg\""), "{}", shown(id));
        }
    }
}
