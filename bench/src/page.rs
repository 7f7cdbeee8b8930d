//! The tables that stand on a page: what was measured anew takes its old place there, and all else stays as it is.

/// A table with its heading.
#[derive(Debug)]
pub struct Table {
    /// In Markdown.
    pub text: String,
    /// Whether it has figures, and does not only say why there are none.
    pub is_measured: bool,
}

/// The tables of `old`, those of `new` that are measured in the place of the ones of the same case, and behind them what
/// `old` does not have.
pub fn merged(old: &str, new: Vec<Table>) -> String {
    let mut tables: Vec<String> =
        old.split("\n### ").skip(1).map(|table| format!("### {}\n", table.trim_end())).collect();
    for Table { text, is_measured } in new {
        match tables.iter_mut().find(|old| case(old) == case(&text)) {
            Some(old) if is_measured => *old = text,
            Some(_) => {}
            None => tables.push(text),
        }
    }
    tables.join("\n")
}

/// The case in the heading of a table, as "### Link of 10 Mbit/s (`link-10`)" has it.
fn case(table: &str) -> &str {
    let heading = table.lines().next().unwrap_or_default();
    heading.rsplit_once("(`").and_then(|(_, rest)| rest.split_once('`')).map_or(heading, |(case, _)| case)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(heading: &str, figure: &str) -> String {
        format!("### {heading}\n\n| a |\n| --- |\n| {figure} |\n")
    }

    #[test]
    fn what_was_not_measured_anew_stays_in_its_place() {
        let [fresh, link, repair, levels] =
            ["New disk (`fresh`)", "A link (`link-10`)", "Repair (`repair-1`)", "Levels (`level-N`, 1 MB)"];
        let page = |tables: &[String]| format!("\nOn 2 cores.\n\n{}\n", tables.join("\n"));
        let old = page(&[table(fresh, "1"), table(link, "2"), table(repair, "3"), table(levels, "4")]);
        let new = |heading: &str, is_measured| Table { text: table(heading, "new"), is_measured };
        // A heading that was put in other words is still that of its case.
        let added = [
            new("Link of 10 Mbit/s (`link-10`)", true),
            new(repair, false),
            new("More (`link-100`)", true),
            new(levels, true),
        ];
        let expected = [
            table(fresh, "1"),
            table("Link of 10 Mbit/s (`link-10`)", "new"),
            table(repair, "3"),
            table(levels, "new"),
            table("More (`link-100`)", "new"),
        ];
        let made = merged(&old, added.into());
        assert_eq!(made, expected.join("\n"));
        // And so it stays when nothing was measured.
        assert_eq!(merged(&page(&expected), Vec::new()), made);
        assert_eq!(merged("\n", vec![new(fresh, false)]), table(fresh, "new"));
    }
}
