//! Tenants: creating, finding and destroying them with their network.

use mvm_host::net::TenantNet;
use mvm_model::intent::Object;
use mvm_model::record::{Egress, ManagedBy, SCHEMA_VERSION, TenantNetwork, TenantRecord};
use mvm_model::resources::{Quotas, Usage};
use mvm_model::state::Status;
use mvm_model::{NetId, Subnet, TenantName};

use crate::error::{About, Error, Kind, Result};
use crate::records::Found;
use crate::service::{Service, now};

/// The tenant that is part of mvm: `mvm dev` lives in it.
const BUILTIN: &str = "dev";

/// What a new tenant should be.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Its name.
    pub name: TenantName,
    /// Its net id; allocated when `None`.
    pub net_id: Option<NetId>,
    /// Its subnet; follows from the net id when `None`.
    pub subnet: Option<Subnet>,
    /// Its limits.
    pub quotas: Quotas,
    /// What its guests may reach.
    pub egress: Egress,
    /// Part of mvm itself.
    pub builtin: bool,
}

impl NewTenant {
    /// A tenant with default quotas and an allocated network.
    pub fn named(name: TenantName) -> Self {
        let (quotas, egress) = (Quotas::default(), Egress::default());
        Self { name, net_id: None, subnet: None, quotas, egress, builtin: false }
    }
}

/// A list of reachable networks cannot open what stays closed: the other tenants.
pub(crate) fn refuse_fleet_egress(tenant: &TenantName, egress: &Egress) -> Result<()> {
    let Egress::List(nets) = egress else { return Ok(()) };
    let fleet = mvm_model::network::CLUSTER_CIDR;
    let touches =
        |net: &&ipnet::Ipv4Net| net.contains(&fleet.network()) || fleet.contains(&net.network());
    match nets.iter().find(touches) {
        None => Ok(()),
        Some(net) => Err(Error::new(
            Kind::Invalid,
            tenant,
            format!(
                "egress {net} overlaps {fleet}, where tenants are; they stay closed to each other"
            ),
        )
        .hint("name the networks outside the fleet")),
    }
}

/// The kernel's view of a tenant.
pub fn net_of(record: &TenantRecord) -> TenantNet {
    TenantNet {
        tenant: record.tenant_id.clone(),
        network: record.network,
        egress: record.egress.clone(),
    }
}

impl Service {
    /// Creates a tenant: its record, bridge and rules. Starts nothing.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when the name, net id or subnet is taken, naming the holder.
    pub async fn create_tenant(&self, new: NewTenant) -> Result<TenantRecord> {
        let (tenant, object) = (new.name.clone(), new.name.clone());
        let result = self.create_tenant_with(new, |_| ()).await;
        self.audit(&tenant, &object, "tenant.create", &result).await;
        result
    }

    /// Creates a tenant; `rest` fills in what [`NewTenant`] has no field for.
    pub(crate) async fn create_tenant_with(
        &self,
        new: NewTenant,
        rest: impl FnOnce(&mut TenantRecord),
    ) -> Result<TenantRecord> {
        if new.name.as_str() == BUILTIN && !new.builtin {
            return Err(Error::new(Kind::Conflict, BUILTIN, "the tenant dev is part of mvm")
                .hint("mvm dev"));
        }
        refuse_fleet_egress(&new.name, &new.egress)?;
        let net = self.net().await?;
        let lock = self.lock_state().await?;
        if self.records.tenant(&new.name)?.is_some() {
            return Err(Error::new(
                Kind::Conflict,
                &new.name,
                format!("tenant {} exists already", new.name),
            )
            .hint(format!("'mvm tenant info {}' shows it", new.name)));
        }
        let network = self.choose_network(&net, &new).await?;
        let mut record = TenantRecord {
            schema_version: SCHEMA_VERSION,
            tenant_id: new.name,
            network,
            quotas: new.quotas,
            egress: new.egress,
            managed_by: ManagedBy::Local,
            address_range: None,
            pinned: false,
            orphaned: false,
            builtin: new.builtin,
            created_at: now(),
            destroying: false,
        };
        rest(&mut record);
        self.records.put_tenant(&record)?;
        drop(lock);
        if let Err(error) =
            net.ensure_tenant(&net_of(&record)).await.about(&record.tenant_id, "set up its network")
        {
            // Nothing refers to the tenant yet: taking it back loses nothing.
            let _ = net.remove_tenant(&network).await;
            let _ = self.forget_tenant(&record.tenant_id);
            return Err(error);
        }
        Ok(record)
    }

    async fn choose_network(
        &self,
        net: &mvm_host::net::Net,
        new: &NewTenant,
    ) -> Result<TenantNetwork> {
        let tenants = self.records.tenants().all(&new.name, "choose a free network")?;
        match new.net_id {
            Some(id) => {
                let subnet = new.subnet.unwrap_or_else(|| id.default_subnet());
                self.refuse_taken(&tenants, &new.name, id, subnet)?;
                self.refuse_conflict(net, &new.name, id, subnet).await?;
                Ok(TenantNetwork { tenant_net_id: id, ipv4_subnet: subnet })
            }
            None => self.allocate_network(net, &tenants, new).await,
        }
    }

    /// The lowest net id that is free here and in the kernel, with its subnet.
    async fn allocate_network(
        &self,
        net: &mvm_host::net::Net,
        tenants: &[TenantRecord],
        new: &NewTenant,
    ) -> Result<TenantNetwork> {
        let mut refused = None;
        for id in (1..=NetId::MAX).filter_map(|id| NetId::new(id).ok()) {
            let subnet = new.subnet.unwrap_or_else(|| id.default_subnet());
            if let Err(error) = self.refuse_taken(tenants, &new.name, id, subnet) {
                refused = Some(error);
                continue;
            }
            match self.refuse_conflict(net, &new.name, id, subnet).await {
                Ok(()) => return Ok(TenantNetwork { tenant_net_id: id, ipv4_subnet: subnet }),
                Err(error) => refused = Some(error),
            }
            // A subnet somebody asked for stays taken whatever the net id: say so at once.
            if new.subnet.is_some()
                && refused.as_ref().is_some_and(|error| error.message.contains("subnet"))
            {
                break;
            }
        }
        Err(refused
            .unwrap_or_else(|| Error::new(Kind::Conflict, &new.name, "every net id is taken")))
    }

    fn refuse_taken(
        &self,
        tenants: &[TenantRecord],
        name: &TenantName,
        id: NetId,
        subnet: Subnet,
    ) -> Result<()> {
        let conflict = |text: String| {
            Err(Error::new(Kind::Conflict, name, text)
                .hint("leave --net-id and --subnet away and mvm picks a free network"))
        };
        for other in tenants {
            let (their, whose) = (other.network, &other.tenant_id);
            if their.tenant_net_id == id {
                return conflict(format!("net id {id} belongs to tenant {whose}"));
            }
            if their.ipv4_subnet.overlaps(subnet.net()) {
                return conflict(format!(
                    "subnet {subnet} overlaps {} of tenant {whose}",
                    their.ipv4_subnet
                ));
            }
        }
        Ok(())
    }

    async fn refuse_conflict(
        &self,
        net: &mvm_host::net::Net,
        name: &TenantName,
        id: NetId,
        subnet: Subnet,
    ) -> Result<()> {
        match net
            .find_conflict(id, subnet)
            .await
            .about(name, "look for other users of its network")?
        {
            None => Ok(()),
            Some(holder) => Err(Error::new(
                Kind::Conflict,
                name,
                format!("net id {id}, subnet {subnet}: {holder}"),
            )
            .hint("choose another with --net-id and --subnet, or leave both away")),
        }
    }

    /// Destroys a tenant with its pools, instances and data; picks up where an interrupted
    /// destroy stopped.
    ///
    /// # Errors
    /// What the first instance or device that stays says; everything else is still there then.
    pub async fn destroy_tenant(&self, name: &TenantName) -> Result<()> {
        let record = self.tenant(name)?;
        self.permit(Object::Tenant(name.clone()), record.managed_by)?;
        self.remove_tenant(name).await
    }

    /// Destroys a tenant, whoever's it is.
    pub(crate) async fn remove_tenant(&self, name: &TenantName) -> Result<()> {
        let (tenant, object) = (name.clone(), name.clone());
        let result = self.destroy_tenant_unlogged(name).await;
        self.audit(&tenant, &object, "tenant.destroy", &result).await;
        result
    }

    async fn destroy_tenant_unlogged(&self, name: &TenantName) -> Result<()> {
        let mut record = self.tenant(name)?;
        {
            let _lock = self.lock_state().await?;
            // Nothing is removed while something of it cannot be read: that may have a VM, or be a
            // newer version's.
            self.records.tenant_instances(name).all(name, "destroy it")?;
            self.records.pools(name).all(name, "destroy it")?;
            record.destroying = true;
            match self.records.put_tenant(&record) {
                // A full disk must not keep anybody from freeing it.
                Err(error) if error.kind == Kind::DiskFull => {}
                other => other?,
            }
        }
        for instance in self.records.tenant_instances(name).all(name, "destroy it")? {
            self.remove_instance(&instance.path()).await?;
        }
        for pool in self.records.pools(name).all(name, "destroy it")? {
            match self.remove_pool(&pool.path()).await {
                // Somebody else destroys it too.
                Err(error) if error.kind == Kind::NotFound => {}
                other => other?,
            }
        }
        let net = self.net().await?;
        self.forget_zone(record.network.tenant_net_id).await;
        net.remove_tenant(&record.network).await.about(name, "remove its network")?;
        let _lock = self.lock_state().await?;
        self.refuse_instances(name, self.records.tenant_instances(name))?;
        self.forget_tenant(name)
    }

    /// Refuses to remove a directory that holds instances: one appeared meanwhile.
    pub(crate) fn refuse_instances(
        &self,
        object: impl std::fmt::Display + Clone,
        found: Found<mvm_model::record::InstanceRecord>,
    ) -> Result<()> {
        match found.all(object.clone(), "remove it")?.first() {
            None => Ok(()),
            Some(one) => {
                Err(Error::new(Kind::Busy, object, format!("{} was created meanwhile", one.path()))
                    .hint("destroy it again"))
            }
        }
    }

    fn forget_tenant(&self, name: &TenantName) -> Result<()> {
        self.records.remove(name, &self.dirs.tenant(name))
    }

    /// Refuses to create anything in a tenant that is being destroyed.
    pub(crate) fn living_tenant(&self, name: &TenantName) -> Result<TenantRecord> {
        let record = self.tenant(name)?;
        if record.destroying {
            return Err(Error::new(
                Kind::WrongState,
                name,
                format!("tenant {name} is being destroyed"),
            )
            .hint(format!("'mvm tenant destroy {name} --force' finishes that")));
        }
        Ok(record)
    }

    /// What of a tenant's quotas its instances use.
    pub fn usage(&self, name: &TenantName) -> Usage {
        let mut usage = Usage::default();
        for record in self.records.tenant_instances(name).records {
            match self.observe(&record).claims() {
                Some(Status::Running) => usage.add_running(record.resources),
                Some(Status::Warm) => usage.add_warm(record.resources),
                _ => {}
            }
        }
        usage
    }
}
