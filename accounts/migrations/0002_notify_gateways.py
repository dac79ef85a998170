"""Tells the gateways at once what they must know: a key that is new, changed or revoked."""

from django.db import migrations

TRIGGER = """
CREATE FUNCTION modelport_notify_gateways() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('modelport_gateway', TG_TABLE_NAME || ':' || COALESCE(NEW.id, OLD.id)::text);
    RETURN NULL;
END $$;
CREATE TRIGGER notify_gateways
    AFTER INSERT OR DELETE OR UPDATE OF kind, models_allowed, expires_at, revoked_at
    ON accounts_apikey FOR EACH ROW EXECUTE FUNCTION modelport_notify_gateways();
"""
UNDO = """
DROP TRIGGER notify_gateways ON accounts_apikey;
DROP FUNCTION modelport_notify_gateways();
"""


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [migrations.RunSQL(TRIGGER, UNDO)]
