//! Reading files that people write: never more than they may hold, never one that would block.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::rules::{SourceFile, Unreadable, is_policies, template_files};
use crate::yaml::MAX_BYTES;

/// A directory of rules that cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("cannot list the rules directory {}", dir.display())]
pub struct RulesDirError {
    /// Which.
    pub dir: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// Reads the files of a rules directory, by name: `*.yaml` and `*.yml`, without rule tests (`*_test.yaml`) and hidden
/// files; and the templates that policies.yaml names. A file that cannot be read is among them, with the reason.
///
/// # Errors
/// The directory cannot be listed.
pub fn read_rules(dir: &Path) -> Result<Vec<SourceFile>, RulesDirError> {
    let fail = |source| RulesDirError { dir: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if is_rules_file(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut files: Vec<SourceFile> = paths.into_iter().map(|path| read_file(path, false)).collect();
    let templates: Vec<SourceFile> = files.iter().flat_map(read_templates).collect();
    files.extend(templates);
    Ok(files)
}

/// Reads the templates that a file names; only policies.yaml names any.
#[must_use]
pub fn read_templates(file: &SourceFile) -> Vec<SourceFile> {
    let named = if is_policies(&file.path) { template_files(file) } else { Vec::new() };
    named.into_iter().map(|path| read_file(path, file.context)).collect()
}

/// Whether a file of this name belongs to a rules directory.
#[must_use]
pub fn is_rules_file(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    let stem = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml"));
    stem.is_some_and(|s| !s.is_empty() && !s.starts_with('.') && !s.ends_with("_test"))
}

/// Reads one file, but no more of it than a file of rules may have.
#[must_use]
pub fn read_file(path: PathBuf, context: bool) -> SourceFile {
    let content = bytes(&path);
    SourceFile { path, content, context }
}

fn bytes(path: &Path) -> Result<Vec<u8>, Unreadable> {
    let refused = |message: String, help: &str| Err(Unreadable { message, help: help.to_owned() });
    let failed = |e: &std::io::Error| {
        let help = match e.kind() {
            std::io::ErrorKind::NotFound => "it is not there; a symbolic link may lead nowhere",
            std::io::ErrorKind::PermissionDenied => "give the program the right to read it",
            _ => "look at the file itself; a symbolic link may lead to itself",
        };
        Unreadable { message: format!("cannot read the file: {e}"), help: help.to_owned() }
    };
    // Before opening: a named pipe would block for ever.
    let about = std::fs::metadata(path).map_err(|e| failed(&e))?;
    if about.is_dir() {
        return refused(
            "this is a folder, not a file".into(),
            "rules stand in the files of one folder; move it, or rename it",
        );
    }
    if !about.is_file() {
        return refused("this is no regular file".into(), "name a file that holds text");
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| failed(&e))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    if about.len() > MAX_BYTES || bytes.len() as u64 > MAX_BYTES {
        let mib = about.len().max(bytes.len() as u64).div_ceil(1 << 20);
        return refused(
            format!("the file is too large: {mib} MiB, and 1 MiB is the most"),
            "spread the rules over several files; if it is data, keep it elsewhere",
        );
    }
    Ok(bytes)
}
