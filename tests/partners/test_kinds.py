"""Arrays of the shapes that BrainLM, BrainMT and SwiFT have, to one vector a recording or window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dnafeat.partners.config import PartnerConfig
from dnafeat.partners.items import Item
from dnafeat.partners.kinds import Pooled, pooled
from dnafeat.partners.names import Name, Unfit

TOKENS = 424 * 2 + 1


def draw(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def take(kind: str, array: np.ndarray, ids: int | None = None, companions: dict | None = None, **settings: Any) -> Pooled:
    config = PartnerConfig.make({"kind": kind, "input": ["in"], "output": "out", **settings})
    names = [Name(f"s{i}") for i in range(ids or 1)]
    item = Item(array=array, place="x", file="x.npy", names=names, batched=ids is not None, companions=companions or {})
    return pooled(item, config)


def vectors(*arguments: Any, **settings: Any) -> np.ndarray:
    made = take(*arguments, **settings).vectors
    assert made.dtype == np.float32
    assert made.ndim == 2
    return made


def refused(*arguments: Any, **settings: Any) -> str:
    with pytest.raises(Unfit) as error:
        take(*arguments, **settings)
    return str(error.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_brainlm_gives_its_first_token_or_the_mean_of_the_others(dtype: Any) -> None:
    tokens = draw(TOKENS, 7, dtype=dtype)
    made = take("brainlm", tokens)
    assert made.tokens == TOKENS
    np.testing.assert_array_equal(made.vectors, tokens[:1].astype(np.float32))
    np.testing.assert_allclose(vectors("brainlm", tokens, pool="mean"), tokens[1:].mean(0, np.float64)[None], atol=1e-6)
    mixed = np.concatenate([tokens[:1], np.random.default_rng(1).permutation(tokens[1:])])
    np.testing.assert_allclose(vectors("brainlm", mixed, pool="mean"), vectors("brainlm", tokens, pool="mean"), atol=1e-6)


def test_brainlm_in_batches_as_windows_and_as_vectors() -> None:
    tokens = draw(3, TOKENS, 7)
    for ids in (None, 3):
        np.testing.assert_array_equal(vectors("brainlm", tokens, ids), tokens[:, 0])
    np.testing.assert_array_equal(vectors("brainlm", tokens[:1]), tokens[:1, 0])
    np.testing.assert_array_equal(vectors("brainlm", tokens[0, :5], 5), tokens[0, :5])
    np.testing.assert_array_equal(vectors("brainlm", tokens[0, :5], rows="vectors"), tokens[0, :5])
    np.testing.assert_array_equal(vectors("brainlm", tokens[0, 0]), tokens[0, :1])
    np.testing.assert_array_equal(vectors("brainlm", tokens[0, :1]), tokens[0, :1])
    # As many ids as tokens, each with a vector of its own.
    np.testing.assert_array_equal(vectors("brainlm", tokens[0], TOKENS), tokens[0])


@pytest.mark.parametrize("array", [draw(424 * 2, 7), draw(1, 424 * 2, 7), draw(2, 424, 7)])
def test_brainlm_without_cls(array: np.ndarray) -> None:
    assert f"has {array.shape[-2]:,} tokens, a multiple of 424: CLS is missing" in refused("brainlm", array)


@pytest.mark.parametrize("tokens", [2, 107, 213, 426, 1061])
def test_brainlm_with_a_mask_left_on(tokens: int) -> None:
    assert f"has {tokens:,} tokens, which is no 424·k + 1: a mask was left on" in refused("brainlm", draw(tokens, 7))


def test_brainlm_with_the_tokens_of_its_timepoints() -> None:
    masked = draw(424 * 8 // 4 + 1, 3)  # 0.75 of 160 timepoints
    assert take("brainlm", masked).tokens == 849
    assert refused("brainlm", masked, timepoints=160).startswith(
        "has 849 tokens where 160 timepoints make 3,393: a mask was left on"
    )
    assert take("brainlm", masked, timepoints=40).tokens == 849
    assert refused("brainlm", masked[1:], timepoints=40) == (
        "has 848 tokens where 40 timepoints make 849: CLS is missing; export last_hidden_state whole"
    )
    assert take("brainlm", draw(424 * 10 + 1, 3), timepoints=490, patch=49).tokens == 4241
    assert take("brainlm", draw(730, 3), tokens=730).tokens == 730
    assert refused("brainlm", draw(849, 3), tokens=730).startswith("has 849 tokens where 730 were asked for: a mask was left on")


def test_brainlm_tells_a_mask_by_what_stands_beside() -> None:
    tokens, order = draw(1, TOKENS, 3), np.arange(TOKENS - 1)[None]
    assert take("brainlm", tokens, companions={"mask": np.zeros(TOKENS - 1), "ids_restore": order}).notes == ()
    half = np.arange(TOKENS - 1) % 2
    assert (
        refused("brainlm", tokens, companions={"mask": half})
        == "was made with a mask over 50% of its tokens; export with mask_ratio 0"
    )
    shuffled = {"ids_restore": order[:, ::-1]}
    assert take("brainlm", tokens, companions=shuffled).notes == ("shuffled",)
    # A vector alone, of tokens that were shuffled, and one of which 0.75 were left out.
    assert take("brainlm", tokens[:, 0], companions=shuffled).notes == ("shuffled",)
    four = {"ids_restore": np.arange(4 * (TOKENS - 1))[None]}
    assert refused("brainlm", tokens, companions=four) == (
        "has 849 tokens of 3,392 (ids_restore): a mask was left on; export with mask_ratio 0"
    )


def test_brainmt_gives_what_forward_features_gave() -> None:
    rows = draw(4, 512)
    np.testing.assert_array_equal(vectors("brainmt", rows[0]), rows[:1])
    np.testing.assert_array_equal(vectors("brainmt", rows[:1]), rows[:1])
    np.testing.assert_array_equal(vectors("brainmt", rows, 4), rows)
    np.testing.assert_array_equal(vectors("brainmt", rows, rows="vectors"), rows)
    assert refused("brainmt", rows).startswith("is of shape [4, 512] and has no ids: say --rows vectors if each row is a window")


@pytest.mark.parametrize(("where", "index"), [(None, 0), ("first", 0), ("last", 4), ("middle", 2), ("3", 3)])
def test_brainmt_with_tokens(where: str | None, index: int) -> None:
    tokens = draw(2, 5, 8)
    settings: dict[str, Any] = {"rows": "tokens"} if where is None else {"cls_index": where}
    np.testing.assert_array_equal(vectors("brainmt", tokens[0], **settings), tokens[0, index : index + 1])
    np.testing.assert_array_equal(vectors("brainmt", tokens, **settings), tokens[:, index])
    mean = np.delete(tokens, index, axis=1).mean(axis=1)
    np.testing.assert_allclose(vectors("brainmt", tokens, pool="mean", **settings), mean, atol=1e-6)


def test_brainmt_with_tokens_that_cannot_be() -> None:
    assert (
        refused("brainmt", draw(5, 8), cls_index="5")
        == "has 5 tokens, and none with index 5; say where CLS stands with --cls-index"
    )
    assert "holds CLS alone" in refused("brainmt", draw(2, 1, 8), pool="mean")


def test_swift_is_averaged_over_all_but_its_channels() -> None:
    maps = draw(3, 192, 2, 3, 4, 5)
    mean = maps.mean(axis=(2, 3, 4, 5))
    for array, ids, made in (
        (maps, 3, mean),
        (maps, None, mean),
        (maps[:1], None, mean[:1]),
        (maps[0], None, mean[:1]),
        (maps[..., 0], 3, maps[..., 0].mean(axis=(2, 3, 4))),
        (maps[..., 0], None, maps[..., 0].mean(axis=(2, 3, 4))),
        (maps[:1, ..., 0], None, maps[:1, ..., 0].mean(axis=(2, 3, 4))),
        (maps[0, ..., 0], None, maps[:1, ..., 0].mean(axis=(2, 3, 4))),
        (mean, 3, mean),
        (mean, None, mean),
        (mean[0], None, mean[:1]),
    ):
        np.testing.assert_allclose(vectors("swift", array, ids), made, atol=1e-6)


def test_swift_of_half_precision_does_not_overflow() -> None:
    np.testing.assert_allclose(vectors("swift", np.full((192, 4, 4, 4, 20), 1000, np.float16)), np.full((1, 192), 1000.0))


def test_swift_in_other_shapes() -> None:
    assert (
        refused("swift", draw(2, 3, 4, 5, 192))
        == "is of shape [2, 3, 4, 5, 192], with its 192 channels last; move them to the front"
    )
    for shape in ((3, 192, 8), (1, 1, 192, 2, 2, 2, 2)):
        assert refused("swift", draw(*shape)).startswith(f"is of shape {list(shape)}; SwiFT has [C]")
    # Of another embed_dim: taken.
    assert vectors("swift", draw(96, 2, 2, 2)).shape == (1, 96)


def test_swifts_input_is_not_taken_for_its_output() -> None:
    volume = Item(array=draw(9, 9, 9, 1), place="x", file="frame_12.pt", names=[Name("s")])
    with pytest.raises(Unfit, match="is a volume that goes into SwiFT"):
        pooled(volume, PartnerConfig(kind="swift", input=("in",), output="out"))


def test_generic_is_a_vector_a_row() -> None:
    rows = draw(3, 5, dtype=np.float64)
    np.testing.assert_array_equal(vectors("generic", rows[0]), rows[:1].astype(np.float32))
    for ids in (3, None):
        np.testing.assert_array_equal(vectors("generic", rows, ids), rows.astype(np.float32))
    assert vectors("generic", np.array([[1, 2]])).tolist() == [[1.0, 2.0]]
    assert refused("generic", draw(2, 3, 4)).startswith("is of shape [2, 3, 4]; one vector a file or row is wanted")
    assert refused("generic", draw(2, 3, 4), 2).startswith("is of shape [2, 3, 4]; one vector a file or row is wanted")


@pytest.mark.parametrize("kind", ["brainlm", "brainmt", "swift", "generic"])
def test_what_is_no_array_of_numbers(kind: str) -> None:
    assert refused(kind, np.array(["a"])) == "holds <U1 and no numbers; export the vectors"
    assert refused(kind, np.array([True])).startswith("holds bool and no numbers")
    assert refused(kind, np.ones((0, 4))) == "is empty, of shape [0, 4]; export it again"
    settings = {"rows": "tokens"} if kind == "brainmt" else {}
    assert refused(kind, draw(2, 1, 3, 1, 2, 1, 1), **settings).startswith("is of shape [2, 1, 3, 1, 2, 1, 1]; ")


def test_one_number_is_a_vector_of_one() -> None:
    assert vectors("generic", np.float32(3)[None]).tolist() == [[3.0]]
