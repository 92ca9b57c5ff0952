//! The tests' own servers do what the tests rely on.

use crate::parts::kafka::{Kafka, Options, Record};
use rdkafka::Timestamp;

#[test]
fn a_topic_with_log_append_time_is_stamped_by_the_broker() {
    let kafka = Kafka::shared();
    kafka.create_topic("stamped", 2, true, &[("retention.ms", "-1")]);
    let long_ago = 1_000_000_000_000;
    assert_eq!(kafka.produce("stamped", "P-1", b"one", Some(1), Some(long_ago)), (1, 0));
    let stored = kafka.read_all("stamped");
    assert!(matches!(stored[0].timestamp, Timestamp::LogAppendTime(t) if t > long_ago), "{stored:?}");

    kafka.create_topic("unstamped", 1, false, &[("retention.ms", "-1")]);
    kafka.produce("unstamped", "P-1", b"one", None, Some(long_ago));
    assert_eq!(kafka.read_all("unstamped")[0].timestamp, Timestamp::CreateTime(long_ago));
}

#[test]
fn topics_can_be_widened_trimmed_and_made_anew() {
    let kafka = Kafka::shared();
    kafka.create_topic("changing", 1, true, &[]);
    let payloads: Vec<String> = (0..100).map(|n| format!("event {n}")).collect();
    let record = |p: &'static str, payload| Record { key: p, payload, ..Record::default() };
    let places = kafka.produce_all("changing", payloads.iter().map(|p| record("P-1", p.as_bytes())));
    assert_eq!(places, (0..100).map(|n| (0, n)).collect::<Vec<_>>());
    kafka.delete_records("changing", 0, 40);
    assert_eq!(kafka.offsets("changing", 0), (40, 100));
    assert_eq!(kafka.read_all("changing")[0].payload.as_deref(), Some(b"event 40".as_slice()));
    kafka.add_partitions("changing", 3);
    assert_eq!(kafka.produce("changing", "P-2", b"x", Some(2), None), (2, 0));
    kafka.delete_topic("changing");
    kafka.create_topic("changing", 1, true, &[]);
    assert_eq!(kafka.offsets("changing", 0), (0, 0));
}

#[test]
fn control_records_of_a_transaction_hold_offsets() {
    let kafka = Kafka::shared();
    kafka.create_topic("transacted", 1, true, &[]);
    let record = |payload| Record { key: "P-1", payload, ..Record::default() };
    kafka.transaction("transacted", &[record(b"kept"), record(b"kept too")], true);
    kafka.transaction("transacted", &[record(b"never was")], false);
    assert_eq!(kafka.offsets("transacted", 0), (0, 5));
}

#[test]
fn a_killed_broker_comes_back_with_all_it_had() {
    let kafka = Kafka::start(&Options { sasl: true, ..Options::default() });
    kafka.create_topic("kept", 2, true, &[]);
    for n in 0..20 {
        kafka.produce("kept", &format!("P-{n}"), b"{}", None, None);
    }
    kafka.kill();
    kafka.restart();
    assert_eq!(kafka.read_all("kept").len(), 20);
    kafka.produce("kept", "P-20", b"{}", None, None);
    assert_eq!(kafka.read_all("kept").len(), 21);

    // A hung broker: the same connection goes on afterwards.
    kafka.pause();
    std::thread::scope(|s| {
        let sent = s.spawn(|| kafka.produce("kept", "P-21", b"{}", Some(0), None));
        s.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            kafka.resume();
        });
        sent.join().unwrap();
    });

    // The listener with TLS and SCRAM lets the right password in, and only that.
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let try_with = |password: &str| {
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", kafka.sasl_bootstrap());
        config.extend(kafka.sasl_properties());
        config.set("sasl.password", password);
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.fetch_metadata(Some("kept"), std::time::Duration::from_secs(5)).map(|m| m.topics().len())
    };
    assert_eq!(try_with(crate::parts::kafka::PASSWORD), Ok(1));
    assert!(try_with("wrong").is_err());
    kafka.stop();
}

mod mail {
    use crate::parts::exim::{self, Exim};
    use crate::parts::smtp::{Options, PASSWORD, Security, SmtpServer, USER};
    use crate::parts::{block_on, tls};
    use lettre::message::MultiPart;
    use lettre::transport::smtp::authentication::{Credentials, Mechanism};
    use lettre::transport::smtp::client::{Certificate, Tls as LettreTls, TlsParameters};
    use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
    use std::time::Duration;

    /// What the sender was told: the code, or `None` for a connection that broke off or never answered.
    type Told = Result<(), Option<u16>>;

    fn send(url: &str, to: &str, password: Option<&str>, mechanism: Mechanism, text: &str) -> Told {
        let message = Message::builder()
            .from("pw@example.test".parse().unwrap())
            .to(to.parse().unwrap())
            .subject(format!("late parcel for {to}"))
            .message_id(Some("<row-1@parcelwatch>".into()))
            .multipart(MultiPart::alternative_plain_html(text.to_owned(), format!("<p>{text}</p>")))
            .unwrap();
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).unwrap();
        if url.contains("localhost") {
            let trusted = Certificate::from_pem(tls::certificate().pem.as_bytes()).unwrap();
            let parameters = TlsParameters::builder("localhost".into()).add_root_certificate(trusted).build();
            let parameters = parameters.unwrap();
            transport = transport.tls(match url.starts_with("smtps") {
                true => LettreTls::Wrapper(parameters),
                false => LettreTls::Required(parameters),
            });
        }
        if let Some(password) = password {
            let credentials = Credentials::new(USER.into(), password.into());
            transport = transport.credentials(credentials).authentication(vec![mechanism]);
        }
        block_on(async move {
            let transport = transport.build();
            match tokio::time::timeout(Duration::from_secs(10), transport.send(message)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(e)) => Err(e.status().map(u16::from)),
                Err(_) => Err(None),
            }
        })
    }

    #[test]
    fn the_scripted_server_does_what_the_recipient_says() {
        let server = SmtpServer::start(Options::default());
        let to = |to: &str| send(&server.url(), to, None, Mechanism::Plain, "übrig: a=b\r\n.dot\r\nend");
        assert_eq!(to("ops@x.test"), Ok(()));
        let mail = &server.wait_for(1)[0];
        assert_eq!(
            (mail.from.as_str(), mail.to.as_slice()),
            ("pw@example.test", &["ops@x.test".to_owned()][..])
        );
        assert_eq!(
            (mail.subject(), mail.message_id()),
            ("late parcel for ops@x.test", "<row-1@parcelwatch>")
        );
        assert!(mail.part("text/plain").unwrap().starts_with("übrig: a=b\r\n.dot\r\nend"), "{}", mail.raw);
        assert!(mail.part("text/html").unwrap().starts_with("<p>übrig"), "{}", mail.raw);
        assert!(!mail.tls && !mail.authenticated);

        assert_eq!(to("r550@x.test"), Err(Some(550)));
        assert_eq!(to("r452@x.test"), Err(Some(452)));
        assert_eq!(to("data-554@x.test"), Err(Some(554)));
        assert_eq!(to("grey-2@x.test"), Err(Some(451)));
        assert_eq!(to("grey-2@x.test"), Err(Some(451)));
        assert_eq!(to("grey-2@x.test"), Ok(()));
        assert_eq!(server.tries("grey-2@x.test"), 3);
        assert_eq!(to("slow-50@x.test"), Ok(()));
        assert_eq!(to("slowack-50@x.test"), Ok(()));
        assert_eq!(to("drop-rcpt@x.test"), Err(None));
        assert_eq!(to("drop@x.test"), Err(None));
        assert_eq!(to("drop-ack@x.test"), Err(None));
        assert_eq!(to("drop-ack-1@x.test"), Err(None));
        assert_eq!(to("drop-ack-1@x.test"), Ok(()));
        let kept = |to| server.mails_to(to).len();
        assert_eq!((kept("drop@x.test"), kept("drop-ack@x.test"), kept("drop-ack-1@x.test")), (0, 1, 2));
        assert_eq!(server.connections(), 14);

        // It stalls for as long as the client has patience, and does not keep the test.
        let url = server.url();
        let stalled = std::thread::spawn(move || send(&url, "stall@x.test", None, Mechanism::Plain, "x"));
        server.wait_command("RCPT TO:<stall@x.test>");
        assert_eq!(stalled.join().unwrap(), Err(None));
        assert_eq!(kept("stall@x.test"), 0);
    }

    #[test]
    fn the_scripted_server_speaks_tls_and_checks_passwords() {
        for tls in [Security::None, Security::StartTls, Security::Implicit] {
            let server = SmtpServer::start(Options { tls, auth: true });
            for mechanism in [Mechanism::Plain, Mechanism::Login] {
                assert_eq!(
                    send(&server.url(), "ops@x.test", Some(PASSWORD), mechanism, "x"),
                    Ok(()),
                    "{tls:?}"
                );
                let wrong = send(&server.url(), "ops@x.test", Some("wrong"), mechanism, "x");
                assert_eq!(wrong, Err(Some(535)), "{tls:?}");
            }
            assert_eq!(
                send(&server.url(), "ops@x.test", None, Mechanism::Plain, "x"),
                Err(Some(530)),
                "{tls:?}"
            );
            let mails = server.mails();
            assert_eq!(mails.len(), 2);
            assert!(mails.iter().all(|m| m.authenticated && m.tls == (tls != Security::None)));
        }
    }

    #[test]
    fn exim_delivers_over_tls_with_authentication() {
        let exim = Exim::start();
        let send = |url: &str, to: &str, password, text| send(url, to, password, Mechanism::Login, text);
        let good = Some(exim::PASSWORD);
        assert_eq!(send(&exim.url(), "ops@example.test", good, "hello"), Ok(()));
        assert_eq!(send(&exim.tls_url(), "carrier@example.test", good, "hello"), Ok(()));
        assert_eq!(send(&exim.url(), "ops@example.test", Some("wrong"), "hello"), Err(Some(535)));
        assert_eq!(send(&exim.url(), "ops@example.test", None, "hello"), Err(Some(550)));
        assert_eq!(send(&exim.url(), "grey@example.test", good, "hello"), Err(Some(451)));
        assert_eq!(send(&exim.url(), "unknown@example.test", good, "hello"), Err(Some(550)));
        assert_eq!(send(&exim.url(), "x@else.test", good, "hello"), Err(Some(550)));
        assert_eq!(send(&exim.url(), "ops@example.test", good, "EICAR"), Err(Some(550)));
        let mails = exim.wait_for(2);
        let mut recipients: Vec<_> = mails.iter().map(|m| m.to[0].as_str()).collect();
        recipients.sort_unstable();
        assert_eq!(recipients, ["carrier@example.test", "ops@example.test"]);
        for mail in &mails {
            assert!(mail.tls && mail.authenticated, "{}", mail.raw);
            assert_eq!((mail.from.as_str(), mail.message_id()), ("pw@example.test", "<row-1@parcelwatch>"));
            assert!(mail.part("text/plain").unwrap().starts_with("hello"));
        }
    }
}

mod web {
    use crate::parts::daemon::{Metrics, Setup};
    use crate::parts::http;
    use crate::parts::prometheus::{Prometheus, check_metrics};
    use crate::parts::webhook::{Answer, Webhooks};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    #[test]
    fn the_webhook_catcher_answers_as_path_and_script_say() {
        let server = Webhooks::start();
        let post =
            |path: &str| http::request(&server.address(), "POST", path, &[("X-A", "b")], b"{\"n\": 1}");
        let status = |path: &str| post(path).unwrap().status;
        assert_eq!((status("/ok"), status("/erp"), status("/500"), status("/410")), (200, 200, 500, 410));
        let limited = post("/429?retry_after=2").unwrap();
        assert_eq!((limited.status, limited.header("retry-after")), (429, Some("2")));
        let moved = post("/301?to=http://x.test/").unwrap();
        assert_eq!((moved.status, moved.header("location")), (301, Some("http://x.test/")));
        assert!(post("/close").is_err());
        server.script("/erp", [Answer::Status(503), Answer::Close, Answer::Slow(Duration::from_millis(10))]);
        assert_eq!(status("/erp"), 503);
        assert!(post("/erp").is_err());
        assert_eq!((status("/erp"), status("/erp")), (200, 200));
        let caught = server.wait_for(11);
        assert_eq!(server.hooks_at("/erp").len(), 5);
        let first = &caught[0];
        assert_eq!(
            (first.method.as_str(), first.path.as_str(), first.header("x-a")),
            ("POST", "/ok", Some("b"))
        );
        assert_eq!(first.json()["n"], 1);

        // A request that hangs ends with the server.
        let address = server.address();
        let hanging = std::thread::spawn(move || http::request(&address, "POST", "/hang", &[], b"x"));
        server.wait_until("the hanging request", Duration::from_secs(10), |all| {
            all.iter().find(|h| h.path == "/hang").cloned()
        });
        drop(server);
        assert!(hanging.join().unwrap().is_err());
    }

    #[test]
    fn the_webhook_catcher_checks_signatures() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let signer = standardwebhooks::Webhook::new(secret).unwrap();
        let now = chrono::Utc::now().timestamp();
        let signature = signer.sign("msg_1", now, b"{}").unwrap();
        let server = Webhooks::start();
        let post = |body: &[u8]| {
            let now = now.to_string();
            let headers = [
                ("webhook-id", "msg_1"),
                ("webhook-timestamp", now.as_str()),
                ("webhook-signature", &signature),
            ];
            http::request(&server.address(), "POST", "/ok", &headers, body).unwrap()
        };
        post(b"{}");
        post(b"{ }");
        let caught = server.wait_for(2);
        assert_eq!(caught[0].id(), "msg_1");
        assert_eq!(caught[0].verify(secret), Ok(()));
        assert!(caught[1].verify(secret).is_err(), "another body");
        assert!(caught[0].verify("whsec_AAAA").is_err(), "another secret");
    }

    /// A stand-in for the daemon: says where it listens (a catcher that plays its HTTP side), and ends on SIGTERM.
    fn stand_in(server: &Webhooks) -> Setup {
        let mut setup = Setup::new();
        let program = setup.path("stand-in");
        let script = "#!/bin/sh\necho \"$1 $(grep -c . $3)\"\ntrap 'echo bye; exit 3' TERM\n\
                      echo '{\"message\":\"listening\",\"url\":\"http://ADDRESS\"}' >&2\nwhile :; do sleep 0.05; done\n";
        std::fs::write(&program, script.replace("ADDRESS", &server.address())).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        setup.program(program);
        setup
    }

    const METRICS: &str = "# HELP parcelwatch_exceptions_open Open now.\n# TYPE parcelwatch_exceptions_open gauge\n\
        parcelwatch_exceptions_open{rule=\"a\",severity=\"high\"} 3\nparcelwatch_exceptions_open{rule=\"b\",severity=\"high\"} 4\n";

    fn expose(server: &Webhooks, text: &str) {
        let kind = vec![("Content-Type".to_owned(), "text/plain; version=0.0.4".to_owned())];
        server.script("/metrics", vec![Answer::Full(200, kind, text.to_owned()); 1000]);
    }

    #[test]
    fn a_daemon_is_started_asked_and_stopped() {
        let server = Webhooks::start();
        let mut setup = stand_in(&server);
        setup
            .kafka("127.0.0.1:9092", "milestones")
            .set("time.skew", "1s")
            .kafka_property("ssl.ca.location", "x");
        let mut daemon = setup.start();
        let config: serde_yaml::Value =
            serde_yaml::from_str(&std::fs::read_to_string(setup.path("config/parcelwatch.yaml")).unwrap())
                .unwrap();
        assert_eq!(config["kafka"]["properties"]["ssl.ca.location"], serde_yaml::Value::from("x"));
        assert_eq!(config["time"]["skew"], serde_yaml::Value::from("1s"));
        assert_eq!(daemon.address(), server.address());
        daemon.wait_ready();
        assert_eq!(daemon.post("/api/v1/x", &serde_json::json!({"by": "me"})).status, 200);
        assert_eq!(server.hooks_at("/api/v1/x")[0].json()["by"], "me");
        expose(&server, METRICS);
        assert_eq!(daemon.wait_metric("exceptions_open", |n| n > 6.0), 7.0);
        assert_eq!(daemon.wait_series("exceptions_open", &[("rule", "b")], |n| n > 0.0), 4.0);
        daemon.wait_log("run ");
        assert_eq!(daemon.terminate(), Some(3));
        daemon.wait_log("bye");
        let mut again = setup.start();
        again.kill9();
        assert!(!again.is_running());

        let odd = Metrics::parse("parcelwatch_x{a=\"say \\\"hi\\\", {you}\",b=\"\"} 1e3\n");
        assert_eq!(odd.sum("x", &[("a", "say \"hi\", {you}"), ("b", "")]), Some(1000.0));
    }

    #[test]
    fn a_real_prometheus_scrapes() {
        let server = Webhooks::start();
        expose(&server, METRICS);
        let prometheus = Prometheus::start(&server.address(), None);
        prometheus.wait_up();
        let open = prometheus.query("sum(parcelwatch_exceptions_open)");
        assert_eq!(open[0].value, 7.0);
        assert_eq!(check_metrics(METRICS), Ok(()));
        assert!(check_metrics("parcelwatch_events 1\n").is_err());
        let twice = format!("{METRICS}parcelwatch_exceptions_open{{rule=\"a\",severity=\"high\"}} 5\n");
        assert!(check_metrics(&twice).unwrap_err().contains("twice"));
    }
}
