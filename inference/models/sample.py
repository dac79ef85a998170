from typing import ClassVar

from django.db import models

from accounts.tenancy import TenantQuerySet
from inference.models.instance import Instance
from inference.models.replica import Replica


class MetricSample(models.Model):
    """What the engines of an instance did in a minute, and again in an hour: pages of a day read
    minutes, pages of a month hours. Replicas are added up; gauges are means and highest values of
    the looks (`inference.samples`).
    """

    class Span(models.IntegerChoices):
        MINUTE = 1
        HOUR = 60

    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.CASCADE, related_name="+"
    )
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="samples")
    span = models.PositiveSmallIntegerField(choices=Span)
    at = models.DateTimeField()  # its beginning
    prompt_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)
    requests = models.BigIntegerField(default=0)
    preemptions = models.BigIntegerField(default=0)
    prefix_queries = models.BigIntegerField(default=0)
    prefix_hits = models.BigIntegerField(default=0)
    cpu_seconds = models.FloatField(default=0)
    watched_seconds = models.FloatField(default=0)  # of its replicas, that the counts stand for
    looks = models.PositiveIntegerField(default=0)  # at a replica; sums of gauges are over them
    running_sum = models.FloatField(default=0)
    running_max = models.PositiveIntegerField(default=0)
    waiting_sum = models.FloatField(default=0)
    waiting_max = models.PositiveIntegerField(default=0)
    kv_looks = models.PositiveIntegerField(default=0)
    kv_sum = models.FloatField(default=0)
    kv_max = models.FloatField(default=0)
    gpu_looks = models.PositiveIntegerField(default=0)  # at a GPU
    gpu_utilization_sum = models.FloatField(default=0)
    gpu_memory_sum = models.FloatField(default=0)  # parts of each GPU's memory
    memory_max = models.BigIntegerField(default=0)  # bytes, resident, of one replica
    ttft = models.JSONField(default=dict)  # histograms, as `inference.histograms` stores them
    itl = models.JSONField(default=dict)
    e2e = models.JSONField(default=dict)
    queue_time = models.JSONField(default=dict)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["instance", "span", "at"], name="one_sample_per_span")
        ]
        indexes: ClassVar = [models.Index(fields=["at"], name="samples_by_age")]

    def __str__(self) -> str:
        return f"{self.instance} at {self.at:%F %T}"


class LastLook(models.Model):
    """What a replica's engine had counted when it was last looked at, to tell what is new."""

    replica = models.OneToOneField(
        Replica, on_delete=models.CASCADE, primary_key=True, related_name="last_look"
    )
    at = models.DateTimeField()
    figures = models.JSONField()

    def __str__(self) -> str:
        return f"{self.replica} at {self.at:%F %T}"
