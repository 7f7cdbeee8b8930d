//! Tables of results, in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::absent::Absent;
use crate::result::Record;

/// What the table of a case is headed with.
pub fn title(case: &str) -> String {
    let (kind, rest) = case.split_once('-').unwrap_or((case, ""));
    match (kind, rest) {
        ("fresh", "") => "Blank disk on tmpfs, uncompressed erofs".to_owned(),
        ("fresh", "lz4") => "Blank disk on tmpfs, erofs compressed with lz4hc".to_owned(),
        ("fresh", "disk") => "Blank part of the real disk, page cache dropped before".to_owned(),
        ("reimage", "upgrade") => "Over the release before: the demo OS with an upgraded kernel and OpenSSL".to_owned(),
        ("reimage", "5pct") => "Over a release of which 5% of the blocks differ, in runs of 256 KiB".to_owned(),
        ("reimage", "5pct-scattered") => "Over a release of which 5% of the blocks differ, one by one".to_owned(),
        ("reinstall", _) => "Over the same release".to_owned(),
        ("repair", "1") => "Repair of 1 damaged block".to_owned(),
        ("repair", count) => format!("Repair of {count} damaged blocks"),
        ("resume", percent) => format!("Second run after a kill at {percent}% of the bytes"),
        ("size", "4-twice") => "Generated image of 4 GiB whose second half is the first once more".to_owned(),
        ("size", size) => format!("Generated image of {size} GiB, blank disk"),
        ("link", "50ms-1pct-small") => "The same with an image of 25 MB".to_owned(),
        ("link", "50ms-1pct") => "50 ms round trip, 1% of the packets lost".to_owned(),
        ("link", rate) => format!("Link of {rate} Mbit/s"),
        _ => case.to_owned(),
    }
}

/// The cases of `records`, in their order.
pub fn cases(records: &[Record]) -> Vec<&str> {
    let mut cases = Vec::new();
    for Record { case, .. } in records {
        if !cases.contains(&case.as_str()) {
            cases.push(case);
        }
    }
    cases
}

/// The prefix of cases that differ in how many connections there are.
pub const CONNECTIONS: &str = "connections-";

/// One table of all cases that differ in how many connections there are.
pub fn of_connections(records: &[Record]) -> String {
    const LOSSY: &str = "-50ms-1pct";
    // It is another image than over the loopback.
    let lossy = records.iter().find(|record| record.case.starts_with(CONNECTIONS) && record.case.ends_with(LOSSY));
    let size = lossy.map_or_else(String::new, |lossy| format!(" ({})", image_size(lossy)));
    let over_link = format!("50 ms, 1% lost{size}");
    let heads = ["connections", "loopback", "CPU", "peak RSS", &over_link];
    let title = "How many connections (`connections-N`, without read-back)";
    of_numbers(records, CONNECTIONS, LOSSY, title, &heads, |record, over_link| {
        vec![spread(record), cpu(record), megabytes(record.peak_rss_bytes as f64), over_link]
    })
}

/// The prefix of cases that differ in zstd's level.
pub const LEVELS: &str = "level-";

/// One table of all cases that differ in zstd's level.
pub fn of_levels(records: &[Record]) -> String {
    let heads = ["level", "`publish`", "payload", "loopback", "CPU", "link of 100 Mbit/s"];
    let size = records.iter().find(|record| record.case.starts_with(LEVELS));
    let size = size.map_or_else(String::new, |of| format!(" {},", image_size(of)));
    let title = format!("Which level of zstd (`level-N`,{size} without read-back)");
    of_numbers(records, LEVELS, "-link", &title, &heads, |record, over_link| {
        let more = |name: &str| record.more.get(name).copied().unwrap_or_default();
        let publish = format!("{:.1} s", more("publish_seconds"));
        vec![publish, megabytes(more("payload_bytes")), spread(record), cpu(record), over_link]
    })
}

/// A table of the cases `PREFIX` with a number, a row each. `cells` come behind the number; they get the time of the same case
/// over a link, which is called the same with `link` behind it.
fn of_numbers(
    records: &[Record],
    prefix: &str,
    link: &str,
    title: &str,
    heads: &[&str],
    cells: impl Fn(&Record, String) -> Vec<String>,
) -> String {
    let shown = records.iter().filter(|record| record.case.starts_with(prefix));
    let mut text =
        format!("### {title}\n\n{}", days(shown.map(|record| (record.case.as_str(), record.day.as_deref()))));
    row(&mut text, &heads.iter().map(ToString::to_string).collect::<Vec<_>>());
    row(&mut text, &vec!["--:".to_owned(); heads.len()]);
    for record in records {
        let Some(number) = record.case.strip_prefix(prefix).filter(|number| number.parse::<u8>().is_ok()) else {
            continue;
        };
        let other = records.iter().find(|other| other.case.strip_prefix(&record.case) == Some(link));
        let cells = cells(record, other.map_or_else(String::new, spread));
        row(&mut text, &std::iter::once(number.to_owned()).chain(cells).collect::<Vec<_>>());
    }
    text
}

fn image_size(record: &Record) -> String {
    format!("{:.0} MB", record.image_bytes as f64 / 1e6)
}

fn spread(record: &Record) -> String {
    format!("{:.2} s ({:.2} to {:.2})", record.seconds, record.min, record.max)
}

fn cpu(record: &Record) -> String {
    format!("{:.2} s", record.cpu_seconds)
}

/// The table of `case`, with what is absent below it.
pub fn of_case(case: &str, records: &[Record], absent: &[Absent]) -> String {
    let rows: Vec<&Record> = records.iter().filter(|record| record.case == case).collect();
    let ours = rows.iter().find(|record| record.tool == "metalstrap").map(|record| record.seconds);
    let mut names: Vec<&str> = rows.iter().flat_map(|record| record.more.keys().map(String::as_str)).collect();
    names.retain(|name| !["requests", "connections"].contains(name));
    names.sort_unstable();
    names.dedup();
    let days = days(rows.iter().map(|record| (record.tool.as_str(), record.day.as_deref())));
    let mut text = format!("### {} (`{case}`)\n\n{days}", title(case));
    let heads = ["tool", "median", "MB/s", "time / metalstrap's", "fetched", "peak RSS", "CPU", "runs"];
    let more = names.iter().map(|name| name.replace('_', " "));
    let heads: Vec<String> = heads.into_iter().map(ToOwned::to_owned).chain(more).collect();
    row(&mut text, &heads);
    let rules: Vec<String> =
        (0..heads.len()).map(|column| if column == 0 { "---" } else { "--:" }.to_owned()).collect();
    row(&mut text, &rules);
    for record in rows {
        let ratio =
            ours.filter(|ours| *ours > 0.0).map_or_else(String::new, |ours| format!("{:.2}", record.seconds / ours));
        let mut cells = vec![
            record.tool.clone(),
            format!("{:.2} s", record.seconds),
            format!("{:.0}", record.rate()),
            ratio,
            megabytes(record.bytes_fetched as f64),
            megabytes(record.peak_rss_bytes as f64),
            cpu(record),
            record.runs.to_string(),
        ];
        cells.extend(
            names.iter().map(|name| record.more.get(*name).map_or_else(String::new, |value| shown(name, *value))),
        );
        row(&mut text, &cells);
    }
    for Absent { tool, reason, .. } in absent.iter().filter(|absent| absent.case == case) {
        let _ = write!(text, "\nNot measured: {tool}: {reason}.\n");
    }
    text
}

/// The line that says when figures were measured, if that is known of some: the day of all of them, or each day with what is
/// of that one.
fn days<'a>(measured: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let mut days = BTreeMap::<Option<&str>, Vec<&str>>::new();
    for (what, day) in measured {
        days.entry(day).or_default().push(what);
    }
    let one = days.len() == 1;
    let said: Vec<String> = days
        .iter()
        .rev()
        .filter_map(|(day, what)| {
            day.map(|day| if one { day.to_owned() } else { format!("{day} ({})", what.join(", ")) })
        })
        .collect();
    if said.is_empty() { String::new() } else { format!("Measured on {}.\n\n", said.join(", ")) }
}

fn row(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}

fn shown(name: &str, value: f64) -> String {
    match name {
        _ if name.ends_with("fraction") => format!("{:.1}%", value * 100.0),
        "first_bytes" | "fetched_twice" | "fetched_twice_max" => megabytes(value),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Sample;
    use crate::log::Sent;

    #[test]
    fn connections_have_one_table() {
        let sample =
            |seconds: f64| Sample { seconds, cpu_seconds: 0.5, peak_rss_bytes: 20_000_000, ..Sample::default() };
        let records = [
            Record::new("fresh", "metalstrap", 1, &[sample(9.0)]),
            Record::new("connections-4", "metalstrap", 1, &[sample(2.0), sample(3.0), sample(4.0)]),
            Record::new("connections-4-50ms-1pct", "metalstrap", 25_300_000, &[sample(7.0)]),
        ];
        let expected = "### How many connections (`connections-N`, without read-back)\n\n\
            | connections | loopback | CPU | peak RSS | 50 ms, 1% lost (25 MB) |\n\
            | --: | --: | --: | --: | --: |\n\
            | 4 | 3.00 s (2.00 to 4.00) | 0.50 s | 20.0 MB | 7.00 s (7.00 to 7.00) |\n";
        assert_eq!(of_connections(&records), expected);
    }

    #[test]
    fn levels_have_one_table() {
        let more = vec![("publish_seconds", 3.4), ("payload_bytes", 86_600_000.0)];
        let sample = Sample { seconds: 0.5, cpu_seconds: 1.0, more, ..Sample::default() };
        let records = [
            Record::new("level-3", "metalstrap", 248_000_000, std::slice::from_ref(&sample)),
            Record::new("level-3-link", "metalstrap", 248_000_000, &[Sample { seconds: 7.0, ..sample }]),
        ];
        let expected = "### Which level of zstd (`level-N`, 248 MB, without read-back)\n\n\
            | level | `publish` | payload | loopback | CPU | link of 100 Mbit/s |\n\
            | --: | --: | --: | --: | --: | --: |\n\
            | 3 | 3.4 s | 86.6 MB | 0.50 s (0.50 to 0.50) | 1.00 s | 7.00 s (7.00 to 7.00) |\n";
        assert_eq!(of_levels(&records), expected);
    }

    #[test]
    fn a_table_has_a_row_a_tool_and_says_what_is_absent() {
        let sample = |seconds: f64, bytes: u64| Sample {
            seconds,
            cpu_seconds: 1.0,
            peak_rss_bytes: 20_000_000,
            sent: Sent { bytes, requests: 1, connections: 1 },
            more: vec![("link_fraction", 0.961)],
        };
        let records = [
            Record::new("link-10", "metalstrap", 100_000_000, &[sample(2.0, 1_000_000)]),
            Record::new("link-10", "curl-zstd-dd", 100_000_000, &[sample(3.0, 2_000_000)]),
        ];
        let absent = [Absent { case: "link-10".into(), tool: "casync".into(), reason: "it is not there".into() }];
        let expected = "### Link of 10 Mbit/s (`link-10`)\n\n\
            | tool | median | MB/s | time / metalstrap's | fetched | peak RSS | CPU | runs | link fraction |\n\
            | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n\
            | metalstrap | 2.00 s | 50 | 1.00 | 1.0 MB | 20.0 MB | 1.00 s | 1 | 96.1% |\n\
            | curl-zstd-dd | 3.00 s | 33 | 1.50 | 2.0 MB | 20.0 MB | 1.00 s | 1 | 96.1% |\n\
            \nNot measured: casync: it is not there.\n";
        assert_eq!(of_case("link-10", &records, &absent), expected);
        let [ours, curl] = &records;
        let of_day = |record: &Record, day: &str| Record { day: Some(day.into()), ..record.clone() };
        let told = |records: &[Record]| of_case("link-10", records, &[]).lines().nth(2).unwrap().to_owned();
        let same = [of_day(ours, "2026-11-27"), of_day(curl, "2026-11-27")];
        assert_eq!(told(&same), "Measured on 2026-11-27.");
        let two = [of_day(ours, "2026-11-27"), of_day(curl, "2026-11-20")];
        assert_eq!(told(&two), "Measured on 2026-11-27 (metalstrap), 2026-11-20 (curl-zstd-dd).");
        let older = [of_day(ours, "2026-11-27"), curl.clone()];
        assert_eq!(told(&older), "Measured on 2026-11-27 (metalstrap).");
        assert_eq!(cases(&records), ["link-10"]);
    }
}
