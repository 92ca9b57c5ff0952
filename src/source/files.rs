//! Records from files: one JSON object a line, plain, gzip or zstd, or standard input.
//!
//! What a file holds is seen from its first bytes, not from its name, so that `-` may be compressed too.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use memchr::memchr;

use super::{Batch, MAX_RECORD, Stamp};

/// A file that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot read it: {source}", path.display())]
pub struct FileError {
    /// As it was named; `-` is standard input.
    pub path: PathBuf,
    /// What the system or the decompressor says.
    pub source: io::Error,
}

/// The lines of one file, batch by batch.
pub struct Lines {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    number: i32,
    line: i64,
    long: Vec<u8>,
}

impl Lines {
    /// Opens a file, or standard input for `-`. `number` is what its records carry as their partition.
    ///
    /// # Errors
    /// The file cannot be opened, is a directory, or its first bytes cannot be read.
    pub fn open(path: &Path, number: i32) -> Result<Lines, FileError> {
        let at = |source| FileError { path: path.to_owned(), source };
        let raw: Box<dyn Read + Send> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).map_err(at)?)
        };
        let input = decompressed(raw).map_err(at)?;
        Ok(Lines { path: path.to_owned(), input, number, line: 0, long: Vec::new() })
    }

    /// The next lines, at most a batch of them; `None` at the end. A record's offset is the number of its line from 0. A
    /// line without a byte is a record too (it will be rejected as `empty`), but for what follows the last line end.
    ///
    /// # Errors
    /// The system or the decompressor fails, in the middle of a cut archive for instance.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, FileError> {
        let mut batch = Batch::new(self.number);
        match self.fill(&mut batch) {
            Ok(()) => Ok((!batch.is_empty()).then_some(batch)),
            Err(source) => Err(FileError { path: self.path.clone(), source }),
        }
    }

    fn fill(&mut self, batch: &mut Batch) -> io::Result<()> {
        while !batch.is_full() {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if buffer.is_empty() {
                if !self.long.is_empty() {
                    push(batch, &mut self.line, &self.long);
                    self.long.clear();
                }
                return Ok(());
            }
            let used = match memchr(b'\n', buffer) {
                Some(end) => {
                    if self.long.is_empty() {
                        push(batch, &mut self.line, &buffer[..end]);
                    } else {
                        keep(&mut self.long, &buffer[..end]);
                        push(batch, &mut self.line, &self.long);
                        self.long.clear();
                    }
                    end + 1
                }
                None => {
                    keep(&mut self.long, buffer);
                    buffer.len()
                }
            };
            self.input.consume(used);
        }
        Ok(())
    }
}

/// Adds to a line that spans buffers, of which no more is kept than shows that it is too large.
fn keep(long: &mut Vec<u8>, part: &[u8]) {
    let room = (MAX_RECORD + 2).saturating_sub(long.len());
    long.extend_from_slice(&part[..part.len().min(room)]);
}

fn push(batch: &mut Batch, line: &mut i64, bytes: &[u8]) {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    batch.push(*line, Stamp::None, b"", bytes);
    *line += 1;
}

pub(super) fn decompressed(raw: Box<dyn Read + Send>) -> io::Result<Box<dyn BufRead + Send>> {
    const CHUNK: usize = 256 << 10;
    let mut raw = raw;
    let mut head = Vec::with_capacity(4);
    raw.by_ref().take(4).read_to_end(&mut head)?;
    let gzip = head.starts_with(&[0x1f, 0x8b]);
    let zstd = head == [0x28, 0xb5, 0x2f, 0xfd];
    let whole = BufReader::with_capacity(CHUNK, io::Cursor::new(head).chain(raw));
    Ok(if gzip {
        Box::new(BufReader::with_capacity(CHUNK, flate2::bufread::MultiGzDecoder::new(whole)))
    } else if zstd {
        Box::new(BufReader::with_capacity(CHUNK, zstd::Decoder::with_buffer(whole)?))
    } else {
        Box::new(whole)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(i64, Vec<u8>)>, FileError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut lines = Lines::open(file.path(), 3)?;
        let mut all = Vec::new();
        while let Some(batch) = lines.next_batch()? {
            assert_eq!(batch.partition, 3);
            all.extend(batch.records().iter().map(|r| (r.offset, batch.value(r).to_vec())));
        }
        Ok(all)
    }

    fn texts(lines: &[(i64, Vec<u8>)]) -> Vec<&str> {
        lines.iter().map(|(_, b)| std::str::from_utf8(b).unwrap()).collect()
    }

    #[test]
    fn lines_with_and_without_a_last_line_end() {
        assert_eq!(texts(&read(b"").unwrap()), Vec::<&str>::new());
        assert_eq!(texts(&read(b"a\nb\n").unwrap()), ["a", "b"]);
        assert_eq!(texts(&read(b"a\r\n\nb").unwrap()), ["a", "", "b"]);
        assert_eq!(read(b"x\ny\nz").unwrap()[2].0, 2);
    }

    #[test]
    fn many_batches_keep_count() {
        let text: String = (0..5_000).map(|i| format!("line {i}\n")).collect();
        let all = read(text.as_bytes()).unwrap();
        assert_eq!(all.len(), 5_000);
        assert!(
            all.iter()
                .enumerate()
                .all(|(i, (n, b))| *n == i as i64 && *b == format!("line {i}").into_bytes())
        );
    }

    #[test]
    fn a_line_beyond_the_bound_is_cut_just_above_it() {
        let mut text = vec![b'x'; 10 << 20];
        text.extend_from_slice(b"\nnext\n");
        let all = read(&text).unwrap();
        assert_eq!(all[0].1.len(), MAX_RECORD + 1);
        assert_eq!(all[1].1, b"next");
        let exact = vec![b'x'; MAX_RECORD];
        assert_eq!(read(&exact).unwrap()[0].1.len(), MAX_RECORD);
    }

    #[test]
    fn compressed_files_are_seen_by_their_first_bytes() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"a\nb\n").unwrap();
        let one = gz.finish().unwrap();
        assert_eq!(texts(&read(&[one.clone(), one.clone()].concat()).unwrap()), ["a", "b", "a", "b"]);
        let z = zstd::encode_all(&b"c\nd"[..], 1).unwrap();
        assert_eq!(texts(&read(&z).unwrap()), ["c", "d"]);
        let cut = read(&one[..one.len() - 6]).unwrap_err().to_string();
        assert!(cut.contains("cannot read it"), "{cut}");
    }

    #[test]
    fn a_missing_file_and_a_directory_are_named() {
        for path in ["/nonexistent/events.ndjson", "/"] {
            let Err(error) = Lines::open(Path::new(path), 0) else { panic!("{path} opened") };
            assert!(error.to_string().starts_with(path), "{error}");
        }
    }
}
