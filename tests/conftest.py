from tests.cast import (
    acme,
    alice,
    alice_client,
    bob,
    bob_client,
    charlie,
    charlie_client,
    umbrella,
)

__all__ = [
    "acme",
    "alice",
    "alice_client",
    "bob",
    "bob_client",
    "charlie",
    "charlie_client",
    "umbrella",
]
