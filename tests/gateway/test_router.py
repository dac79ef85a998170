"""Which way a request goes: names, tiers, weights, replicas, and who is left alone for a while."""

from collections import Counter
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inference.gateway import router
from inference.gateway.errors import Refusal
from inference.gateway.tables import Instance, Key, Provider, Replica, Route, Target
from portal.lib.ids import uuid7

ORG = uuid7().bytes
NOW = datetime.now(UTC)
CHAT = "chat/completions"


def key(*models):
    return Key(uuid7().bytes, ORG, "api", frozenset(models), None)


def instance(name, replicas=1, **given):
    fields = {"state": "ready", "endpoints": frozenset({CHAT}), "created_at": NOW} | given
    made = Instance(uuid7().bytes, ORG, name, **fields)
    made.replicas = [Replica(uuid7().bytes, made.id, f"unix:/{i}", 1) for i in range(replicas)]
    return made


def own(made, tier=0, weight=1):
    return Target(made.id, None, "", tier, weight)


def theirs(provider, tier=0, weight=1):
    return Target(None, provider.id, "gpt-x", tier, weight)


def tables(*instances, providers=(), **routes):
    return SimpleNamespace(
        instances={(ORG, i.name): i for i in instances},
        instances_by_id={i.id: i for i in instances},
        providers={p.id: p for p in providers},
        routes={
            (ORG, name): Route(uuid7().bytes, ORG, name, leave, NOW, tuple(targets))
            for name, (targets, leave) in routes.items()
        },
    )


def provider(name="elsewhere"):
    return Provider(uuid7().bytes, ORG, name, "https://api.example/v1", "sk")


def names(ways):
    return [way.instance.name if way.instance else way.provider.name for way in ways]


def plan(tables, model, endpoint=CHAT, draw=lambda: 0.5, by=None):
    return router.plan(tables, by or key(), model, endpoint, draw)


def test_an_instance_goes_by_its_own_name():
    demo = instance("demo")
    assert names(plan(tables(demo), "demo")) == ["demo"]


def test_a_chain_is_tried_tier_by_tier():
    a, b, c = instance("a"), instance("b"), instance("c")
    made = tables(a, b, c, chain=([own(c, 2), own(a, 0), own(b, 1)], False))
    assert names(plan(made, "chain")) == ["a", "b", "c"]


def test_weights_share_the_traffic_within_a_tier():
    a, b = instance("a"), instance("b")
    made = tables(a, b, split=([own(a, weight=9), own(b, weight=1)], False))
    draw = Random(7).random  # noqa: S311
    first = Counter(names(plan(made, "split", draw=draw))[0] for _ in range(5000))
    assert 0.87 < first["a"] / 5000 < 0.93


def test_who_is_not_ready_is_passed_over_and_the_first_reason_told_if_none_is():
    a, b = instance("a", 0, state="loading"), instance("b")
    made = tables(a, b, chain=([own(a), own(b, 1)], False))
    assert names(plan(made, "chain")) == ["b"]
    b.wanted = False
    with pytest.raises(Refusal, match="`a` is loading its model"):
        plan(made, "chain")


def test_data_leaves_only_where_that_is_allowed():
    a, out = instance("a"), provider()
    targets = [own(a), theirs(out, 1)]
    assert names(plan(tables(a, providers=[out], r=(targets, False)), "r")) == ["a"]
    assert names(plan(tables(a, providers=[out], r=(targets, True)), "r")) == ["a", "elsewhere"]
    a.replicas = []  # not ready is no leave either
    with pytest.raises(Refusal) as refused:
        plan(tables(a, providers=[out], r=(targets, False)), "r")
    assert refused.value.status == 503
    alone = tables(providers=[out], r=([theirs(out)], False))
    assert names(plan(alone, "r")) == ["elsewhere"]


def test_a_provider_has_no_endpoints_of_engines_alone():
    out = provider()
    with pytest.raises(Refusal) as refused:
        plan(tables(providers=[out], r=([theirs(out)], False)), "r", "rerank")
    assert refused.value.status == 404


def test_a_key_for_one_name_gets_no_other():
    a = instance("a")
    made = tables(a, alias=([own(a)], False))
    assert names(plan(made, "alias", by=key("alias"))) == ["a"]
    with pytest.raises(Refusal) as refused:
        plan(made, "a", by=key("alias"))
    assert refused.value.code == "model_not_found"


def test_a_conversation_returns_to_its_replica_unless_that_is_much_busier():
    made = instance("demo", 3)
    preferred = router.pick(made, 42, 0.0, frozenset())
    assert all(router.pick(made, 42, 0.0, frozenset()) is preferred for _ in range(5))
    assert len({router.pick(made, n, 0.0, frozenset()).id for n in range(50)}) == 3
    preferred.outstanding = 9
    assert router.pick(made, 42, 0.0, frozenset()) is not preferred


def test_without_affinity_the_least_busy_one_answers():
    made = instance("demo", 3)
    made.replicas[0].outstanding = made.replicas[2].outstanding = 2
    assert router.pick(made, None, 0.0, frozenset()) is made.replicas[1]


def test_the_only_replica_is_asked_however_it_fares():
    made = instance("demo")
    for _ in range(20):
        router.failed(made.replicas[0], 0.0)
    assert router.pick(made, None, 0.0, frozenset()) is made.replicas[0]
    assert router.pick(made, None, 0.0, {made.replicas[0].id}) is None


class Breakers(RuleBasedStateMachine):
    """Replicas that fail and recover while time goes on."""

    def __init__(self):
        super().__init__()
        self.instance = instance("demo", 3)
        self.now = 100.0
        self.asked = []

    @rule(affinity=st.none() | st.integers(0, 9))
    def ask(self, affinity):
        well = [r for r in self.instance.replicas if r.open_until <= self.now]
        picked = router.pick(self.instance, affinity, self.now, frozenset())
        assert not well or picked in well
        picked.outstanding += 1
        self.asked.append(picked)

    @precondition(lambda self: self.asked)
    @rule(ok=st.booleans())
    def answer(self, ok):
        replica = self.asked.pop(0)
        replica.outstanding -= 1
        if ok:
            router.succeeded(replica)
        else:
            router.failed(replica, self.now)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def a_probe_goes_alone(self):
        for replica in self.instance.replicas:
            if replica.failures >= router.FAILURES_TO_OPEN and replica.open_until <= self.now:
                others = {r.id for r in self.instance.replicas if r is not replica}
                self.instance.replicas.append(Replica(uuid7().bytes, b"", "unix:/x", 1))
                assert router.pick(self.instance, None, self.now, others) is not None
                self.instance.replicas.pop()

    @invariant()
    def nobody_is_shut_out_for_ever(self):
        longest = self.now + router.LONGEST_OPEN
        assert all(r.open_until <= longest for r in self.instance.replicas)
        assert all(r.outstanding >= 0 for r in self.instance.replicas)


TestBreakers = Breakers.TestCase
TestBreakers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
