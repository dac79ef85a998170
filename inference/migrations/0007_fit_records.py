import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("inference", "0006_replica_asleep"),
    ]

    operations = [
        migrations.CreateModel(
            name="FitRecord",
            fields=[
                (
                    "replica",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="fit_record",
                        serialize=False,
                        to="inference.replica",
                    ),
                ),
                ("engine", models.CharField(max_length=32)),
                ("engine_version", models.CharField(blank=True, max_length=64)),
                ("architecture", models.CharField(blank=True, max_length=120)),
                ("dtype", models.CharField(max_length=32)),
                ("quantization", models.CharField(max_length=120)),
                ("kv_dtype", models.CharField(max_length=32)),
                ("gpu_type", models.CharField(blank=True, max_length=120)),
                ("gpu_count", models.PositiveSmallIntegerField(default=0)),
                ("context_length", models.PositiveIntegerField(null=True)),
                ("memory_bytes", models.BigIntegerField(null=True)),
                ("available_bytes", models.BigIntegerField(null=True)),
                ("estimated_weight_bytes", models.BigIntegerField(null=True)),
                ("estimated_overhead_bytes", models.BigIntegerField(null=True)),
                ("estimated_request_bytes", models.BigIntegerField(null=True)),
                ("estimated_kv_bytes_per_token", models.BigIntegerField(null=True)),
                ("estimated_kv_tokens", models.BigIntegerField(null=True)),
                ("estimated_concurrency", models.FloatField(null=True)),
                ("measured_weight_bytes", models.BigIntegerField(null=True)),
                ("measured_kv_cache_bytes", models.BigIntegerField(null=True)),
                ("measured_kv_tokens", models.BigIntegerField(null=True)),
                ("measured_concurrency", models.FloatField(null=True)),
                ("error", models.FloatField(null=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("estimated_at", models.DateTimeField(null=True)),
            ],
            options={
                "indexes": [
                    models.Index(fields=["-created_at"], name="fit_records_by_time"),
                    models.Index(
                        condition=models.Q(("estimated_at", None)),
                        fields=["created_at"],
                        name="fit_records_to_estimate",
                    ),
                ],
            },
        ),
    ]
