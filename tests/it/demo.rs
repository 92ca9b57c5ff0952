//! The demonstration, run as its users run it: by itself, in a pipe, with a small budget of real time.

use std::process::{Command, Stdio};

#[test]
fn a_short_demonstration_ends_by_itself_and_proves_itself() {
    let dir = tempfile::Builder::new().prefix("demo-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_parcelwatch"))
        .args(["demo", "--seconds", "3", "--seed", "7"])
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    for shown in [
        "/metrics",
        "/api/v1/exceptions",
        "  opened  ",
        "  resolved  ",
        "mail ",
        "What arrived is what was owed.",
    ] {
        assert!(out.contains(shown), "{shown}: {out}\n{err}");
    }
    assert!(!out.contains('\x1b'), "no colours in a pipe: {out}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "its folder is gone");
}
