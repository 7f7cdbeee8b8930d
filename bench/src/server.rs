//! nginx, as it is usually set up, beside the tools: HTTPS with ranges, and an access log that says what was sent.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;

use crate::log::{self, Sent};
use crate::programs;
use crate::stop::{self, Group};

/// The port, in the bench's own network namespace.
pub const PORT: u16 = 8443;
const STATUS: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(20);

/// A running nginx.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: PathBuf,
    _group: Group,
}

/// A place in the access log.
#[derive(Debug, Clone, Copy)]
pub struct Mark(u64);

impl Server {
    /// Serves `root` with the certificate `server.pem` in `tls`; what it writes goes to `dir`. Returns when it serves.
    ///
    /// # Errors
    /// nginx is not installed, or does not start.
    pub fn start(root: &Path, tls: &Path, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("temp")).with_context(|| format!("making {}", dir.display()))?;
        let (log, configuration) = (dir.join("access.log"), dir.join("nginx.conf"));
        fs::write(&log, "").context("emptying the access log")?;
        fs::write(&configuration, text(root, tls)).context("writing nginx.conf")?;
        let nginx = programs::find("nginx").context("finding nginx: run scripts/bench-peers")?;
        let child = Command::new(nginx)
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(configuration)
            .args(["-e", "error.log"])
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting nginx")?;
        let leader = i32::try_from(child.id()).context("a process id that is none")?;
        let mut server = Self { child, log, _group: Group::new(Pid::from_raw(leader)) };
        server.until("nginx serves", |server| {
            if let Some(status) = server.child.try_wait().context("asking for nginx")? {
                let said = fs::read_to_string(dir.join("error.log")).unwrap_or_default();
                bail!("nginx ended with {status}: {}", said.trim());
            }
            Ok(TcpStream::connect(("127.0.0.1", PORT)).is_ok())
        })?;
        Ok(server)
    }

    /// Where the log is now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn mark(&self) -> Result<Mark> {
        Ok(Mark(fs::metadata(&self.log).context("reading the access log's size")?.len()))
    }

    /// What was sent since `mark`, once every connection is closed: an answer is logged at its end.
    ///
    /// # Errors
    /// A connection stays open, or the log cannot be read.
    pub fn sent_since(&mut self, Mark(mark): Mark) -> Result<Sent> {
        self.until("nginx has closed its connections", |_| Ok(connections()? <= 1))?;
        let mut file = fs::File::open(&self.log).context("opening the access log")?;
        file.seek(SeekFrom::Start(mark)).context("reading the access log")?;
        let mut text = String::new();
        file.read_to_string(&mut text).context("reading the access log")?;
        log::sum(&text)
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self)? {
            stop::check()?;
            if Instant::now() > deadline {
                bail!("waited {} s until {what}", PATIENCE.as_secs());
            }
            // Between two looks at the condition.
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The master ends its workers at SIGTERM; the namespace would end all of them too.
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM);
        }
        drop(self.child.wait());
    }
}

/// Connections that are open, this one included.
fn connections() -> Result<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", STATUS)).context("asking nginx for its status")?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").context("asking nginx for its status")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading nginx's status")?;
    let number = answer.lines().find_map(|line| line.strip_prefix("Active connections: "));
    number.and_then(|number| number.trim().parse().ok()).with_context(|| format!("reading nginx's status {answer:?}"))
}

fn text(root: &Path, tls: &Path) -> String {
    format!(
        r#"daemon off;
user root;
worker_processes auto;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 1024; }}
http {{
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path temp;
    proxy_temp_path temp;
    fastcgi_temp_path temp;
    uwsgi_temp_path temp;
    scgi_temp_path temp;
    log_format bench '{}';
    access_log access.log bench;
    ssl_certificate "{}";
    ssl_certificate_key "{}";
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:SSL:10m;
    server {{
        listen {PORT} ssl;
        root "{}";
    }}
    server {{
        listen 127.0.0.1:{STATUS};
        access_log off;
        stub_status;
    }}
}}
"#,
        log::FORMAT,
        tls.join("server.pem").display(),
        tls.join("server.key").display(),
        root.display()
    )
}
