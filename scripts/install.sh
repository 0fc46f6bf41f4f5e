#!/bin/bash
# Builds the programs and installs them, with the one capability that the client's need. Owns what it names below
# PREFIX; makes no profile, no user, no rule, and starts nothing.
set -euo pipefail
called_in=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
# shellcheck disable=SC2034 # lib.sh says it
NEEDS_ROOT="writes to the system's directories and gives knock a capability"
export PATH="$PATH:/usr/sbin:/sbin"

usage() {
    cat <<END
Builds and installs knock, knock-proxy, knock-daemon and knock-genprofile. Run again, it upgrades them.

usage: scripts/install.sh [--prefix DIR] [--client] [--uninstall]

  --prefix DIR   where to (default /usr/local)
  --client       only what runs on a laptop: knock and knock-proxy
  --uninstall    remove what it installs there; profiles and config stay
  -h, --help     this text

Run it as yourself: it builds as you, and calls sudo for what takes root (writing to DIR unless that is yours, and
setcap). It says what it does.

examples:
  scripts/install.sh
  scripts/install.sh --client --prefix ~/.local
  scripts/install.sh --uninstall
Exit status: 0 done, 1 could not, 2 usage.
END
}

prefix=/usr/local
client_only=''
uninstall=''
while (($#)); do
    case $1 in
    --prefix)
        [[ -n ${2:-} ]] || { usage >&2 && exit 2; }
        prefix=$2 && shift 2
        ;;
    --client) client_only=1 && shift ;;
    --uninstall) uninstall=1 && shift ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
    esac
done

# As the caller means it; units need a whole path.
[[ $prefix == /* ]] || prefix=$called_in/$prefix

as_root() {
    if ((EUID == 0)); then "$@"; else
        command -v sudo >/dev/null || require_root
        sudo "$@"
    fi
}

# Where PREFIX is the caller's own, only setcap takes root.
in_prefix() { if [[ -w $prefix ]]; then "$@"; else as_root "$@"; fi; }

put() {
    local mode=$1 from=$2 to=$prefix/$3
    in_prefix install -D -m "$mode" "$from" "$to"
    say "installed $to"
}

# What is put below PREFIX: for a client, and for a server beside that.
of_client=(share/systemd/user/knock-proxy.service share/systemd/user/knock-proxy.socket)
for program in knock knock-proxy; do
    of_client+=("bin/$program" "share/bash-completion/completions/$program" "share/zsh/site-functions/_$program"
        "share/fish/vendor_completions.d/$program.fish")
done
rules=(minimal-firewall.nft guard.nft minimal-firewall.iptables.sh)
units=(knock-daemon.service knockknock-guard.service knockknock-guard-nftables.service)
of_server=(sbin/knock-daemon sbin/knock-genprofile sbin/minimal-firewall.sh "${rules[@]/#/share/knockknock/}"
    "${units[@]/#/lib/systemd/system/}" lib/sysusers.d/knockknock.conf)

if [[ -n $uninstall ]]; then
    remove=("${of_client[@]}")
    if [[ -z $client_only ]]; then
        remove+=("${of_server[@]}")
        if [[ -e $prefix/lib/systemd/system/knock-daemon.service && -d /run/systemd/system ]] && systemctl is-active --quiet knock-daemon 2>/dev/null; then
            die "knock-daemon runs: systemctl disable --now knock-daemon, then run this again"
        fi
        # Without it, nothing would take back what it closed, and nothing would close that after the next boot.
        if [[ -e $prefix/lib/systemd/system/knockknock-guard.service && -d /run/systemd/system ]] && systemctl is-enabled --quiet knockknock-guard 2>/dev/null; then
            die "ports are closed to strangers: minimal-firewall.sh --undo, then run this again"
        fi
    fi
    removed=0
    for file in "${remove[@]}"; do
        [[ -e $prefix/$file ]] || continue
        in_prefix rm "$prefix/$file"
        say "removed $prefix/$file" && removed=$((removed + 1))
    done
    # The one directory that is ours alone.
    if [[ -z $client_only && -d $prefix/share/knockknock ]]; then
        in_prefix rmdir --ignore-fail-on-non-empty "$prefix/share/knockknock"
    fi
    ((removed)) || say "nothing of knockknock is installed in $prefix"
    say "profiles and config stay: ~/.knockknock, /etc/knockknock.d and /etc/knockknock-*.d; so does a user knockknock"
    exit
fi

programs=(knock knock-proxy)
[[ -n $client_only ]] || programs+=(knock-daemon knock-genprofile)

find_cargo
cargo build --release --locked "${programs[@]/#/--bin=}"
built=$(cargo metadata --format-version 1 --no-deps --locked | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')/release
mkdir -p "$prefix" 2>/dev/null || true
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for program in knock knock-proxy; do
    put 755 "$built/$program" "bin/$program"
    as_root setcap cap_net_raw+ep "$prefix/bin/$program" ||
        die "no file capability for $prefix/bin/$program: is the file system mounted nosuid, or libcap2-bin missing?"
    say "gave $prefix/bin/$program cap_net_raw"
    for completion in "bash share/bash-completion/completions/$program" "zsh share/zsh/site-functions/_$program" \
        "fish share/fish/vendor_completions.d/$program.fish"; do
        "$built/$program" --completions "${completion%% *}" >"$work/completion"
        put 644 "$work/completion" "${completion#* }"
    done
done

sed "s|/usr/local|$prefix|" packaging/systemd/user/knock-proxy.service >"$work/service"
# Below share, systemd looks for a user's units in /usr/local and in ~/.local; below lib, in /usr/local alone.
put 644 "$work/service" share/systemd/user/knock-proxy.service
put 644 packaging/systemd/user/knock-proxy.socket share/systemd/user/knock-proxy.socket

if [[ -z $client_only ]]; then
    put 755 "$built/knock-daemon" sbin/knock-daemon
    put 755 "$built/knock-genprofile" sbin/knock-genprofile
    put 755 scripts/minimal-firewall.sh sbin/minimal-firewall.sh
    for file in "${rules[@]}"; do put 644 "scripts/$file" "share/knockknock/$file"; done
    for unit in "${units[@]}"; do
        sed "s|/usr/local|$prefix|" "packaging/systemd/$unit" >"$work/service"
        put 644 "$work/service" "lib/systemd/system/$unit"
    done
    put 644 packaging/sysusers.d/knockknock.conf lib/sysusers.d/knockknock.conf
    say "the daemon wants a user of its own: systemd-sysusers, or adduser --system --group --no-create-home knockknock"
fi
