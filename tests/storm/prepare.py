"""The tables, an organization with a key, an instance that the engine serves. Prints the key."""

import sys

import django


def main(address: str) -> None:
    django.setup()
    from django.core.management import call_command  # noqa: PLC0415

    from accounts.models import ApiKey, Organization, User  # noqa: PLC0415
    from billing import usage  # noqa: PLC0415
    from inference.models import Instance, Replica  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    usage.ensure_partitions()
    alice = User.objects.create_user(email="alice@acme.example")
    acme = Organization.found("Acme", alice)
    instance = Instance.objects.create(
        organization=acme, name="demo", model_source="bundled", model_id="demo", state="ready"
    )
    Replica.objects.create(
        organization=acme,
        instance=instance,
        generation=1,
        state=Replica.State.READY,
        address=address,
        context_length=2048,
    )
    print(ApiKey.issue(acme, alice, "storm")[1])


if __name__ == "__main__":
    main(sys.argv[1])
