"""What a run's workers have begun and not finished, and so which sequence it was that ended them. Knows nothing of Ray.

A process that dies while it encodes a shard is replaced, and the shard is begun again. A sequence that ends every process that encodes it
would keep a run going for ever. So every worker says which shard it begins. Once a shard has ended three of them, the next one works
carefully: it says of every range of rows that it is about to encode it. A range in which a worker dies is cut into 16 for the next
attempt, and a single sequence in which one dies is refused: 2,048 rows with one such sequence cost seven processes, and a shard keeps
all its other sequences.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

# Attempts at a shard that may end without a word before the next is careful, and before there is none.
_CARELESS, _ATTEMPTS = 3, 5
_PARTS = 16
# Where so many are refused or so many workers do not even start, it is not the sequences.
_REFUSED, _STARTS = 20, 5


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What a worker is told when it begins a shard.

    Attributes
    ----------
    careful : bool
        Say of every range of rows that it is about to be encoded.
    cuts : tuple of int
        Rows at which a range has to begin.
    refused : tuple of str
        Digests that the run leaves out, of this shard and of others.
    stop : str | None
        Why the run has to end, in a sentence.
    """

    careful: bool = False
    cuts: tuple[int, ...] = ()
    refused: tuple[str, ...] = ()
    stop: str | None = None


@dataclass
class _Shard:
    running: bool = False
    unexplained: int = 0  # attempts that ended outside of a range
    hung: int = 0  # attempts that were ended from outside
    inside: tuple[int, int, str] | None = None
    cuts: set[int] = field(default_factory=set)


class Attempts:
    """The attempts of one run. Whoever begins a shard that another has begun and not finished tells that the other one died."""

    def __init__(self) -> None:
        self._shards: defaultdict[str, _Shard] = defaultdict(_Shard)
        self._starts: dict[str, int] = {}
        self._refused: dict[str, None] = {}  # in their order
        self.died = 0  # attempts that ended before they were finished

    def start(self, worker: str) -> str | None:
        """A process of a worker begins to load its model. Returns why the run has to end, in a sentence, or None."""
        self._starts[worker] = self._starts.get(worker, 0) + 1
        if self._starts[worker] <= _STARTS:
            return None
        return (
            f"{_STARTS} processes in a row died before they began a shard, so the model cannot be loaded where they ran: look at the "
            f"memory of the workers and in Ray's logs"
        )

    def begin(self, shard: str) -> Attempt:
        """A worker begins a shard."""
        self._starts.clear()
        state = self._shards[shard]
        if state.running:
            self.died += 1
            self._ended(state)
        state.running, state.inside = True, None
        return Attempt(
            careful=state.unexplained >= _CARELESS,
            cuts=tuple(sorted(state.cuts)),
            refused=tuple(self._refused),
            stop=self._why_stop(shard, state),
        )

    def hang(self, shard: str) -> None:
        """The process that was at a shard is ended, since it has stopped or hangs. It is begun again as after a death."""
        self._shards[shard].hung += 1

    def enter(self, shard: str, first: int, end: int, name: str) -> None:
        """A careful worker is about to encode the rows `first` to before `end`; `name` is the digest of the first."""
        self._shards[shard].inside = first, end, name

    def leave(self, shard: str) -> None:
        """It has encoded all of them."""
        self._shards[shard].inside = None

    def finish(self, shard: str) -> None:
        """A worker has finished a shard. Ray may have it done again when it loses what came of it, with the same cuts."""
        state = self._shards[shard]
        state.running, state.unexplained, state.hung, state.inside = False, 0, 0, None

    def _ended(self, state: _Shard) -> None:
        if state.inside is None:
            state.unexplained += 1
            return
        first, end, name = state.inside
        if end - first == 1:
            self._refused[name] = None
        else:
            step = -(-(end - first) // _PARTS)
            state.cuts.update(range(first, end, step), [end])

    def _why_stop(self, shard: str, state: _Shard) -> str | None:
        if len(self._refused) > _REFUSED:
            return (
                f"more than {_REFUSED} sequences ended the process that encoded them, the last one {list(self._refused)[-1]}, so it may "
                f"not be the sequences: look at the memory of the workers and in Ray's logs"
            )
        if state.unexplained >= _ATTEMPTS:
            hung = f" ({state.hung} of them were ended because they had stopped or hung)" if state.hung else ""
            return (
                f"{shard} was begun {_ATTEMPTS} times and each time the worker's process died{hung}: look at the memory of the workers and "
                f"in Ray's logs"
            )
        return None
