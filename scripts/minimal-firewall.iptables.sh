# shellcheck shell=bash disable=SC2154 # the choice is minimal-firewall.sh's
# The rules of minimal-firewall.nft and guard.nft for a kernel without nf_tables; minimal-firewall.sh --iptables reads this,
# and adds the rules that lead to our chain: from INPUT, and with --only from FORWARD for what is redirected. What is not
# refused goes on to whatever other rules there are.

# What iptables-restore --noflush is to load if $1 is iptables, else what takes it away. $2: 4 or 6.
iptables_rules() {
    local version=$2 unreachable=icmp-port-unreachable icmp="icmp -m icmp --icmp-type" name service this="-A $CHAIN"
    printf '*filter\n:%s - [0:0]\n:%s - [0:0]\n' "$CHAIN" "${CHAIN}_REFUSE"
    [[ $1 == iptables ]] || { printf -- '-X %s\n' "$CHAIN" "${CHAIN}_REFUSE" && return; }
    if [[ $version == 6 ]]; then unreachable=icmp6-port-unreachable icmp="ipv6-icmp -m icmp6 --icmpv6-type"; fi
    echo "$this -i lo -j RETURN"
    for name in ${except[@]+"${except[@]}"}; do
        if [[ ($name == *:* && $version == 6) || ($name != *:* && $version == 4) ]]; then echo "$this -s $name -j RETURN"; fi
    done
    for name in ${except_interface[@]+"${except_interface[@]}"}; do echo "$this -i ${name/%\*/+} -j RETURN"; done
    cat <<RULES
$this -p tcp ! --tcp-flags ACK,RST NONE -j RETURN
$this -m conntrack --ctstate RELATED -j RETURN
$this -p tcp -m conntrack --ctstate ESTABLISHED ! --ctstatus ASSURED -j RETURN
$this ! -p tcp -m conntrack --ctstate ESTABLISHED -j RETURN
RULES
    # By the port that the client sees, which may no longer be the packet's own.
    for service in ${only[@]+"${only[@]}"}; do
        name=${service#*/}
        echo "$this -p ${service%%/*} -m conntrack --ctdir ORIGINAL --ctorigdstport ${name/-/:} -g ${CHAIN}_REFUSE"
    done
    if ((${#only[@]} == 0)); then
        if [[ $version == 6 ]]; then
            for name in 1 2 3 4 128; do echo "$this -p $icmp $name -j RETURN"; done
            for name in 134 135 136; do echo "$this -p $icmp $name -m hl --hl-eq 255 -j RETURN"; done
            for name in 130 131 132 143; do echo "$this -p $icmp $name -s fe80::/10 -j RETURN"; done
            echo "$this -p udp -s fe80::/10 --sport 547 --dport 546 -j RETURN"
        else
            for name in 3 8 11 12; do echo "$this -p $icmp $name -j RETURN"; done
            echo "$this -p udp --sport 67 --dport 68 -j RETURN"
        fi
        for service in ${allow[@]+"${allow[@]}"}; do
            name=${service#*/}
            echo "$this -p ${service%%/*} --dport ${name/-/:} -j RETURN"
        done
        printf '%s\n' "$this -p ${icmp%% *} -j DROP" "$this -g ${CHAIN}_REFUSE"
    fi
    echo "-A ${CHAIN}_REFUSE -p tcp -j REJECT --reject-with tcp-reset"
    echo "-A ${CHAIN}_REFUSE -j REJECT --reject-with $unreachable"
}
