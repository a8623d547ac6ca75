//! What becomes of a packet, and the one list of reasons for which it may be dropped.

/// What the packet path decided for one received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the frame as it now stands.
    Transmit,
    /// The packet is not ours: it belongs to the host's kernel.
    ToHost,
    /// An early fragment: its bytes are kept by the fragment stage until its first fragment comes.
    Hold,
    /// Drop it, for one named reason.
    Drop(Reason),
}

macro_rules! reasons {
    ($( $stage:ident { $( $variant:ident $name:literal $doc:literal, )* } )*) => {
        /// Why a packet was dropped. One list makes this type, the counters, the `--json` names and the documentation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $($( #[doc = $doc] $variant, )*)* }

        impl Reason {
            /// Every reason, in the order of the stages in which a packet meets them.
            pub const ALL: &'static [Reason] = &[ $($( Reason::$variant, )*)* ];
            /// How many reasons there are.
            pub const COUNT: usize = Reason::ALL.len();

            /// The name in counters and JSON: snake_case, never changed once released.
            pub const fn name(self) -> &'static str {
                match self { $($( Reason::$variant => $name, )*)* }
            }

            /// One human-readable sentence.
            pub const fn explain(self) -> &'static str {
                match self { $($( Reason::$variant => $doc, )*)* }
            }

            /// The stage of the packet path that finds it.
            pub const fn stage(self) -> &'static str {
                match self { $($( Reason::$variant => stringify!($stage), )*)* }
            }
        }
    };
}

reasons! {
    parse {
        Truncated "truncated" "The frame ends before a header, or before the length that a header claims.",
        BadHeader "bad_header" "A header contradicts itself: wrong version, header length below its minimum, or a UDP length below 8.",
        BadOuterChecksum "bad_outer_checksum" "The outer IPv4 header checksum is wrong.",
        OuterFragment "outer_fragment" "The GRE packet itself came in fragments: the router's MTU towards the director is too small.",
        RouterNotAllowed "router_not_allowed" "GRE from an address outside `routers`.",
        GreVersion "gre_version" "GRE of a version other than 0, or with the deprecated routing bit.",
        GreProtocol "gre_protocol" "GRE that carries neither IPv4 nor IPv6.",
        BadGreChecksum "bad_gre_checksum" "The GRE checksum is present and wrong.",
        BadInnerChecksum "bad_inner_checksum" "The inner IPv4 header checksum is wrong.",
        ExtensionHeaders "extension_headers" "More than 8 IPv6 extension headers, or one that cannot be walked.",
    }
    vip {
        NotVip "not_vip" "GRE for an address that is no VIP, with `unmatched = \"drop\"`.",
        KeepaliveAnswered "keepalive_answered" "A router's GRE keepalive, which the director sent back (the answer counts as originated).",
        NoService "no_service" "A VIP, but no service on this protocol and port.",
    }
    icmp {
        IcmpUnrelated "icmp_unrelated" "An ICMP error that quotes no known flow, or too little of it.",
        IcmpIgnored "icmp_ignored" "An ICMP message to a VIP that is neither an error nor an echo request, or is damaged.",
        IcmpEcho "icmp_echo" "An echo request to a VIP, with `icmp_echo = \"drop\"`; or one with `\"answer\"` that is a fragment or comes from no single host.",
        IcmpAnswered "icmp_answered" "An echo request that the director answered itself (the answer counts as originated).",
    }
    fragment {
        FragmentHoldFull "fragment_hold_full" "A held early fragment that left its place to a newer one, or one that is too long for a place.",
        FragmentHoldExpired "fragment_hold_expired" "A held fragment whose first fragment never came.",
        FragmentTiny "fragment_tiny" "A first fragment too short to show its ports (RFC 1858).",
    }
    select {
        ServicePaused "service_paused" "The service is paused.",
        NotTftp "not_tftp" "A packet to a `tftp` service whose opcode is not 1 to 6.",
        WriteRefused "write_refused" "A write request to a service with `writes = \"drop\"`, the default.",
        ClientNotAllowed "client_not_allowed" "A request from an address outside the service's `clients`.",
        BogusSource "bogus_source" "A request from an address that no client can have: its answer would go to a host that did not ask.",
        Shed "shed" "A request beyond the service's `admission` limits; the client's own retry brings it back.",
        NoBackend "no_backend" "The pool has no backend that takes this packet.",
    }
    encap {
        TtlExpired "ttl_expired" "The incoming TTL or hop limit is used up: a loop ends here.",
        NeighbourUnresolved "neighbour_unresolved" "The backend's next hop has no link-layer address yet; its resolution was requested.",
        TooBig "too_big" "The packet does not fit the MTU towards the backend in GRE; its sender gets an ICMP error, as far as the rate limit allows.",
    }
    steer {
        WorkerQueueFull "worker_queue_full" "Software steering: every buffer towards the flow's worker is in use.",
    }
    send {
        OutboxFull "outbox_full" "No room for packets to be originated or released in this batch.",
        TransmitFull "transmit_full" "The transmit ring of the io had no room.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_name_is_snake_case_and_stands_once() {
        let mut seen = HashSet::new();
        for reason in Reason::ALL {
            let name = reason.name();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert!(seen.insert(name), "{name} stands twice");
            assert_eq!(Reason::ALL[*reason as usize], *reason);
        }
    }
}
