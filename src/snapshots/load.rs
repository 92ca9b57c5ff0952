//! Reading back: the newest one that fits its manifest.

use futures_util::TryStreamExt;
use object_store::{GetResultPayload, ObjectStoreExt};
use xxhash_rust::xxh3::xxh3_128;

use super::{Head, Manifest, SnapshotError, Store};

/// A section larger than this is no section of ours: a manifest cannot make us take all memory.
const LARGEST: u64 = 1 << 30;

/// A snapshot read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// What it is of.
    pub head: Head,
    /// The engine's sections of parcels.
    pub sections: Vec<Vec<u8>>,
    /// The engine's head.
    pub last: Vec<u8>,
}

impl Store {
    /// The newest snapshot of a partition that is whole, and what is wrong with those after it; `None`: replay.
    ///
    /// # Errors
    /// The store does not answer: whether there is a snapshot is not known.
    pub async fn latest(
        &self,
        partition: i32,
    ) -> Result<(Option<Loaded>, Vec<SnapshotError>), SnapshotError> {
        let mut damaged = Vec::new();
        for name in self.list(partition).await? {
            match self.load(partition, &name).await {
                Ok(loaded) => return Ok((Some(loaded), damaged)),
                Err(error @ SnapshotError::Damaged { .. }) => damaged.push(error),
                Err(SnapshotError::Store(error @ object_store::Error::NotFound { .. })) => {
                    damaged.push(SnapshotError::Damaged { name, why: error.to_string() });
                }
                Err(error) => return Err(error),
            }
        }
        Ok((None, damaged))
    }

    /// Reads one by the name of its manifest.
    ///
    /// # Errors
    /// It is damaged, or the store refuses.
    pub async fn load(&self, partition: i32, name: &str) -> Result<Loaded, SnapshotError> {
        let manifest = self.manifest(partition, name).await?;
        let key = self.folder(partition).join(manifest.data.as_str());
        let data = match self.store.get(&key).await?.payload {
            // The stream of a local file comes in chunks of 8 KiB.
            GetResultPayload::File(mut file, path) => {
                tokio::task::spawn_blocking(move || {
                    let mut bytes = Vec::new();
                    std::io::Read::read_to_end(&mut file, &mut bytes)
                        .map(|_| bytes)
                        .map_err(|source| SnapshotError::Folder { path, source })
                })
                .await??
            }
            GetResultPayload::Stream(stream) => {
                let add = |mut all: Vec<u8>, part: bytes::Bytes| async move {
                    all.extend_from_slice(&part);
                    Ok(all)
                };
                stream.try_fold(Vec::new(), add).await?
            }
        };
        let name = name.to_owned();
        tokio::task::spawn_blocking(move || {
            unpack(&manifest, &data)
                .map_err(|why| SnapshotError::Damaged { name, why })
                .map(|(sections, last)| Loaded { head: manifest.head, sections, last })
        })
        .await?
    }
}

type Sections = (Vec<Vec<u8>>, Vec<u8>);

fn unpack(manifest: &Manifest, data: &[u8]) -> Result<Sections, String> {
    if data.len() as u64 != manifest.bytes {
        return Err(format!("it has {} bytes, its manifest says {}", data.len(), manifest.bytes));
    }
    if format!("{:032x}", xxh3_128(data)) != manifest.hash {
        return Err("its bytes are not those that were written".to_owned());
    }
    let mut rest = data;
    let mut sections = Vec::with_capacity(manifest.sections.len());
    for section in &manifest.sections {
        let stored = usize::try_from(section.stored).ok().filter(|n| *n <= rest.len());
        let raw = usize::try_from(section.raw).ok().filter(|n| *n as u64 <= LARGEST);
        let (Some(stored), Some(raw)) = (stored, raw) else {
            return Err("its sections do not fit".to_owned());
        };
        let (frame, after) = rest.split_at(stored);
        let bytes = zstd::bulk::decompress(frame, raw).map_err(|e| e.to_string())?;
        if bytes.len() != raw {
            return Err("a section has another size than its manifest says".to_owned());
        }
        sections.push(bytes);
        rest = after;
    }
    let last = sections.pop().ok_or("it has no section")?;
    Ok((sections, last))
}
