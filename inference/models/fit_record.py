from typing import ClassVar

from django.db import models

from inference.models.replica import Replica


class FitRecord(models.Model):
    """What was estimated before a start, and what the engine then measured. Sizes in bytes.

    Knows no tenant: a model's size on a kind of machine is nobody's secret.
    """

    replica = models.OneToOneField(
        Replica, on_delete=models.CASCADE, primary_key=True, related_name="fit_record"
    )
    engine = models.CharField(max_length=32)
    architecture = models.CharField(max_length=120)
    dtype = models.CharField(max_length=32, blank=True)
    quantization = models.CharField(max_length=120, blank=True)
    gpu_type = models.CharField(max_length=120, blank=True)  # empty: main memory
    gpu_count = models.PositiveSmallIntegerField(default=0)
    estimated = models.JSONField(default=dict)  # inference.fit's own figures
    measured = models.JSONField(default=dict)  # inference.measured.Measured's
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-at"]

    def __str__(self) -> str:
        return f"{self.architecture} on {self.gpu_count} × {self.gpu_type or 'CPU'}"
