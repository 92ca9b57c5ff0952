//! Writing, listing and pruning.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, WriteMultipart};
use xxhash_rust::xxh3::Xxh3;

use super::{FORMAT, Head, Location, Manifest, Published, Section, SnapshotError, stem};

/// Parts of an upload: S3 takes none below 5 MiB but the last.
const PART: usize = 8 << 20;
/// Parts under way at once.
const PARTS: usize = 4;
/// How old data without a manifest must be before it is taken for litter and not for an upload under way.
const LITTER: Duration = Duration::from_secs(3_600);

/// The snapshots of one topic.
#[derive(Clone)]
pub struct Store {
    pub(super) store: Arc<dyn ObjectStore>,
    prefix: Key,
    topic: String,
    keep: usize,
}

impl Store {
    /// Opens the place where a topic's snapshots are; `keep` of each partition are kept, at least one.
    ///
    /// # Errors
    /// A folder that cannot be made, a bucket whose settings are missing from the environment.
    pub fn open(location: &Location, topic: &str, keep: usize) -> Result<Store, SnapshotError> {
        let (store, prefix) = location.open()?;
        Ok(Store { store, prefix, topic: topic.to_owned(), keep: keep.max(1) })
    }

    pub(super) fn folder(&self, partition: i32) -> Key {
        self.prefix.clone().join(self.topic.as_str()).join(format!("{partition:05}"))
    }

    /// Begins a snapshot. Dropped before [`Upload::finish`] it leaves nothing that counts.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn begin(&self, partition: i32) -> Result<Upload, SnapshotError> {
        let nonce = getrandom::u64().unwrap_or_default();
        let name = format!("upload-{nonce:016x}.data");
        let key = self.folder(partition).join(name.as_str());
        let upload = WriteMultipart::new_with_chunk_size(self.store.put_multipart(&key).await?, PART);
        Ok(Upload {
            store: self.clone(),
            partition,
            upload,
            name,
            hash: Xxh3::new(),
            bytes: 0,
            sections: Vec::new(),
        })
    }

    /// The manifests of a partition, the newest first.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn list(&self, partition: i32) -> Result<Vec<String>, SnapshotError> {
        let mut names = self
            .objects(partition)
            .await?
            .into_iter()
            .map(|(n, _)| n)
            .filter(|n| n.ends_with(".json"))
            .collect::<Vec<_>>();
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    async fn objects(&self, partition: i32) -> Result<Vec<(String, SystemTime)>, SnapshotError> {
        let folder = self.folder(partition);
        let list = self.store.list(Some(&folder)).try_collect::<Vec<_>>().await;
        Ok(list?
            .into_iter()
            .filter_map(|meta| Some((meta.location.filename()?.to_owned(), meta.last_modified.into())))
            .collect())
    }

    /// Removes all but the newest `keep`, and data that no manifest names.
    ///
    /// # Errors
    /// The store refuses; the rest is removed at the next time.
    pub async fn prune(&self, partition: i32) -> Result<(), SnapshotError> {
        let folder = self.folder(partition);
        let objects = self.objects(partition).await?;
        let mut manifests: Vec<&str> =
            objects.iter().map(|(n, _)| n.as_str()).filter(|n| n.ends_with(".json")).collect();
        manifests.sort_unstable_by(|a, b| b.cmp(a));
        let mut named = BTreeSet::new();
        for (i, name) in manifests.iter().enumerate() {
            if i < self.keep {
                // One that cannot be read keeps nothing; its data goes with it once it is old.
                named.extend(self.manifest(partition, name).await.ok().map(|m| m.data));
            } else {
                // The manifest first: data without one does not count, one without data would be damaged.
                let data = self.manifest(partition, name).await.ok().map(|m| m.data);
                self.store.delete(&folder.clone().join(*name)).await?;
                if let Some(data) = data {
                    self.delete_quietly(&folder.clone().join(data.as_str())).await?;
                }
            }
        }
        for (name, modified) in &objects {
            let old = modified.elapsed().is_ok_and(|age| age > LITTER);
            if name.ends_with(".data") && !named.contains(name) && old {
                self.delete_quietly(&folder.clone().join(name.as_str())).await?;
            }
        }
        Ok(())
    }

    async fn delete_quietly(&self, key: &Key) -> Result<(), SnapshotError> {
        match self.store.delete(key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn manifest(&self, partition: i32, name: &str) -> Result<Manifest, SnapshotError> {
        let bytes = self.store.get(&self.folder(partition).join(name)).await?.bytes().await?;
        let damaged = |why: String| SnapshotError::Damaged { name: name.to_owned(), why };
        let version: Version = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if version.format != FORMAT {
            return Err(damaged(format!(
                "it has format {}, this program reads format {FORMAT}",
                version.format
            )));
        }
        serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))
    }
}

#[derive(serde::Deserialize)]
struct Version {
    format: u32,
}

/// A snapshot that is being written.
pub struct Upload {
    store: Store,
    partition: i32,
    upload: WriteMultipart,
    name: String,
    hash: Xxh3,
    bytes: u64,
    sections: Vec<Section>,
}

impl Upload {
    /// Adds a section; the engine's head comes last. Waits while too much is on its way.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn section(&mut self, raw: Vec<u8>) -> Result<(), SnapshotError> {
        let (frame, raw) = tokio::task::spawn_blocking(move || (frame(&raw), raw.len() as u64)).await?;
        let frame = frame.map_err(|e| SnapshotError::Location(format!("cannot compress a section: {e}")))?;
        self.hash.update(&frame);
        self.bytes += frame.len() as u64;
        self.sections.push(Section { stored: frame.len() as u64, raw });
        self.upload.wait_for_capacity(PARTS).await?;
        self.upload.put(Bytes::from(frame));
        Ok(())
    }

    /// Publishes it. Call this once every change up to its (offset, W) is durable.
    ///
    /// # Errors
    /// The store refuses; nothing was published.
    pub async fn finish(self, head: Head) -> Result<Published, SnapshotError> {
        self.upload.finish().await?;
        let folder = self.store.folder(self.partition);
        let key = folder.clone().join(format!("{}.json", stem(head.watermark_ms, head.next_offset)));
        let manifest = Manifest {
            format: FORMAT,
            head,
            data: self.name.clone(),
            bytes: self.bytes,
            hash: format!("{:032x}", self.hash.digest128()),
            sections: self.sections,
        };
        let json =
            serde_json::to_vec_pretty(&manifest).map_err(|e| SnapshotError::Location(e.to_string()))?;
        let size = self.bytes + json.len() as u64;
        match self.store.store.put_opts(&key, json.into(), PutOptions::from(PutMode::Create)).await {
            Ok(_) => Ok(Published { bytes: size, already: false }),
            Err(object_store::Error::AlreadyExists { .. }) => {
                self.store.delete_quietly(&folder.join(self.name.as_str())).await?;
                Ok(Published { bytes: size, already: true })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn frame(raw: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::with_capacity(raw.len() / 2), 1)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(raw.len() as u64))?;
    std::io::Write::write_all(&mut encoder, raw)?;
    encoder.finish()
}
