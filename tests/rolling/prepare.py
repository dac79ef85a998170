"""The tables, an organization with a key, and the demo model asked for. Prints the key."""

import django


def main() -> None:
    django.setup()
    from django.core.management import call_command  # noqa: PLC0415

    from accounts.models import ApiKey, Organization, User  # noqa: PLC0415
    from billing import usage  # noqa: PLC0415
    from inference import demo  # noqa: PLC0415
    from inference.models import Instance  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    usage.ensure_partitions()
    alice = User.objects.create_user(email="alice@acme.example")
    acme = Organization.found("Acme", alice)
    Instance.request(
        acme,
        alice,
        name="demo",
        model_source="bundled",
        model_id=demo.MODEL_ID,
        model_revision=demo.model_revision(),
        settings={"max_num_seqs": 256},
    )
    print(ApiKey.issue(acme, alice, "rolling")[1])


if __name__ == "__main__":
    main()
