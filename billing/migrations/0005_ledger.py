import django.db.models.deletion
from django.db import migrations, models

import portal.lib.ids

# The books: nothing in them is changed or taken out, and each transaction sums to nothing when it
# commits.
RULES = """
CREATE FUNCTION modelport_ledger_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER stays BEFORE UPDATE OR DELETE ON billing_ledger_entry
    FOR EACH STATEMENT EXECUTE FUNCTION modelport_ledger_stays();
CREATE TRIGGER stays BEFORE UPDATE OR DELETE ON billing_ledger_transaction
    FOR EACH STATEMENT EXECUTE FUNCTION modelport_ledger_stays();

CREATE FUNCTION modelport_ledger_balances() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT sum(nano) FROM billing_ledger_entry WHERE transaction_id = NEW.transaction_id) <> 0
    THEN
        RAISE EXCEPTION 'ledger transaction % does not sum to 0', NEW.transaction_id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER balances AFTER INSERT ON billing_ledger_entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION modelport_ledger_balances();
"""
UNDO_RULES = """
DROP TRIGGER balances ON billing_ledger_entry;
DROP FUNCTION modelport_ledger_balances();
DROP TRIGGER stays ON billing_ledger_transaction;
DROP TRIGGER stays ON billing_ledger_entry;
DROP FUNCTION modelport_ledger_stays();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0004_browser_origins"),
        ("billing", "0004_slots_over_machines"),
    ]

    operations = [
        migrations.CreateModel(
            name="LedgerAccount",
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
                    "kind",
                    models.CharField(
                        choices=[
                            ("wallet", "Prepaid credit"),
                            ("grant", "Promotional credit"),
                            ("receivable", "Owed by the customer"),
                            ("cash", "Payments"),
                            ("revenue", "Revenue"),
                            ("promotion", "Promotions"),
                            ("tax", "Tax"),
                            ("rounding", "Rounding"),
                        ],
                        max_length=16,
                    ),
                ),
                ("currency", models.CharField(max_length=3)),
                ("reference", models.CharField(blank=True, default="", max_length=64)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "organization",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="ledger_accounts",
                        to="accounts.organization",
                    ),
                ),
            ],
            options={
                "db_table": "billing_ledger_account",
            },
        ),
        migrations.CreateModel(
            name="Balance",
            fields=[
                (
                    "account",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="balance",
                        serialize=False,
                        to="billing.ledgeraccount",
                    ),
                ),
                ("nano", models.BigIntegerField(default=0)),
            ],
            options={
                "db_table": "billing_ledger_balance",
            },
        ),
        migrations.CreateModel(
            name="LedgerTransaction",
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
                    "kind",
                    models.CharField(
                        choices=[
                            ("usage", "Usage"),
                            ("gpu", "GPU time"),
                            ("storage", "Storage"),
                            ("topup", "Top-up"),
                            ("credit", "Credit by the operator"),
                            ("grant", "Promotional credit"),
                            ("expiry", "Expired credit"),
                            ("refund", "Refund"),
                            ("dispute", "Dispute"),
                            ("invoice", "Invoice"),
                            ("reversal", "Correction"),
                        ],
                        max_length=16,
                    ),
                ),
                ("key", models.CharField(max_length=128, unique=True)),
                ("currency", models.CharField(max_length=3)),
                ("description", models.CharField(blank=True, default="", max_length=200)),
                ("refers_to", models.JSONField(default=dict)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "organization",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="ledger_transactions",
                        to="accounts.organization",
                    ),
                ),
                (
                    "reverses",
                    models.OneToOneField(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="reversed_by",
                        to="billing.ledgertransaction",
                    ),
                ),
            ],
            options={
                "db_table": "billing_ledger_transaction",
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="Entry",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("nano", models.BigIntegerField()),
                ("day", models.DateField()),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="entries",
                        to="billing.ledgeraccount",
                    ),
                ),
                (
                    "transaction",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="entries",
                        to="billing.ledgertransaction",
                    ),
                ),
            ],
            options={
                "db_table": "billing_ledger_entry",
                "ordering": ["id"],
            },
        ),
        migrations.AddConstraint(
            model_name="ledgeraccount",
            constraint=models.UniqueConstraint(
                fields=("organization", "kind", "currency", "reference"),
                name="one_ledger_account_of_a_kind",
                nulls_distinct=False,
            ),
        ),
        migrations.AddIndex(
            model_name="ledgertransaction",
            index=models.Index(fields=["organization", "-id"], name="ledger_by_organization"),
        ),
        migrations.AddIndex(
            model_name="entry",
            index=models.Index(fields=["day", "id"], name="ledger_entries_by_day"),
        ),
        migrations.AddConstraint(
            model_name="entry",
            constraint=models.CheckConstraint(
                condition=models.Q(("nano", 0), _negated=True), name="ledger_entry_is_not_nothing"
            ),
        ),
        migrations.RunSQL(RULES, UNDO_RULES),
    ]
