#!/bin/bash
# A host that answers nothing but knocks: builds the rules, loads them in one transaction, takes them back.
#
# Owns the nftables table `inet knockknock_firewall`, or with --iptables the chains KNOCKKNOCK_FW*, and nothing else:
# other tables, other chains and forwarded traffic are left as they are.
# Reads, as root, only what root wrote: its arguments and the profiles' knock ports.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

readonly ME=minimal-firewall.sh
readonly TABLE=knockknock_firewall
readonly CHAIN=KNOCKKNOCK_FW
# The bit that knock-daemon's own table (priority filter - 10) puts on a packet that a knock has let in.
readonly GRANTED=0x20000000
# Knocks logged from one source (IPv6: one /64): this many at once, then this many a second. A browser that fetches a
# page through the proxy knocks dozens of times within a second.
readonly SOURCE_BURST=200 SOURCE_RATE=4
# Knocks logged from all sources together: some 70 kB of log a second at most. The burst fits the kernel's own buffer
# (128 kB on Debian), so that whoever reads it is not overtaken.
readonly TOTAL_BURST=300 TOTAL_RATE=200
# Other refused SYNs that are logged.
readonly OTHER_BURST=8 OTHER_RATE=3
readonly REMOTE_SECONDS=60

usage() {
    cat <<END
Closes this host, IPv4 and IPv6, to all but established connections, loopback, what IPv6 needs to live, and knocks.
Refused SYNs are logged the way knock-daemon reads them and answered with RST, like closed ports.

usage: $ME [--allow PROTO/PORT]... [options]     close the host
       $ME --print [options]                     show what would be loaded; change nothing
       $ME --confirmed                           keep what was applied with --confirm
       $ME --undo                                take everything back

  --allow PROTO/PORT    leave a port open to everybody: tcp/80, udp/53, tcp/8000-8010 (repeatable)
  --config-dir DIR      whose profiles' knock ports get a log rule of their own (default /etc/knockknock.d)
  --knock-port PORT     another knock port (repeatable)
  --prefix TEXT         begins each log line (default: log_prefix of DIR/config, else "REJECT ")
  --iptables            use iptables and ip6tables instead of nftables
  --confirm SECONDS     take it back after SECONDS unless \`$ME --confirmed\` is run meanwhile; this happens even if
                        your session or the shell ends. 0: no going back by itself
  --run-dir DIR         where a change that waits for confirmation is remembered (default /run/knockknock-firewall)
  -h, --help            this text

Over ssh, --confirm $REMOTE_SECONDS is the default: apply, open a *second* session the way you will from now on (knock, then ssh),
and only then confirm. Running sessions survive either way. Run it again after making or removing a profile; it replaces
its own rules in one step. Rules are gone after a reboot; to keep them:
  $ME OPTIONS --print > /etc/knockknock.d/firewall.nft
  echo 'include "/etc/knockknock.d/firewall.nft"' >> /etc/nftables.conf && systemctl enable nftables
(with --iptables: apt install iptables-persistent, then netfilter-persistent save).

examples:
  $ME --print
  $ME --allow tcp/80 --allow tcp/443 --confirm 120
Exit status: 0 done, 1 could not, 2 usage.
END
}

warn() { printf '%s: %s\n' "$ME" "$*" >&2; }
die() { warn "$@"; exit 1; }
misuse() { warn "$@"; warn "see $ME --help"; exit 2; }

# --- what was asked for -----------------------------------------------------------------------------------------------

action=apply backend=nft config_dir='' prefix='' confirm='' run_dir=/run/knockknock-firewall
allow_tcp=() allow_udp=() knock_ports=()

is_port() { [[ $1 =~ ^[1-9][0-9]{0,4}$ ]] && (($1 <= 65535)); }

add_allowed() {
    local wanted=$1 proto=${1%%/*} ports=${1#*/} first last
    first=${ports%%-*} last=${ports#*-}
    if [[ $wanted != */* || ($proto != tcp && $proto != udp) ]] || ! is_port "$first" || ! is_port "$last" ||
        ((first > last)); then
        misuse "--allow $wanted: not like tcp/80, udp/53 or tcp/8000-8010"
    fi
    if [[ $proto == tcp ]]; then allow_tcp+=("$ports"); else allow_udp+=("$ports"); fi
}

parse_arguments() {
    local option value
    while (($#)); do
        option=$1 value='' && shift
        if [[ $option == --*=* ]]; then set -- "${option#*=}" "$@" && option=${option%%=*}; fi
        case $option in
        --allow | --config-dir | --knock-port | --prefix | --confirm | --run-dir)
            (($#)) || misuse "$option needs a value"
            value=$1 && shift
            ;;
        esac
        case $option in
        --allow) add_allowed "$value" ;;
        --config-dir) config_dir=$value ;;
        --knock-port)
            is_port "$value" || misuse "--knock-port $value: not a port (1 to 65535)"
            knock_ports+=("$value")
            ;;
        --prefix) prefix=$value ;;
        --confirm)
            [[ $value =~ ^[0-9]{1,5}$ ]] || misuse "--confirm $value: not a number of seconds"
            confirm=$((10#$value))
            ;;
        --run-dir) run_dir=$value ;;
        --iptables) backend=iptables ;;
        --print) action=print ;;
        --undo) action=undo ;;
        --confirmed) action=confirmed ;;
        -h | --help) usage && exit 0 ;;
        *) misuse "unknown option ${option@Q}" ;;
        esac
    done
}

# The last value of KEY in an INI file of ours, without comments and quotes.
config_value() {
    sed -nE "s/\r$//; /[=:][[:space:]]*[\"']/!s/[[:space:]];.*$//
        s/^[[:space:]]*$1[[:space:]]*[=:][[:space:]]*(\"([^\"]*)\".*|'([^']*)'.*|([^#\"']*[^#\"' \t]).*)\$/\2\3\4/Ip" "$2" |
        tail -n 1
}

read_config() {
    local dir=${config_dir:-/etc/knockknock.d} file port
    if [[ ! -d $dir ]]; then
        [[ -z $config_dir ]] || die "$dir: no such directory"
    elif [[ ! -r $dir || ! -x $dir || (-d $dir/profiles && (! -r $dir/profiles || ! -x $dir/profiles)) ]]; then
        die "$dir: cannot be read; run this as root"
    else
        for file in "$dir"/profiles/*/config; do
            [[ -e $file ]] || continue
            [[ -r $file ]] || die "$file: cannot be read; run this as root"
            port=$(config_value knock_port "$file")
            # As Python's int reads it.
            if [[ $port =~ ^\+?0*([0-9]+)$ ]]; then port=${BASH_REMATCH[1]}; fi
            is_port "$port" || die "$file: knock_port is ${port@Q}, not a port (1 to 65535)"
            knock_ports+=("$port")
        done
        if [[ -z $prefix && -r $dir/config ]]; then prefix=$(config_value log_prefix "$dir/config"); fi
    fi
    prefix=${prefix:-REJECT }
    [[ $prefix =~ ^[[:alnum:]\ _.:+/=,()@#-]{1,29}$ ]] ||
        misuse "--prefix ${prefix@Q}: 1 to 29 letters, digits, blanks or _.:+/=,()@#-"
    if ((${#knock_ports[@]})); then mapfile -t knock_ports < <(printf '%s\n' "${knock_ports[@]}" | sort -nu); fi
    for port in ${knock_ports[@]+"${knock_ports[@]}"}; do
        if is_allowed_tcp "$port"; then
            misuse "port $port is a knock port and allowed: a knock that is let in is not refused, so nobody hears it"
        fi
    done
}

is_allowed_tcp() {
    local range
    for range in ${allow_tcp[@]+"${allow_tcp[@]}"}; do
        if (($1 >= ${range%%-*} && $1 <= ${range#*-})); then return 0; fi
    done
    return 1
}

# --- connections that are there already -------------------------------------------------------------------------------

# The TCP connections of now, a line each: family, peer, its port, our address, our port. Where nothing tracked
# connections before, the kernel would take the next packet of each for a stray one, and refuse it with RST.
running_connections() {
    command -v ss >/dev/null || return 0
    { ss -tnH state established || true; } | while read -r _ _ ours theirs _; do
        local address our_port=${ours##*:} their_port=${theirs##*:} line=''
        for address in "${theirs%:*}" "${ours%:*}"; do
            address=${address#[} address=${address%]} address=${address%%%*}
            if [[ $address == ::ffff:*.* ]]; then address=${address#::ffff:}; fi
            line+=" $address"
        done
        read -r theirs ours <<<"$line"
        case $theirs in
        127.* | ::1) ;;
        *:*) echo "6 $theirs $their_port $ours $our_port" ;;
        *) echo "4 $theirs $their_port $ours $our_port" ;;
        esac
    done
}

each_connection() { if [[ -n $connections ]]; then printf '%s\n' "$connections"; fi; }

# --- the rules, nftables ----------------------------------------------------------------------------------------------

join() { local IFS=,; echo "$*"; }

nft_port_set() {
    local name=$1 && shift
    printf '\tset %s {\n\t\ttype inet_service; flags interval; auto-merge\n' "$name"
    if (($#)); then printf '\t\telements = { %s }\n' "$(join "$@")"; fi
    printf '\t}\n'
}

nft_rules() {
    local log="log prefix \"$prefix\" level debug flags tcp sequence,options flags ip options"
    cat <<END
#!/usr/sbin/nft -f
# Made by $ME; loaded in one transaction, which replaces the table of the same name and touches nothing else.
table inet $TABLE
delete table inet $TABLE
table inet $TABLE {
END
    nft_port_set allow_tcp ${allow_tcp[@]+"${allow_tcp[@]}"}
    nft_port_set allow_udp ${allow_udp[@]+"${allow_udp[@]}"}
    nft_port_set knock_ports ${knock_ports[@]+"${knock_ports[@]}"}
    cat <<END
	# How much each source has knocked of late. An IPv6 source is a /64: that much anybody gets from a provider.
	set knocking4 {
		type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m
	}
	set knocking6 {
		type ipv6_addr; size 65535; flags dynamic,timeout; timeout 1m
	}
	# TCP connections older than these rules: peer, its port, our address, our port.
	set running4 {
		type ipv4_addr . inet_service . ipv4_addr . inet_service; flags timeout
	}
	set running6 {
		type ipv6_addr . inet_service . ipv6_addr . inet_service; flags timeout
	}

	chain input {
		type filter hook input priority filter; policy drop
		ct state established,related accept comment "ICMP errors about a connection, path MTU too, are related"
		tcp flags & syn == 0x0 ip saddr . tcp sport . ip daddr . tcp dport @running4 accept
		tcp flags & syn == 0x0 ip6 saddr . tcp sport . ip6 daddr . tcp dport @running6 accept
		ct state invalid drop
		iif lo accept
		meta mark & $GRANTED != 0 accept comment "a knock has let it in: marked by knock-daemon's own table"

		icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept
		icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } ip6 saddr fe80::/10 accept
		icmp type echo-request limit rate 20/second burst 40 packets accept
		icmpv6 type echo-request limit rate 20/second burst 40 packets accept
		udp sport 67 udp dport 68 accept comment "DHCP answers"
		ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept comment "DHCPv6 answers"

		tcp dport @allow_tcp accept
		udp dport @allow_udp accept

		tcp dport @knock_ports tcp flags & (fin | syn | rst | ack) == syn goto knock
		tcp flags & (fin | syn | rst | ack) == syn limit rate $OTHER_RATE/second burst $OTHER_BURST packets $log
		goto refuse
	}

	# Whoever knocks too fast is refused without a line. A source for which the sets have no room is not: it is logged,
	# within the limit for all.
	chain knock {
		update @knocking4 { ip saddr limit rate over $SOURCE_RATE/second burst $SOURCE_BURST packets } goto refuse
		update @knocking6 { ip6 saddr & ffff:ffff:ffff:ffff:: limit rate over $SOURCE_RATE/second burst $SOURCE_BURST packets } goto refuse
		limit rate $TOTAL_RATE/second burst $TOTAL_BURST packets $log
		goto refuse
	}

	chain refuse {
		meta l4proto tcp reject with tcp reset
		reject with icmpx type port-unreachable
	}
}
END
    local family peer peer_port own own_port
    while read -r family peer peer_port own own_port; do
        # Shown, but not kept by who writes the output of --print to a file for the next boot.
        if [[ $action == print ]]; then printf '# now, for the connection that is there: '; fi
        echo "add element inet $TABLE running$family { $peer . $peer_port . $own . $own_port timeout 1h }"
    done < <(each_connection)
}

# --- the rules, iptables ----------------------------------------------------------------------------------------------

# Input for load_iptables. Naming a chain empties it. $1: 4 or 6.
iptables_rules() {
    local version=$1 unreachable=icmp-port-unreachable mask=32 port range family peer peer_port own own_port
    local log="-j LOG --log-prefix \"$prefix\" --log-level debug --log-tcp-sequence --log-tcp-options --log-ip-options"
    local this="-A $CHAIN"
    if [[ $version == 6 ]]; then unreachable=icmp6-port-unreachable mask=64; fi
    cat <<END
:$CHAIN - [0:0]
:${CHAIN}_KNOCK - [0:0]
:${CHAIN}_REFUSE - [0:0]
$this -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
END
    # No sets here, so no more than a few hundred of them; a packet gets this far only if it belongs to no connection.
    while read -r family peer peer_port own own_port; do
        [[ $family == "$version" ]] || continue
        if [[ $action == print ]]; then printf '# now, for the connection that is there: '; fi
        echo "$this -p tcp --tcp-flags SYN NONE -s $peer --sport $peer_port -d $own --dport $own_port -j ACCEPT"
    done < <(each_connection | head -n 500)
    cat <<END
$this -m conntrack --ctstate INVALID -j DROP
$this -i lo -j ACCEPT
$this -m mark --mark $GRANTED/$GRANTED -j ACCEPT
END
    if [[ $version == 6 ]]; then
        for port in router-advertisement neighbour-solicitation neighbour-advertisement; do
            echo "$this -p ipv6-icmp --icmpv6-type $port -m hl --hl-eq 255 -j ACCEPT"
        done
        for port in 130 131 132 143; do echo "$this -p ipv6-icmp --icmpv6-type $port -s fe80::/10 -j ACCEPT"; done
        echo "$this -p ipv6-icmp --icmpv6-type echo-request -m limit --limit 20/sec --limit-burst 40 -j ACCEPT"
        echo "$this -p udp -s fe80::/10 --sport 547 --dport 546 -j ACCEPT"
    else
        echo "$this -p icmp --icmp-type echo-request -m limit --limit 20/sec --limit-burst 40 -j ACCEPT"
        echo "$this -p udp --sport 67 --dport 68 -j ACCEPT"
    fi
    for range in ${allow_tcp[@]+"${allow_tcp[@]}"}; do echo "$this -p tcp --dport ${range/-/:} -j ACCEPT"; done
    for range in ${allow_udp[@]+"${allow_udp[@]}"}; do echo "$this -p udp --dport ${range/-/:} -j ACCEPT"; done
    for port in ${knock_ports[@]+"${knock_ports[@]}"}; do echo "$this -p tcp --dport $port --syn -g ${CHAIN}_KNOCK"; done
    # hashlimit drops the packets of a source for which its table has no room: hence the many entries that soon expire.
    cat <<END
$this -p tcp --syn -m limit --limit $OTHER_RATE/sec --limit-burst $OTHER_BURST $log
$this -g ${CHAIN}_REFUSE
-A ${CHAIN}_KNOCK -m hashlimit --hashlimit-name knocking$version --hashlimit-mode srcip --hashlimit-srcmask $mask --hashlimit-above $SOURCE_RATE/sec --hashlimit-burst $SOURCE_BURST --hashlimit-htable-size 16384 --hashlimit-htable-max 262144 --hashlimit-htable-expire 60000 -g ${CHAIN}_REFUSE
-A ${CHAIN}_KNOCK -m limit --limit $TOTAL_RATE/sec --limit-burst $TOTAL_BURST $log
-A ${CHAIN}_KNOCK -g ${CHAIN}_REFUSE
-A ${CHAIN}_REFUSE -p tcp -j REJECT --reject-with tcp-reset
-A ${CHAIN}_REFUSE -j REJECT --reject-with $unreachable
END
}

# --- the firewall's state: saved, loaded, removed ---------------------------------------------------------------------
# These functions also run in the process that takes an unconfirmed change back (go_back_later): they use nothing but
# each other, TABLE and CHAIN.

tables_of() { if [[ $1 == 6 ]]; then echo ip6tables; else echo iptables; fi; }

# The IP versions whose iptables works here: 4, 6.
iptables_versions() {
    if command -v iptables-restore >/dev/null && iptables -w -S INPUT >/dev/null 2>&1; then echo 4; fi
    if [[ -e /proc/net/if_inet6 ]] && command -v ip6tables-restore >/dev/null &&
        ip6tables -w -S INPUT >/dev/null 2>&1; then echo 6; fi
}

has_nft() { command -v nft >/dev/null && nft list table inet "$TABLE" >/dev/null 2>&1; }
has_iptables() { "$(tables_of "$1")" -w -S "$CHAIN" >/dev/null 2>&1; }

# Loads rules from standard input in one transaction, and hooks our chain in unless it is.
load_iptables() {
    local tables
    tables=$(tables_of "$1")
    {
        echo '*filter'
        cat
        "$tables" -w -C INPUT -j "$CHAIN" 2>/dev/null || echo "-I INPUT 1 -j $CHAIN"
        echo COMMIT
    } | "$tables-restore" -w --noflush
}

remove_nft() { if has_nft; then nft delete table inet "$TABLE"; fi; }

remove_iptables() {
    local tables
    has_iptables "$1" || return 0
    tables=$(tables_of "$1")
    {
        echo '*filter'
        printf ':%s - [0:0]\n' "$CHAIN" "${CHAIN}_KNOCK" "${CHAIN}_REFUSE"
        "$tables" -w -S INPUT | grep -Fx -e "-A INPUT -j $CHAIN" | sed 's/^-A/-D/' || true
        printf -- '-X %s\n' "$CHAIN" "${CHAIN}_KNOCK" "${CHAIN}_REFUSE"
        echo COMMIT
    } | "$tables-restore" -w --noflush
}

# Writes what is loaded of ours into a directory: files `nft`, `4`, `6`; no file where there is nothing.
save_state() {
    local into=$1 version
    if has_nft; then nft -s list table inet "$TABLE" >"$into/nft"; fi
    for version in $(iptables_versions); do
        if has_iptables "$version"; then
            "$(tables_of "$version")-save" -t filter | grep -E "^(:|-A )$CHAIN" >"$into/$version"
        fi
    done
}

# Makes what is loaded of ours equal to what save_state wrote.
restore_state() {
    local from=$1 version failed=0
    if [[ -e $from/nft ]]; then
        { printf 'table inet %s\ndelete table inet %s\n' "$TABLE" "$TABLE" && cat "$from/nft"; } | nft -f - || failed=1
    else
        remove_nft || failed=1
    fi
    for version in $(iptables_versions); do
        if [[ -e $from/$version ]]; then
            load_iptables "$version" <"$from/$version" || failed=1
        else
            remove_iptables "$version" || failed=1
        fi
    done
    return "$failed"
}

# --- changes that wait for confirmation -------------------------------------------------------------------------------
# RUN_DIR/pending.TOKEN holds the last confirmed state while a change waits. Whoever looks holds the lock.

pending() { find "$run_dir" -maxdepth 1 -type d -name 'pending.*' 2>/dev/null | head -n 1; }

# Waits, then restores what $1 holds, unless it is gone by then. Lives in a process of its own: see arm.
go_back_later() {
    local waiting=$1 seconds=$2 lock=$3
    trap '' HUP INT TERM
    touch "$waiting/armed"
    while ((SECONDS < seconds)) && [[ -d $waiting ]]; do sleep 1; done
    exec 9>"$lock"
    flock -w 10 9 || true
    [[ -d $waiting ]] || return 0
    if restore_state "$waiting"; then
        rm -rf "$waiting"
        logger -t "$ME" "not confirmed within $seconds s: the firewall is what it was before" 2>/dev/null || true
    else
        logger -t "$ME" "not confirmed within $seconds s, and could not be taken back" 2>/dev/null || true
    fi
}

# Starts go_back_later in a session of its own, out of reach of hang-ups and of the end of this login, and waits until
# it lives: nothing is changed before the way back is sure.
arm() {
    local waiting=$1 seconds=$2 program launcher tries
    program=$(declare -p ME TABLE CHAIN && declare -f tables_of iptables_versions has_nft has_iptables load_iptables \
        remove_nft remove_iptables restore_state go_back_later)
    program+=$'\n''go_back_later "$@"'
    # logind may end what a login leaves behind; a scope of its own is not the login's.
    for launcher in 'setsid systemd-run --scope --quiet --collect' setsid; do
        [[ $launcher == setsid || -d /run/systemd/system ]] || continue
        # shellcheck disable=SC2086 # the launcher is several words
        $launcher bash -c "$program" "$ME" "$waiting" "$seconds" "$run_dir/lock" </dev/null >/dev/null 2>&1 9>&- &
        for ((tries = 0; tries < 60; tries++)); do
            if [[ -e $waiting/armed ]]; then return 0; fi
            sleep 0.05
        done
    done
    return 1
}

lock_run_dir() {
    [[ -d $run_dir ]] || mkdir -m 0700 "$run_dir"
    exec 9>"$run_dir/lock"
    flock -w 30 9 || die "$run_dir/lock: another $ME is at work"
}

# --- who is at the other end ------------------------------------------------------------------------------------------

# What SSH_CONNECTION says (client, its port, server, its port), ours or, since sudo hides it, that of a process above
# us; "?" for a remote session that does not say. Nothing for a local one.
remote_session() {
    local pid=$$ found='' name depth
    if [[ -n ${SSH_CONNECTION:-} ]]; then echo "$SSH_CONNECTION" && return; fi
    for ((depth = 0; depth < 64 && pid > 1; depth++)); do
        found=$(tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | sed -n 's/^SSH_CONNECTION=//p' || true)
        if [[ -n $found ]]; then echo "$found" && return; fi
        name=$(cat "/proc/$pid/comm" 2>/dev/null || true)
        case $name in sshd* | mosh-server | in.telnetd | telnetd | dropbear) echo '?' && return ;; esac
        pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null || true)
        pid=${pid:-0}
    done
    # Inside tmux or screen the processes above are not the login's, but the terminal may be known as somebody's.
    if [[ -n ${SSH_CLIENT:-}${SSH_TTY:-} || $(who -m 2>/dev/null || true) =~ \([^:\(\)]*[.:][0-9a-fA-F:.]+ ]]; then
        echo '?'
    fi
}

warn_before() {
    local session=$1 ssh_port
    if ((${#knock_ports[@]} == 0)); then
        warn "no knock port: neither a profile nor --knock-port; no knock will be heard while a port scan runs"
    fi
    [[ -n $session ]] || return 0
    ssh_port=${session##* }
    if ! is_port "$ssh_port"; then ssh_port=22; fi
    if ((${#knock_ports[@]} == 0)) && ! is_allowed_tcp "$ssh_port"; then
        warn "you came over the network, and after this nobody comes in that way again: make a profile" \
            "(knock-genprofile) or --allow tcp/$ssh_port"
    fi
}

# --- actions ----------------------------------------------------------------------------------------------------------

require_root() { ((EUID == 0)) || die "changes the firewall, which takes root (--print does not)"; }

require_tools() {
    if [[ $backend == nft ]]; then
        command -v nft >/dev/null || die "no nft: apt install nftables (or use --iptables)"
    else
        command -v iptables-restore >/dev/null || die "no iptables: apt install iptables (or leave out --iptables)"
        [[ ! -e /proc/net/if_inet6 ]] || command -v ip6tables-restore >/dev/null ||
            die "no ip6tables, and IPv6 would stay open: apt install iptables"
    fi
}

print_rules() {
    local version
    if [[ $backend == nft ]]; then
        nft_rules
    else
        for version in 4 6; do
            echo "# $(tables_of $version)-restore -w --noflush"
            echo '*filter'
            iptables_rules $version
            printf '# unless it is there:\n-I INPUT 1 -j %s\nCOMMIT\n' "$CHAIN"
        done
    fi
}

load_rules() {
    local versions version
    if [[ $backend == nft ]]; then
        nft_rules | nft -f - || return 1
        for version in $(iptables_versions); do remove_iptables "$version" || return 1; done
    else
        versions=$(iptables_versions)
        if [[ $versions != *4* || (-e /proc/net/if_inet6 && $versions != *6*) ]]; then
            warn "iptables or ip6tables does not work here: $(iptables -w -S INPUT 2>&1 >/dev/null | head -n 1)"
            return 1
        fi
        for version in $versions; do iptables_rules "$version" | load_iptables "$version" || return 1; done
        remove_nft
    fi
}

apply() {
    local session waiting before
    require_root
    require_tools
    session=$(remote_session)
    warn_before "$session"
    if [[ -z $confirm ]]; then
        if [[ -n $session ]]; then confirm=$REMOTE_SECONDS; else confirm=0; fi
    fi
    lock_run_dir
    waiting=$run_dir/pending.$$.$RANDOM
    before=$(pending)
    if [[ -n $before ]]; then
        # An earlier change was not confirmed: the way back leads to before that one.
        mv "$before" "$waiting"
        rm -f "$waiting/armed"
    else
        mkdir -m 0700 "$waiting"
        save_state "$waiting"
    fi
    if ((confirm)) && ! arm "$waiting" "$confirm"; then
        die "the process that would take the change back did not start: nothing changed"
    fi
    if ! load_rules; then
        restore_state "$waiting" || warn "and what was loaded before could not be restored"
        rm -rf "$waiting"
        die "not applied: the firewall is what it was before"
    fi
    if ((confirm)); then
        cat <<END
closed, for $confirm s: then everything is as before, unless you say
  $0 --confirmed$(if [[ $run_dir != /run/knockknock-firewall ]]; then echo " --run-dir $run_dir"; fi)
Before you do, open another session the way you will from now on.
END
    else
        rm -rf "$waiting"
        echo "closed: $(summary)"
    fi
}

summary() {
    local allowed=(${allow_tcp[@]+"${allow_tcp[@]/#/tcp/}"} ${allow_udp[@]+"${allow_udp[@]/#/udp/}"})
    echo "open to everybody: ${allowed[*]:-nothing}; knock ports: ${knock_ports[*]:-none}"
}

confirmed() {
    local waiting
    require_root
    lock_run_dir
    waiting=$(pending)
    [[ -n $waiting ]] || die "nothing waits to be confirmed: taken back already, or applied without --confirm"
    rm -rf "$waiting"
    echo "kept"
}

undo() {
    local version failed=0 waiting
    require_root
    lock_run_dir
    remove_nft || failed=1
    for version in $(iptables_versions); do remove_iptables "$version" || failed=1; done
    ((!failed)) || die "something of ours is still loaded"
    waiting=$(pending)
    if [[ -n $waiting ]]; then rm -rf "$waiting"; fi
    echo "open: nothing of ours is left"
}

parse_arguments "$@"
connections=''
case $action in
print)
    read_config
    connections=$(running_connections)
    print_rules
    ;;
apply)
    read_config
    connections=$(running_connections)
    apply
    ;;
confirmed) confirmed ;;
undo) undo ;;
esac
