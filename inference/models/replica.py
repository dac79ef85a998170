from django.db import models

from accounts.tenancy import TenantQuerySet
from inference.models.instance import Instance
from inference.models.revision import InstanceRevision
from portal.lib.ids import uuid7


class Replica(models.Model):
    """One engine process group serving an instance: what the reconciler asked a provisioner for.

    The gateway sends requests to replicas in state `ready`, at `address`
    (`unix:/path/engine.sock`, or `http://host:port` where a cluster gives one).
    """

    class State(models.TextChoices):
        STARTING = "starting"
        READY = "ready"
        ASLEEP = "asleep"  # its engine stays at hand and holds no GPU
        STOPPING = "stopping"
        GONE = "gone"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.PROTECT, related_name="+"
    )
    instance = models.ForeignKey(Instance, on_delete=models.PROTECT, related_name="replicas")
    generation = models.PositiveIntegerField()
    index = models.PositiveSmallIntegerField(default=0)  # which of the instance's replicas
    revision = models.ForeignKey(
        InstanceRevision, on_delete=models.PROTECT, null=True, related_name="replicas"
    )
    provisioner = models.CharField(max_length=16, default="local")
    handle = models.JSONField(null=True)  # what the provisioner needs to find it again
    state = models.CharField(max_length=16, choices=State, default=State.STARTING)
    address = models.CharField(max_length=255, blank=True)
    engine_version = models.CharField(max_length=64, blank=True)
    context_length = models.PositiveIntegerField(null=True)  # tokens, as the engine serves it
    chats = models.BooleanField(null=True)  # None: whether the model has a chat template is unknown
    node = models.CharField(max_length=253, blank=True, default="")  # the machine's name
    gpu_type = models.CharField(max_length=120, blank=True, default="")
    gpu_indices = models.JSONField(default=list)
    adapters = models.JSONField(default=list)  # ids of those that it has loaded
    # What the engine said of itself at its start; None: it said nothing.
    kv_cache_tokens = models.BigIntegerField(null=True)
    max_concurrency = models.FloatField(null=True)  # requests of full context at a time
    weight_bytes = models.BigIntegerField(null=True)
    kv_cache_bytes = models.BigIntegerField(null=True)
    idle_since = models.DateTimeField(null=True)  # None: it computes, or nothing is known
    sampled_at = models.DateTimeField(null=True)  # when its figures were last taken down
    # What the readiness probe consumed; the engine's counters have it, no tenant pays for it.
    probe_prompt_tokens = models.PositiveIntegerField(default=0)
    probe_completion_tokens = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    ready_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=32, blank=True)
    exit_code = models.IntegerField(null=True)
    end_message = models.TextField(blank=True, default="")
    start_log = models.TextField(blank=True, default="")  # the end of it, of a start that failed

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["instance", "generation", "index"],
                condition=~models.Q(state="gone"),
                name="one_live_replica_per_place",
            )
        ]

    def __str__(self) -> str:
        return f"{self.instance} · generation {self.generation}.{self.index}"
