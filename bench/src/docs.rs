//! docs/performance.md and its plot, made from what was measured.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::plot::{Bar, svg};
use crate::result::Record;
use crate::{absent, result, table};

const BEGIN: &str = "<!-- begin: made by bench --docs -->\n";
const END: &str = "<!-- end: made by bench --docs -->\n";
/// The case that is drawn.
const DRAWN: &str = "fresh";

/// Writes the tables between their marks in docs/performance.md, and docs/performance.svg.
///
/// # Errors
/// Nothing was measured, or the page has no marks.
pub fn write(out: &Path) -> Result<()> {
    let docs = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    let (page, plot) = (docs.join("performance.md"), docs.join("performance.svg"));
    let (records, absent) = (result::read(out)?, absent::read(out)?);
    ensure!(!records.is_empty(), "{} has no result: run `make bench` first", out.display());
    let mut cases = table::cases(&records);
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
    let mut tables: Vec<String> = cases.into_iter().map(|case| table::of_case(case, &records, &absent)).collect();
    tables.extend((!connections.is_empty()).then(|| table::of_connections(&records)));
    tables.extend((!levels.is_empty()).then(|| table::of_levels(&records)));
    let old = fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
    let new = replace(&old, &format!("{}\n{}", machine()?, tables.join("\n")))
        .with_context(|| format!("finding the marks in {}", page.display()))?;
    fs::write(&page, new).with_context(|| format!("writing {}", page.display()))?;
    fs::write(&plot, drawn(&records)).with_context(|| format!("writing {}", plot.display()))
}

/// `page` with `made` between its marks.
fn replace(page: &str, made: &str) -> Option<String> {
    let (head, rest) = page.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n{made}\n{END}{tail}"))
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
        assert_eq!(replace(&page, "new").unwrap(), format!("head\n{BEGIN}\nnew\n{END}tail\n"));
        assert_eq!(replace("no marks", "new"), None);
    }
}
