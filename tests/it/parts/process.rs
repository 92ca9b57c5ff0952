//! Child processes that cannot outlive the tests, their output line by line, and free ports.

use super::{Caught, lock};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// A port of 127.0.0.1 that nobody holds. Below 32768, where no outgoing connection can take it in the meantime, and never
/// twice in one process, so that a server can be killed and come back to its own.
pub fn free_port() -> u16 {
    static GIVEN: OnceLock<Mutex<HashSet<u16>>> = OnceLock::new();
    loop {
        let mut random = [0; 2];
        getrandom::fill(&mut random).unwrap();
        let port = 10_000 + u16::from_le_bytes(random) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && lock(GIVEN.get_or_init(Mutex::default)).insert(port)
        {
            return port;
        }
    }
}

/// Starts a child that the kernel kills when this process ends, however it ends.
///
/// The kernel sends that signal when the *thread* that made the child ends, and every test is a thread: so one thread that
/// lives as long as the process makes all of them.
fn spawn(mut command: Command) -> std::io::Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, taken) = channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, answer) in taken {
                    let _ = answer.send(command.spawn());
                }
            })
            .unwrap();
        orders
    });
    // SAFETY: between fork and exec only prctl is called, which is safe there.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let (answer, child) = channel();
    spawner.send((command, answer)).expect("the spawner lives as long as the process");
    child.recv().expect("the spawner answers every order")
}

/// A running program with everything it printed. Killed and waited for when dropped.
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    output: Arc<Caught<String>>,
}

impl Process {
    /// Standard output and standard error are read as one stream of lines.
    pub fn start(name: &str, mut command: Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = format!("{command:?}");
        let mut child = spawn(command).unwrap_or_else(|e| panic!("{name} does not start: {e}\n{shown}"));
        let output = Arc::new(Caught::default());
        follow(child.stdout.take().unwrap(), output.clone());
        follow(child.stderr.take().unwrap(), output.clone());
        Process { name: name.into(), child, ended: None, output }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: i32) {
        if self.ended.is_none() {
            // SAFETY: kill takes two integers; the child is not yet waited for, so its pid is still its own.
            unsafe { libc::kill(self.pid(), signal) };
        }
    }

    /// The exit status, where it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.ended = self.ended.or_else(|| self.child.try_wait().unwrap());
        self.ended
    }

    /// Waits for the end; a program that does not end is killed, and the test fails.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let end = Instant::now() + within;
        while self.ended().is_none() {
            if Instant::now() > end {
                self.kill();
                panic!("{} did not end within {within:?}\n{}", self.name, self.tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.ended.unwrap()
    }

    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait(within)
    }

    /// SIGKILL, which a stopped process obeys too, and wait.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    pub fn lines(&self) -> Vec<String> {
        self.output.all()
    }

    /// Waits for a line for which `pick` has an answer, among all printed so far and those to come.
    pub fn wait_line<R>(
        &mut self,
        what: &str,
        within: Duration,
        mut pick: impl FnMut(&str) -> Option<R>,
    ) -> R {
        let end = Instant::now() + within;
        loop {
            // In slices, to see a program that ended and so will never print it.
            let ended = self.ended();
            let slice = Duration::from_millis(200).min(end.saturating_duration_since(Instant::now()));
            if let Some(found) = self.output.wait(slice, |lines| lines.iter().find_map(|l| pick(l))) {
                return found;
            }
            if let Some(status) = ended {
                panic!("{} ended ({}) before {what}\n{}", self.name, describe(status), self.tail());
            }
            if Instant::now() >= end {
                panic!("waited {within:?} in vain for {what} from {}\n{}", self.name, self.tail());
            }
        }
    }

    /// The last lines printed, for the message of a failure.
    pub fn tail(&self) -> String {
        let lines = self.output.all();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("--- the last {} lines of {}:\n{}\n---", tail.len(), self.name, tail.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit {code}"),
        None => format!("signal {}", status.signal().unwrap_or(0)),
    }
}

fn follow(stream: impl Read + Send + 'static, output: Arc<Caught<String>>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            output.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    });
}
