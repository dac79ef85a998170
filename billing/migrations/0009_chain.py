import django.db.models.deletion
from django.db import migrations, models

TODAY = models.Func(output_field=models.DateField(), template="CURRENT_DATE")

# What was posted before there was a chain keeps the day of its entries.
DAYS = """
ALTER TABLE billing_ledger_transaction DISABLE TRIGGER stays;
UPDATE billing_ledger_transaction t
    SET day = coalesce(
        (SELECT min(day) FROM billing_ledger_entry WHERE transaction_id = t.id),
        (t.created_at AT TIME ZONE 'UTC')::date
    );
ALTER TABLE billing_ledger_transaction ENABLE TRIGGER stays;
"""

# Days. Whoever posts shares a lock until the end of the transaction, and whoever seals a day has it
# alone: what was posted on the day is there then, and what is posted later sees that the day is
# sealed and goes on the next one. 886623287 is portal.lib.locks.key_of("ledger").
RULES = """
CREATE FUNCTION modelport_ledger_now() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS 'SELECT clock_timestamp()';

CREATE FUNCTION modelport_ledger_dates() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the ledger is posted to in read committed transactions only';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(LOCK);
    NEW.day := greatest(
        (modelport_ledger_now() AT TIME ZONE 'UTC')::date,
        (SELECT max(day) + 1 FROM billing_ledger_day)
    );
    RETURN NEW;
END $$;
CREATE TRIGGER dates BEFORE INSERT ON billing_ledger_transaction
    FOR EACH ROW EXECUTE FUNCTION modelport_ledger_dates();

CREATE FUNCTION modelport_ledger_is_open() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(LOCK);
    SELECT day INTO NEW.day FROM billing_ledger_transaction WHERE id = NEW.transaction_id;
    IF EXISTS (SELECT FROM billing_ledger_day WHERE day >= NEW.day) THEN
        RAISE EXCEPTION 'the ledger is append-only: % is sealed', NEW.day
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER is_open BEFORE INSERT ON billing_ledger_entry
    FOR EACH ROW EXECUTE FUNCTION modelport_ledger_is_open();

CREATE FUNCTION modelport_ledger_day_follows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(LOCK);
    IF NEW.day >= (modelport_ledger_now() AT TIME ZONE 'UTC')::date THEN
        RAISE EXCEPTION '% is not over', NEW.day USING ERRCODE = 'check_violation';
    END IF;
    IF EXISTS (SELECT FROM billing_ledger_day)
        AND NOT EXISTS (
            SELECT FROM billing_ledger_day WHERE day = NEW.day - 1 AND hash = NEW.previous
            AND NOT EXISTS (SELECT FROM billing_ledger_day WHERE day >= NEW.day)
        )
    THEN
        RAISE EXCEPTION '% does not follow the last sealed day', NEW.day
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER follows BEFORE INSERT ON billing_ledger_day
    FOR EACH ROW EXECUTE FUNCTION modelport_ledger_day_follows();

CREATE TRIGGER stays BEFORE UPDATE OR DELETE ON billing_ledger_day
    FOR EACH STATEMENT EXECUTE FUNCTION modelport_ledger_stays();
CREATE TRIGGER stays BEFORE UPDATE OR DELETE ON billing_ledger_account
    FOR EACH STATEMENT EXECUTE FUNCTION modelport_ledger_stays();
""".replace("LOCK", "886623287")
UNDO_RULES = """
DROP TRIGGER stays ON billing_ledger_account;
DROP TRIGGER stays ON billing_ledger_day;
DROP TRIGGER follows ON billing_ledger_day;
DROP FUNCTION modelport_ledger_day_follows();
DROP TRIGGER is_open ON billing_ledger_entry;
DROP FUNCTION modelport_ledger_is_open();
DROP TRIGGER dates ON billing_ledger_transaction;
DROP FUNCTION modelport_ledger_dates();
DROP FUNCTION modelport_ledger_now();
"""

NOT_EMPTIED = """
CREATE TRIGGER stays_whole BEFORE TRUNCATE ON billing_ledger_account
    FOR EACH STATEMENT EXECUTE FUNCTION modelport_ledger_stays();
CREATE TRIGGER stays_whole BEFORE TRUNCATE ON billing_ledger_transaction
    FOR EACH STATEMENT EXECUTE FUNCTION modelport_ledger_stays();
CREATE TRIGGER stays_whole BEFORE TRUNCATE ON billing_ledger_entry
    FOR EACH STATEMENT EXECUTE FUNCTION modelport_ledger_stays();
CREATE TRIGGER stays_whole BEFORE TRUNCATE ON billing_ledger_day
    FOR EACH STATEMENT EXECUTE FUNCTION modelport_ledger_stays();
"""
UNDO_NOT_EMPTIED = """
DROP TRIGGER stays_whole ON billing_ledger_day;
DROP TRIGGER stays_whole ON billing_ledger_entry;
DROP TRIGGER stays_whole ON billing_ledger_transaction;
DROP TRIGGER stays_whole ON billing_ledger_account;
"""

# A temporary table of the same name would come first in what these functions look at.
NO_DISGUISE = """
DO $$
DECLARE
    rule regprocedure;
BEGIN
    FOR rule IN
        SELECT oid FROM pg_proc
        WHERE proname LIKE 'modelport\\_ledger\\_%' AND pronamespace = current_schema()::regnamespace
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', rule, current_schema());
    END LOOP;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0004_browser_origins"),
        ("billing", "0008_credit_leases"),
    ]

    operations = [
        migrations.CreateModel(
            name="LedgerDay",
            fields=[
                ("day", models.DateField(primary_key=True, serialize=False)),
                ("first_entry", models.BigIntegerField(null=True)),
                ("last_entry", models.BigIntegerField(null=True)),
                ("transactions", models.BigIntegerField()),
                ("entries", models.BigIntegerField()),
                ("previous", models.CharField(max_length=64)),
                ("hash", models.CharField(max_length=64)),
                ("sealed_at", models.DateTimeField()),
            ],
            options={
                "db_table": "billing_ledger_day",
                "ordering": ["day"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("hash__regex", "^[0-9a-f]{64}$"),
                            ("previous__regex", "^[0-9a-f]{64}$"),
                        ),
                        name="ledger_day_has_hashes",
                    )
                ],
            },
        ),
        migrations.RemoveIndex(model_name="entry", name="ledger_entries_by_day"),
        migrations.AddField(
            model_name="ledgertransaction",
            name="day",
            field=models.DateField(db_default=TODAY, editable=False),
        ),
        migrations.RunSQL(DAYS, migrations.RunSQL.noop),
        migrations.AlterField(
            model_name="entry",
            name="account",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="entries",
                to="billing.ledgeraccount",
            ),
        ),
        migrations.AlterField(
            model_name="entry",
            name="day",
            field=models.DateField(db_default=TODAY, editable=False),
        ),
        migrations.AddIndex(
            model_name="entry",
            index=models.Index(fields=["day", "transaction", "id"], name="ledger_entries_in_order"),
        ),
        migrations.AddIndex(
            model_name="entry",
            index=models.Index(fields=["account", "-id"], name="ledger_entries_by_account"),
        ),
        migrations.AddIndex(
            model_name="ledgertransaction",
            index=models.Index(fields=["day", "id"], name="ledger_by_day"),
        ),
        migrations.RunSQL(RULES, UNDO_RULES),
        migrations.RunSQL(NOT_EMPTIED, UNDO_NOT_EMPTIED),
        migrations.RunSQL(NO_DISGUISE, migrations.RunSQL.noop),
    ]
