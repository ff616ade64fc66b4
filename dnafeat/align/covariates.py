"""Removal of covariates from vectors: fitted on training subjects alone, kept, and applied the same way to new subjects.

A vector becomes what is left of it: y − D·coef, where D has a column for each number (z-scored on the training subjects) and for each
level of a text (one-hot, less the training share). So the training mean stays, and a level that training did not have changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnafeat.errors import UsageError
from dnafeat.keys import as_number

Column = Sequence[str | None]


@dataclass(frozen=True)
class Covariates:
    """The coding of covariates as numbers.

    Attributes
    ----------
    numbers : mapping of str to (float, float)
        For each covariate that is a number: mean and standard deviation over the training rows.
    levels : mapping of str to mapping of str to float
        For each that is a text: its levels in training, in their order, and the share of each.
    """

    numbers: Mapping[str, tuple[float, float]]
    levels: Mapping[str, Mapping[str, float]]

    @classmethod
    def fit(cls, columns: Mapping[str, Column], train: np.ndarray, categorical: Sequence[str] = ()) -> Covariates:
        """Fit the coding on the values of training rows.

        Parameters
        ----------
        columns : mapping of str to sequence of str, (n,)
            Without missing values.
        train : np.ndarray, shape=(n,), bool
        categorical : sequence of str
            Covariates whose values are names though they look like numbers, such as a site's.

        Raises
        ------
        UsageError
            A covariate has one value for all training subjects, or a text for each of them.
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
        return cls(numbers, levels)

    @property
    def width(self) -> int:
        return len(self.numbers) + sum(map(len, self.levels.values()))

    def design(self, columns: Mapping[str, Column], keys: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
        """The design matrix of some subjects, (n, width) float64, and how many have a level that training did not have.

        Raises UsageError where a number is none; `keys` name the subjects.
        """
        parts, strange = [], {}
        for name, (mean, std) in self.numbers.items():
            found = as_numbers(columns[name])
            if found is None:
                at = next(i for i, value in enumerate(columns[name]) if as_numbers([value]) is None)
                raise UsageError(
                    f"covariate {name!r} of {keys[at]!r} is {columns[name][at]!r}, and it is a number for the training subjects: mend it, "
                    f"or name the column with --categorical"
                )
            parts.append(((found - mean) / std)[:, None])
        for name, shares in self.levels.items():
            names, values = list(shares), np.array([value or "" for value in columns[name]], str)
            hot = (values[:, None] == np.array(names, str)[None, :]).astype(np.float64)
            known = hot.any(axis=1)
            if count := int((~known).sum()):
                strange[name] = count
            parts.append(np.where(known[:, None], hot - np.array(list(shares.values())), 0.0))
        return np.hstack(parts) if parts else np.empty((len(keys), 0)), strange

    def to_dict(self) -> dict[str, Any]:
        return {
            "numbers": {name: list(pair) for name, pair in self.numbers.items()},
            "levels": {k: dict(v) for k, v in self.levels.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Covariates:
        return cls({name: (pair[0], pair[1]) for name, pair in values["numbers"].items()}, values["levels"])


def as_numbers(values: Sequence[str | None]) -> np.ndarray | None:
    """Texts as finite numbers, (n,) float64; None where one is none."""
    found = [None if value is None else as_number(value) for value in values]
    return None if None in found else np.array(found, np.float64)


def coefficients(design: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Fit covariates to training vectors: least squares of least norm, (covariate columns, width) float64."""
    wide = np.asarray(vectors, np.float64)
    return np.linalg.lstsq(design - design.mean(axis=0), wide - wide.mean(axis=0), rcond=None)[0]
