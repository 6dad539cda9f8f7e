//! Interface aliases: how an interface says whose it is.
//!
//! Several mvm hosts may share a network namespace (tests, trials). An interface is ours only
//! if its alias carries our node id; everything else is left alone.

use std::fmt;

use mvm_model::{NetId, Offset, TenantName};

/// What one of our interfaces is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owned {
    /// A tenant's bridge.
    Tenant(TenantName),
    /// An instance's tap.
    Port(NetId, Offset),
}

/// Whose an interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// Ours, and what for.
    Us(Owned),
    /// Somebody else's, or an alias we cannot read.
    Other,
    /// It has no alias.
    Nobody,
}

/// An alias to be written.
pub(super) struct Alias<'a> {
    /// This host.
    pub(super) node_id: &'a str,
    /// What the interface is for.
    pub(super) owned: Owned,
}

impl fmt::Display for Alias<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owned {
            Owned::Tenant(tenant) => write!(f, "mvm:{}:tenant:{tenant}", self.node_id),
            Owned::Port(net, offset) => write!(f, "mvm:{}:port:{net}/{offset}", self.node_id),
        }
    }
}

/// Reads an alias as this node sees it.
pub(super) fn owner(node_id: &str, alias: Option<&str>) -> Owner {
    let Some(alias) = alias else { return Owner::Nobody };
    let ours = alias.strip_prefix("mvm:").and_then(|rest| rest.strip_prefix(node_id));
    match ours.and_then(|rest| rest.strip_prefix(':')).and_then(parse) {
        Some(owned) => Owner::Us(owned),
        None => Owner::Other,
    }
}

/// Whether an alias is some mvm's, ours or another's.
pub(super) fn is_any_mvm(alias: Option<&str>) -> bool {
    alias.is_some_and(|alias| alias.starts_with("mvm:"))
}

fn parse(rest: &str) -> Option<Owned> {
    match rest.split_once(':')? {
        ("tenant", name) => name.parse().ok().map(Owned::Tenant),
        ("port", place) => {
            let (net, offset) = place.split_once('/')?;
            Some(Owned::Port(net.parse().ok()?, Offset(offset.parse().ok()?)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_says_whose_it_is_and_nothing_else_does() {
        let port = Owned::Port(NetId::new(7).unwrap(), Offset(3));
        let text = Alias { node_id: "n1", owned: port.clone() }.to_string();
        assert_eq!(text, "mvm:n1:port:7/3");
        assert_eq!(owner("n1", Some(&text)), Owner::Us(port));
        assert_eq!(owner("n", Some(&text)), Owner::Other);
        assert_eq!(owner("n12", Some(&text)), Owner::Other);
        assert_eq!(owner("n1", Some("mvm:n1:tenant:../x")), Owner::Other);
        assert_eq!(owner("n1", None), Owner::Nobody);
    }
}
