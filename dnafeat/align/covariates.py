"""Removal of covariates from vectors: fitted on training subjects alone, kept, and applied the same way to new subjects.

A vector becomes what is left of it: y − D·coef, where D has a column for each number (z-scored on the training subjects) and for each
level of a text (one-hot, less the training share), and those of the terms that were asked for (`terms`). So the training mean stays,
and a level that training did not have changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnafeat.align.nuisance import Families, Residuals
from dnafeat.align.terms import Curves, Term, curve, interaction
from dnafeat.errors import UsageError
from dnafeat.keys import as_number

Column = Sequence[str | None]
_FEW_LEVELS = 4  # of a text, up to which its products with others are taken out of permutation tests


@dataclass(frozen=True)
class Covariates:
    """The coding of covariates as numbers.

    Attributes
    ----------
    numbers : mapping of str to (float, float)
        For each covariate that is a number: mean and standard deviation over the training rows.
    levels : mapping of str to mapping of str to float
        For each that is a text: its levels in training, in their order, and the share of each.
    terms : tuple of Term
        Curves of numbers and products of two covariates, with what was fitted for them.
    """

    numbers: Mapping[str, tuple[float, float]]
    levels: Mapping[str, Mapping[str, float]]
    terms: tuple[Term, ...] = ()

    @classmethod
    def fit(
        cls,
        columns: Mapping[str, Column],
        train: np.ndarray,
        categorical: Sequence[str] = (),
        curves: Curves = "linear",
        interactions: Sequence[tuple[str, str]] = (),
    ) -> Covariates:
        """Fit the coding on the values of training rows.

        Parameters
        ----------
        columns : mapping of str to sequence of str, (n,)
            Without missing values.
        train : np.ndarray, shape=(n,), bool
        categorical : sequence of str
            Covariates whose values are names though they look like numbers, such as a site's.
        curves : Curves
            How numbers enter: `linear`, also with their `squares`, or as `splines`.
        interactions : sequence of (str, str)
            Pairs of covariates whose products enter.

        Raises
        ------
        UsageError
            A covariate has one value for all training subjects, or a text for each of them, or all come to more columns than half of
            the training subjects.
        """
        numbers: dict[str, tuple[float, float]] = {}
        levels: dict[str, Mapping[str, float]] = {}
        for name, column in columns.items():
            values = [value for value, own in zip(column, train, strict=True) if own and value is not None]
            if len(set(values)) < 2:
                raise UsageError(
                    f"covariate {name!r} is {values[0] if values else ''!r} for every training subject and explains nothing: leave it out"
                )
            found = None if name in categorical else as_numbers(values)
            if found is not None:
                numbers[name] = (float(found.mean()), float(found.std()) or 1.0)
                continue
            seen, counts = np.unique(np.array(values, str), return_counts=True)
            if len(seen) > len(values) // 2:
                raise UsageError(
                    f"covariate {name!r} has {len(seen)} different texts for {len(values)} training subjects, such as {str(seen[0])!r}: "
                    f"it names people rather than explains them; leave it out, or mend the cells that are no numbers"
                )
            levels[name] = dict(zip(seen.tolist(), (counts / len(values)).tolist(), strict=True))
        plain = cls(numbers, levels)
        some = {name: [value for value, own in zip(column, train, strict=True) if own] for name, column in columns.items()}
        blocks = plain._blocks(some, [""] * int(train.sum()))
        terms = [curve(name, blocks[name], curves) for name in numbers]
        terms += [interaction(a, b, blocks) for a, b in interactions]
        known = [term for term in terms if term is not None]
        rank = int(np.linalg.matrix_rank(np.hstack([*blocks.values(), *(term(blocks) for term in known)])))
        if rank > (count := int(train.sum())) // 2:
            raise UsageError(
                f"the covariates and their terms come to {rank:,} independent columns for {count:,} training subjects, and half as many "
                f"can be fitted: leave terms or covariates out, pool rare levels, or bring more subjects"
            )
        return cls(numbers, levels, tuple(known))

    @property
    def names(self) -> list[str]:
        return [*self.numbers, *self.levels]

    @property
    def width(self) -> int:
        return len(self.numbers) + sum(map(len, self.levels.values())) + sum(term.width for term in self.terms)

    def design(self, columns: Mapping[str, Column], keys: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
        """The design matrix of some subjects, (n, width) float64, and how many have a level that training did not have.

        Raises UsageError where a number is none; `keys` name the subjects.
        """
        blocks = self._blocks(columns, keys)
        strange = {name: count for name in self.levels if (count := int((~blocks[name].any(axis=1)).sum()))}
        parts = [*blocks.values(), *(term(blocks) for term in self.terms)]
        return np.hstack(parts) if parts else np.empty((len(keys), 0)), strange

    def nuisance(self, columns: Mapping[str, Column], keys: Sequence[str], families: Families) -> Residuals:
        """Make the map that takes the covariates out of some subjects, fitted on these subjects: for permutation tests.

        Beside the columns of the design and the subjects' own levels it takes out curves of numbers and products of pairs, as many
        as there are subjects for.
        """
        own = self._blocks(columns, keys)
        plain = [self.design(columns, keys)[0]]
        for name in self.levels:
            values = np.array([value or "" for value in columns[name]], str)
            plain.append((values[:, None] == np.unique(values)[None, :]).astype(np.float64))
        terms = [curve(name, own[name], "splines") for name in self.numbers]
        few = [name for name in own if own[name].shape[1] <= _FEW_LEVELS]
        terms += [interaction(a, b, own) for i, a in enumerate(few) for b in few[:i]]
        further = [term(own) for term in terms if term is not None]
        return Residuals.of(families, np.hstack(plain), np.hstack([np.empty((len(keys), 0)), *further]))

    def _blocks(self, columns: Mapping[str, Column], keys: Sequence[str]) -> dict[str, np.ndarray]:
        """The plain columns of each covariate, (n, 1) of a number and (n, levels) of a text; nothing but 0 for an unknown level."""
        found = {}
        for name, (mean, std) in self.numbers.items():
            values = as_numbers(columns[name])
            if values is None:
                at = next(i for i, value in enumerate(columns[name]) if as_numbers([value]) is None)
                raise UsageError(
                    f"covariate {name!r} of {keys[at]!r} is {columns[name][at]!r}, and it is a number for the training subjects: mend it, "
                    f"or name the column with --categorical"
                )
            found[name] = ((values - mean) / std)[:, None]
        for name, shares in self.levels.items():
            texts = np.array([value or "" for value in columns[name]], str)
            hot = (texts[:, None] == np.array(list(shares), str)[None, :]).astype(np.float64)
            found[name] = np.where(hot.any(axis=1, keepdims=True), hot - np.array(list(shares.values())), 0.0)
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "numbers": {name: list(pair) for name, pair in self.numbers.items()},
            "levels": {k: dict(v) for k, v in self.levels.items()},
            **({"terms": [term.to_dict() for term in self.terms]} if self.terms else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Covariates:
        numbers = {name: (pair[0], pair[1]) for name, pair in values["numbers"].items()}
        return cls(numbers, values["levels"], tuple(Term.from_dict(one) for one in values.get("terms", ())))


def as_numbers(values: Sequence[str | None]) -> np.ndarray | None:
    """Texts as finite numbers, (n,) float64; None where one is none."""
    found = [None if value is None else as_number(value) for value in values]
    return None if None in found else np.array(found, np.float64)


def coefficients(design: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Fit covariates to training vectors: least squares of least norm, (covariate columns, width) float64."""
    wide = np.asarray(vectors, np.float64)
    return np.linalg.lstsq(design - design.mean(axis=0), wide - wide.mean(axis=0), rcond=None)[0]
