"""Some traffic of an installation, as processes of its own make it: `python -m` this, with its home
in the environment. Prints nothing."""

import asyncio
import sys

import django


def ledger() -> None:
    """A wallet that is paid into and spent from."""
    from accounts.models import Organization, User  # noqa: PLC0415
    from billing import wallet  # noqa: PLC0415
    from billing.ledger import Kind  # noqa: PLC0415

    alice = User.objects.create_user("alice@acme.example", "a password of hers")
    acme = Organization.found("Acme", alice)
    wallet.pay_in(acme, 10**12, Kind.TOPUP, "paid")
    wallet.grant(acme, 10**9, alice, reason="hello", key="hello")
    for number in range(50):
        wallet.charge(acme, 10**8 + number, Kind.USAGE, f"usage {number}", refers_to={"n": number})


def journal() -> None:
    """Requests that no meter has looked at yet; three of them are under way when we die."""
    from django.conf import settings  # noqa: PLC0415

    from accounts.models import Organization  # noqa: PLC0415
    from billing.usage_record import Checkpoint, Usage  # noqa: PLC0415
    from inference.gateway.journal import Journal  # noqa: PLC0415
    from tests.billing.records import admit, final  # noqa: PLC0415

    acme = Organization.objects.get(slug="acme")
    loop = asyncio.new_event_loop()
    kept = Journal(settings.ENV.journal_dir, loop)
    for _ in range(20):
        request = admit(acme)
        kept.admit(request)
        done = loop.create_future()
        kept.final(final(request), done.set_result)
        assert loop.run_until_complete(done)
    for tokens in range(3):
        request = admit(acme)
        kept.admit(request)
        kept.checkpoint(Checkpoint(request.request_id, Usage(7, tokens)))
    kept.close()
    loop.close()


if __name__ == "__main__":
    django.setup()
    {"ledger": ledger, "journal": journal}[sys.argv[1]]()
