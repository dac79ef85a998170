from typing import ClassVar

from django.db import models
from django.utils import timezone

from inference.models.replica import Replica


class FitRecord(models.Model):
    """What was estimated of a start and what the engine then said. Bytes are those of one GPU, or
    of the machine where it has none; tokens and requests those of one copy of the model.

    Written when a replica is ready for the first time; the estimate, for which the model's card is
    needed, follows a little later (`inference.fit_records`). It is before any correction, so that
    one is learnt from what was wrong, not from what was mended. None: not known. It belongs to
    the house, not to a tenant: it has numbers of hardware and architectures, and nothing else.
    """

    replica = models.OneToOneField(
        Replica, on_delete=models.CASCADE, primary_key=True, related_name="fit_record"
    )
    engine = models.CharField(max_length=32)
    engine_version = models.CharField(max_length=64, blank=True)
    architecture = models.CharField(max_length=120, blank=True)  # "LlamaForCausalLM"
    # As they were asked for; the quantization is that of the files where they have one.
    dtype = models.CharField(max_length=32)
    quantization = models.CharField(max_length=120)
    kv_dtype = models.CharField(max_length=32)
    gpu_type = models.CharField(max_length=120, blank=True)  # empty: it runs in main memory
    gpu_count = models.PositiveSmallIntegerField(default=0)
    context_length = models.PositiveIntegerField(null=True)  # tokens, as the engine serves it
    memory_bytes = models.BigIntegerField(null=True)
    available_bytes = models.BigIntegerField(null=True)  # of it, the engine's share

    estimated_weight_bytes = models.BigIntegerField(null=True)
    estimated_overhead_bytes = models.BigIntegerField(null=True)
    estimated_request_bytes = models.BigIntegerField(null=True)  # KV cache of one whole context
    estimated_kv_bytes_per_token = models.BigIntegerField(null=True)
    estimated_kv_tokens = models.BigIntegerField(null=True)
    estimated_concurrency = models.FloatField(null=True)  # requests of the whole context

    measured_weight_bytes = models.BigIntegerField(null=True)
    measured_kv_cache_bytes = models.BigIntegerField(null=True)
    measured_kv_tokens = models.BigIntegerField(null=True)
    measured_concurrency = models.FloatField(null=True)

    # By how much the tokens that people were told there is room for, all corrections applied, were
    # too many: 0.1 is 10 %.
    error = models.FloatField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    estimated_at = models.DateTimeField(null=True)  # None: it has not been tried yet

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["-created_at"], name="fit_records_by_time"),
            models.Index(
                fields=["created_at"],
                condition=models.Q(estimated_at=None),
                name="fit_records_to_estimate",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.architecture or self.engine} on {self.gpu_type or 'CPU'}"
