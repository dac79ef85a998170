"""As `prepare`, for two organizations that pay: `poor` has a little, `rich` has enough. Prints
their keys."""

import sys

import django

DEAR = 10**9  # nano-units for a million tokens: a thousand for each
POOR, RICH = 4_000_000, 10**12  # nano-units


def main(address: str) -> None:
    django.setup()
    from django.core.management import call_command  # noqa: PLC0415

    from accounts.models import ApiKey, Organization, User  # noqa: PLC0415
    from billing import usage, wallet  # noqa: PLC0415
    from billing.ledger import Kind  # noqa: PLC0415
    from billing.models import PriceBook  # noqa: PLC0415
    from inference.models import Instance, Replica  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    usage.ensure_partitions()
    rates = dict.fromkeys(("prompt", "cached", "completion", "reasoning"), DEAR)
    PriceBook.of_house("USD").set_rates(rates | {"request": 0})
    keys = []
    for name, nano in (("poor", POOR), ("rich", RICH)):
        owner = User.objects.create_user(email=f"alice@{name}.example")
        organization = Organization.found(name, owner)
        wallet.pay_in(organization, nano, Kind.TOPUP, f"topup:{name}")
        instance = Instance.objects.create(
            organization=organization,
            name="demo",
            model_source="bundled",
            model_id="demo",
            state="ready",
        )
        Replica.objects.create(
            organization=organization,
            instance=instance,
            generation=1,
            state=Replica.State.READY,
            address=address,
            context_length=2048,
        )
        keys.append(ApiKey.issue(organization, owner, "storm")[1])
    print(*keys)


if __name__ == "__main__":
    main(sys.argv[1])
