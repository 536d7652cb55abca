//! Any text is read or refused, without a panic and without much memory.

use proptest::prelude::*;
use ptx_emulator::syntax::parse;

use crate::samples::{ALL, kernel, module};

/// Words of the grammar, and what surrounds them.
const WORDS: &[&str] = &[
    ".version",
    "8.4",
    ".target",
    "sm_80",
    ".entry",
    ".func",
    ".visible",
    ".extern",
    ".reg",
    ".pred",
    ".b32",
    ".v4",
    ".f32",
    ".f64",
    ".global",
    ".shared",
    ".param",
    ".align",
    ".loc",
    ".file",
    ".section",
    ".branchtargets",
    ".maxntid",
    ".pragma",
    "\"x\"",
    "%r",
    "%r1",
    "%rd1",
    "%p1",
    "%v",
    ".x",
    "%tid",
    "g",
    "k",
    "L",
    "L:",
    "add.s32",
    "ld.u32",
    "call",
    "bra",
    "generic",
    "WARP_SZ",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "<",
    ">",
    ",",
    ";",
    ":",
    "=",
    "+",
    "-",
    "*",
    "/",
    "%",
    "!",
    "~",
    "?",
    "|",
    "||",
    "@",
    "_",
    "<<",
    ">>",
    "0",
    "1",
    "2",
    "0x7F",
    "0f3F800000",
    "1.5",
    "18446744073709551615",
    "\n",
    "//",
    "/*",
    "*/",
    "#",
    "(.s64)",
    "é",
];

fn words() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(WORDS), 0..40).prop_map(|words| words.join(" "))
}

/// The words of a sample, blanks and signs among them.
fn split(text: &str) -> Vec<&str> {
    let is_edge = |c: char| !(c.is_ascii_alphanumeric() || "._%$".contains(c));
    text.split_inclusive(is_edge)
        .flat_map(|part| match part.char_indices().next_back() {
            Some((at, last)) if is_edge(last) => [&part[..at], &part[at..]],
            _ => [part, ""],
        })
        .filter(|part| !part.is_empty())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text(text in any::<String>()) {
        _ = parse(&text);
        _ = parse(&module(&text));
        _ = parse(&kernel(&text));
    }

    #[test]
    fn any_words(words in words()) {
        _ = parse(&words);
        _ = parse(&module(&words));
        _ = parse(&kernel(&words));
        _ = parse(&module(&format!(".global .u32 x[2][2] = {words};")));
        _ = parse(&kernel(&format!("mov.u32 %r1, {words};")));
    }

    /// A few bytes of a valid text are replaced.
    #[test]
    fn bytes(
        sample in 0..ALL.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = ALL[sample].as_bytes().to_vec();
        for (at, byte) in changes {
            *at.get_mut(&mut bytes) = byte;
        }
        _ = parse(&String::from_utf8_lossy(&bytes));
    }

    /// A stretch of a valid text is left out, or what follows it as well.
    #[test]
    fn cuts(sample in 0..ALL.len(), from in any::<prop::sample::Index>(), length in 1..30usize, end: bool) {
        let text = ALL[sample];
        let from = from.index(text.len());
        let to = (from + length).min(text.len());
        _ = parse(&text[..from]);
        if !end {
            _ = parse(&format!("{}{}", &text[..from], &text[to..]));
        }
    }

    /// Words of a valid text change places or are replaced.
    #[test]
    fn shuffles(
        sample in 0..ALL.len(),
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::sample::select(WORDS), any::<bool>()),
            1..6,
        ),
    ) {
        let mut parts = split(ALL[sample]);
        for (first, second, word, swap) in changes {
            let (first, second) = (first.index(parts.len()), second.index(parts.len()));
            if swap {
                parts.swap(first, second);
            } else {
                parts[first] = word;
            }
        }
        _ = parse(&parts.concat());
    }
}

/// A position that is reported lies in the text, at what is shown as `near`.
#[test]
fn positions_point_at_the_fault() {
    let mut refused = 0;
    for text in ALL {
        let parts = split(text);
        for at in 0..parts.len() {
            let mut changed = parts.clone();
            changed[at] = "%nothing";
            let changed = changed.concat();
            let Err(error) = parse(&changed) else { continue };
            refused += 1;
            let line = changed.lines().nth(error.pos.line as usize - 1).unwrap_or_default();
            let rest: String = line.chars().skip(error.pos.column as usize - 1).collect();
            let near = error.near.trim_end_matches("...");
            assert!(near == "end of file" || rest.starts_with(near), "{error}: {rest}\n{changed}");
        }
    }
    assert!(refused > 1000, "{refused}");
}

/// Half a million statements with as many names: what is quadratic in them would take minutes.
#[test]
fn long_texts() {
    let body = |lines: usize| {
        let line = "add.s32 %r1, %r2, 1; L#: bra L#; { .reg .b32 t#; bra L#; } .reg .b32 x#; ";
        kernel(&(0..lines).map(|i| line.replace('#', &i.to_string())).collect::<String>())
    };
    // All on one line, so that a column counted from its start would show.
    let start = std::time::Instant::now();
    let module = parse(&body(100_000)).unwrap();
    assert_eq!(module.functions[0].labels.len(), 100_000);
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
}
