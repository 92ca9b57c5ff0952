use std::sync::Arc;

use super::*;
use crate::model::Time;
use crate::rules::problem::Source;
use crate::rules::template::Form;

const BODY: &str = include_str!("mail_sample.json");

fn template(form: Form, file: &str, text: &str) -> Option<Template> {
    Some(Template { form, source: Arc::new(Source::new(file.into(), text.as_bytes())) })
}

fn words() -> Words<'static> {
    Words { receiver: "ops_mail", subject: "[parcelwatch] CN-ES", body: BODY, thread: "g" }
}

fn ack() -> Links {
    let ack = Some(("https://x.example/ack?m=1&e=2".into(), Time::parse("2026-10-21T07:10:30Z").unwrap()));
    Links { ack, list: None }
}

#[test]
fn without_templates_a_mail_is_as_ever() {
    let body = Body::read(BODY).unwrap();
    let mail = Mail { body: &body, receiver: "ops_mail", links: ack() };
    let written = super::mail(&Templates::default(), words(), |_| ack()).unwrap();
    assert_eq!((written.text, written.html), (mail.text(), Some(mail.html())));
    assert_eq!((written.subject.as_str(), written.failed), ("[parcelwatch] CN-ES", None));
}

#[test]
fn a_mail_is_its_templates() {
    let mut templates = Templates {
        subject: template(Form::Subject, "s.txt", "Sendungen: {{ subject }}"),
        text: template(
            Form::Text,
            "t.txt",
            "{{ data.exceptions | length }} Sendungen\n{{ ack.url }} bis {{ ack.until | time }}",
        ),
        ..Templates::default()
    };
    let written = super::mail(&templates, words(), |_| ack()).unwrap();
    assert_eq!(written.subject, "Sendungen: [parcelwatch] CN-ES");
    assert_eq!(written.text, "3 Sendungen\nhttps://x.example/ack?m=1&e=2 bis 2026-10-21 07:10 UTC\n");
    assert_eq!((written.html, written.failed), (None, None), "a text alone is a mail without HTML");
    templates.html = template(Form::Html, "h.html", "<body><p>{{ subject }}</p></body>");
    assert_eq!(
        super::mail(&templates, words(), |_| Links::default()).unwrap().html.unwrap(),
        "<body><p>[parcelwatch] CN-ES</p></body>"
    );
    // A subject alone keeps the built-in texts.
    let subject = Templates { subject: templates.subject.clone(), ..Templates::default() };
    assert!(
        super::mail(&subject, words(), |_| Links::default())
            .unwrap()
            .text
            .starts_with("OPEN, critical: 12 open")
    );
}

#[test]
fn where_one_fails_the_built_in_text_is_sent_and_says_so() {
    let fails = "{% for e in data.exceptions %}{% if e.parcel_id == 'P-ES-0001' %}{{ e.stage // 0 }}{% endif %}{% endfor %}x";
    let templates = Templates {
        text: template(Form::Text, "t.txt", "well"),
        html: template(Form::Html, "h.html", fails),
        ..Templates::default()
    };
    let written = super::mail(&templates, words(), |_| ack()).unwrap();
    let why = written.failed.unwrap();
    assert!(why.starts_with("h.html:1:"), "{why}");
    let (first, rest) = written.text.split_once("\n\n").unwrap();
    assert_eq!(first, format!("This is the built-in text: a template of this receiver failed ({why})."));
    assert!(rest.starts_with("OPEN, critical: 12 open"), "{rest}");
    let html = written.html.unwrap();
    let (head, body) = html.split_once("<body").unwrap();
    assert!(head.starts_with("<!DOCTYPE html>") && body.contains("This is the built-in text"), "{html}");
    assert!(body.find("This is the built-in text") < body.find("OPEN, critical"), "{html}");

    let subject =
        Templates { subject: template(Form::Subject, "s.txt", "{{ data.reason }}"), ..Templates::default() };
    let written = super::mail(&subject, words(), |_| ack()).unwrap();
    assert_eq!(written.subject, "[parcelwatch] CN-ES");
    assert!(written.failed.is_some() && written.text.contains("s.txt:1:4"), "{}", written.text);
}

#[test]
fn a_preview_shows_what_the_receiver_gets() {
    let slack =
        Templates { text: template(Form::Slack, "t.txt", "<{{ data.policy }}>"), ..Templates::default() };
    assert_eq!(preview("slack", &slack, words()).unwrap().text, "<handoff>");
    let pager = Templates {
        summary: template(Form::Summary, "t.txt", "{{ data.policy }}\n!"),
        ..Templates::default()
    };
    assert_eq!(preview("pagerduty", &pager, words()).unwrap().subject, "handoff !");
    let wrong = Templates { text: template(Form::Slack, "t.txt", "{{ x }}"), ..Templates::default() };
    let shown = preview("slack", &wrong, words()).unwrap();
    assert!(shown.text.starts_with("This is the built-in text") && shown.failed.is_some(), "{shown:?}");
}
