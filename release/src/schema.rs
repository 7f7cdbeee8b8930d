//! JSON Schemas of the documents, and the tables of `docs/configuration.md`: both come from the types, so that neither
//! can say what the code does not.

use std::fmt::Write as _;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema, schema_for};
use serde_json::Value;

use crate::allowed::Allowed;
use crate::digest::Digest;
use crate::host::{Groups, Host};
use crate::manifest::{Manifest, PartitionType, Predictions, Salt};
use crate::pcr::{Prediction, Value as PcrValue};
use crate::site::Site;

impl JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9a-f]{64}$"})
    }
}

impl JsonSchema for Predictions {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Predictions".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<Prediction>::json_schema(generator)
    }
}

impl<const N: usize> JsonSchema for PcrValue<N> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("PcrValue{N}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = format!("^[0-9a-f]{{{}}}$", 2 * N);
        json_schema!({"type": "string", "pattern": pattern})
    }
}

impl JsonSchema for Salt {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Salt".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^([0-9a-f]{2}){0,256}$"})
    }
}

impl JsonSchema for PartitionType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PartitionType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let guid = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}";
        let pattern = format!("^({}|{guid})$", Self::names().join("|"));
        json_schema!({"type": "string", "pattern": pattern})
    }
}

/// The documents that have a schema.
pub const DOCUMENTS: [&str; 5] = ["site", "host", "groups", "allowed", "manifest"];

/// The schema of the document `name`, one of [`DOCUMENTS`].
#[must_use]
pub fn of(name: &str) -> Option<Value> {
    let schema = match name {
        "site" => schema_for!(Site),
        "host" => schema_for!(Host),
        "groups" => schema_for!(Groups),
        "allowed" => schema_for!(Allowed),
        "manifest" => schema_for!(Manifest),
        _ => return None,
    };
    Some(schema.to_value())
}

/// The settings of a document as a Markdown table, a row each, in the order of their names.
#[must_use]
pub fn table(schema: &Value) -> String {
    let mut text = "| Setting | Value | If absent | Meaning |\n|---|---|---|---|\n".to_owned();
    rows(schema, schema, "", &mut text);
    text
}

fn rows(whole: &Value, object: &Value, prefix: &str, text: &mut String) {
    let required: Vec<&str> = list(object, "required").iter().filter_map(Value::as_str).collect();
    let properties = object.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let resolved = resolve(whole, property);
        let path = format!("{prefix}{name}");
        let absent = match property.get("default") {
            _ if required.contains(&name.as_str()) => "must be there".to_owned(),
            Some(Value::Object(_)) => "as if all were absent".to_owned(),
            Some(Value::Null) | None => "none".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{path}` | {} | {absent} | {} |", kind(resolved), meaning(property, resolved));
        let inner = if resolved.get("type").is_some_and(|kind| kind == "array") {
            resolve(whole, resolved.get("items").unwrap_or(&Value::Null))
        } else {
            resolved
        };
        rows(whole, inner, &format!("{path}."), text);
        // What stands under names that are nobody's to list.
        if let Some(any) = resolved.get("additionalProperties").filter(|any| any.is_object()) {
            rows(whole, resolve(whole, any), &format!("{path}.NAME."), text);
        }
    }
}

/// Follows a reference to the definitions of the whole schema.
fn resolve<'a>(whole: &'a Value, schema: &'a Value) -> &'a Value {
    let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| whole.pointer(pointer)).unwrap_or(schema)
}

fn list<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    schema.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// What a setting means, and each choice that it leaves.
fn meaning(property: &Value, resolved: &Value) -> String {
    let text = |schema: &Value| Some(schema.get("description")?.as_str()?.replace('\n', " "));
    let choice = |choice: &Value| Some(format!("`{}`: {}", choice.get("const")?, text(choice)?));
    let own = text(property).or_else(|| text(resolved));
    own.into_iter().chain(list(resolved, "oneOf").iter().filter_map(choice)).collect::<Vec<_>>().join(" ")
}

/// What a value is, in a word or two.
fn kind(schema: &Value) -> String {
    let choices: Vec<String> =
        list(schema, "oneOf").iter().filter_map(|choice| Some(format!("`{}`", choice.get("const")?))).collect();
    if !choices.is_empty() {
        return choices.join(", ");
    }
    match schema.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => "object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn docs(path: &str) -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).join(path)
    }

    /// The file is what the types say; with `UPDATE_DOCS` set, it becomes so.
    fn is_up_to_date(path: &str, expected: &str) {
        let path = docs(path);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, expected).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "{} is not what the types say: run `make docs`", path.display());
    }

    #[test]
    fn the_published_schemas_are_those_of_the_types() {
        for name in DOCUMENTS {
            let text = serde_json::to_string_pretty(&of(name).unwrap()).unwrap() + "\n";
            is_up_to_date(&format!("schemas/{name}.schema.json"), &text);
        }
    }

    #[test]
    fn every_setting_is_documented() {
        let mut page = include_str!("configuration.md").to_owned();
        for name in ["site", "host", "allowed"] {
            let schema = of(name).unwrap();
            page = page.replace(&format!("<!-- {name} -->\n"), &table(&schema));
        }
        page = page.replace("<!-- discovery -->\n", &crate::discovery::table());
        // A group's host config has the settings of any other.
        let mut groups = of("groups").unwrap();
        groups["$defs"]["Host"] = serde_json::json!({"type": "object"});
        page = page.replace("<!-- groups -->\n", &table(&groups));
        is_up_to_date("configuration.md", &page);
        assert!(!page.contains("|  |"), "a setting has no description:\n{page}");
    }

    #[test]
    fn a_schema_takes_what_the_type_takes_and_no_unknown_field() {
        let host = of("host").unwrap();
        assert_eq!(host["additionalProperties"], false);
        assert_eq!(host["required"], serde_json::json!(["format", "release"]));
        assert_eq!(host["$defs"]["DiskSelector"]["additionalProperties"], false);
        assert_eq!(of("manifest").unwrap()["$defs"]["Digest"]["pattern"], "^[0-9a-f]{64}$");
        assert_eq!(of("other"), None);
    }
}
