//! docs/performance.md and its plot, made from what was measured.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::absent::Absent;
use crate::page::{Table, merged};
use crate::plot::{Bar, svg};
use crate::result::Record;
use crate::{absent, result, table};

const BEGIN: &str = "<!-- begin: made by bench --docs -->\n";
const END: &str = "<!-- end: made by bench --docs -->\n";
/// The case that is drawn.
const DRAWN: &str = "fresh";

/// Writes the tables between their marks in docs/performance.md, and docs/performance.svg. What `result.json` has no record of
/// stays as it is there.
///
/// # Errors
/// Nothing was measured, or the page has no marks.
pub fn write(out: &Path) -> Result<()> {
    let docs = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    let (page, plot) = (docs.join("performance.md"), docs.join("performance.svg"));
    let (records, absent) = (result::read(out)?, absent::read(out)?);
    ensure!(!records.is_empty(), "{} has no result: run `make bench` first", out.display());
    let old = fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
    let machine = machine()?;
    let new = replace(&old, |old| format!("{machine}\n{}", merged(old, tables(&records, &absent))))
        .with_context(|| format!("finding the marks in {}", page.display()))?;
    fs::write(&page, new).with_context(|| format!("writing {}", page.display()))?;
    if !records.iter().any(|record| record.case == DRAWN) {
        return Ok(());
    }
    fs::write(&plot, drawn(&records)).with_context(|| format!("writing {}", plot.display()))
}

/// A table of each case; one of all numbers of connections, and one of all levels.
fn tables(records: &[Record], absent: &[Absent]) -> Vec<Table> {
    let mut cases = table::cases(records);
    cases.extend(absent.iter().map(|absent| absent.case.as_str()));
    let mut seen = Vec::new();
    cases.retain(|case| {
        !seen.contains(case) && {
            seen.push(*case);
            true
        }
    });
    let (connections, cases): (Vec<&str>, Vec<&str>) =
        cases.into_iter().partition(|case| case.starts_with(table::CONNECTIONS));
    let (levels, cases): (Vec<&str>, Vec<&str>) = cases.into_iter().partition(|case| case.starts_with(table::LEVELS));
    let is_measured = |prefix: &str| records.iter().any(|record| record.case.starts_with(prefix));
    let mut tables: Vec<Table> = cases
        .into_iter()
        .map(|case| Table {
            text: table::of_case(case, records, absent),
            is_measured: records.iter().any(|record| record.case == case),
        })
        .collect();
    tables.extend(
        (!connections.is_empty())
            .then(|| Table { text: table::of_connections(records), is_measured: is_measured(table::CONNECTIONS) }),
    );
    tables.extend(
        (!levels.is_empty())
            .then(|| Table { text: table::of_levels(records), is_measured: is_measured(table::LEVELS) }),
    );
    tables
}

/// `page` with what `make` makes of that between its marks.
fn replace(page: &str, make: impl FnOnce(&str) -> String) -> Option<String> {
    let (head, rest) = page.split_once(BEGIN)?;
    let (old, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n{}\n{END}{tail}", make(old)))
}

/// One sentence on the machine, since the figures are of this one.
fn machine() -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
    let processors = read("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    let memory = read("/proc/meminfo")?;
    let kib =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let kernel = read("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "Measured on {count} cores ({}), {} GiB of memory, Linux {}.\n",
        model.map_or("of an unknown model", |(_, name)| name),
        kib.unwrap_or_default() >> 20,
        kernel.split('-').next().unwrap_or_default().trim()
    ))
}

fn drawn(records: &[Record]) -> String {
    let mut rows: Vec<&Record> = records.iter().filter(|record| record.case == DRAWN).collect();
    rows.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    let bars: Vec<Bar> = rows
        .iter()
        .map(|record| Bar {
            label: record.tool.clone(),
            value: record.seconds,
            range: (record.min, record.max),
            ours: record.tool.starts_with("metalstrap"),
            limit: record.tool.starts_with("limit-"),
        })
        .collect();
    let gigabytes = rows.first().map_or(0.0, |record| record.image_bytes as f64 / 1e9);
    svg(
        &format!("Installing {gigabytes:.1} GB to a blank disk over HTTPS: median, fastest and slowest run"),
        "s",
        &bars,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("head\n{BEGIN}old\n{END}tail\n");
        let new = replace(&page, |old| format!("new for {old}"));
        assert_eq!(new.unwrap(), format!("head\n{BEGIN}\nnew for old\n\n{END}tail\n"));
        assert_eq!(replace("no marks", |_| "new".to_owned()), None);
    }

    #[test]
    fn a_case_is_told_by_its_records_or_as_absent() {
        let record = |case: &str| Record::new(case, "metalstrap", 1, &[]);
        let records = [record("link-10"), record("connections-4"), record("connections-4-50ms-1pct")];
        let absent = [Absent { case: "repair-1".into(), tool: "metalstrap".into(), reason: "why".into() }];
        let tables = tables(&records, &absent);
        let told: Vec<(&str, bool)> =
            tables.iter().map(|table| (table.text.lines().next().unwrap(), table.is_measured)).collect();
        let expected = [
            ("### Link of 10 Mbit/s (`link-10`)", true),
            ("### Repair of 1 damaged block (`repair-1`)", false),
            ("### How many connections (`connections-N`, without read-back)", true),
        ];
        assert_eq!(told, expected);
    }
}
