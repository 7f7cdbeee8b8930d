//! Makes payloads: frames compressed in parallel, written in order.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use sha2::{Digest as _, Sha256};
use zstd::bulk::Compressor;

use crate::digest::Digest;
use crate::manifest::Payload;
use crate::payload::PayloadError;
use crate::seek_table::{self, MAX_FRAME_CONTENT};
use crate::verity::BLOCK;

/// Threads that compress by default at most: at level 12, frames of 2 MiB take up to 30 MiB a thread, most of it zstd's
/// tables, and all of it is to stay below 512 MiB.
pub const MOST_THREADS: NonZeroUsize = match NonZeroUsize::new(12) {
    Some(threads) => threads,
    None => NonZeroUsize::MIN,
};

/// How to compress. The result depends on `level` and `frame_size`, and not on `threads`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressOptions {
    /// zstd's level, 1 to 19.
    pub level: i32,
    /// Bytes of content in a frame: whole blocks, at most [`MAX_FRAME_CONTENT`].
    pub frame_size: u64,
    /// Threads that compress.
    pub threads: NonZeroUsize,
}

impl Default for CompressOptions {
    /// Level 12, 2 MiB (a smaller frame costs more than 8% over a single one), one thread a processor up to
    /// [`MOST_THREADS`].
    fn default() -> Self {
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { level: 12, frame_size: 2 << 20, threads: threads.min(MOST_THREADS) }
    }
}

/// The smallest frame size from `wanted` on, doubled as often as needed, with which the seek table over `content_size`
/// bytes stays small enough, in bytes.
#[must_use]
pub fn least_frame_size(content_size: u64, wanted: u64) -> u64 {
    let mut size = wanted;
    while size < MAX_FRAME_CONTENT && content_size / size.max(1) >= seek_table::MOST_FRAMES {
        size = size.saturating_mul(2);
    }
    size.min(MAX_FRAME_CONTENT)
}

/// The content of one frame, and where its compressed bytes are to be sent.
type Job = (Vec<u8>, SyncSender<Result<Vec<u8>, PayloadError>>);
/// A frame under way: bytes of its content, and where its compressed bytes will come from.
type Pending = (usize, Receiver<Result<Vec<u8>, PayloadError>>);

/// Compresses `input`, which must be whole blocks, into a payload at `output`. `progress` is told the bytes of
/// content done so far. Equal input and options give equal bytes.
///
/// # Errors
/// When reading or writing fails, or when the content or the options do not fit the format.
pub fn compress(
    input: &mut dyn Read,
    output: &mut dyn Write,
    options: &CompressOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Payload, PayloadError> {
    let size = options.frame_size;
    if size == 0 || !size.is_multiple_of(BLOCK) || size > MAX_FRAME_CONTENT {
        return Err(PayloadError::FrameOption(size));
    }
    thread::scope(|scope| {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..options.threads.get() {
            let queue = Arc::clone(&queue);
            scope.spawn(move || work(&queue, options.level));
        }
        let mut writer = PayloadWriter::new(output, progress);
        // A frame waits for each thread, so that none idles while the one at the head is written; memory stays bounded.
        feed(input, &jobs, size, options.threads.get().saturating_mul(2), &mut writer)?;
        drop(jobs);
        writer.finish()
    })
}

/// Reads frames, hands them to the threads and takes the results in order.
fn feed(
    input: &mut dyn Read,
    jobs: &Sender<Job>,
    frame_size: u64,
    most_pending: usize,
    writer: &mut PayloadWriter<'_>,
) -> Result<(), PayloadError> {
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let mut total = 0_u64;
    loop {
        let mut content = Vec::new();
        let read = Read::take(&mut *input, frame_size).read_to_end(&mut content).map_err(PayloadError::Read)?;
        total = total.saturating_add(read as u64);
        if !total.is_multiple_of(BLOCK) {
            return Err(PayloadError::NotBlocks(total));
        }
        if read > 0 {
            let (sender, receiver) = sync_channel(1);
            jobs.send((content, sender)).map_err(|_| worker_lost())?;
            pending.push_back((read, receiver));
        }
        while pending.len() >= most_pending || (read == 0 && !pending.is_empty()) {
            if let Some((content_size, receiver)) = pending.pop_front() {
                writer.add(&receiver.recv().map_err(|_| worker_lost())??, content_size)?;
            }
        }
        if read == 0 {
            return Ok(());
        }
    }
}

fn worker_lost() -> PayloadError {
    PayloadError::Compress("a compressing thread ended early".to_owned())
}

/// A compressing thread: until the queue is closed.
fn work(queue: &Mutex<Receiver<Job>>, level: i32) {
    let mut compressor = Compressor::new(level);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((content, sender)) = job else { return };
        let result = match &mut compressor {
            Ok(compressor) => compressor.compress(&content).map_err(|error| PayloadError::Compress(error.to_string())),
            Err(error) => Err(PayloadError::Compress(error.to_string())),
        };
        // A closed channel means that the reader gave up: nobody waits for this frame.
        if sender.send(result).is_err() {
            return;
        }
    }
}

/// Writes frames in order and keeps what the seek table and the manifest will say.
struct PayloadWriter<'a> {
    output: &'a mut dyn Write,
    progress: &'a mut dyn FnMut(u64),
    hasher: Sha256,
    frames: Vec<[u32; 2]>,
    size: u64,
    content_size: u64,
}

impl<'a> PayloadWriter<'a> {
    fn new(output: &'a mut dyn Write, progress: &'a mut dyn FnMut(u64)) -> Self {
        Self { output, progress, hasher: Sha256::new(), frames: Vec::new(), size: 0, content_size: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PayloadError> {
        self.hasher.update(bytes);
        self.size = self.size.saturating_add(bytes.len() as u64);
        self.output.write_all(bytes).map_err(PayloadError::Write)
    }

    fn add(&mut self, frame: &[u8], content_size: usize) -> Result<(), PayloadError> {
        let (Ok(size), Ok(content)) = (u32::try_from(frame.len()), u32::try_from(content_size)) else {
            return Err(PayloadError::FrameOption(content_size as u64));
        };
        self.frames.push([size, content]);
        self.write(frame)?;
        self.content_size = self.content_size.saturating_add(u64::from(content));
        (self.progress)(self.content_size);
        Ok(())
    }

    fn finish(mut self) -> Result<Payload, PayloadError> {
        if self.frames.is_empty() {
            return Err(PayloadError::NotBlocks(0));
        }
        let table = seek_table::encode(&self.frames)?;
        self.write(&table)?;
        self.output.flush().map_err(PayloadError::Write)?;
        Ok(Payload {
            sha256: Digest(self.hasher.finalize().into()),
            size: self.size,
            content_size: self.content_size,
            seek_table_size: table.len() as u64,
            seek_table_sha256: Digest::of(&table),
        })
    }
}
