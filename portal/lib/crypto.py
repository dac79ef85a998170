"""Encryption at rest for secrets that we must read back (a hub token, a provider key)."""

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class UnreadableSecret(Exception):
    """The stored secret was written under another key; it must be entered again."""


def _fernet(key: str, purpose: str) -> Fernet:
    derived = HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(key.encode())
    return Fernet(base64.urlsafe_b64encode(derived))


def encrypt(plain: str, *, key: str, purpose: str) -> bytes:
    """Encrypt and authenticate `plain` under the installation's key, for one purpose only."""
    return _fernet(key, purpose).encrypt(plain.encode())


def decrypt(stored: bytes, *, key: str, purpose: str) -> str:
    """Undo `encrypt`. Raises UnreadableSecret if key or purpose differ or a bit was changed."""
    try:
        return _fernet(key, purpose).decrypt(bytes(stored)).decode()
    except InvalidToken as error:
        raise UnreadableSecret(purpose) from error
