from django.db import migrations, models

SOURCES = [("bundled", "Bundled"), ("local", "Local folder"), ("hub", "Hugging Face")]


def source() -> "models.CharField[str, str]":
    return models.CharField(blank=True, choices=SOURCES, default="", max_length=16)


class Migration(migrations.Migration):
    dependencies = [("inference", "0008_adapters")]

    operations = [
        migrations.AddField(model_name="instance", name="draft_source", field=source()),
        migrations.AddField(
            model_name="instance",
            name="draft_id",
            field=models.CharField(
                blank=True, default="", max_length=512, verbose_name="draft model"
            ),
        ),
        migrations.AddField(
            model_name="instance",
            name="draft_revision",
            field=models.CharField(blank=True, default="", max_length=64),
        ),
        migrations.AddField(model_name="instancerevision", name="draft_source", field=source()),
        migrations.AddField(
            model_name="instancerevision",
            name="draft_id",
            field=models.CharField(blank=True, default="", max_length=512),
        ),
        migrations.AddField(
            model_name="instancerevision",
            name="draft_revision",
            field=models.CharField(blank=True, default="", max_length=64),
        ),
    ]
