//! The real Alertmanager, alone and telling nobody.

use super::process::{Process, free_port};
use super::{PATIENCE, http, need, poll};
use serde_json::Value;
use std::process::Command;
use tempfile::TempDir;

pub struct Alertmanager {
    address: String,
    process: Process,
    _dir: TempDir,
}

impl Alertmanager {
    pub fn start() -> Alertmanager {
        (0..5)
            .find_map(|_| Self::at(&format!("127.0.0.1:{}", free_port())))
            .expect("Alertmanager found its port taken five times")
    }

    /// One that knows nothing, at the address of one that has ended.
    pub fn start_anew(self) -> Alertmanager {
        let address = self.address.clone();
        drop(self);
        Self::at(&address).expect("the port is free again")
    }

    fn at(address: &str) -> Option<Alertmanager> {
        need("alertmanager");
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let config = dir.path().join("alertmanager.yml");
        std::fs::write(&config, "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n").unwrap();
        let there = Command::new("prometheus-alertmanager").arg("--version").output().is_ok();
        let mut command = Command::new(if there { "prometheus-alertmanager" } else { "alertmanager" });
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--cluster.listen-address=", "--log.level=warn"])
            .current_dir(dir.path());
        let mut process = Process::start("Alertmanager", command);
        let up = poll("Alertmanager to be ready", PATIENCE, || match process.ended() {
            Some(_) if process.tail().contains("address already in use") => Ok(false),
            Some(status) => panic!("Alertmanager ended: {status}\n{}", process.tail()),
            None => match http::request(address, "GET", "/-/ready", &[], b"") {
                Ok(answer) if answer.status == 200 => Ok(true),
                other => Err(format!("{other:?}")),
            },
        });
        up.then(|| Alertmanager { address: address.to_owned(), process, _dir: dir })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The alerts that fire.
    pub fn alerts(&self) -> Vec<Value> {
        let answer = http::request(&self.address, "GET", "/api/v2/alerts", &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), self.process.tail());
        answer.json().as_array().unwrap().clone()
    }

    /// Waits until the alerts that fire are `ready`.
    pub fn until(&self, what: &str, ready: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        poll(what, PATIENCE, || {
            let alerts = self.alerts();
            if ready(&alerts) { Ok(alerts) } else { Err(format!("{alerts:#?}")) }
        })
    }
}
