//! What `nft` lists of one of our tables, indexed once: comparing hundreds of chains against it
//! stays linear.

use std::collections::HashMap;

use serde_json::Value;

use super::{Rule, TABLE};

/// One of our tables as the kernel has it.
#[derive(Debug, Default)]
pub(in super::super) struct Listing {
    chains: HashMap<String, ListedChain>,
    sets: HashMap<String, Vec<Value>>,
}

/// A chain as listed: its declaration and what identifies each rule.
#[derive(Debug, Default)]
pub(super) struct ListedChain {
    pub declaration: Value,
    pub rules: Vec<String>,
}

impl Listing {
    /// Indexes the objects `nft -j list` printed; those of other tables are left out.
    pub(in super::super) fn of(objects: Vec<Value>) -> Self {
        let mut listing = Self::default();
        for mut object in objects {
            let Some((kind, body)) = object.as_object_mut().and_then(|o| o.iter_mut().next())
            else {
                continue;
            };
            if body["table"] == TABLE {
                listing.add(kind, body.take());
            }
        }
        listing
    }

    fn add(&mut self, kind: &str, mut body: Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match kind {
            "chain" => {
                let name = text(&body["name"]);
                self.chains.entry(name).or_default().declaration = body;
            }
            "rule" => {
                let chain = self.chains.entry(text(&body["chain"])).or_default();
                chain.rules.push(Rule::essence_of(&body));
            }
            "set" | "map" => {
                let elements = match body["elem"].take() {
                    Value::Array(elements) => elements,
                    _ => Vec::new(),
                };
                self.sets.insert(text(&body["name"]), elements);
            }
            _ => {}
        }
    }

    pub(super) fn chain(&self, name: &str) -> Option<&ListedChain> {
        self.chains.get(name)
    }

    /// The elements of a set or map; none when it is not there.
    pub(super) fn elements(&self, set: &str) -> &[Value] {
        self.sets.get(set).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether there is a set or map of that name.
    pub(super) fn has_set(&self, name: &str) -> bool {
        self.sets.contains_key(name)
    }

    /// The names of all chains.
    pub(in super::super) fn chain_names(&self) -> impl Iterator<Item = &str> {
        self.chains.keys().map(String::as_str)
    }

    /// Whether any chain belongs to a tenant: only base chains have a hook.
    pub(in super::super) fn has_tenants(&self) -> bool {
        self.chains.values().any(|chain| chain.declaration["hook"].is_null())
    }
}
