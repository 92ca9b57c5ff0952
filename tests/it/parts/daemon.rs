//! parcelwatch as its users run it: the program, a configuration, rules and policies in a directory, and HTTP.

use super::process::Process;
use super::{PATIENCE, http, poll, tls};
use serde_yaml::Value;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;
use tempfile::TempDir;

/// What a daemon is started from, again and again: the directory outlives each run, as a volume would.
pub struct Setup {
    dir: TempDir,
    config: Value,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    program: PathBuf,
}

impl Setup {
    /// A configuration with an HTTP port of the system's choice, state in its own directory, and the loopback open to webhooks.
    pub fn new() -> Setup {
        let dir = tempfile::Builder::new().prefix("daemon-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for sub in ["config", "rules"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let mut setup = Setup {
            dir,
            config: Value::Mapping(serde_yaml::Mapping::new()),
            arguments: Vec::new(),
            environment: Vec::new(),
            program: env!("CARGO_BIN_EXE_parcelwatch").into(),
        };
        setup.set("http.listen", "127.0.0.1:0");
        setup.set("webhook.allow_private_networks", vec!["127.0.0.0/8".to_owned()]);
        // Its own servers' certificate is trusted beside nobody else's.
        setup.env("SSL_CERT_FILE", &tls::certificate().file().display().to_string());
        setup
    }

    /// A Kafka to read from. The group is the setup's own, so that tests on one broker do not meet.
    pub fn kafka(&mut self, bootstrap: &str, topic: &str) -> &mut Setup {
        self.set("kafka.bootstrap_servers", bootstrap);
        self.set("kafka.topic", topic);
        let group = self.dir.path().file_name().unwrap().to_string_lossy().into_owned();
        self.set("kafka.group_id", group)
    }

    /// A value of the configuration by its dotted path: `set("time.skew", "1s")`.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) -> &mut Setup {
        let mut at = &mut self.config;
        for key in path.split('.') {
            let Value::Mapping(map) = at else {
                panic!("{path}: {key} is inside a value that is no mapping")
            };
            let empty = || Value::Mapping(serde_yaml::Mapping::new());
            at = map.entry(Value::from(key)).or_insert_with(empty);
        }
        *at = value.into();
        self
    }

    /// A client setting of librdkafka, whose names hold dots.
    pub fn kafka_property(&mut self, name: &str, value: &str) -> &mut Setup {
        if self.config["kafka"].get("properties").is_none() {
            self.set("kafka.properties", Value::Mapping(serde_yaml::Mapping::new()));
        }
        self.config["kafka"]["properties"][name] = value.into();
        self
    }

    /// A file in the directory of rules: `rules("policies.yaml", "…")`.
    pub fn rules(&mut self, name: &str, text: &str) -> &mut Setup {
        std::fs::write(self.dir.path().join("rules").join(name), text).unwrap();
        self
    }

    pub fn env(&mut self, name: &str, value: &str) -> &mut Setup {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// One more argument of `run`, such as `--dry-run`.
    pub fn arg(&mut self, argument: &str) -> &mut Setup {
        self.arguments.push(argument.into());
        self
    }

    /// Another program in place of parcelwatch.
    pub fn program(&mut self, program: impl Into<PathBuf>) -> &mut Setup {
        self.program = program.into();
        self
    }

    /// A path inside the setup's directory: `path("data/cases.sqlite")`, `path("rules")`.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Starts it, and returns when it has said where it listens.
    pub fn start(&self) -> Daemon {
        let mut process = self.spawn();
        let listening = |line: &str| {
            // `listening` and `http://HOST:PORT` on one line, in text or JSON.
            let rest = line.contains("listening").then(|| line.split("http://").nth(1))??;
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".:[]-".contains(c)));
            Some(rest[..end.unwrap_or(rest.len())].to_owned())
        };
        let address = process.wait_line("the line that says where it listens", PATIENCE, listening);
        Daemon { address, process }
    }

    /// Starts it and waits for its end: for what must not start at all. Exit status and everything it printed.
    pub fn fails(&self) -> (ExitStatus, String) {
        let mut process = self.spawn();
        let status = process.wait(PATIENCE);
        // The pipes are read on threads of their own, which may be a moment behind.
        std::thread::sleep(Duration::from_millis(50));
        (status, process.lines().join("\n"))
    }

    fn spawn(&self) -> Process {
        let file = self.path("config/parcelwatch.yaml");
        std::fs::write(&file, serde_yaml::to_string(&self.config).unwrap()).unwrap();
        let mut command = Command::new(&self.program);
        command.args(["run", "--config"]).arg(file).args(&self.arguments).current_dir(self.dir.path());
        // Settings of whoever runs the tests are none of the daemon's.
        for (name, _) in
            std::env::vars().filter(|(n, _)| n.starts_with("PARCELWATCH_") || n == "NOTIFY_SOCKET")
        {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(n, v)| (n, v)));
        Process::start("parcelwatch", command)
    }
}

/// A running parcelwatch; killed when dropped.
pub struct Daemon {
    address: String,
    process: Process,
}

impl Daemon {
    /// `host:port` of its HTTP listener.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub fn get(&self, path: &str) -> http::Response {
        self.request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, json: &serde_json::Value) -> http::Response {
        self.request("POST", path, &[("Content-Type", "application/json")], json.to_string().as_bytes())
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> http::Response {
        http::request(&self.address, method, path, headers, body)
            .unwrap_or_else(|e| panic!("{method} {path}: {e}\n{}", self.process.tail()))
    }

    /// Waits until `/-/ready` answers 200.
    pub fn wait_ready(&self) {
        self.wait_get("/-/ready", "be ready", |answer| (answer.status == 200).then_some(()));
    }

    /// Asks again until `pick` finds in the answer what the test is after.
    pub fn wait_get<R>(&self, path: &str, what: &str, pick: impl Fn(&http::Response) -> Option<R>) -> R {
        poll(&format!("GET {path} to {what}"), PATIENCE, || {
            let answer = http::request(&self.address, "GET", path, &[], b"");
            let answer = answer.map_err(|e| format!("{e}\n{}", self.process.tail()))?;
            pick(&answer)
                .ok_or_else(|| format!("{} {}\n{}", answer.status, answer.text(), self.process.tail()))
        })
    }

    pub fn metrics(&self) -> Metrics {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.text());
        Metrics::parse(&answer.text())
    }

    /// Waits until the sum of all series of this name (without the prefix `parcelwatch_`) is as wished, and returns it.
    pub fn wait_metric(&self, name: &str, wish: impl Fn(f64) -> bool) -> f64 {
        self.wait_series(name, &[], wish)
    }

    /// The same over the series with these labels.
    pub fn wait_series(&self, name: &str, labels: &[(&str, &str)], wish: impl Fn(f64) -> bool) -> f64 {
        self.wait_get("/metrics", &format!("give a {name}{labels:?} as wished"), |answer| {
            let value = Metrics::parse(&answer.text()).sum(name, labels)?;
            wish(value).then_some(value)
        })
    }

    /// Waits for a line of its log that holds `part`, among those so far and those to come.
    pub fn wait_log(&mut self, part: &str) -> String {
        self.process.wait_line(&format!("{part:?}"), PATIENCE, |l| l.contains(part).then(|| l.to_owned()))
    }

    pub fn log(&self) -> Vec<String> {
        self.process.lines()
    }

    /// The end of its log, for the message of a failure.
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.process.terminate(PATIENCE).code()
    }

    pub fn kill9(&mut self) {
        self.process.kill();
    }

    pub fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    pub fn is_running(&mut self) -> bool {
        self.process.ended().is_none()
    }
}

/// What `/metrics` said, in the text format of Prometheus.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub text: String,
    /// Name without prefix, labels, value.
    samples: Vec<(String, Vec<(String, String)>, f64)>,
}

impl Metrics {
    pub fn parse(text: &str) -> Metrics {
        let samples = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()).map(sample);
        Metrics { samples: samples.collect(), text: text.to_owned() }
    }

    /// The sum over all series of that name that have these labels; `None` where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has =
            |of: &[(String, String)]| labels.iter().all(|(n, v)| of.iter().any(|(m, w)| n == m && v == w));
        let found = self.samples.iter().filter(|(n, of, _)| n == name && has(of)).map(|(_, _, value)| value);
        found.copied().reduce(|a, b| a + b)
    }
}

fn sample(line: &str) -> (String, Vec<(String, String)>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| broken(line));
    let (name, mut rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = Vec::new();
    while !rest.starts_with('}') {
        let (label, quoted) = rest.split_once("=\"").unwrap_or_else(|| broken(line));
        let mut text = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next() {
                Some((at, '"')) => break at,
                Some((_, '\\')) => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, c)) => text.push(c),
                    None => broken(line),
                },
                Some((_, c)) => text.push(c),
                None => broken(line),
            }
        };
        labels.push((label.to_owned(), text));
        rest = quoted[end + 1..].trim_start_matches(',');
    }
    let name = name.strip_prefix("parcelwatch_").unwrap_or(name).to_owned();
    (name, labels, value.parse().unwrap_or_else(|_| broken(line)))
}

fn broken(line: &str) -> ! {
    panic!("no sample: {line}")
}
