use hickory_proto::op::Edns;
use mvm_model::NetId;
use mvm_model::record::TenantNetwork;
use proptest::prelude::*;

use super::*;

fn zone(forwarding: Forwarding) -> Zone {
    let tenant_net_id = NetId::new(7).unwrap();
    let names = [("i-0000beef.workers", [10, 240, 7, 3]), ("alice.workers", [10, 240, 7, 3])];
    Zone {
        tenant: "demo".parse().unwrap(),
        network: TenantNetwork { tenant_net_id, ipv4_subnet: tenant_net_id.default_subnet() },
        forwarding,
        names: names.map(|(name, ip)| (name.to_owned(), ip.into())).into(),
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn answer(forwarding: Forwarding, message: &Message) -> Message {
    match decide(&zone(forwarding), &message.to_vec().unwrap()) {
        Decision::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn ask(name: &str, kind: RecordType) -> Message {
    answer(Forwarding::Upstream, &question(name, kind))
}

#[test]
fn own_instances_are_found_by_id_and_name_in_any_case() {
    for name in
        ["i-0000beef.workers.demo.mvm.", "alice.workers.demo.mvm", "Alice.Workers.DEMO.mvm."]
    {
        let answer = ask(name, RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!(answer.answers[0].data, RData::A(A([10, 240, 7, 3].into())));
        assert_eq!((answer.metadata.id, answer.answers[0].ttl), (77, TTL));
    }
}

#[test]
fn other_types_of_an_existing_name_have_no_data() {
    for (name, kind) in [
        ("alice.workers.demo.mvm.", RecordType::AAAA),
        ("alice.workers.demo.mvm.", RecordType::MX),
        ("workers.demo.mvm.", RecordType::A),
        ("demo.mvm.", RecordType::A),
        ("mvm.", RecordType::NS),
    ] {
        let answer = ask(name, kind);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
        assert!(answer.answers.is_empty() && answer.authorities.len() == 1, "{name}");
    }
}

#[test]
fn another_tenants_names_look_like_missing_ones() {
    let other = ask("alice.workers.demo-b.mvm.", RecordType::A);
    let missing = ask("nobody.workers.nobody.mvm.", RecordType::A);
    assert_eq!(other.metadata, missing.metadata);
    assert_eq!(other.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(other.authorities, missing.authorities);
    for name in ["alice.workers.xdemo.mvm.", "bob.workers.demo.mvm.", "ice.workers.demo.mvm."] {
        assert_eq!(ask(name, RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    }
}

#[test]
fn only_a_tenant_with_egress_asks_the_world() {
    let message = question("example.org.", RecordType::A);
    let bytes = message.to_vec().unwrap();
    assert!(matches!(decide(&zone(Forwarding::Upstream), &bytes), Decision::Forward(_)));
    let refused = answer(Forwarding::Refused, &message);
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    let own = answer(Forwarding::Refused, &question("alice.workers.demo.mvm.", RecordType::A));
    assert_eq!(own.answers.len(), 1);
}

#[test]
fn private_addresses_are_never_asked_upstream() {
    let own = ask("3.7.240.10.in-addr.arpa.", RecordType::PTR);
    assert!(
        matches!(&own.answers[0].data, RData::PTR(name) if name.to_string().ends_with("demo.mvm."))
    );
    for name in [
        "4.7.240.10.in-addr.arpa.",
        "1.1.168.192.in-addr.arpa.",
        "10.in-addr.arpa.",
        "254.169.254.169.in-addr.arpa.",
    ] {
        assert_eq!(
            ask(name, RecordType::PTR).metadata.response_code,
            ResponseCode::NXDomain,
            "{name}"
        );
    }
    let public = question("1.113.0.203.in-addr.arpa.", RecordType::PTR).to_vec().unwrap();
    assert!(matches!(decide(&zone(Forwarding::Upstream), &public), Decision::Forward(_)));
}

#[test]
fn what_is_no_plain_question_is_refused_or_ignored() {
    let code = |message: &Message| answer(Forwarding::Upstream, message).metadata.response_code;
    assert_eq!(code(&question("demo.mvm.", RecordType::AXFR)), ResponseCode::Refused);
    assert_eq!(code(&question("example.org.", RecordType::ANY)), ResponseCode::Refused);
    let mut two = question("a.org.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("b.org.").unwrap(), RecordType::A));
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut update = question("demo.mvm.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut response = question("a.org.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    let decision = decide(&zone(Forwarding::Upstream), &response.to_vec().unwrap());
    assert_eq!(decision, Decision::Ignore);
    assert_eq!(decide(&zone(Forwarding::Upstream), b"short"), Decision::Ignore);
    assert!(
        matches!(decide(&zone(Forwarding::Upstream), &[0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0]), Decision::Answer(m) if m.metadata.response_code == ResponseCode::FormErr)
    );
}

#[test]
fn an_answer_that_does_not_fit_is_cut_and_says_so() {
    let mut answer = ask("alice.workers.demo.mvm.", RecordType::A);
    let record = answer.answers[0].clone();
    answer.add_answers(std::iter::repeat_n(record, 100));
    let bytes = encode(&answer, udp_limit(None)).unwrap();
    assert!(bytes.len() <= 512);
    assert!(Message::from_vec(&bytes).unwrap().metadata.truncation);
    assert_eq!(udp_limit(Some(65_535)), usize::from(MAX_UDP));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]
    #[test]
    fn no_datagram_makes_the_resolver_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = decide(&zone(Forwarding::Upstream), &bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn no_mangled_question_makes_it_panic_or_answer_with_another_id(
        at in 0usize..60, byte: u8, edns: bool, cut in 0usize..60,
    ) {
        let mut message = question("alice.workers.demo.mvm.", RecordType::A);
        if edns {
            message.set_edns(Edns::new());
        }
        let mut bytes = message.to_vec().unwrap();
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        if let Decision::Answer(answer) = decide(&zone(Forwarding::Upstream), &bytes) {
            prop_assert_eq!(answer.metadata.id.to_be_bytes(), [bytes[0], bytes[1]]);
            prop_assert!(encode(&answer, 512).is_some_and(|bytes| bytes.len() <= 512));
        }
    }

    #[test]
    fn a_name_below_mvm_never_leaves_the_host(
        labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 1..4),
    ) {
        let labels = labels.iter().map(Vec::as_slice).chain([&b"mVm"[..]]);
        let query = Query::query(Name::from_labels(labels).unwrap(), RecordType::A);
        prop_assert!(local(&zone(Forwarding::Upstream), &query).is_some());
    }
}
