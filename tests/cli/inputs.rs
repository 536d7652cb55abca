//! Where texts come from: endings, pipes, standard input, compressed files, and what is refused before it is read.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;

use super::*;

const LINES: &str = "{\"_id\":\"a\",\"text\":\"a wing\"}\n{\"_id\":\"b\",\"text\":\"heat\"}\n";

fn gzip(text: &str) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

fn zstd(text: &str) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
}

/// Runs the program with `input` on standard input.
pub(super) fn nearkin_reads(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(common::program())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The program may refuse what it reads and close the pipe.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

#[cfg(unix)]
fn fifo(folder: &Folder, name: &str) -> String {
    let path = folder.path(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn texts_come_in_any_form() {
    let folder = Folder::new();
    let model = golden("bert");
    let out = folder.path("o.safetensors");
    let embed = ["embed", "--device", "cpu", "--model", &model, "--output", &out, "--input"];
    let want = {
        succeed(&[&embed[..], &[&folder.write("a.jsonl", LINES)]].concat());
        std::fs::read(&out).unwrap()
    };
    let twice = [gzip(&LINES[..20]), gzip(&LINES[20..])].concat();
    let cases: [(&str, Vec<u8>, &[&str]); 8] = [
        ("A.JSONL", LINES.into(), &[]),
        ("a.jsonl.gz", gzip(LINES), &[]),
        ("a.JSONL.GZ", twice, &[]),
        ("a.jsonl.zst", zstd(LINES), &[]),
        // The content decides, not the ending.
        ("b.jsonl", zstd(LINES), &[]),
        ("b.jsonl.zstd", gzip(LINES), &[]),
        ("texts", gzip(LINES), &["--format", "jsonl"]),
        ("texts.txt", LINES.into(), &["--format", "jsonl"]),
    ];
    for (name, bytes, more) in cases {
        let _ = std::fs::remove_file(&out);
        succeed(&[&embed[..], &[&folder.write(name, bytes)], more].concat());
        assert!(std::fs::read(&out).unwrap() == want, "{name}");
    }
    let inputs: &[&str] = if cfg!(unix) { &["-", "/dev/stdin"] } else { &["-"] };
    for &name in inputs {
        for bytes in [LINES.as_bytes().to_vec(), gzip(LINES), zstd(LINES)] {
            let _ = std::fs::remove_file(&out);
            let args = [&embed[..], &[name, "--format", "jsonl"]].concat();
            let ran = nearkin_reads(&args, &bytes);
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            assert!(std::fs::read(&out).unwrap() == want, "{name}");
        }
    }
    #[cfg(unix)]
    {
        let pipe = fifo(&folder, "pipe.jsonl");
        let writer = {
            let pipe = pipe.clone();
            std::thread::spawn(move || std::fs::write(pipe, LINES).unwrap())
        };
        let _ = std::fs::remove_file(&out);
        succeed(&[&embed[..], &[&pipe]].concat());
        writer.join().unwrap();
        assert!(std::fs::read(&out).unwrap() == want);
    }
    for (name, says) in [("a.csv", ".csv"), ("texts", "nothing"), ("-", "--format")] {
        folder.write(name, LINES);
        let path = if name == "-" { name.into() } else { folder.path(name) };
        refuse(&[&embed[..], &[&path]].concat(), &[says, "--format"]);
    }
    let mut cut = zstd(LINES);
    cut.truncate(cut.len() - 3);
    refuse(&[&embed[..], &[&folder.write("c.jsonl", cut)]].concat(), &["c.jsonl"]);
    let mut cut = gzip(LINES);
    cut.truncate(cut.len() - 3);
    refuse(&[&embed[..], &[&folder.write("d.jsonl", cut)]].concat(), &["d.jsonl"]);
}

#[test]
fn pairs_come_from_standard_input() {
    let pairs = "{\"text\":\"a\",\"text_pair\":\"b\"}\n";
    let model = golden("bert-cross");
    let ran = nearkin_reads(
        &["rerank", "--device", "cpu", "--model", &model, "--pairs", "-"],
        &gzip(pairs),
    );
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(ran.stdout.iter().filter(|b| **b == b'\n').count(), 1);
}

/// A line that never ends, and a device, would fill the memory.
#[test]
#[cfg(unix)]
fn endless_inputs_are_refused() {
    let folder = Folder::new();
    let (model, out) = (golden("bert"), folder.path("o.safetensors"));
    let embed = ["embed", "--device", "cpu", "--model", &model, "--output", &out];
    let zero = ["--format", "txt", "--input", "/dev/zero"];
    refuse(&[&embed[..], &zero].concat(), &["/dev/zero", "a device"]);
    let endless = Stdio::from(File::open("/dev/zero").unwrap());
    let ran = Command::new(common::program())
        .args([&embed[..], &["--format", "txt", "--input", "-"]].concat())
        .stdin(endless)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("more than 67108864 bytes"), "{stderr}");
}

/// Opening a pipe waits for its other end, and a device may have none.
#[test]
#[cfg(unix)]
fn files_of_a_model_are_regular_files() {
    let input = Folder::new();
    let texts = input.write("a.txt", "a wing\n");
    let out = input.path("o.safetensors");
    for file in ["config.json", "tokenizer.json", "modules.json", "model.safetensors"] {
        for pipe in [true, false] {
            let copy = common::golden_copy("bert");
            let folder = Folder(copy);
            std::fs::remove_file(folder.path(file)).unwrap();
            match pipe {
                true => _ = fifo(&folder, file),
                false => std::os::unix::fs::symlink("/dev/zero", folder.path(file)).unwrap(),
            }
            let model = folder.path("");
            refuse(
                &[
                    "embed", "--device", "cpu", "--model", &model, "--input", &texts, "--output",
                    &out,
                ],
                &[file],
            );
        }
    }
    // A file that claims a tebibyte is refused by its size.
    let folder = Folder(common::golden_copy("bert"));
    File::options().write(true).open(folder.path("config.json")).unwrap().set_len(1 << 40).unwrap();
    let model = folder.path("");
    refuse(
        &["embed", "--device", "cpu", "--model", &model, "--input", &texts, "--output", &out],
        &["config.json", "1099511627776 bytes", "at most 67108864"],
    );
    let index = fifo(&input, "index.safetensors");
    refuse(
        &["search", "--device", "cpu", "--index", &index, "--queries", &index],
        &["index.safetensors", "a named pipe"],
    );
}

/// A row without an id has its number, which another row may state.
#[test]
fn ids_that_clash_are_refused_before_any_work() {
    let folder = Folder::new();
    let (model, out) = (golden("bert"), folder.path("o.safetensors"));
    let clash = "{\"_id\":\"1\",\"text\":\"a\"}\n{\"text\":\"b\"}\n";
    let input = folder.write("a.jsonl", clash);
    refuse(
        &["embed", "--device", "cpu", "--model", &model, "--input", &input, "--output", &out],
        &["a.jsonl", "'1'", "rows 0 and 1", "a row without an id has its number"],
    );
    assert!(!Path::new(&out).exists());
}

/// Names, ids and values that would change a terminal, or fill it.
#[test]
fn what_is_shown_is_escaped_and_clipped() {
    let folder = Folder::new();
    let out = folder.path("o.safetensors");
    let texts = folder.write("a.txt", "a\n");
    let run = |model: &str, input: &str| {
        let args =
            ["embed", "--device", "cpu", "--model", model, "--input", input, "--output", &out];
        let ran = nearkin(&args);
        assert_eq!(ran.status.code(), Some(2));
        let stderr = String::from_utf8(ran.stderr).unwrap();
        assert!(stderr.len() < 4000, "{} bytes", stderr.len());
        let line = stderr.trim_end_matches('\n');
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        stderr
    };
    let copy = Folder(common::golden_copy("bert"));
    copy.write("config.json", json!({ "model_type": "x".repeat(5 << 20) }).to_string());
    assert!(run(&copy.path(""), &texts).contains("left out"));
    copy.write("config.json", json!({ "model_type": "\u{1b}[2J\u{202e}\nok: " }).to_string());
    assert!(run(&copy.path(""), &texts).contains("\\u{1b}[2J\\u{202e}\\nok"));
    let model = golden("bert");
    assert!(run(&model, &folder.path("\u{1b}[31m\u{9b}.txt")).contains("\\u{1b}[31m\\u{9b}.txt"));
    let id = "{\"_id\":\"\\u001b]0;x\\u0007\",\"text\":\"a\"}\n";
    let twice = folder.write("b.jsonl", id.repeat(2));
    assert!(run(&model, &twice).contains("\\u{1b}]0;x\\u{7}"));
    let ran = nearkin(&["search", "--\u{1b}[31m"]);
    assert!(!String::from_utf8(ran.stderr).unwrap().contains('\u{1b}'));
}
