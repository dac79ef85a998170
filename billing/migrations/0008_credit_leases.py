import django.db.models.deletion
from django.db import migrations, models

# The gateways hear of whose credit is used up, and of who pays later.
TRIGGER = """
CREATE FUNCTION modelport_notify_gateways_of_credit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(
        'modelport_gateway',
        TG_TABLE_NAME || ':' || COALESCE(NEW.organization_id, OLD.organization_id)::text
    );
    RETURN NULL;
END $$;
CREATE TRIGGER notify_gateways
    AFTER INSERT OR DELETE OR UPDATE OF currency, postpaid, suspended_at
    ON billing_profile FOR EACH ROW EXECUTE FUNCTION modelport_notify_gateways_of_credit();
"""
UNDO = """
DROP TRIGGER notify_gateways ON billing_profile;
DROP FUNCTION modelport_notify_gateways_of_credit();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0004_browser_origins"),
        ("billing", "0007_priced_usage"),
    ]

    operations = [
        migrations.CreateModel(
            name="CreditLease",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("writer", models.CharField(max_length=32)),
                ("machine", models.UUIDField()),
                ("granted", models.BigIntegerField(default=0)),
                ("spent", models.BigIntegerField(default=0)),
                ("opened_at", models.DateTimeField(auto_now_add=True)),
                ("closed_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "billing_credit_lease",
            },
        ),
        migrations.CreateModel(
            name="RunningHold",
            fields=[
                (
                    "organization",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="running_hold",
                        serialize=False,
                        to="accounts.organization",
                    ),
                ),
                ("nano", models.BigIntegerField(default=0)),
                ("nano_per_hour", models.BigIntegerField(default=0)),
                ("warned_at", models.DateTimeField(null=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "db_table": "billing_running_hold",
            },
        ),
        migrations.AddField(
            model_name="billingprofile",
            name="credit_line_nano",
            field=models.BigIntegerField(default=0, verbose_name="credit line"),
        ),
        migrations.AddField(
            model_name="billingprofile",
            name="restarts_instances",
            field=models.BooleanField(
                default=False, verbose_name="start stopped instances again after a top-up"
            ),
        ),
        migrations.AddConstraint(
            model_name="billingprofile",
            constraint=models.CheckConstraint(
                condition=models.Q(("credit_line_nano__gte", 0)), name="credit_line_is_not_negative"
            ),
        ),
        migrations.AddField(
            model_name="creditlease",
            name="organization",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="credit_leases",
                to="accounts.organization",
            ),
        ),
        migrations.AddConstraint(
            model_name="runninghold",
            constraint=models.CheckConstraint(
                condition=models.Q(("nano__gte", 0), ("nano_per_hour__gte", 0)),
                name="running_hold_is_not_negative",
            ),
        ),
        migrations.AddIndex(
            model_name="creditlease",
            index=models.Index(
                condition=models.Q(("closed_at", None)),
                fields=["organization"],
                name="open_credit_leases",
            ),
        ),
        migrations.AddIndex(
            model_name="creditlease",
            index=models.Index(
                condition=models.Q(("closed_at", None)),
                fields=["machine", "writer"],
                name="open_leases_of_machines",
            ),
        ),
        migrations.AddConstraint(
            model_name="creditlease",
            constraint=models.UniqueConstraint(
                fields=("organization", "writer"), name="one_credit_lease_of_a_gateway"
            ),
        ),
        migrations.AddConstraint(
            model_name="creditlease",
            constraint=models.CheckConstraint(
                condition=models.Q(("granted__gte", 0), ("spent__gte", 0)),
                name="credit_lease_is_not_negative",
            ),
        ),
        migrations.RunSQL(TRIGGER, UNDO),
    ]
