import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import portal.lib.ids

# What a gateway knows of an adapter: its name, whether it may be called, why it may not; and which
# replicas have loaded it.
NOTIFY = """
CREATE TRIGGER notify_gateways
    AFTER INSERT OR DELETE OR UPDATE OF name, state, message, removed_at
    ON inference_adapter FOR EACH ROW EXECUTE FUNCTION modelport_notify_gateways();
DROP TRIGGER notify_gateways ON inference_replica;
CREATE TRIGGER notify_gateways
    AFTER INSERT OR DELETE OR UPDATE OF state, address, context_length, adapters
    ON inference_replica FOR EACH ROW EXECUTE FUNCTION modelport_notify_gateways();
"""
UNDO_NOTIFY = """
DROP TRIGGER notify_gateways ON inference_replica;
CREATE TRIGGER notify_gateways
    AFTER INSERT OR DELETE OR UPDATE OF state, address, context_length
    ON inference_replica FOR EACH ROW EXECUTE FUNCTION modelport_notify_gateways();
DROP TRIGGER notify_gateways ON inference_adapter;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0004_browser_origins"),
        ("inference", "0007_fit_records"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="replica",
            name="adapters",
            field=models.JSONField(default=list),
        ),
        migrations.CreateModel(
            name="Adapter",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=portal.lib.ids.uuid7,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "name",
                    models.CharField(
                        max_length=63,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$",
                                "Use lower-case letters, digits, dots and dashes; begin and end with a letter or digit.",  # noqa: E501
                            )
                        ],
                        verbose_name="name",
                    ),
                ),
                (
                    "source",
                    models.CharField(
                        choices=[("local", "Local folder"), ("hub", "Hugging Face")],
                        max_length=16,
                    ),
                ),
                ("model_id", models.CharField(max_length=512, verbose_name="adapter")),
                ("model_revision", models.CharField(max_length=64)),
                ("rank", models.PositiveSmallIntegerField()),
                ("base_model", models.CharField(blank=True, max_length=512)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("requested", "Requested"),
                            ("loading", "Loading"),
                            ("ready", "Ready"),
                            ("failed", "Failed"),
                            ("removing", "Being removed"),
                        ],
                        default="requested",
                        max_length=16,
                    ),
                ),
                ("message", models.TextField(blank=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("ready_at", models.DateTimeField(blank=True, null=True)),
                ("removed_at", models.DateTimeField(blank=True, null=True)),
                (
                    "created_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "instance",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="adapters",
                        to="inference.instance",
                    ),
                ),
                (
                    "organization",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="adapters",
                        to="accounts.organization",
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("removed_at", None)),
                        fields=("organization", "name"),
                        name="one_live_adapter_per_name",
                        violation_error_message="An adapter with this name exists already.",
                    )
                ],
            },
        ),
        migrations.RunSQL(NOTIFY, UNDO_NOTIFY),
    ]
