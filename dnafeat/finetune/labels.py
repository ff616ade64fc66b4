"""What a label column means: texts to targets, and logits back to names, for each task of fine-tuning. Neither torch nor Ray.

A label is a text; or, from a list column, the distinct names it holds, in order; or None for an empty cell.
A `places` argument is a function from a row's number in `texts` to where a person finds it, `train.csv:17`; errors begin with it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from dnafeat.errors import UsageError
from dnafeat.finetune import spelling
from dnafeat.finetune.per_base import OUTSIDE, read_per_base, short
from dnafeat.finetune.tasks import TASKS

Label = str | tuple[str, ...] | None
Places = Callable[[int], str]
# Of fewer rows each may well be a class of its own.
_FEW = 20
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Labels:
    """What training labels mean, fitted on them alone.

    Attributes
    ----------
    task : str
        One of `TASKS`.
    names : tuple of str
        Class names, by number where all are numbers, else sorted; output i of the head is `names[i]`. Empty for regression.
    mean, std : float
        Of the training targets of a regression, std over n; 0 and 1 for other tasks.
    """

    task: str
    names: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def width(self) -> int:
        """Outputs of the head: one for each name (binary: two), 1 for regression."""
        return len(self.names) or 1

    @classmethod
    def fit(cls, texts: Sequence[Label], task: str | None, places: Places, lengths: Sequence[int] | None = None) -> Labels:
        """From the labels of the training rows.

        Parameters
        ----------
        texts : sequence of str, tuple of str, or None
            As read from a table; white space around a label or a name in a text does not count. multilabel: names with `;` between,
            an empty text for none of them, or the names themselves, which then may have a `;` inside. token: one character per base,
            or intervals `start-end=name`, 0-based and half open, with `;` between, bases outside them being of class `none`.
        task : str | None
            None: binary for two distinct labels and multiclass for more.
        places : function of int to str
        lengths : sequence of int | None
            Bases of each sequence; task token needs them.

        Raises
        ------
        UsageError
            A label is null, empty or `NA` and the like, a list (except multilabel) or no finite number (regression), truth values
            stand beside numbers, labels per base do not fit their sequence, all labels are the same, there are
            more than two of a binary task, or no task is given and the labels are lists, or look like lists or targets.
        """
        if task is not None and task not in TASKS:
            raise UsageError(f"there is no task {task!r}: give --task one of {', '.join(TASKS)}")
        if len(texts) == 0:
            raise UsageError("there are no training rows to take labels from; give a training file that has some")
        between = f"{places(0)} to {places(len(texts) - 1)}"
        if task == "regression":
            values = _numbers(texts, places)
            if values.min() == values.max() or values.std() == 0:
                raise UsageError(f"{between}: every target is {values[0]:g}; a regression needs targets that differ")
            return cls(task, mean=float(values.mean()), std=float(values.std()))
        seen = {frozenset(names) for names, _ in _rows(texts, task or "multiclass", places, lengths)}
        written = frozenset[str]().union(*seen)
        one_name = spelling.joined(written, between) if task != "token" else {name: name for name in written}
        seen = {frozenset(one_name[name] for name in names) for names in seen}
        names = _ordered(set(one_name.values()))
        if len(names if task == "token" else seen) < 2:
            what = f"label {_listed(names)!r}" if names else "no label"
            raise UsageError(
                f"{between}: every row has {what}, so there is nothing to tell apart; give rows of two or more kinds"
            )
        if task is None:
            task = _guess(names, texts, places)
        if task == "multiclass" and 2 * len(names) > len(texts) >= _FEW:
            told = f"{between}: {len(names):,} classes for {len(texts):,} rows, {_listed(names)}; is it the column of labels?"
            logging.getLogger(__name__).warning(told)
        if task == "binary" and len(names) > 2:
            raise UsageError(
                f"{between}: a binary task has two labels, and these rows have {_listed(names)}; give --task multiclass"
            )
        return cls(task, names)

    def encode(
        self, texts: Sequence[Label], places: Places, lengths: Sequence[int] | None = None
    ) -> np.ndarray | list[np.ndarray]:
        """The targets of any split; parameters and errors as for `fit`, and UsageError for a label that train does not have.

        Returns
        -------
        np.ndarray, shape=(n,), int64
            binary, multiclass: the number of the class.
        np.ndarray, shape=(n, width), float32
            multilabel: 1 for each label that a row has, else 0.
        np.ndarray, shape=(n,), float32
            regression: targets less train's mean, over train's standard deviation.
        list of np.ndarray, shape=(bases,), int64
            token: the class of each base, an array for each sequence.
        """
        if self.task == "regression":
            return ((_numbers(texts, places) - self.mean) / self.std).astype(np.float32)
        index = {name: i for i, name in enumerate(self.names)}
        if self.task != "token":
            index = {spelling.canonical(name): i for name, i in index.items()} | index
        found: list[np.ndarray] = []
        for i, (names, codes) in enumerate(_rows(texts, self.task, places, lengths)):
            if self.task != "token":
                names = [name if name in index else spelling.canonical(name) for name in names]
            if strange := [name for name in names if name not in index]:
                raise UsageError(
                    f"{places(i)}: label {short(strange[0])!r} is not among those of the training rows, {_listed(self.names)}; correct "
                    f"it, take the row out, or train on rows that have it"
                )
            found.append(np.array([index[name] for name in names], np.int64)[codes])
        if self.task == "token":
            return found
        if self.task != "multilabel":
            return np.concatenate([np.empty(0, np.int64), *found])
        encoded = np.zeros((len(found), self.width), np.float32)
        for row, classes in zip(encoded, found, strict=True):
            row[classes] = 1
        return encoded

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Softmax, or sigmoid for multilabel, of logits (n, width); for regression predictions on the original scale. Float64."""
        wide = np.asarray(logits, np.float64)
        if self.task == "regression":
            return wide * self.std + self.mean
        return expit(wide) if self.task == "multilabel" else softmax(wide, axis=1)

    def choices(self, logits: np.ndarray) -> np.ndarray:
        """What is predicted from logits (n, width), as numbers.

        Returns
        -------
        np.ndarray, shape=(n,), int64
            The class with the highest logit, the first of equal ones; -1 for a row with a NaN (a base that no token covers).
        np.ndarray, shape=(n, width), int64
            multilabel: 1 where the probability is 0.5 or more, else 0.
        np.ndarray, shape=(n,), float64
            regression: on the original scale.
        """
        if self.task == "regression":
            return self.probabilities(logits)[:, 0]
        if self.task == "multilabel":
            return (self.probabilities(logits) >= 0.5).astype(np.int64)
        return np.where(np.isnan(logits).any(axis=1), -1, np.argmax(logits, axis=1))

    def predicted(self, logits: np.ndarray) -> list[str] | np.ndarray:
        """`choices` as names, an empty text for a row with a NaN; for regression as they are.

        Multilabel has `;` between; a name from a list column that has one inside is not told apart here, but is by `probabilities`.
        """
        chosen = self.choices(logits)
        if self.task == "regression":
            return chosen
        if self.task == "multilabel":
            return [";".join(self.names[i] for i in np.flatnonzero(row)) for row in chosen]
        names = (*self.names, "")
        return [names[i] for i in chosen]

    def class_weights(self, encoded: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Weights that balance the classes of training targets, (width,) float32, for cross-entropy's `weight`.

        n / (k · count) as scikit-learn's `balanced`, and 0 for a class without rows. For multilabel what a row with the label weighs
        for one without it, for `pos_weight` of BCEWithLogitsLoss, and 1 where all rows or none have it. Raises UsageError for regression.
        """
        if self.task == "regression":
            raise UsageError("class weights need classes, and --task regression has none; leave them out")
        if self.task == "multilabel":
            have = np.asarray(encoded).sum(axis=0, dtype=np.float64)
            lack = len(encoded) - have
            return np.where((have > 0) & (lack > 0), lack / np.maximum(have, 1), 1).astype(np.float32)
        flat = flatten(encoded)
        counts = np.bincount(flat[flat >= 0], minlength=self.width)
        return np.where(counts > 0, counts.sum() / (self.width * np.maximum(counts, 1)), 0).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {"task": self.task, "names": list(self.names), "mean": self.mean, "std": self.std}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Labels:
        """What `to_dict` made. Raises UsageError when other keys or another task stand there."""
        if set(values) != {"task", "names", "mean", "std"} or values["task"] not in TASKS:
            raise UsageError(
                f"labels of an artifact have task (one of {', '.join(TASKS)}), names, mean and std, and these are {dict(values)}; "
                f"take the artifact as it was written"
            )
        return cls(values["task"], tuple(values["names"]), float(values["mean"]), float(values["std"]))


def flatten(encoded: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """What `encode` returned as one array: sequence after sequence for token, else as it is."""
    return encoded if isinstance(encoded, np.ndarray) else np.concatenate([np.empty(0, np.int64), *encoded])


def _rows(
    texts: Sequence[Label], task: str, places: Places, lengths: Sequence[int] | None
) -> Iterable[tuple[list[str], np.ndarray]]:
    """For each row the names it has, and what stands where as positions among them: (1,), (labels,) or (bases,) int64."""
    if task == "token" and (lengths is None or len(lengths) != len(texts)):
        raise ValueError("labels per base need the length of each sequence")
    for i, text in enumerate(texts):
        if isinstance(text, tuple):
            if task != "multilabel":
                raise _a_list(text, places(i))
            yield list(text), np.arange(len(text))
            continue
        length = int(lengths[i]) if task == "token" and lengths is not None else 0
        if task != "token" and text and (fault := spelling.fault(text, several=task == "multilabel")):
            raise UsageError(f"{places(i)}: {fault}")
        if task == "multilabel":
            text = text or ""  # a table's empty cell: none of the labels
        if text is None or (task != "multilabel" and not text.strip()):
            how = f"; write 0-{length}={OUTSIDE} where there is nothing to mark" if length else ""
            raise UsageError(
                f"{places(i)}: the label is {'null' if text is None else 'empty'}; fill it in or take the row out{how}"
            )
        if task == "token":
            yield read_per_base(text, length, places(i))
        else:
            names = sorted({part.strip() for part in text.split(";")} - {""}) if task == "multilabel" else [text.strip()]
            yield names, np.arange(len(names))


def _a_list(names: tuple[str, ...], place: str) -> UsageError:
    return UsageError(
        f"{place}: the label is a list, {short(str(list(names)))}; give --task multilabel, or a column with one label a row"
    )


def _numbers(texts: Sequence[Label], places: Places) -> np.ndarray:
    """Targets, (n,) float64, or UsageError for the first that is none."""
    values = np.empty(len(texts))
    for i, text in enumerate(texts):
        if isinstance(text, tuple):
            raise _a_list(text, places(i))
        if text is None or not text.strip():
            raise UsageError(f"{places(i)}: the target is {'null' if text is None else 'empty'}; fill it in or take the row out")
        number = _NUMBER.fullmatch(text.strip())
        values[i] = float(number[0]) if number else np.nan
        if not abs(values[i]) <= np.finfo(np.float32).max:
            raise UsageError(
                f"{places(i)}: target {short(text)!r} is not a finite number that float32 can hold; correct it, or take the row out"
            )
    return values


def _guess(names: Sequence[str], texts: Sequence[Label], places: Places) -> str:
    """Binary or multiclass; UsageError where labels look like lists or like targets and no task was given."""
    for i, text in enumerate(texts):
        if isinstance(text, str) and ";" in text:
            raise UsageError(
                f"{places(i)}: label {short(text)!r} may be a list; give --task multilabel or token, or --task multiclass where it is "
                f"one name"
            )
    numbers = [float(name) for name in names if _NUMBER.fullmatch(name)]
    if len(numbers) == len(names) > len(texts) / 2 and not all(number.is_integer() for number in numbers):
        raise UsageError(
            f"{places(0)} to {places(len(texts) - 1)}: {len(names):,} of {len(texts):,} labels are different numbers, {_listed(names)}; "
            f"give --task regression, or --task multiclass where each is a class"
        )
    return "binary" if len(names) == 2 else "multiclass"


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    if all(_NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(short(name) for name in names[:10]) + more
