//! The database as a file: damage, a version from the future, a lock, a full disk.

use parcelwatch::cases::{Cases, CasesError, Filter, Options};
use sqlx::{ConnectOptions as _, Connection as _};

use super::plain;
use crate::world::{START, World, commit, opened, options, rules};

#[tokio::test]
async fn a_damaged_file_is_said_plainly() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("cases.sqlite");
    std::fs::write(&path, "this is no database, and long enough to be taken for a header of one".repeat(100))
        .expect("written");
    let error = Cases::open(&path).await.err().expect("refused");
    assert!(matches!(error, CasesError::Corrupt { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("cases.sqlite") && text.contains("put a backup in its place"), "{text}");
    assert!(!error.is_transient());

    // A page damaged in the middle of a real one.
    std::fs::remove_file(&path).expect("removed");
    let world = World::new(plain()).await;
    world.commit(0, &(0..2_000).map(|i| opened(&format!("P{i}"), i)).collect::<Vec<_>>()).await;
    world.cases.close().await;
    let mut bytes = std::fs::read(world.dir.path().join("cases.sqlite")).expect("read");
    let (from, to) = (bytes.len() / 4, bytes.len() - 4096);
    bytes[from..to].fill(0x5a);
    std::fs::write(&path, bytes).expect("written");
    let outcome = async {
        let cases = Cases::open_with(&path, &options()).await?;
        cases.standing(0).await?;
        cases.exceptions(&Filter::default(), 1_000, None, START).await.map(|_| ())
    }
    .await;
    assert!(matches!(outcome, Err(CasesError::Corrupt { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_folder_that_is_missing_and_a_file_from_the_future_are_said_plainly() {
    let dir = tempfile::tempdir().expect("a folder");
    let error = Cases::open(&dir.path().join("no/such/cases.sqlite")).await.err().expect("refused");
    assert!(matches!(error, CasesError::Unavailable { .. }), "{error:?}");
    let cases = Cases::open(&dir.path().join("cases.sqlite")).await.expect("opens");
    cases.close().await;
    let path = dir.path().join("cases.sqlite");
    let mut other = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).connect().await.expect("opens");
    sqlx::query("UPDATE _sqlx_migrations SET version = 99 WHERE version = 1")
        .execute(&mut other)
        .await
        .expect("written");
    other.close().await.expect("closed");
    let error = Cases::open(&path).await.err().expect("refused");
    assert!(matches!(error, CasesError::Newer { .. }), "{error:?}");
}

#[tokio::test]
async fn a_locked_file_is_waited_for_and_nothing_is_lost() {
    let world = World::new(plain()).await;
    world.commit(0, &[opened("P1", 1)]).await;
    let path = world.dir.path().join("cases.sqlite");
    let mut other = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).connect().await.expect("opens");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("locked");
    let changes = [opened("P2", 2)];
    let (rules, policies) = (rules(), plain());
    let again = || commit(&world.cases, (&rules, &policies), 0, &changes, START);
    let error = again().await.expect_err("locked");
    assert!(matches!(error, CasesError::Locked { .. }) && error.is_transient(), "{error:?}");
    assert_eq!(world.cases.recorded(0).await.expect("reading goes on").map(|r| r.position), Some(2));
    sqlx::query("ROLLBACK").execute(&mut other).await.expect("released");
    assert_eq!(again().await.expect("commits").new, [true]);
}

#[tokio::test]
async fn a_full_disk_takes_whole_batches_or_none_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("cases.sqlite");
    let small = Options { max_page_count: Some(120), ..options() };
    let cases = Cases::open_with(&path, &small).await.expect("opens");
    let (rules, policies) = (rules(), plain());
    let fifty = |from: i64| (from..from + 50).map(|i| opened(&format!("P{i}"), i)).collect::<Vec<_>>();
    let mut position = 0;
    let error = loop {
        match commit(&cases, (&rules, &policies), 0, &fifty(position), START).await {
            Ok(_) => position += 50,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CasesError::Full { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("the disk is full"), "{error}");
    assert!(position > 0, "something fitted");
    assert_eq!(cases.recorded(0).await.expect("read").map(|r| r.position), Some(position));
    assert_eq!(cases.standing(0).await.expect("read").len() as i64, position, "no half batch");
    // The writer is free again and says the same once more.
    let again = cases.keep_rules("h", &[("rules.yaml".into(), "x".repeat(500_000))].into(), START).await;
    assert!(matches!(again, Err(CasesError::Full { .. })), "{again:?}");
    cases.close().await;
    let cases = Cases::open_with(&path, &options()).await.expect("opens");
    let committed = commit(&cases, (&rules, &policies), 0, &fifty(position), START).await;
    assert!(committed.expect("room now").new.iter().all(|new| *new));
}
