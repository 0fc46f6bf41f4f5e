#!/bin/bash
# Closes this host, or some of its services, to all but those who knock: fills in the sets of the rules in
# minimal-firewall.nft and guard.nft, loads them in one transaction, remembers what was confirmed, and takes it all back.
#
# Owns the nftables tables `inet knockknock_firewall` and `inet knockknock_guard`, with --iptables the chains
# KNOCKKNOCK_FW*, and the file `firewall` in the configuration directory. Reads only what root wrote.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

readonly ME=minimal-firewall.sh UNIT=knockknock-guard.service
readonly CHAIN=KNOCKKNOCK_FW REMOTE_SECONDS=60

usage() {
    cat <<USAGE
Closes this host, or with --only some services, to all but running connections, loopback and those who have knocked.
Closed ports answer as if nothing listened. What was confirmed is loaded again at boot.

usage: $ME [--allow SERVICE]... [options]   close the host; ports that are forwarded or published stay as they are
       $ME --only SERVICE... [options]      close these alone, forwarded and published ones too, beside any firewall
       $ME --print ...                      show what would be loaded; change nothing
       $ME --confirmed                      keep what was loaded with --confirm
       $ME --undo                           take everything back, and forget it
       $ME --boot                           load what was confirmed

  --only SERVICE[,SERVICE...]    close these: tcp/22, udp/51820, tcp/8000-8010, by the port that clients see (repeatable)
  --allow SERVICE[,SERVICE...]   leave these open to everybody (repeatable; not with --only)
  --except ADDRESS[/LENGTH]      never refuse this network: a way in if all else fails (repeatable)
  --except-interface NAME        nor what comes in here: docker0, br-* (repeatable)
  --iptables                     for a kernel without nf_tables. Load it last: rules put before it later are asked first
  --confirm SECONDS              take it back after SECONDS unless \`$ME --confirmed\` is run meanwhile; this
                                 happens even if your session or the shell ends. 0: confirmed at once
  --config-dir DIR               where the choice is remembered, in the file \`firewall\` (default /etc/knockknock.d)
  --run-dir DIR                  where a change waits to be confirmed (default /run/knockknock-firewall)
  -h, --help                     this text

Over ssh, --confirm $REMOTE_SECONDS is the default: load, open a *second* session the way you will from now on (knock, then ssh),
and only then confirm. Running TCP sessions stay up either way. A new choice replaces the one before.

examples:
  $ME --only tcp/22,udp/51820 --except 192.0.2.0/24
  $ME --allow tcp/80,tcp/443 --confirm 120
Exit status: 0 done, 1 could not, 2 usage.
USAGE
}

warn() { printf '%s: %s\n' "$ME" "$*" >&2; }
die() { warn "$@"; exit 1; }
misuse() { warn "$@"; warn "see $ME --help"; exit 2; }

# --- what was asked for -----------------------------------------------------------------------------------------------

action=apply backend=nftables config_dir=/etc/knockknock.d confirm='' run_dir=/run/knockknock-firewall
only=() allow=() except=() except_interface=()

# Adds what an option, or the key of the same name, lists.
add() {
    # shellcheck disable=SC2178 # a name, not a string
    local -n list=${1//-/_}
    local value values pattern like byte='(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])' port='[1-9][0-9]{0,4}' hex='[0-9a-fA-F:]*'
    case $1 in
    only | allow) pattern="(tcp|udp)/$port(-$port)?" like="tcp/80, udp/53 or tcp/8000-8010" ;;
    except)
        pattern="($byte\.){3}$byte(/([1-9]|[12][0-9]|3[0-2]))?|$hex:$hex:$hex(/([1-9][0-9]?|1[01][0-9]|12[0-8]))?"
        like="192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
        ;;
    except-interface) pattern='[A-Za-z0-9_.@-]{0,14}[A-Za-z0-9_.@*-]' like="docker0 or br-*" ;;
    esac
    IFS=$', \t' read -ra values <<<"$2"
    for value in ${values[@]+"${values[@]}"}; do
        [[ $value =~ ^($pattern)$ ]] || misuse "--$1 $value: not like $like"
        list+=("$value")
    done
    ((${#values[@]})) || misuse "--$1 needs a value"
}

# Sorts services and joins those that overlap or touch, which the kernel's sets want.
merge() {
    # shellcheck disable=SC2178 # a name, not a string
    local -n list=$1
    local merged
    merged=$(printf '%s\n' ${list[@]+"${list[@]}"} | sed -nE 's|/([0-9]+)$|/\1-\1|; s|[/-]| |gp' | sort -k1,1 -k2,2n |
        awk 'function put() { if (p) print p "/" a (a < b ? "-" b : "") }
            $3 < $2 || $3 > 65535 { bad = 1; exit }
            $1 == p && $2 <= b + 1 { if ($3 > b) b = $3; next }
            { put(); p = $1; a = $2; b = $3 } END { if (bad) exit 1; put() }') ||
        misuse "--$1: ports are 1 to 65535, like tcp/8000-8010"
    read -r -d '' -a list <<<"$merged" || true
}

check_choice() {
    merge only && merge allow
    if ((${#only[@]} && ${#allow[@]})); then misuse "--only leaves every other port alone: no --allow with it"; fi
}

parse_arguments() {
    local option value
    while (($#)); do
        option=$1 value='' && shift
        if [[ $option == --*=* ]]; then set -- "${option#*=}" "$@" && option=${option%%=*}; fi
        case $option in
        --only | --allow | --except | --except-interface | --confirm | --config-dir | --run-dir)
            [[ -n ${1:-} ]] || misuse "$option needs a value"
            value=$1 && shift
            ;;
        esac
        case $option in
        --only | --allow | --except | --except-interface) add "${option#--}" "$value" ;;
        --confirm)
            [[ $value =~ ^(0|[1-9][0-9]{0,4})$ ]] || misuse "--confirm $value: not a number of seconds"
            confirm=$value
            ;;
        --config-dir) config_dir=$value ;;
        --run-dir) run_dir=$value ;;
        --iptables) backend=iptables ;;
        --print | --confirmed | --undo | --boot) action=${option#--} ;;
        -h | --help) usage && exit 0 ;;
        *) misuse "unknown option ${option@Q}" ;;
        esac
    done
    check_choice
}

# The choice as it is remembered: one line for each key that has a value, lists as in --only.
choice() {
    local key
    printf '# Made by %s; change it with that program.\n[main]\nbackend = %s\n' "$ME" "$backend"
    for key in only allow except except_interface; do
        # shellcheck disable=SC2178 # a name, not a string
        local -n list=$key
        ((${#list[@]} == 0)) || printf '%s = %s\n' "$key" "$(join ', ' "${list[@]}")"
    done
}

recall() {
    local key value
    only=() allow=() except=() except_interface=() backend=''
    while IFS='=' read -r key value; do
        key=${key//[[:space:]]/}
        case $key in
        '' | '#'* | '[main]') ;;
        only | allow | except | except_interface) add "${key/_/-}" "$value" ;;
        backend) backend=${value//[[:space:]]/} ;;
        *) die "$1: unknown key ${key@Q}" ;;
        esac
    done <"$1"
    [[ $backend =~ ^(nftables|iptables)$ ]] || die "$1: backend is ${backend@Q}, not nftables or iptables"
    check_choice
}

join() { local between=$1 first=$2 && shift 2 && printf '%s' "$first" "${@/#/$between}"; }

# --- the rules --------------------------------------------------------------------------------------------------------

# One of the files beside this script, or where install.sh puts them.
rules_file() {
    local here
    here=$(dirname "$(readlink -f "$0")")
    for here in "$here" "$here/../share/knockknock"; do
        if [[ -r $here/$1 ]]; then echo "$here/$1" && return; fi
    done
    die "$1: neither beside this script nor in ../share/knockknock; run scripts/install.sh again"
}

elements() {
    local set=$1 && shift
    (($# == 0)) || printf 'add element inet %s { %s }\n' "$set" "$(join ', ' "$@")"
}

# All that nft is to load: both tables go, and one of them comes, if it is wanted ($1), in the same transaction.
nft_rules() {
    local table=knockknock_firewall set=allow file=minimal-firewall.nft four=() six=() network names
    printf 'table inet %s\ndelete table inet %s\n' knockknock_firewall{,} knockknock_guard{,}
    [[ $1 == nftables ]] || return 0
    if ((${#only[@]})); then table=knockknock_guard set=closed file=guard.nft; fi
    file=$(rules_file $file) || return 1
    cat "$file"
    names=(${only[@]+"${only[@]}"} ${allow[@]+"${allow[@]}"})
    elements "$table $set" ${names[@]+"${names[@]//// . }"}
    for network in ${except[@]+"${except[@]}"}; do
        if [[ $network == *:* ]]; then six+=("$network"); else four+=("$network"); fi
    done
    elements "$table except4" ${four[@]+"${four[@]}"}
    elements "$table except6" ${six[@]+"${six[@]}"}
    names=(${except_interface[@]+"${except_interface[@]/#/\"}"})
    elements "$table except_interface" ${names[@]+"${names[@]/%/\"}"}
}

# Writes the rules of the choice, or ($1: none) of nothing at all, into a directory, in the order in which to load them:
# what closes comes before what goes.
write_rules() {
    local wanted=$1 into=$2 version tool file nft=1.nft
    [[ $wanted != iptables ]] || nft=4.nft
    mkdir -m 0700 "$into"
    if command -v nft >/dev/null; then
        nft_rules "$wanted" >"$into/$nft"
    elif [[ $wanted == nftables ]]; then
        die "no nft: apt install nftables (or use --iptables)"
    fi
    file=$(rules_file minimal-firewall.iptables.sh) || exit 1
    # shellcheck source=scripts/minimal-firewall.iptables.sh
    . "$file"
    for version in 4 6; do
        if [[ $version == 6 ]]; then tool=ip6tables; else tool=iptables; fi
        if ! command -v $tool-restore >/dev/null; then
            [[ $wanted != iptables ]] || die "no $tool: apt install iptables (or leave out --iptables)"
        elif [[ $version == 4 || -e /proc/net/if_inet6 ]]; then
            iptables_rules "$wanted" $version >"$into/$((version / 2)).$tool"
        fi
    done
    if ((${#only[@]})); then touch "$into/forward"; fi
}

# --- loading them -----------------------------------------------------------------------------------------------------
# These functions also run in the process that takes an unconfirmed change back (go_back_later): they use nothing but each
# other, ME, CHAIN and config_dir.

# Loads what write_rules wrote; each file is one transaction. Fails with 1 if nothing was changed, with 2 if some was.
load() {
    local file tool jumps failed=1
    for file in "$1"/[1-4].*; do
        tool=${file##*.}
        if [[ $tool == nft ]]; then
            nft -f "$file" || return $failed
        elif ! grep -q '^-X' "$file" || $tool -w -S "$CHAIN" >/dev/null 2>&1; then
            # Asked before the restore begins: it holds the lock for as long as it reads.
            jumps=$($tool -w -S | sed -nE "s/^-A ((INPUT|FORWARD) .*-j $CHAIN)\$/-D \1/p") || return $failed
            if ! grep -q '^-X' "$file"; then
                jumps+=$'\n'"-I INPUT 1 -j $CHAIN"
                [[ ! -e $1/forward ]] || jumps+=$'\n'"-I FORWARD 1 -m conntrack --ctstate DNAT -j $CHAIN"
            fi
            { grep -v '^-X' "$file" && echo "$jumps" && sed -n '/^-X/p' "$file" && echo COMMIT; } >"$1/now"
            "$tool-restore" -w --noflush <"$1/now" || return $failed
        fi
        failed=2
    done
}

# The daemon that runs with our configuration directory, and the table that it has: its own word, in the lock that it holds.
running_daemon() {
    local pid='' table='' lock=$config_dir/lock
    [[ -e $lock ]] && read -r pid table <"$lock" || return 1
    [[ $pid =~ ^[1-9][0-9]*$ && $(cat "/proc/$pid/comm" 2>/dev/null) == knock-daemon ]] || return 1
    ! flock -n "$lock" true && echo "$pid $table"
}

# Called before rules go: a daemon that runs with our configuration directory and holds the guard, too, drops that. It is
# ended if it does not.
before_opening() {
    local daemon pid table signal tries said
    daemon=$(running_daemon) || return 0
    read -r pid table <<<"$daemon"
    for signal in USR1 TERM KILL; do
        tries=30
        if [[ $signal != USR1 ]]; then
            said="knock-daemon (process $pid) does not drop its copy of the guard; ending it (SIG$signal)"
            echo "$ME: $said" >&2
            logger -t "$ME" "$said" 2>/dev/null || true
        fi
        kill -$signal "$pid" 2>/dev/null || true
        # One that was stopped ends when it goes on. It gives its helper 5 s.
        if [[ $signal == TERM ]]; then
            tries=100
            kill -CONT "$pid" 2>/dev/null || true
        fi
        while ((tries--)); do
            nft list chain inet "$table" guard >/dev/null 2>&1 || return 0
            sleep 0.1
        done
    done
    return 1
}

# Waits, then loads $1/back, unless $1 is gone by then. Lives in a process of its own: see arm. It counts the time since
# boot, which nobody sets.
go_back_later() {
    local waiting=$1 now end said="the firewall is what was confirmed before"
    trap '' HUP INT TERM
    read -r now _ </proc/uptime
    end=$((${now%.*} + $2))
    touch "$waiting/armed"
    while ((${now%.*} < end)) && [[ -d $waiting ]]; do sleep 1 && read -r now _ </proc/uptime; done
    exec 9>"$3"
    flock -w 10 9 || true
    [[ -d $waiting ]] || return 0
    before_opening
    if load "$waiting/back"; then rm -rf "$waiting"; else said="it could not be taken back"; fi
    logger -t "$ME" "not confirmed within $2 s: $said" 2>/dev/null || true
}

# Starts go_back_later in a session of its own, out of reach of hang-ups and of the end of this login, and waits until
# it lives: nothing is changed before the way back is sure.
arm() {
    local program launcher tries
    program=$(declare -p ME CHAIN config_dir && declare -f load running_daemon before_opening go_back_later)$'\n''go_back_later "$@"'
    # logind may end what a login leaves behind; a scope of its own is not the login's.
    for launcher in 'setsid systemd-run --scope --quiet --collect' setsid; do
        [[ $launcher == setsid || -d /run/systemd/system ]] || continue
        # shellcheck disable=SC2086 # the launcher is several words
        $launcher bash -c "$program" "$ME" "$1" "$2" "$run_dir/lock" </dev/null >/dev/null 2>&1 9>&- &
        for ((tries = 0; tries < 60; tries++)); do
            if [[ -e $1/armed ]]; then return 0; fi
            sleep 0.05
        done
    done
    return 1
}

# --- what waits, and what was confirmed -------------------------------------------------------------------------------
# RUN_DIR/pending.TOKEN holds a change that waits: its choice, its rules (new) and the way back (back).

pending() { find "$run_dir" -maxdepth 1 -type d -name 'pending.*'; }

# Whoever looks at what waits holds the lock. A directory for our work is made, and goes in the end.
work=''
begin() {
    ((EUID == 0)) || die "changes the firewall, which takes root (--print does not)"
    [[ -d $run_dir ]] || mkdir -m 0700 "$run_dir"
    exec 9>"$run_dir/lock"
    flock -w 30 9 || die "$run_dir/lock: another $ME is at work"
    work=$(mktemp -d "$run_dir/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
}

# Has the unit load at boot what is remembered, or no longer.
at_boot() {
    exec 9>&- # the unit runs this program, which waits for the lock
    if [[ $config_dir != /etc/knockknock.d ]]; then return; fi
    if [[ ! -d /run/systemd/system ]]; then
        if [[ $1 == enable ]]; then warn "no systemd: at boot, before the network is up, run $ME --boot"; fi
    elif ! systemctl "$1" --quiet --now $UNIT && [[ $1 == enable ]]; then
        die "$UNIT does not load it at boot: see systemctl status $UNIT"
    fi
}

# Makes what waits the confirmed choice: the file is the whole new one or the old one, whatever happens meanwhile.
keep() {
    local new=$config_dir/.firewall.new
    if ! { mkdir -p "$config_dir" && install -m 644 "$1/choice" "$new" && sync "$new" &&
        mv "$new" "$config_dir/firewall" && sync "$config_dir"; }; then
        die "$config_dir/firewall: cannot be written; it is loaded, but not at the next boot"
    fi
    if grep -q '^only' "$1/choice" && running_daemon >/dev/null; then
        warn "knock-daemon runs and has no copy of this; to have it hold one: systemctl restart knock-daemon"
    fi
    echo "closed: $(sed -n '/^[a-z]/p' "$1/choice" | tr '\n' ';')"
    rm -rf "$1"
    at_boot enable
}

# What SSH_CONNECTION says (client, its port, server, its port), ours or, since sudo hides it, that of a process above
# us; "?" for a remote session that does not say. Nothing for a local one.
remote_session() {
    local pid=$$ found=${SSH_CONNECTION:-} name depth
    for ((depth = 0; depth < 64 && pid > 1 && ${#found} == 0; depth++)); do
        found=$(tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | sed -n 's/^SSH_CONNECTION=//p' || true)
        name=$(cat "/proc/$pid/comm" 2>/dev/null || true)
        case $name in sshd* | mosh-server | in.telnetd | telnetd | dropbear) found=${found:-?} ;; esac
        pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null || true)
        pid=${pid:-0}
    done
    # Inside tmux or screen the processes above are not the login's, but the terminal may be known as somebody's.
    if [[ -n ${SSH_CLIENT:-}${SSH_TTY:-} || $(who -m 2>/dev/null || true) =~ \([^:\(\)]*[.:][0-9a-fA-F:.]+ ]]; then
        found=${found:-?}
    fi
    echo "$found"
}

# Says so where whoever came over the network shuts the only way in. $1: see remote_session.
warn_before() {
    local port=${1##* } service ports listed=0
    [[ $port =~ ^[0-9]+$ ]] || port=22
    for service in ${only[@]+"${only[@]}"} ${allow[@]+"${allow[@]}"}; do
        ports=${service#*/}
        if [[ $service == tcp/* ]] && ((port >= ${ports%-*} && port <= ${ports#*-})); then listed=1; fi
    done
    # It stays open if it is allowed, or not among the only ones.
    if ((listed != (${#only[@]} > 0) || ${#except[@]})) || compgen -G "$config_dir/profiles/*/" >/dev/null; then return; fi
    warn "you came over the network, and after this nobody comes in that way again: make a profile" \
        "(knock-genprofile), leave tcp/$port open, or --except your network"
}

# --- actions ----------------------------------------------------------------------------------------------------------

print() {
    local file
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    write_rules "$backend" "$work/new"
    for file in "$work"/new/[1-4].*; do
        [[ $backend == nftables && $file != *.nft ]] || { echo "# ${file##*.}" && cat "$file"; }
    done
}

# Into a directory: the rules of what is remembered, or of nothing.
ways_back() (
    only=()
    if [[ ! -e $config_dir/firewall ]]; then write_rules none "$1" && return; fi
    recall "$config_dir/firewall"
    # shellcheck disable=SC2031 # its own
    write_rules "$backend" "$1"
)

apply() {
    local session waiting old failed=0
    begin
    session=$(remote_session)
    if [[ -n $session ]]; then
        warn_before "$session"
        confirm=${confirm:-$REMOTE_SECONDS}
    fi
    choice >"$work/choice"
    write_rules "$backend" "$work/new"
    ways_back "$work/back"
    old=$(pending)
    waiting=$run_dir/pending.${work##*.}
    mv "$work" "$waiting"
    if ((confirm)) && ! arm "$waiting" "$confirm"; then
        rm -rf "$waiting"
        die "the process that would take the change back did not start: nothing changed"
    fi
    # What was confirmed before goes, and with it a copy: it would refuse what is open from now on.
    [[ ! -e $config_dir/firewall ]] || before_opening || warn "it still holds what was confirmed before, too"
    load "$waiting/new" || failed=$?
    if ((failed)); then
        ((failed == 1)) || load "$waiting/back" || true
        rm -rf "$waiting"
        die "not loaded: the firewall is what it was before"
    fi
    [[ -z $old ]] || xargs -d '\n' rm -rf <<<"$old"
    ((confirm)) || { keep "$waiting" && return; }
    cat <<WAITS
closed, for $confirm s: then everything is as before, unless you say
  $0 --confirmed$([[ $run_dir == /run/knockknock-firewall ]] || echo " --run-dir $run_dir")$([[ $config_dir == /etc/knockknock.d ]] || echo " --config-dir $config_dir")
Before you do, open another session the way you will from now on.
WAITS
}

confirmed() {
    local waiting
    begin
    waiting=$(pending)
    [[ -n $waiting ]] || die "nothing waits to be confirmed: taken back already, or confirmed"
    # One that was started meanwhile has what was confirmed before.
    [[ ! -e $config_dir/firewall ]] || before_opening || warn "it still holds what was confirmed before, too"
    keep "$waiting"
}

# Loads what was confirmed; or what waits to be, where something else has thrown it out meanwhile.
boot() {
    local rules
    begin
    rules=$(pending)/new
    if [[ $rules == /new ]]; then
        [[ -e $config_dir/firewall ]] || die "$config_dir/firewall: not there; nothing was confirmed"
        recall "$config_dir/firewall"
        rules=$work/new
        write_rules "$backend" "$rules"
    fi
    load "$rules" || die "not loaded: what it closes is open"
}

undo() {
    local waiting copy=0
    begin
    only=() && write_rules none "$work/none"
    # First: a daemon that starts meanwhile must not take it for what was confirmed.
    rm -f "$config_dir/firewall"
    before_opening || copy=1
    load "$work/none" || die "something of ours is still loaded"
    waiting=$(pending)
    [[ -z $waiting ]] || xargs -d '\n' rm -rf <<<"$waiting"
    at_boot disable
    ((copy == 0)) || die "knock-daemon still holds its copy of the guard: end it, and its knock-helper"
    echo "open: nothing of ours is left"
}

parse_arguments "$@"
"$action"
