//! Which part of a file an answer brings (RFC 9110 section 14), and whether it is still the same file.
//!
//! Validators only save what would be fetched in vain: whatever comes is checked by whoever receives it. So servers behind one
//! name that have several for the same bytes cost a request, and no more.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use hyper::StatusCode;
use hyper::header::{CONTENT_RANGE, DATE, ETAG, HeaderValue, LAST_MODIFIED};
use url::Url;

use crate::http::{Answer, parse_date};

/// The most files whose versions are known: redirects may lead to a new URL each time.
const MOST: usize = 1024;
/// Between the last change of a file and an answer, in seconds, so that no second change can hide in the same second even
/// where two clocks made the dates (RFC 9110 section 8.8.2.2 leaves the number open; RFC 7232 had 60).
const APART: i64 = 60;

/// What a file was when its first bytes came.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    /// A strong validator: an `ETag`, or else a `Last-Modified`. None from when another one came with the same length on: then
    /// they say nothing of the bytes.
    validator: Option<HeaderValue>,
    /// Its length.
    total: Option<u64>,
}

/// What an answer is to a request that named a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// What was asked for.
    Asked,
    /// The whole file in place of the part, for the version that was named: the part is to be asked for without one, and is
    /// never answered so then.
    Whole,
}

/// The versions of files seen so far, by the URL that sent them. Clones know the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions(Arc<Mutex<HashMap<Url, Version>>>);

impl Versions {
    /// What to send as `If-Range` with a request for a part of the file at `url`.
    pub fn if_range(&self, url: &Url) -> Option<HeaderValue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(url)?.validator.clone()
    }

    /// Looks at an answer from `url` to a request with `if_range`: the first one says how long the file is, and what the next
    /// requests name. Where another answer has a validator of its own, none is named any more.
    ///
    /// # Errors
    /// When it is of a file of another length.
    pub fn check(&self, url: &Url, answer: &Answer, if_range: Option<&HeaderValue>) -> Result<Sent> {
        let now = Version { validator: validator(answer), total: total(answer) };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        let before = known.entry(url.clone()).or_insert_with(|| now.clone());
        if before.total.zip(now.total).is_some_and(|(before, now)| before != now) {
            bail!("the file changed while it was fetched");
        }
        // A server that ignores ranges answers with the whole of the same version.
        let refused =
            answer.status == StatusCode::OK && if_range.is_some_and(|sent| Some(sent) != now.validator.as_ref());
        let differ = |(before, now): (&HeaderValue, &HeaderValue)| before != now && is_tag(before) == is_tag(now);
        let other = before.validator.as_ref().zip(now.validator.as_ref()).is_some_and(differ);
        if refused || other {
            before.validator = None;
        }
        Ok(if refused { Sent::Whole } else { Sent::Asked })
    }
}

/// A validator that `If-Range` may have (RFC 9110 section 13.1.5): a strong one.
fn validator(answer: &Answer) -> Option<HeaderValue> {
    if let Some(tag) = answer.headers.get(ETAG).filter(|tag| is_tag(tag)) {
        return Some(tag.clone());
    }
    let date = |name| parse_date(answer.header(&name)?);
    let apart = date(DATE)?.saturating_sub(date(LAST_MODIFIED)?);
    answer.headers.get(LAST_MODIFIED).filter(|_| apart >= APART).cloned()
}

/// Whether it is a strong `ETag`: the weak ones begin with `W/`, and dates with a letter.
fn is_tag(validator: &HeaderValue) -> bool {
    validator.as_bytes().starts_with(b"\"")
}

/// The length of the whole file, where the answer says it.
fn total(answer: &Answer) -> Option<u64> {
    match answer.status {
        StatusCode::OK => answer.length(),
        StatusCode::RANGE_NOT_SATISFIABLE => length_beside(answer),
        _ => parse_content_range(answer.header(&CONTENT_RANGE)?)?.total,
    }
}

/// The length of a file that ends before the range that was asked for (RFC 9110 section 15.5.17).
pub(crate) fn length_beside(answer: &Answer) -> Option<u64> {
    let range = answer.header(&CONTENT_RANGE).filter(|_| answer.status == StatusCode::RANGE_NOT_SATISFIABLE)?;
    range.strip_prefix("bytes */")?.parse().ok()
}

/// Bytes to skip at the start of the answer's body.
///
/// # Errors
/// When it is not a part that begins where `range` does and lies in it.
pub(crate) fn check_range(answer: &Answer, range: &Range<u64>) -> Result<u64> {
    let Range { start, end } = *range;
    if answer.status == StatusCode::OK {
        return Ok(start);
    }
    let text = answer.header(&CONTENT_RANGE).context("the server sent part of a file without saying which")?;
    let part = parse_content_range(text).with_context(|| format!("the server sent the range {text:?}"))?;
    if part.first != start || part.last >= end {
        bail!("the server sent bytes {}-{}, not {start}-{}", part.first, part.last, end.saturating_sub(1));
    }
    match part.total {
        Some(total) if total < end => bail!("the file has only {total} bytes, not {end}"),
        _ => Ok(0),
    }
}

/// A `Content-Range` (RFC 9110 section 14.4).
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    let range = ContentRange { first: first.parse().ok()?, last: last.parse().ok()?, total };
    (range.first <= range.last).then_some(range)
}
