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
        adapters={},
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


def test_an_instance_that_was_deleted_lets_no_data_leave_either():
    gone, out = instance("gone"), provider()
    targets = [own(gone), theirs(out, 1)]
    with pytest.raises(Refusal, match="`r` leads to nothing that may answer any more") as refused:
        plan(tables(providers=[out], r=(targets, False)), "r")
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    assert names(plan(tables(providers=[out], r=(targets, True)), "r")) == ["elsewhere"]


def test_of_one_tier_a_provider_that_was_drawn_first_may_be_asked():
    """To share traffic with a provider is leave for its share, and for no fall-back."""
    a, out = instance("a"), provider()
    made = tables(a, providers=[out], r=([own(a), theirs(out)], False))
    assert names(plan(made, "r", draw=iter([0.9, 0.1]).__next__)) == ["a"]
    assert names(plan(made, "r", draw=iter([0.1, 0.9]).__next__)) == ["elsewhere", "a"]


def test_every_target_of_a_tier_is_tried_once():
    made = [instance(f"i{n}") for n in range(5)]
    route = ([own(each, n // 3, 1 + n) for n, each in enumerate(made)], False)
    draw = Random(1).random  # noqa: S311
    for _ in range(20):
        ways = names(plan(tables(*made, r=route), "r", draw=draw))
        assert (sorted(ways[:3]), sorted(ways[3:])) == (["i0", "i1", "i2"], ["i3", "i4"])


@pytest.mark.parametrize("drawn", [0.0, 0.9999999999999999])
def test_the_ends_of_what_may_be_drawn_are_drawn_well(drawn):
    a, b = instance("a"), instance("b")
    made = tables(a, b, r=([own(a, weight=1000), own(b, weight=1)], False))
    assert sorted(names(plan(made, "r", draw=lambda: drawn))) == ["a", "b"]


def test_an_instance_s_name_wins_over_a_route_s():
    a, b = instance("a"), instance("b")
    assert names(plan(tables(a, b, a=([own(b)], False)), "a")) == ["a"]


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


def home_of(made, affinity):
    return router.pick(made, affinity, 0.0, frozenset())


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_conversations_are_shared_out_evenly(count):
    made = instance("demo", count)
    draw = Random(count).getrandbits  # noqa: S311
    homes = Counter(home_of(made, draw(32)).id for _ in range(4000))
    assert max(homes.values()) < 1.25 * 4000 / count
    assert min(homes.values()) > 0.75 * 4000 / count


def test_a_replica_that_leaves_or_joins_moves_no_conversation_but_its_own():
    made = instance("demo", 4)
    before = {n: home_of(made, n) for n in range(500)}
    left = made.replicas.pop(1)
    assert all(home_of(made, n) is home for n, home in before.items() if home is not left)
    made.replicas.append(Replica(uuid7().bytes, made.id, "unix:/new", 1))
    moved = [n for n, home in before.items() if home is not left and home_of(made, n) is not home]
    assert 0 < len(moved) < 250
    assert all(home_of(made, n) is made.replicas[-1] for n in moved)


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


def ill(*replicas, now=0.0):
    for replica in replicas:
        for _ in range(router.FAILURES_TO_OPEN):
            router.failed(replica, now)


def test_where_all_are_ill_the_one_is_asked_that_may_be_well_soonest():
    made = instance("demo", 3)
    ill(*made.replicas)
    router.failed(made.replicas[0], 0.0)  # for longer
    made.replicas[2].open_until -= 0.1
    assert router.pick(made, 7, 0.5, frozenset()) is made.replicas[2]
    assert router.pick(made, 7, 0.5, {made.replicas[2].id}) is made.replicas[1]


def test_one_request_alone_finds_out_whether_an_ill_one_is_well_again():
    made = instance("demo", 2)
    sick, well = made.replicas
    ill(sick)
    well.outstanding = 100
    later = sick.open_until + 1
    picked = [router.pick(made, None, later, frozenset()) for _ in range(5)]
    assert picked == [sick, well, well, well, well]
    router.succeeded(sick)
    assert router.pick(made, None, later, frozenset()) is sick


def test_whose_probe_fails_is_left_alone_for_longer_up_to_a_bound():
    made = instance("demo", 2)
    sick = made.replicas[0]
    ill(sick)
    left_alone = []
    for _ in range(8):
        now = sick.open_until
        router.failed(sick, now)
        left_alone.append(sick.open_until - now)
    assert left_alone == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]


def test_a_provider_is_probed_by_one_request_alone():
    out = provider()
    assert router.reachable(out, 0.0, frozenset()) is out
    assert router.reachable(out, 0.0, {out.id}) is None
    ill(out)
    assert router.reachable(out, 0.5, frozenset()) is None
    assert router.reachable(out, 1.0, frozenset()) is out
    assert router.reachable(out, 1.0, frozenset()) is None
    router.succeeded(out)
    assert router.reachable(out, 1.0, frozenset()) is out


class Breakers(RuleBasedStateMachine):
    """Replicas that come, go, fail and recover while requests are sent and time goes on."""

    def __init__(self):
        super().__init__()
        self.instance = instance("demo", 3)
        self.now = 100.0
        self.asked = []
        self.probed = {}  # who was ill and is being asked → until when nobody else may ask it

    @rule(affinity=st.none() | st.integers(0, 2**32 - 1), skip=st.integers(0, 3))
    def ask(self, affinity, skip):
        replicas = self.instance.replicas
        tried = {replica.id for replica in replicas[:skip]}
        left = [r for r in replicas if r.id not in tried]
        well = [r for r in left if r.open_until <= self.now]
        picked = router.pick(self.instance, affinity, self.now, tried)
        if not left:
            assert picked is None
            return
        assert picked in (well or left)
        if len(replicas) > 1 and well:
            assert self.probed.get(picked, 0.0) <= self.now
            if picked.failures >= router.FAILURES_TO_OPEN:
                self.probed[picked] = picked.open_until
                assert picked.open_until > self.now
        picked.outstanding += 1
        self.asked.append(picked)

    @precondition(lambda self: self.asked)
    @rule(ok=st.booleans(), which=st.integers(0, 99))
    def answer(self, ok, which):
        replica = self.asked.pop(which % len(self.asked))
        replica.outstanding -= 1
        self.probed.pop(replica, None)
        if ok:
            router.succeeded(replica)
        else:
            router.failed(replica, self.now)

    @rule(which=st.integers(0, 99))
    def all_of_one_fail(self, which):
        if self.instance.replicas:
            ill(self.instance.replicas[which % len(self.instance.replicas)], now=self.now)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def join(self):
        made = Replica(uuid7().bytes, self.instance.id, "unix:/x", 1)
        self.instance.replicas.append(made)

    @precondition(lambda self: self.instance.replicas)
    @rule(which=st.integers(0, 99))
    def leave(self, which):
        self.instance.replicas.pop(which % len(self.instance.replicas))

    @invariant()
    def nobody_is_shut_out_for_ever(self):
        longest = self.now + router.LONGEST_OPEN
        assert all(r.open_until <= longest for r in self.instance.replicas)
        assert all(r.outstanding >= 0 for r in self.instance.replicas)


TestBreakers = Breakers.TestCase
TestBreakers.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
