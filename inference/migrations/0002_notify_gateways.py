"""Tells the gateways at once where each instance can be reached."""

from django.db import migrations

TRIGGER = """
CREATE TRIGGER notify_gateways
    AFTER INSERT OR DELETE OR UPDATE OF name, engine, settings, desired, state, deleted_at
    ON inference_instance FOR EACH ROW EXECUTE FUNCTION modelport_notify_gateways();
CREATE TRIGGER notify_gateways
    AFTER INSERT OR DELETE OR UPDATE OF state, address, context_length
    ON inference_replica FOR EACH ROW EXECUTE FUNCTION modelport_notify_gateways();
"""
UNDO = """
DROP TRIGGER notify_gateways ON inference_replica;
DROP TRIGGER notify_gateways ON inference_instance;
"""


class Migration(migrations.Migration):
    dependencies = [("inference", "0001_initial"), ("accounts", "0002_notify_gateways")]

    operations = [migrations.RunSQL(TRIGGER, UNDO)]
