"""Windows end to end are the rows of padded ones without their padding."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import pytest
from letters import IUPAC

from dnafeat.encoder import Encoder
from dnafeat.encoder.packing import pack, pad
from dnafeat.encoder.windows import cut
from tests.encoder.test_windows import KINDS


@pytest.mark.parametrize("special_tokens", [False, True])
@pytest.mark.parametrize("kind", ["bpe", "kmers", "shift", "bases"])
def test_windows_end_to_end_are_padded_rows_without_their_padding(tmp_path: Path, kind: str, special_tokens: bool) -> None:
    values = models.config() if kind == "bpe" else models.bert_config()
    KINDS[kind].write(models.write(tmp_path, values, models.state(values) if kind == "bpe" else models.bert_state(values)))
    encoder = Encoder.from_pretrained(str(tmp_path), precision="float32", window_tokens=20, overlap_tokens=7)
    sequences = [models.dna(int(bases), bases) for bases in np.random.default_rng(0).integers(3, 90, 40)] + [IUPAC, "NNN"]
    windows = cut(sequences, encoder.tokenizer, encoder.cutting)
    order = np.argsort(windows.start - windows.stop, kind="stable")
    for chosen in (order, order[3:4], order[5:30]):
        packed = pack(windows, chosen, encoder.tokenizer, special_tokens=special_tokens)
        ids, real, own = pad(windows, chosen, encoder.tokenizer, special_tokens=special_tokens)
        np.testing.assert_array_equal(packed.ids, ids[real])
        np.testing.assert_array_equal(packed.own, own[real])
        lengths = [length for count, length in packed.runs for _ in range(count)]
        assert lengths == real.sum(1).tolist()
        assert len({length for _, length in packed.runs}) == len(packed.runs)
        content = real.copy()
        content[:, 0] = False
        content[np.arange(len(real)), real.sum(1) - 1] &= encoder.tokenizer.sep_id is None
        row = 0
        for (count, _), whole in zip(packed.runs, packed.whole, strict=True):
            some = slice(row, row := row + count)
            assert whole == (not special_tokens and bool((own[some] == content[some]).all()))
