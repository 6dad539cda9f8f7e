//! A `kill -9` anywhere in between leaves nothing the next call cannot finish, and never a tap
//! that is up without its rules.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mvm_host::net::{Expected, Net};
use mvm_model::record::Egress;

use crate::world::{World, in_namespace, ip, nft, port, tenant};

/// Set for the child: the run directory it works in.
const CHILD: &str = "MVM_TEST_NET_CRASH";

/// Not a test of its own: the process that is killed. It makes and removes a network until then.
#[test]
fn child_that_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let net = Net::open("test-node", Path::new(&dir)).await.unwrap();
        let tenant = tenant(7, Egress::Internet);
        loop {
            net.ensure_tenant(&tenant).await.unwrap();
            net.ensure_port(&port(&tenant, 3)).await.unwrap();
            net.remove_tenant(&tenant.network).await.unwrap();
        }
    });
}

fn child(world: &World) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "crash::child_that_is_killed", "--nocapture"]);
    child.env(CHILD, &world.dir).stdout(std::process::Stdio::null());
    child
}

/// A tap in the bridge and up has its chain.
fn nothing_is_unguarded() {
    let tap = ip("link").lines().any(|line| line.contains("tn7i3") && line.contains("master"));
    let guarded = nft("list ruleset").contains("forged IPv4 source");
    assert!(!tap || guarded, "{} {}", ip("link"), nft("list ruleset"));
}

#[test]
fn a_kill_anywhere_converges() {
    in_namespace("a_kill_anywhere_converges", |world| async move {
        let tenant = tenant(7, Egress::Internet);
        let expected = Expected { tenants: vec![tenant.clone()], ports: vec![port(&tenant, 3)] };
        for round in 0..16u64 {
            let mut child = child(&world).spawn().unwrap();
            // Spread over start-up and a few turns of the child's loop.
            std::thread::sleep(Duration::from_millis(15 + 16 * round));
            child.kill().unwrap();
            child.wait().unwrap();
            nothing_is_unguarded();
            if let Err(error) = world.net.ensure_tenant(&tenant).await {
                panic!("round {round}: {error}\n{}", ip("-d link"));
            }
            world.net.ensure_port(&port(&tenant, 3)).await.unwrap();
            assert_eq!(world.net.verify(&expected).await.unwrap().findings, [], "round {round}");
            if round % 2 == 0 {
                world.net.remove_tenant(&tenant.network).await.unwrap();
                assert_eq!(nft("list ruleset"), "");
                assert!(!ip("link").contains("tn7"));
            }
        }
    });
}

/// What it was killed in is not done behind the back of whoever comes next.
#[test]
fn a_change_of_rules_ends_with_who_makes_it() {
    in_namespace("a_change_of_rules_ends_with_who_makes_it", |world| async move {
        let stub = tempfile::tempdir().unwrap();
        let script = "#!/bin/sh\ncase \"$*\" in *'-f -') echo $$ >$PIDS.new; mv $PIDS.new $PIDS; \
                      exec sleep 600;; esac\nexec $NFT \"$@\"\n";
        fs::write(stub.path().join("nft"), script).unwrap();
        fs::set_permissions(stub.path().join("nft"), fs::Permissions::from_mode(0o755)).unwrap();
        let (pids, path) = (stub.path().join("pid"), std::env::var("PATH").unwrap());
        let nft = ["/usr/sbin/nft", "/sbin/nft", "/run/current-system/sw/bin/nft"];
        let mut child = child(&world)
            .env("NFT", nft.iter().find(|it| Path::new(it).exists()).unwrap())
            .env("PATH", format!("{}:{path}", stub.path().display()))
            .env("PIDS", &pids)
            .spawn()
            .unwrap();
        eventually("it changes rules", || pids.exists());
        let nft = Path::new("/proc").join(fs::read_to_string(&pids).unwrap().trim());
        assert!(nft.exists());
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("it ended", || !nft.exists());
    });
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "did not come about: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
