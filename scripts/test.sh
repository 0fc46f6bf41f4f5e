#!/bin/bash
# Everything that has to hold before a change lands: format, lints, shell scripts, unit and end-to-end tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"

usage() {
    cat <<END
Checks the whole tree: cargo fmt, clippy, shellcheck, unit tests, and end-to-end tests with real packets between network
namespaces. Installs the Debian packages that it needs and that are missing, and removes what it made.

usage: sudo scripts/test.sh          everything
       scripts/test.sh --quick       format, lints and the tests that need no root
Exit status: 0 all is well, 1 something is not, 2 usage.
END
}

# What the build and the end-to-end tests call.
TOOLS=(gcc=cc shellcheck=shellcheck)
HOST_TOOLS=(iproute2=ip nftables=nft iptables=iptables iputils-ping=ping conntrack=conntrack tcpdump=tcpdump
    rsyslog=rsyslogd logrotate=logrotate openssh-server=sshd openssh-client=ssh netcat-openbsd=nc curl=curl
    libcap2-bin=setcap python3=python3 ufw=ufw nmap=nmap
    hping3=hping3 p0f=p0f ethtool=ethtool firewalld=firewalld dbus-daemon=dbus-daemon)

step() {
    say "== $*"
    "$@" || die "failed: $*"
}

lint() {
    step as_caller cargo fmt --check
    step as_caller cargo clippy --locked --all-targets --all-features -- -D warnings
    step shellcheck -x scripts/*.sh .ci/run
}

dir=''
end() {
    nf_log_release
    [[ -z $dir ]] || rm -rf "$dir"
    # What runs as root leaves a few files.
    if [[ -n ${SUDO_UID:-} && -d target ]]; then chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" target; fi
}

quick=''
case ${1:-} in
'') ;;
--quick) quick=1 ;;
-h | --help) usage && exit 0 ;;
*) usage >&2 && exit 2 ;;
esac

trap end EXIT
if [[ -n $quick ]]; then
    install_missing "${TOOLS[@]}"
    find_cargo
    lint
    step as_caller cargo test --locked
    exit
fi

require_root
install_missing "${TOOLS[@]}" "${HOST_TOOLS[@]}"
find_cargo
lint
# A daemon that does on demand what its sandbox forbids; the tests look for it there.
step as_caller cargo build --locked --features misbehave --bin knock-daemon
step as_caller mkdir -p target/misbehave
step as_caller cp "${CARGO_TARGET_DIR:-target}/debug/knock-daemon" target/misbehave/knock-daemon
step as_caller cargo test --locked --features e2e --no-run
nf_log_hold
# Not in /tmp, where other programs make files all the time: each would wake a daemon whose log is below it, and one test
# waits until none is woken.
dir=$(mktemp -d /var/tmp/knockknock-test.XXXXXX)
chmod 755 "$dir"
# They wait more than they compute: one more at a time than there are processors.
step env TMPDIR="$dir" RUST_TEST_THREADS=$(($(nproc) + 1)) KNOCKKNOCK_ALL_CASES=1 cargo test --locked --features e2e --no-fail-fast
# A helper that does what its filter forbids is another build.
step env TMPDIR="$dir" cargo test --locked --features e2e,misbehave --test privileged -- confinement that_traces
say "all is well"
