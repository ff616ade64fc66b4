"""Labels: what is fitted, encoded and given back for each task, and every refusal."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from dnafeat.errors import UsageError
from dnafeat.finetune.labels import Label, Labels, flatten
from dnafeat.finetune.per_base import IGNORED
from dnafeat.finetune.spelling import canonical, fault
from dnafeat.finetune.tasks import TASKS

pytestmark = pytest.mark.filterwarnings("error")
Texts = list[Label]


def train(i: int) -> str:
    return f"train.csv:{i + 1}"


def dev(i: int) -> str:
    return f"dev.csv:{i + 1}"


def fit(texts: Texts, task: str | None = None, lengths: list[int] | None = None) -> Labels:
    return Labels.fit(texts, task, train, lengths)


EVERY = {
    "binary": fit(["yes", "no", "no"], "binary"),
    "multiclass": fit(["b", "a", "c", "a"], "multiclass"),
    "multilabel": fit(["b;a", "", "c"], "multilabel"),
    "regression": fit(["1", "2", "6"], "regression"),
    "token": fit(["0-2=exon", "..EE"], "token", [3, 4]),
}


# Fitting


@pytest.mark.parametrize(
    ("texts", "task", "names"),
    [
        (["1", "0", "1"], "binary", ("0", "1")),
        (["10", "9", "9"], "binary", ("9", "10")),
        (["2", "10", "1", "1.5e0"] * 2, "multiclass", ("1", "1.5e0", "2", "10")),
        (["2", "10", "x"], "multiclass", ("10", "2", "x")),
        (["1.0", "1", "-1"], "binary", ("-1", "1")),
        ([" yes", "yes ", "no"], "binary", ("no", "yes")),
    ],
)
def test_without_a_task_two_labels_are_binary_and_more_are_multiclass(texts: Texts, task: str, names: tuple[str, ...]) -> None:
    assert fit(texts) == fit(texts, task) == Labels(task, names)


@pytest.mark.parametrize(
    ("texts", "names", "codes"),
    [
        (["0", "0.0", "1", "1.0"], ("0", "1"), [0, 0, 1, 1]),
        (["True", "TRUE", "false"], ("false", "true"), [1, 1, 0]),
        (["0.5", "0.50", "1", "1"], ("0.5", "1"), [0, 0, 1, 1]),
        # One spelling each: as they are.
        (["0.0", "1.0"], ("0.0", "1.0"), [0, 1]),
        (["01", "02"], ("01", "02"), [0, 1]),
    ],
)
def test_a_class_that_is_spelled_in_two_ways_is_one_class(texts: Texts, names: tuple[str, ...], codes: list[int]) -> None:
    labels = fit(texts)
    assert labels.names == names
    assert np.asarray(labels.encode(texts, train)).tolist() == codes


def test_other_spellings_of_the_trained_classes_are_known() -> None:
    assert np.asarray(Labels("binary", ("0.0", "1.0")).encode(["0", "1", "1.00"], dev)).tolist() == [0, 1, 1]
    # What older releases took for four classes stays four.
    assert np.asarray(Labels("multiclass", ("0", "0.0", "1", "1.0")).encode(["0", "0.0", "1.0"], dev)).tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("texts", "task", "sentence"),
    [
        (["0", "1", "NA"], None, "train.csv:3: the label 'NA' counts as missing"),
        (["nan", "2", "10"], None, "train.csv:1: the label 'nan' counts as missing"),
        (["1.5", "n/a"], "regression", "train.csv:2: target 'n/a' is not a finite number"),
        (["a;b", "NULL"], "multilabel", "train.csv:2: the label 'NULL' counts as missing"),
        (["True", "0"], None, "the labels 'True' and '0' may mean the same"),
        (["[1, 0]", "[0, 1]"], None, "is a list written as text"),
        (["['a', 'b']", "['c']"], "multilabel", "is a list written as text"),
    ],
)
def test_labels_that_may_mean_something_else_are_refused(texts: Texts, task: str | None, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        fit(texts, task)
    assert sentence in str(error.value)


def test_classes_that_may_be_one_and_classes_by_the_row_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert fit(["Yes", "yes", "no"]).names == ("Yes", "no", "yes")
    assert fit(["01", "1", "2"]).names == ("01", "1", "2")
    fit([f"S{i}" for i in range(30)])
    for words in ("'Yes' and 'yes' differ in case alone", "'01' and '1' are one number", "30 classes for 30 rows"):
        assert words in caplog.text


@pytest.mark.parametrize(
    ("task", "width"), [("binary", 2), ("multiclass", 3), ("multilabel", 3), ("regression", 1), ("token", 4)]
)
def test_width_is_the_number_of_outputs(task: str, width: int) -> None:
    assert EVERY[task].width == width


def test_two_classes_may_be_called_multiclass() -> None:
    assert fit(["a", "b"], "multiclass").width == 2


def test_labels_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        EVERY["binary"].task = "token"  # type: ignore[misc]


def test_regression_takes_mean_and_deviation_of_train() -> None:
    labels = EVERY["regression"]
    assert (labels.names, labels.mean) == ((), 3.0)
    assert labels.std == pytest.approx((14 / 3) ** 0.5)
    encoded = labels.encode([" 3 ", "1e0", "-.5", "+6."], dev)
    assert isinstance(encoded, np.ndarray)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, (np.array([3, 1, -0.5, 6]) - 3) / (14 / 3) ** 0.5, rtol=1e-6)


def test_numbers_that_repeat_and_whole_numbers_are_classes() -> None:
    assert fit(["0.5", "1.5", "2.5"] * 2).task == "multiclass"
    assert fit(["1", "2", "3.0"]).task == "multiclass"
    assert fit(["0.1", "0.2", "0.3"], "multiclass").names == ("0.1", "0.2", "0.3")


# Encoding


@pytest.mark.parametrize(
    ("task", "texts", "expected"), [("binary", ["no", "yes"], [0, 1]), ("multiclass", ["c", " a", "c"], [2, 0, 2])]
)
def test_classes_become_their_numbers(task: str, texts: Texts, expected: list[int]) -> None:
    encoded = EVERY[task].encode(texts, dev)
    assert isinstance(encoded, np.ndarray)
    assert encoded.dtype == np.int64
    assert encoded.tolist() == expected


def test_multilabel_marks_what_a_row_has() -> None:
    encoded = EVERY["multilabel"].encode(["c; a;", "", "b", " ; ", "a;a"], dev)
    assert isinstance(encoded, np.ndarray)
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_a_list_of_names_is_the_set_of_labels_of_a_row_and_its_names_stay_as_they_are() -> None:
    labels = fit([("a;b", "c"), (), ("10", " a"), ("9",), "c; 9"], "multilabel")
    assert labels.names == (" a", "10", "9", "a;b", "c")
    encoded = labels.encode([("a;b",), (), ("10", " a", "c"), "c;10"], dev)
    assert np.array_equal(encoded, [[0, 0, 0, 1, 0], [0] * 5, [1, 1, 0, 0, 1], [0, 1, 0, 0, 1]])
    assert labels.predicted(np.array([[-1, 1, -1, 1, -1]])) == ["10;a;b"]
    assert Labels.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels
    with pytest.raises(UsageError, match=r"^dev.csv:2: label 'a' is not among those of the training rows,  a, 10, 9, a;b, c;"):
        labels.encode([("c",), "a;b"], dev)
    assert fit([("2",), ("10",)], "multilabel").names == ("2", "10")


@pytest.mark.parametrize("task", [None, "binary", "multiclass", "regression", "token"])
def test_a_list_is_refused_where_a_row_has_one_label(task: str | None) -> None:
    with pytest.raises(UsageError) as error:
        fit(["1", ("x", "y;z")], task, [1, 1])
    assert str(error.value) == (
        "train.csv:2: the label is a list, ['x', 'y;z']; give --task multilabel, or a column with one label a row"
    )


def test_one_label_that_some_rows_have_is_a_multilabel_task() -> None:
    labels = fit(["a", ""], "multilabel")
    assert labels == Labels("multilabel", ("a",))
    assert np.array_equal(labels.encode(["", "a"], dev), [[0], [1]])


def test_token_takes_letters_and_intervals() -> None:
    labels = EVERY["token"]
    assert labels.names == (".", "E", "exon", "none")
    encoded = labels.encode(["EE.", "3-4=exon; 0-1 = none ;1-2=E", "0-5=exon"], dev, [3, 4, 5])
    assert isinstance(encoded, list)
    assert [row.dtype for row in encoded] == [np.int64] * 3
    assert [row.tolist() for row in encoded] == [[1, 1, 0], [3, 1, 3, 2], [2] * 5]


def test_token_lengths_may_be_an_array() -> None:
    labels = Labels.fit(["ab", "b"], "token", train, np.array([2, 1]))  # type: ignore[arg-type]
    assert labels.names == ("a", "b")


def test_class_none_is_there_only_if_some_base_of_train_is_outside() -> None:
    assert fit(["0-2=a;2-4=b"], "token", [4]).names == ("a", "b")
    assert fit(["0-2=a"], "token", [4]).names == ("a", "none")


def test_intervals_may_be_named_by_anything_but_semicolons() -> None:
    assert fit(["0-2=5'=UTR 1-2;2-3=é"], "token", [3]).names == ("5'=UTR 1-2", "é")


def test_letters_per_base_may_be_any_characters() -> None:
    labels = fit(["é𝟙-=;"], "token", [5])
    assert labels.names == tuple(sorted("é𝟙-=;"))
    assert [labels.names[i] for i in labels.encode(["é𝟙-=;"], dev, [5])[0]] == list("é𝟙-=;")


@pytest.mark.parametrize("task", TASKS)
def test_no_rows_encode_to_nothing(task: str) -> None:
    encoded = EVERY[task].encode([], dev, [])
    assert len(encoded) == 0
    assert flatten(encoded).dtype == (np.float32 if task in ("multilabel", "regression") else np.int64)


# Refusals


@pytest.mark.parametrize(
    ("texts", "task", "lengths", "sentence"),
    [
        (
            ["a"],
            "ranking",
            None,
            "there is no task 'ranking': give --task one of binary, multiclass, multilabel, regression, token",
        ),
        ([], None, None, "there are no training rows to take labels from; give a training file that has some"),
        (["a", None], None, None, "train.csv:2: the label is null; fill it in or take the row out"),
        (["a", " "], "binary", None, "train.csv:2: the label is empty; fill it in or take the row out"),
        (
            ["ab", ""],
            "token",
            [2, 3],
            "train.csv:2: the label is empty; fill it in or take the row out; write 0-3=none where there is nothing to mark",
        ),
        (["1", None], "regression", None, "train.csv:2: the target is null; fill it in or take the row out"),
        (["", "1"], "regression", None, "train.csv:1: the target is empty; fill it in or take the row out"),
        *(
            (
                ["1", text],
                "regression",
                None,
                f"train.csv:2: target '{text}' is not a finite number that float32 can hold; correct it, or take the row out",
            )
            for text in ("nan", "NaN", "inf", "-Infinity", "1e39", "1e999", "1,5", "1_000", "0x1", "high", "٣")
        ),
        (
            ["1", "x" * 41],
            "regression",
            None,
            f"train.csv:2: target '{'x' * 39}…' is not a finite number that float32 can hold; correct it, or take the row out",
        ),
        *(
            (
                [text] * 3,
                "regression",
                None,
                f"train.csv:1 to train.csv:3: every target is {text}; a regression needs targets that differ",
            )
            for text in ("0.1", "0", "7")
        ),
        (
            ["0", "1e-200"],
            "regression",
            None,
            "train.csv:1 to train.csv:2: every target is 0; a regression needs targets that differ",
        ),
        *(
            (
                ["a", "a"],
                task,
                None,
                "train.csv:1 to train.csv:2: every row has label 'a', so there is nothing to tell apart; give rows of two or more kinds",
            )
            for task in (None, "binary", "multiclass", "multilabel")
        ),
        (
            ["a;b", "b;a"],
            "multilabel",
            None,
            "train.csv:1 to train.csv:2: every row has label 'a, b', so there is nothing to tell apart; give rows of two or more kinds",
        ),
        (
            ["", ";"],
            "multilabel",
            None,
            "train.csv:1 to train.csv:2: every row has no label, so there is nothing to tell apart; give rows of two or more kinds",
        ),
        (
            ["EE", "0-3=E"],
            "token",
            [2, 3],
            "train.csv:1 to train.csv:2: every row has label 'E', so there is nothing to tell apart; give rows of two or more kinds",
        ),
        (
            ["c", "a", "b"],
            "binary",
            None,
            "train.csv:1 to train.csv:3: a binary task has two labels, and these rows have a, b, c; give --task multiclass",
        ),
        (
            ["0.1", "2", "-3", "0.1", "4"],
            None,
            None,
            "train.csv:1 to train.csv:5: 4 of 5 labels are different numbers, -3, 0.1, 2, 4; give --task regression, or --task multiclass "
            "where each is a class",
        ),
        (
            [str(i / 4) for i in range(12)],
            None,
            None,
            "train.csv:1 to train.csv:12: 12 of 12 labels are different numbers, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25 "
            "and 2 more; give --task regression, or --task multiclass where each is a class",
        ),
        (
            ["a", "a;b"],
            None,
            None,
            "train.csv:2: label 'a;b' may be a list; give --task multilabel or token, or --task multiclass where it is one name",
        ),
        *(
            (
                ["abc", text],
                "token",
                [3, 7],
                f"train.csv:2: label '{text}' is neither one character per base, which would be 7 and not {len(text)}, nor intervals "
                f"start-end=name with ; between; correct it",
            )
            for text in ("abcdef", "abcdefgh", "0-4=E;5-6", "0-4=", "-1-4=E", "0..4=E")
        ),
        *(
            (
                ["abc", f"0-1=E;{text}"],
                "token",
                [3, 7],
                f"train.csv:2: interval '{text}' does not lie inside the sequence, which has 7 bases; start-end is 0-based and half open, "
                f"with start below end",
            )
            for text in ("3-8=E", "7-8=E", "3-3=E", "4-3=E", "99-100=E")
        ),
        *(
            (
                ["abc", f"2-4=E;{text};0-1=E"],
                "token",
                [3, 7],
                f"train.csv:2: interval '{text}' overlaps '2-4=E'; give each base one class at most",
            )
            for text in ("3-5=I", "1-3=E", "0-7=I", "2-4=E")
        ),
    ],
)
def test_what_train_may_not_hold_is_one_sentence(
    texts: Texts, task: str | None, lengths: list[int] | None, sentence: str
) -> None:
    with pytest.raises(UsageError) as error:
        fit(texts, task, lengths)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("task", "texts", "label", "known"),
    [
        ("binary", ["no", "No"], "No", "no, yes"),
        ("multiclass", ["a", "d"], "d", "a, b, c"),
        ("multiclass", ["a", "a;b"], "a;b", "a, b, c"),
        ("multilabel", ["a", "a;d;c"], "d", "a, b, c"),
        ("token", ["EE", "IE"], "I", "., E, exon, none"),
        ("token", ["EE", "0-2=intron"], "intron", "., E, exon, none"),
    ],
)
def test_a_label_that_train_does_not_have_is_one_sentence(task: str, texts: Texts, label: str, known: str) -> None:
    with pytest.raises(UsageError) as error:
        EVERY[task].encode(texts, dev, [2, 2])
    assert str(error.value) == (
        f"dev.csv:2: label {label!r} is not among those of the training rows, {known}; correct it, take the row out, or train on rows that "
        f"have it"
    )


def test_bases_outside_are_refused_where_train_has_none() -> None:
    labels = fit(["0-2=a;2-4=b"], "token", [4])
    with pytest.raises(UsageError, match=r"^dev.csv:1: label 'none' is not among those of the training rows, a, b;"):
        labels.encode(["0-2=a"], dev, [4])


def test_of_many_known_labels_ten_are_named() -> None:
    with pytest.raises(UsageError, match="0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more; correct"):
        fit([str(i) for i in range(12)]).encode(["12"], dev)


@pytest.mark.parametrize("text", [None, "", " "])
def test_an_empty_cell_of_a_multilabel_table_is_a_row_without_labels(text: str | None) -> None:
    labels = fit(["a;b", text, "b"], "multilabel")
    np.testing.assert_array_equal(labels.encode([text, "a"], dev), [[0, 0], [1, 0]])


@pytest.mark.parametrize("task", [task for task in TASKS if task != "multilabel"])
def test_null_is_refused_in_every_split(task: str) -> None:
    with pytest.raises(UsageError, match=rf"^dev.csv:1: the {'target' if task == 'regression' else 'label'} is null; "):
        EVERY[task].encode([None], dev, [2])


def test_targets_of_other_splits_are_checked_too() -> None:
    with pytest.raises(UsageError, match=r"^dev.csv:2: target 'nan' is not a finite number"):
        EVERY["regression"].encode(["1", "nan"], dev)


@pytest.mark.parametrize("lengths", [None, [2]])
def test_token_needs_the_lengths(lengths: list[int] | None) -> None:
    with pytest.raises(ValueError, match="length of each sequence"):
        fit(["ab", "ab"], "token", lengths)


def test_places_are_asked_for_only_where_something_is_wrong() -> None:
    def never(i: int) -> str:
        raise AssertionError

    EVERY["binary"].encode(["no"], never)
    EVERY["regression"].encode(["1"], never)


# From logits back


@pytest.mark.parametrize("task", ["binary", "multiclass", "token"])
def test_classes_come_back(task: str) -> None:
    labels = EVERY[task]
    logits = np.log(np.full((2, labels.width), 0.2, np.float32))
    logits[0, 1] = np.log(3)
    rest = 0.2 * (labels.width - 1)
    probabilities = labels.probabilities(logits)
    np.testing.assert_allclose(probabilities[0, :2], [0.2 / (3 + rest), 3 / (3 + rest)], rtol=1e-6)
    np.testing.assert_allclose(probabilities[1], 1 / labels.width, rtol=1e-6)
    assert labels.predicted(logits) == [labels.names[1], labels.names[0]]


def test_large_logits_do_not_overflow() -> None:
    assert EVERY["binary"].probabilities(np.array([[1e4, -1e4]])).tolist() == [[1, 0]]
    assert EVERY["multilabel"].probabilities(np.array([[1e4, -1e4, 0]])).tolist() == [[1, 0, 0.5]]


def test_a_base_that_no_token_covers_has_no_name() -> None:
    logits = np.array([[0, 1, 0, 0], [np.nan] * 4, [0, 0, 0, 1]])
    assert EVERY["token"].predicted(logits) == ["E", "", "none"]
    assert EVERY["token"].choices(logits).tolist() == [1, -1, 3]


def test_multilabel_names_what_is_as_likely_as_not() -> None:
    logits = np.log(np.array([[3, 1 / 3, 1], [1 / 3, 1 / 3, 1 / 3]]))
    np.testing.assert_allclose(EVERY["multilabel"].probabilities(logits), [[0.75, 0.25, 0.5], [0.25, 0.25, 0.25]])
    assert EVERY["multilabel"].predicted(logits) == ["a;c", ""]


def test_regression_undoes_what_encoding_did() -> None:
    labels = EVERY["regression"]
    encoded = labels.encode(["-4", "0.25", "1e3"], dev)
    assert isinstance(encoded, np.ndarray)
    assert labels.probabilities(encoded[:, None]).shape == (3, 1)
    predicted = labels.predicted(encoded[:, None])
    assert isinstance(predicted, np.ndarray)
    np.testing.assert_allclose(predicted, [-4, 0.25, 1000], rtol=1e-6)


def is_plain(text: str) -> bool:
    """Whether a text is a name, and neither missing nor a list nor a truth value that stands for a number."""
    return bool(text.strip()) and fault(text, several=False) is None and text.strip().casefold() not in ("true", "false")


@given(
    st.lists(
        st.text(st.characters(blacklist_categories=["Cs"]), min_size=1).filter(is_plain),
        min_size=2,
        unique_by=lambda text: canonical(text.strip()),
    )
)
def test_any_names_come_back(texts: list[str]) -> None:
    labels = fit(list(texts), "multiclass")
    encoded = labels.encode(texts, dev)
    assert isinstance(encoded, np.ndarray)
    assert labels.predicted(np.eye(labels.width)[encoded]) == [text.strip() for text in texts]
    assert Labels.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


# As JSON


@pytest.mark.parametrize("task", TASKS)
def test_labels_survive_json(task: str) -> None:
    text = json.dumps(EVERY[task].to_dict(), allow_nan=False)
    again = Labels.from_dict(json.loads(text))
    assert again == EVERY[task]
    assert hash(again) == hash(EVERY[task])


@pytest.mark.parametrize("change", [{"task": "ranking"}, {"more": 1}])
def test_other_json_is_one_sentence(change: dict[str, Any]) -> None:
    values = EVERY["binary"].to_dict() | change
    with pytest.raises(UsageError) as error:
        Labels.from_dict(values)
    assert str(error.value) == (
        f"labels of an artifact have task (one of binary, multiclass, multilabel, regression, token), names, mean and std, and these are "
        f"{values}; take the artifact as it was written"
    )


# Weights


@given(st.lists(st.integers(0, 2), min_size=1))
def test_class_weights_are_those_of_scikit_learn(classes: list[int]) -> None:
    encoded = np.array(classes)
    weights = EVERY["multiclass"].class_weights(encoded)
    there = np.unique(encoded)
    # scikit-learn divides by the classes that are there, this by all.
    expected = compute_class_weight("balanced", classes=there, y=encoded) * len(there) / 3
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights[there], expected, rtol=1e-6)
    assert np.delete(weights, there).tolist() == [0] * (3 - len(there))


def test_class_weights_of_bases_count_all_sequences_and_leave_out_ignored_tokens() -> None:
    weights = EVERY["token"].class_weights([np.array([0, 0, 1]), np.array([IGNORED, 1, 1, 2, 3])])
    np.testing.assert_allclose(weights, [7 / 8, 7 / 12, 7 / 4, 7 / 4])


def test_class_weights_of_multilabel_balance_a_label_with_its_absence() -> None:
    encoded = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]], np.float32)
    assert EVERY["multilabel"].class_weights(encoded).tolist() == [3, 1, 1]


def test_a_regression_has_no_class_weights() -> None:
    with pytest.raises(UsageError) as error:
        EVERY["regression"].class_weights(np.zeros(2, np.float32))
    assert str(error.value) == "class weights need classes, and --task regression has none; leave them out"
