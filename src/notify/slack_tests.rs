use super::*;

fn body(exceptions: usize, parcel: &str) -> Body {
    let one = |n: usize| {
        json!({"exception_id": format!("e{n}"), "change": "opened", "rule": "late", "title": "Late <at> hub", "parcel_id": format!("{parcel}{n}"),
            "severity": "high", "state": "open", "owner": "carrier", "due": "2026-10-14T07:10:30Z", "at": "2026-10-14T07:10:30Z",
            "overdue_seconds": 7200, "runbook": "https://wiki.example.org/late?a=1&b=2", "facts": {"lane": "CN-ES", "note": "x".repeat(500)}})
    };
    let listed: Vec<Value> = (0..exceptions).map(one).collect();
    let text = json!({"type": "exceptions.opened", "timestamp": "2026-10-14T07:10:30Z", "data": {"policy": "handoff", "step": 1,
        "reason": "new", "group": {"rule": "late", "lane": "CN-ES"}, "group_state": "open",
        "counts": {"open": exceptions, "acknowledged": 0, "resolved": 0}, "truncated": 2, "exceptions": listed}});
    Body::read(&text.to_string()).unwrap()
}

/// What Slack refuses: more than 50 blocks, a text that is empty or too long, all together too long.
fn check(payload: &Value) -> usize {
    let blocks = payload["blocks"].as_array().unwrap();
    assert!(blocks.len() <= 50);
    let mut all = 0;
    for block in blocks {
        let (text, most) = match block["type"].as_str().unwrap() {
            "header" => (block["text"]["text"].as_str().unwrap(), 150),
            "section" => (block["text"]["text"].as_str().unwrap(), 3_000),
            "context" => (block["elements"][0]["text"].as_str().unwrap(), 3_000),
            other => panic!("a block of type {other}"),
        };
        let length = text.chars().count();
        assert!((1..=most).contains(&length), "{length} characters: {text}");
        all += length;
    }
    assert!(all <= 13_000, "{all} characters");
    blocks.iter().filter(|b| b["type"] == "section").count() - 1
}

#[test]
fn many_exceptions_stay_within_the_limits_and_the_rest_is_counted() {
    let listed = check(&payload(&body(3, "P"), "ops"));
    assert_eq!(listed, 3);
    let many = payload(&body(100, "P"), "ops");
    let listed = check(&many);
    assert!(listed >= 10, "{listed}");
    let end = many["blocks"].as_array().unwrap().last().unwrap().to_string();
    assert!(end.contains(&format!("and {} more", 102 - listed)), "{end}");
}

#[test]
fn a_parcel_names_no_user_and_no_link() {
    let payload = payload(&body(1, "<!channel> & <https://evil.example|x> `"), "ops").to_string();
    assert!(!payload.contains("<!channel>") && !payload.contains("<https://evil"), "{payload}");
    assert!(payload.contains("Late &lt;at&gt; hub"), "{payload}");
    assert!(payload.contains("<https://wiki.example.org/late?a=1&amp;b=2|runbook>"), "{payload}");
}

#[test]
fn a_cut_leaves_no_half_of_an_escape() {
    assert_eq!(cut("abc&amp;def", 6), "abc…");
    assert_eq!(cut("abc&amp;def", 9), "abc&amp;…");
    assert_eq!(cut("abc", 3), "abc");
    assert_eq!(cut("a&b cdefghij", 9), "a&b cdef…");
}
