use std::path::Path;

use super::*;

fn head(offset: i64, watermark: i64) -> Head {
    Head {
        topic: "milestones".to_owned(),
        topic_id: None,
        partitions: 4,
        partition: 2,
        next_offset: offset,
        watermark_ms: watermark,
        rules_hash: "abc".to_owned(),
    }
}

fn open(folder: &Path) -> Store {
    Store::open(&Location::Folder(folder.to_owned()), "milestones", 3).unwrap()
}

async fn write(store: &Store, offset: i64, watermark: i64, fill: u8) -> Published {
    let mut upload = store.begin(2).await.unwrap();
    upload.section(vec![fill; 9 << 20]).await.unwrap();
    upload.section((0..100_000_u32).flat_map(u32::to_le_bytes).collect()).await.unwrap();
    upload.section(b"head".to_vec()).await.unwrap();
    upload.finish(head(offset, watermark)).await.unwrap()
}

fn files(folder: &Path, end: &str) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(folder.join("milestones/00002"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.to_str().unwrap().ends_with(end))
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.latest(2).await.unwrap().0, None);
    let published = write(&store, 100, 5_000, 7).await;
    assert!(!published.already && published.bytes < 9 << 20);
    write(&store, 200, 6_000, 8).await;
    let (loaded, damaged) = open(dir.path()).latest(2).await.unwrap();
    let loaded = loaded.unwrap();
    assert!(damaged.is_empty());
    assert_eq!(loaded.head, head(200, 6_000));
    assert_eq!(loaded.sections[0], vec![8; 9 << 20]);
    assert_eq!((loaded.sections.len(), loaded.sections[1].len()), (2, 400_000));
    assert_eq!(loaded.last, b"head");
    assert_eq!(store.latest(3).await.unwrap().0, None);
}

#[tokio::test]
async fn the_watermark_decides_what_is_newest() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    write(&store, 900, 5_000, 1).await;
    write(&store, 10, 6_000, 2).await; // the topic was made anew
    assert_eq!(store.latest(2).await.unwrap().0.unwrap().head.next_offset, 10);
}

#[tokio::test]
async fn the_same_place_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    write(&store, 100, 5_000, 1).await;
    assert!(write(&store, 100, 5_000, 2).await.already);
    assert_eq!(store.latest(2).await.unwrap().0.unwrap().sections[0][0], 1);
    assert_eq!(files(dir.path(), ".data").len(), 1);
}

#[tokio::test]
async fn a_damaged_one_is_named_and_the_one_before_is_used() {
    for how in ["flip", "cut", "gone", "manifest", "format"] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        write(&store, 100, 5_000, 1).await;
        let before = files(dir.path(), ".data");
        write(&store, 200, 6_000, 2).await;
        let data = files(dir.path(), ".data").into_iter().find(|f| !before.contains(f)).unwrap();
        let manifest = files(dir.path(), ".json").pop().unwrap();
        let mut bytes = std::fs::read(&data).unwrap();
        match how {
            "flip" => {
                bytes[1_000] ^= 1;
                std::fs::write(&data, &bytes).unwrap();
            }
            "cut" => std::fs::write(&data, &bytes[..bytes.len() - 1]).unwrap(),
            "gone" => std::fs::remove_file(&data).unwrap(),
            "manifest" => std::fs::write(&manifest, b"{\"format\":1").unwrap(),
            _ => {
                let text = std::fs::read_to_string(&manifest).unwrap();
                std::fs::write(&manifest, text.replace("\"format\": 1", "\"format\": 99")).unwrap();
            }
        }
        let (loaded, damaged) = store.latest(2).await.unwrap();
        assert_eq!(loaded.unwrap().head.next_offset, 100, "{how}");
        assert_eq!(damaged.len(), 1, "{how}");
        assert!(damaged[0].to_string().starts_with("snapshot 00000000000000006000-"), "{}", damaged[0]);
    }
}

#[tokio::test]
async fn only_the_newest_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 1..=5 {
        write(&store, i * 100, i * 1_000, 1).await;
    }
    store.prune(2).await.unwrap();
    assert_eq!(files(dir.path(), ".json").len(), 3);
    assert_eq!(files(dir.path(), ".data").len(), 3);
    assert_eq!(store.latest(2).await.unwrap().0.unwrap().head.next_offset, 500);
}

#[tokio::test]
async fn an_unfinished_one_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    write(&store, 100, 1_000, 1).await;
    let mut upload = store.begin(2).await.unwrap();
    upload.section(vec![0; 20 << 20]).await.unwrap();
    drop(upload);
    let left = std::fs::File::create(dir.path().join("milestones/00002/upload-1.data#3")).unwrap();
    left.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3_600)).unwrap();
    // Another process may be at it, where several share the folder.
    std::fs::File::create(dir.path().join("milestones/00002/upload-1.data#4")).unwrap();
    let store = open(dir.path());
    assert_eq!(store.latest(2).await.unwrap().0.unwrap().head.next_offset, 100);
    assert_eq!((files(dir.path(), "#3").len(), files(dir.path(), "#4").len()), (0, 1));
}

#[test]
fn places_are_told_apart() {
    assert!(matches!(Location::parse("s3://bucket/a/b").unwrap(), Location::Bucket(_)));
    assert_eq!(Location::parse("file:///data/x").unwrap(), Location::Folder("/data/x".into()));
    for bad in ["bucket/prefix", "http://bucket/x", "s3://"] {
        let error = Location::parse(bad).unwrap_err().to_string();
        assert!(error.starts_with("snapshots.to: ") && error.contains("s3://bucket/prefix"), "{error}");
    }
}
