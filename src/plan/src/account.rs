//! Accounts: what of a tenant's quotas, addresses and the host's memory is in use, kept along
//! while a plan grows, so that every step is held against what the steps before it left.

use mvm_model::Offset;
use mvm_model::desired::{NetworkSpec, TenantSpec};
use mvm_model::image::Role;
use mvm_model::observed::ObservedTenant;
use mvm_model::resources::{OverQuota, Quotas, Resources, Usage};

use crate::note::Reason;

/// The host's memory for guests.
#[derive(Debug, Clone)]
pub(crate) struct HostMemory {
    limit: Option<u64>,
    used: u64,
}

impl HostMemory {
    pub(crate) fn new(limit: Option<u64>, tenants: &[ObservedTenant]) -> Self {
        let used = tenants.iter().map(|tenant| tenant.usage().mem_mib);
        Self { limit, used: used.fold(0, u64::saturating_add) }
    }

    fn admit(&self, wanted: u64) -> Result<(), Reason> {
        let free = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.used));
        if wanted <= free { Ok(()) } else { Err(Reason::HostMemory { wanted, free }) }
    }
}

/// One tenant's account.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) quotas: Quotas,
    usage: Usage,
    disk_mib: u64,
    pools: u64,
}

/// Where an instance is held: what it uses depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// Executing.
    Running,
    /// Paused.
    Warm,
    /// Snapshot on disk.
    Asleep,
    /// Off.
    Off,
}

impl Account {
    pub(crate) fn of(observed: &ObservedTenant) -> Self {
        Self {
            quotas: observed.spec.quotas,
            usage: observed.usage(),
            disk_mib: observed.disk_mib(),
            pools: observed.pools.len() as u64,
        }
    }

    pub(crate) fn new(quotas: Quotas) -> Self {
        Self { quotas, usage: Usage::default(), disk_mib: 0, pools: 0 }
    }

    /// Whether an instance may be moved.
    pub(crate) fn admit(
        &self,
        host: &HostMemory,
        given: Resources,
        from: Held,
        to: Held,
    ) -> Result<(), Reason> {
        let mut without = self.usage;
        release(&mut without, given, from);
        match to {
            Held::Running => {
                without.admit_running(&self.quotas, given).map_err(Reason::Quota)?;
                if matches!(from, Held::Asleep | Held::Off) {
                    host.admit(given.mem_mib)?;
                }
                Ok(())
            }
            Held::Warm => without.admit_warm(&self.quotas).map_err(Reason::Quota),
            Held::Asleep => self.admit_disk(given.mem_mib),
            Held::Off => Ok(()),
        }
    }

    /// Moves an instance.
    pub(crate) fn shift(&mut self, host: &mut HostMemory, given: Resources, from: Held, to: Held) {
        release(&mut self.usage, given, from);
        match to {
            Held::Running => self.usage.add_running(given),
            Held::Warm => self.usage.add_warm(given),
            Held::Asleep => self.disk_mib = self.disk_mib.saturating_add(given.mem_mib),
            Held::Off => {}
        }
        if from == Held::Asleep {
            self.disk_mib = self.disk_mib.saturating_sub(given.mem_mib);
        }
        let (was, is) = (in_memory(from), in_memory(to));
        if was && !is {
            host.used = host.used.saturating_sub(given.mem_mib);
        } else if is && !was {
            host.used = host.used.saturating_add(given.mem_mib);
        }
    }

    /// Counts a pool that is created, if there may be one more.
    pub(crate) fn add_pool(&mut self) -> Result<(), Reason> {
        let limit = u64::from(self.quotas.max_pools);
        fits("max_pools", limit, self.pools, 1)?;
        self.pools += 1;
        Ok(())
    }

    /// Counts an instance that is created, beside `present` ones of its pool.
    pub(crate) fn add_instance(&mut self, present: u64, data_disk_mib: u64) -> Result<(), Reason> {
        let limit = u64::from(self.quotas.max_instances_per_pool);
        fits("max_instances_per_pool", limit, present, 1)?;
        self.admit_disk(data_disk_mib)?;
        self.disk_mib = self.disk_mib.saturating_add(data_disk_mib);
        Ok(())
    }

    /// Counts an instance that is destroyed while off.
    pub(crate) fn remove_instance(&mut self, data_disk_mib: u64) {
        self.disk_mib = self.disk_mib.saturating_sub(data_disk_mib);
    }

    fn admit_disk(&self, more_mib: u64) -> Result<(), Reason> {
        let limit = self.quotas.max_disk_gib.saturating_mul(1024);
        if more_mib == 0 || self.disk_mib.saturating_add(more_mib) <= limit {
            return Ok(());
        }
        let gib = |mib: u64| mib.div_ceil(1024);
        Err(Reason::Quota(OverQuota {
            quota: "max_disk_gib",
            limit: self.quotas.max_disk_gib,
            used: gib(self.disk_mib),
            wanted: gib(more_mib),
        }))
    }
}

fn in_memory(held: Held) -> bool {
    matches!(held, Held::Running | Held::Warm)
}

fn fits(quota: &'static str, limit: u64, used: u64, wanted: u64) -> Result<(), Reason> {
    if used + wanted <= limit {
        Ok(())
    } else {
        Err(Reason::Quota(OverQuota { quota, limit, used, wanted }))
    }
}

fn release(usage: &mut Usage, given: Resources, from: Held) {
    match from {
        Held::Running => usage.running = usage.running.saturating_sub(1),
        Held::Warm => usage.warm = usage.warm.saturating_sub(1),
        Held::Asleep | Held::Off => return,
    }
    usage.vcpus = usage.vcpus.saturating_sub(given.vcpus);
    usage.mem_mib = usage.mem_mib.saturating_sub(given.mem_mib);
}

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Nobody,
    /// A named instance that is not created yet asks for it.
    Asked,
    /// An instance.
    Leased,
}

/// The addresses of a tenant. Made when the first instance of a plan is created.
#[derive(Debug)]
pub(crate) struct Addresses {
    network: NetworkSpec,
    holders: Vec<Holder>,
    /// Everything from [`Offset::FIRST`] below it has a holder.
    next: u16,
}

impl Addresses {
    /// The tenant's addresses with their holders.
    pub(crate) fn of(spec: &TenantSpec, observed: Option<&ObservedTenant>) -> Self {
        let last = spec.network.ipv4_subnet.max_offset().0;
        let holders = vec![Holder::Nobody; usize::from(last) + 1];
        let mut addresses = Self { network: spec.network, holders, next: Offset::FIRST.0 };
        let named = spec.pools.iter().flat_map(|pool| pool.named());
        for offset in named.filter_map(|named| named.offset) {
            addresses.give(offset, Holder::Asked);
        }
        for instance in observed.into_iter().flat_map(ObservedTenant::instances) {
            addresses.give(instance.offset, Holder::Leased);
        }
        addresses
    }

    /// The lowest free offset. The tenant's first gateway instance takes `.2`.
    pub(crate) fn lease(&mut self, role: &Role) -> Result<Offset, Reason> {
        if *role == Role::Gateway && self.is_free(Offset::GATEWAY_INSTANCE) {
            return Ok(self.give(Offset::GATEWAY_INSTANCE, Holder::Leased));
        }
        while usize::from(self.next) < self.holders.len() {
            let offset = Offset(self.next);
            if self.is_free(offset) {
                return Ok(self.give(offset, Holder::Leased));
            }
            self.next += 1;
        }
        Err(Reason::NoAddress)
    }

    /// The offset a named instance asks for.
    pub(crate) fn lease_exact(&mut self, offset: Offset) -> Result<Offset, Reason> {
        match self.holders.get(usize::from(offset.0)) {
            Some(Holder::Leased) => Err(Reason::AddressTaken),
            Some(_) if self.network.may_lease(offset) => Ok(self.give(offset, Holder::Leased)),
            _ => Err(Reason::NoAddress),
        }
    }

    fn is_free(&self, offset: Offset) -> bool {
        let holder = self.holders.get(usize::from(offset.0));
        holder == Some(&Holder::Nobody) && self.network.may_lease(offset)
    }

    fn give(&mut self, offset: Offset, holder: Holder) -> Offset {
        if let Some(slot) = self.holders.get_mut(usize::from(offset.0)) {
            *slot = holder;
        }
        offset
    }
}
