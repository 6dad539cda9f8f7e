//! What a VM needs before it exists: image, network, drives, and the specification made of them.

use mvm_guest_proto::config::{self, GuestConfig};
use mvm_host::drive::{self, Missing, SmallFile, SmallId};
use mvm_host::image::Revision;
use mvm_host::net::dns;
use mvm_host::packages::Arch;
use mvm_model::image::{Restart, Workload};
use mvm_model::record::TenantRecord;
use mvm_model::{Digest, network};
use sha2::{Digest as _, Sha256};

use super::Driver;
use crate::blueprint::Blueprint;
use crate::error::{About, Error, Kind, Result};
use crate::network::port_of;
use crate::secret::Readiness;
use crate::tenant::net_of;

/// Everything a VM is started with.
pub(super) struct Prepared {
    /// What its VM is started as.
    pub(super) blueprint: Blueprint,
    /// What was not ready and had to be made just now.
    pub(super) made: Vec<&'static str>,
}

impl Driver<'_> {
    /// Makes ready what a boot of `digest` (or a wake into it) needs. Idempotent: what is there
    /// already is checked, not made again.
    pub(super) async fn prepare(&mut self, digest: Option<Digest>) -> Result<Prepared> {
        let tenant = self.service.living_tenant(&self.record.tenant_id)?;
        let revision = self.revision(digest)?;
        self.phase("image");
        self.prepare_network(&tenant).await?;
        self.phase("network");
        let made = self.prepare_drives(&tenant, &revision)?;
        if self.record.revision.as_ref() != Some(&revision.digest) {
            // Before the VM exists: whoever finds it later must know what it was booted from.
            self.record.revision = Some(revision.digest.clone());
            self.service.records.put_instance(&self.record)?;
        }
        self.phase("drives");
        let blueprint = self.blueprint(&revision).await?;
        self.phase("proof");
        Ok(Prepared { blueprint, made })
    }

    /// What a VM of this revision is started as, on the VMM that is proven here.
    async fn blueprint(&self, revision: &Revision) -> Result<Blueprint> {
        let files = revision.files(Arch::HOST).about(self.record.path(), "use the pool's image")?;
        let proven = self.service.proven(&files).await?;
        Blueprint::draw(self.service, &self.record, &files, &revision.manifest, proven)
    }

    /// What a wake would start now, with the small drives as they should be now.
    pub(super) async fn blueprint_of_wake(&self) -> Result<Blueprint> {
        let path = self.record.path();
        let tenant = self.service.living_tenant(&self.record.tenant_id)?;
        let digest = self
            .record
            .revision
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Corrupt, &path, "it sleeps and names no image"))?;
        let revision = self.service.verified_revision(&self.record.pool_path(), digest)?;
        self.prepare_small_drives(&tenant, revision.manifest.workload.as_ref())?;
        self.blueprint(&revision).await
    }

    fn revision(&self, digest: Option<Digest>) -> Result<Revision> {
        let pool = self.record.pool_path();
        let path = self.record.path();
        let current = self.service.pool(&pool)?.current;
        let asked = || self.record.pinned_revision.clone();
        let digest = digest.or_else(asked).or(current).ok_or_else(|| {
            Error::new(Kind::WrongState, &path, "the pool's image is not built yet")
                .hint(format!("mvm pool build {pool}"))
        })?;
        self.service.verified_revision(&pool, &digest)
    }

    /// Bridge, rules, tap and name, all of which may be there already. Nothing is listed where
    /// nothing changed since it was.
    pub(super) async fn prepare_network(&self, tenant: &TenantRecord) -> Result<()> {
        let path = self.record.path();
        let net = self.service.net().await?;
        let (whole, port) = (net_of(tenant), port_of(&self.record, tenant.network.ipv4_subnet));
        let resolver = dns::pid(&self.service.dirs.run);
        if net.is_untouched(&whole, &port).await && resolver.await.is_some() {
            return Ok(());
        }
        let before = net.generation();
        net.ensure_tenant(&whole).await.about(&path, "set up the tenant's network")?;
        net.ensure_port(&port).await.about(&path, "set up its network port")?;
        if let Some(before) = before {
            net.remember(&whole, &port, before).await;
        }
        self.service.refresh_dns().await
    }

    fn prepare_drives(
        &self,
        tenant: &TenantRecord,
        revision: &Revision,
    ) -> Result<Vec<&'static str>> {
        let path = self.record.path();
        let dir = self.service.instance_dir(&self.record);
        // An instance that was booted had its drive: a missing one is lost, not to be made anew.
        let missing = match self.record.revision {
            None => Missing::Make,
            Some(_) => Missing::Refuse,
        };
        self.grow_data()?;
        drive::ensure_data(&dir.join("data.img"), self.record.resources.data_disk_mib, missing)
            .about(&path, "find its data drive")?;
        self.prepare_small_drives(tenant, revision.manifest.workload.as_ref())
    }

    /// Secrets and configuration as they are now; says what of it was not there yet.
    pub(super) fn prepare_small_drives(
        &self,
        tenant: &TenantRecord,
        workload: Option<&Workload>,
    ) -> Result<Vec<&'static str>> {
        let secrets = self.service.wanted_secrets(&self.record, workload)?;
        let mut made = Vec::new();
        if self.service.ensure_secrets(&self.record, &secrets)? == Readiness::Made {
            made.push("its secrets drive");
        }
        if self.ensure_config(tenant, workload, secrets.id.epoch)? == Readiness::Made {
            made.push("its config drive");
        }
        Ok(made)
    }

    fn ensure_config(
        &self,
        tenant: &TenantRecord,
        workload: Option<&Workload>,
        secrets_epoch: u64,
    ) -> Result<Readiness> {
        let image = self.service.instance_dir(&self.record).join("config.img");
        let content = self.guest_config(tenant, workload, secrets_epoch)?.to_bytes();
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::digest(&content)[..16]);
        if drive::small_id(&image) == Some(SmallId(id)) {
            return Ok(Readiness::Ready);
        }
        let file = SmallFile { name: config::FILE, content: &content, owner: (0, 0), mode: 0o644 };
        drive::write_small_as(&image, SmallId(id), &[file])
            .about(self.record.path(), "make its config drive")
            .map(|()| Readiness::Made)
    }

    fn guest_config(
        &self,
        tenant: &TenantRecord,
        workload: Option<&Workload>,
        secrets_epoch: u64,
    ) -> Result<GuestConfig> {
        let record = &self.record;
        let subnet = tenant.network.ipv4_subnet;
        let address = record
            .address(subnet)
            .map_err(|error| Error::new(Kind::Corrupt, record.path(), error.to_string()))?;
        Ok(GuestConfig {
            schema: config::SCHEMA,
            instance: record.instance_id.to_string(),
            hostname: record.hostname(),
            tenant: record.tenant_id.to_string(),
            pool: record.pool_id.to_string(),
            role: record.role.to_string(),
            network: Some(config::Network {
                address,
                prefix: subnet.prefix_len(),
                gateway: Some(subnet.gateway()),
                dns: vec![subnet.gateway()],
                search: Some(format!("{}.{}.mvm", record.pool_id, record.tenant_id)),
                mtu: Some(network::MTU),
            }),
            workload: workload.map(guest_workload),
            secrets_epoch,
            config_epoch: record.next_generation,
            hooks: config::Hooks::default(),
        })
    }
}

fn guest_workload(workload: &Workload) -> config::Workload {
    config::Workload {
        argv: workload.argv.clone(),
        env: workload.env.clone(),
        user: workload.user.clone(),
        cwd: None,
        ports: workload.ports.clone(),
        health: workload
            .health
            .as_ref()
            .map(|health| config::Health { port: health.port, path: health.path.clone() }),
        restart: match workload.restart {
            Restart::Never => config::Restart::Never,
            Restart::OnFailure => config::Restart::OnFailure,
            Restart::Always => config::Restart::Always,
        },
    }
}
