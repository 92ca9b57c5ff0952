use std::os::unix::fs::PermissionsExt;

use super::*;

fn message(body: &str) -> Message {
    Message {
        id: "m1".into(),
        receiver: "page".into(),
        integration: "command".into(),
        recipient: String::new(),
        kind: "new".into(),
        subject: String::new(),
        body: body.into(),
        thread: "g".into(),
        attempts: 0,
        created_ms: 0,
        due_ms: 0,
        standing: 0,
    }
}

/// A directory with one program.
fn program(script: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

async fn run(script: &str, args: &[&str], timeout_ms: i64, body: &str) -> (Delivery, Option<String>) {
    let (dir, path) = program(script);
    let out = dir.path().join("out").display().to_string();
    let argv: Vec<String> =
        [path.as_str(), out.as_str()].iter().chain(args).map(|a| (*a).to_owned()).collect();
    let command = Command::new(&argv, timeout_ms, &[dir.path().to_owned()]).unwrap();
    let delivery = command.deliver(&message(body), 0).await;
    (delivery, std::fs::read_to_string(&out).ok())
}

#[tokio::test]
async fn a_program_reads_the_message_and_says_yes() {
    let script = r#"out=$1; shift; { printf '%s|' "$@" "$PARCELWATCH_NOTIFICATION_ID" "$PARCELWATCH_REASON"; cat; } >"$out""#;
    // An argument with what a shell would act on is one argument.
    let (delivery, said) = run(script, &["a b; $(touch x)"], 20_000, r#"{"type":"test"}"#).await;
    assert_eq!(delivery, Delivery::Delivered);
    assert_eq!(said.as_deref(), Some(r#"a b; $(touch x)|m1|new|{"type":"test"}"#));
}

#[tokio::test]
async fn nothing_of_the_daemons_environment_reaches_it() {
    // Cargo sets this one for every test.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let (_, said) = run(r#"env >"$1""#, &[], 20_000, "{}").await;
    let said = said.unwrap();
    assert!(!said.contains("CARGO_MANIFEST_DIR") && said.contains("PARCELWATCH_RECEIVER=page"), "{said}");
}

#[tokio::test]
async fn exit_codes_say_what_follows() {
    for (code, class) in [
        (1, FailureClass::Transient),
        (75, FailureClass::Transient),
        (64, FailureClass::Permanent),
        (65, FailureClass::Permanent),
        (77, FailureClass::Auth),
        (78, FailureClass::Auth),
    ] {
        let (delivery, _) = run(&format!("echo the modem is off >&2; exit {code}"), &[], 20_000, "{}").await;
        let Delivery::Failed(failure) = delivery else { panic!("{code}: {delivery:?}") };
        assert_eq!(failure.class, class, "{code}");
        assert!(failure.detail.contains("the modem is off"), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_in_time() {
    let (delivery, _) = run("exec sleep 600", &[], 1_000, "{}").await;
    let Delivery::Failed(failure) = delivery else { panic!("{delivery:?}") };
    assert_eq!(failure.class, FailureClass::OutcomeUnknown);
}

#[tokio::test]
async fn one_that_talks_much_and_reads_nothing_does_not_hang() {
    let script = "head -c 300000 /dev/zero | tr '\\0' x >&2; exit 0";
    let (delivery, _) = run(script, &[], 20_000, &"x".repeat(300_000)).await;
    assert_eq!(delivery, Delivery::Delivered);
}

#[test]
fn only_what_the_configuration_allows_runs() {
    let (dir, path) = program("exit 0");
    let argv = [path.clone()];
    let other = tempfile::tempdir().unwrap();
    for allow in [vec![], vec![other.path().to_owned()], vec![PathBuf::from("/")]] {
        let refused = Command::new(&argv, 1_000, &allow).unwrap_err();
        assert!(matches!(refused, CommandError::NotAllowed { .. }), "{refused}");
    }
    assert!(Command::new(&argv, 1_000, &[PathBuf::from(&path)]).is_ok());
    // A link into the allowed directory that leads out of it is what it leads to.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/bin/sh", &link).unwrap();
    let refused = Command::new(&[link.display().to_string()], 1_000, &[dir.path().to_owned()]);
    assert!(matches!(refused, Err(CommandError::NotAllowed { .. })));
    assert!(matches!(Command::new(&["/no/such".into()], 1, &[]), Err(CommandError::Missing { .. })));
}
