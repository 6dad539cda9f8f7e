//! What a document of good fields can still contradict: each other, their bounds, their quotas.
//!
//! Pure and complete: every problem is reported with its object and a hint, none stops the rest.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::hash::Hash;

use super::{AddressRange, DesiredState, InstanceSpec, PoolSpec, Problem, TenantSpec, Wanted};
use crate::image::Role;
use crate::name::TenantName;
use crate::network::Offset;
use crate::policy::{MAX_SECONDS, Protection, Route};

mod quota;

/// The most labels of one instance.
const MAX_LABELS: usize = 32;

/// The longest key or value of a label, bytes.
const MAX_LABEL: usize = 200;

/// The tenant that is part of mvm.
const BUILTIN: &str = "dev";

/// Everything wrong with a document whose fields could be read.
pub fn check(state: &DesiredState) -> Vec<Problem> {
    let mut problems = check_tenants(&state.tenants);
    if state.prune_unknown_tenants && state.tenants.is_empty() {
        problems.push(Problem {
            object: "tenants".into(),
            problem:
                "is empty while prune_unknown_tenants is set, which would take down everything"
                    .into(),
            hint: "destroy tenants by name with 'mvm tenant destroy NAME --force'".into(),
        });
    }
    if state.node_id.as_ref().is_some_and(|id| !is_word(id, 64)) {
        problems.push(Problem {
            object: "node_id".into(),
            problem: "is no node id".into(),
            hint: "'mvm node info' shows it; it may be left away in a local file".into(),
        });
    }
    problems
}

/// Everything wrong with tenants, alone and with each other.
pub fn check_tenants(tenants: &[TenantSpec]) -> Vec<Problem> {
    let mut findings = Findings::default();
    networks(tenants, &mut findings);
    for tenant in tenants {
        self::tenant(tenant, &mut findings);
    }
    let ids = tenants.iter().flat_map(|tenant| {
        tenant.pools.iter().flat_map(move |pool| {
            let path = move |spec: &InstanceSpec| named_path(tenant, pool, spec);
            pool.named().iter().filter_map(move |spec| Some((spec.instance_id?, path(spec))))
        })
    });
    for (id, object, other) in duplicates(ids) {
        let problem = format!("instance_id {id} is also {other}'s");
        findings.add(&object, problem, "leave instance_id away; mvm draws one");
    }
    findings.0
}

/// What of one tenant is above its quotas or does not fit its subnet.
pub fn check_quotas(tenant: &TenantSpec) -> Vec<Problem> {
    let mut findings = Findings::default();
    quota::tenant(tenant, &mut findings);
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Problem>);

impl Findings {
    fn add(&mut self, object: &str, problem: impl Into<String>, hint: impl Into<String>) {
        let (problem, hint) = (problem.into(), hint.into());
        self.0.push(Problem { object: object.to_owned(), problem, hint });
    }
}

/// Each key seen before, with who has it again and who had it first.
fn duplicates<K: Eq + Hash + Ord, V: Clone>(
    entries: impl Iterator<Item = (K, V)>,
) -> Vec<(K, V, V)> {
    let (mut first, mut found) = (BTreeMap::new(), Vec::new());
    for (key, holder) in entries {
        match first.get(&key) {
            Some(other) => {
                let other = V::clone(other);
                found.push((key, holder, other));
            }
            None => {
                first.insert(key, holder);
            }
        }
    }
    found
}

fn named_path(tenant: &TenantSpec, pool: &PoolSpec, spec: &InstanceSpec) -> String {
    format!("{}/{}/{}", tenant.tenant_id, pool.pool_id, spec.name)
}

/// Names, net ids and subnets are each one tenant's.
fn networks(tenants: &[TenantSpec], findings: &mut Findings) {
    let names = tenants.iter().map(|tenant| (&tenant.tenant_id, &tenant.tenant_id));
    for (name, ..) in duplicates(names) {
        findings.add(name.as_str(), "is there twice", "keep one of the two");
    }
    let ids = tenants.iter().map(|tenant| (tenant.network.tenant_net_id, &tenant.tenant_id));
    for (id, name, other) in duplicates(ids) {
        let problem = format!("tenant_net_id {id} is also tenant {other}'s");
        findings.add(name.as_str(), problem, "give each tenant a net id of its own, 0 to 4095");
    }
    for (name, other, problem) in overlaps(tenants) {
        let hint = format!("give {name} or {other} another subnet");
        findings.add(name.as_str(), problem, hint);
    }
}

/// Overlapping subnets. Sorted by their start, a subnet overlaps an earlier one exactly when it
/// starts before the furthest end so far.
fn overlaps(tenants: &[TenantSpec]) -> Vec<(&TenantName, &TenantName, String)> {
    let mut sorted: Vec<&TenantSpec> = tenants.iter().collect();
    sorted.sort_by_key(|tenant| tenant.network.ipv4_subnet.net().network());
    let (mut found, mut widest) = (Vec::new(), None::<&TenantSpec>);
    for tenant in sorted {
        let subnet = tenant.network.ipv4_subnet;
        if let Some(wide) = widest {
            let theirs = wide.network.ipv4_subnet;
            if theirs.overlaps(subnet.net()) && wide.tenant_id != tenant.tenant_id {
                let problem =
                    format!("subnet {subnet} overlaps {theirs} of tenant {}", wide.tenant_id);
                found.push((&tenant.tenant_id, &wide.tenant_id, problem));
            }
            if theirs.net().broadcast() >= subnet.net().broadcast() {
                continue;
            }
        }
        widest = Some(tenant);
    }
    found
}

fn tenant(tenant: &TenantSpec, findings: &mut Findings) {
    let name = tenant.tenant_id.as_str();
    if name == BUILTIN {
        findings.add(name, "is part of mvm and not declared", "choose another name");
    }
    if let Some(range) = tenant.network.address_range {
        address_range(tenant, range, findings);
    }
    let pools = tenant.pools.iter().map(|pool| (&pool.pool_id, ()));
    for (pool, ..) in duplicates(pools) {
        findings.add(&format!("{name}/{pool}"), "is there twice", "keep one of the two");
    }
    for pool in &tenant.pools {
        self::pool(tenant, pool, findings);
    }
    offsets(tenant, findings);
    quota::tenant(tenant, findings);
}

fn address_range(tenant: &TenantSpec, range: AddressRange, findings: &mut Findings) {
    let subnet = tenant.network.ipv4_subnet;
    let inside = subnet.address(range.first).is_ok() && subnet.address(range.last).is_ok();
    if !inside || range.first > range.last {
        let problem = format!(
            "address_range {} to {} is not within {subnet} (2 to {})",
            range.first,
            range.last,
            subnet.max_offset()
        );
        findings.add(tenant.tenant_id.as_str(), problem, "leave it away for the whole subnet");
    }
}

/// Requested offsets are inside, each one instance's, and `.2` a gateway's.
fn offsets(tenant: &TenantSpec, findings: &mut Findings) {
    let mut asked = Vec::new();
    for pool in &tenant.pools {
        for spec in pool.named() {
            let Some(offset) = spec.offset else { continue };
            let object = named_path(tenant, pool, spec);
            if !tenant.network.may_lease(offset) {
                let problem =
                    format!("offset {offset} is not usable in {}", tenant.network.ipv4_subnet);
                findings.add(&object, problem, "leave offset away for the lowest free one");
            } else if offset == Offset::GATEWAY_INSTANCE && pool.role != Role::Gateway {
                let problem = format!("offset {offset} belongs to the tenant's gateway instance");
                findings.add(&object, problem, "use 3 or more, or role gateway");
            }
            asked.push((offset, object));
        }
    }
    for (offset, object, other) in duplicates(asked.into_iter()) {
        let problem = format!("offset {offset} is also {other}'s");
        findings.add(&object, problem, "leave offset away for the lowest free one");
    }
}

fn pool(tenant: &TenantSpec, pool: &PoolSpec, findings: &mut Findings) {
    let object = format!("{}/{}", tenant.tenant_id, pool.pool_id);
    if let Err(error) = pool.instance_resources.check() {
        findings.add(&object, error.to_string(), "change instance_resources");
    }
    let names = pool.named().iter().map(|spec| (&spec.name, ()));
    for (name, ..) in duplicates(names) {
        findings.add(&format!("{object}/{name}"), "is there twice", "keep one of the two");
    }
    for spec in pool.named() {
        named(&named_path(tenant, pool, spec), pool, spec, findings);
    }
    protection(&object, tenant, pool, findings);
    times(&object, pool, findings);
    for route in &pool.routes {
        self::route(&object, route, findings);
    }
    let scopes = pool.secret_scopes.iter().flatten();
    for scope in scopes.filter(|scope| !is_word(scope, 64)) {
        let problem = format!("secret scope {:?} is not a word", shown(scope));
        findings.add(&object, problem, "use up to 64 of a-z, 0-9, '-', '_' and '.'");
    }
    let parks = pool.idle.keep_running > pool.desired_counts.running;
    if pool.idle.is_active() && parks {
        let problem = format!(
            "idle.keep_running {} is above desired_counts.running {}",
            pool.idle.keep_running, pool.desired_counts.running
        );
        findings.add(&object, problem, "raise running or lower keep_running");
    }
}

fn named(object: &str, pool: &PoolSpec, spec: &InstanceSpec, findings: &mut Findings) {
    if let Some(data_disk_mib) = spec.data_disk_mib {
        let resources = crate::resources::Resources { data_disk_mib, ..pool.instance_resources };
        if let Err(error) = resources.check() {
            findings.add(object, error.to_string(), "change data_disk_mib");
        }
    }
    let long = |text: &String| text.is_empty() || text.len() > MAX_LABEL;
    let bad = spec.labels.iter().any(|(key, value)| long(key) || value.len() > MAX_LABEL);
    if bad || spec.labels.len() > MAX_LABELS {
        let problem = format!("more than {MAX_LABELS} labels, or one over {MAX_LABEL} bytes");
        findings.add(object, problem, "use fewer or shorter labels");
    }
}

/// What protection forbids must not be asked for.
fn protection(object: &str, tenant: &TenantSpec, pool: &PoolSpec, findings: &mut Findings) {
    let protection = pool.protection(tenant.pinned);
    let wants = |wanted| pool.named().iter().any(|spec| spec.desired == wanted && !spec.orphaned);
    let sleeps = pool.desired_counts.sleeping > 0 || wants(Wanted::Sleeping);
    let warms = pool.desired_counts.warm > 0 || wants(Wanted::Warm);
    if protection != Protection::None && sleeps {
        let problem = format!("it is {protection}, so nothing in it may sleep");
        findings.add(object, problem, "ask for running instead, or take the protection away");
    }
    if protection == Protection::Critical && warms {
        let problem = "it is critical, so nothing in it may be warm";
        findings.add(object, problem, "ask for running instead, or take critical away");
    }
}

fn times(object: &str, pool: &PoolSpec, findings: &mut Findings) {
    let (policy, idle) = (pool.runtime_policy, pool.idle);
    let times = [
        ("runtime_policy.min_running_seconds", Some(policy.min_running_seconds)),
        ("runtime_policy.min_warm_seconds", Some(policy.min_warm_seconds)),
        ("runtime_policy.drain_timeout_seconds", Some(policy.drain_timeout_seconds)),
        ("runtime_policy.graceful_shutdown_seconds", Some(policy.graceful_shutdown_seconds)),
        ("idle.warm_after_seconds", idle.warm_after_seconds),
        ("idle.sleep_after_seconds", idle.sleep_after_seconds),
    ];
    for (field, seconds) in times {
        if seconds.is_some_and(|seconds| seconds > MAX_SECONDS) {
            findings.add(object, format!("{field} is more than a year"), "it is in seconds");
        }
    }
    if let (Some(warm), Some(sleep)) = (idle.warm_after_seconds, idle.sleep_after_seconds)
        && sleep < warm
    {
        let problem = format!(
            "idle.sleep_after_seconds {sleep} is below idle.warm_after_seconds {warm}: nothing \
             would ever be warm"
        );
        findings.add(object, problem, "raise sleep_after_seconds or leave warm_after_seconds away");
    }
}

fn route(object: &str, route: &Route, findings: &mut Findings) {
    let label = |label: &str| is_word(label, 63) && !label.contains(['_', '.']);
    let good = route.hostname.len() <= 253 && route.hostname.split('.').all(label);
    if !good || route.port == 0 {
        let problem = format!("route {:?} port {}", shown(&route.hostname), route.port);
        findings.add(object, problem, "give a lower-case host name and a port from 1 to 65535");
    }
}

fn is_word(text: &str, most: usize) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    (1..=most).contains(&text.len()) && text.bytes().all(good)
}

fn shown(text: &impl Display) -> String {
    text.to_string().chars().take(60).collect()
}
