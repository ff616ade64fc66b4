"""Tests of a run's profile against those of earlier runs. Functions of profiles alone: no store is read.

Each test gives the probability of a difference as large as the one seen where nothing has changed. They take entries of one run as
independent draws, and differences between runs beyond that are estimated from the earlier ones. The level is divided by the number of tests
(Bonferroni), so that it is the rate of false alarms of a whole run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dnafeat.store.profiles import KEY_BUCKETS, ExactMoments, Profile, total

LEVEL = 1e-3
"""False alarms per run, over all tests; the default of the commands' `--alarm-rate`."""

HISTORY = 30
"""Earlier runs that are compared with, the last ones."""

_EXPECTED = 10  # rows of a cell of a histogram
_ROWS_PER_DIMENSION = 4
_PRIOR_RUNS = 3  # that count as having no excess variance between runs
_ENTRIES_PRIOR, _ENTRIES_SPREAD = 30, 0.1  # runs, and deviation of the logarithm of their entries
_KEY_VALUES = 16  # occupied hash buckets up to which a key has few values
_ROUNDING = 0.25  # of a projection or a frequency, in whole numbers: what two machines may differ


@dataclass(frozen=True, kw_only=True)
class StatisticTest:
    """One test.

    Attributes
    ----------
    name : str
        The statistic.
    p : float
        Probability of a difference as large without a change.
    now, before : str
        What was seen, for people.
    moved : bool
        Whether p is below the level over the number of tests.
    """

    name: str
    p: float
    now: str
    before: str
    moved: bool = False


def compare(now: Profile, past: Sequence[Profile], *, level: float = LEVEL, same_version: bool = True) -> list[StatisticTest]:
    """Test a profile against earlier ones, oldest first; no tests without any. Statistics of too few rows are left out.

    `same_version` says whether all runs filled one version: else what the store had of it is not compared.
    """
    past = list(past)[-HISTORY:]
    if not past:
        return []
    tests = [test for test in (_entries(now, past), *_shares(now, past, same_version)) if test is not None]
    pooled = total(past)
    for name in sorted(now.histograms):
        tests += _tested(name, now.histograms, [one.histograms for one in past], pooled.histograms, _homogeneity, _describe_bins)
        if _is_ordered(name):
            tests += _tested(
                name, now.histograms, [one.histograms for one in past], pooled.histograms, _spread, _describe_bins, "spread of "
            )
    for name in sorted(now.moments):
        tests += _tested(name, now.moments, [one.moments for one in past], pooled.moments, _distance, _describe_moments)
    bound = level / max(1, len(tests))
    return [StatisticTest(name=one.name, p=one.p, now=one.now, before=one.before, moved=one.p < bound) for one in tests]


# -- counts ------------------------------------------------------------------------------------------------------------


def _entries(now: Profile, past: Sequence[Profile]) -> StatisticTest:
    """Number of entries: a t-test of its logarithm, whose deviation is 0.1 as far as 30 runs would tell, and what was seen."""
    from scipy import stats

    sizes = np.log([max(0.5, one.counts.get("entries", 0)) for one in past])
    size = math.log(max(0.5, now.counts.get("entries", 0)))
    freedom = _ENTRIES_PRIOR + len(sizes) - 1
    variance = (_ENTRIES_PRIOR * _ENTRIES_SPREAD**2 + float(((sizes - sizes.mean()) ** 2).sum())) / freedom
    statistic = (size - sizes.mean()) / math.sqrt(variance * (1 + 1 / len(sizes)))
    before = f"{math.exp(sizes.mean()):,.0f}"
    return StatisticTest(
        name="entries", p=float(2 * stats.t.sf(abs(statistic), freedom)), now=f"{now.counts['entries']:,}", before=before
    )


def _shares(now: Profile, past: Sequence[Profile], same_version: bool) -> list[StatisticTest | None]:
    counts, total_of = now.counts, {"rejected": ("rejected", "entries")}
    keys = sorted({name for one in (now, *past) for name in one.counts if name.startswith("missing/")})
    found: list[StatisticTest | None] = [_share("rejected", counts, past, total_of["rejected"], 0.03)]
    # A key that one of the two does not have at all is missing there from every entry.
    for key in keys:
        filled = [_with_key(one.counts, key) for one in (now, *past)]
        found.append(_share(key, filled[0], filled[1:], (key, "entries"), 0.03, part=True))
    found.append(_share("changed", counts, past, ("changed", "returning"), 0.1, part=True, side=1))
    if same_version:
        # Once entries come again, most sequences are known; sources of new entries alone have none of them, and never fall.
        found.append(_share("known", counts, past[-1:], ("known", "distinct"), 0.12, part=True, side=-1))
    return found


def _with_key(counts: Mapping[str, int], key: str) -> Mapping[str, int]:
    return counts if key in counts else {**counts, key: counts.get("entries", 0)}


def _share(
    name: str,
    now: Mapping[str, int],
    past: Sequence[Profile] | Sequence[Mapping[str, int]],
    of: tuple[str, str],
    spread: float,
    *,
    part: bool = False,
    side: int = 0,
) -> StatisticTest | None:
    """A share: binomial, and between runs a deviation of `spread`. `part` says whether the first count is part of the second."""
    from scipy import stats

    def counted(counts: Mapping[str, int]) -> tuple[int, int]:
        hits, others = counts.get(of[0], 0), counts.get(of[1], 0)
        return hits, others if part else hits + others

    before = [counted(one.counts if isinstance(one, Profile) else one) for one in past]
    hits, rows = counted(now)
    past_hits, past_rows = (sum(column) for column in zip(*before, strict=True))
    if rows < 16 or past_rows < 16:
        return None
    share, past_share, pooled = hits / rows, past_hits / past_rows, (hits + past_hits + 1) / (rows + past_rows + 2)
    variance = pooled * (1 - pooled) * (1 / rows + 1 / past_rows) + spread**2
    statistic = (share - past_share) / math.sqrt(variance)
    p = float(stats.norm.sf(side * statistic)) if side else float(2 * stats.norm.sf(abs(statistic)))
    return StatisticTest(name=name, p=p, now=f"{100 * share:.1f} %", before=f"{100 * past_share:.1f} %")


# -- histograms and moments --------------------------------------------------------------------------------------------

_Statistic = Callable[..., "tuple[float, int] | None"]


def _tested(
    name: str,
    now: Mapping,
    past: Sequence[Mapping],
    pooled: Mapping,
    statistic: _Statistic,
    describe: Callable[..., str],
    head: str = "",
) -> list[StatisticTest]:
    """A chi-squared statistic of now against the pooled past, over what runs of the past differ from one another more than by chance."""
    from scipy import stats

    if name not in pooled:
        return []
    found = statistic(name, now[name], pooled[name])
    if found is None:
        return []
    value, freedom = found
    excess, runs = 0.0, 0
    own = [one[name] for one in past if name in one]
    for i in range(len(own) if len(own) > 1 else 0):
        others = _sum([one for k, one in enumerate(own) if k != i])
        if (past_found := statistic(name, own[i], others)) is not None:
            excess, runs = excess + past_found[0] / past_found[1], runs + 1
    spread = max(1.0, (_PRIOR_RUNS + excess) / (_PRIOR_RUNS + runs))
    p = float(stats.chi2.sf(value / spread, freedom))
    return [StatisticTest(name=head + name, p=p, now=describe(name, now[name]), before=describe(name, pooled[name]))]


def _sum(parts: Sequence) -> object:
    if isinstance(parts[0], ExactMoments):
        return sum(parts[1:], start=parts[0])
    bins: dict[int, int] = {}
    for one in parts:
        for at, count in one.items():
            bins[at] = bins.get(at, 0) + count
    return bins


def _homogeneity(name: str, now: Mapping[int, int], past: Mapping[int, int]) -> tuple[float, int] | None:
    """Pearson's statistic of two histograms, neighbouring bins merged until ten rows are expected of the smaller one."""
    bins = sorted({*now, *past})
    if name.startswith("key/") and len(bins) > min(_KEY_VALUES, KEY_BUCKETS):
        return None
    if name in ("first", "last") or name.startswith("key/"):
        bins.sort(key=lambda at: now.get(at, 0) + past.get(at, 0))
    rows = np.array([[one.get(at, 0) for at in bins] for one in (now, past)], np.float64)
    sizes = rows.sum(1)
    if sizes.min() < 2 * _EXPECTED:
        return None
    smaller = sizes.min() / sizes.sum()
    cells: list[np.ndarray] = []
    held = np.zeros(2)
    for column in rows.T:
        held = held + column
        if held.sum() * smaller >= _EXPECTED:
            cells.append(held)
            held = np.zeros(2)
    if held.any():
        cells = [*cells[:-1], (cells[-1] if cells else 0) + held]
    if len(cells) < 2:
        return 0.0, 1
    table = np.array(cells).T
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    return float(((table - expected) ** 2 / expected).sum()), len(cells) - 1


def _is_ordered(name: str) -> bool:
    return name in ("gc", "length") or name.startswith("norm/")


def _spread(name: str, now: Mapping[int, int], past: Mapping[int, int]) -> tuple[float, int] | None:
    """Hotelling's statistic of mean and variance of a histogram: a few entries far from the others show in the variance first."""
    bins = np.array(sorted({*now, *past}), np.float64)
    rows = np.array([[one.get(int(at), 0) for at in bins] for one in (now, past)], np.float64)
    sizes = rows.sum(1)
    if sizes.min() < 2 * _EXPECTED:
        return None
    weights = rows.sum(0) / sizes.sum()
    centred = bins - weights @ bins
    features = np.stack([centred, centred**2])
    means = rows @ features.T / sizes[:, None]
    covariance = (features * weights) @ features.T - np.outer(features @ weights, features @ weights)
    # Bins are rounded: one of a constant may be its neighbour on another machine.
    covariance = covariance * (1 / sizes).sum() + np.diag([_ROUNDING**2, 4 * _ROUNDING**2 * max(_ROUNDING**2, covariance[0, 0])])
    apart = means[0] - means[1]
    return float(apart @ np.linalg.solve(covariance, apart)), 2


def _distance(name: str, now: ExactMoments, past: ExactMoments) -> tuple[float, int] | None:
    """Hotelling's statistic of two means, with the covariance of both."""
    dimensions = len(now.sums)
    rows = now.rows + past.rows - 2
    if min(now.rows, past.rows) < _ROWS_PER_DIMENSION * dimensions or dimensions != len(past.sums):
        return None
    apart = now.mean() - past.mean()
    covariance = (now.scatter() + past.scatter()) / rows * (1 / now.rows + 1 / past.rows)
    covariance[np.diag_indices(dimensions)] += _ROUNDING**2
    statistic = float(apart @ np.linalg.solve(covariance, apart))
    # As chi-squared: the covariance is estimated (Fisher's ratio in place of it), which a factor makes up for to first order.
    return statistic * max(0.0, (rows - dimensions + 1) / rows), dimensions


def _describe_bins(name: str, bins: Mapping[int, int]) -> str:
    rows = sum(bins.values())
    if name in ("first", "last") or name.startswith("key/"):
        return f"{len(bins)} values, {rows:,} rows"
    at = sorted(bins)
    counts = np.cumsum([bins[one] for one in at])
    low, middle, high = (at[int(np.searchsorted(counts, share * rows))] for share in (0.05, 0.5, 0.95))
    if name in ("gc", "n_share"):
        return " · ".join(f"{one / 40:.3f}" for one in (low, middle, high))
    unit = 16 if name == "length" else 32
    return " · ".join(f"{2 ** (one / unit):,.4g}" for one in (low, middle, high))


def _describe_moments(name: str, moments: ExactMoments) -> str:
    return f"{moments.rows:,} rows"
