//! The resolver: a real process of its own, asked by machines on the tenants' bridges.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use mvm_host::net::TenantNet;
use mvm_host::net::dns::{self, Forwarding, Launcher, Serve, UNPRIVILEGED, Zone};
use mvm_model::record::Egress;
use nix::sys::socket::{UnixAddr, getsockname};
use nix::unistd::{ForkResult, fork};

use crate::guest::PATIENCE;
use crate::world::{Neighbour, World, in_namespace, ip};

const UPSTREAM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Not a test of its own: the resolver process, started with the control socket as its input.
#[test]
fn resolver_process() {
    let Ok(stdin) = getsockname::<UnixAddr>(std::io::stdin().as_raw_fd()) else { return };
    if !stdin.path().is_some_and(|path| path.ends_with("dns.sock")) {
        return;
    }
    let resolv_conf = std::env::args().next_back().map(PathBuf::from).unwrap();
    // A test runs on a second thread; the fork leaves that behind, as `mvm dns serve` is alone.
    // SAFETY: the other thread of this process only waits for this one, holding no lock.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => drop(nix::sys::wait::waitpid(child, None)),
        ForkResult::Child => {
            let args = Serve { uid: UNPRIVILEGED, gid: UNPRIVILEGED, resolv_conf };
            let outcome = dns::serve(&args);
            if let Err(error) = &outcome {
                eprintln!("{error}: {:?}", std::error::Error::source(error));
            }
            std::process::exit(outcome.is_err().into());
        }
    }
}

/// Starts and stops the resolver of one world.
struct Resolver {
    run_dir: PathBuf,
    launcher: Launcher,
}

impl Resolver {
    fn new(world: &World) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        // The unprivileged resolver reads its upstreams here, as from /etc.
        std::fs::set_permissions(&world.dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let resolv_conf = world.dir.join("resolv.conf");
        std::fs::write(&resolv_conf, format!("nameserver {UPSTREAM}\n")).unwrap();
        let args = ["--exact", "dns::resolver_process", "--nocapture"].map(Into::into).into_iter();
        let launcher = Launcher {
            program: std::env::current_exe().unwrap(),
            args: args.chain([resolv_conf.into()]).collect(),
        };
        Self { run_dir: world.dir.clone(), launcher }
    }

    async fn serve(&self, zones: &[Zone]) {
        dns::ensure(&self.run_dir, &self.launcher, zones).await.unwrap();
    }

    async fn pid(&self) -> Option<i32> {
        dns::pid(&self.run_dir).await.map(|pid| pid as i32)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let socket = self.run_dir.join("net/dns.sock");
        if let Ok(stream) = std::os::unix::net::UnixStream::connect(socket) {
            let peer = nix::sys::socket::sockopt::PeerCredentials;
            let pid = nix::sys::socket::getsockopt(&stream, peer).unwrap().pid();
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
    }
}

fn zone(tenant: &TenantNet) -> Zone {
    let address = |last| Ipv4Addr::from(u32::from(tenant.network.ipv4_subnet.net().addr()) + last);
    Zone {
        tenant: tenant.tenant.clone(),
        network: tenant.network,
        forwarding: Forwarding::from(&tenant.egress),
        names: [("alice.workers", 3), ("i-0000beef.workers", 3), ("bob.workers", 4)]
            .map(|(name, last)| (name.to_owned(), address(last)))
            .into(),
    }
}

/// A machine with a real network stack on a tenant's bridge.
fn machine(tenant: &TenantNet) -> Neighbour {
    let id = tenant.network.tenant_net_id;
    let subnet = tenant.network.ipv4_subnet;
    let own = Ipv4Addr::from(u32::from(subnet.gateway()) + 8);
    let machine =
        Neighbour::join(&format!("m{id}"), None, &format!("{own}/{}", subnet.prefix_len()));
    ip(&format!("link set m{id} master {}", id.bridge()));
    machine
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask_udp(server: Ipv4Addr, question: &Message) -> std::io::Result<Message> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((server, 53))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.send(&question.to_vec().unwrap())?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    Ok(Message::from_vec(&buffer[..length]).unwrap())
}

fn ask_tcp(server: Ipv4Addr, question: &Message) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((server, 53)), PATIENCE)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write_framed(&mut stream, question);
    Ok(read_framed(&mut stream))
}

fn write_framed(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    stream.write_all(&(bytes.len() as u16).to_be_bytes()).unwrap();
    stream.write_all(&bytes).unwrap();
}

fn read_framed(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes).unwrap();
    Message::from_vec(&bytes).unwrap()
}

/// Asks from a machine on the tenant's bridge.
fn ask(from: &Neighbour, server: Ipv4Addr, name: &str, kind: RecordType) -> Message {
    let question = question(name, kind);
    from.run(move || ask_udp(server, &question)).unwrap()
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match record.data {
        RData::A(A(address)) => Some(address),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

/// A public resolver: knows every name, `big.` only over TCP in full, and never answers `silent.`
fn upstream() -> Neighbour {
    let internet = Neighbour::join("up0", Some("203.0.113.1/24"), "203.0.113.9/24");
    internet.run(|| {
        let udp = UdpSocket::bind("0.0.0.0:53").unwrap();
        let tcp = TcpListener::bind("0.0.0.0:53").unwrap();
        // Both end with the process; each blocks in its own socket until then.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let name = asked.queries[0].name().to_string();
                if name.starts_with("silent") {
                    continue;
                }
                let mut wrong_id = reply(&asked, 1);
                wrong_id.metadata.id ^= 1;
                wrong_id.answers.clear();
                udp.send_to(&wrong_id.to_vec().unwrap(), peer).unwrap();
                let answer = reply(&asked, 1);
                let answer = if name.starts_with("big") { answer.truncate() } else { answer };
                udp.send_to(&answer.to_vec().unwrap(), peer).unwrap();
            }
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let asked = read_framed(&mut stream);
                write_framed(&mut stream, &reply(&asked, 200));
            }
        });
    });
    internet
}

fn reply(asked: &Message, records: usize) -> Message {
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    answer.add_query(asked.queries[0].clone());
    let record = Record::from_rdata(asked.queries[0].name().clone(), 60, RData::A(A(WORLD)));
    answer.add_answers(std::iter::repeat_n(record, records));
    answer
}

#[test]
fn a_tenant_finds_its_own_instances_and_no_others() {
    in_namespace("a_tenant_finds_its_own_instances_and_no_others", |world| async move {
        let (a, b) = (world.tenant(7, Egress::None).await, world.tenant(9, Egress::None).await);
        let resolver = Resolver::new(&world);
        resolver.serve(&[zone(&a), zone(&b)]).await;
        let (in_a, in_b) = (machine(&a), machine(&b));
        let own = |tenant: &TenantNet| tenant.network.ipv4_subnet.gateway();
        for (from, tenant, other) in [(&in_a, &a, &b), (&in_b, &b, &a)] {
            for name in ["alice.workers", "i-0000beef.workers", "BOB.Workers"] {
                let found = ask(
                    from,
                    own(tenant),
                    &format!("{name}.{}.mvm.", tenant.tenant),
                    RecordType::A,
                );
                assert_eq!(code(&found), ResponseCode::NoError);
                assert!(tenant.network.ipv4_subnet.net().contains(&addresses(&found)[0]));
            }
            let hidden = ask(
                from,
                own(tenant),
                &format!("alice.workers.{}.mvm.", other.tenant),
                RecordType::A,
            );
            assert_eq!(code(&hidden), ResponseCode::NXDomain);
            let name = format!("alice.workers.{}.mvm.", tenant.tenant);
            let six = ask(from, own(tenant), &name, RecordType::AAAA);
            assert_eq!((code(&six), six.answers.len()), (ResponseCode::NoError, 0));
            let by_tcp = question(&name, RecordType::A);
            let server = own(tenant);
            let found = from.run(move || ask_tcp(server, &by_tcp)).unwrap();
            assert_eq!(addresses(&found).len(), 1);
        }
        // Without egress nothing else is told, and the other tenant's resolver not reached.
        let refused = ask(&in_a, own(&a), "example.org.", RecordType::A);
        assert_eq!(code(&refused), ResponseCode::Refused);
        let others_gateway = own(&b);
        in_a.run(move || {
            ip("route add default via 10.240.7.1");
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket
                .send_to(
                    &question("alice.workers.tenant-9.mvm.", RecordType::A).to_vec().unwrap(),
                    (others_gateway, 53),
                )
                .unwrap();
            // What is answered on the right socket afterwards shows that nothing came back here.
            ask_udp([10, 240, 7, 1].into(), &question("mvm.", RecordType::A)).unwrap();
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv(&mut [0; 99]).is_err());
        });
    });
}

#[test]
fn other_names_are_asked_of_the_hosts_upstreams() {
    in_namespace("other_names_are_asked_of_the_hosts_upstreams", |world| async move {
        let internet = upstream();
        let tenant = world.tenant(7, Egress::Internet).await;
        let resolver = Resolver::new(&world);
        resolver.serve(&[zone(&tenant)]).await;
        let machine = machine(&tenant);
        let gateway = tenant.network.ipv4_subnet.gateway();
        // The answer under another id came first and was not believed.
        let found = ask(&machine, gateway, "example.org.", RecordType::A);
        assert_eq!((addresses(&found), found.metadata.id), (vec![WORLD], 4711));
        let cut = ask(&machine, gateway, "big.example.org.", RecordType::A);
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let whole =
            machine.run(move || ask_tcp(gateway, &question("big.example.org.", RecordType::A)));
        assert_eq!(addresses(&whole.unwrap()).len(), 200);
        let mut with_edns = question("example.org.", RecordType::A);
        with_edns.set_edns(Edns::new());
        let found = machine.run(move || ask_udp(gateway, &with_edns)).unwrap();
        assert_eq!(addresses(&found), [WORLD]);
        drop(internet);
    });
}

#[test]
fn a_silent_or_missing_upstream_is_a_server_failure() {
    in_namespace("a_silent_or_missing_upstream_is_a_server_failure", |world| async move {
        let internet = upstream();
        let tenant = world.tenant(7, Egress::Internet).await;
        let resolver = Resolver::new(&world);
        resolver.serve(&[zone(&tenant)]).await;
        let machine = machine(&tenant);
        let gateway = tenant.network.ipv4_subnet.gateway();
        let begun = Instant::now();
        let failed = ask(&machine, gateway, "silent.example.org.", RecordType::A);
        assert_eq!(code(&failed), ResponseCode::ServFail);
        assert!(begun.elapsed() < Duration::from_secs(5), "guests wait five seconds");
        // A second server that knows takes over.
        let two = format!("nameserver 203.0.113.77\nnameserver {UPSTREAM}\n");
        std::fs::write(world.dir.join("resolv.conf"), two).unwrap();
        let found = ask(&machine, gateway, "example.org.", RecordType::A);
        assert_eq!(addresses(&found), [WORLD]);
        std::fs::write(world.dir.join("resolv.conf"), "").unwrap();
        let failed = ask(&machine, gateway, "example.org.", RecordType::A);
        assert_eq!(code(&failed), ResponseCode::ServFail);
        let own = ask(&machine, gateway, "alice.workers.tenant-7.mvm.", RecordType::A);
        assert_eq!(code(&own), ResponseCode::NoError);
        drop(internet);
    });
}

#[test]
fn the_resolver_is_unprivileged_and_lives_on_its_own() {
    in_namespace("the_resolver_is_unprivileged_and_lives_on_its_own", |world| async move {
        let tenant = world.tenant(7, Egress::None).await;
        let resolver = Resolver::new(&world);
        resolver.serve(&[zone(&tenant)]).await;
        let pid = resolver.pid().await.unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
        };
        let id = UNPRIVILEGED.to_string();
        assert_eq!(field("Uid:"), [id.as_str(); 4].join(" "));
        assert_eq!(field("Gid:"), [id.as_str(); 4].join(" "));
        assert_eq!(field("Groups:"), "");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_ne!(
            nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid))),
            nix::unistd::getsid(None)
        );
    });
}

#[test]
fn one_resolver_serves_until_the_last_tenant_is_gone() {
    in_namespace("one_resolver_serves_until_the_last_tenant_is_gone", |world| async move {
        let (a, b) = (world.tenant(7, Egress::None).await, world.tenant(9, Egress::None).await);
        let resolver = Resolver::new(&world);
        assert_eq!(resolver.pid().await, None);
        resolver.serve(&[zone(&a)]).await;
        let pid = resolver.pid().await;
        let machine = machine(&a);
        let gateway = a.network.ipv4_subnet.gateway();
        let mut more = zone(&a);
        more.names.insert("carol.workers".to_owned(), [10, 240, 7, 5].into());
        let carol = |m: &Neighbour| ask(m, gateway, "carol.workers.tenant-7.mvm.", RecordType::A);
        assert_eq!(code(&carol(&machine)), ResponseCode::NXDomain);
        for _ in 0..2 {
            resolver.serve(&[more.clone(), zone(&b)]).await;
            assert_eq!(resolver.pid().await, pid, "the same process");
            assert_eq!(addresses(&carol(&machine)), [Ipv4Addr::new(10, 240, 7, 5)]);
        }
        dns::remove(&world.dir, b.network.tenant_net_id).await.unwrap();
        assert_eq!(addresses(&carol(&machine)).len(), 1);
        world.net.remove_tenant(&a.network).await.unwrap();
        // The same tenant again, its bridge another: new sockets.
        world.net.ensure_tenant(&a).await.unwrap();
        ip("link set m7 master br-tenant-7");
        resolver.serve(&[more.clone()]).await;
        assert_eq!(addresses(&carol(&machine)).len(), 1);
        dns::remove(&world.dir, a.network.tenant_net_id).await.unwrap();
        assert_eq!(resolver.pid().await, None);
        assert!(!world.dir.join("net/dns.sock").exists());
        gone(pid.unwrap());
        dns::remove(&world.dir, a.network.tenant_net_id).await.unwrap();
    });
}

/// Waits until a process is no more (or waits to be reaped).
fn gone(pid: i32) {
    let deadline = Instant::now() + PATIENCE;
    let alive = || {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    while alive() {
        assert!(Instant::now() < deadline, "process {pid} never ends");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_dead_or_stuck_resolver_is_replaced_with_everything() {
    in_namespace("a_dead_or_stuck_resolver_is_replaced_with_everything", |world| async move {
        use nix::sys::signal::{SIGKILL, SIGSTOP, kill};
        let (a, b) = (world.tenant(7, Egress::None).await, world.tenant(9, Egress::None).await);
        let zones = [zone(&a), zone(&b)];
        let resolver = Resolver::new(&world);
        resolver.serve(&zones).await;
        let machine = machine(&b);
        for signal in [SIGKILL, SIGSTOP] {
            let pid = resolver.pid().await.unwrap();
            kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
            resolver.serve(&zones).await;
            assert_ne!(resolver.pid().await.unwrap(), pid);
            gone(pid);
            let gateway = b.network.ipv4_subnet.gateway();
            let found = ask(&machine, gateway, "bob.workers.tenant-9.mvm.", RecordType::A);
            assert_eq!(addresses(&found).len(), 1, "after {signal}");
        }
    });
}

#[test]
fn only_its_owner_commands_the_resolver() {
    in_namespace("only_its_owner_commands_the_resolver", |world| async move {
        use std::os::unix::fs::PermissionsExt as _;
        let tenant = world.tenant(7, Egress::None).await;
        let resolver = Resolver::new(&world);
        resolver.serve(&[zone(&tenant)]).await;
        let socket = world.dir.join("net/dns.sock");
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        // Garbage and silence end that connection only.
        let mut rude = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        rude.write_all(&[0xff; 64]).unwrap();
        let _ = rude.read(&mut [0; 8]);
        assert!(resolver.pid().await.is_some());
    });
}

#[test]
fn a_program_that_is_no_resolver_is_an_error_with_its_words() {
    in_namespace("a_program_that_is_no_resolver_is_an_error_with_its_words", |world| async move {
        let tenant = world.tenant(7, Egress::None).await;
        let launcher = Launcher {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), "echo broken >&2".into()],
        };
        let failed = dns::ensure(&world.dir, &launcher, &[zone(&tenant)]).await.unwrap_err();
        let cause = std::error::Error::source(&failed).unwrap().to_string();
        assert!(cause.contains("broken"), "{failed}: {cause}");
    });
}
