//! A real mail server: Exim, without root, with STARTTLS, TLS from the first byte, and authentication. What it delivers lies
//! in a Maildir, one file for each recipient.

use super::process::{Process, free_port};
use super::smtp::Mail;
use super::{PATIENCE, need, poll, tls};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

pub use super::smtp::{PASSWORD, USER};

/// Mail to `…@example.test` is delivered; `grey@` is put off, `unknown@` refused, other domains are not relayed to, a message
/// with `EICAR` in its body is refused after DATA. Without AUTH nothing is taken.
pub struct Exim {
    dir: TempDir,
    port: u16,
    tls_port: u16,
    process: Process,
}

/// `nobody` and its group on Debian: what Exim runs as when the tests run as root.
const NOBODY: u32 = 65534;

impl Exim {
    pub fn start() -> Exim {
        need("exim");
        // A port may be taken between looking and binding; then Exim ends at once and two others are tried.
        (0..5).find_map(|_| Exim::try_start()).expect("Exim found its port taken five times")
    }

    fn try_start() -> Option<Exim> {
        // In the system's own place for such things: the user `nobody` may not be able to enter the project's.
        let dir = tempfile::Builder::new().prefix("exim-").tempdir().unwrap();
        let root = is_root();
        let (port, tls_port) = (free_port(), free_port());
        // A copy without the set-user-id bit: the kernel would take the order "die with your parent" from a program that has it.
        let program = dir.path().join("exim4");
        std::fs::copy("/usr/sbin/exim4", &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let certificate = tls::certificate();
        write(dir.path(), "cert.pem", &certificate.pem);
        write(dir.path(), "key.pem", &certificate.key_pem);
        write(dir.path(), "exim.conf", &configuration(dir.path(), port, tls_port));
        for sub in ["spool", "log", "mail"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        if root {
            let all = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
            all.chain([dir.path().to_owned()]).for_each(|p| chown(p, Some(NOBODY), Some(NOBODY)).unwrap());
        }
        let mut command = Command::new(program);
        command.arg("-C").arg(dir.path().join("exim.conf")).args(["-bdf", "-q1m"]).current_dir(dir.path());
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut process = Process::start("Exim", command);
        let up = poll("Exim to listen", PATIENCE, || match process.ended() {
            Some(_) if (process.tail() + &log(dir.path())).contains("Address already in use") => Ok(false),
            Some(status) => panic!("Exim ended: {status}\n{}\n{}", process.tail(), log(dir.path())),
            None => {
                std::net::TcpStream::connect(("127.0.0.1", tls_port)).map(|_| true).map_err(|e| e.to_string())
            }
        });
        up.then_some(Exim { dir, port, tls_port, process })
    }

    /// As `smtp.url` wants it, with STARTTLS.
    pub fn url(&self) -> String {
        format!("smtp://localhost:{}?tls=required", self.port)
    }

    /// The same with TLS from the first byte.
    pub fn tls_url(&self) -> String {
        format!("smtps://localhost:{}", self.tls_port)
    }

    /// Everything delivered so far, oldest first.
    pub fn mails(&self) -> Vec<Mail> {
        let Ok(new) = std::fs::read_dir(self.dir.path().join("mail/new")) else { return Vec::new() };
        let mut files: Vec<PathBuf> = new.map(|entry| entry.unwrap().path()).collect();
        files.sort(); // their names begin with the time
        files.iter().map(|file| delivered(&std::fs::read_to_string(file).unwrap())).collect()
    }

    /// Waits until at least `n` messages are delivered.
    pub fn wait_for(&self, n: usize) -> Vec<Mail> {
        self.wait_for_mail(&format!("{n} mails"), PATIENCE, |mails| {
            (mails.len() >= n).then(|| mails.to_vec())
        })
    }

    /// Waits until `pick` finds in all delivered so far what the test is after.
    pub fn wait_for_mail<R>(&self, what: &str, within: Duration, pick: impl Fn(&[Mail]) -> Option<R>) -> R {
        poll(what, within, || {
            let mails = self.mails();
            pick(&mails).ok_or_else(|| {
                let got: Vec<_> = mails.iter().map(|m| format!("{:?}: {}", m.to, m.subject())).collect();
                format!("{got:#?}\n{}", log(self.dir.path()))
            })
        })
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn is_root() -> bool {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

/// Exim notes the envelope in headers of its own.
fn delivered(raw: &str) -> Mail {
    let mut mail = Mail::parse(raw);
    let inner = |text: &str| text.trim_matches(['<', '>']).to_owned();
    mail.from = mail.header("return-path").map(inner).unwrap_or_default();
    mail.to = mail.header("envelope-to").map(|to| to.split(", ").map(inner).collect()).unwrap_or_default();
    let received = mail.header("received").unwrap_or("").to_owned();
    // "with esmtpsa": s for TLS, a for authenticated.
    mail.tls = received.contains("with esmtps");
    mail.authenticated = received.contains("with esmtpsa");
    mail
}

fn log(dir: &Path) -> String {
    let read = |name| std::fs::read_to_string(dir.join("log").join(name)).unwrap_or_default();
    format!("--- Exim's log:\n{}{}---", read("mainlog"), read("paniclog"))
}

fn configuration(dir: &Path, port: u16, tls_port: u16) -> String {
    let id = |flag| {
        let out = Command::new("id").args([flag]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    let (user, group) = match is_root() {
        true => (NOBODY.to_string(), NOBODY.to_string()),
        false => (id("-u"), id("-g")),
    };
    let dir = dir.display();
    format!(
        r"primary_hostname = localhost
spool_directory = {dir}/spool
log_file_path = {dir}/log/%slog
pid_file_path = {dir}/exim.pid
exim_path = {dir}/exim4
exim_user = {user}
exim_group = {group}
deliver_drop_privilege
never_users =
keep_environment =
host_lookup =
rfc1413_query_timeout = 0s
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port} : {tls_port}
tls_on_connect_ports = {tls_port}
tls_advertise_hosts = *
tls_certificate = {dir}/cert.pem
tls_privatekey = {dir}/key.pem
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
message_size_limit = 1M
smtp_accept_max = 100
domainlist local_domains = example.test
acl_smtp_rcpt = rcpt
acl_smtp_data = data
begin acl
rcpt:
  deny    !authenticated = *
          message = 5.7.1 authenticate first
  defer   local_parts = grey
          message = 4.7.1 greylisted, try later
  deny    local_parts = unknown
          message = 5.1.1 no such user
  accept  domains = +local_domains
  deny    message = 5.7.1 relay not permitted
data:
  deny    condition = ${{if match{{$message_body}}{{EICAR}}}}
          message = 5.7.1 content refused
  accept
begin routers
local:
  driver = accept
  domains = +local_domains
  transport = maildir
begin transports
maildir:
  driver = appendfile
  directory = {dir}/mail
  maildir_format
  create_directory
  envelope_to_add
  return_path_add
  user = {user}
  group = {group}
begin retry
* * F,1h,1m
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{USER}}}}}{{eq{{$auth3}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and{{{{eq{{$auth1}}{{{USER}}}}}{{eq{{$auth2}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth1
"
    )
}
