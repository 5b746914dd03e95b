"""Promotions and rollbacks at once: one champion, no gap or fork, no lost update, losers told.

`DERMASCAN_RACES` sets how many interleavings are tried (`docs/reliability/registry.md`).
"""

import json
import os
import random
import subprocess
import sys
import uuid
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stepping import Killed, Operation

from dermascan import registry
from dermascan.errors import ConflictError, InputError, IntegrityError, NotFoundError
from dermascan.layout import ModelKeys
from dermascan.registry import Champion, Decision, champion, history, promote, rollback
from dermascan.storage import Store
from dermascan.versions import publish_version

INTERLEAVINGS = int(os.environ.get("DERMASCAN_RACES", "30"))
AT_ONCE = 4
VERSIONS = (1, 2, 3, 4, 5)
REPLACED = registry._replaced
PATIENCE = settings(
    max_examples=INTERLEAVINGS,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

wishes = st.tuples(
    st.sampled_from(["promote", "promote", "roll back", "roll back to"]),
    st.sampled_from(VERSIONS),
    st.sampled_from([None, None, None, "ann/1", "bob/1", "cyd/1"]),
)
which = st.integers(0, AT_ONCE - 1)


def publish_versions(store: Store, model: str, folder: Path) -> None:
    (folder / "saved_model.pb").write_bytes(b"graph")
    for version in VERSIONS:
        publish_version(store, model, version, folder)


class Races(RuleBasedStateMachine):
    """Several movers of one pointer, each going on by one request to object storage at a time.

    `line` is what an onlooker saw: every champion in its order, and whose step made it champion.
    """

    store: Store
    folder: Path
    counts: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.model = f"m{uuid.uuid4().hex[:12]}"
        publish_versions(self.store, self.model, self.folder)
        self.line: list[tuple[Champion, Operation]] = []
        self.running: list[tuple[Operation, dict]] = []

    # What may happen

    @precondition(lambda self: len(self.running) < AT_ONCE)
    @rule(wanted=st.lists(wishes, min_size=2, max_size=AT_ONCE))
    def begin(self, wanted):
        for kind, version, request in wanted[: AT_ONCE - len(self.running)]:
            decision = Decision("somebody", "because", request)
            if kind == "promote":
                call = partial(promote, model=self.model, version=version, decision=decision)
            else:
                to = str(version) if kind == "roll back to" else ""
                call = partial(rollback, model=self.model, to_version=to, decision=decision)
            self.counts[kind] += 1
            facts = {"kind": kind, "version": version, "request": request}
            self.running.append((Operation(self.store, call), facts | {"since": len(self.line)}))

    @precondition(lambda self: len(self.running) > 1)
    @rule(steps=st.integers(4, 24), seed=st.integers(0, 2**16))
    def race(self, steps, seed):
        chance = random.Random(seed)
        for _ in range(steps):
            if self.running:
                self._step(*chance.choice(self.running))

    @precondition(lambda self: self.running)
    @rule(which=which)
    def go_on_to_the_end(self, which):
        operation, facts = self.running[which % len(self.running)]
        while not operation.ended:
            self._step(operation, facts)

    @precondition(lambda self: len(self.running) > 2)
    @rule(which=which, after=st.booleans())
    def kill(self, which, after):
        operation, facts = self.running[which % len(self.running)]
        operation.die(after=after)
        self.counts["kills"] += 1
        self._look(operation)
        self._forget_if_ended(operation, facts)

    def teardown(self):
        try:
            while self.running:
                self._step(*self.running[0])
            self._check_history()
        finally:
            for operation, _ in self.running:
                if not operation.ended:  # by the very step that failed
                    operation.die(after=False)

    # What must hold

    @invariant()
    def numbers_of_the_history_have_no_gap(self):
        prefix = ModelKeys(self.model).history
        found = [int(Path(info.key).stem) for info in self.store.list(prefix)]
        moves = len(self.line)
        assert found in (list(range(1, moves + 1)), list(range(1, moves)))

    def _check_history(self) -> None:
        told = list(history(self.store, self.model))
        assert told == [entry for entry, _ in self.line]
        for before, after in pairwise(told):
            assert after.previous == before.version
            assert after.version != before.version
        requests = [entry.request for entry in told if entry.request]
        assert len(requests) == len(set(requests)), "a request moved the pointer twice"

    # How it is done

    def _step(self, operation: Operation, facts: dict) -> None:
        operation.step()
        self.counts["requests"] += 1
        self._look(operation)
        self._forget_if_ended(operation, facts)

    def _look(self, stepped: Operation) -> None:
        """See whether the step moved the pointer, and by how much."""
        current = champion(self.store, self.model)
        last = self.line[-1][0] if self.line else None
        if current == last:
            return
        assert current, "the pointer is gone"
        assert current.move == len(self.line) + 1, "an update was lost"
        assert current.previous == (last.version if last else None)
        self.line.append((current, stepped))

    def _forget_if_ended(self, operation: Operation, facts: dict) -> None:
        if operation.ended:
            self.running.remove((operation, facts))
            own = [entry for entry, mover in self.line if mover is operation]
            self._judge(operation, facts, own)

    def _judge(self, operation: Operation, facts: dict, own: list[Champion]) -> None:
        error = operation.error
        if isinstance(error, Killed):
            assert len(own) <= 1
        elif isinstance(error, ConflictError):
            self.counts["told that they lost"] += 1
            assert not own
            assert len(self.line) > facts["since"], "nobody was faster"
            assert "was not made champion" in str(error)
        elif error is not None:
            assert isinstance(error, (InputError, NotFoundError)), repr(error)
            assert facts["kind"] != "promote"
            assert not own
        elif facts["kind"] == "promote":
            assert len(own) == int(operation.result)
            assert operation.result or self._had_nothing_to_do(facts)
        else:
            self._judge_rollback(facts, own)

    def _had_nothing_to_do(self, facts: dict) -> bool:
        entries = [entry for entry, _ in self.line]
        meanwhile = entries[max(0, facts["since"] - 1) :]
        fulfilled = facts["request"] and facts["request"] in {e.request for e in entries}
        return bool(fulfilled) or facts["version"] in {e.version for e in meanwhile}

    def _judge_rollback(self, facts: dict, own: list[Champion]) -> None:
        assert len(own) <= 1
        for entry in own:
            replaced = self.line[entry.move - 2][0]
            wanted = facts["version"] if facts["kind"] == "roll back to" else replaced.previous
            assert entry.version == wanted


def race(store: Store, folder: Path, limits: settings) -> Counter[str]:
    counts: Counter[str] = Counter()
    machine = type("Race", (Races,), {"store": store, "folder": folder, "counts": counts})
    run_state_machine_as_test(machine, settings=limits)
    return counts


@pytest.fixture
def one_request_at_a_time(monkeypatch):
    """Let `history` and `fetch_version` read one object after the other."""
    for module in ("dermascan.registry", "dermascan.versions"):
        monkeypatch.setattr(f"{module}.concurrently", lambda f, items, _: map(f, items))


@pytest.mark.timeout(60 + 10 * INTERLEAVINGS)
def test_registry_under_any_interleaving_has_one_champion_and_a_whole_history(
    store, tmp_path, one_request_at_a_time
):
    counts = race(store, tmp_path, PATIENCE)
    print(dict(counts))  # noqa: T201  # shown by `pytest -s`, for the documentation
    assert counts["told that they lost"] > 0


def test_an_operation_that_has_ended_is_not_waited_for(store):
    operation = Operation(store, lambda _: None)
    assert operation.ended
    with pytest.raises(AssertionError, match="has ended"):
        operation.die(after=False)


def without_comparing(store: Store, key: str, value, expected_tag) -> None:
    store.put_json(key, value)


def recorded_first(store: Store, successor: Champion, tag: str | None) -> bool:
    registry._record(store, successor)
    return REPLACED(store, successor, tag)


def never_recorded_for_others(store: Store, entry: Champion) -> None:
    """Record a move only by the one who made it."""


@pytest.mark.parametrize(
    ("place", "broken"),
    [
        ("dermascan.storage.Store.move_pointer", without_comparing),
        ("dermascan.registry._replaced", recorded_first),
        ("dermascan.registry._record", never_recorded_for_others),
    ],
)
def test_the_test_above_finds_what_it_is_there_to_find(  # noqa: PLR0917  # fixtures
    store, tmp_path, one_request_at_a_time, monkeypatch, place, broken
):
    monkeypatch.setattr(place, broken)
    limits = settings(PATIENCE, max_examples=200, phases=[Phase.generate], database=None)
    with pytest.raises((AssertionError, IntegrityError, ExceptionGroup)):
        race(store, tmp_path, limits)


def test_registry_when_several_processes_move_the_pointer_loses_no_move(store, tmp_path):
    publish_versions(store, "m", tmp_path)
    outcomes = from_processes(store, processes=3, requests=15)
    told = list(history(store, "m"))
    assert [entry.move for entry in told] == list(range(1, len(told) + 1))
    assert all(after.previous == before.version for before, after in pairwise(told))
    assert champion(store, "m") == told[-1]
    moves = Counter(entry.request for entry in told)
    assert set(moves.values()) == {1}
    for request, outcome in outcomes.items():
        expected = {"moved": {1}, "nothing to do": {0}, "lost": {0}, "done": {0, 1}}[outcome]
        assert moves[request] in expected, (request, outcome)
    assert "lost" in outcomes.values()


def from_processes(store: Store, processes: int, requests: int) -> dict[str, str]:
    secret = store.settings.secret_access_key
    assert secret
    environment = {**os.environ, "TEST_SECRET": secret.get_secret_value()}
    worker = Path(__file__).with_name("registry_worker.py")
    command = [sys.executable, str(worker), str(store.settings.endpoint_url), store.bucket, "m"]
    started = [
        subprocess.Popen(
            [*command, f"process-{number}", str(requests)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(processes)
    ]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    outcomes: dict[str, str] = {}
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        outcomes |= json.loads(output)
    return outcomes
