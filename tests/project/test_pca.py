"""What is fitted: principal components and z-scores over named training entries, streaming, the same to the bit whatever else there is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from madevectors import SOURCE, in_memory, make, measured, names, spread_out
from s3 import S3
from sklearn.decomposition import PCA

from dnafeat.cli.main import main
from dnafeat.encoder.projection import LinearMap, Projection, ZScore, load_projector, random_map
from dnafeat.errors import DnafeatError, UsageError
from dnafeat.project import statistics as fitting
from dnafeat.project.config import FitProjectorConfig
from dnafeat.project.fit import FitSummary, fit_projector
from dnafeat.pseudonyms import pseudonyms
from dnafeat.statistics import Moments
from dnafeat.store import Store, lookup
from dnafeat.store.maintain import maintain

ROWS, WIDTH = 600, 40
# The last hundred are nobody's training entries; two of the others share a sequence with another entry.
TRAINING = [*range(500), 3, 7]
ENTRIES = [(f"t{i}", number, f"S{i % 5}") for i, number in enumerate(TRAINING)] + [
    (f"h{number}", number, f"held-{number % 3}") for number in range(500, ROWS)
]


def plain(numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Vectors of some sequences: correlated, with a large mean, and one number that never differs."""
    draw = np.random.default_rng(5)
    mixing, centre = draw.standard_normal((WIDTH, WIDTH)), 50 * draw.standard_normal(WIDTH)
    every = draw.standard_normal((ROWS, WIDTH)) @ mixing + centre
    every[:, 11] = 2.5
    mean = every.astype(np.float32)[numbers]
    return {"cls": -mean[:, ::-1].copy(), "mean": mean}


def with_outlier(numbers: np.ndarray) -> dict[str, np.ndarray]:
    """The same, but for the held-out ones."""
    return {name: np.where((numbers >= 500)[:, None], np.float32(1e9), values) for name, values in plain(numbers).items()}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = str(tmp_path_factory.mktemp("made") / "store")
    make(place, ROWS, plain, entries=ENTRIES, file_rows=170)
    return place


@pytest.fixture
def listed(tmp_path: Path) -> str:
    file = tmp_path / "train.txt"
    file.write_text("# training\n" + "".join(f"{name}\n" for name, *_ in ENTRIES if name.startswith("t")))
    return str(file)


def fitted(store: str, output: Path | str, **settings: Any) -> tuple[FitSummary, Projection]:
    summary = fit_projector(FitProjectorConfig(store=store, output=str(output), **settings), show=False)
    return summary, load_projector(str(output))


# -- principal components --------------------------------------------------------------------------------------------------


def test_streaming_gives_the_components_that_memory_gives(
    uri: str, listed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_BYTES", 64 * 4 * WIDTH)  # chunks of 64
    summary, found = fitted(uri, tmp_path / "pca", train=listed)
    rows = plain(np.array(TRAINING))["mean"].astype(np.float64)
    expected = PCA(n_components=WIDTH - 1, svd_solver="full").fit(rows)
    mapping = found.map
    assert isinstance(mapping, LinearMap)
    np.testing.assert_allclose(mapping.centre.numpy(), rows.mean(0), rtol=1e-6)
    own = mapping.components.numpy()[: WIDTH - 1]
    signs = np.sign((own * expected.components_).sum(1))
    np.testing.assert_allclose(own, signs[:, None] * expected.components_, atol=1e-5)
    # The number that never differs has no direction, and there are no more numbers.
    assert (summary.components, found.about["components"]) == (WIDTH - 1, WIDTH - 1)
    assert summary.explained == pytest.approx(1.0)
    assert not mapping.components[WIDTH - 1 :].any()
    assert any("the other 473 of 512 numbers" in note for note in summary.notes)
    assert (summary.entries, summary.sequences) == (502, 500)


def test_the_largest_loading_is_positive_and_the_largest_variance_first(uri: str, listed: str, tmp_path: Path) -> None:
    _, found = fitted(uri, tmp_path / "pca", train=listed)
    components = found.map.components[: WIDTH - 1].numpy()  # type: ignore[union-attr, index]
    assert (components[np.arange(WIDTH - 1), np.abs(components).argmax(1)] > 0).all()
    with torch.inference_mode():
        made = found(torch.from_numpy(plain(np.array(TRAINING))["mean"])).numpy()[:, : WIDTH - 1]
    assert (np.diff(made.var(0)) <= 1e-4 * made.var(0)[:-1]).all()
    np.testing.assert_allclose(made.mean(0), 0, atol=1e-4)


def test_whitened_components_have_variance_one(uri: str, listed: str, tmp_path: Path) -> None:
    _, found = fitted(uri, tmp_path / "pca", train=listed, whiten=True)
    with torch.inference_mode():
        made = found(torch.from_numpy(plain(np.array(TRAINING))["mean"])).numpy()
    np.testing.assert_allclose(np.cov(made[:, : WIDTH - 1].T), np.eye(WIDTH - 1), atol=1e-3)


def test_fewer_entries_than_numbers_have_fewer_components(uri: str, tmp_path: Path) -> None:
    (tmp_path / "few").write_text("t1\nt2\nt3\nt4\n")
    summary, found = fitted(uri, tmp_path / "pca", train=str(tmp_path / "few"))
    assert summary.components == 3
    with torch.inference_mode():
        made = found(torch.from_numpy(plain(np.arange(9))["mean"]))
    assert made.shape == (9, 512)
    assert not made[:, 3:].any()


def test_more_than_512_numbers_keep_512_components(tmp_path: Path) -> None:
    make(str(tmp_path / "store"), 700, spread_out(600))
    summary, found = fitted(str(tmp_path / "store"), tmp_path / "pca", source=SOURCE)
    assert (summary.components, summary.notes) == (512, [])
    assert summary.explained is not None
    assert 0.5 < summary.explained < 1
    assert found.map.components.any(1).all()  # type: ignore[union-attr, operator]


# -- z-scores --------------------------------------------------------------------------------------------------------------


def test_a_z_score_is_fitted_where_it_stands(uri: str, listed: str, tmp_path: Path) -> None:
    _, found = fitted(
        uri,
        tmp_path / "made",
        map="random@3",
        view="cls+mean",
        train=listed,
        before=("zscore", "l2"),
        after=("layernorm", "zscore"),
    )
    assert (found.view, found.inputs, found.kind) == ("cls+mean", 2 * WIDTH, "random")
    values = plain(np.array(TRAINING))
    rows = torch.from_numpy(np.concatenate([values["cls"], values["mean"]], axis=1))
    with torch.inference_mode():
        first = found.before[0](rows)
        out = found(rows)
    for made, constant in ((first.numpy(), [28, 51]), (out.numpy(), [])):
        np.testing.assert_allclose(made.mean(0), 0, atol=2e-5)
        differs = np.setdiff1d(np.arange(made.shape[1]), constant)
        np.testing.assert_allclose(made.std(0)[differs], 1, rtol=1e-4)
        assert not made[:, constant].any()


def test_constant_numbers_are_centred_and_not_blown_up() -> None:
    rows = np.full((50, 3), 0.1, np.float32)
    rows[:, 2] = np.linspace(0, 1, 50)
    step = fitting.zscore(Moments.of(rows, np.ones(50), pairs=False))
    assert step.scale[:2].tolist() == [1, 1]
    assert step(torch.tensor([[0.1, 0.6, 0.5]]))[0, :2].tolist() == pytest.approx([0, 0.5])


def test_a_trained_map_gets_steps_around_its_own(uri: str, listed: str, tmp_path: Path) -> None:
    inner = Projection(random_map(8, WIDTH), view="mean", after=[ZScore(torch.zeros(512), torch.full((512,), 2.0))])
    inner.save(str(tmp_path / "trained"))
    _, found = fitted(uri, tmp_path / "made", map=str(tmp_path / "trained"), train=listed, before=("l2",), after=("zscore",))
    assert found.description()["before"] == ["l2"]
    assert found.description()["after"] == ["zscore", "zscore"]
    assert found.about["of"]["name"] == inner.name
    rows = torch.from_numpy(plain(np.array(TRAINING))["mean"])
    with torch.inference_mode():
        torch.testing.assert_close(found(rows).std(0, correction=0), torch.ones(512), atol=1e-3, rtol=0)


# -- which entries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"map": "pca", "before": ("zscore",)}, {"map": "random@1", "before": ("zscore",), "after": ("zscore",)}]
)
def test_held_out_entries_are_not_seen(uri: str, listed: str, tmp_path: Path, settings: Mapping[str, Any]) -> None:
    """An outlier among them changes no bit; nor do files, nor that they are there at all."""
    expected = fitted(uri, tmp_path / "expected", train=listed, **settings)[1]
    other = str(tmp_path / "other")
    make(other, ROWS, with_outlier, entries=ENTRIES[::-1], file_rows=90)
    assert float(np.abs(Store(other).read(columns=["mean"])["mean"].combine_chunks().flatten()).max()) == 1e9
    for _ in range(2):
        found = fitted(other, tmp_path / "found", train=listed, **settings)[1]
        assert found.to_bytes() == expected.to_bytes()
        assert found.fingerprint() == expected.fingerprint()
        assert found.about["fitted"]["digest"] == expected.about["fitted"]["digest"]
        maintain(Store(other))
    # By what the test would fail: those entries named as well.
    (tmp_path / "all").write_text("".join(f"{name}\n" for name, *_ in ENTRIES))
    assert fitted(other, tmp_path / "found", train=str(tmp_path / "all"), **settings)[1].fingerprint() != expected.fingerprint()


def test_entries_are_named_by_a_list_of_a_key_by_conditions_or_both(uri: str, tmp_path: Path) -> None:
    (tmp_path / "subjects.csv").write_text("age,subject_id\n3,S1\n4,S2\n5,nobody\n")
    by_key, one = fitted(uri, tmp_path / "a", train=str(tmp_path / "subjects.csv"), train_by="subject_id")
    _, other = fitted(uri, tmp_path / "b", where=("subject_id=S1", "subject_id=S2"))
    assert one.fingerprint() == other.fingerprint()
    assert one.about["fitted"]["digest"] == other.about["fitted"]["digest"]
    assert (one.about["fitted"]["by"], other.about["fitted"]["by"]) == (["subject_id"], ["subject_id"])
    assert by_key.notes[0].startswith("1 values of ")
    _, both = fitted(uri, tmp_path / "c", train=str(tmp_path / "subjects.csv"), train_by="subject_id", where=("subject_id=S1",))
    _, alone = fitted(uri, tmp_path / "d", where=("subject_id=S1",))
    assert both.fingerprint() == alone.fingerprint() != one.fingerprint()
    told = (tmp_path / "a" / "projector.json").read_text()
    assert "S1" not in told
    assert '"t1"' not in told


def test_hashed_keys_are_named_under_their_salt(tmp_path: Path) -> None:
    salt = tmp_path / "salt"
    salt.write_text("0123456789abcdef0123456789abcdef\n")
    hidden = dict(zip(["S0", "S1"], pseudonyms(["S0", "S1"], salt.read_bytes().strip()), strict=True))
    make(
        str(tmp_path / "store"),
        60,
        lambda at: {"mean": plain(at)["mean"]},
        entries=[(f"e{i}", i, hidden[f"S{i % 2}"]) for i in range(60)],
    )
    (tmp_path / "list").write_text("S0\n")
    settings: dict[str, Any] = {"train": str(tmp_path / "list"), "train_by": "subject_id"}
    summary, _ = fitted(str(tmp_path / "store"), tmp_path / "a", salt_file=str(salt), **settings)
    assert summary.entries == 30
    with pytest.raises(UsageError, match="no entry of version"):
        fitted(str(tmp_path / "store"), tmp_path / "b", **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "fitted only on named training entries"),
        ({"where": ("person=S1",)}, "no key 'person'"),
        ({"where": ("S1",)}, "is not COLUMN=VALUE"),
        ({"where": ("subject_id=nobody",)}, "no entry of version"),
        ({"source": "elsewhere"}, "no source 'elsewhere'"),
        ({"where": ("subject_id=S1",), "view": "max"}, "does not store 'max' but cls, mean"),
        ({"where": ("subject_id=S1",), "view": "last"}, "view 'last' is not known"),
        ({"where": ("subject_id=S1",), "before": ("batch",)}, "before names batch: there are l2, layernorm, zscore"),
        ({"where": ("sequence_id=t1",)}, "do not differ"),
        ({"train": "nowhere.txt"}, "nowhere.txt"),
        ({"where": ("subject_id=S1",), "train_by": "person", "train": "{list}"}, "no key 'person'"),
        ({"map": "random@1", "where": ("subject_id=S1",)}, "nothing is fitted: leave out"),
        ({"map": "random@1", "whiten": True}, "whiten is for principal components"),
        ({"map": "tree"}, "neither a folder"),
        ({"map": "{artifact}", "view": "cls"}, "takes mean and not cls"),
        ({"map": "{artifact}"}, "takes mean of 7 numbers, and the store's are 40 wide"),
        ({"where": ("subject_id=S1",), "version": "never"}, "no version, name or channel 'never'"),
    ],
    ids=lambda one: one if isinstance(one, str) else None,
)
def test_a_mistake_is_told_in_a_sentence_and_nothing_is_written(
    uri: str, listed: str, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    Projection(random_map(1, 7)).save(str(tmp_path / "artifact"))
    places = {"{list}": listed, "{artifact}": str(tmp_path / "artifact")}
    with pytest.raises(DnafeatError) as error:
        fitted(
            uri,
            tmp_path / "made",
            **{name: places.get(value, value) if isinstance(value, str) else value for name, value in settings.items()},
        )
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


def test_the_command_writes_an_artifact_to_object_storage(
    uri: str, listed: str, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DNAFEAT_CACHE", str(tmp_path / "cache"))
    place = s3.uri("artifact")
    command = ["fit-projector", "--store", uri, "--before", "zscore", "--after", "l2", "--output", place]
    assert main([*command, "--train", listed, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = load_projector(place, WIDTH)
    assert (told["fingerprint"], told["name"], told["entries"]) == (found.fingerprint(), found.name, 502)
    assert found.name.startswith("pca@")
    assert main([*command, "--train", listed]) == 0
    told = capsys.readouterr().out
    assert f"mean > zscore > {found.name} > l2" in told
    assert "502 entries of 500 distinct sequences" in told


def test_made_names_are_in_order() -> None:
    found = names(np.arange(5000), 5000)
    assert (found[1:] > found[:-1]).all()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_million_vectors_take_no_more_memory_than_a_hundred_thousand(tmp_path: Path) -> None:
    peaks = {}
    for rows in (100_000, 1_000_000):
        folder = tmp_path / str(rows)
        make(str(folder / "store"), rows, spread_out(768))
        peaks[rows] = measured(folder)["peak"]
    assert peaks[1_000_000] < 1.2 * peaks[100_000]
    found = load_projector(str(tmp_path / "1000000" / "artifact")).map
    assert isinstance(found, LinearMap)
    mean, covariance = in_memory(768, 1_000_000)
    np.testing.assert_allclose(found.centre.numpy(), mean, rtol=1e-5, atol=1e-6)
    values, vectors = np.linalg.eigh(covariance)
    own, expected = found.components.numpy(), vectors.T[::-1][:512]
    # Directions of nearly the same variance turn into each other with the last digit: those of the planted ten do not.
    np.testing.assert_allclose(np.abs((own[:10] * expected[:10]).sum(1)), 1, atol=1e-6)
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(own @ covariance @ own.T)), values[-512:], rtol=1e-5)
