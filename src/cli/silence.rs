//! `parcelwatch silence add|list|expire`: over the daemon's HTTP.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::FINE;
use super::client::{Daemon, text};

/// What to do with silences.
#[derive(Debug, Subcommand)]
pub enum Silence {
    /// Keep quiet for a time about what fits; at its end what is still open is told
    Add {
        /// What of: NAME=VALUE, as in --match rule=late --match 'lane=CN-*' --match severity=info,warning; all must fit
        #[arg(long = "match", value_name = "NAME=VALUE")]
        matches: Vec<String>,
        /// What of, as JSON in the form of a rule's matchers
        #[arg(long, value_name = "JSON", conflicts_with = "matches")]
        matchers: Option<String>,
        /// For how long, as 2h or 1d12h
        #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
        duration: Option<String>,
        /// Until when (RFC 3339)
        #[arg(long)]
        until: Option<String>,
        /// From when on (RFC 3339) [default: now]
        #[arg(long)]
        from: Option<String>,
        /// Why
        #[arg(long)]
        comment: Option<String>,
        /// Who [default: the environment variable USER]
        #[arg(long)]
        by: Option<String>,
        /// Even where it fits a large share of what stands
        #[arg(long)]
        force: bool,
        /// Only say how many standing exceptions it fits
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Those that have not ended
    List {
        /// Those that have ended too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// End one now: what it kept quiet and is still open is told
    Expire {
        /// Its number
        id: String,
        /// Who [default: the environment variable USER]
        #[arg(long)]
        by: Option<String>,
        #[command(flatten)]
        daemon: Daemon,
    },
}

/// Runs it; what there is to say goes to standard output.
///
/// # Errors
/// The daemon cannot be reached, or refuses.
pub fn run(silence: &Silence) -> anyhow::Result<u8> {
    match silence {
        Silence::Add { matches, matchers, duration, until, from, comment, by, force, dry_run, daemon } => {
            let matchers = match matchers {
                Some(text) => {
                    serde_json::from_str(text).map_err(|e| anyhow::anyhow!("--matchers is not JSON: {e}"))?
                }
                None => plain(matches)?,
            };
            let body = json!({"matchers": matchers, "duration": duration, "ends_at": until, "starts_at": from,
                "comment": comment, "by": name(by.as_deref()), "force": force, "dry_run": dry_run});
            let made = daemon.ask("POST", "/api/v1/silences", Some(&body))?;
            let reach = if *dry_run { &made } else { &made["reach"] };
            let fits = format!("{} of {} standing exceptions", reach["matching"], reach["standing"]);
            if *dry_run {
                let broad = if reach["broad"] == true { "; it needs --force" } else { "" };
                println!("it would fit {fits}{broad}");
            } else {
                println!("silence {} until {}: it fits {fits}", text(&made["id"]), text(&made["ends_at"]));
            }
        }
        Silence::List { all, daemon } => {
            let path = if *all { "/api/v1/silences?state=all" } else { "/api/v1/silences" };
            let list = daemon.ask("GET", path, None)?;
            for s in list["items"].as_array().into_iter().flatten() {
                println!("{}", line(s));
            }
        }
        Silence::Expire { id, by, daemon } => {
            let safe = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
            anyhow::ensure!(safe, "{id:?} is no number of a silence; `parcelwatch silence list` shows them");
            let body = json!({ "by": name(by.as_deref()) });
            let ended = daemon.ask("DELETE", &format!("/api/v1/silences/{id}"), Some(&body))?;
            println!("silence {id} ended at {}", text(&ended["ends_at"]));
        }
    }
    Ok(FINE)
}

/// Who acts: as named, else as the environment says.
pub(super) fn name(by: Option<&str>) -> Option<String> {
    by.map(str::to_owned).or_else(|| std::env::var("USER").ok()).filter(|n| !n.is_empty())
}

fn line(s: &Value) -> String {
    let (id, state) = (text(&s["id"]), text(&s["state"]));
    format!(
        "{id:>4}  {state:7}  {} to {}  {}  {}: {}",
        text(&s["starts_at"]),
        text(&s["ends_at"]),
        s["matchers"],
        text(&s["created_by"]),
        text(&s["comment"])
    )
}

/// `rule=late`, `severity=info,warning`, `lane=CN-*` → matchers.
fn plain(matches: &[String]) -> anyhow::Result<Value> {
    let mut all = Map::new();
    for given in matches {
        let (name, value) = given
            .split_once('=')
            .filter(|(n, v)| !n.trim().is_empty() && !v.is_empty())
            .ok_or_else(|| anyhow::anyhow!("--match {given:?} is not NAME=VALUE, as in rule=late"))?;
        let tests: Vec<Value> = value.split(',').map(one).collect();
        let test = if tests.len() == 1 { tests[0].clone() } else { Value::Array(tests) };
        anyhow::ensure!(
            all.insert(name.trim().to_owned(), test).is_none(),
            "{name} is named twice; write {name}=A,B for either"
        );
    }
    anyhow::ensure!(!all.is_empty(), "say what to keep quiet about, as in --match rule=late");
    Ok(Value::Object(all))
}

fn one(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        glob if glob.contains(['*', '?']) => json!({ "glob": glob }),
        // What looks like a number may be a text in the facts, and the other way round.
        number if serde_json::from_str::<serde_json::Number>(number).is_ok() => {
            json!([number, serde_json::from_str::<Value>(number).unwrap_or_default()])
        }
        plain => json!(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_matches_become_matchers() {
        let read = |m: &[&str]| plain(&m.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        let all =
            read(&["rule=late", "severity=info,warning", "lane=CN-*", "fragile=true", "pieces=2"]).unwrap();
        let expected = json!({"rule": "late", "severity": ["info", "warning"], "lane": {"glob": "CN-*"}, "fragile": true,
            "pieces": ["2", 2]});
        assert_eq!(all, expected);
        for bad in [&["rule"][..], &["rule="], &["=x"], &[], &["a=1", "a=2"]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(crate::rules::condition::Condition::from_json(&all).is_ok());
    }
}
