//! What a new instance is given of what all share: an offset in its tenant's subnet, a uid.

use crate::desired::NetworkSpec;
use crate::image::Role;
use crate::network::Offset;

/// The lowest free offset for a new instance. The tenant's first gateway instance takes `.2`
/// for life; everyone else starts at `.3`.
pub fn free_offset(network: &NetworkSpec, role: &Role, taken: &[Offset]) -> Option<Offset> {
    let is_free = |offset: &Offset| !taken.contains(offset) && network.may_lease(*offset);
    if *role == Role::Gateway && is_free(&Offset::GATEWAY_INSTANCE) {
        return Some(Offset::GATEWAY_INSTANCE);
    }
    (Offset::FIRST.0..=network.ipv4_subnet.max_offset().0).map(Offset).find(is_free)
}

/// The first uid VMMs run as: in the range the operating system's own allocations (accounts,
/// `subuid`, `DynamicUser`, container uids) leave free, 1,879,048,192 to 2,147,483,647.
pub const FIRST_VMM_UID: u32 = 1_900_000_000;

/// The user and group of the tenants' resolver: in the same range, below all VMs'.
pub const RESOLVER_UID: u32 = 1_899_999_953;

/// The lowest free uid for a new instance.
pub fn free_uid(taken: &[u32]) -> u32 {
    let mut uid = FIRST_VMM_UID;
    while taken.contains(&uid) {
        uid += 1;
    }
    uid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::AddressRange;
    use crate::network::NetId;
    use proptest::prelude::*;

    fn small() -> NetworkSpec {
        NetworkSpec {
            tenant_net_id: NetId::new(9).unwrap(),
            ipv4_subnet: "10.240.9.0/28".parse().unwrap(),
            address_range: None,
        }
    }

    #[test]
    fn the_first_gateway_takes_two_and_keeps_it() {
        let taken = &mut Vec::new();
        assert_eq!(free_offset(&small(), &Role::Worker, taken), Some(Offset(3)));
        assert_eq!(free_offset(&small(), &Role::Gateway, taken), Some(Offset(2)));
        taken.push(Offset(2));
        assert_eq!(free_offset(&small(), &Role::Gateway, taken), Some(Offset(3)));
    }

    #[test]
    fn only_what_this_node_may_lease_is_leased() {
        let range = AddressRange { first: Offset(5), last: Offset(6) };
        let ours = NetworkSpec { address_range: Some(range), ..small() };
        assert_eq!(free_offset(&ours, &Role::Gateway, &[]), Some(Offset(5)));
        assert_eq!(free_offset(&ours, &Role::Worker, &[Offset(5), Offset(6)]), None);
    }

    #[test]
    fn a_full_subnet_has_no_offset() {
        let taken: Vec<Offset> = (2..=14).map(Offset).collect();
        assert_eq!(free_offset(&small(), &Role::Worker, &taken), None);
    }

    #[test]
    fn no_vm_is_ever_the_resolver() {
        const { assert!(1_879_048_192 <= RESOLVER_UID && RESOLVER_UID < FIRST_VMM_UID) };
        let mut taken = Vec::new();
        for _ in 0..500 {
            let uid = free_uid(&taken);
            assert!(uid >= FIRST_VMM_UID && !taken.contains(&uid));
            taken.push(uid);
        }
    }

    proptest! {
        #[test]
        fn offsets_are_never_leased_twice(taken in proptest::collection::vec(2u16..15, 0..14)) {
            let taken: Vec<Offset> = taken.into_iter().map(Offset).collect();
            if let Some(offset) = free_offset(&small(), &Role::Worker, &taken) {
                prop_assert!(!taken.contains(&offset) && small().may_lease(offset));
            }
        }
    }
}
