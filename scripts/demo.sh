#!/bin/bash
# A closed door, a knock, a way in: the real programs, a real sshd, two hosts on one machine. Ends with an error if any
# step does not go as said. Everything it makes is in two network namespaces and a temporary directory, and goes at the
# end, however it ends.
#
#     client 10.99.0.2  ──────────  10.99.0.1 server: sshd, knock-daemon, minimal-firewall.sh --only tcp/22
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
export PATH="$PATH:/usr/sbin:/sbin"

readonly SERVER=kk-demo-$$-server CLIENT=kk-demo-$$-client
readonly ADDRESS=10.99.0.1 DELAY=5

case ${1:-} in
'') ;;
-h | --help)
    cat <<END
Shows a knock from end to end on this machine, step by step. Installs the Debian packages it needs and that are missing,
builds the programs, and leaves nothing behind but target/.

usage: sudo scripts/demo.sh
Exit status: 0 each step went as it says, 1 one did not, 2 usage.
END
    exit 0
    ;;
*)
    printf 'demo.sh: unknown argument; see demo.sh --help\n' >&2
    exit 2
    ;;
esac

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
step_number=0
step() { printf '\n%s%d. %s%s\n' "$bold" "$((++step_number))" "$*" "$plain"; }
shell() { printf '   %s$ %s%s\n' "$dim" "$*" "$plain"; }
show() { sed 's/^/   /'; }
note() { printf '   -> %s\n' "$*"; }
fail() {
    printf '\ndemo.sh: this was to happen and did not: %s\n' "$*" >&2
    if [[ -s $dir/daemon.log ]]; then printf 'knock-daemon said:\n' >&2 && show <"$dir/daemon.log" >&2; fi
    exit 1
}

on_server() { ip netns exec "$SERVER" "$@"; }
on_client() { ip netns exec "$CLIENT" "$@"; }

# Waits up to $1 seconds for a command to succeed.
wait_for() {
    local end=$((SECONDS + $1)) && shift
    until "$@" 2>/dev/null; do
        ((SECONDS < end)) || return 1
        sleep 0.05
    done
}

dir='' pids=()
clean_up() {
    local status=$? pid
    trap '' INT TERM HUP
    # The shell need not tell how they ended.
    disown -a
    for pid in ${pids[@]+"${pids[@]}"}; do kill "$pid" 2>/dev/null || true; done
    for name in "$SERVER" "$CLIENT"; do
        [[ -e /run/netns/$name ]] || continue
        # Only what was started here lives there.
        for pid in $(ip netns pids "$name"); do kill -9 "$pid" 2>/dev/null || true; done
        ip netns delete "$name" || true
    done
    [[ -z $dir ]] || rm -rf "$dir"
    nf_log_release
    if [[ -n ${SUDO_UID:-} && -d target ]]; then chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" target; fi
    exit "$status"
}

# --- preparations -----------------------------------------------------------------------------------------------------

require_root
install_missing gcc=cc iproute2=ip nftables=nft openssh-server=sshd openssh-client=ssh
find_cargo
say "building (the first time takes some minutes)"
as_caller cargo build --release --locked --quiet || die "the build failed"
BIN=$(realpath "${CARGO_TARGET_DIR:-target}/release")

trap clean_up EXIT
trap 'exit 1' INT TERM HUP
dir=$(mktemp -d /tmp/knockknock-demo.XXXXXX)
chmod 711 "$dir"
nf_log_hold

ip netns add "$SERVER"
ip netns add "$CLIENT"
ip -n "$SERVER" link add eth0 type veth peer name eth0 netns "$CLIENT"
ip -n "$SERVER" address add "$ADDRESS/24" dev eth0
ip -n "$CLIENT" address add 10.99.0.2/24 dev eth0
for name in "$SERVER" "$CLIENT"; do
    ip -n "$name" link set lo up
    ip -n "$name" link set eth0 up
done

# Starts a program in the background on the server, without the lock that this script holds.
start_on_server() {
    local log=$1 && shift
    # exec, so that the process that is noted is the program itself.
    (exec ip netns exec "$SERVER" "$@") >"$log" 2>&1 </dev/null {NF_LOG_USERS}>&- &
    pids+=($!)
}

# sshd, with nothing of the machine's own: in a mount namespace where /run is empty but for the directory it insists
# on, and where no account is locked (and no password set).
start_sshd() {
    ssh-keygen -q -t ed25519 -N '' -f "$dir/host_key"
    ssh-keygen -q -t ed25519 -N '' -f "$dir/user_key"
    printf '%s %s\n' "$ADDRESS" "$(cut -d' ' -f1,2 "$dir/host_key.pub")" >"$dir/known_hosts"
    sed -E 's/^([^:]*):[^:]*/\1:*/' /etc/shadow >"$dir/shadow"
    cat >"$dir/sshd_config" <<END
Port 22
HostKey $dir/host_key
AuthorizedKeysFile $dir/user_key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PrintMotd no
PidFile none
END
    chmod 600 "$dir/shadow"
    # shellcheck disable=SC2016 # expanded by the inner shell
    start_on_server "$dir/sshd.log" sh -c 'mount --bind "$1/shadow" /etc/shadow && mount -t tmpfs none /run &&
        mkdir -m 755 /run/sshd && exec "$(command -v sshd)" -D -e -f "$1/sshd_config"' sh "$dir"
}

SSH=(ssh -F none -i "$dir/user_key" -o IdentitiesOnly=yes -o BatchMode=yes -o ConnectTimeout=5
    -o UserKnownHostsFile="$dir/known_hosts" -o StrictHostKeyChecking=yes -o LogLevel=ERROR "root@$ADDRESS")

ssh_refused() {
    local said
    shell "ssh root@server"
    if said=$(on_client "${SSH[@]}" true 2>&1); then fail "ssh is refused, but it got in"; fi
    show <<<"$said"
    [[ $said == *'Connection refused'* ]] || fail "ssh is refused with RST, as by a port where nothing listens"
}

knock() {
    shell "knock -p 22 server"
    on_client "$BIN/knock" --profiles "$dir/client" -p 22 server 2>&1 | show || fail "knock sends a knock"
}

# How often the daemon has said something like this.
said() { grep -cE "$1" "$dir/daemon.log" || true; }
has_said() { (($(said "$1") == $2)); }
last_said() { grep -E "$1" "$dir/daemon.log" | tail -n 1 | show; }
# What conntrack expects at port 22: the openings.
openings() { on_server grep -c ' dport=22 ' /proc/net/nf_conntrack_expect || true; }
table_is_gone() { ! on_server nft list table inet knockknock >/dev/null 2>&1; }
none_open() { [[ $(openings) == 0 ]]; }
hears() { read -r -t 10 -u "$screen" line && [[ $line == "$1" ]]; }

# Keeps in a file the next SYN to port 22, where a knock for it goes, that one of the hosts sends or receives.
capture() {
    local on=$1 file=$2
    "$on" perl -e "$CAPTURE" 22 "$file" >"$dir/capture.log" {NF_LOG_USERS}>&- &
    pids+=($!)
    wait_for 10 grep -q listening "$dir/capture.log" || fail "the capture starts"
}

start_daemon() {
    shell "knock-daemon"
    start_on_server "$dir/daemon.log" "$BIN/knock-daemon" --config-dir "$dir/server" --log kmsg --user nobody
    daemon=${pids[-1]}
    wait_for 10 grep -qx ready "$dir/daemon.log" || fail "the daemon says that it is ready"
    show <"$dir/daemon.log"
}

# The rules of another program on the server, as its reload writes them: gone and made again in one transaction.
load_other_firewall() {
    on_server nft -f - <<END
table inet other_firewall
delete table inet other_firewall
table inet other_firewall {
    chain input {
        type filter hook input priority filter; policy drop
        iif lo accept
        ct state established,related accept
    }
}
END
}

# Two small tools in what every Debian has: keep the first frame with a SYN to a port; send a frame.
# shellcheck disable=SC2016 # Perl's variables
readonly CAPTURE='
    socket(my $s, 17, 3, 0x0300) or die "packet socket: $!";    # AF_PACKET, SOCK_RAW, all protocols (network order)
    $| = 1; print "listening\n";
    while (defined recv($s, my $frame, 2048, 0)) {
        my ($type, $proto, $port, $flags) = unpack("x12 n x9 C x12 n x9 C", $frame);
        next unless $type == 0x0800 && $proto == 6 && $port == $ARGV[0] && ($flags & 0x3f) == 2;
        open(my $file, ">:raw", $ARGV[1]) or die "$ARGV[1]: $!";
        print $file $frame;
        exit;
    }'
# shellcheck disable=SC2016
readonly REPLAY='
    socket(my $s, 17, 3, 0) or die "packet socket: $!";
    open(my $file, "<:raw", $ARGV[0]) or die "$ARGV[0]: $!";
    read($file, my $frame, 2048);
    send($s, $frame, 0, pack("S n i S C C x8", 17, 0x0800, $ARGV[1], 0, 0, 6)) or die "send: $!";'

# --- the demonstration ------------------------------------------------------------------------------------------------

say
say "${bold}Two hosts on this machine: a server with sshd, and a client with a key to it.${plain}"
start_sshd
wait_for 10 on_client "${SSH[@]}" true || { cat "$dir/sshd.log" >&2 && fail "sshd can be reached before the door is closed"; }

step "While the door is open, the client has the server make a profile, and takes it: one line, in one pipe."
shell "ssh root@server knock-genprofile --print client | knock --import server"
on_client "${SSH[@]}" "$BIN/knock-genprofile --config-dir $dir/server --print client" 2>/dev/null |
    on_client "$BIN/knock" --profiles "$dir/client" --import server 2>&1 | show || fail "a profile is made at both ends"
cmp -s "$dir/server/profiles/client/secret.key" "$dir/client/server/secret.key" || fail "both ends have the same key"
# To its `allow = tcp/22`: so that nobody waits here for long.
printf 'delay = %d\n' "$DELAY" >>"$dir/server/config"
# The name of the profile's directory is the name that the client knocks by; nothing resolves it here.
printf 'address = "%s"\n' "$ADDRESS" >>"$dir/client/server/config"

step "The admin starts the daemon."
start_daemon
sockets=$(on_server ss -Hlntup; on_server ss -H -0)
[[ $sockets != *knock* ]] || fail "no socket of the daemon is listed by ss: $sockets"
note "it listens on no port and captures no packets: ss lists no socket of it"

step "The admin closes port 22. There is no other firewall."
shell "minimal-firewall.sh --only tcp/22"
firewall=(on_server scripts/minimal-firewall.sh --config-dir "$dir/server" --run-dir "$dir/firewall")
"${firewall[@]}" --only tcp/22 --confirm 0 | show
ssh_refused
note "port 22 looks closed, like any port where nothing listens"

step "The client knocks. Somebody on the way captures the packet."
capture on_client "$dir/knock.frame"
knock
wait_for 10 has_said 'opened ' 1 || fail "the daemon opens port 22"
last_said 'opened '
wait_for 10 test -s "$dir/knock.frame" || fail "the knock is captured"
note "one SYN to port 22 itself, like ssh's own first packet, refused like any other; the kernel expects one connection now"

step "The client is in, over ssh, and the door shuts behind it."
shell "ssh root@server"
mkfifo "$dir/type" "$dir/screen"
on_client "${SSH[@]}" 'echo "hello from the server"; exec cat' <"$dir/type" >"$dir/screen" 2>&1 {NF_LOG_USERS}>&- &
pids+=($!)
exec {type}>"$dir/type" {screen}<"$dir/screen"
hears "hello from the server" || fail "ssh gets in after a knock; it said: ${line:-nothing}"
show <<<"$line"
wait_for 10 has_said 'came in at tcp/22 .*: closed behind it' 1 || fail "the daemon shuts the door behind the connection"
last_said 'came in at'
[[ $(openings) == 0 ]] || fail "nothing is open after that"

step "A second connection is refused: one knock, one connection."
ssh_refused

step "The captured knock, sent again, opens nothing."
capture on_server "$dir/replay.frame"
perl_index=$(ip -n "$CLIENT" -o link show eth0 | cut -d: -f1)
on_client perl -e "$REPLAY" "$dir/knock.frame" "$perl_index"
wait_for 10 test -s "$dir/replay.frame" || fail "the same packet arrives again"
cmp -s "$dir/knock.frame" "$dir/replay.frame" || fail "what arrives is the same packet"
note "the very same packet has arrived"
ssh_refused
has_said 'opened ' 1 || fail "the replay opens nothing"

step "The client knocks again, and then does not come: the port closes by itself."
knock
wait_for 10 has_said 'opened ' 2 || fail "the daemon opens port 22 again"
last_said 'opened '
[[ $(openings) == 1 ]] || fail "one opening is there"
wait_for $((DELAY + 2)) has_said ': not used' 1 || fail "the daemon says that nobody came"
last_said 'not used'
wait_for 1 none_open || fail "the opening ends after $DELAY s"
ssh_refused

step "Everything of ours is killed while the port is open: the kernel shuts it."
knock
wait_for 10 has_said 'opened ' 3 || fail "the daemon opens port 22 again"
helper=$(ps -o pid= --ppid "$daemon" | tr -d ' ')
[[ $helper =~ ^[0-9]+$ ]] || fail "the daemon has one helper"
shell "kill -9 knock-daemon knock-helper"
# The shell need not tell how it ended.
disown "$daemon"
kill -9 "$daemon" "$helper"
wait_for 10 table_is_gone || fail "our table goes with the helper"
[[ $(openings) == 1 ]] || fail "the opening is the kernel's, and still there"
note "the opening is still there, and nobody of ours is left to close it"
wait_for $((DELAY + 2)) none_open || fail "the kernel ends the opening after $DELAY s"
note "$DELAY s after the knock the kernel has ended it; what the admin closed is closed, for these rules are no process's"
ssh_refused

step "There may be another firewall, which is reloaded at any time. It has no line about knocks."
load_other_firewall
start_daemon
knock
wait_for 10 has_said 'opened ' 1 || fail "the daemon opens port 22"
last_said 'opened '
load_other_firewall
note "it drops all but established and related; it was loaded again between the knock and the connection"
shell "ssh root@server"
on_client "${SSH[@]}" 'echo "hello again"' 2>&1 | show || fail "ssh gets in beside another firewall"
wait_for 10 has_said 'closed behind it' 1 || fail "the daemon shuts the door behind the connection"
last_said 'came in at'
ssh_refused

step "The session from before is still there, also when the daemon ends; the port stays shut."
kill -TERM "$daemon"
wait "$daemon" || fail "the daemon ends when told, with status 0"
wait_for 10 table_is_gone || fail "the daemon's table goes with it"
echo "still here" >&"$type"
hears "still here" || fail "the session carries what is typed"
note "typed \"$line\", and the server sent it back"
ssh_refused

step "What the admin closed is opened again by one command."
on_server nft delete table inet other_firewall
shell "minimal-firewall.sh --undo"
"${firewall[@]}" --undo | show
on_client "${SSH[@]}" true || fail "ssh gets in when nothing of ours is left"
[[ -z $(on_server nft list ruleset) ]] || fail "no rule is left"

say
say "${bold}Everything went as said.${plain} It is all gone again now."
