"""The store's protocol under hypothesis: runs, rollbacks, forgetting and maintenance in any order, one step at a time, with faults.

The real code on real Delta tables, without Ray. `tests/support/counts.py` says how many histories are tried.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import counts
from faults import KINDS, Died, Faults
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stores import STEPS, A, B, Entry, Run, digest, expected, in_order, rows

from dnafeat.errors import ConflictError, StoreError
from dnafeat.store import Store
from dnafeat.store import table as tables
from dnafeat.store.forget import forget
from dnafeat.store.maintain import maintain
from dnafeat.store.rollback import rollback

POOL = {digest(letters): letters for letters in ("ACGT" + end for end in ("A", "C", "G", "T", "AA", "CC", "GG", "TT"))}
SUBJECTS = ("s1", "s2", "s3")
SOURCES = ("one", "two")
VERSIONS = {"A": A, "B": B}
NAMES = {version.digest: name for name, version in VERSIONS.items()}
PARTS = ("plan", "write", *STEPS)
TABLES = dict(zip(STEPS, ("versions", "features", "rejects", "sequences", "runs"), strict=True))
# Commits that a step makes of each table, at the most; `sequences` may need one more for a new column.
COMMITS = {
    "version": {"versions": 1},
    "features": {"features": 1},
    "sequences": {"sequences": 1, "features": 1},
    "run": {"runs": 1},
}

accepted = st.lists(
    st.builds(
        lambda i, letters, subject: Entry(f"e{i}", letters, {"subject_id": subject}),
        st.integers(0, 5),
        st.sampled_from(list(POOL.values())),
        st.sampled_from(SUBJECTS),
    ),
    max_size=6,
    unique_by=lambda entry: entry.id,
)
# Their ids name their subject, since nothing else in `rejects` does.
refused = st.lists(
    st.builds(
        lambda i, subject: Entry(f"bad-{subject}-{i}", "ACGX", {"subject_id": subject}),
        st.integers(0, 1),
        st.sampled_from(SUBJECTS),
    ),
    max_size=2,
    unique_by=lambda entry: entry.id,
)
entries = st.builds(lambda good, bad: [*good, *bad], accepted, refused)
versions = st.sampled_from(["A", "A", "A", "B"])
faults = st.none() | st.tuples(st.integers(1, 4), st.sampled_from(KINDS))
# Whose turn it is of two runs, to their end or to somewhere before it.
turns = st.builds(lambda order, taken: order[:taken], st.permutations([0, 1] * len(PARTS)), st.integers(0, 20))
late_faults = st.none() | st.tuples(st.integers(1, 7), st.sampled_from(KINDS))


class Live:
    """A run and the step it has come to.

    Attributes
    ----------
    run : Run
    entries : list of Entry
        What it stands for, less what has been forgotten since.
    at : int
        Of PARTS.
    excused : bool
        Whether something was forgotten since it began, so that it may be refused.
    """

    def __init__(self, run: Run, entries: list[Entry]) -> None:
        self.run, self.entries, self.at, self.excused = run, entries, 0, False

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
        # Whether somebody who was forgetting has died, and may have left vectors that no entry names; and whether somebody is at it.
        self.torn = self.forgetting = False
        self.armed: str | None = None
        self.stepping: Live | None = None
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
        self._steps(live, len(PARTS))

    # -- runs ----------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.live) < 3)
    @rule(wanted=entries, source=st.sampled_from(SOURCES), version=versions, steps=st.integers(0, 3))
    def a_run_begins(self, wanted: list[Entry], source: str, version: str, steps: int) -> None:
        live = self._begun(wanted, source, version)
        self._steps(live, steps)

    @precondition(lambda self: len(self.live) < 2)
    @rule(
        one=entries,
        other=entries,
        source=st.sampled_from(SOURCES),
        version=versions,
        order=turns,
        fault=faults,
    )
    def two_runs_begin_at_once(
        self, one: list[Entry], other: list[Entry], source: str, version: str, order: list[int], fault: tuple[int, str] | None
    ) -> None:
        """Both have planned before either writes, and they publish step by step in between each other, as far as they come."""
        both = [self._begun(one, "one", version), self._begun(other, source, version)]
        for live in (*both, *both):
            self._step(live)
        self._take_turns(both, order, fault)

    @precondition(lambda self: len(self.live) < 2)
    @rule(one=entries, other=entries, source=st.sampled_from(SOURCES), twice=st.booleans(), step=st.sampled_from(STEPS))
    def two_runs_commit_at_once(self, one: list[Entry], other: list[Entry], source: str, twice: bool, step: str) -> None:
        """One has looked and is about to commit, and then the other does the same step; or they are two attempts of one run."""
        first = self._begun(one, "one", "A")
        both = [first, self._again(first) if twice else self._begun(other, source, "A")]
        for _ in range(PARTS.index(step)):
            for live in both:
                self._step(live)
        self._arm((1, "somebody between"), lambda: self._step(both[1]), TABLES[step])
        self._step(both[0])
        self._disarm()
        for live in both:
            self._steps(live, len(PARTS))

    @precondition(lambda self: 0 < len(self.live) < 3)
    @rule(which=st.integers(0, 2), order=turns, fault=faults)
    def a_run_is_sent_twice(self, which: int, order: list[int], fault: tuple[int, str] | None) -> None:
        """A second attempt of a run that is at work, under its id."""
        live = self.live[which % len(self.live)]
        self._take_turns([live, self._again(live)], order, fault)

    def _take_turns(self, both: list[Live], order: list[int], fault: tuple[int, str] | None) -> None:
        """One step of a run for each of `order`; where the fault is somebody in between, the other run goes on there."""
        self._arm(fault, lambda: self._step(next(live for live in both if live is not self.stepping)))
        for which in order:
            self._step(both[which])
        self._disarm()

    def _begun(self, wanted: list[Entry], source: str, version: str, run_id: str | None = None) -> Live:
        run = Run(
            self.store.uri,
            wanted,
            self.folder,
            source=source,
            version=VERSIONS[version],
            run_id=run_id,
            keys=["subject_id"],
            shard_rows=2,
        )
        self.live.append(Live(run, wanted))
        return self.live[-1]

    def _again(self, live: Live) -> Live:
        """A second attempt of a run, under its id."""
        return self._begun(live.entries, live.run.source, NAMES[live.run.version.digest], live.run.run_id)

    @precondition(lambda self: self.live)
    @rule(
        which=st.integers(0, 2),
        steps=st.integers(1, len(PARTS)),
        fault=faults,
        other=st.integers(0, 2),
        others_steps=st.integers(1, 3),
    )
    def a_run_goes_on(self, which: int, steps: int, fault: tuple[int, str] | None, other: int, others_steps: int) -> None:
        live = self.live[which % len(self.live)]
        others = [one for one in self.live if one is not live]
        self._arm(fault, (lambda: self._steps(others[other % len(others)], others_steps)) if others else None)
        self._steps(live, steps)
        self._disarm()

    @precondition(lambda self: not self.live)
    @rule(one=accepted, other=accepted, source=st.sampled_from(SOURCES), version=st.sampled_from(["A", "B"]))
    def two_runs_die_with_their_files(self, one: list[Entry], other: list[Entry], source: str, version: str) -> None:
        """They have written some sequences both, and a run that wants all of them comes next."""
        both = [self._begun(wanted, source, version) for wanted in (one, other)]
        for live in (*both, *both):
            self._step(live)
        self.live.clear()
        wanted = [entry._replace(id=f"e{i}") for i, entry in enumerate([*one, *other])]
        self._steps(self._begun(wanted, source, version), len(PARTS))

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 2))
    def a_run_dies(self, which: int) -> None:
        self.live.pop(which % len(self.live))

    def _steps(self, live: Live, steps: int) -> None:
        for _ in range(steps):
            self._step(live)

    def _step(self, live: Live) -> None:
        """One step of a run, which is over with the last of them or with what it raises."""
        if live not in self.live:
            return
        run, outer, self.stepping = live.run, self.stepping, live
        before = self._table_versions() if self.armed == "reply lost" else None
        try:
            live.step()
        except (Died, ConflictError, StoreError, OSError) as error:
            # What others do is no reason to end, but for forgetting.
            self._check_broken(live.excused or self.forgetting or self.torn, error)
            self.live.remove(live)
            # It may have been published all the same.
            if live.at == len(PARTS) - 1:
                self._publish(live)
            return
        finally:
            self.stepping = outer
        if before is not None:
            self._check_commits(PARTS[live.at - 1], before)
        if live.at == len(PARTS):
            self.live.remove(live)
            assert run.published or any(one == run.run_id for found in self.published.values() for _, one, _ in found)
            self._publish(live)

    def _check_broken(self, excused: bool, error: BaseException) -> None:
        """Somebody whose work has ended early met a fault, or is excused."""
        assert excused or self.armed not in (None, "somebody between"), repr(error)

    def _table_versions(self) -> dict[str, int]:
        store = Store(self.store.uri)
        return {table.name: table.version() for table in (store.features, store.sequences, store._versions, store.runs)} | {
            "columns": len(store.sequences.schema())
        }

    def _check_commits(self, step: str, before: dict[str, int]) -> None:
        """A commit whose reply was lost is not made once more."""
        now = self._table_versions()
        allowed = dict(COMMITS.get(step, {}))
        if "sequences" in allowed:
            allowed["sequences"] += now["columns"] > before["columns"]
        for name, number in now.items():
            assert name == "columns" or number - before[name] <= allowed.get(name, 0), f"{step}: {name}"

    def _publish(self, live: Live) -> None:
        row = Store(self.store.uri).published_run(live.run.run_id)
        if row is None:
            return
        found = self.published.setdefault((live.run.source, live.run.version.digest), [])
        # Another attempt of it may have been first.
        if all(run_id != row["run_id"] for _, run_id, _ in found):
            found.append((row["run_number"], row["run_id"], live.entries))
            found.sort(key=lambda one: one[0])

    def _arm(self, fault: tuple[int, str] | None, between: Callable[[], None] | None, table: str = "") -> None:
        if fault is not None:
            self.faults.arm(*fault, between, table)
            self.armed = fault[1]

    def _disarm(self) -> None:
        self.faults.disarm()
        self.armed = None

    # -- everything else -----------------------------------------------------------------------------------------------

    @precondition(lambda self: any(self.published.values()))
    @rule(which=st.integers(0, 20), fault=faults)
    def a_run_is_withdrawn(self, which: int, fault: tuple[int, str] | None) -> None:
        runs = [(key, one) for key, found in self.published.items() for one in found]
        key, (number, run_id, wanted) = runs[which % len(runs)]
        self._until_done(lambda: rollback(self.store, run_id), fault)
        self.published[key].remove((number, run_id, wanted))

    @rule(subject=st.sampled_from(SUBJECTS), fault=late_faults)
    def a_subject_is_forgotten(self, subject: str, fault: tuple[int, str] | None) -> None:
        self._forget(subject, fault, self._goes_on())

    @rule(fault=late_faults)
    def the_store_is_maintained(self, fault: tuple[int, str] | None) -> None:
        self._until_done(lambda: maintain(self.store), fault, self._goes_on())

    @precondition(lambda self: len(self.live) < 3)
    @rule(
        gone=st.none() | st.sampled_from(SUBJECTS),
        at=st.integers(1, 3),
        table=st.sampled_from(["features", "features", "sequences", ""]),
        source=st.sampled_from(SOURCES),
        subject=st.sampled_from(SUBJECTS),
        left_out=st.sets(st.sampled_from(list(POOL)), max_size=1),
        steps=st.sampled_from([2, 6]),
    )
    def a_run_takes_up_what_goes(
        self, gone: str | None, at: int, table: str, source: str, subject: str, left_out: set[str], steps: int
    ) -> None:
        """In the middle of forgetting, or of maintenance, a run begins that has nothing to encode: it counts on what is stored.

        When that goes on it has planned, or has committed its entries; it is published afterwards.
        """
        subject = subject if subject != gone else SUBJECTS[SUBJECTS.index(subject) - 1]
        begun: list[Live] = []

        def between() -> None:
            stored = Store(self.store.uri).features.read(["sequence_digest", "feature_version"]).to_pylist()
            names = sorted({row["sequence_digest"] for row in stored if row["feature_version"] == A.digest} - left_out)
            wanted = [Entry(f"e{i}", POOL[name], {"subject_id": subject}) for i, name in enumerate(names)]
            begun.append(self._begun(wanted, source, "A"))
            self._steps(begun[0], steps)

        if gone is None:
            self._until_done(lambda: maintain(self.store), (at, "somebody between"), between, table)
        else:
            self._forget(gone, (at, "somebody between"), between, table)
        for live in begun:
            self._steps(live, len(PARTS))

    def _goes_on(self) -> Callable[[], None] | None:
        return (lambda: self._step(self.live[0])) if self.live else None

    def _forget(self, subject: str, fault: tuple[int, str] | None, between: Callable[[], None] | None, table: str = "") -> None:
        self.forgetting = True
        if not self._until_done(lambda: forget(self.store, {"subject_id": subject}), fault, between, table):
            self.torn = True
        self.forgetting = False
        for key, found in self.published.items():
            self.published[key] = [(number, run_id, _without(subject, wanted)) for number, run_id, wanted in found]
        # A run that had committed its entries before lost the subject, too; the others will be refused.
        for live in self.live:
            live.entries, live.excused = _without(subject, live.entries), True

    def _until_done(
        self,
        work: Callable[[], object],
        fault: tuple[int, str] | None,
        between: Callable[[], None] | None = None,
        table: str = "",
    ) -> bool:
        """Sent again after a fault, as its user would; whether once was enough."""
        self._arm(fault, between, table)
        for attempt in range(2):
            try:
                work()
                return attempt == 0
            except (Died, ConflictError, StoreError, OSError) as error:
                self._check_broken(False, error)
            finally:
                self._disarm()
        raise AssertionError("unreachable")

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def readers_see_what_was_published(self) -> None:
        store = Store(self.store.uri)
        features = store.features.reload().read(["feature_version", "sequence_digest"]).to_pylist()
        counted = Counter((row["feature_version"], row["sequence_digest"]) for row in features)
        assert not counted or max(counted.values()) == 1
        runs = store.runs.reload().read(["run_number", "run_id"]).to_pylist()
        known = sorted((number, run_id) for found in self.published.values() for number, run_id, _ in found)
        assert sorted((row["run_number"], row["run_id"]) for row in runs) == known
        rejects = Counter(
            map(tuple, zip(*store.rejects.reload().read(["run_id", "sequence_id"]).to_pydict().values(), strict=True))
        )
        for found in self.published.values():
            for _, run_id, entries in found:
                told = {name: count for (one, name), count in rejects.items() if one == run_id}
                assert told == {entry.id: 1 for entry in entries if digest(entry.sequence) not in POOL}
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
                good = [entry for entry in known[-1] if digest(entry.sequence) in POOL]
                wanted += expected(good, ["subject_id"], source=source, version=version)  # type: ignore[arg-type]
        return in_order(wanted)


def _without(subject: str, entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.keys["subject_id"] != subject]


Protocol.TestCase.settings = settings(
    max_examples=counts.HISTORIES,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="DNAFEAT_PROTOCOL_EXAMPLES" not in os.environ,
    print_blob=True,
)
test_protocol = Protocol.TestCase
