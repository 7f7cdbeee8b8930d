//! Asks time servers what time it is (SNTP, RFC 4330 and RFC 5905 section 14). Nothing proves what they answer:
//! [`clock::evidence`](crate::clock::evidence) says what of it is believed.

pub mod packet;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use packet::Problem;

/// The port of time servers.
pub const PORT: u16 = 123;
/// Most servers that are asked at once.
pub const MOST: usize = 8;
/// The largest datagram that is looked at; extensions behind the packet do not count.
const DATAGRAM: usize = 1024;

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the first answer.
    pub first: Duration,
    /// For the others, once there is one.
    pub more: Duration,
    /// Before the first question to a server is repeated; doubles from then on.
    pub again: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first: Duration::from_secs(4), more: Duration::from_secs(1), again: Duration::from_secs(1) }
    }
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Which one.
    pub server: SocketAddr,
    /// The time by it when [`ask`] returned, in seconds since 1970; or why it said none.
    pub said: Result<i64, String>,
}

/// A time in milliseconds since 1970, and when it was.
#[derive(Debug, Clone, Copy)]
struct Answer {
    time: i64,
    at: Instant,
}

impl Answer {
    /// Seconds since 1970 by it now, rounded.
    fn now(&self) -> i64 {
        let since = i64::try_from(self.at.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.time.saturating_add(since).saturating_add(500).div_euclid(1000)
    }
}

/// Asks all of `servers` at once, each until it has answered or the patience is over: bounded, whatever they do. `near`
/// (seconds since 1970) says which of the times is meant that a packet may mean.
pub async fn ask(servers: &[SocketAddr], near: i64, patience: Patience) -> Vec<Heard> {
    let mut asking = JoinSet::new();
    for server in servers.iter().copied() {
        asking.spawn(async move { (server, ask_one(server, near, patience.again).await) });
    }
    let mut answers = HashMap::new();
    let mut deadline = Instant::now() + patience.first;
    while let Ok(Some(done)) = timeout_at(deadline, asking.join_next()).await {
        // One that panicked has not answered.
        let Ok((server, answer)) = done else { continue };
        if answer.is_ok() {
            deadline = deadline.min(Instant::now() + patience.more);
        }
        answers.insert(server, answer);
    }
    let said = |server: &SocketAddr| match answers.get(server) {
        Some(Ok(answer)) => Ok(answer.now()),
        Some(Err(error)) => Err(format!("{error:#}")),
        None => Err("no answer".to_owned()),
    };
    servers.iter().map(|server| Heard { server: *server, said: said(server) }).collect()
}

/// Asks one server again and again, until it answers or cannot be asked.
async fn ask_one(server: SocketAddr, near: i64, mut again: Duration) -> Result<Answer> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.context("opening a socket")?;
    // The kernel drops what comes from anybody else, and tells of a port that nobody listens at.
    socket.connect(server).await.context("finding a route")?;
    loop {
        let mark = mark()?;
        let asked = Instant::now();
        socket.send(&packet::question(mark)).await.context("asking")?;
        if let Ok(answer) = timeout(again, hear(&socket, mark, near, asked)).await {
            return answer;
        }
        again = again.saturating_mul(2);
    }
}

/// The answer to the question with `mark`. Whatever else comes is passed over.
async fn hear(socket: &UdpSocket, mark: u64, near: i64, asked: Instant) -> Result<Answer> {
    let mut datagram = [0; DATAGRAM];
    loop {
        let length = socket.recv(&mut datagram).await.context("waiting for an answer")?;
        let at = Instant::now();
        match packet::read(datagram.get(..length).unwrap_or_default(), mark, near) {
            Err(Problem::NotOurs) => {}
            Err(problem) => return Err(problem.into()),
            Ok(sent) => {
                // The answer was on its way for half of the time; that a way back is longer than the way there is not seen.
                let underway = i64::try_from(at.duration_since(asked).as_millis() / 2).unwrap_or(i64::MAX);
                return Ok(Answer { time: sent.saturating_add(underway), at });
            }
        }
    }
}

/// A random number that nobody off the path can guess.
fn mark() -> Result<u64> {
    let mut bytes = [0; 8];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| anyhow!("no random numbers for a question"))?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
pub(crate) mod tests;
