"""All measures of an alignment on its held-out subjects: how they are found, how alike they are, what is told by them, gene by gene.

A subject counts once, with the mean of its rows where it has several. Tests take the covariates out of the tested subjects once more
(`nuisance`), and families are shuffled and drawn as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from dnafeat.align import kinship, measures
from dnafeat.align.covariates import as_numbers
from dnafeat.align.measures import Estimate, Ranks, Tested
from dnafeat.align.nuisance import Residuals
from dnafeat.align.probe import probe
from dnafeat.align.subjects import Subjects
from dnafeat.errors import UsageError

KS = (1, 5, 10)
# Held-out subjects whose likeness to each other CKA takes; more are drawn from.
_CKA_SUBJECTS = 4000
_LEAST = 8
_EXPLAINED_SHUFFLES = 199
_NUMBERS = 10  # distinct values above which a phenotype of numbers is a quantity and not a class


@dataclass(frozen=True)
class Modality:
    """One modality on one side of the split, a row for each subject.

    Attributes
    ----------
    prepared : np.ndarray, shape=(subjects, width)
    projected : np.ndarray, shape=(subjects, 512)
    """

    prepared: np.ndarray
    projected: np.ndarray


@dataclass(frozen=True)
class Scores:
    """What was measured.

    Attributes
    ----------
    told : dict
        For JSON.
    ranks : mapping of str to Ranks
        Of both directions, for the picture.
    tests : mapping of str to Tested
    """

    told: dict[str, Any]
    ranks: Mapping[str, Ranks]
    tests: Mapping[str, Tested]


Sides = Mapping[str, Mapping[str, Modality]]
"""For `train` and `test`, the modalities `dna` and the partner's name."""
Ablate = Callable[[int], Mapping[str, Modality]]
"""For the number of a gene, the DNA of `train` and `test` without it."""
Nuisance = Callable[[np.ndarray], Residuals]
"""For rows of `Subjects`, one of each subject, the map to what tests exchange, without the covariates."""


def score(
    subjects: Subjects,
    sides: Sides,
    *,
    ablate: Ablate | None = None,
    nuisance: Nuisance | None = None,
    phenotype: str | None = None,
    permutations: int,
    resamples: int,
    seed: int,
) -> Scores:
    """Measures the held-out subjects.

    Raises
    ------
    UsageError
        A phenotype cannot be told: too few have it, or all the same.
    """
    # Fits are so small that sharing them out over CPUs costs more than it brings.
    with threadpool_limits(1):
        return _score(subjects, sides, ablate, nuisance, phenotype, permutations, resamples, seed)


def _score(
    subjects: Subjects,
    sides: Sides,
    ablate: Ablate | None,
    nuisance: Nuisance | None,
    phenotype: str | None,
    permutations: int,
    resamples: int,
    seed: int,
) -> Scores:
    name = subjects.name
    families = {side: subjects.exchanged(subjects.first(side)) for side in ("train", "test")}
    residuals = nuisance or (lambda at: Residuals.none(subjects.exchanged(at)))
    left = {side: residuals(subjects.first(side)) for side in families}
    orders = {side: list(kinship.shuffles(own.groups, permutations, seed)) for side, own in left.items()}
    draws = list(kinship.resamples(families["test"], resamples, seed))
    dna, partner = sides["test"]["dna"], sides["test"][name]
    count = len(dna.projected)
    same = [kinship.identical(one.prepared) for one in (dna, partner)]
    ranks = {
        f"dna to {name}": measures.rank(dna.projected, partner.projected),
        f"{name} to dna": measures.rank(partner.projected, dna.projected),
    }
    told: dict[str, Any] = {
        "subjects": count,
        "families": len(np.unique(families["test"])),
        "retrieval": {
            way: _retrieval(found, draws, count, *(same if number == 0 else same[::-1]))
            for number, (way, found) in enumerate(ranks.items())
        },
    }
    some = np.random.default_rng([seed, 4]).permutation(count)[:_CKA_SUBJECTS] if count > _CKA_SUBJECTS else np.arange(count)
    rest, shuffled = left["test"], orders["test"]
    if len(some) < count:
        rest = residuals(subjects.first("test")[some])
        shuffled = list(kinship.shuffles(rest.groups, permutations, seed))
    pairs = [(own(sides[side]["dna"].prepared), own(sides[side][name].prepared)) for side, own in left.items()]
    tests = {
        "CKA of the vectors": measures.cka(rest(dna.prepared[some]), rest(partner.prepared[some]), shuffled),
        "CKA of the projected": measures.cka(rest(dna.projected[some]), rest(partner.projected[some]), shuffled),
        "CCA of the vectors": measures.cca(pairs[0], pairs[1], orders["train"], orders["test"]),
    }
    told["tests"] = {what: {"value": one.value, "p": one.p, "shuffles": permutations} for what, one in tests.items()}
    moved = left["test"].groups
    told["exchanged"] = {"rows": len(moved), "groups": len(np.unique(moved)), "movable": kinship.movable(moved)}
    if rest.families is not None:
        told["exchanged"] |= {"columns": rest.columns, "left_out": rest.left_out}
        order = list(kinship.shuffles(np.arange(len(rest.basis)), min(permutations, _EXPLAINED_SHUFFLES), seed))
        told["explained"] = {which: _explained(rest, one.prepared[some], order) for which, one in sides["test"].items()}
    told_by = None if phenotype is None else target(subjects, phenotype)
    if told_by is not None:
        sizes = {"train": len(told_by.values[0]), "test": len(told_by.values[1])}
        told["probe"] = {"phenotype": phenotype, "kind": told_by.kind, **sizes}
        blocks = {
            f"{kind} {which}": [_both(sides, one, kind) for one in names]
            for kind in ("prepared", "projected")
            for which, names in {"dna": ["dna"], name: [name], "both": ["dna", name]}.items()
        }
        told["probe"]["blocks"] = {what: _estimates(told_by.probe(own, resamples, seed)) for what, own in blocks.items()}
    if ablate is not None:
        told["genes"] = [
            {"gene": gene}
            | _without(subjects, sides, left, ablate(number), ranks[f"dna to {name}"], told_by, told, draws, number)
            for number, gene in enumerate(subjects.genes)
        ]
    return Scores(told, ranks, tests)


def _explained(rest: Residuals, values: np.ndarray, orders: list[np.ndarray]) -> dict[str, Any]:
    """The share of held-out variance that covariates explain after their removal, and how often strangers' covariates explain as much."""
    found = Tested.of(*rest.explained(values, orders))
    return {"value": found.value, "p": found.p, "shuffles": len(orders)}


def _retrieval(
    found: Ranks, draws: Sequence[np.ndarray], count: int, queries: np.ndarray, candidates: np.ndarray
) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for k in KS:
        more = {"chance": min(1.0, k / count), "ceiling": measures.ceiling(k, queries, candidates)}
        told[f"recall@{k}"] = asdict(measures.mean_of(found.recalled(k), draws)) | more
    told["median_rank"] = asdict(measures.median_of(found.ranks(), draws)) | {"chance": (count + 1) / 2}
    return told


def _both(sides: Sides, name: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(sides["train"][name], kind), getattr(sides["test"][name], kind)


def _estimates(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(one) for name, one in found.items()}


@dataclass(frozen=True)
class Target:
    """A phenotype of training and held-out subjects, of those that have it.

    Attributes
    ----------
    kind : str
        `number` or `class`.
    values : (np.ndarray, np.ndarray)
    groups : np.ndarray
        Of the training subjects, which folds keep whole.
    families : np.ndarray
        Of the held-out subjects, which are drawn as a whole.
    has : (np.ndarray, np.ndarray), bool
        Which subjects of a side have one.
    """

    kind: str
    values: tuple[np.ndarray, np.ndarray]
    groups: np.ndarray
    families: np.ndarray
    has: tuple[np.ndarray, np.ndarray]

    def probe(self, blocks: Sequence[tuple[np.ndarray, np.ndarray]], resamples: int, seed: int) -> Mapping[str, Estimate]:
        own = [(train[self.has[0]], test[self.has[1]]) for train, test in blocks]
        return probe(own, self.values, (self.groups, self.families), list(kinship.resamples(self.families, resamples, seed)))


def target(subjects: Subjects, phenotype: str) -> Target:
    """The phenotype that probes tell: a number where it is one for all training subjects, with more than ten values; else a class.

    Raises UsageError where too few have it, or all the same, or it is neither.
    """
    column = subjects.columns[phenotype]
    texts = {side: [column[i] for i in subjects.first(side)] for side in ("train", "test")}
    has = {side: np.array([one is not None for one in own], bool) for side, own in texts.items()}
    there = {side: [one for one in own if one is not None] for side, own in texts.items()}
    for side, own in there.items():
        if len(own) < _LEAST or len(set(own)) < 2:
            raise UsageError(
                f"{len(own):,} {side} subjects have a value of phenotype {phenotype!r}, {len(set(own)):,} of them different, and a probe "
                f"needs {_LEAST} on each side, not all the same: name another column, or leave it out"
            )
    fitted, shown = (as_numbers(there[side]) for side in ("train", "test"))
    quantity = fitted is not None and len(np.unique(fitted)) > _NUMBERS
    many = len(set(there["train"]))
    if not quantity and many > len(there["train"]) // 4:
        raise UsageError(
            f"phenotype {phenotype!r} has {many:,} different texts for {len(there['train']):,} training subjects, such as "
            f"{there['train'][0]!r}: it is neither a number nor a class; name another column, or mend the cells that are no numbers"
        )
    if quantity and shown is None:
        raise UsageError(
            f"phenotype {phenotype!r} is a number for the training subjects and not for all held out: mend the cells"
        )
    values = (
        [fitted, shown]
        if fitted is not None and shown is not None and quantity
        else [np.array(own, str) for own in there.values()]
    )
    return Target(
        kind="number" if quantity else "class",
        values=(values[0], values[1]),
        groups=subjects.groups[subjects.first("train")][has["train"]],
        families=subjects.exchanged(subjects.first("test"))[has["test"]],
        has=(has["train"], has["test"]),
    )


def _without(
    subjects: Subjects,
    sides: Sides,
    left: Mapping[str, Residuals],
    dna: Mapping[str, Modality],
    whole: Ranks,
    told_by: Target | None,
    told: Mapping[str, Any],
    draws: Sequence[np.ndarray],
    gene: int,
) -> dict[str, Any]:
    """What it costs to take a gene away: what was measured with it less what is measured without."""
    name = subjects.name
    found = measures.rank(dna["test"].projected, sides["test"][name].projected)
    lost: dict[str, Any] = {f"recall@{k}": asdict(measures.mean_of(whole.recalled(k) - found.recalled(k), draws)) for k in KS}
    lost["median_rank"] = asdict(measures.mean_of(whole.ranks() - found.ranks(), draws)) | {
        "value": float(np.median(whole.ranks()) - np.median(found.ranks())),
        "low": None,
        "high": None,
    }
    pairs = [(left[side](dna[side].prepared), left[side](sides[side][name].prepared)) for side in ("train", "test")]
    value = measures.cca(pairs[0], pairs[1]).value
    lost["CCA"] = {"value": told["tests"]["CCA of the vectors"]["value"] - value}
    if told_by is not None:
        block = [(dna["train"].prepared, dna["test"].prepared)]
        for metric, one in told_by.probe(block, 0, 0).items():
            before = told["probe"]["blocks"]["prepared dna"][metric]["value"]
            both = before is not None and one.value is not None
            lost[metric] = {"value": before - one.value if both else None}
    at = subjects.first("test")
    share = None if subjects.mask is None else float(subjects.mask[at, gene].mean())
    return {"present": share, "cost": lost}
