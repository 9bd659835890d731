//! Chat templates against Jinja2 itself, configured as transformers does: what `make templates` has stored in
//! tests/fixtures/templates. `known.txt` there names the cases in which we refuse what Jinja2 writes, all for reasons that
//! src/sidecar/template/mod.rs states; none may be missing from it, none that has been mended may stay, and none may be of another
//! text, or taken though Jinja2 refuses it.
#![cfg(feature = "sidecar")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use reward_sidecar::sidecar::template::{Date, Template};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};

/// JSON whose objects keep their order.
#[derive(Debug, Clone, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Integer(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Integer(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Float(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
                let mut object = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    object.push(entry);
                }
                Ok(Json::Object(object))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i128(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Object(entries) => {
                let mut object = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    object.serialize_entry(key, value)?;
                }
                object.end()
            }
        }
    }
}

/// What came of a case, of ours or of Jinja2's.
#[derive(Debug, PartialEq)]
enum Outcome {
    Text(String),
    /// A longer text's hash.
    Hash(String),
    Refused,
}

/// FNV-1a of 64 bits, as tools/templates/make.py writes it.
fn fnv(text: &str) -> String {
    let step = |value: u64, byte: u8| (value ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates")
}

fn ours(source: &str, variables: &Json) -> Outcome {
    let date = Date::parse("2024-07-06");
    let written = Template::new(source, &BTreeMap::new(), date).ok().map(|template| template.render(variables));
    written.and_then(Result::ok).map_or(Outcome::Refused, |written| Outcome::Text(written.text))
}

/// Family, source, ours and Jinja2's of each case in a file.
fn cases(name: &str) -> Vec<(String, String, Outcome, Outcome)> {
    let file = std::fs::read_to_string(folder().join(format!("{name}.jsonl"))).unwrap();
    let mut lines = file.lines();
    let variables: Vec<Json> = serde_json::from_str(lines.next().unwrap()).unwrap();
    let mut sources: Vec<String> = Vec::new();
    lines
        .map(|line| {
            let (family, source, at, result): (String, Json, usize, Json) = serde_json::from_str(line).unwrap();
            let source = match source {
                Json::Text(source) => source,
                Json::Integer(same) => sources[usize::try_from(same).unwrap()].clone(),
                other => panic!("{other:?} is no source"),
            };
            sources.push(source.clone());
            let reference = match result {
                Json::Text(text) => Outcome::Text(text),
                Json::Object(entries) => match entries.into_iter().next() {
                    Some((key, Json::Text(hash))) if key == "hash" => Outcome::Hash(hash),
                    _ => Outcome::Refused,
                },
                other => panic!("{other:?} is no result"),
            };
            let ours = match (ours(&source, &variables[at]), &reference) {
                (Outcome::Text(text), Outcome::Hash(hash)) if fnv(&text) == *hash => Outcome::Hash(hash.clone()),
                (ours, _) => ours,
            };
            (family, source, ours, reference)
        })
        .collect()
}

#[test]
fn templates_render_as_jinja2_renders_them() {
    let path = folder().join("known.txt");
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let known: BTreeSet<&str> = known.lines().collect();
    let (mut differ, mut counts) = (BTreeSet::new(), BTreeMap::<String, [usize; 4]>::new());
    for name in ["corpus", "methods", "random", "programs"] {
        for (n, (family, source, ours, reference)) in cases(name).into_iter().enumerate() {
            let count = counts.entry(family).or_default();
            count[0] += 1;
            if ours == reference {
                continue;
            }
            let kind = match (&ours, &reference) {
                (Outcome::Refused, _) => 1,
                (_, Outcome::Refused) => 2,
                _ => 3,
            };
            count[kind] += 1;
            let case = format!("{name} {n} {}", ["", "refused", "taken", "other"][kind]);
            println!("differs: {case}");
            if !known.contains(case.as_str()) {
                println!("  {source:?}\n  ours {ours:?}\n  Jinja2 {reference:?}");
            }
            differ.insert(case);
        }
    }
    for (family, [all, refused, taken, other]) in counts {
        println!(
            "{family}: {all} cases; {refused} refused, {taken} taken that Jinja2 refuses, {other} of another text"
        );
    }
    assert!(known.iter().all(|case| case.ends_with(" refused")), "known.txt lists what is refused, and nothing else");
    let differ: BTreeSet<&str> = differ.iter().map(String::as_str).collect();
    assert_eq!(differ, known, "cases that differ from Jinja2, and those that are known to");
}
