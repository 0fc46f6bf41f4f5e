#!/bin/bash
# Measures: the parser, the firewall, and the real daemon end to end. What comes out is explained in docs/performance.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"

usage() {
    cat <<END
Measures this machine: prints tables of what docs/performance.md tells of. Installs the Debian packages that it needs and
that are missing; takes some minutes, and 2 GB of disk for a while. What else the machine does shows in the figures.

usage: sudo scripts/bench.sh [PART...]
PART: parser, grants, idle, drain, latency, shut, flood, stealth; all of them if none is named
Exit status: 0 measured, 1 something went wrong, 2 usage.
END
}

readonly PARTS=(parser grants idle drain latency shut flood stealth)
case ${1:-} in -h | --help) usage && exit 0 ;; esac
for part in "$@"; do
    [[ " ${PARTS[*]} " == *" $part "* ]] || { usage >&2 && exit 2; }
done
(($#)) || set -- "${PARTS[@]}"

require_root
install_missing gcc=cc iproute2=ip nftables=nft iptables=iptables rsyslog=rsyslogd strace=strace
find_cargo
say "building (the first time takes some minutes)"
as_caller cargo bench --locked --quiet --no-run --bench parser --bench grants --bench daemon || die "the build failed"

dir=''
end() {
    nf_log_release
    [[ -z $dir ]] || rm -rf "$dir"
    # What runs as root leaves a few files.
    if [[ -n ${SUDO_UID:-} && -d target ]]; then chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" target; fi
}
trap end EXIT
trap 'exit 1' INT TERM HUP
# Not in /tmp, where other programs make files all the time: each would wake a daemon whose log is below it.
dir=$(mktemp -d /var/tmp/knockknock-bench.XXXXXX)
chmod 755 "$dir"
export TMPDIR=$dir
nf_log_hold

say "$(nproc) processors ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)), Linux $(uname -r)," \
    "load $(cut -d' ' -f1 /proc/loadavg) when it began, $(date -u +%F)"
for part in "$@"; do
    case $part in
    parser | grants) cargo bench --locked --quiet --bench "$part" ;;
    *) cargo bench --locked --quiet --bench daemon -- "$part" ;;
    esac
done
