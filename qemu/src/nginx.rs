//! The web server of a lab: the netboot file over HTTP, the repository over HTTPS with ranges, and a place for reports.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::certificates::Issued;
use crate::endpoint::Endpoint;
use crate::lab::{GATEWAY, GATEWAY_V6, netboot_port};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::tool;

/// One request that the server answered.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Request {
    /// When the answer was complete, in seconds since 1970.
    pub time: f64,
    /// Who asked.
    pub client: String,
    /// `GET`, `HEAD`, `POST`.
    pub method: String,
    /// The path, decoded.
    pub path: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// Bytes of the answer's body that were sent.
    pub bytes: u64,
    /// The request's `Range` header, empty without one.
    pub range: String,
    /// `https` or `http`.
    pub scheme: String,
}

/// A running nginx with everything it needs in one directory.
#[derive(Debug)]
pub(crate) struct WebServer {
    dir: PathBuf,
    process: Process,
}

impl WebServer {
    /// Starts it in `dir`, at `endpoint` with `certificate` for HTTPS; returns when it serves.
    pub(crate) fn start(namespace: &Namespace, dir: &Path, endpoint: &Endpoint, certificate: &Issued) -> Result<Self> {
        for part in ["netboot", "reports", "temp"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
        }
        fs::write(dir.join("nginx.conf"), configuration(endpoint, certificate)).context("writing nginx.conf")?;
        // Left by a run before in the same directory, or by the server that this one replaces.
        let pid = dir.join("nginx.pid");
        if pid.exists() {
            fs::remove_file(&pid).context("removing nginx.pid")?;
        }
        let log = dir.join("error.log");
        let mut command = namespace.command(tool::find("nginx")?);
        command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).arg("-e").arg(&log);
        let mut process = Process::start("nginx", command, &log)?;
        // nginx writes it after it has opened its sockets.
        process.wait_ready(|_| Ok(pid.exists().then_some(())))?;
        Ok(Self { dir: dir.to_owned(), process })
    }

    /// Stops it.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Serves the file `from` at `/netboot.efi` over HTTP, from the next request on.
    pub(crate) fn serve_netboot(&self, from: &Path) -> Result<()> {
        link(from, &self.dir.join("netboot/netboot.efi"))
    }

    /// Serves the directory `from` at `/` over HTTPS, from the next request on.
    pub(crate) fn serve_repository(&self, from: &Path) -> Result<()> {
        link(from, &self.dir.join("repository"))
    }

    /// All requests answered so far, in the order of their ends.
    pub(crate) fn requests(&self) -> Result<Vec<Request>> {
        let log = self.dir.join("requests.jsonl");
        let text = fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
        complete_lines(&text)
            .map(|line| serde_json::from_str(line).context("parsing a request of nginx's log"))
            .collect()
    }

    /// The JSON lines that were posted to `/report`, in the order of the posts' ends.
    pub(crate) fn reports(&self) -> Result<Vec<Value>> {
        let log = self.dir.join("reports.log");
        let names = fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
        let mut reports = Vec::new();
        for name in complete_lines(&names) {
            let body = fs::read_to_string(name).with_context(|| format!("reading the report {name}"))?;
            for line in body.lines().filter(|line| !line.trim().is_empty()) {
                reports.push(serde_json::from_str(line).with_context(|| format!("parsing the report {name}"))?);
            }
        }
        Ok(reports)
    }
}

/// Lines that are written to their end.
fn complete_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

/// Makes `at` a link to `target`, replacing one that is there in one step.
fn link(target: &Path, at: &Path) -> Result<()> {
    let target = fs::canonicalize(target).with_context(|| format!("serving {}", target.display()))?;
    let new = at.with_extension("new");
    symlink(&target, &new).with_context(|| format!("linking to {}", target.display()))?;
    fs::rename(&new, at).with_context(|| format!("linking to {}", target.display()))
}

/// One process (no worker: changing to its user would need more ids than a user namespace with one has), as the root of
/// the namespace, which is whoever runs this. A posted report
/// is kept by nginx as a file; passing the request on to itself is what makes nginx read the body.
fn configuration(endpoint: &Endpoint, Issued { certificate, key }: &Issued) -> String {
    let (port, path, netboot_port) = (endpoint.port, &endpoint.path, netboot_port(endpoint));
    let mut addresses = vec![GATEWAY.to_owned(), format!("[{GATEWAY_V6}]")];
    addresses.extend(endpoint.address().map(|address| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }));
    addresses.sort();
    addresses.dedup();
    let listen: String = addresses.iter().map(|address| format!("        listen {address}:{port} ssl;\n")).collect();
    format!(
        r#"daemon off;
user root;
master_process off;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 1024; }}
http {{
    types {{ application/json json; application/efi efi; }}
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path reports;
    proxy_temp_path temp;
    fastcgi_temp_path temp;
    uwsgi_temp_path temp;
    scgi_temp_path temp;
    map $status $accepted {{ 204 1; default 0; }}
    log_format request escape=json '{{"time":$msec,"client":"$remote_addr","method":"$request_method","path":"$uri",'
        '"status":$status,"bytes":$body_bytes_sent,"range":"$http_range","scheme":"$scheme"}}';
    log_format report escape=none '$request_body_file';
    access_log requests.jsonl request;
    server {{
        listen {GATEWAY}:{netboot_port};
        listen [{GATEWAY_V6}]:{netboot_port};
        location / {{ root netboot; }}
    }}
    server {{
{listen}        ssl_certificate {};
        ssl_certificate_key {};
        ssl_protocols TLSv1.2 TLSv1.3;
        location {path}/ {{ alias repository/; }}
        location = /report {{
            limit_except POST {{ deny all; }}
            client_max_body_size 64m;
            client_body_in_file_only on;
            proxy_pass http://127.0.0.1:8001;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            access_log requests.jsonl request;
            access_log reports.log report if=$accepted;
        }}
    }}
    server {{
        listen 127.0.0.1:8001;
        access_log off;
        return 204;
    }}
}}
"#,
        quoted(certificate),
        quoted(key)
    )
}

/// A path as a value of nginx's configuration.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}
