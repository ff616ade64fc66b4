"""The store's protocol under hypothesis: runs, rollbacks, forgetting and maintenance in any order, one step at a time, with faults.

The real code on real Delta tables, without Ray. `DNAFEAT_PROTOCOL_EXAMPLES` (see `make chaos`) says how many histories are tried.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from faults import KINDS, Died, Faults
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stores import STEPS, A, B, Entry, Run, expected, in_order, rows

from dnafeat import tables
from dnafeat.errors import ConflictError, StoreError
from dnafeat.forget import forget
from dnafeat.maintain import maintain
from dnafeat.rollback import rollback
from dnafeat.store import Store

EXAMPLES = int(os.environ.get("DNAFEAT_PROTOCOL_EXAMPLES", "10"))
POOL = ["ACGT" + letters for letters in ("A", "C", "G", "T", "AA", "CC", "GG", "TT")]
SUBJECTS = ("s1", "s2", "s3")
SOURCES = ("one", "two")
VERSIONS = {"A": A, "B": B}
PARTS = ("plan", "write", *STEPS)

entries = st.lists(
    st.builds(
        lambda i, letters, subject: Entry(f"e{i}", letters, {"subject_id": subject}),
        st.integers(0, 5),
        st.sampled_from(POOL),
        st.sampled_from(SUBJECTS),
    ),
    max_size=6,
    unique_by=lambda entry: entry.id,
)
versions = st.sampled_from(["A", "A", "A", "B"])
faults = st.none() | st.tuples(st.integers(1, 4), st.sampled_from(KINDS))


class Live:
    """A run and the step it has come to."""

    def __init__(self, run: Run, entries: list[Entry]) -> None:
        self.run, self.entries, self.at = run, entries, 0

    def step(self) -> None:
        name = PARTS[self.at]
        {"plan": self.run.plan, "write": self.run.write}.get(name, lambda: self.run.step(name))()
        self.at += 1


class Protocol(RuleBasedStateMachine):
    """The model is what has been published: for each source and version its runs, and the entries each of them stood for."""

    def __init__(self) -> None:
        super().__init__()
        shm = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="dnafeat-protocol-", dir=shm if shm.is_dir() else None))
        self.store = Store(str(self.folder / "store"))
        self.store.create()
        self.live: list[Live] = []
        self.published: dict[tuple[str, str], list[tuple[int, str, list[Entry]]]] = {}
        self.faults = Faults()
        self._context = self.faults.around()
        self._context.__enter__()
        self._wait, tables._LONGEST_WAIT = tables._LONGEST_WAIT, 0.0

    def teardown(self) -> None:
        tables._LONGEST_WAIT = self._wait
        self._context.__exit__(None, None, None)
        shutil.rmtree(self.folder, ignore_errors=True)

    @initialize(wanted=entries)
    def something_is_there(self, wanted: list[Entry]) -> None:
        live = self._begun(wanted, "one", "A")
        for _ in PARTS:
            self._step(live)

    # -- runs ----------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.live) < 3)
    @rule(wanted=entries, source=st.sampled_from(SOURCES), version=versions, steps=st.integers(0, 3))
    def a_run_begins(self, wanted: list[Entry], source: str, version: str, steps: int) -> None:
        live = self._begun(wanted, source, version)
        for _ in range(steps):
            self._step(live)

    @precondition(lambda self: len(self.live) < 2)
    @rule(
        one=entries,
        other=entries,
        source=st.sampled_from(SOURCES),
        version=versions,
        order=st.permutations([0, 1] * len(STEPS)),
        fault=faults,
    )
    def two_runs_begin_at_once(
        self, one: list[Entry], other: list[Entry], source: str, version: str, order: list[int], fault: tuple[int, str] | None
    ) -> None:
        """Both have planned before either writes, and they publish step by step in between each other."""
        both = [self._begun(one, "one", version), self._begun(other, source, version)]
        for live in (*both, *both):
            self._step(live)
        self._arm(fault, None)
        for which in order:
            self._step(both[which])
        self.faults.disarm()

    def _begun(self, wanted: list[Entry], source: str, version: str) -> Live:
        run = Run(
            self.store.uri, wanted, self.folder, source=source, version=VERSIONS[version], keys=["subject_id"], shard_rows=2
        )
        self.live.append(Live(run, wanted))
        return self.live[-1]

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 2), steps=st.integers(1, len(PARTS)), fault=faults, other=st.integers(0, 2))
    def a_run_goes_on(self, which: int, steps: int, fault: tuple[int, str] | None, other: int) -> None:
        live = self.live[which % len(self.live)]
        others = [one for one in self.live if one is not live]
        between = (lambda: self._step(others[other % len(others)])) if others else None
        self._arm(fault, between)
        for _ in range(steps):
            if live in self.live:
                self._step(live)
        self.faults.disarm()

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 2))
    def a_run_dies(self, which: int) -> None:
        self.live.pop(which % len(self.live))

    def _step(self, live: Live) -> None:
        """One step of a run, which is over with the last of them or with what it raises."""
        if live not in self.live:
            return
        run = live.run
        try:
            live.step()
        except (Died, ConflictError, StoreError, OSError):
            self.live.remove(live)
            # It may have been published all the same.
            if live.at == len(PARTS) - 1:
                self._publish(live)
            return
        if live.at == len(PARTS):
            self.live.remove(live)
            assert run.published
            self._publish(live)

    def _publish(self, live: Live) -> None:
        row = Store(self.store.uri).published_run(live.run.run_id)
        if row is not None:
            key = live.run.source, live.run.version.digest
            self.published.setdefault(key, []).append((row["run_number"], row["run_id"], live.entries))
            self.published[key].sort(key=lambda one: one[0])

    def _arm(self, fault: tuple[int, str] | None, between: Callable[[], None] | None) -> None:
        if fault is not None:
            self.faults.arm(*fault, between)

    # -- everything else -----------------------------------------------------------------------------------------------

    @precondition(lambda self: any(self.published.values()))
    @rule(which=st.integers(0, 20), fault=faults)
    def a_run_is_withdrawn(self, which: int, fault: tuple[int, str] | None) -> None:
        runs = [(key, one) for key, found in self.published.items() for one in found]
        key, (number, run_id, wanted) = runs[which % len(runs)]
        self._until_done(lambda: rollback(self.store, run_id), fault)
        self.published[key].remove((number, run_id, wanted))

    @rule(subject=st.sampled_from(SUBJECTS), fault=faults)
    def a_subject_is_forgotten(self, subject: str, fault: tuple[int, str] | None) -> None:
        self._until_done(lambda: forget(self.store, {"subject_id": subject}), fault)
        for key, found in self.published.items():
            self.published[key] = [(number, run_id, _without(subject, wanted)) for number, run_id, wanted in found]
        # A run that had committed its entries before lost the subject, too; the others will be refused.
        for live in self.live:
            live.entries = _without(subject, live.entries)

    @rule(fault=faults)
    def the_store_is_maintained(self, fault: tuple[int, str] | None) -> None:
        self._until_done(lambda: maintain(self.store), fault)

    def _until_done(self, work: Callable[[], object], fault: tuple[int, str] | None) -> None:
        """Sent again after a fault, as its user would; another run may go on in between."""
        self._arm(fault, (lambda: self._step(self.live[0])) if self.live else None)
        for attempt in range(3):
            try:
                work()
                break
            except (Died, ConflictError, StoreError, OSError):
                assert attempt == 0
            finally:
                self.faults.disarm()

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def readers_see_what_was_published(self) -> None:
        store = Store(self.store.uri)
        features = store.features.reload().read(["feature_version", "sequence_digest"]).to_pylist()
        counted = Counter((row["feature_version"], row["sequence_digest"]) for row in features)
        assert not counted or max(counted.values()) == 1
        for version in VERSIONS.values():
            found = {source: runs for (source, one), runs in self.published.items() if one == version.digest and runs}
            if not found:
                continue
            assert rows(store.read(version.digest)) == self._rows(found, version, None)
            first = min(number for runs in found.values() for number, *_ in runs)
            assert rows(store.read(version.digest, as_of=first)) == self._rows(found, version, first)

    def _rows(self, found: dict[str, list[tuple[int, str, list[Entry]]]], version: object, as_of: int | None) -> list[dict]:
        wanted = []
        for source, runs in found.items():
            known = [entries for number, _, entries in runs if as_of is None or number <= as_of]
            if known:
                wanted += expected(known[-1], ["subject_id"], source=source, version=version)  # type: ignore[arg-type]
        return in_order(wanted)


def _without(subject: str, entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.keys["subject_id"] != subject]


Protocol.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="DNAFEAT_PROTOCOL_EXAMPLES" not in os.environ,
    print_blob=True,
)
test_protocol = Protocol.TestCase
