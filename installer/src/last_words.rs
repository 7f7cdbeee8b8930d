//! The report of an installer that died: PID 1 starts this with the failure on standard input, after it has reaped the
//! installer. Addresses and routes are still there; the name servers are remembered in a file.

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use metalstrap_release::discovery::Discovery;

use crate::access::Access;
use crate::config::{self, Place, SiteBytes};
use crate::console::Consoles;
use crate::discovery::Sources;
use crate::ending::RUN_VARIABLE;
use crate::failure::Failure;
use crate::net;
use crate::post::Poster;
use crate::report::Reporter;
use crate::resolve::Resolver;
use crate::screen::{ConsoleScreen, Events};
use crate::summary;

/// More than any failure has.
const MAX_BYTES: u64 = 1 << 20;
/// Less than the supervisor's patience, so that the reason of a report that fails is still said.
const LIMIT: Duration = Duration::from_secs(50);

/// Reports the failure that standard input holds as JSON: as an event on the consoles, and by POST.
///
/// # Errors
/// The input is no failure, or the report was not acknowledged.
pub fn report_from_stdin() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().take(MAX_BYTES).read_to_string(&mut text).context("reading the failure from standard input")?;
    let failure: Failure = serde_json::from_str(&text).context("reading the failure from standard input")?;
    let screen = ConsoleScreen::new(Consoles::open(), Events::SerialConsoles);
    // A new id only for an installer that died before it had one.
    let id = std::env::var(RUN_VARIABLE).or_else(|_| config::new_run_id())?;
    let tell = Reporter::new(id, Box::new(screen), None);
    tell.tell("run", "failed", summary::failure_fields(&failure));
    let mut discovery = Discovery::new(SiteBytes::load(&Place::Netboot)?.parse()?);
    // Measured by the run that died; where it died of them, what the site config says remains.
    let sources = Sources::default();
    let looked = sources.look(&mut discovery, &mut |_, _| Ok(()), &|_| {});
    if let Err(error) = looked.and_then(|()| sources.medium(&mut discovery, &mut |_, _| Ok(()), &|_| {})) {
        log::warn!("{error:#}");
    }
    let site = discovery.site();
    let Some(url) = &site.report_url else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let resolver = Resolver::learnt(net::recall()?);
        tell.outbox().start(Poster::new(url, Access::of_site(site)?, resolver)?);
        tell.outbox().settle(LIMIT).await
    })
}
