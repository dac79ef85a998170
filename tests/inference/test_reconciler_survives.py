"""Whatever people ask, whatever dies, wherever the reconciler is killed: the promises hold.

A state machine plays a person, an unkind machine and a killer of reconcilers against the in-memory
place, and looks after each step whether there is a second engine, a request to an engine that is
not ready, or a deleted instance that still runs.

Ten thousand steps, after a change to the reconciler itself (half an hour on a slow machine):

    EXAMPLES=500 pytest tests/inference/test_reconciler_survives.py --timeout=7200
"""

import contextlib
import os
from collections.abc import Collection
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Count
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Step
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from accounts.models import Organization, User
from inference import demo
from inference.lifecycle import Desired, InstanceState
from inference.models import Instance, Node, Replica, ServingInterval
from inference.provisioners.base import Phase, Reason
from inference.provisioners.fake import FakeProvisioner
from inference.reconciler import Reconciler, crashes

REASONS = [
    Reason.CRASHED,
    Reason.OUT_OF_MEMORY,
    Reason.LOAD_TIMEOUT,
    Reason.NODE_LOST,
    Reason.INSUFFICIENT_CAPACITY,
]
DEADLY = [Reason.CRASHED, Reason.OUT_OF_MEMORY]  # where the engine itself is at fault
WHICH = st.integers(0, 1)
TOKENS = st.sampled_from([256, 512, 1024])
QUICK = 12
EXAMPLES = int(os.environ.get("EXAMPLES", QUICK))  # more when the reconciler itself was changed
ENOUGH = 20  # rounds in which anything must have come to rest
AT_REST = 3  # rounds in a row without anything on its way


class Killed(BaseException):
    """As a process ends: no handler runs but what a database does by itself."""


class Lethal:
    """Kills the reconciler at its n-th step; a step is a statement, or either side of a call."""

    def __init__(self, place: FakeProvisioner) -> None:
        self.place = place
        self.left: int | None = None
        self.after_call = ""

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def statement(self, execute: Any, sql: str, *args: Any) -> Any:
        # A database that is left alone undoes what was not committed: Django's part here is that.
        if not sql.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK")):
            self.step()
        return execute(sql, *args)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.place, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.step()
            answer = method(*args, **kwargs)
            if name == self.after_call:
                raise Killed
            self.step()
            return answer

        return call


class Life(RuleBasedStateMachine):
    acme: ClassVar[Organization]
    alice: ClassVar[User]

    def __init__(self) -> None:
        super().__init__()
        self.example = transaction.atomic()
        self.example.__enter__()
        self.place = FakeProvisioner(gpus=1)
        self.lethal = Lethal(self.place)
        self.made: list[Instance] = []
        self.away: dict[str, Any] = {}  # engines that the machine has forgotten for now
        self.returned: set[str] = set()
        self.scaled: set[UUID] = set()

    def teardown(self) -> None:
        try:
            self.comes_to_rest()
        finally:
            transaction.set_rollback(True)
            self.example.__exit__(None, None, None)

    @initialize(gpus=st.sampled_from([0, 0, 1]), looks=st.sampled_from([0, 2, 5, 5]))
    def begin(self, gpus: int, looks: int) -> None:
        self.ask(gpus)
        self.look(looks)

    # A person

    @precondition(lambda self: len(self.made) == 1)
    @rule(gpus=st.integers(0, 1))
    def ask(self, gpus: int) -> None:
        made = Instance.request(
            self.acme,
            self.alice,
            name=f"demo-{len(self.made)}",
            model_source="bundled",
            model_id=demo.MODEL_ID,
            model_revision="0" * 40,
            gpu_count=gpus,
        )
        self.made.append(made)

    @rule(which=WHICH, looks=st.integers(0, 5))
    def start(self, which: int, looks: int) -> None:
        self.chosen(which).request_start(self.alice)
        self.look(looks)

    @rule(which=WHICH, looks=st.integers(0, 5))
    def stop(self, which: int, looks: int) -> None:
        self.chosen(which).request_stop(self.alice)
        self.look(looks)

    @rule(which=WHICH, looks=st.integers(0, 5))
    def restart(self, which: int, looks: int) -> None:
        self.chosen(which).request_restart(self.alice)
        self.look(looks)

    @rule(which=WHICH, looks=st.integers(0, 5), at_once=st.booleans(), tokens=TOKENS)
    def change(self, which: int, looks: int, at_once: bool, tokens: int) -> None:
        with contextlib.suppress(ValidationError):  # deleted, or like that already
            chosen = self.chosen(which)
            chosen.change(self.alice, settings={"max_model_len": tokens}, at_once=at_once)
        self.look(looks)

    @rule(which=WHICH, looks=st.integers(0, 5), count=st.integers(1, 3))
    def scale(self, which: int, looks: int, count: int) -> None:
        self.scaled.add(self.chosen(which).id)
        self.chosen(which).set_replicas(self.alice, count)
        self.look(looks)

    @rule(which=WHICH, looks=st.integers(0, 5), wakes=st.booleans())
    def sleep_or_wake(self, which: int, looks: int, wakes: bool) -> None:
        chosen = self.chosen(which)
        chosen.request_wake(None) if wakes else chosen.request_sleep(self.alice)
        self.look(looks)

    @rule(looks=st.integers(0, 5), verb=st.sampled_from(["cordon", "drain"]))
    def operator_works_on_the_machine(self, looks: int, verb: str) -> None:
        for node in Node.objects.all():
            getattr(node, verb)()
        self.look(looks)
        for node in Node.objects.all():
            node.open()

    @rule(which=WHICH, looks=st.integers(0, 5))
    def delete(self, which: int, looks: int) -> None:
        self.chosen(which).request_delete(self.alice)
        self.look(looks)

    # The machine

    @precondition(lambda self: self.up())
    @rule(data=st.data(), reason=st.sampled_from(REASONS))
    def engine_dies(self, data: st.DataObject, reason: Reason) -> None:
        self.place.crash(data.draw(st.sampled_from(self.up())), reason=reason)

    @rule(which=WHICH, times=st.integers(1, 8), reason=st.sampled_from(DEADLY))
    def engine_dies_whenever_it_is_ready(self, which: int, times: int, reason: Reason) -> None:
        chosen = self.chosen(which)
        for _ in range(times):
            self.look(4)
            for replica in chosen.replicas.filter(state=Replica.State.READY):
                if str(replica.id) in self.place.replicas:
                    self.place.crash(str(replica.id), reason=reason)

    @precondition(lambda self: self.up())
    @rule(data=st.data())
    def machine_forgets(self, data: st.DataObject) -> None:
        del self.place.replicas[data.draw(st.sampled_from(self.up()))]

    @precondition(lambda self: self.up())
    @rule(data=st.data(), looks=st.integers(0, 4))
    def machine_forgets_for_a_while(self, data: st.DataObject, looks: int) -> None:
        """Long enough, and another engine is started in the place of the one that comes back."""
        id = data.draw(st.sampled_from(self.up()))
        self.away[id] = self.place.replicas.pop(id)
        self.look(looks)

    @precondition(lambda self: self.away)
    @rule(looks=st.integers(0, 3))
    def machine_remembers(self, looks: int) -> None:
        self.place.replicas |= self.away
        self.returned |= self.away.keys()
        self.away.clear()
        self.look(looks)

    @rule(looks=st.integers(1, 2))
    def machine_is_away_for_a_while(self, looks: int) -> None:
        """It is only out of reach: what serves goes on serving."""
        serving = set(Replica.objects.filter(state=Replica.State.READY))
        self.place.unreachable = True
        self.look(looks)
        self.place.unreachable = False
        assert serving == set(Replica.objects.filter(state=Replica.State.READY))

    # The reconciler

    @rule(times=st.integers(1, 3))
    def look(self, times: int) -> None:
        for _ in range(times):
            self.round()
            self.at_most_one_engine_each()

    @rule(after=st.integers(0, 60))
    def look_and_be_killed(self, after: int) -> None:
        self.lethal.left = after
        self.look_and_die()

    @rule(call=st.sampled_from(["ensure", "ensure", "stop", "sleep", "wake", "delete"]))
    def be_killed_before_the_answer_is_kept(self, call: str) -> None:
        self.lethal.after_call = call
        self.look_and_die()

    def look_and_die(self) -> None:
        try:
            with connection.execute_wrapper(self.lethal.statement):
                self.round()
        except Killed:
            # The example is one transaction, which must outlive the reconciler's own.
            transaction.set_rollback(False)
        finally:
            self.lethal.left, self.lethal.after_call = None, ""

    # The promises

    @invariant()
    def at_most_one_engine_each(self) -> None:
        rows = Replica.objects.filter(id__in=self.meant())
        places = list(rows.values_list("instance_id", "generation", "index"))
        assert len(places) == len(set(places))

    @invariant()
    def no_gpu_is_promised_twice(self) -> None:
        assert self.held(self.meant()) <= self.place.gpus

    @invariant()
    def what_serves_is_billed_and_nothing_else(self) -> None:
        """That intervals never overlap is the database's to refuse."""
        billed = ServingInterval.objects.filter(ended_at=None).values_list("replica", flat=True)
        serving = Replica.objects.filter(state=Replica.State.READY).values_list("id", flat=True)
        assert sorted(billed) == sorted(serving)

    @invariant()
    def deleted_means_gone(self) -> None:
        running = {self.place.replicas[id].spec.instance_id for id in self.meant()}
        dead = Instance.objects.exclude(deleted_at=None).values_list("id", flat=True)
        assert not running & {str(id) for id in dead}

    @invariant()
    def what_dies_again_and_again_is_left_alone(self) -> None:
        """All of an example is within the window. Several replicas have hope for each other."""
        dead = Replica.objects.filter(state=Replica.State.GONE, end_reason__in=DEADLY)
        dead = dead.exclude(ready_at=None).exclude(instance__in=self.scaled)
        for row in dead.values("instance", "generation").annotate(count=Count("id")):
            assert row["count"] <= crashes.MOST

    @invariant()
    def only_what_was_seen_ready_serves(self) -> None:
        for replica in Replica.objects.filter(state=Replica.State.READY):
            known = self.place.replicas.get(str(replica.id))
            # What died since the last look is told by the next one; what was never up may not be.
            assert known is None or known.step == 3
            assert replica.address

    def comes_to_rest(self) -> None:
        """With the machine in reach and nobody meddling, what is wanted comes about."""
        quiet = 0
        for _ in range(ENOUGH):
            quiet = 0 if self.round() else quiet + 1
            self.at_most_one_engine_each()
            if quiet == AT_REST:
                break
        for instance in self.made:
            instance.refresh_from_db()
        for instance in self.made:
            if instance.desired == Desired.DELETED:
                assert instance.deleted_at is not None
            elif self.waits_for_the_gpu(instance):
                full = Reason.INSUFFICIENT_CAPACITY
                assert full in {instance.reason, instance.rollout_reason}
            else:
                assert instance.is_settled
                if instance.state == InstanceState.FAILED:
                    assert instance.message
                if instance.state == InstanceState.READY:
                    assert self.engines(instance) == instance.replica_count
        holding = {InstanceState.READY, InstanceState.DEGRADED}
        wanted = {str(i.id) for i in self.made if i.state in holding}
        awake = [id for id in self.up() if self.place.replicas[id].phase is not Phase.ASLEEP]
        assert {self.place.replicas[id].spec.instance_id for id in awake} == wanted
        for instance in self.made:
            if instance.state == InstanceState.STOPPED or instance.deleted_at is not None:
                assert not self.engines(instance)

    # Helpers

    def round(self) -> bool:
        # Pauses between attempts are over at once.
        past = timezone.now() - timedelta(seconds=1)
        Instance.objects.filter(retry_at__isnull=False).update(retry_at=past)
        return Reconciler(self.lethal).round()  # type: ignore[arg-type]

    def chosen(self, which: int) -> Instance:
        return self.made[which % len(self.made)]

    def up(self) -> list[str]:
        return [id for id, r in self.place.replicas.items() if r.phase is not Phase.EXITED]

    def meant(self) -> set[str]:
        """But for those which were given up for lost and have come back: they are being removed."""
        gone = Replica.objects.filter(id__in=self.returned, state=Replica.State.GONE)
        return set(self.up()) - {str(id) for id in gone.values_list("id", flat=True)}

    def held(self, ids: Collection[str]) -> int:
        """GPUs; one that is asleep has let go of its own."""
        replicas = [self.place.replicas[id] for id in ids]
        return sum(r.spec.gpu_count for r in replicas if r.phase is not Phase.ASLEEP)

    def engines(self, instance: Instance) -> int:
        mine = str(instance.id)
        return sum(self.place.replicas[id].spec.instance_id == mine for id in self.up())

    def waits_for_the_gpu(self, instance: Instance) -> bool:
        """The machine has one: another replica has it, of this instance or of another."""
        held = self.held(self.up())
        wants = instance.desired == Desired.RUNNING and instance.gpu_count > 0
        rolls = instance.rollout_reason == Reason.INSUFFICIENT_CAPACITY
        return wants and held == self.place.gpus and (rolls or not instance.is_settled)


def test_the_promises_hold_whatever_happens(acme: Organization, alice: User) -> None:
    Life.acme, Life.alice = acme, alice
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=20,
            deadline=None,
            database=None,
            phases=[Step.generate],
            derandomize=EXAMPLES == QUICK,
            suppress_health_check=list(HealthCheck),
        ),
    )
