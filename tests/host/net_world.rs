//! A throwaway host for network tests: a network namespace on a thread of its own, guests that
//! are open taps, and neighbours in namespaces of their own. Nothing reaches the machine's network.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use mvm_host::net::{Isolation, Net, Port, TenantNet};
use mvm_model::record::{Egress, TenantNetwork};
use mvm_model::{NetId, Offset};
use nix::sched::{CloneFlags, unshare};

use crate::skip::skip;

/// What is missing for tests in namespaces, if anything.
pub fn missing() -> Option<&'static str> {
    let there = |program: &str| {
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/run/current-system/sw/bin"]
            .iter()
            .any(|dir| Path::new(dir).join(program).is_file())
    };
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("needs /dev/net/tun");
    }
    if !there("nft") {
        return Some("needs nft");
    }
    (!there("ip")).then_some("needs iproute2")
}

/// Runs a test body in a fresh network namespace with its own single-threaded runtime. The
/// namespace and all in it vanish with the thread.
pub fn in_namespace<F>(test: &'static str, body: impl FnOnce(World) -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    if let Some(reason) = missing() {
        return skip(test, reason);
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        bridges_call_iptables("0");
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let net = Net::open("test-node", dir.path()).await.unwrap();
            body(World { net, dir: dir.path().to_owned() }).await;
        });
    };
    let thread = std::thread::Builder::new().name(test.to_owned()).spawn(run).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Whether bridged frames pass the IP firewall too (`br_netfilter`), where the kernel can do that.
pub fn bridges_call_iptables(value: &str) {
    let path = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if path.exists() {
        std::fs::write(path, value).unwrap();
    }
}

/// The host under test.
pub struct World {
    pub net: Net,
    pub dir: PathBuf,
}

impl World {
    /// Sets up a tenant `t<id>` on its default subnet.
    pub async fn tenant(&self, id: u16, egress: Egress) -> TenantNet {
        let tenant = tenant(id, egress);
        self.net.ensure_tenant(&tenant).await.unwrap();
        tenant
    }

    /// Sets up a port and opens its tap, as a VMM does.
    pub async fn guest(&self, tenant: &TenantNet, offset: u16) -> crate::guest::Guest {
        let port = port(tenant, offset);
        self.net.ensure_port(&port).await.unwrap();
        crate::guest::Guest::open(&port)
    }
}

pub fn tenant(id: u16, egress: Egress) -> TenantNet {
    let tenant_net_id = NetId::new(id).unwrap();
    TenantNet {
        tenant: format!("tenant-{id}").parse().unwrap(),
        network: TenantNetwork { tenant_net_id, ipv4_subnet: tenant_net_id.default_subnet() },
        egress,
    }
}

pub fn port(tenant: &TenantNet, offset: u16) -> Port {
    Port {
        net_id: tenant.network.tenant_net_id,
        subnet: tenant.network.ipv4_subnet,
        offset: Offset(offset),
        owner_uid: None,
        isolation: Isolation::Shared,
    }
}

pub fn gateway(tenant: &TenantNet) -> Ipv4Addr {
    tenant.network.ipv4_subnet.gateway()
}

/// Runs `ip` in the current namespace and returns what it says.
pub fn ip(args: &str) -> String {
    run("ip", &args.split_whitespace().collect::<Vec<_>>())
}

/// Runs `nft` in the current namespace.
pub fn nft(args: &str) -> String {
    run("nft", &args.split_whitespace().collect::<Vec<_>>())
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// A machine on the host's network: a namespace joined to the host's by a veth.
pub struct Neighbour {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Neighbour {
    /// Joins a machine: `host` and `own` are addresses with prefix of the two ends.
    pub fn join(interface: &str, host: Option<&str>, own: &str) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(nix::unistd::gettid()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        let namespace = format!("/proc/{}/ns/net", started.recv().unwrap());
        ip(&format!("link add {interface} type veth peer name eth0 netns {namespace}"));
        if let Some(host) = host {
            ip(&format!("addr add {host} dev {interface}"));
        }
        ip(&format!("link set {interface} up"));
        let neighbour = Self { jobs: Some(jobs), thread: Some(thread) };
        let own = own.to_owned();
        neighbour.run(move || {
            ip("link set lo up");
            ip(&format!("addr add {own} dev eth0"));
            ip("link set eth0 up");
        });
        neighbour
    }

    /// Runs something on that machine and waits for it.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || drop(done.send(job())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result.recv().unwrap()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        drop(self.jobs.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}
