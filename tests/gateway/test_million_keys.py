"""A million guesses open nothing, and the database is not asked a million times (P14)."""

import random

from accounts import keys
from inference.gateway.auth import Authenticator
from inference.gateway.errors import Refusal
from tests.gateway.house import House

GUESSES = 1_000_000
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def opens(authenticator: Authenticator, guess: str) -> bool:
    """Whether this key is let in, or would be asked for in the database."""
    try:
        digest = authenticator.digest(b"Bearer " + guess.encode())
        return authenticator.known(digest) is not None
    except Refusal:
        return False


async def test_a_million_random_keys_open_nothing(house_tables):
    authenticator, real = house_tables
    draw = random.Random(20261121)  # noqa: S311
    body = len(real) - len("mp-")
    assert opens(authenticator, real)
    for _ in range(GUESSES):
        guess = "mp-" + "".join(draw.choices(ALPHABET, k=body))
        assert not opens(authenticator, guess)


async def test_a_key_with_one_letter_changed_does_not_even_look_like_one(house_tables):
    authenticator, real = house_tables
    for at in range(3, len(real)):
        other = "x" if real[at] != "x" else "y"
        changed = real[:at] + other + real[at + 1 :]
        assert not keys.well_formed(changed)
        assert not opens(authenticator, changed)


async def test_keys_of_the_right_form_open_nothing_either(house_tables):
    authenticator, _ = house_tables
    assert not any(opens(authenticator, keys.generate()) for _ in range(20_000))


async def test_a_flood_of_unknown_keys_asks_the_database_a_bounded_number_of_times(house: House):
    asked = []

    async def ask(digest: bytes) -> None:
        asked.append(digest)
        house.snapshot._unknown[digest] = float("inf")

    house.snapshot._ask_for = ask
    same = keys.generate()
    for _ in range(40):
        async with house.sdk(same) as client:
            try:
                await client.models.list()
            except Exception as error:
                assert getattr(error, "status_code", None) == 401
    assert len(asked) == 1
