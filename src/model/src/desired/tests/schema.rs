//! The published JSON Schema says what the reader does: the same fields, the same verdict on
//! good and bad documents.

use std::collections::BTreeSet;

use super::*;
use crate::image::{FlakeRef, Profile};

const SCHEMA: &str = include_str!("../../../../../docs/reference/desired-state.schema.json");

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// As much of JSON Schema as ours uses; anything else in it is a mistake.
struct Validator(Value);

impl Validator {
    fn is_valid(&self, document: &Value) -> bool {
        self.accepts(&self.0, document)
    }

    fn accepts(&self, schema: &Value, value: &Value) -> bool {
        match schema {
            Value::Bool(verdict) => *verdict,
            Value::Object(rules) => {
                rules.iter().all(|(rule, argument)| self.rule(schema, rule, argument, value))
            }
            _ => panic!("{schema} is no schema"),
        }
    }

    fn rule(&self, schema: &Value, rule: &str, argument: &Value, value: &Value) -> bool {
        match rule {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let pointer = argument.as_str().unwrap().strip_prefix('#').unwrap();
                self.accepts(self.0.pointer(pointer).unwrap(), value)
            }
            "type" => match argument.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("type {other}"),
            },
            "const" => value == argument,
            "enum" => argument.as_array().unwrap().contains(value),
            "minimum" => value.as_i64().is_none_or(|number| number >= argument.as_i64().unwrap()),
            "maximum" => value.as_u64().is_none_or(|number| number <= argument.as_u64().unwrap()),
            "pattern" => {
                value.as_str().is_none_or(|text| matches(argument.as_str().unwrap(), text))
            }
            "maxLength" => {
                value.as_str().is_none_or(|text| text.len() as u64 <= argument.as_u64().unwrap())
            }
            "required" => value.as_object().is_none_or(|map| {
                let names = argument.as_array().unwrap().iter();
                names.map(|name| name.as_str().unwrap()).all(|name| map.contains_key(name))
            }),
            "properties" => value.as_object().is_none_or(|map| {
                let known = argument.as_object().unwrap().iter();
                known
                    .filter_map(|(name, rule)| Some((rule, map.get(name)?)))
                    .all(|(rule, value)| self.accepts(rule, value))
            }),
            "additionalProperties" => value.as_object().is_none_or(|map| {
                let known = schema.get("properties");
                let is_known = |name: &str| known.is_some_and(|known| known.get(name).is_some());
                let others = map.iter().filter(|(name, _)| !is_known(name.as_str()));
                others.into_iter().all(|(_, value)| self.accepts(argument, value))
            }),
            "items" => value
                .as_array()
                .is_none_or(|list| list.iter().all(|entry| self.accepts(argument, entry))),
            "oneOf" => {
                let fitting = argument.as_array().unwrap().iter();
                fitting.filter(|schema| self.accepts(schema, value)).count() == 1
            }
            other => panic!("the test knows no rule {other:?}"),
        }
    }
}

/// The patterns of the schema are the rules of these types.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern {
        "^[a-z][a-z0-9-]{0,38}[a-z0-9]$" => text.parse::<TenantName>().is_ok(),
        "^[0-9a-f]{64}$" => text.parse::<Digest>().is_ok(),
        "^i-[0-9a-f]{8}$" => text.parse::<InstanceId>().is_ok(),
        "^(gateway|builder|worker|capability-[a-z0-9]{1,20})$" => text.parse::<Role>().is_ok(),
        "^[0-9]{1,3}(\\.[0-9]{1,3}){3}/(1[6-9]|2[0-8])$" => text.parse::<Subnet>().is_ok(),
        "^[0-9]{1,3}(\\.[0-9]{1,3}){3}/[0-9]{1,2}$" => text.parse::<ipnet::Ipv4Net>().is_ok(),
        flake if flake.starts_with("^((path:)?") => text.parse::<FlakeRef>().is_ok(),
        other => panic!("the test knows no pattern {other:?}"),
    }
}

/// All paths of objects' fields below a value, list places left out.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = format!("{path}/{name}");
                fields(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(list) => list.iter().for_each(|entry| fields(entry, path, found)),
        _ => {}
    }
}

#[test]
fn good_documents_are_good_to_both() {
    let validator = Validator(schema());
    for good in [full(), small(), json!({ "schema_version": 1, "tenants": [] })] {
        assert!(validator.is_valid(&good));
        assert_eq!(strict(&good.to_string()).problems, []);
    }
}

/// Spoils every field of a document in every way and holds the two verdicts together.
#[test]
fn bad_documents_are_bad_to_both() {
    let validator = Validator(schema());
    let spoilers = [
        json!("x y"),
        json!(-1),
        json!(1.5),
        json!([]),
        json!({ "x": 1 }),
        json!(true),
        json!(4096),
    ];
    let mut tried = 0;
    for original in [full(), small()] {
        for pointer in pointers(&original, "") {
            for spoiler in &spoilers {
                let mut document = original.clone();
                *document.pointer_mut(&pointer).unwrap() = spoiler.clone();
                same_verdict(&validator, &document, &pointer);
                tried += 1;
            }
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            for without in [true, false] {
                let mut document = original.clone();
                if let Some(Value::Object(map)) = document.pointer_mut(parent) {
                    match without {
                        true => drop(map.remove(name)),
                        false => drop(map.insert(format!("{name}x"), json!(1))),
                    }
                }
                same_verdict(&validator, &document, &pointer);
            }
        }
    }
    assert!(tried > 300, "{tried}");
}

fn same_verdict(validator: &Validator, document: &Value, pointer: &str) {
    let read = read(&document.to_string(), Reader::Strict);
    let good = read.as_ref().is_ok_and(|document| document.problems.is_empty());
    assert_eq!(validator.is_valid(document), good, "{pointer}: {read:?}\n{document:#}");
}

pub(super) fn pointers(value: &Value, path: &str) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => vec![],
    };
    let below = children.into_iter().flat_map(|(name, value)| {
        let path = format!("{path}/{name}");
        let mut all = pointers(value, &path);
        all.push(path);
        all
    });
    below.collect()
}

#[test]
fn the_schema_names_the_fields_the_full_document_has() {
    let (mut known, mut used) = (BTreeSet::new(), BTreeSet::new());
    fields(&full(), "", &mut used);
    collect(&schema(), &schema(), "", &mut known);
    // Older forms, the other kinds of image, and what only daemons write.
    let others =
        ["/min_reader", "/pools/flake_ref", "/pools/profile", "/image/digest", "/image/role"];
    known.retain(|path| !others.iter().any(|other| path.ends_with(other)));
    used.retain(|path| !path.contains("/labels/"));
    assert_eq!(known, used);
}

fn collect(root: &Value, schema: &Value, path: &str, known: &mut BTreeSet<String>) {
    if let Some(pointer) = schema.get("$ref") {
        let target = root.pointer(&pointer.as_str().unwrap()[1..]).unwrap();
        collect(root, target, path, known);
    }
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        if schema.is_boolean() {
            continue;
        }
        let path = format!("{path}/{name}");
        collect(root, schema, &path, known);
        known.insert(path);
    }
    if let Some(items) = schema.get("items") {
        collect(root, items, path, known);
    }
    for one in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        collect(root, one, path, known);
    }
}

#[test]
fn the_schema_knows_every_profile() {
    let schema = schema();
    let listed = schema["$defs"]["profile"]["enum"].as_array().unwrap();
    let listed: Vec<&str> = listed.iter().map(|word| word.as_str().unwrap()).collect();
    let error = "no such profile".parse::<Profile>().unwrap_err().to_string();
    assert!(error.ends_with(&format!("(one of: {})", listed.join(", "))), "{error}");
}
