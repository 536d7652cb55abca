//! Counts as `counts.csv` has them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};

use crate::common::root;

const FILE: &str = "tests/cost/counts.csv";
const HEADER: &str = "case,count,number\n";

/// Numbers by case and count.
type Counts = BTreeMap<(String, String), u64>;

fn parse(text: &str) -> Counts {
    let line = |line: &str| {
        let (case, rest) = line.strip_prefix('"')?.split_once("\",")?;
        let (count, number) = rest.split_once(',')?;
        Some(((case.to_string(), count.to_string()), number.parse().ok()?))
    };
    let lines = text.strip_prefix(HEADER).expect("counts.csv has its header").lines();
    lines.map(|l| line(l).unwrap_or_else(|| panic!("counts.csv: {l:?}"))).collect()
}

fn render(counts: &Counts) -> String {
    counts.iter().fold(HEADER.to_string(), |mut text, ((case, count), number)| {
        writeln!(text, "\"{case}\",{count},{number}").unwrap();
        text
    })
}

fn read(file: &mut File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

/// Asserts that the counts of a case are those of `counts.csv`. `cargo xtask counts` writes them there instead.
pub fn pinned(case: &str, counts: &[(&str, u64)]) {
    assert!(!case.contains('"'));
    let path = root().join(FILE);
    if std::env::var_os("NEARKIN_BLESS").is_some() {
        // Tests are processes that run at the same time.
        let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        file.lock().unwrap();
        let mut all = parse(&read(&mut file));
        all.extend(counts.iter().map(|&(c, n)| ((case.to_string(), c.to_string()), n)));
        file.rewind().unwrap();
        file.set_len(0).unwrap();
        return file.write_all(render(&all).as_bytes()).unwrap();
    }
    let all = parse(&read(&mut File::open(path).unwrap()));
    for &(count, number) in counts {
        let want = all.get(&(case.to_string(), count.to_string()));
        assert_eq!(
            Some(&number),
            want,
            "{case}: {count}; `cargo xtask counts` takes over new ones"
        );
    }
}

/// The numbers with thousands in what the docs of a family say is counted.
fn figures(docs: &str) -> Vec<u64> {
    let counted = docs.lines().skip_while(|line| !line.contains("`tests/cost` asserts"));
    let others = ["//! # ", "//! On two cores", "//! On an ", "//! Measured", "//! Workspace"];
    let counted = counted
        .take_while(|line| line.starts_with("//!") && !others.iter().any(|o| line.starts_with(o)));
    let is_figure = |word: &&str| {
        let mut groups = word.split(',');
        let digits = |group: &str| group.bytes().all(|b| b.is_ascii_digit());
        let first = groups.next().is_some_and(|g| (1..=3).contains(&g.len()) && digits(g));
        let mut rest = groups.peekable();
        first && rest.peek().is_some() && rest.all(|g| g.len() == 3 && digits(g))
    };
    counted
        .flat_map(|line| line.split_whitespace())
        .map(|word| word.trim_matches(|c: char| !c.is_ascii_digit()))
        .filter(is_figure)
        .map(|figure| figure.replace(',', "").parse().unwrap())
        .collect()
}

#[test]
fn docs_say_what_is_counted() {
    let all = parse(&read(&mut File::open(root().join(FILE)).unwrap()));
    let mut checked = 0;
    for family in std::fs::read_dir(root().join("src/ops")).unwrap() {
        let path = family.unwrap().path().join("mod.rs");
        let Ok(docs) = std::fs::read_to_string(&path) else { continue };
        for figure in figures(&docs) {
            let is_counted = all.values().any(|&number| number == figure);
            assert!(is_counted, "{}: {figure} is not in counts.csv", path.display());
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked} figures were found");
}
