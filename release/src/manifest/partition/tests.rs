use std::error::Error as _;

use serde_json::{Value, json};

use super::*;

fn var() -> Value {
    json!({"type": "var", "label": "var"})
}

/// The error's text and that of its cause.
fn refusal(partitions: &Value) -> String {
    let error = parse_partitions(partitions.to_string().as_bytes()).unwrap_err();
    let text = error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    text.split(" at line").next().unwrap().to_owned()
}

#[test]
fn what_is_left_out_is_as_in_a_definition_of_systemd_repart() {
    let partitions = parse_partitions(json!([var()]).to_string().as_bytes()).unwrap();
    let expected = DataPartition {
        kind: PartitionType::from_text("var").unwrap(),
        label: "var".to_owned(),
        size_min: None,
        size_max: None,
        weight: 1000,
        padding_min: 0,
        padding_max: None,
        padding_weight: 0,
        keep: false,
    };
    assert_eq!(partitions, [expected]);
    assert_eq!(
        serde_json::to_value(&partitions).unwrap(),
        json!([{
            "type": "var", "label": "var", "weight": 1000, "padding_min": 0, "padding_weight": 0, "keep": false,
        }])
    );
}

#[test]
fn a_type_is_a_name_or_a_guid() {
    for name in PartitionType::names() {
        let kind = PartitionType::from_text(name).unwrap();
        assert_eq!(kind.to_string(), name);
        assert_eq!(PartitionType::from_text(&kind.guid().to_string().to_uppercase()), Some(kind));
    }
    let other = "11111111-2222-3333-4444-5555555555ab";
    assert_eq!(PartitionType::from_text(other).unwrap().to_string(), other);
    for bad in ["", "Var", "root", "esp", "{11111111-2222-3333-4444-5555555555ab}", "111111112222333344445555555555ab"]
    {
        assert_eq!(
            refusal(&json!([{"type": bad, "label": "x"}])),
            format!(
                "the layout is not valid: {bad:?} is neither a GUID nor one of home, linux-generic, srv, swap, tmp, \
                 user-home, var, xbootldr"
            )
        );
    }
}

#[test]
fn values_that_cannot_hold_are_refused_by_partition_and_field() {
    let most = MAX_PARTITION_BYTES;
    for (field, value, expected) in [
        ("label", json!(""), "whose label \"\" is not 1 to 36 UTF-16 units without control characters".to_owned()),
        (
            "label",
            json!("a\u{1f4be}".repeat(12) + "b"),
            format!(
                "whose label {:?} is not 1 to 36 UTF-16 units without control characters",
                "a\u{1f4be}".repeat(12) + "b"
            ),
        ),
        (
            "label",
            json!("a\0"),
            "whose label \"a\\0\" is not 1 to 36 UTF-16 units without control characters".to_owned(),
        ),
        (
            "type",
            json!("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
            "\"var\" of type c12a7328-f81f-11d2-ba4b-00a0c93ec93b, which it may not have".to_owned(),
        ),
        (
            "type",
            json!("00000000-0000-0000-0000-000000000000"),
            "\"var\" of type 00000000-0000-0000-0000-000000000000, which it may not have".to_owned(),
        ),
        ("size_min", json!(0), format!("\"var\" whose size_min is 0, not a multiple of 4096 from 4096 to {most}")),
        (
            "size_min",
            json!(4097),
            format!("\"var\" whose size_min is 4097, not a multiple of 4096 from 4096 to {most}"),
        ),
        (
            "size_max",
            json!(u64::MAX),
            format!("\"var\" whose size_max is {}, not a multiple of 4096 from 4096 to {most}", u64::MAX),
        ),
        (
            "padding_min",
            json!(512),
            format!("\"var\" whose padding_min is 512, not a multiple of 4096 from 0 to {most}"),
        ),
        ("padding_max", json!(1), format!("\"var\" whose padding_max is 1, not a multiple of 4096 from 0 to {most}")),
        ("weight", json!(1_000_001), "\"var\" whose weight is 1000001, not 0 to 1000000".to_owned()),
        ("padding_weight", json!(u32::MAX), "\"var\" whose padding_weight is 4294967295, not 0 to 1000000".to_owned()),
    ] {
        let mut partition = var();
        partition[field] = value;
        assert_eq!(refusal(&json!([partition])), format!("the layout's list of partitions has a partition {expected}"));
    }
    let limits = [
        ("size", json!({"type": "srv", "label": "s", "size_min": 8192, "size_max": 4096})),
        ("padding", json!({"type": "srv", "label": "s", "padding_min": 8192, "padding_max": 4096})),
    ];
    for (what, partition) in limits {
        let expected = format!("has a partition \"s\" whose {what}_min 8192 is larger than its {what}_max 4096");
        assert_eq!(refusal(&json!([partition])), format!("the layout's list of partitions {expected}"));
    }
    let unit = "a\u{1f4be}".repeat(12);
    let longest = json!([{"type": "srv", "label": unit, "size_min": most, "size_max": most, "weight": 1_000_000}]);
    assert_eq!(parse_partitions(longest.to_string().as_bytes()).unwrap().len(), 1);
}

#[test]
fn labels_are_of_one_partition_each() {
    let labelled = |labels: &[&str]| {
        labels.iter().map(|label| json!({"type": "linux-generic", "label": label})).collect::<Value>()
    };
    for (labels, twice) in [(vec!["a", "b", "a"], "a"), (vec!["esp"], "esp"), (vec!["_empty"], "_empty")] {
        assert_eq!(
            refusal(&labelled(&labels)),
            format!("the layout's list of partitions has another partition with the label {twice:?}")
        );
    }
    let names: Vec<String> = (0..17).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(refusal(&labelled(&names)), "the layout's list of partitions has 17 entries, more than the 16 allowed");
    assert_eq!(parse_partitions(labelled(&names[..16]).to_string().as_bytes()).unwrap().len(), 16);
}

#[test]
fn shapes_other_than_the_format_are_refused() {
    let fields =
        "`type`, `label`, `size_min`, `size_max`, `weight`, `padding_min`, `padding_max`, `padding_weight`, `keep`";
    for (document, expected) in [
        (json!({}), "invalid type: map, expected a sequence".to_owned()),
        (json!([{"type": "var"}]), "missing field `label`".to_owned()),
        (
            json!([{"type": "var", "label": "var", "format": "ext4"}]),
            format!("unknown field `format`, expected one of {fields}"),
        ),
        (
            json!([{"type": "var", "label": "var", "size_min": "1G"}]),
            "invalid type: string \"1G\", expected u64".to_owned(),
        ),
    ] {
        assert_eq!(refusal(&document), format!("the layout is not valid: {expected}"));
    }
}
