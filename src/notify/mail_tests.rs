//! What a mail says, letter by letter.

use super::*;

fn body() -> Body {
    Body::read(include_str!("mail_sample.json")).unwrap()
}

fn mail(body: &Body) -> Mail<'_> {
    let until = Time::parse("2026-10-21T07:10:30Z").unwrap();
    Mail {
        body,
        receiver: "ops_mail",
        links: Links {
            ack: Some(("https://watch.example.org/ack?m=row-1&e=1&s=x".into(), until)),
            list: Some(("https://watch.example.org/exceptions.csv?m=row-1&e=1&s=y".into(), until)),
        },
    }
}

#[test]
fn the_text_says_state_reason_and_each_parcel() {
    let expected = "\
OPEN, critical: 12 open, 1 acknowledged, 3 resolved
Cleared import customs, but the domestic carrier has not scanned it
lane CN-ES
New (policy handoff, step 1)
As of 2026-10-14 07:10 UTC

Acknowledge or resolve the 3 listed here, good until
  2026-10-21 07:10 UTC:
https://watch.example.org/ack?m=row-1&e=1&s=x

All it tells of, as a table (CSV), good until 2026-10-21 07:10 UTC:
https://watch.example.org/exceptions.csv?m=row-1&e=1&s=y

CRITICAL  P-ES-0001  overdue by 2 h 10 min (due 2026-10-14 05:00 UTC)
          owner: carrier
          tracking LX123456789CN (correos), order O-77
          last: import_customs_cleared at MAD-C1, 2026-10-11 07:10 UTC
          expected: domestic_scan or delivered
          destination ES, domestic_carrier correos
          runbook: https://wiki.example.org/handoff
          exception: a1

WARNING   P-ES-0002  due 2026-10-14 07:10 UTC
          owner: carrier, acknowledged by Maria
          expected: domestic_scan
          exception: a2

RESOLVED  P-ES-0003  it happened, late
          owner: carrier
          tracking LX3CN
          last: domestic_scan, 2026-10-14 06:00 UTC
          exception: a3

and 9 more that this message does not list

-- 
parcelwatch, receiver ops_mail
";
    let text = mail(&body()).text();
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn what_all_have_in_common_is_said_once_and_lines_are_short() {
    let mut body = body();
    body.data.truncated = 0;
    body.data.counts.open = 100_000;
    body.data.summary = vec![format!("Lane: {}", "CN-ES 27,777; ".repeat(9))];
    for e in &mut body.data.exceptions {
        e.runbook = Some(format!("Ask {} of the carrier", "the desk ".repeat(8)));
        e.facts.insert("duty_status".into(), "prepaid".into());
        e.facts.insert("order_id".into(), "O-77".into());
        e.parcel_id = format!("A-RATHER-LONG-{}", e.parcel_id);
    }
    let (text, html) = (mail(&body).text(), mail(&body).html());
    for once in ["duty_status prepaid", "Ask the desk"] {
        assert_eq!((text.matches(once).count(), html.matches(once).count()), (1, 1), "{once}\n{text}");
    }
    assert!(!text.contains("order_id"), "it is told as the order: {text}");
    assert!(text.starts_with("OPEN, critical: 100,000 open"), "{text}");
    let long: Vec<&str> =
        text.lines().filter(|l| l.chars().count() > WIDTH && !l.starts_with("https://")).collect();
    assert!(long.is_empty(), "{long:#?}\n{text}");
    let status =
        "CRITICAL  A-RATHER-LONG-P-ES-0001  overdue by 2 h 10 min\n          (due 2026-10-14 05:00 UTC)\n";
    assert!(text.contains(status), "{text}");
    // One that differs, and it stands with each again.
    body.data.exceptions[2].facts.insert("duty_status".into(), "unpaid".into());
    let text = mail(&body).text();
    assert!(
        text.contains("duty_status unpaid") && text.matches("duty_status prepaid").count() == 2,
        "{text}"
    );
}

#[test]
fn what_the_listed_share_is_not_said_of_those_that_are_not() {
    let mut body = body();
    body.data.truncated = 99_997;
    body.data.group.remove("rule");
    for e in &mut body.data.exceptions {
        e.runbook = Some("Ask the desk".into());
        e.facts.insert("duty_status".into(), "prepaid".into());
    }
    let text = mail(&body).text();
    assert!(text.contains("and 99,997 more"), "{text}");
    for each in ["Cleared import customs, but", "Ask the desk", "duty_status prepaid"] {
        assert_eq!(text.matches(each).count(), 3, "{each}\n{text}");
    }
}

#[test]
fn the_html_says_the_same_and_loads_nothing() {
    let html = mail(&body()).html();
    for says in [
        "OPEN, critical: 12 open, 1 acknowledged, 3 resolved",
        "Cleared import customs, but the domestic carrier has not scanned it",
        "overdue by 2 h 10 min",
        "2026-10-14 05:00 UTC",
        "tracking LX123456789CN (correos), order O-77",
        "acknowledged by Maria",
        "it happened, late",
        "and 9 more",
        "https://watch.example.org/ack?m=row-1&amp;e=1&amp;s=x",
        "https://watch.example.org/exceptions.csv?m=row-1&amp;e=1&amp;s=y",
        "good until <span style=\"white-space:nowrap\">2026-10-21 07:10 UTC</span>",
        "color-scheme",
    ] {
        assert!(html.contains(says), "{says}\nis not in\n{html}");
    }
    for never in ["<img", "<script", "src=", "@import", "url("] {
        assert!(!html.contains(never), "{never} is in\n{html}");
    }
}

#[test]
fn a_parcels_texts_write_no_lines_and_no_markup() {
    let mut body = body();
    body.data.exceptions[0].parcel_id = "P\nCRITICAL  P-FAKE <b>".into();
    body.data.exceptions[0].runbook = Some("javascript:alert(1)".into());
    let (text, html) = (mail(&body).text(), mail(&body).html());
    assert!(!text.lines().any(|l| l.starts_with("CRITICAL  P-FAKE")), "{text}");
    assert!(html.contains("P CRITICAL  P-FAKE &lt;b&gt;") && !html.contains("<b>"), "{html}");
    assert!(!html.contains("href=\"javascript"), "{html}");
}

#[test]
fn titles_that_differ_stand_with_their_parcels() {
    let mut body = body();
    body.data.exceptions[1].title = "Nothing heard for days".into();
    let text = mail(&body).text();
    assert!(
        text.contains("WARNING   P-ES-0002  due 2026-10-14 07:10 UTC\n          Nothing heard for days"),
        "{text}"
    );
    assert!(text.starts_with("OPEN, critical: 12 open, 1 acknowledged, 3 resolved\nlane CN-ES\n"), "{text}");
}

#[test]
fn a_gap_in_the_evidence_is_said() {
    let mut body = body();
    assert!(!mail(&body).text().contains("records were lost"));
    body.data.exceptions[0].evidence = Some("incomplete".into());
    assert!(
        mail(&body).text().contains("records were lost") && mail(&body).html().contains("records were lost")
    );
}

#[test]
fn headlines_name_every_state() {
    let headline = |change: fn(&mut Body)| {
        let mut body = body();
        change(&mut body);
        mail(&body).headline()
    };
    assert!(headline(|b| b.data.group_state = "acknowledged".into()).starts_with("ACKNOWLEDGED, critical: "));
    assert!(headline(|b| b.data.group_state = "resolved".into()).starts_with("RESOLVED: 12 open"));
    assert!(headline(|b| b.kind = "test".into()).starts_with("TEST: "));
    assert_eq!(headline(|b| b.kind = "feed.incident".into()), "INCIDENT: a feed does not work");
    assert_eq!(headline(|b| b.kind = "feed.resolved".into()), "RESOLVED: the incident of a feed is over");
    assert!(headline(|b| b.data.exceptions.clear()).starts_with("OPEN: "));
}

#[test]
fn an_empty_body_still_makes_a_mail() {
    let empty = Body::read("{}").unwrap();
    let mail = Mail { body: &empty, receiver: "ops", links: Links::default() };
    assert!(mail.text().starts_with("NOTICE: 0 open"), "{}", mail.text());
    assert!(mail.html().contains("NOTICE"));
    let nulls = Body::read(
        r#"{"type":null,"timestamp":null,"data":{"group":null,"exceptions":[{"parcel_id":null,"last":null}]}}"#,
    );
    assert!(Mail { body: &nulls.unwrap(), receiver: "ops", links: Links::default() }.text().contains("INFO"));
}

#[test]
fn spans_show_their_two_largest_units() {
    for (ms, text) in [
        (0, "0 s"),
        (59_000, "59 s"),
        (60_000, "1 min"),
        (7_830_000, "2 h 10 min"),
        (86_400_000, "1 d"),
        (90_000_000, "1 d 1 h"),
        (86_460_000, "1 d"),
    ] {
        assert_eq!(span(ms), text, "{ms}");
    }
}
