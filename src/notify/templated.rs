//! Texts of one's own ([`crate::rules::template`]), and what is sent where they fail: the built-in text, with a line that says
//! so. A message is never lost to its template.
//!
//! Made when a message is tried, by the templates then in force: one that was corrected serves what still waits. A mail's text and
//! HTML are one thing: where either fails, both are the built-in ones.

use maud::html;
use serde_json::Value;

use super::body::Body;
use super::mail::{Links, Mail};
use super::{Message, one_line};
use crate::rules::template::{self, Context, Fault, Template, Templates};

/// A message as it was decided.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    /// The receiver's id.
    pub receiver: &'a str,
    /// The built-in subject.
    pub subject: &'a str,
    /// The JSON of DESIGN §11.
    pub body: &'a str,
    /// The root of its thread.
    pub thread: &'a str,
}

impl<'a> From<&'a Message> for Words<'a> {
    fn from(m: &'a Message) -> Words<'a> {
        Words { receiver: &m.receiver, subject: &m.subject, body: &m.body, thread: &m.thread }
    }
}

/// A message as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// A mail's subject, an incident's title.
    pub subject: String,
    /// The plain text.
    pub text: String,
    /// The HTML, where it has one.
    pub html: Option<String>,
    /// Why some of it is not by its template; it says so itself.
    pub failed: Option<String>,
}

/// What a message to a receiver of this kind says, for looking at: without a link.
///
/// # Errors
/// Where the body cannot be read.
pub fn preview(
    integration: &str,
    templates: &Templates,
    words: Words<'_>,
) -> Result<Written, serde_json::Error> {
    let mails = if integration == "email" { templates } else { &Templates::default() };
    let mut written = mail(mails, words, |_| Links::default())?;
    match integration {
        "slack" => match own(templates.text.as_ref(), words) {
            Some(Ok(text)) => written.text = text,
            Some(Err(fault)) => {
                written.text = format!("{}\n\n{}", note(&fault), written.text);
                written.failed = Some(fault);
            }
            None => {}
        },
        "pagerduty" => match own(templates.summary.as_ref(), words) {
            Some(Ok(summary)) => written.subject = summary,
            Some(Err(fault)) => written.failed = Some(fault),
            None => {}
        },
        _ => {}
    }
    Ok(written)
}

/// A mail. `links`: those of a message with this body.
pub(super) fn mail(
    templates: &Templates,
    words: Words<'_>,
    links: impl FnOnce(&Body) -> Links,
) -> Result<Written, serde_json::Error> {
    let body = Body::read(words.body)?;
    let links = links(&body);
    let context = context(words, &links)?;
    let mail = Mail { body: &body, receiver: words.receiver, links };
    let mut failed: Vec<String> = Vec::new();
    let mut make = |template: &Option<Template>| {
        let made = template.as_ref()?.render(&context);
        made.map_err(|fault: Fault| failed.push(one_line(&fault.to_string()))).ok()
    };
    let subject = make(&templates.subject);
    let (text, html) = (make(&templates.text), make(&templates.html));
    let whole = templates.text.is_some() && text.is_some() && (html.is_some() || templates.html.is_none());
    let (mut text, mut html) = match text.filter(|_| whole) {
        Some(text) => (format!("{}\n", text.trim_end()), html),
        None => (mail.text(), Some(mail.html())),
    };
    let failed = (!failed.is_empty()).then(|| failed.join("; "));
    if let Some(why) = &failed {
        text = format!("{}\n\n{text}", note(why));
        html = html.map(|h| with_note(&h, why));
    }
    let subject = subject.unwrap_or_else(|| words.subject.to_owned());
    Ok(Written { subject, text, html, failed })
}

/// The text of a single template; `None`: there is none.
pub(super) fn own(template: Option<&Template>, words: Words<'_>) -> Option<Result<String, String>> {
    let template = template?;
    let context = context(words, &Links::default()).map_err(|e| e.to_string());
    Some(context.and_then(|c| template.render(&c).map_err(|fault| one_line(&fault.to_string()))))
}

fn context(words: Words<'_>, links: &Links) -> Result<Context, serde_json::Error> {
    let body: Value = serde_json::from_str(words.body)?;
    let [ack, list] = [&links.ack, &links.list]
        .map(|link| link.as_ref().map(|(url, until)| (url.as_str(), until.to_string())));
    let shown = template::Links {
        ack: ack.as_ref().map(|(url, until)| (*url, until.as_str())),
        list: list.as_ref().map(|(url, until)| (*url, until.as_str())),
    };
    Ok(Context::new(&body, words.subject, words.thread, shown))
}

/// What a message says of itself where a template failed.
pub(super) fn note(why: &str) -> String {
    format!("This is the built-in text: a template of this receiver failed ({why}).")
}

/// The page with the note at its top.
fn with_note(page: &str, why: &str) -> String {
    let note = html! { p style="margin:0 0 8px;font-size:13px" { (note(why)) } }.into_string();
    let top = page.find("<body").and_then(|at| Some(at + page[at..].find('>')? + 1)).unwrap_or(0);
    format!("{}{note}{}", &page[..top], &page[top..])
}

#[cfg(test)]
#[path = "templated_tests.rs"]
mod tests;
