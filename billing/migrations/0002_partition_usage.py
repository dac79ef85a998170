from django.db import migrations, models

# Django cannot declare a partitioned table, so the table that it made is replaced while it is empty.
# CHECKs and the primary key come along by LIKE, the foreign key does not. The default partition
# takes what no other does: a usage row is never refused for want of a partition.
PARTITION = """
ALTER TABLE billing_usage RENAME TO billing_usage_plain;
CREATE TABLE billing_usage (LIKE billing_usage_plain INCLUDING ALL)
    PARTITION BY RANGE (request_id);
DROP TABLE billing_usage_plain;
ALTER TABLE billing_usage ADD CONSTRAINT billing_usage_organization_fk
    FOREIGN KEY (organization_id) REFERENCES accounts_organization (id)
    DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE billing_usage_default PARTITION OF billing_usage DEFAULT;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]

    operations = [
        migrations.RunSQL(PARTITION, migrations.RunSQL.noop),
        migrations.AddIndex(
            "usageevent",
            models.Index(fields=["organization", "-request_id"], name="usage_by_organization"),
        ),
    ]
