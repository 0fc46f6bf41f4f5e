#!/usr/bin/env python3
"""Makes stealth.json: knocks of the stealth layout, by an implementation that shares nothing with the Rust one.

Written from docs/protocol.md with Python's standard library alone. Run it to make the file again:
    python3 tests/vectors/stealth.py > tests/vectors/stealth.json
"""

import hashlib
import hmac
import ipaddress
import json
import random


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, for 32 bytes."""
    pseudo_random_key = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(pseudo_random_key, info + b"\x01", hashlib.sha256).digest()


def knock(secret: bytes, number: int, request: int, source: str | None) -> tuple[int, int]:
    """SEQ and TSval."""
    tag_key = hkdf(secret, b"knock stealth 1", b"tag")
    mac_key = hkdf(secret, b"knock stealth 1", b"mac")
    n = number.to_bytes(8, "big")
    binding = b""
    if source is not None:
        address = ipaddress.ip_address(source)
        binding = bytes([address.version]) + address.packed
    tag = hmac.new(tag_key, n, hashlib.sha256).digest()[:4]
    mac = hmac.new(mac_key, n + request.to_bytes(2, "big") + binding, hashlib.sha256).digest()[:4]
    return int.from_bytes(tag, "big"), int.from_bytes(mac, "big")


def main() -> None:
    chance = random.Random(20261121)
    cases = [
        (bytes(32), 0, 0, None),
        (b"\xff" * 32, 2**64 - 2, 65535, None),
        (bytes(range(32)), 1, 22, None),
        (bytes(range(32)), 1, 22, "192.0.2.7"),
        (bytes(range(32)), 1, 22, "2001:db8::7"),
        (bytes(range(32)), 256 * 179_000_000, 443, "::ffff:192.0.2.7"),
    ]
    for _ in range(100):
        source = chance.choice([
            None,
            str(ipaddress.IPv4Address(chance.getrandbits(32))),
            str(ipaddress.IPv6Address(chance.getrandbits(128))),
        ])
        cases.append((chance.randbytes(32), chance.getrandbits(chance.choice([8, 32, 40, 63])), chance.getrandbits(16), source))
    knocks = []
    for secret, number, request, source in cases:
        seq, tsval = knock(secret, number, request, source)
        knocks.append({
            "secret": secret.hex(), "number": number, "request": request, "source": source, "seq": seq, "tsval": tsval,
        })
    # One a line.
    print("[\n" + ",\n".join(json.dumps(each) for each in knocks) + "\n]")


if __name__ == "__main__":
    main()
