//! Properties: values survive the way through JSON, whatever they are.

use durable_core::interpreter::value::{from_json, to_json};
use proptest::prelude::*;
use serde_json::{Value, json};

/// JSON forms of values of every kind, nested.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "-?[1-9][0-9]{20,60}".prop_map(|digits| serde_json::from_str(&digits).unwrap()),
        any::<f64>().prop_map(|float| match float {
            float if float.is_nan() => json!({"$py": "float", "value": "nan"}),
            float if float.is_infinite() && float > 0.0 => json!({"$py": "float", "value": "inf"}),
            float if float.is_infinite() => json!({"$py": "float", "value": "-inf"}),
            float => json!(float),
        }),
        any::<String>().prop_map(Value::from),
        "([A-Za-z0-9+/]{4}){0,8}".prop_map(|text| json!({"$py": "bytes", "base64": text})),
        "-?[0-9]{1,20}\\.[0-9]{1,20}".prop_map(|text| json!({"$py": "decimal", "value": text})),
        "/[a-z]{1,10}/[a-z]{1,10}".prop_map(|text| json!({"$py": "path", "value": text})),
        (1i32..=9999, 1u32..=12, 1u32..=28)
            .prop_map(|(y, m, d)| json!({"$py": "date", "value": format!("{y:04}-{m:02}-{d:02}")})),
        (0u32..24, 0u32..60, 0u32..60, 1u32..1_000_000, -86_340i32..86_340).prop_map(|(h, m, s, us, offset)| {
            let (sign, offset) = (if offset / 60 < 0 { '-' } else { '+' }, offset.abs() / 60);
            let iso = format!("2024-02-29T{h:02}:{m:02}:{s:02}.{us:06}{sign}{:02}:{:02}", offset / 60, offset % 60);
            json!({"$py": "datetime", "value": iso})
        }),
        (0u32..24, 0u32..60).prop_map(|(h, m)| json!({"$py": "time", "value": format!("{h:02}:{m:02}:00"), "fold": 1})),
        (-999i32..999, 0i32..86_400, 0i32..1_000_000)
            .prop_map(|(d, s, us)| json!({"$py": "timedelta", "days": d, "seconds": s, "microseconds": us})),
        (-86_399i32..86_400).prop_map(|seconds| json!({"$py": "timezone", "seconds": seconds, "zone": "X"})),
        (any::<i32>(), any::<i32>())
            .prop_map(|(a, b)| json!({"$py": "complex", "real": f64::from(a), "imag": f64::from(b)})),
        ".{0,12}".prop_map(|text| json!({"$py": "exception", "type": "ValueError", "message": text})),
        Just(json!({"$py": "ellipsis"})),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let key = prop_oneof!["[a-z]{1,6}", "\\$[a-z]{0,3}"].prop_filter("not the tag", |key| key != "$py");
        let fields = prop::collection::btree_map("[a-z]{1,6}", inner.clone(), 1..4);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| json!({"$py": "tuple", "items": items})),
            prop::collection::btree_set(any::<i32>(), 0..5).prop_map(|items| json!({"$py": "set", "items": items})),
            prop::collection::btree_set(any::<i32>(), 0..5)
                .prop_map(|items| json!({"$py": "frozenset", "items": items})),
            prop::collection::btree_map(key, inner.clone(), 0..5).prop_map(|map| json!(map)),
            prop::collection::btree_map(any::<i32>(), inner.clone(), 1..4)
                .prop_map(|map| json!({"$py": "dict", "items": map.into_iter().collect::<Vec<_>>()})),
            inner.prop_map(|value| json!({"$py": "dict", "items": [["$py", value]]})),
            fields.clone().prop_map(|fields| json!({"$py": "object", "type": "Video", "fields": fields})),
            fields.prop_map(|fields| json!({"$py": "namedtuple", "type": "Point", "fields": fields})),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn values_survive_the_way_in_and_out(value in value()) {
        let object = from_json(&value).unwrap();
        let back = to_json(object.as_ref()).unwrap();
        prop_assert_eq!(back.to_string(), value.to_string());
    }

    #[test]
    fn no_json_makes_the_reader_panic(text in "[\\[\\]{}\",:$py0-9a-z.-]{0,60}") {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            let _ = from_json(&value);
        }
    }

    #[test]
    fn malformed_tags_are_refused_with_a_sentence(
        tag in prop::sample::select(vec![
            "tuple", "set", "dict", "bytes", "float", "complex", "decimal", "path", "date", "time", "datetime",
            "timedelta", "timezone", "namedtuple", "object", "exception", "other",
        ]),
        key in prop::sample::select(vec!["items", "value", "base64", "days", "seconds", "fields", "type", "real"]),
        junk in prop_oneof![Just(json!(3.5)), Just(json!("x")), Just(json!([1])), Just(json!({})), Just(Value::Null)],
    ) {
        let value = json!({"$py": tag, key: junk});
        if let Err(refusal) = from_json(&value) {
            prop_assert!(refusal.to_string().len() > 10);
        }
    }
}
