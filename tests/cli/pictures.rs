//! Folders of images as people have them: links, loops, hidden and damaged files, names of any bytes.
#![cfg(unix)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::*;

fn ids(file: &str) -> Vec<String> {
    let bytes = std::fs::read(file).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    serde_json::from_str(&header.metadata().as_ref().unwrap()["ids"]).unwrap()
}

#[test]
fn each_real_folder_is_read_once() {
    let at = Pictures::new("clip");
    let (pictures, out) = (at.folder.path("pictures"), at.folder.path("o.safetensors"));
    // Two folders that link to each other, and to what is above them.
    std::fs::create_dir_all(at.folder.path("pictures/other")).unwrap();
    symlink("../other", at.folder.path("pictures/deep/to-other")).unwrap();
    symlink("../deep", at.folder.path("pictures/other/to-deep")).unwrap();
    symlink("..", at.folder.path("pictures/deep/up")).unwrap();
    // Hidden names are passed over below a folder, and read where they are named.
    for hidden in [".hidden.png", ".thumbs/a.png"] {
        std::fs::create_dir_all(at.folder.path("pictures/.thumbs")).unwrap();
        std::fs::copy(
            at.folder.path("pictures/a.png"),
            at.folder.path(&format!("pictures/{hidden}")),
        )
        .unwrap();
    }
    let embed = ["embed", "--device", "cpu", "--model", at.model(), "--output", &out, "--images"];
    succeed(&[&embed[..], &[&pictures]].concat());
    let want = ["a.png", "b & c.jpg", "deep/d.PNG"].map(|f| format!("{pictures}/{f}"));
    assert_eq!(ids(&out), want);
    let deep = at.folder.path("pictures/deep");
    let thumbs = at.folder.path("pictures/.thumbs");
    let hidden = at.folder.path("pictures/.hidden.png");
    succeed(&[&embed[..], &[&deep, &pictures, &thumbs, &hidden]].concat());
    assert_eq!(ids(&out).len(), 5);
    succeed(&["search", "--device", "cpu", "--index", &out, "--queries", &out]);

    std::fs::remove_file(&out).unwrap();
    let a = at.folder.path("pictures/a.png");
    for twice in [[&a, &a], [&pictures, &a]] {
        refuse(&[&embed[..], &[twice[0], twice[1]]].concat(), &["a.png", "name each image once"]);
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn names_of_any_bytes_make_an_index_that_loads() {
    let at = Pictures::new("clip");
    let (pictures, out) = (at.folder.path("pictures"), at.folder.path("o.safetensors"));
    for byte in [0xe9u8, 0xe8] {
        let name = [&b"pictures/caf"[..], &[byte], b".png"].concat();
        let path = at.folder.0.path().join(OsStr::from_bytes(&name));
        std::fs::copy(at.folder.path("pictures/a.png"), path).unwrap();
    }
    succeed(&[
        "embed",
        "--device",
        "cpu",
        "--model",
        at.model(),
        "--output",
        &out,
        "--images",
        &pictures,
    ]);
    let found = succeed(&["search", "--device", "cpu", "--index", &out, "--queries", &out]);
    assert_eq!(found.lines().count(), 5);
    let ids = ids(&out);
    assert!(ids.iter().any(|id| id.ends_with("caf\\xE9.png")), "{ids:?}");
    assert!(ids.iter().any(|id| id.ends_with("caf\\xE8.png")), "{ids:?}");
}

#[test]
fn damaged_images_are_all_named_or_skipped() {
    let at = Pictures::new("clip");
    let (pictures, out) = (at.folder.path("pictures"), at.folder.path("o.safetensors"));
    at.folder.write("pictures/bad.png", "no picture");
    symlink("nowhere", at.folder.path("pictures/deep/gone.jpg")).unwrap();
    // Its header is whole, its pixels are not.
    let mut cut = std::fs::read(at.folder.path("pictures/a.png")).unwrap();
    cut.truncate(cut.len() / 2);
    at.folder.write("pictures/cut.png", cut);
    let base = ["--device", "cpu", "--model", at.model()];
    let embed = [&["embed"][..], &base, &["--output", &out, "--images", &pictures]].concat();
    refuse(&embed, &["2 inputs", "bad.png", "is no image", "deep/gone.jpg"]);
    assert!(!Path::new(&out).exists());

    let skip = [&embed[..], &["--skip-bad", "--json"]].concat();
    let summary: Value = serde_json::from_str(&succeed(&skip)).unwrap();
    assert_eq!((&summary["images"], &summary["skipped"]), (&json!(3), &json!(3)), "{summary}");
    let bad: Vec<&str> =
        summary["bad"].as_array().unwrap().iter().map(|b| b["image"].as_str().unwrap()).collect();
    for name in ["bad.png", "cut.png", "deep/gone.jpg"] {
        assert!(bad.iter().any(|b| b.ends_with(name)), "{bad:?}");
    }
    assert_eq!(ids(&out).len(), 3);
    let ran = nearkin(&[&embed[..], &["--skip-bad"]].concat());
    assert!(ran.status.success());
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert!(stderr.contains("3 images were skipped") && stderr.contains("bad.png"), "{stderr}");

    let labels = at.folder.write("labels.txt", "dog\nwing\n");
    let classify = [&["classify", "--json", "--skip-bad", "--labels", &labels][..], &base].concat();
    let lines = succeed(&[&classify[..], &[&pictures]].concat());
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((lines.lines().count(), &last["skipped"]), (4, &json!(3)));

    let only = at.folder.path("pictures/bad.png");
    refuse(
        &[&["embed", "--skip-bad", "--output", &out, "--images", &only][..], &base].concat(),
        &["bad.png"],
    );
}

#[test]
fn pairs_with_damaged_images_have_no_score() {
    let at = Pictures::new("vilt");
    let bad = at.folder.write("pictures/bad.png", "no picture");
    let (a, gone) = (at.folder.path("pictures/a.png"), at.folder.path("pictures/gone.png"));
    let line = |image: &str| format!("{}\n", json!({ "text": "a wing", "image": image }));
    let pairs: String = [&bad, &a, &gone, &a].map(|f| line(f)).concat();
    let pairs = at.folder.write("pairs.jsonl", pairs);
    let rerank = ["rerank", "--device", "cpu", "--model", at.model(), "--pairs", &pairs];
    refuse(&rerank, &["2 inputs", "bad.png", "gone.png"]);
    let lines = succeed(&[&rerank[..], &["--skip-bad", "--json"]].concat());
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    let score = |i: usize| lines[i].get("score").or(lines[i].get("scores")).unwrap();
    assert!(score(0).is_null() && score(2).is_null(), "{lines:?}");
    assert!(!score(1).is_null() && score(1) == score(3), "{lines:?}");
    assert_eq!(lines[4]["skipped"], 2);
}

/// A blank line is no label, a label has one line.
#[test]
fn labels_are_told_apart() {
    let at = Pictures::new("clip");
    let pictures = at.folder.path("pictures");
    let classify = ["classify", "--device", "cpu", "--model", at.model(), &pictures, "--labels"];
    let of = |labels: &str| {
        let labels = at.folder.write("labels.txt", labels);
        succeed(&[&classify[..], &[&labels]].concat())
    };
    assert_eq!(of("cat\n\n \t\ndog \n"), of("cat\ndog"));
    let piped = ["-", "--format", "txt"];
    let ran = super::inputs::nearkin_reads(&[&classify[..], &piped].concat(), b"cat\n\ndog\n");
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), of("cat\ndog"));
    let twice = at.folder.write("twice.txt", "cat\ndog\n\ncat\n");
    refuse(&[&classify[..], &[&twice]].concat(), &["twice.txt", "'cat'", "label 1 and label 3"]);
    let none = at.folder.write("none.txt", "\n\n");
    refuse(&[&classify[..], &[&none]].concat(), &["none.txt", "no label"]);
}
