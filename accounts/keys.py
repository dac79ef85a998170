"""API keys: format, checksum and hash. PURE; the portal makes keys, the gateway checks them.

A key is `mp-`, 160 random bits in base62 (27 characters) and their CRC32 in base62 (6 characters),
so a mistyped or invented key is refused by arithmetic alone, before any look-up. We keep an
HMAC-SHA256 of it under a secret pepper, and enough of its ends to recognise it by.
"""

import hashlib
import hmac
import secrets
import zlib

PREFIX = "mp-"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY_LENGTH = 27  # 62**27 > 2**160
CHECKSUM_LENGTH = 6  # 62**6 > 2**32
KEY_LENGTH = len(PREFIX) + BODY_LENGTH + CHECKSUM_LENGTH
PEPPER_VERSION = 1


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_LENGTH)


def generate() -> str:
    """A new key. It is shown to its maker once and never stored."""
    body = _base62(secrets.randbits(160), BODY_LENGTH)
    return PREFIX + body + _checksum(body)


def well_formed(key: str) -> bool:
    """Whether this could be a key at all: prefix, length and checksum."""
    if len(key) != KEY_LENGTH or not key.startswith(PREFIX) or not key.isascii():
        return False
    body = key[len(PREFIX) : len(PREFIX) + BODY_LENGTH]
    return key[len(PREFIX) + BODY_LENGTH :] == _checksum(body)


def digest(key: str, pepper: str) -> bytes:
    """What we store in place of the key: 32 bytes of HMAC-SHA256."""
    return hmac.digest(pepper.encode(), key.encode(), hashlib.sha256)


def visible(key: str) -> tuple[str, str]:
    """The ends by which a person recognises a key: (`mp-` and six characters, the last four)."""
    return key[: len(PREFIX) + 6], key[-4:]
