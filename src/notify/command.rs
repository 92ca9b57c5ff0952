//! A program of the user's: argv, the message's JSON on standard input, a time limit (DESIGN §7).
//!
//! No shell reads anything. Which programs may run is the configuration's to say, not the policies': these are edited by many.
//! The environment is a handful of harmless variables, so that no secret of the daemon's reaches it. Its answer is its exit
//! code: 0 delivered; 75 (`EX_TEMPFAIL`) and every code without a meaning of its own: try again; 64 (`EX_USAGE`) and 65
//! (`EX_DATAERR`): never; 77 (`EX_NOPERM`) and 78 (`EX_CONFIG`): a matter of configuration (sysexits.h).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command as Program};

use super::{Delivery, Failure, FailureClass, Message, Notifier, Scope, one_line};

/// What is read of standard error.
const SAID_MAX: u64 = 4_096;
/// Variables that a program finds in its environment, where the daemon has them.
const KEPT: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

/// Why a program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Nobody allowed it.
    #[error(
        "{program} may not be run: name it, or its directory, in command.allow of the configuration; policies are edited by many \
         and must not decide what runs on this machine"
    )]
    NotAllowed {
        /// Its path.
        program: String,
    },
    /// It is not there.
    #[error("{program}: {error}")]
    Missing {
        /// Its path.
        program: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// `argv` is empty.
    #[error("argv names no program")]
    Empty,
}

/// A receiver by a program.
#[derive(Debug)]
pub struct Command {
    program: PathBuf,
    args: Vec<String>,
    timeout: Duration,
}

impl Command {
    /// The program `argv[0]`, which has to be one of `allow` or lie in a directory that is, wherever symbolic links lead.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn new(argv: &[String], timeout_ms: i64, allow: &[PathBuf]) -> Result<Command, CommandError> {
        let (program, args) = argv.split_first().ok_or(CommandError::Empty)?;
        let real = |path: &Path| std::fs::canonicalize(path);
        let path = real(Path::new(program))
            .map_err(|error| CommandError::Missing { program: program.clone(), error })?;
        if !allow.iter().filter_map(|a| real(a).ok()).any(|a| path == a || path.parent() == Some(&a)) {
            return Err(CommandError::NotAllowed { program: program.clone() });
        }
        let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        Ok(Command { program: path, args: args.to_vec(), timeout })
    }

    async fn run(&self, message: &Message) -> Delivery {
        let mut program = Program::new(&self.program);
        program
            .args(&self.args)
            .env_clear()
            .envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("PARCELWATCH_NOTIFICATION_ID", &message.id)
            .env("PARCELWATCH_RECEIVER", &message.receiver)
            .env("PARCELWATCH_REASON", &message.kind)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = match program.spawn() {
            Ok(child) => child,
            Err(error) => {
                let text = format!("{} cannot be started: {error}", self.program.display());
                return Delivery::Failed(Failure::new(FailureClass::Auth, Scope::Receiver, text));
            }
        };
        match tokio::time::timeout(self.timeout, feed(&mut child, message.body.as_bytes())).await {
            Ok(Ok((status, said))) => judge(status.code(), &said),
            Ok(Err(error)) => {
                let text = format!("{}: {error}", self.program.display());
                Delivery::Failed(Failure::new(FailureClass::OutcomeUnknown, Scope::Receiver, text))
            }
            Err(_) => {
                // An error says that it has just ended by itself.
                let _ = child.start_kill();
                let text = format!(
                    "{} was killed: not done in {} s",
                    self.program.display(),
                    self.timeout.as_secs()
                );
                Delivery::Failed(Failure::new(FailureClass::OutcomeUnknown, Scope::Receiver, text))
            }
        }
    }
}

impl Notifier for Command {
    fn deliver<'a>(&'a self, message: &'a Message, _now_ms: i64) -> BoxFuture<'a, Delivery> {
        self.run(message).boxed()
    }

    fn limit(&self) -> Duration {
        self.timeout
    }
}

/// Hands the message over and waits for the end: both at once, since a program may talk before it has read.
async fn feed(child: &mut Child, body: &[u8]) -> std::io::Result<(std::process::ExitStatus, Vec<u8>)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that needs no more of it closes its end; its exit code says whether it was content.
            let _ = stdin.write_all(body).await;
            let _ = stdin.shutdown().await;
        }
    };
    let read = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            let mut stderr = stderr.take(SAID_MAX);
            stderr.read_to_end(&mut said).await?;
            // What follows is read and dropped: a full pipe would make it wait for us.
            tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await?;
        }
        std::io::Result::Ok(said)
    };
    let ((), said) = tokio::join!(write, read);
    Ok((child.wait().await?, said?))
}

fn judge(code: Option<i32>, said: &[u8]) -> Delivery {
    let said = one_line(&String::from_utf8_lossy(said));
    let text =
        |how: &str| format!("the program ended {how}{}{said}", if said.is_empty() { "" } else { ": " });
    let (class, scope) = match code {
        Some(0) => return Delivery::Delivered,
        Some(64 | 65) => (FailureClass::Permanent, Scope::Message),
        Some(77 | 78) => (FailureClass::Auth, Scope::Receiver),
        Some(_) => (FailureClass::Transient, Scope::Receiver),
        None => (FailureClass::OutcomeUnknown, Scope::Receiver),
    };
    let how = code.map_or_else(|| "by a signal".to_owned(), |c| format!("with {c}"));
    Delivery::Failed(Failure::new(class, scope, text(&how)))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
