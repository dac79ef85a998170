"""A tenant reads the engine's log, and not where things lie on the machine."""

import re

import pytest
from django.test import Client

from accounts.models import ApiKey, Organization, User
from inference import engine_log, reconciler
from inference.models import Instance, Replica
from inference.provisioners.base import Handle, LogChunk
from inference.provisioners.fake import FakeProvisioner
from tests.inference.making import a_wish, rounds

LOG = "".join(
    f"INFO line {number} from /srv/modelport/engines/vllm-cpu/lib/vllm/v1/core-{number}.py:12 é\n"
    for number in range(40)
)
TOLD = LOG.replace("/srv/modelport/engines/vllm-cpu/lib/vllm/v1/", "…/")


class Place(FakeProvisioner):
    """Its logs are bytes, as real ones are, and a step through them may be made short."""

    most = 1 << 20

    def logs(self, handle: Handle, *, offset: int | None = None, limit: int = 65536) -> LogChunk:
        whole = self.replicas[handle.replica_id].log.encode()
        limit = min(limit, self.most)
        start = max(0, len(whole) - limit) if offset is None else min(offset, len(whole))
        data = whole[start : start + limit]
        return LogChunk(data.decode(errors="replace"), start + len(data))


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place()
    monkeypatch.setattr(reconciler, "provisioner", lambda: place)
    return place


@pytest.fixture
def instance(acme: Organization, alice: User, place: Place) -> Instance:
    made = rounds(reconciler.Reconciler(place), a_wish(acme, alice))
    write(place, made, LOG)
    return made


def write(place: Place, instance: Instance, text: str) -> Replica:
    replica = instance.replicas.get()
    place.replicas[str(replica.id)].log = text
    return replica


def test_the_page_the_filter_and_the_download_show_no_paths(
    alice_client: Client, instance: Instance
) -> None:
    tab = f"{instance.get_absolute_url()}logs/"
    for url in (tab, f"{tab}?q=core-7.py", f"{tab}download/"):
        page = alice_client.get(url).content.decode()
        assert "…/core-7.py" in page
        assert "/srv/" not in page
    assert "No line has these words." in alice_client.get(f"{tab}?q=srv").content.decode()


@pytest.mark.parametrize("most", [1 << 20, 97, 71])
def test_steps_of_any_length_make_the_whole_log(
    instance: Instance, place: Place, most: int
) -> None:
    replica = instance.replicas.get()
    place.most = max(most, len(LOG.splitlines()[-1].encode()) + 2)
    text, offset = "", 0
    while (chunk := engine_log.after(replica, offset)).text:
        text, offset = text + chunk.text, chunk.next_offset
    assert text == TOLD
    place.most = most
    assert "".join(engine_log.whole(replica)) == TOLD


def test_no_offset_shows_a_path_or_a_piece_of_one(instance: Instance) -> None:
    replica = instance.replicas.get()
    for offset in range(0, 400):
        assert not re.search(r"srv|modelport|vllm", engine_log.after(replica, offset).text)


def test_a_line_comes_when_it_is_whole_or_over(instance: Instance, place: Place) -> None:
    replica = write(place, instance, "one\nsee /srv/mod")
    for look in (engine_log.end(replica), engine_log.after(replica, 0)):
        assert (look.text, look.next_offset) == ("one\n", 4)
    assert engine_log.after(replica, 4) == LogChunk("", 4)
    write(place, instance, "one\nsee /srv/modelport/x.py\n")
    assert engine_log.after(replica, 4).text == "see …/x.py\n"
    write(place, instance, "one\nsee /srv/modelport/x.py")
    replica.state = Replica.State.GONE
    assert engine_log.after(replica, 4).text == "see …/x.py"


def test_over_rest_the_log_and_the_sentences_have_no_paths(
    client: Client, acme: Organization, alice: User, instance: Instance
) -> None:
    _, key = ApiKey.issue(acme, alice, "ci", kind=ApiKey.Kind.MANAGEMENT)
    headers = {"Authorization": f"Bearer {key}"}
    Instance.objects.update(message="The disk of /srv/modelport/models is full.")
    instance.note("failed", "The disk of /srv/modelport/models is full.")
    url = f"/api/v1/organizations/acme/instances/{instance.id}/"
    for part in ("", "logs/", "logs/?offset=0", "events/"):
        answer = client.get(f"{url}{part}", headers=headers)
        assert answer.status_code == 200, answer.content
        assert "…/" in answer.json().__repr__()
        assert b"/srv/" not in answer.content


def test_operators_read_it_as_it_is(alice_client: Client, alice: User, instance: Instance) -> None:
    alice.is_staff = alice.is_superuser = True
    alice.save()
    Replica.objects.update(state="gone", end_reason="crashed", start_log=LOG, ready_at=None)
    page = alice_client.get(f"/ops/failures/{instance.replicas.get().id}/").content.decode()
    assert "/srv/modelport/engines/" in page
