//! QEMU's monitor (QMP): commands, and the events that say why a machine ended.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::process::Process;
use crate::wait::seconds;

/// A connection to the monitor of one running QEMU.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: UnixStream,
    answers: Receiver<Value>,
    events: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Waits for `qemu` to connect to `listener`, or to end.
    pub(crate) fn accept(listener: &UnixListener, qemu: &mut Process) -> Result<Self> {
        listener.set_nonblocking(true).context("setting up the monitor's socket")?;
        let stream = qemu.wait_ready(|_| match listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("accepting QEMU's monitor"),
        })?;
        stream.set_nonblocking(false).context("setting up the monitor's socket")?;
        let (sender, answers) = mpsc::channel();
        let events = Arc::<Mutex<Vec<Value>>>::default();
        let (input, heard) =
            (BufReader::new(stream.try_clone().context("sharing the monitor's socket")?), events.clone());
        let read = move || {
            for message in
                input.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok())
            {
                if message.get("event").is_some() {
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                } else if message.get("QMP").is_none() && sender.send(message).is_err() {
                    return;
                }
            }
        };
        let reader = Some(thread::Builder::new().name("qmp".into()).spawn(read).context("starting a thread")?);
        let mut monitor = Self { stream, answers, events, reader };
        if let Err(error) = monitor.execute("qmp_capabilities", &json!({})) {
            // It may have found something wrong with its arguments only after it connected: then that is the reason.
            return if qemu.wait(seconds(5)).is_ok() { qemu.wait_ready(|_| Ok(None)) } else { Err(error) };
        }
        Ok(monitor)
    }

    /// Runs a command and returns its answer.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        self.stream.write_all(request.as_bytes()).with_context(|| format!("asking QEMU's monitor for {command}"))?;
        let answer = self.answers.recv_timeout(seconds(30));
        let mut answer = answer.map_err(|_| anyhow!("QEMU's monitor did not answer to {command}"))?;
        if let Some(error) = answer.get("error") {
            bail!("QEMU's monitor refused {command}: {error}");
        }
        Ok(answer.get_mut("return").map(Value::take).unwrap_or_default())
    }

    /// Events so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until QEMU has closed the connection: all its events are there then.
    pub(crate) fn wait_closed(&mut self) {
        if self.reader.take().is_some_and(|reader| reader.join().is_err()) {
            eprintln!("the reader of QEMU's monitor failed");
        }
    }
}
