//! A TPM 2.0 to which commands are sent as bytes (TCG, "Trusted Platform Module Library", part 3). Sealing and attesting take
//! commands that tpm2-tss is not linked for: it would weigh a hundred kilobytes more than this.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};

use anyhow::{Context as _, Result, bail};
use zeroize::Zeroizing;

use super::spent::Spending;

/// The kernel's device with the resource manager: another connection beside that of tpm2-tss.
const DEVICE: &str = "/dev/tpmrm0";
/// No answer is longer (`TPM_BUFSIZE` of the kernel's drivers/char/tpm/tpm.h).
const MOST: usize = 4096;
/// `TPM_ST_NO_SESSIONS` and `TPM_ST_SESSIONS`.
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// Tag, length and code of a command or an answer.
const HEADER: usize = 10;
/// Nonce, attributes and HMAC of an authorisation: none. A policy session without `continueSession` ends with the command.
const EMPTY: [u8; 5] = [0; 5];
/// The bytes of one: its session before that.
const AUTHORISATION: usize = 9;

/// `TPM_RC_YIELDED`, `TPM_RC_TESTING` and `TPM_RC_RETRY`: the command was not begun, and may be sent again. The kernel does so by
/// itself for a while; a software TPM's socket does not.
const NOT_BEGUN: [u32; 3] = [0x908, 0x90a, 0x922];
/// A command is sent so often.
const ATTEMPTS: usize = 5;

/// `TPM_RS_PW`: authorisation by a value, which here is empty.
pub(super) const PASSWORD: u32 = 0x4000_0009;

/// What commands are written to and answers read from: the kernel's device, or the socket of a software TPM.
pub trait Device: Read + Write + Send {}

impl<T: Read + Write + Send> Device for T {}

/// The TPM.
pub struct Direct(Box<dyn Device>);

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Direct")
    }
}

/// One command.
#[derive(Debug)]
pub(super) struct Command<'a> {
    /// Its name, for messages.
    pub what: &'static str,
    /// `TPM_CC`.
    pub code: u32,
    /// What it works on.
    pub handles: &'a [u32],
    /// What authorises the use of the first handles, one for each.
    pub by: &'a [u32],
    /// What comes behind.
    pub parameters: &'a [u8],
}

/// The machine's TPM 2.0; `None` where the kernel has none.
///
/// # Errors
/// The device cannot be opened.
pub fn open() -> Result<Option<Direct>> {
    match File::options().read(true).write(true).open(DEVICE) {
        Ok(device) => Ok(Some(Direct::new(Box::new(device)))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("opening {DEVICE}")),
    }
}

impl Direct {
    /// The TPM behind `device`.
    #[must_use]
    pub fn new(device: Box<dyn Device>) -> Self {
        Self(device)
    }

    /// Runs a command that gives no handle: the parameters of its answer.
    ///
    /// # Errors
    /// The device's; the TPM's answer.
    pub(super) fn run(&mut self, command: &Command<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let answer = self.send(command)?;
        parameters(command, &answer)
    }

    /// Runs a command that gives a handle: the handle, and the parameters of its answer.
    ///
    /// # Errors
    /// The device's; the TPM's answer.
    pub(super) fn run_for_handle(&mut self, command: &Command<'_>) -> Result<(u32, Zeroizing<Vec<u8>>)> {
        let answer = self.send(command)?;
        let (handle, rest) = answer.split_first_chunk::<4>().with_context(|| format!("{} gave none", command.what))?;
        Ok((u32::from_be_bytes(*handle), parameters(command, rest)?))
    }

    /// Sends a command: its answer behind the header.
    fn send(&mut self, command: &Command<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let (what, bytes) = (command.what, bytes(command)?);
        let _spending = Spending::start();
        for attempt in 1.. {
            self.0.write_all(&bytes).with_context(|| format!("sending {what} to the TPM"))?;
            let answer = self.receive().with_context(|| format!("reading the TPM's answer to {what}"))?;
            let (header, rest) = answer.split_at_checked(HEADER).with_context(|| format!("{what} got no answer"))?;
            match header.last_chunk::<4>().copied().map(u32::from_be_bytes).unwrap_or_default() {
                0 => return Ok(Zeroizing::new(rest.to_vec())),
                code if NOT_BEGUN.contains(&code) && attempt < ATTEMPTS => {}
                code => bail!("the TPM answered {what} with error {code:#05x}{}", meaning(code)),
            }
        }
        bail!("the TPM does not begin {what}")
    }

    /// Reads a whole answer, which a socket may give in pieces.
    fn receive(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut answer = Zeroizing::new(vec![0; MOST]);
        let mut length = 0_usize;
        loop {
            let free = answer.get_mut(length..).unwrap_or_default();
            let read = self.0.read(free)?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            length = length.saturating_add(read);
            let said = answer.get(2..6).filter(|_| length >= HEADER).and_then(|size| size.first_chunk());
            let said = said.copied().map(u32::from_be_bytes).and_then(|size| usize::try_from(size).ok());
            if said.is_some_and(|said| length >= said) {
                answer.truncate(length);
                return Ok(answer);
            }
        }
    }
}

/// What a person should know of an error that is about the TPM, and not about the command (part 2, section 6.6).
pub(super) fn meaning(code: u32) -> &'static str {
    match code {
        0x101 => ": it is in failure mode, which only a restart of the machine may end",
        0x921 => ": it is in lockout, after too many wrong authorisations",
        _ => "",
    }
}

/// A command as it is sent.
fn bytes(command: &Command<'_>) -> Result<Zeroizing<Vec<u8>>> {
    let mut body = Zeroizing::new(Vec::with_capacity(MOST));
    body.extend(command.code.to_be_bytes());
    body.extend(command.handles.iter().copied().flat_map(u32::to_be_bytes));
    let mut sessions = Vec::with_capacity(2 * AUTHORISATION);
    for session in command.by {
        sessions.extend(session.to_be_bytes());
        sessions.extend(EMPTY);
    }
    let (mut tag, length) = (NO_SESSIONS, u32::try_from(sessions.len())?);
    if length > 0 {
        tag = SESSIONS;
        body.extend(length.to_be_bytes());
        body.extend(sessions);
    }
    body.extend_from_slice(command.parameters);
    let length = u32::try_from(body.len().saturating_add(6))?;
    Ok(Zeroizing::new([&tag.to_be_bytes()[..], &length.to_be_bytes(), body.as_slice()].concat()))
}

/// The parameters in an answer behind its handle. Behind those of an authorised command stands what the session says.
fn parameters(command: &Command<'_>, rest: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    if command.by.is_empty() {
        return Ok(Zeroizing::new(rest.to_vec()));
    }
    let parameters = rest.split_first_chunk::<4>().and_then(|(length, rest)| {
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        rest.get(..length)
    });
    let parameters = parameters.with_context(|| format!("the TPM's answer to {} is too short", command.what))?;
    Ok(Zeroizing::new(parameters.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Answers in pieces of three bytes.
    struct Scripted {
        sent: Arc<Mutex<Vec<u8>>>,
        answers: Vec<Cursor<Vec<u8>>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.sent.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Scripted {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(3);
            let next = self.answers.iter_mut().find(|answer| answer.position() < answer.get_ref().len() as u64);
            next.map_or(Ok(0), |answer| answer.read(&mut buffer[..most]))
        }
    }

    fn tpm(answer: &[u8]) -> (Direct, Arc<Mutex<Vec<u8>>>) {
        answering(&[answer])
    }

    fn answering(answers: &[&[u8]]) -> (Direct, Arc<Mutex<Vec<u8>>>) {
        let sent = Arc::<Mutex<Vec<u8>>>::default();
        let answers = answers.iter().map(|answer| Cursor::new(answer.to_vec())).collect();
        (Direct::new(Box::new(Scripted { sent: Arc::clone(&sent), answers })), sent)
    }

    const AUTHORISED: Command<'_> =
        Command { what: "TPM2_Load", code: 0x157, handles: &[0x8000_0000], by: &[PASSWORD], parameters: &[1, 2] };

    #[test]
    fn commands_and_answers_are_as_the_library_says() {
        let answer = [&[0x80, 0x02, 0, 0, 0, 25, 0, 0, 0, 0][..], &[0x80, 0, 0, 1, 0, 0, 0, 2, 7, 8], &[0, 0, 1, 0, 0]];
        let (mut tpm, sent) = tpm(&answer.concat());
        let (handle, parameters) = tpm.run_for_handle(&AUTHORISED).unwrap();
        assert_eq!((handle, parameters.as_slice()), (0x8000_0001, &[7, 8][..]));
        let expected = [
            &[0x80, 0x02, 0, 0, 0, 29, 0, 0, 0x01, 0x57, 0x80, 0, 0, 0][..],
            &[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0],
            &[1, 2],
        ];
        assert_eq!(*sent.lock().unwrap(), expected.concat());
    }

    #[test]
    fn each_handle_has_an_authorisation_of_its_own() {
        let (mut tpm, sent) = tpm(&[0x80, 0x02, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 0]);
        let (what, code) = ("TPM2_ActivateCredential", 0x147);
        let (handles, by) = (&[0x8000_0001_u32, 0x8000_0000], &[PASSWORD, 0x0300_0000]);
        assert_eq!(tpm.run(&Command { what, code, handles, by, parameters: &[1] }).unwrap().as_slice(), [0_u8; 0]);
        let expected = [
            &[0x80, 0x02, 0, 0, 0, 41, 0, 0, 0x01, 0x47, 0x80, 0, 0, 1, 0x80, 0, 0, 0][..],
            &[0, 0, 0, 18, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, 0x03, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1],
        ];
        assert_eq!(*sent.lock().unwrap(), expected.concat());
    }

    #[test]
    fn a_command_that_was_not_begun_is_sent_again_and_not_for_ever() {
        let not_begun = &[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0x22][..];
        let done = [&[0x80, 0x02, 0, 0, 0, 16, 0, 0, 0, 0][..], &[0, 0, 0, 2, 7, 8]].concat();
        let run = |refusals: usize| {
            let answers: Vec<&[u8]> = std::iter::repeat_n(not_begun, refusals).chain([done.as_slice()]).collect();
            let (mut tpm, sent) = answering(&answers);
            let answer = tpm.run(&AUTHORISED).map(|answer| answer.to_vec()).map_err(|error| format!("{error:#}"));
            let times = sent.lock().unwrap().len() / 29;
            (answer, times)
        };
        assert_eq!(run(0), (Ok(vec![7, 8]), 1));
        assert_eq!(run(ATTEMPTS - 1), (Ok(vec![7, 8]), ATTEMPTS));
        assert_eq!(run(ATTEMPTS), (Err("the TPM answered TPM2_Load with error 0x922".to_owned()), ATTEMPTS));
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        let refusal = |answer: &[u8]| format!("{:#}", tpm(answer).0.run(&AUTHORISED).unwrap_err());
        let error = refusal(&[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0xdf]);
        assert_eq!(error, "the TPM answered TPM2_Load with error 0x1df");
        assert_eq!(refusal(&[0x80, 0x02, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0]), "the TPM's answer to TPM2_Load is too short");
        let error = refusal(&[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01]);
        let text = "the TPM answered TPM2_Load with error 0x101: it is in failure mode, which only a restart of the machine may end";
        assert_eq!(error, text);
        let error = refusal(&[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0x21]);
        let text = "the TPM answered TPM2_Load with error 0x921: it is in lockout, after too many wrong authorisations";
        assert_eq!(error, text);
        for cut in [&[][..], &[0x80, 0x02, 0, 0], &[0x80, 0x02, 0, 0, 0, 99, 0, 0, 0, 0]] {
            assert_eq!(refusal(cut), "reading the TPM's answer to TPM2_Load: unexpected end of file");
        }
        // As long as no answer may be.
        let long = [&[0x80, 0x02, 0xff, 0xff, 0xff, 0xff][..], &[0; MOST]].concat();
        assert_eq!(refusal(&long), "reading the TPM's answer to TPM2_Load: unexpected end of file");
    }
}
