//! The readers of each object of a document; the names of the fields stand here once.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    AddressRange, DesiredState, Document, Fields, InstanceSpec, NetworkSpec, PoolSpec, Reader,
    SCHEMA_VERSION, TenantSpec, Unreadable, Wanted, parse,
};
use crate::image::{ImageSource, Role};
use crate::policy::{IdlePolicy, Route, RuntimePolicy};
use crate::record::{DesiredCounts, Egress, ManagedBy};
use crate::resources::{Quotas, Resources};

/// Reads a document.
///
/// # Errors
/// [`Unreadable`] when it says nothing usable; problems of single objects are in the
/// [`Document`].
pub fn read(text: &str, reader: Reader) -> Result<Document, Unreadable> {
    let mut problems = Vec::new();
    let mut fields = Fields::of(parse(text)?, String::new(), reader, &mut problems);
    version(&mut fields, reader)?;
    let mut state = DesiredState {
        node_id: fields.optional("node_id"),
        generation: fields.optional("generation"),
        epoch: fields.optional("epoch"),
        prune_unknown_tenants: fields.or("prune_unknown_tenants", false),
        prune_unknown_pools: fields.or("prune_unknown_pools", false),
        ..DesiredState::default()
    };
    // A daemon's generation or prune flag that cannot be read must not silently become a default.
    if reader == Reader::Tolerant {
        fields.refuse_broken()?;
    }
    state.tenants = tenants(&mut fields)?;
    fields.finish();
    Ok(Document { state, problems })
}

/// Takes the version fields every document has.
pub(crate) fn version(fields: &mut Fields<'_>, reader: Reader) -> Result<(), Unreadable> {
    let Some(found) = fields.take("schema_version").as_ref().and_then(Value::as_u64) else {
        return Err(Unreadable::Shape("schema_version is missing or no number".into()));
    };
    let needed = match fields.take("min_reader") {
        None => 1,
        Some(value) => {
            value.as_u64().ok_or_else(|| Unreadable::Shape("min_reader is no number".into()))?
        }
    };
    let ours = u64::from(SCHEMA_VERSION);
    if needed > ours {
        return Err(Unreadable::NeedsNewer { needed });
    }
    match reader {
        Reader::Tolerant if found >= ours => Ok(()),
        _ if found == ours => Ok(()),
        _ => Err(Unreadable::Version { found }),
    }
}

/// Takes the list of tenants every document has.
pub(crate) fn tenants(fields: &mut Fields<'_>) -> Result<Vec<TenantSpec>, Unreadable> {
    if !fields.has("tenants") {
        return Err(Unreadable::Shape("tenants is missing".into()));
    }
    fields.list("tenants", tenant).ok_or_else(|| Unreadable::Shape("tenants is not a list".into()))
}

fn tenant(fields: &mut Fields<'_>) -> Option<TenantSpec> {
    fields.named("tenant_id");
    let tenant_id = fields.required("tenant_id");
    let network = fields.object("network", network).flatten();
    let quotas = fields.object("quotas", quotas);
    let egress = fields.or("egress", Egress::default());
    let pinned = fields.or("pinned", false);
    let secrets_hash = fields.optional("secrets_hash");
    let managed_by = fields.or("managed_by", ManagedBy::default());
    let orphaned = fields.or("orphaned", false);
    let pools = fields.list("pools", pool).unwrap_or_default();
    Some(TenantSpec {
        tenant_id: tenant_id?,
        network: network?,
        quotas: quotas?,
        egress,
        pinned,
        secrets_hash,
        managed_by,
        orphaned,
        pools,
    })
}

fn network(fields: &mut Fields<'_>) -> Option<NetworkSpec> {
    let tenant_net_id = fields.required("tenant_net_id");
    let ipv4_subnet = fields.required("ipv4_subnet");
    let address_range = match fields.has("address_range") {
        true => Some(fields.object("address_range", range).flatten()?),
        false => {
            fields.take("address_range");
            None
        }
    };
    Some(NetworkSpec { tenant_net_id: tenant_net_id?, ipv4_subnet: ipv4_subnet?, address_range })
}

fn range(fields: &mut Fields<'_>) -> Option<AddressRange> {
    let (first, last) = (fields.required("first"), fields.required("last"));
    Some(AddressRange { first: first?, last: last? })
}

fn quotas(fields: &mut Fields<'_>) -> Quotas {
    let default = Quotas::default();
    Quotas {
        max_vcpus: fields.or("max_vcpus", default.max_vcpus),
        max_mem_mib: fields.or("max_mem_mib", default.max_mem_mib),
        max_running: fields.or("max_running", default.max_running),
        max_warm: fields.or("max_warm", default.max_warm),
        max_pools: fields.or("max_pools", default.max_pools),
        max_instances_per_pool: fields.or("max_instances_per_pool", default.max_instances_per_pool),
        max_disk_gib: fields.or("max_disk_gib", default.max_disk_gib),
    }
}

fn pool(fields: &mut Fields<'_>) -> Option<PoolSpec> {
    fields.named("pool_id");
    let pool_id = fields.required("pool_id");
    let image = image(fields);
    let role = fields.or("role", Role::Worker);
    let resources = fields.object("instance_resources", resources).flatten();
    let desired_counts = fields.object("desired_counts", counts);
    let instances = fields.list("instances", instance);
    let runtime_policy = fields.object("runtime_policy", runtime_policy);
    let idle = fields.object("idle", idle);
    let (pinned, critical) = (fields.or("pinned", false), fields.or("critical", false));
    let routes = fields.list("routes", route).unwrap_or_default();
    let secret_scopes = fields.optional("secret_scopes");
    let managed_by = fields.or("managed_by", ManagedBy::default());
    let orphaned = fields.or("orphaned", false);
    Some(PoolSpec {
        pool_id: pool_id?,
        image: image?,
        role,
        instance_resources: resources?,
        desired_counts: desired_counts?,
        instances,
        runtime_policy: runtime_policy?,
        idle: idle?,
        pinned,
        critical,
        routes,
        secret_scopes,
        managed_by,
        orphaned,
    })
}

/// `image`, or the older pair `flake_ref` and `profile`.
fn image(fields: &mut Fields<'_>) -> Option<ImageSource> {
    if fields.has("image") {
        for older in ["flake_ref", "profile"] {
            if fields.take(older).is_some() {
                fields.wrong(older, "is there beside \"image\"", "keep \"image\" alone");
            }
        }
        return source(fields);
    }
    fields.take("image");
    if !fields.has("flake_ref") {
        fields.wrong("image", "is missing", "add \"image\", or \"flake_ref\" and \"profile\"");
        fields.take("flake_ref");
        fields.take("profile");
        return None;
    }
    let (reference, profile) = (fields.required("flake_ref"), fields.required("profile"));
    Some(ImageSource::flake(reference?, profile?))
}

fn source(fields: &mut Fields<'_>) -> Option<ImageSource> {
    fields.object("image", |image| {
        let kind: String = image.required("kind")?;
        match kind.as_str() {
            "flake" => {
                let (reference, profile) = (image.required("ref"), image.required("profile"));
                let role = image.optional("role");
                Some(ImageSource::Flake { reference: reference?, profile: profile?, role })
            }
            "embedded" => {
                let (profile, role) = (image.required("profile"), image.optional("role"));
                Some(ImageSource::Embedded { profile: profile?, role })
            }
            "revision" => Some(ImageSource::Revision { digest: image.required("digest")? }),
            "oci" => {
                image.wrong("kind", "\"oci\" is reserved", "use flake, embedded or revision");
                image.take("reference");
                None
            }
            other => {
                let problem = format!("{other:?} is no kind of image");
                image.wrong("kind", &problem, "use flake, embedded or revision");
                None
            }
        }
    })?
}

fn resources(fields: &mut Fields<'_>) -> Option<Resources> {
    let (vcpus, mem_mib) = (fields.required("vcpus"), fields.required("mem_mib"));
    let data_disk_mib = fields.or("data_disk_mib", 0);
    Some(Resources { vcpus: vcpus?, mem_mib: mem_mib?, data_disk_mib })
}

fn counts(fields: &mut Fields<'_>) -> DesiredCounts {
    DesiredCounts {
        running: fields.or("running", 0),
        warm: fields.or("warm", 0),
        sleeping: fields.or("sleeping", 0),
    }
}

fn instance(fields: &mut Fields<'_>) -> Option<InstanceSpec> {
    fields.named("name");
    let name = fields.required("name");
    let spec = InstanceSpec {
        instance_id: fields.optional("instance_id"),
        offset: fields.optional("offset"),
        desired: fields.or("desired", Wanted::Running),
        labels: fields.or("labels", BTreeMap::new()),
        data_disk_mib: fields.optional("data_disk_mib"),
        revision: fields.optional("revision"),
        managed_by: fields.or("managed_by", ManagedBy::default()),
        orphaned: fields.or("orphaned", false),
        name: name?,
    };
    Some(spec)
}

fn runtime_policy(fields: &mut Fields<'_>) -> RuntimePolicy {
    let default = RuntimePolicy::default();
    RuntimePolicy {
        min_running_seconds: fields.or("min_running_seconds", default.min_running_seconds),
        min_warm_seconds: fields.or("min_warm_seconds", default.min_warm_seconds),
        drain_timeout_seconds: fields.or("drain_timeout_seconds", default.drain_timeout_seconds),
        graceful_shutdown_seconds: fields
            .or("graceful_shutdown_seconds", default.graceful_shutdown_seconds),
    }
}

fn idle(fields: &mut Fields<'_>) -> IdlePolicy {
    IdlePolicy {
        warm_after_seconds: fields.optional("warm_after_seconds"),
        sleep_after_seconds: fields.optional("sleep_after_seconds"),
        keep_running: fields.or("keep_running", 0),
        keep_warm: fields.or("keep_warm", 0),
    }
}

fn route(fields: &mut Fields<'_>) -> Option<Route> {
    let (hostname, port) = (fields.required("hostname"), fields.required("port"));
    Some(Route { hostname: hostname?, port: port? })
}
