# shellcheck shell=bash
# What demo.sh and test.sh share; to be sourced. Owns the one machine-wide setting that both need, for as long as they
# run: net.netfilter.nf_log_all_netns, without which the kernel keeps to itself what firewalls in network namespaces log.

# Both can be set to try this file without touching the machine's setting.
NF_LOG_SETTING=${NF_LOG_SETTING:-/proc/sys/net/netfilter/nf_log_all_netns}
NF_LOG_DIR=${NF_LOG_DIR:-/run/knockknock-nf-log}

say() { printf '%s\n' "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# What takes root here; a script for something else says so before it sources this.
NEEDS_ROOT=${NEEDS_ROOT:-makes network namespaces}

require_root() { ((EUID == 0)) || die "$NEEDS_ROOT, which takes root: sudo $0"; }

# Installs Debian packages: of those named as PACKAGE=PROGRAM or PACKAGE=/FILE, the ones whose program or file is
# missing. The machine's services stay as they were: what a package would start is neither started nor enabled.
install_missing() {
    local wanted package probe output unit missing=() policy=/usr/sbin/policy-rc.d made_policy=''
    for wanted in "$@"; do
        package=${wanted%%=*} probe=${wanted#*=}
        if [[ $probe == /* ]]; then
            [[ -e $probe ]] || missing+=("$package")
        else
            command -v "$probe" >/dev/null || missing+=("$package")
        fi
    done
    ((${#missing[@]})) || return 0
    ((EUID == 0)) || die "missing: ${missing[*]}; install them first: sudo apt-get install ${missing[*]}"
    command -v apt-get >/dev/null || die "missing, and this is no Debian: ${missing[*]}"
    say "installing ${missing[*]}"
    if [[ ! -e $policy ]]; then
        made_policy=1
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    output=$(apt-get install -y --no-install-recommends "${missing[@]}" 2>&1 ||
        { apt-get update -q && apt-get install -y --no-install-recommends "${missing[@]}"; } 2>&1) || missing+=('?')
    [[ -z $made_policy ]] || rm -f "$policy"
    [[ ${missing[-1]} != '?' ]] || die "apt-get could not install them: $output"
    for unit in ssh=openssh-server rsyslog=rsyslog firewalld=firewalld; do
        if [[ -d /run/systemd/system && " ${missing[*]} " == *" ${unit#*=} "* ]]; then
            systemctl disable --quiet "${unit%%=*}" 2>/dev/null || true
        fi
    done
}

# Whether the cargo that is found first is new enough for this tree. Debian 12 has 0.66, of Rust 1.63.
cargo_is_new_enough() {
    local wanted has
    wanted=$(sed -nE 's/^rust-version = "([^"]*)".*/\1/p' Cargo.toml)
    has=$(cargo --version 2>/dev/null | sed -nE 's/^cargo ([0-9.]+).*/\1/p')
    [[ -z $has || $(printf '%s\n' "$wanted" "$has" | sort -V | head -n 1) == "$wanted" ]]
}

# Whether apt could install it: `apt-cache show` also succeeds for a name that only other packages refer to.
apt_has() {
    local candidate
    candidate=$(LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -nE 's/^ *Candidate: //p')
    [[ -n $candidate && $candidate != '(none)' ]]
}

# Makes `cargo` callable: sudo resets PATH, and rustup installs into the home of whoever called sudo.
find_cargo() {
    local home old=''
    if command -v cargo >/dev/null; then
        cargo_is_new_enough && return 0
        old="$(command -v cargo) is too old ($(cargo --version)): "
    fi
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
        if [[ -x $home/.cargo/bin/cargo ]]; then
            export PATH="$home/.cargo/bin:$PATH" CARGO_HOME="$home/.cargo" RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
            return 0
        fi
    done
    if apt_has rustup; then
        ((EUID == 0)) || die "${old:-no cargo: }sudo apt-get install rustup && rustup default stable, then run this again"
        install_missing rustup=rustup
        rustup default stable
        command -v cargo >/dev/null && return 0
    fi
    die "${old:-no cargo: }install Rust $(sed -nE 's/^rust-version = "([^"]*)".*/\1/p' Cargo.toml) or newer from https://rustup.rs, then run this again"
}

# Builds as whoever called sudo, so that their target directory and cargo's home stay theirs.
as_caller() {
    if ((EUID == 0)) && [[ -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
        runuser -u "$SUDO_USER" -- env PATH="$PATH" ${CARGO_HOME:+CARGO_HOME="$CARGO_HOME"} \
            ${RUSTUP_HOME:+RUSTUP_HOME="$RUSTUP_HOME"} ${CARGO_TARGET_DIR:+CARGO_TARGET_DIR="$CARGO_TARGET_DIR"} "$@"
    else
        "$@"
    fi
}

# Turns the kernel's logging for namespaces on, until nf_log_release. The first of all who hold it notes the old value,
# the last one puts it back; a lock on `users`, shared by all of them, tells who is last, even if some were killed.
nf_log_hold() {
    [[ -e $NF_LOG_SETTING ]] || die "$NF_LOG_SETTING: not there; has this kernel netfilter logging?"
    [[ -d $NF_LOG_DIR ]] || mkdir -m 0700 "$NF_LOG_DIR" 2>/dev/null || [[ -d $NF_LOG_DIR ]]
    local turn
    exec {turn}>"$NF_LOG_DIR/turn" {NF_LOG_USERS}>"$NF_LOG_DIR/users"
    flock "$turn"
    # If nobody holds it, a note that is there was left by the killed: it is still the old value.
    if flock -n "$NF_LOG_USERS" && [[ ! -e $NF_LOG_DIR/before ]]; then
        cat "$NF_LOG_SETTING" >"$NF_LOG_DIR/before"
    fi
    flock -s "$NF_LOG_USERS"
    [[ $(cat "$NF_LOG_SETTING") == 1 ]] || echo 1 >"$NF_LOG_SETTING" || die "$NF_LOG_SETTING cannot be set here (in a container it often cannot): no line of a namespace would be logged"
    exec {turn}>&-
}

nf_log_release() {
    [[ -n ${NF_LOG_USERS:-} ]] || return 0
    local turn
    exec {turn}>"$NF_LOG_DIR/turn"
    flock "$turn"
    if flock -n "$NF_LOG_USERS" && [[ -e $NF_LOG_DIR/before ]]; then
        cat "$NF_LOG_DIR/before" >"$NF_LOG_SETTING"
        rm -f "$NF_LOG_DIR/before"
    fi
    exec {NF_LOG_USERS}>&- {turn}>&-
    NF_LOG_USERS=''
}
