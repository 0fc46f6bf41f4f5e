#!/usr/bin/env python3
"""Writes kernel-log/expected.txt: which of the records are a SYN, alone or with the request for ECN, and with which fields.

Shares no code and no method with the parser under test: one regular expression over the kmsg file, and the text after
the packet must not be a second one. Run it in this directory after changing the records; the result is committed.
"""
import re

SYN = re.compile(
    r"^\d+,\d+,\d+,-;REJECT IN=\S* OUT=\S* (?:MAC=\S* |MACSRC=\S+ MACDST=\S+ MACPROTO=\S+ )"
    r"SRC=(?P<src>\S+) DST=(?P<dst>\S+) LEN=\d+ "
    r"(?:TOS=\S+ PREC=\S+ TTL=\d+ ID=(?P<id>\d+) (?:DF )?|TC=\d+ HOPLIMIT=\d+ FLOWLBL=(?P<label>\d+) )"
    r"(?:OPT \([0-9A-F]+\) )?PROTO=TCP SPT=(?P<spt>\d+) DPT=(?P<dpt>\d+) SEQ=(?P<seq>\d+) ACK=(?P<ack>\d+) "
    r"WINDOW=(?P<window>\d+) RES=0x00 (?P<ecn>CWR ECE )?SYN URGP=0 (?:OPT \((?P<options>[0-9A-F]+)\) )?$"
)

with open("kernel-log/kmsg.txt") as records, open("kernel-log/expected.txt", "w") as expected:
    for record in records:
        syn = SYN.match(record.rstrip("\n"))
        if syn is None:
            print("-", file=expected)
            continue
        ident = syn["id"] or str(int(syn["label"]) % 65536)
        fields = [syn["src"], syn["dst"], syn["spt"], syn["dpt"], ident, syn["seq"], syn["ack"], syn["window"]]
        print(*fields, syn["options"] or "none", *(["ecn"] if syn["ecn"] else []), file=expected)
