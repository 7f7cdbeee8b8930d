//! The time: asked of the network before anything is judged by it, and left in the hardware clock at the end. On a running
//! system nothing of this happens. `docs/time.md` has the rules.

use std::sync::Arc;

use anyhow::Result;
use metalstrap_release::metadata::Versions;
use metalstrap_release::site::Site;
use serde_json::{Value, json};

use super::Machine;
use crate::access::Access;
use crate::clock::server_date::Server;
use crate::clock::{Asked, Clock, utc};
use crate::failure::{Code, code_of};
use crate::fetch::Source;
use crate::net::Network;
use crate::ntp::Patience;
use crate::report::{Reporter, fields};
use crate::repository::Repository;
use crate::resolve::Resolver;
use crate::time_server::{self, TimeServer};

impl Machine<'_> {
    /// In the netboot image: asks the time servers of the site config and of the network, sets the system's clock as the
    /// rules say and tells what it rests on. Nothing here fails the run.
    pub async fn ask_time(&mut self, site: &Site, resolver: &Resolver) {
        let Some(clock) = &mut self.clock else { return };
        let learnt = self.network.as_ref().map(Network::time_servers).unwrap_or_default();
        let tell = self.tell;
        let asking = tell.wait("clock", "Asking for the time", async |_| {
            if let Some(floor) = site.clock_floor {
                clock.raise_floor(i64::try_from(floor).unwrap_or(i64::MAX));
            }
            let named: Vec<TimeServer> = site.time_servers.iter().map(|server| TimeServer::parse(server)).collect();
            let groups = futures_util::future::join(
                time_server::addresses(&named, resolver),
                time_server::addresses(&learnt, resolver),
            );
            let server = Server::new(&site.repository, Access::of_site(site)?, resolver)?;
            clock.ask(&<[_; 2]>::from(groups.await), &server, Patience::default()).await
        });
        match asking.await {
            Ok(asked) => told(clock, &asked, tell),
            Err(error) => tell.warn("clock", &format!("{error:#}; going on with the clock as it is")),
        }
    }

    /// [`Repository::load`]; where the server's certificate is refused, and no time server says what time it is, once more by
    /// the date that the server sends, if that may move the clock on.
    ///
    /// # Errors
    /// As that.
    pub async fn load_repository(
        &mut self,
        source: Arc<dyn Source>,
        site: &Site,
        resolver: &Resolver,
        known: &[Versions],
    ) -> Result<Repository> {
        let error = match Repository::load(Arc::clone(&source), site, known).await {
            Err(error) if code_of(&error) == Code::Certificate => error,
            done => return done,
        };
        let server = Access::of_site(site).and_then(|access| Server::new(&site.repository, access, resolver));
        let (Some(clock), Ok(server)) = (&mut self.clock, server) else { return Err(error) };
        let mut asked = Asked::default();
        let moved = clock.ask_server(&server, &mut asked).await;
        if asked.date.is_some() {
            told(clock, &asked, self.tell);
        }
        match moved {
            Ok(true) => Repository::load(source, site, known).await,
            // The refusal is what ends the run, whatever the clock did.
            Ok(false) | Err(_) => Err(error),
        }
    }

    /// In the netboot image, where the hardware clock is off: sets it. It is never a failure.
    pub fn set_hardware_clock(&self) {
        let Some(clock) = &self.clock else { return };
        match clock.set_hardware_clock() {
            Ok(None) => {}
            Ok(Some((was, set_to))) => {
                let (was, set_to) = (utc(was), utc(set_to));
                self.tell.say(&format!("hardware clock: set to {set_to}; it showed {was}"));
                let details = [("hardware_clock_was", was.into()), ("hardware_clock_set_to", set_to.into())];
                self.tell.tell("clock", "info", fields(details));
            }
            Err(error) => self.tell.warn("clock", &format!("the hardware clock is not set: {error:#}")),
        }
    }
}

/// Tells what the clock rests on, and what was said.
fn told(clock: &Clock, asked: &Asked, tell: &Reporter) {
    for warning in &asked.warnings {
        tell.warn("clock", warning);
    }
    let (judged, local) = (clock.judged(), clock.local());
    let time = utc(judged.time);
    let off = judged.time.saturating_sub(local.own);
    tell.say(&format!("clock: {time} by {}", judged.by));
    let said = |server: String, said: &Result<i64, String>| match said {
        Ok(time) => json!({"server": server, "says": utc(*time)}),
        Err(why) => json!({"server": server, "error": why}),
    };
    let servers: Vec<Value> =
        asked.heard.iter().map(|heard| said(heard.server.ip().to_string(), &heard.said)).collect();
    let date = asked.date.as_ref().map(|(server, date)| said(server.clone(), date));
    let details = [
        ("source", judged.by.name().into()),
        ("time", time.into()),
        ("offset", off.into()),
        ("servers", servers.into()),
        ("date", date.into()),
    ];
    tell.tell("clock", "info", fields(details));
}

#[cfg(test)]
mod tests;
