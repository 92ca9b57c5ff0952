//! What the demonstration shows: on a terminal a quiet picture that stays where it is, in a pipe a line for each happening.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::news::Happening;
use crate::model::{Severity, Time};

/// Happenings a terminal shows: with the rest of the picture they fit 24 lines.
const RECENT: usize = 11;

/// Figures of the moment.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The fast clock.
    pub now: Time,
    /// How fast it runs.
    pub factor: u32,
    /// What goes on: `starting`, `running`, …
    pub phase: &'static str,
    /// Real time until the end of the phase, where it is known.
    pub left: Option<Duration>,
    /// Parcels that have set out, records sent.
    pub parcels: u64,
    /// Records sent.
    pub records: u64,
    /// What stands, from info to critical.
    pub standing: [usize; 4],
    /// Exceptions that opened, as far as seen.
    pub opened: u64,
    /// Exceptions that ended, as far as seen.
    pub resolved: u64,
    /// Mails that arrived.
    pub mails: usize,
    /// Webhooks that arrived.
    pub webhooks: usize,
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

impl Paint {
    fn with(self, codes: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{codes}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn severity(self, severity: Severity, text: &str) -> String {
        let codes = match severity {
            Severity::Critical => "1;97;41",
            Severity::High => "1;31",
            Severity::Warning => "33",
            Severity::Info => "36",
        };
        self.with(codes, text)
    }

    fn soft(self, text: &str) -> String {
        self.with("2", text)
    }

    fn strong(self, text: &str) -> String {
        self.with("1", text)
    }

    fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }
}

/// Where to show.
pub struct Screen {
    live: Option<Live>,
    paint: Paint,
    http: SocketAddr,
}

struct Live {
    bars: Vec<ProgressBar>,
    recent: VecDeque<Happening>,
    group: MultiProgress,
}

impl Screen {
    /// A screen on standard output.
    #[must_use]
    pub fn new(http: SocketAddr) -> Screen {
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let live = terminal.then(|| Live {
            bars: Vec::new(),
            recent: VecDeque::new(),
            group: MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(10)),
        });
        let screen = Screen { live, paint: Paint(colour), http };
        if screen.live.is_none() {
            for line in look(http, screen.paint) {
                print(&line);
            }
        }
        screen
    }

    /// Shows what happened since the last time, and the figures.
    pub fn show(&mut self, news: Vec<Happening>, figures: &Figures) {
        let Some(live) = &mut self.live else {
            for happening in news {
                print(&line(&happening, self.paint));
            }
            return;
        };
        live.recent.extend(news);
        while live.recent.len() > RECENT {
            live.recent.pop_front();
        }
        let picture = picture(figures, &live.recent, self.http, self.paint);
        while live.bars.len() < picture.len() {
            let style = ProgressStyle::with_template("{wide_msg}");
            let bar = live.group.add(ProgressBar::new_spinner());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            live.bars.push(bar);
        }
        for (bar, line) in live.bars.iter().zip(picture) {
            bar.set_message(line);
        }
    }

    /// Leaves the picture as it is and prints lines below it.
    pub fn end(self, lines: &[String]) {
        for bar in self.live.iter().flat_map(|l| &l.bars) {
            bar.abandon();
        }
        if self.live.is_some() {
            // The picture's last line has no end of its own.
            print("");
        }
        for line in lines {
            print(line);
        }
    }

    /// Its colours.
    #[must_use]
    pub fn paint(&self) -> Paint {
        self.paint
    }

    /// A line of plain output: what goes on, where nobody sees the picture.
    pub fn say(&self, text: &str) {
        if self.live.is_none() {
            print(text);
        }
    }
}

/// A closed pipe ends what is shown, not the demonstration.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// `2026-11-02 07:10`.
fn clock(time: Time) -> String {
    time.to_string().replace('T', " ").chars().take(16).collect()
}

fn line(happening: &Happening, paint: Paint) -> String {
    let Happening { at, what, severity, text } = happening;
    let word = match severity {
        Some(severity) => paint.severity(*severity, &format!("{:<8}", severity.name())),
        None if *what == "resolved" => paint.good(&format!("{:<8}", "over")),
        None => format!("{:<8}", ""),
    };
    let what = match *what {
        "mail" | "webhook" => paint.soft(&format!("{what:<8}")),
        what => format!("{what:<8}"),
    };
    format!("{}  {what}  {word}  {text}", paint.soft(&clock(*at)))
}

fn picture(f: &Figures, recent: &VecDeque<Happening>, http: SocketAddr, paint: Paint) -> Vec<String> {
    let left = f.left.map_or(String::new(), |left| format!(", {} s left", left.as_secs()));
    let pace = i64::from(f.factor) / 60;
    let mut lines = vec![
        format!(
            "{}  {} UTC  {}",
            paint.strong("parcelwatch demo"),
            paint.strong(&clock(f.now)),
            paint.soft(&format!(
                "{}{left}; a second here is {} h {:02} min there",
                f.phase,
                pace / 60,
                pace % 60
            )),
        ),
        String::new(),
        format!(
            "  on the way: {} parcels, {} records      told: {} mails, {} webhooks",
            f.parcels, f.records, f.mails, f.webhooks
        ),
        format!(
            "  exceptions: {}      opened {}, over {}",
            Severity::ALL
                .iter()
                .rev()
                .zip(f.standing.iter().rev())
                .map(|(s, n)| paint.severity(*s, &format!(" {} {n} ", s.name())))
                .collect::<Vec<_>>()
                .join(" "),
            f.opened,
            f.resolved
        ),
        String::new(),
    ];
    lines.extend(recent.iter().map(|h| line(h, paint)));
    lines.resize(5 + RECENT, String::new());
    lines.push(String::new());
    lines.extend(look(http, paint));
    lines
}

/// Where to look from outside.
fn look(http: SocketAddr, paint: Paint) -> Vec<String> {
    [
        ("metrics", format!("curl http://{http}/metrics")),
        ("API", format!("curl 'http://{http}/api/v1/exceptions?limit=5'")),
        ("status", format!("curl http://{http}/api/v1/status")),
    ]
    .into_iter()
    .map(|(what, command)| format!("  {}  {command}", paint.soft(&format!("{what:<8}"))))
    .collect()
}

/// The last lines: a table, and the differences where there are any.
#[must_use]
pub fn summary(
    rows: &[(&str, String)],
    differences: &[String],
    kept: Option<&str>,
    paint: Paint,
) -> Vec<String> {
    const SHOWN: usize = 20;
    let mut lines = vec![String::new()];
    let wide = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.extend(rows.iter().map(|(name, value)| format!("  {name:<wide$}  {value}")));
    lines.push(String::new());
    if differences.is_empty() {
        lines.push(paint.good("  What arrived is what was owed."));
        return lines;
    }
    lines.push(paint.bad(&format!("  What arrived is not what was owed: {} differences", differences.len())));
    lines.extend(differences.iter().take(SHOWN).map(|d| format!("    {d}")));
    if differences.len() > SHOWN {
        lines.push(format!("    and {} more", differences.len() - SHOWN));
    }
    if let Some(kept) = kept {
        lines.push(format!("  The records, the rules and the database are kept in {kept}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            now: Time::parse("2026-11-08T13:10:20Z").unwrap(),
            factor: 51_840,
            phase: "running",
            left: Some(Duration::from_secs(12)),
            parcels: 1_204,
            records: 14_212,
            standing: [6, 34, 21, 3],
            opened: 190,
            resolved: 126,
            mails: 212,
            webhooks: 188,
        }
    }

    #[test]
    fn the_picture_fits_a_small_terminal_and_without_colour_is_plain() {
        let http = "127.0.0.1:9464".parse().unwrap();
        let happening = Happening {
            at: Time::parse("2026-11-08T12:00:00Z").unwrap(),
            what: "opened",
            severity: Some(Severity::High),
            text: "P-ES-00012  Cleared".to_owned(),
        };
        let recent = VecDeque::from([happening]);
        let plain = picture(&figures(), &recent, http, Paint(false));
        assert!(plain.len() < 24);
        assert!(plain.iter().all(|l| !l.contains('\x1b')));
        assert_eq!(plain[5], "2026-11-08 12:00  opened    high      P-ES-00012  Cleared");
        assert!(plain[0].contains("running, 12 s left; a second here is 14 h 24 min there"));
        assert!(plain[3].contains(" critical 3   high 21   warning 34   info 6 "), "{}", plain[3]);
        assert!(picture(&figures(), &recent, http, Paint(true))[5].contains("\x1b[1;31mhigh    \x1b[0m"));
    }

    #[test]
    fn a_summary_says_what_differs() {
        let paint = Paint(false);
        assert!(summary(&[("records", "3".to_owned())], &[], None, paint)[1].ends_with("records  3"));
        let wrong: Vec<String> = (0..30).map(|i| format!("difference {i}")).collect();
        let lines = summary(&[], &wrong, Some("/x"), paint).join("\n");
        assert!(
            lines.contains("30 differences") && lines.contains("and 10 more") && lines.contains("kept in /x")
        );
    }
}
