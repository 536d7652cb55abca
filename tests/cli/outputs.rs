//! Where results go: never over an input, never in place of what is no regular file, whole or not at all.
#![cfg(unix)]

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use super::*;

/// The arguments of each subcommand that writes, with `{}` for its output, and the inputs that it must not be.
fn commands(at: &Pictures) -> Vec<(Vec<String>, Vec<String>)> {
    let folder = &at.folder;
    let bert = folder.path("bert");
    let texts = folder.write("texts.txt", "a wing\nheat\n");
    let vectors = folder.path("vectors.safetensors");
    let owned = |args: &[&str]| args.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    std::fs::create_dir_all(&bert).unwrap();
    for file in std::fs::read_dir(golden("bert")).unwrap().map(|e| e.unwrap().path()) {
        if file.is_file() {
            std::fs::copy(&file, Path::new(&bert).join(file.file_name().unwrap())).unwrap();
        }
    }
    std::fs::create_dir_all(format!("{bert}/1_Pooling")).unwrap();
    let pooling = "1_Pooling/config.json";
    std::fs::copy(format!("{}/{pooling}", golden("bert")), format!("{bert}/{pooling}")).unwrap();
    succeed(&[
        "embed", "--device", "cpu", "--model", &bert, "--input", &texts, "--output", &vectors,
    ]);
    let lines = |n: usize| (0..n).map(|i| format!("{{\"_id\":\"{i}\",\"text\":\"a {i}\"}}\n"));
    folder.write("data/corpus.jsonl", lines(9).collect::<String>());
    folder.write("data/queries.jsonl", lines(4).collect::<String>());
    folder.write("data/qrels/test.tsv", "0\t1\t1\n1\t2\t1\n2\t1\t1\n");
    let (data, a) = (folder.path("data"), folder.path("pictures/a.png"));
    let pictures = folder.path("pictures");
    let weights = format!("{bert}/model.safetensors");
    vec![
        (
            owned(&["embed", "--model", &bert, "--input", &texts, "--output", "{}"]),
            vec![texts.clone(), weights.clone(), format!("{bert}/1_Pooling/config.json")],
        ),
        (
            owned(&["embed", "--model", at.model(), "--images", &pictures, "--output", "{}"]),
            vec![a.clone(), format!("{}/model.safetensors", at.model())],
        ),
        (
            owned(&[
                "align",
                "--model",
                at.model(),
                "--image",
                &a,
                "--text",
                "a wing",
                "--output",
                "{}",
            ]),
            vec![a.clone()],
        ),
        (
            owned(&[
                "hash", "--input", &vectors, "--hash", "lsh", "--bits", "32", "--output", "{}",
            ]),
            vec![vectors.clone()],
        ),
        (
            owned(&["search", "--index", &vectors, "--queries", &vectors, "--sheet", "{}"]),
            vec![vectors.clone()],
        ),
        (
            owned(&[
                "eval",
                "--model",
                &bert,
                "--data",
                &data,
                "--method",
                "cur",
                "--anchor-queries",
                "2",
                "--anchor-items",
                "2",
                "--retrieved",
                "2",
                "--plot",
                "{}",
            ]),
            vec![format!("{data}/corpus.jsonl"), format!("{data}/qrels/test.tsv"), weights],
        ),
    ]
}

fn with(command: &[String], output: &str) -> Vec<String> {
    let args = command.iter().map(|arg| arg.replace("{}", output));
    args.chain(["--device".into(), "cpu".into()]).collect()
}

#[track_caller]
fn refuse_owned(args: &[String], says: &[&str]) {
    refuse(&args.iter().map(String::as_str).collect::<Vec<_>>(), says);
}

#[track_caller]
fn succeed_owned(args: &[String]) {
    succeed(&args.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let at = Pictures::new("clip");
    for (number, (command, inputs)) in commands(&at).into_iter().enumerate() {
        for (i, input) in inputs.iter().enumerate() {
            let before = std::fs::read(input).unwrap();
            let (hard, soft) =
                (format!("link-{number}-{i}"), at.folder.path(&format!("soft-{number}-{i}")));
            let hard = at.folder.path(&hard);
            std::fs::hard_link(input, &hard)
                .or_else(|_| std::fs::copy(input, &hard).map(drop))
                .unwrap();
            symlink(input, &soft).unwrap();
            let same_file =
                std::fs::metadata(&hard).unwrap().ino() == std::fs::metadata(input).unwrap().ino();
            for output in [input, &soft, &hard] {
                if output == &hard && !same_file {
                    continue;
                }
                refuse_owned(&with(&command, output), &["is the input"]);
                assert!(std::fs::read(input).unwrap() == before, "{command:?} {output}");
            }
        }
    }
    // Standard input may be a file too.
    let texts = at.folder.path("texts.txt");
    let before = std::fs::read(&texts).unwrap();
    let command = format!(
        "'{}' embed --device cpu --model '{}' --format txt --input - --output '{texts}' < '{texts}'",
        common::program().display(),
        golden("bert"),
    );
    let ran = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert_eq!(ran.status.code(), Some(2));
    assert!(std::fs::read(&texts).unwrap() == before);
}

#[test]
fn outputs_keep_links_and_modes_and_special_files() {
    let at = Pictures::new("clip");
    for (number, (command, _)) in commands(&at).into_iter().enumerate() {
        let path = |name: &str| at.folder.path(&format!("{name}-{number}"));
        // Special files stay what they are.
        let pipe = path("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let to_pipe = path("to-pipe");
        symlink(&pipe, &to_pipe).unwrap();
        for output in [&pipe, &to_pipe] {
            refuse_owned(&with(&command, output), &["a named pipe"]);
        }
        assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
        // A link stays a link, also one whose target does not exist yet.
        let (target, link) = (path("target"), path("link"));
        symlink(Path::new(&target).file_name().unwrap(), &link).unwrap();
        for _ in 0..2 {
            succeed_owned(&with(&command, &link));
            assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
            assert!(std::fs::symlink_metadata(&target).unwrap().is_file());
        }
        let mode = |path: &str| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        // A file that is replaced passes its mode on.
        std::fs::set_permissions(&target, PermissionsExt::from_mode(0o604)).unwrap();
        succeed_owned(&with(&command, &link));
        assert_eq!(mode(&target), 0o604);
        // A new one has 0666 less the umask.
        let fresh = path("fresh");
        let ran = Command::new("sh")
            .args(["-c", "umask 027; exec \"$@\"", "sh"])
            .arg(common::program())
            .args(with(&command, &fresh))
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(mode(&fresh), 0o640);
        // A disk that is full keeps the old file, and no other is left beside it.
        let before = std::fs::read(&fresh).unwrap();
        let ran = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"])
            .arg(common::program())
            .args(with(&command, &fresh))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(&fresh), "{stderr}");
        assert!(std::fs::read(&fresh).unwrap() == before);
    }
    // A folder in which no file can be made is noticed before anything is read.
    #[cfg(target_os = "linux")]
    for command in commands(&at) {
        let args = with(&command.0, "/proc/out");
        let args: Vec<String> = args.iter().map(|a| a.replace("texts.txt", "none.txt")).collect();
        refuse_owned(&args, &["/proc/out"]);
    }
    let left = at.folder.files().into_iter().filter(|f| f.to_string_lossy().contains(".nearkin-"));
    assert_eq!(left.count(), 0);
}

/// What a killed process left is removed by the next that writes there; what another is writing is not.
#[test]
fn unfinished_files_are_swept() {
    use nearkin::files::Replacement;
    let folder = Folder::new();
    let names = || -> Vec<String> {
        let name = |p: PathBuf| p.file_name().unwrap().to_str().unwrap().to_string();
        folder.files().into_iter().map(name).collect()
    };
    folder.write(".nearkin-abcdefgh.tmp", "left by a kill");
    folder.write(".nearkin-notes.tmp", "a user's own");
    let mut first = Replacement::new(folder.path("a").as_ref()).unwrap();
    first.append(b"first").unwrap();
    let mut second = Replacement::new(folder.path("b").as_ref()).unwrap();
    second.append(b"second").unwrap();
    assert_eq!(names().len(), 3, "{:?}", names());
    first.commit().unwrap();
    second.commit().unwrap();
    assert_eq!(names(), [".nearkin-notes.tmp", "a", "b"]);
    let dropped = Replacement::new(folder.path("a").as_ref()).unwrap();
    drop(dropped);
    assert_eq!(names(), [".nearkin-notes.tmp", "a", "b"]);
    assert_eq!(std::fs::read(folder.path("a")).unwrap(), b"first");
    for special in ["/dev/null", "/dev", ""] {
        assert!(Replacement::check(special.as_ref()).is_err(), "{special}");
    }
}
