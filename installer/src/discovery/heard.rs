//! What DHCP servers say besides addresses: boot files and words for us.

use std::sync::Arc;

use anyhow::Result;
use metalstrap_release::discovery::{Discovery, Source, boot_url, dhcp, mentioned};
use tokio::sync::watch;

use super::{Measure, offer_boot_url};

/// No more are kept: two links, two families, two options each, twice.
const MOST: usize = 16;

/// An option of a lease that may have settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    /// The link on which it was said.
    pub link: String,
    /// Which option.
    pub option: Opt,
    /// Its data, without code and length.
    pub data: Vec<u8>,
}

/// The options that may have settings. Where a lease has several, those that come first here are read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opt {
    /// DHCPv4, boot file.
    BootFile4,
    /// DHCPv6, boot file.
    BootUrl6,
    /// DHCPv4, our words.
    Words4,
    /// DHCPv6, parameters for what was booted.
    Parameters6,
}

impl Opt {
    /// Those of DHCPv4 with their codes.
    pub const FOUR: [(Self, u8); 2] = [(Self::BootFile4, dhcp::BOOT_FILE_4), (Self::Words4, dhcp::WORDS_4)];
    /// Those of DHCPv6 with their codes.
    pub const SIX: [(Self, u16); 2] = [(Self::BootUrl6, dhcp::BOOT_URL_6), (Self::Parameters6, dhcp::PARAMETERS_6)];

    fn name(self) -> &'static str {
        match self {
            Self::BootFile4 => "DHCP option 67",
            Self::BootUrl6 => "DHCPv6 option 59",
            Self::Words4 => "DHCP option 224",
            Self::Parameters6 => "DHCPv6 option 60",
        }
    }
}

/// What was said so far, in the order in which leases came, each once. Clones share the list.
#[derive(Debug, Clone)]
pub struct Heard(Arc<watch::Sender<Vec<Saying>>>);

impl Default for Heard {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }
}

impl Heard {
    /// Adds what a lease on `link` says. Empty options say nothing, and beyond sixteen all further ones are left out.
    pub fn add(&self, link: &str, options: impl IntoIterator<Item = (Opt, Vec<u8>)>) {
        self.0.send_if_modified(|known| {
            let before = known.len();
            let mut all: Vec<_> = options.into_iter().filter(|(_, data)| !data.is_empty()).collect();
            all.sort_by_key(|(option, _)| *option);
            for (option, data) in all {
                let saying = Saying { link: link.to_owned(), option, data };
                if known.len() < MOST && !known.contains(&saying) {
                    known.push(saying);
                }
            }
            known.len() > before
        });
    }

    /// What is there now.
    #[must_use]
    pub fn list(&self) -> Vec<Saying> {
        self.0.borrow().clone()
    }

    /// Follows the list.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Vec<Saying>> {
        self.0.subscribe()
    }
}

/// Takes settings from the network as they come.
#[derive(Debug, Default)]
pub struct Listener {
    taken: usize,
}

impl Listener {
    /// Offers what is new in `sayings`, which only grows. What the network says and cannot be taken is told by `say` and passed
    /// over: it may be meant for another version, and must not keep a machine from what its site config says.
    ///
    /// # Errors
    /// Of measuring only.
    pub fn take(
        &mut self,
        sayings: &[Saying],
        discovery: &mut Discovery,
        measure: &mut Measure<'_>,
        say: &dyn Fn(&str),
    ) -> Result<()> {
        for saying in sayings.get(self.taken..).unwrap_or_default() {
            self.taken = self.taken.saturating_add(1);
            saying.offer(discovery, measure, say)?;
        }
        Ok(())
    }
}

impl Saying {
    fn offer(&self, discovery: &mut Discovery, measure: &mut Measure<'_>, say: &dyn Fn(&str)) -> Result<()> {
        let what = format!("{}: {}", self.link, self.option.name());
        let words = match self.option {
            Opt::BootFile4 | Opt::BootUrl6 => {
                if !discovery.wants_repository(Source::BootUrl) {
                    return Ok(());
                }
                measure("boot-url", &self.data)?;
                if let Some(url) = dhcp::boot_url(&self.data) {
                    offer_boot_url(discovery, boot_url::repository(&url), &what, say);
                }
                return Ok(());
            }
            _ if !mentioned(&self.data) => return Ok(()),
            Opt::Words4 => {
                measure("dhcp", &self.data)?;
                dhcp::words_4(&self.data)
            }
            Opt::Parameters6 => {
                measure("dhcp", &self.data)?;
                dhcp::words_6(&self.data)
            }
        };
        for refused in discovery.offer(Source::Dhcp, &words) {
            say(&format!("{what}: {refused}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use metalstrap_release::discovery::Setting;

    use super::*;
    use crate::console::Consoles;
    use crate::discovery::tests::{site, told};
    use crate::report::Reporter;
    use crate::screen::{ConsoleScreen, Events};

    fn parameter(text: &str) -> Vec<u8> {
        [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
    }

    #[test]
    fn each_option_is_kept_once_and_in_the_order_of_its_reading() {
        let heard = Heard::default();
        let words = (Opt::Words4, b"w".to_vec());
        heard.add("eth0", [words.clone(), (Opt::BootFile4, b"b".to_vec()), (Opt::BootUrl6, Vec::new())]);
        let mut follow = heard.follow();
        heard.add("eth0", [words.clone()]);
        assert!(!follow.has_changed().unwrap());
        heard.add("eth1", [words]);
        assert_eq!(follow.borrow_and_update().len(), 3);
        let list: Vec<_> = heard.list().into_iter().map(|saying| (saying.link, saying.option)).collect();
        let (zero, one) = ("eth0".to_owned(), "eth1".to_owned());
        assert_eq!(list, [(zero.clone(), Opt::BootFile4), (zero, Opt::Words4), (one, Opt::Words4)]);
        for number in 0..30_u8 {
            heard.add("eth0", [(Opt::Words4, vec![number])]);
        }
        assert_eq!(heard.list().len(), MOST);
    }

    #[test]
    fn what_leases_say_is_measured_and_the_first_one_wins() {
        let heard = Heard::default();
        let mut listener = Listener::default();
        let mut discovery = site(None);
        let take = |listener: &mut Listener, discovery: &mut Discovery| {
            told(|measure, say| listener.take(&heard.list(), discovery, measure, say))
        };
        heard.add("eth0", [(Opt::Words4, b"http://phones.test".to_vec()), (Opt::BootFile4, b"pxe.0".to_vec())]);
        let (measured, said) = take(&mut listener, &mut discovery);
        assert_eq!(measured, ["boot-url: pxe.0"]);
        assert_eq!(said, ["eth0: DHCP option 67 names no repository: \"pxe.0\" is not an https:// URL"]);
        heard.add(
            "eth1",
            [
                (Opt::Parameters6, parameter("metalstrap.repository=https://six.test metalstrap.host=default")),
                (Opt::BootUrl6, b"https://boot.test/os/netboot.efi".to_vec()),
            ],
        );
        let (measured, said) = take(&mut listener, &mut discovery);
        assert_eq!(measured.len(), 2);
        assert_eq!(measured[0], "boot-url: https://boot.test/os/netboot.efi");
        assert_eq!(said, ["eth1: DHCPv6 option 60: the DHCP server sets metalstrap.host, which is not for it to say"]);
        assert_eq!(discovery.site().repository, "https://boot.test/os");
        // Nothing is taken twice.
        assert_eq!(take(&mut listener, &mut discovery), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_a_lease_says_reaches_a_terminal_as_escapes() {
        let evil = "\u{1b}]0;owned\u{7}\u{9b}2J\r\n\u{202e}";
        let shown = "\\u{1b}]0;owned\\u{7}\\u{9b}2J\\r\\n\\u{202e}";
        let heard = Heard::default();
        let words = format!("\"metalstrap.{evil}=$(reboot)\" \"metalstrap.mirrors={evil}\"");
        heard.add("eth0", [(Opt::BootFile4, format!("tftp://{evil}").into()), (Opt::Words4, words.into())]);
        let (consoles, person) = Consoles::pty();
        let tell = Reporter::new("r".to_owned(), Box::new(ConsoleScreen::new(consoles, Events::SerialConsoles)), None);
        let (mut discovery, mut listener) = (site(None), Listener::default());
        listener.take(&heard.list(), &mut discovery, &mut |_, _| Ok(()), &|text| tell.say(text)).unwrap();
        let settings = Setting::ALL.map(|setting| format!("metalstrap.{setting}")).join(", ");
        let mut lines = BufReader::new(person).lines();
        for expected in [
            format!("eth0: DHCP option 67 names no repository: \"tftp://{shown}\" is not an https:// URL"),
            format!(
                "eth0: DHCP option 224: the DHCP server sets metalstrap.{shown}, and there is no such setting; there are \
                 {settings}"
            ),
            "eth0: DHCP option 224: the DHCP server's metalstrap.mirrors holds something else than printable ASCII characters"
                .to_owned(),
        ] {
            // The terminal itself adds the carriage return.
            assert_eq!(lines.next().unwrap().unwrap(), expected);
        }
    }

    #[test]
    fn words_of_the_network_fill_the_gap_that_the_site_config_leaves() {
        let words =
            b"metalstrap.repository=https://dhcp.test/os metalstrap.mirrors=\"https://a.test https://b.test\"\0";
        let heard = Heard::default();
        heard.add("eth0", [(Opt::Words4, words.to_vec())]);
        for (repository, expected) in [(None, "https://dhcp.test/os"), (Some("https://site.test"), "https://site.test")]
        {
            let mut discovery = site(repository);
            let (measured, said) =
                told(|measure, say| Listener::default().take(&heard.list(), &mut discovery, measure, say));
            assert_eq!((measured.len(), said.len()), (1, 0));
            assert_eq!(discovery.site().repository, expected);
            assert_eq!(discovery.site().mirrors, ["https://a.test", "https://b.test"]);
        }
    }
}
