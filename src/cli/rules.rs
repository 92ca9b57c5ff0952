//! `rules`: which rules a daemon had in force, what they said, and the word that lets a reload through its brake.

use serde_json::Value;

use super::client::Daemon;

/// `rules log`: each time that rules or policies were put in force, the newest first.
///
/// # Errors
/// The daemon cannot be reached or refuses.
pub fn log(daemon: &Daemon, json: bool) -> anyhow::Result<u8> {
    let answer = daemon.ask("GET", "/api/v1/rules?limit=1000", None)?;
    if json {
        println!("{answer:#}");
        return Ok(super::FINE);
    }
    println!("{:<24}  {:<12}  {:<12}  BY", "AT", "RULES", "POLICIES");
    for load in answer["items"].as_array().into_iter().flatten() {
        let text = |key: &str| load[key].as_str().unwrap_or_default();
        let short = |key: &str| text(key).get(..12).unwrap_or(text(key)).to_owned();
        println!("{:<24}  {:<12}  {:<12}  {}", text("at"), short("rules"), short("policies"), text("by"));
    }
    Ok(super::FINE)
}

/// `rules show HASH`: the files as they were; the first digits of the hash are enough.
///
/// # Errors
/// The daemon cannot be reached, or keeps no such rules.
pub fn show(daemon: &Daemon, hash: &str) -> anyhow::Result<u8> {
    let path = format!("/api/v1/rules/{}", plain(hash)?);
    let answer = daemon.ask("GET", &path, None)?;
    println!("# {}", answer["hash"].as_str().unwrap_or_default());
    for (file, text) in answer["files"].as_object().into_iter().flatten() {
        println!("# ---- {file}\n{}", text.as_str().unwrap_or_default().trim_end());
    }
    Ok(super::FINE)
}

/// `rules accept HASH`: reloads, whatever these rules open.
///
/// # Errors
/// The daemon cannot be reached or refuses.
pub fn accept(daemon: &Daemon, hash: &str) -> anyhow::Result<u8> {
    let answer = daemon.ask("POST", &format!("/-/reload?accept={}", plain(hash)?), None)?;
    println!("{}", in_force(&answer));
    Ok(super::FINE)
}

/// `rules reload`.
///
/// # Errors
/// The daemon cannot be reached or refuses.
pub fn reload(daemon: &Daemon) -> anyhow::Result<u8> {
    println!("{}", in_force(&daemon.ask("POST", "/-/reload", None)?));
    Ok(super::FINE)
}

fn in_force(answer: &Value) -> String {
    let hash = |key: &str| answer[key]["hash"].as_str().unwrap_or_default().to_owned();
    let news = if answer["changed"] == true { "in force now" } else { "unchanged" };
    let mut text = format!(
        "{news}: {} rules {}, policies {}",
        answer["rules"]["count"],
        hash("rules"),
        hash("policies")
    );
    for (rule, tally) in answer["foreseen"].as_object().into_iter().flatten() {
        let (opened, raised, resolved) = (&tally["opened"], &tally["raised"], &tally["resolved"]);
        text += &format!("\n  {rule}: {opened} opened, {raised} raised, {resolved} resolved");
    }
    text
}

/// A hash, and nothing else that a URL would take for something of its own.
fn plain(hash: &str) -> anyhow::Result<&str> {
    let good = (4..=64).contains(&hash.len()) && hash.bytes().all(|b| b.is_ascii_hexdigit());
    anyhow::ensure!(
        good,
        "{hash:?} is no hash: it has up to 64 digits 0-9 and a-f; `parcelwatch rules log` lists them"
    );
    Ok(hash)
}
