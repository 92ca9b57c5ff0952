//! `parcelwatch audit verify`: recomputes the chain of the audit trail, row by row, from what the daemon shows of it.

use clap::Subcommand;

use super::client::Daemon;
use super::{FAILED, FINE};
use crate::cases::Chain;

/// What to do with the audit trail.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check that no row was changed or taken out
    Verify {
        /// The trail must still hold the row with this hash: one that an earlier run printed, kept elsewhere. Without it, rows cut
        /// off at the end are not noticed
        #[arg(long)]
        expect: Option<String>,
        #[command(flatten)]
        daemon: Daemon,
    },
}

/// Runs it.
///
/// # Errors
/// The daemon cannot be reached, or refuses.
pub fn run(audit: &Audit) -> anyhow::Result<u8> {
    let Audit::Verify { expect, daemon } = audit;
    let mut chain = Chain::default();
    let mut seen = expect.is_none();
    loop {
        let path = format!("/api/v1/audit?limit=1000&after={}", chain.rows);
        let page = daemon.ask("GET", &path, None)?;
        let rows = page["items"].as_array().map_or(&[][..], Vec::as_slice);
        for row in rows {
            if let Err(why) = chain.take(row) {
                println!("{why}");
                return Ok(FAILED);
            }
            seen |= expect.as_deref() == Some(&chain.hash);
        }
        if rows.is_empty() || page["next_cursor"].is_null() {
            break;
        }
    }
    if !seen {
        println!(
            "the audit trail does not hold the expected row: rows were cut off, or the trail is another one"
        );
        return Ok(FAILED);
    }
    println!("{} rows, each as it was written; the last has the hash {}", chain.rows, chain.hash);
    Ok(FINE)
}
