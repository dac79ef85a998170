"""The place where this installation's engines run, and how it is told what to run."""

import msgspec
from django.conf import settings

from inference import catalog, folders
from inference.models import Adapter, Instance, InstanceRevision, Replica
from inference.provisioners.base import AdapterSpec, Draft, Handle, Provisioner, Spec
from inference.provisioners.local import LocalProvisioner


def provisioner() -> Provisioner:
    """A client of the place; making one contacts nobody."""
    return LocalProvisioner(settings.ENV.node_socket)


def handle_of(replica: Replica) -> Handle:
    """How the provisioner finds it; the row's own ids where it has not answered yet."""
    if replica.handle is not None:
        return msgspec.convert(replica.handle, Handle)
    return Handle(
        provisioner=replica.provisioner,
        replica_id=str(replica.id),
        instance_id=str(replica.instance_id),
        generation=replica.generation,
    )


def spec_of(instance: Instance, replica: Replica) -> Spec:
    """What should run: the replica's own revision. Raises HubError where a local folder is gone."""
    revision = replica.revision or instance
    path = catalog.model_path(revision.model_source, revision.model_id)
    token = None
    if Instance.Source.HUB in {revision.model_source, revision.draft_source}:
        token = catalog.hub_token(instance.organization)
    return Spec(
        replica_id=str(replica.id),
        instance_id=str(instance.id),
        generation=replica.generation,
        engine=revision.engine,
        model_source=revision.model_source,
        model_id=revision.model_id,
        model_revision=revision.model_revision,
        model_file=revision.model_file,
        model_path=str(path or ""),
        draft=_draft_of(revision),
        served_model_name=instance.name,
        settings=revision.settings,
        gpu_count=revision.gpu_count,
        hub_token=token or "",
    )


def _draft_of(revision: InstanceRevision | Instance) -> Draft | None:
    if not revision.draft_id:
        return None
    path = catalog.model_path(revision.draft_source, revision.draft_id)
    return Draft(
        source=revision.draft_source,
        model_id=revision.draft_id,
        revision=revision.draft_revision,
        path=str(path or ""),
    )


def adapter_spec_of(adapter: Adapter, instance: Instance) -> AdapterSpec:
    """What should be loaded. Of a folder that is gone the place will say so."""
    path = folders.adapter_folders().get(adapter.model_id) if adapter.source == "local" else None
    token = catalog.hub_token(instance.organization) if adapter.source == "hub" else None
    return AdapterSpec(
        adapter_id=str(adapter.id),
        name=adapter.name,
        source=adapter.source,
        model_id=adapter.model_id,
        model_revision=adapter.model_revision,
        path=str(path or ""),
        hub_token=token or "",
    )
