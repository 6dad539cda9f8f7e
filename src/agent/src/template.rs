//! Templates: the deployments `mvm new` knows, and what a person may change of one.
//!
//! A template is a file beside this one, with the reason for each pool in it. `--config FILE`
//! overrides its numbers; a field or pool it does not have is a mistake, not ignored.

use std::collections::BTreeMap;

use mvm_model::image::{Profile, Role};
use mvm_model::record::{DesiredCounts, Egress};
use mvm_model::resources::{Quotas, Resources};
use mvm_model::{PoolName, ProfileName};
use serde::Deserialize;

use crate::error::{Error, Kind, Result};

/// The templates, by name.
const TEMPLATES: [(&str, &str); 2] = [
    ("hello", include_str!("template/hello.json")),
    ("openclaw", include_str!("template/openclaw.json")),
];

/// A deployment as a template has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// What it is, for people.
    pub about: String,
    /// Its pools, gateways first.
    pub pools: Vec<TemplatePool>,
    /// The tenant's limits.
    #[serde(skip)]
    pub quotas: Quotas,
    /// What the tenant's guests may reach.
    #[serde(skip)]
    pub egress: Egress,
}

/// A pool of a template.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplatePool {
    /// Its name.
    pub pool_id: PoolName,
    /// Why it is there and as it is.
    pub about: String,
    /// What its image holds.
    pub profile: Profile,
    /// What its instances are for.
    pub role: Role,
    /// What each is given.
    pub instance_resources: Resources,
    /// How many of them.
    pub desired_counts: DesiredCounts,
}

impl TemplatePool {
    /// Its profile as a flake names it.
    ///
    /// # Errors
    /// Never for the profiles there are.
    pub fn profile_name(&self) -> Result<ProfileName> {
        self.profile.as_str().parse().map_err(|error: mvm_model::name::BadName| {
            Error::new(Kind::Invalid, &self.pool_id, error.to_string())
        })
    }
}

/// What a person changes of a template.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Changes {
    quotas: Option<Quotas>,
    egress: Option<Egress>,
    pools: BTreeMap<PoolName, PoolChanges>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PoolChanges {
    vcpus: Option<u32>,
    mem_mib: Option<u64>,
    data_disk_mib: Option<u64>,
    running: Option<u32>,
    warm: Option<u32>,
    sleeping: Option<u32>,
}

impl PoolChanges {
    fn apply(self, pool: &mut TemplatePool) {
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        set(&mut pool.instance_resources.vcpus, self.vcpus);
        set(&mut pool.instance_resources.mem_mib, self.mem_mib);
        set(&mut pool.instance_resources.data_disk_mib, self.data_disk_mib);
        set(&mut pool.desired_counts.running, self.running);
        set(&mut pool.desired_counts.warm, self.warm);
        set(&mut pool.desired_counts.sleeping, self.sleeping);
    }
}

/// The names there are.
pub fn names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|(name, _)| *name)
}

/// A template with a person's changes, checked.
///
/// # Errors
/// [`Kind::NotFound`] when there is none of that name, [`Kind::Invalid`] when the changes make no
/// sense, naming the field.
pub fn read(name: &str, changes: Option<&str>) -> Result<Template> {
    let unknown = || {
        let known = names().collect::<Vec<_>>().join(", ");
        Error::new(Kind::NotFound, name, format!("there is no template {name}"))
            .hint(format!("choose one of: {known}"))
    };
    let (_, text) = TEMPLATES.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
    let mut template: Template = serde_json::from_str(text).map_err(|error| {
        Error::new(Kind::Failed, name, "this program's own template is damaged").because(error)
    })?;
    if let Some(text) = changes {
        change(&mut template, text)?;
    }
    check(&template)?;
    Ok(template)
}

fn change(template: &mut Template, text: &str) -> Result<()> {
    const HINT: &str = "it holds quotas, egress and pools.<pool>.{vcpus, mem_mib, data_disk_mib, \
                        running, warm, sleeping}; docs/how-to/new-deployment.md has an example";
    let bad = |text: String| Error::new(Kind::Invalid, "--config", text).hint(HINT);
    let changes: Changes =
        serde_json::from_str(text).map_err(|error| bad(format!("cannot be used: {error}")))?;
    template.quotas = changes.quotas.unwrap_or_default();
    template.egress = changes.egress.unwrap_or_default();
    for (name, change) in changes.pools {
        let pool = template.pools.iter_mut().find(|pool| pool.pool_id == name);
        change.apply(pool.ok_or_else(|| bad(format!("the template has no pool {name}")))?);
    }
    Ok(())
}

fn check(template: &Template) -> Result<()> {
    for pool in &template.pools {
        pool.instance_resources.check().map_err(|error| {
            Error::new(Kind::Invalid, &pool.pool_id, error.to_string())
                .hint("change it in the file given with --config")
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of the user's own document.
    #[test]
    fn openclaw_has_the_documented_numbers() {
        let template = read("openclaw", None).unwrap();
        let [gateways, workers] = &template.pools[..] else { panic!("two pools") };
        let given = |pool: &TemplatePool| {
            let Resources { vcpus, mem_mib, data_disk_mib } = pool.instance_resources;
            (vcpus, mem_mib, data_disk_mib)
        };
        assert_eq!((given(gateways), &gateways.role), ((2, 1024, 0), &Role::Gateway));
        assert_eq!((given(workers), &workers.role), ((2, 1024, 2048), &Role::Worker));
        let counts = |running, warm| DesiredCounts { running, warm, sleeping: 0 };
        assert_eq!(gateways.desired_counts, counts(1, 0));
        assert_eq!(workers.desired_counts, counts(2, 1));
    }

    #[test]
    fn changes_are_taken_and_mistakes_are_not() {
        let text = r#"{"pools": {"workers": {"running": 5, "mem_mib": 512}}}"#;
        let template = read("hello", Some(text)).unwrap();
        let workers = &template.pools[1];
        assert_eq!((workers.desired_counts.running, workers.desired_counts.warm), (5, 1));
        assert_eq!(workers.instance_resources.mem_mib, 512);
        for wrong in [
            "",
            "{",
            r#"{"pools": {"wrokers": {}}}"#,
            r#"{"pools": {"workers": {"runing": 1}}}"#,
            r#"{"pools": {"workers": {"vcpus": 0}}}"#,
            r#"{"pools": {"workers": {"running": -1}}}"#,
        ] {
            assert_eq!(read("hello", Some(wrong)).unwrap_err().kind, Kind::Invalid, "{wrong}");
        }
        assert_eq!(read("goodbye", None).unwrap_err().kind, Kind::NotFound);
    }

    #[test]
    fn every_template_fits_a_tenant_of_its_own() {
        for name in names() {
            let template = read(name, None).unwrap();
            let counts = template.pools.iter().map(|pool| pool.desired_counts);
            let running: u32 = counts.map(|counts| counts.running + counts.warm).sum();
            assert!(running <= template.quotas.max_running, "{name}");
            assert!(template.pools.iter().all(|pool| !pool.about.is_empty()));
        }
    }
}
