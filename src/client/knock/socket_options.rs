//! Socket options that nix has no type for.

use nix::libc::{self, c_int};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

sockopt_impl!(
    /// The MTU of a connected socket's route (`IPV6_MTU`), in bytes.
    Ipv6Mtu,
    GetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU,
    c_int
);

sockopt_impl!(
    /// Whether packets may be fragmented on the way (`IP_MTU_DISCOVER`): one of `IP_PMTUDISC_*`.
    IpMtuDiscover,
    GetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    c_int
);

sockopt_impl!(
    /// How much there must be to read (`SO_RCVLOWAT`), in bytes.
    RcvLowat,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    c_int
);

sockopt_impl!(
    /// TCP Fast Open without a cookie (`TCP_FASTOPEN_NO_COOKIE`).
    TcpFastOpenNoCookie,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_FASTOPEN_NO_COOKIE,
    bool
);
