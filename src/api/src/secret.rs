//! Calls about tenants' secrets. Values go in with [`Set`] and come out nowhere.

use mvm_model::record::Millis;
use mvm_model::secret::{SecretName, Secrets, in_clear};
use mvm_model::{Digest, InstancePath, TenantName};
use serde::{Deserialize, Serialize};

/// Sets secrets of a tenant, new ones or new values, and delivers them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// Whose.
    pub tenant: TenantName,
    /// Names and values.
    #[serde(with = "in_clear")]
    pub secrets: Secrets,
}

/// Encrypts a tenant's secrets anew under the next epoch and delivers them again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Whose.
    pub tenant: TenantName,
}

/// Removes secrets of a tenant, from its running instances as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Whose.
    pub tenant: TenantName,
    /// Which.
    pub doomed: Doomed,
}

/// Which secrets to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doomed {
    /// These.
    Names(Vec<SecretName>),
    /// Every one, also when they cannot be opened any more.
    All,
}

/// A tenant's secrets without their values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Whose.
    pub tenant: TenantName,
}

/// What [`List`] answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Whose.
    pub tenant_id: TenantName,
    /// Counts their changes; 0 before the first.
    pub epoch: u64,
    /// A digest that changes with them and tells nothing of them.
    pub secrets_hash: Option<Digest>,
    /// By name.
    pub secrets: Vec<View>,
}

/// A secret: everything but its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its name.
    pub name: SecretName,
    /// Size of its value, bytes.
    pub size: usize,
    /// When it was set.
    pub set_at: Millis,
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Whose.
    pub tenant_id: TenantName,
    /// The epoch from now on.
    pub epoch: u64,
    /// The secrets that were set or removed.
    pub names: Vec<SecretName>,
    /// Who has them now and who gets them when.
    pub instances: Vec<Delivered>,
}

/// An instance and when it has the secrets as they are now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// `<tenant>/<pool>/<id>`.
    pub instance: InstancePath,
    /// When.
    #[serde(flatten)]
    pub delivery: Delivery,
}

/// When an instance has the secrets as they are now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "when", rename_all = "snake_case")]
pub enum Delivery {
    /// It has them.
    Now,
    /// When it resumes: its guest is paused.
    AtResume,
    /// At its wake; they are ready.
    AtWake,
    /// At its next start.
    AtStart,
    /// It goes on with the old ones, or with none, for this reason.
    NotYet {
        /// Why.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Call, Request};
    use mvm_model::secret::SecretValue;

    #[test]
    fn a_value_travels_and_is_never_shown() {
        let name: SecretName = "TOKEN".parse().unwrap();
        let secrets = Secrets::from([(name, SecretValue::new(b"hunter2".to_vec()))]);
        let set = Set { tenant: "acme".parse().unwrap(), secrets };
        let body = serde_json::to_vec(&set).unwrap();
        let read = Request::decode(Set::NAME, &body).unwrap();
        assert!(matches!(&read, Request::SecretSet(read) if *read == set));
        assert!(!format!("{set:?}{read:?}").contains("hunter2"));
        let bad = Request::decode(Set::NAME, br#"{"tenant":"acme","secrets":{"A":"hunter2"}}"#);
        assert!(!bad.unwrap_err().to_string().contains("hunter2"));
    }

    #[test]
    fn a_delivery_is_one_flat_object() {
        let instance: InstancePath = "acme/workers/i-00000007".parse().unwrap();
        let why = "it is in use".to_owned();
        let delivered = Delivered { instance, delivery: Delivery::NotYet { why } };
        let json = serde_json::json!({
            "instance": "acme/workers/i-00000007", "when": "not_yet", "why": "it is in use" });
        assert_eq!(serde_json::to_value(&delivered).unwrap(), json);
        assert_eq!(serde_json::from_value::<Delivered>(json).unwrap(), delivered);
    }
}
