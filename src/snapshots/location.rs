//! Where snapshots go: a folder, or a bucket of one of the three clouds.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, RetryConfig};

use super::SnapshotError;

/// A folder or a bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// A folder on this machine.
    Folder(PathBuf),
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`; credentials come from the environment, as the
    /// cloud's own tools take them.
    Bucket(url::Url),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Folder(path) => path.display().fmt(f),
            Location::Bucket(url) => url.fmt(f),
        }
    }
}

impl Location {
    /// Reads `snapshots.to`.
    ///
    /// # Errors
    /// It is no URL of a kind that is known.
    pub fn parse(to: &str) -> Result<Location, SnapshotError> {
        let known = "use s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder, or leave it out for a folder in state";
        let url = url::Url::parse(to).map_err(|e| SnapshotError::Location(format!("{to}: {e}; {known}")))?;
        match url.scheme() {
            "s3" | "gs" | "az" if url.host_str().is_some() => Ok(Location::Bucket(url)),
            "file" => {
                let path = url.to_file_path();
                path.map(Location::Folder)
                    .map_err(|()| SnapshotError::Location(format!("{to}: not an absolute path")))
            }
            _ => Err(SnapshotError::Location(format!("{to}: {known}"))),
        }
    }

    pub(super) fn open(&self) -> Result<(Arc<dyn ObjectStore>, Key), SnapshotError> {
        match self {
            Location::Folder(path) => {
                let at = |source| SnapshotError::Folder { path: path.clone(), source };
                std::fs::create_dir_all(path).map_err(at)?;
                sweep(path).map_err(at)?;
                let store = LocalFileSystem::new_with_prefix(path)?.with_fsync(true);
                Ok((Arc::new(store), Key::default()))
            }
            Location::Bucket(url) => {
                // One TLS provider everywhere; whoever came first has installed it.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let prefix = Key::parse(url.path()).map_err(object_store::Error::from)?;
                Ok((bucket(url)?, prefix))
            }
        }
    }
}

fn bucket(url: &url::Url) -> Result<Arc<dyn ObjectStore>, SnapshotError> {
    // The defaults retry for minutes; a snapshot that fails is simply taken again at its next time.
    let retry =
        RetryConfig { max_retries: 4, retry_timeout: Duration::from_secs(30), ..RetryConfig::default() };
    Ok(match url.scheme() {
        "gs" => {
            Arc::new(GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retry).build()?)
        }
        "az" => Arc::new(MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retry).build()?),
        _ => Arc::new(AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry).build()?),
    })
}

/// A write takes seconds; whatever is as old as this was cut off. Another process may be writing to the same folder.
const STALE: Duration = Duration::from_secs(600);

/// Removes what a write that was cut off left behind: `name#1`, which no listing shows.
fn sweep(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let staged = entry
            .file_name()
            .to_str()
            .and_then(|n| n.rsplit_once('#'))
            .is_some_and(|(_, n)| n.parse::<u32>().is_ok());
        if entry.file_type()?.is_dir() {
            sweep(&entry.path())?;
        } else if staged && entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age >= STALE) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
