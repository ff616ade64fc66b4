"""The engine beside its limits and its peers, on one device: the sections `cpu` and `gpu` of the benchmark. Needs torch and transformers.

Before anything is timed, every way to get vectors is held against the plain model in float64, on sequences of all lengths and on an N run.
Then engine, limits and peers take turns, round by round, on the same sequences; ratios are taken within a round.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dnafeat.bench import limits as benchlimits
from dnafeat.bench import peers as benchpeers
from dnafeat.bench.check import check, plain_means
from dnafeat.bench.peers import BATCH, Peer
from dnafeat.bench.rows import Row, measured, not_measured, ratios
from dnafeat.encoder import Encoder
from dnafeat.encoder.describe import WINDOW_TOKENS
from dnafeat.encoder.models.checkpoint import find, load_encoder
from dnafeat.encoder.models.dnabert2 import DNABERT2
from dnafeat.encoder.models.tokenizers import Tokenizer
from dnafeat.encoder.windows import Windows, cut
from dnafeat.errors import UsageError, one_line

_CHECKED_OF_EACH_LENGTH = 2
_ODD = ("N" * 40, "A", "ACGT" * 30 + "NN" + "GATTACA" * 9)
_MAIN = {"cpu": "float32", "gpu": "bfloat16"}
_PRECISIONS = {"cpu": ("float32", "int8"), "gpu": ("bfloat16",)}


def measure(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All rows of a device, as fields of `Row`.

    Parameters
    ----------
    settings : Mapping[str, Any]
        `device` (`cpu` or `gpu`), `model`, `sequences`, `threads`, `repeats`, and optionally `peer_sequences`, as many of each
        length as of any other, like `sequences`: what the peers are given instead.
    """
    torch.set_num_threads(settings["threads"])
    return [row.fields() for row in _Bench(settings).rows()]


def peak(settings: Mapping[str, Any]) -> int:
    """Encodes with the engine alone, so that its process has no other peak; returns how many sequences."""
    torch.set_num_threads(settings["threads"])
    encoder = Encoder.from_pretrained(settings["model"], precision=_MAIN[settings["device"]])
    return len(encoder.encode(settings["sequences"]).mean)


@dataclass
class Engine:
    """The encoder at one precision.

    Attributes
    ----------
    started : float
        Seconds from loading to the first vectors.
    texts, windows : list of float
        Seconds of each round from texts to vectors, and of these from windows of token ids.
    sizes : list of int
        Tokens of each batch of the last round, padding counted.
    """

    encoder: Encoder
    started: float
    texts: list[float] = field(default_factory=list)
    windows: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    padding: float = 0.0

    @classmethod
    def load(cls, model: str, precision: str, first: Sequence[str]) -> Engine:
        began = time.perf_counter()
        encoder = Encoder.from_pretrained(model, precision=precision)
        encoder.encode(first)
        return cls(encoder, time.perf_counter() - began)

    def mean(self, sequences: Sequence[str]) -> np.ndarray:
        return self.encoder.encode(sequences).mean

    def round(self, sequences: Sequence[str]) -> None:
        self.sizes = []
        began = time.perf_counter()
        windows = cut(sequences, self.encoder.tokenizer, self.encoder.cutting)
        tokenised = time.perf_counter()
        vectors = self.encoder.encode_windows(windows, lambda _, __, computed: self.sizes.append(computed))
        ended = time.perf_counter()
        self.texts.append(ended - began)
        self.windows.append(ended - tokenised)
        self.padding = vectors.padding_share


class _Bench:
    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.name: str = settings["device"]
        self.device = torch.device("cuda" if self.name == "gpu" else "cpu")
        self.model, self.repeats = settings["model"], settings["repeats"]
        self.sequences: list[str] = settings["sequences"]
        self.of_peers: list[str] = settings.get("peer_sequences", self.sequences)
        self.checkpoint = find(self.model)
        self.plain = load_encoder(self.checkpoint)
        self.layers = benchlimits.products(self.plain)
        self.missing: list[Row] = []
        self.checks: list[Row] = []

    def rows(self) -> list[Row]:
        some = self._some()
        reference = plain_means(self.plain, self.checkpoint.tokenizer(), some)
        engines = self._engines(some[:1])
        for precision, engine in engines.items():
            self.checks += check(f"{self.name}.{precision}", engine.mean(some), reference, precision)
        self.plain.to(self.device)
        peers = self._peers()
        for name, peer in peers.items():
            found = peer(some)
            if name != "bert":
                check(f"{self.name}.{name}", found, reference, "bfloat16" if "bfloat16" in name else "float32")
        return self._timed(engines, peers)

    def _some(self) -> list[str]:
        """A few of each length, and some that are none of the genome's."""
        chosen: dict[int, list[str]] = {}
        for one in self.sequences:
            same = chosen.setdefault(len(one), [])
            if len(same) < _CHECKED_OF_EACH_LENGTH and len(chosen) <= 8:
                same.append(one)
        return [one for same in chosen.values() for one in same] + list(_ODD)

    def _engines(self, first: Sequence[str]) -> dict[str, Engine]:
        engines = {}
        for precision in _PRECISIONS[self.name]:
            try:
                engines[precision] = Engine.load(self.model, precision, first)
            except UsageError as error:
                if precision == _MAIN[self.name]:
                    raise
                self.missing.append(not_measured(f"{self.name}.{precision}.over_float32", f"not available ({error})", least=1.3))
        return engines

    def _peers(self) -> dict[str, Peer]:
        peers: dict[str, Peer] = {}
        try:
            tokenizer = benchpeers.load_tokenizer(self.checkpoint.folder)
        except (OSError, ValueError) as error:
            self.missing.append(
                not_measured(f"{self.name}.padded.rate", f"transformers loads no tokenizer here: {one_line(error)}")
            )
            return {}
        padded = benchpeers.padded(self.plain)
        peers["padded"] = benchpeers.loop(padded, tokenizer, self.device)
        peers["sorted"] = benchpeers.loop(padded, tokenizer, self.device, by_length=True)
        if isinstance(self.plain, DNABERT2):
            peers["unpadded"] = benchpeers.loop(benchpeers.unpadded(self.plain), tokenizer, self.device)
            bert = benchpeers.stock_bert(self.checkpoint.config()).to(self.device)
            peers["bert"] = benchpeers.loop(benchpeers.padded(bert), tokenizer, self.device)
        if self.name == "gpu":
            narrow = copy.deepcopy(self.plain).bfloat16()
            peers["padded_bfloat16"] = benchpeers.loop(benchpeers.padded(narrow), tokenizer, self.device)
        hidden = self.checkpoint.config().hidden_size
        try:
            peers["sentence_transformers"] = benchpeers.sentence_transformer(self.plain, hidden, tokenizer, self.device)
        except ImportError as error:
            self.missing.append(not_measured(f"{self.name}.sentence_transformers.rate", one_line(error)))
        return peers

    def _timed(self, engines: dict[str, Engine], peers: dict[str, Peer]) -> list[Row]:
        for engine in engines.values():
            # What is compiled, packed or captured at first use is paid once in a process's life.
            engine.round(self.sequences)
            engine.texts, engine.windows = [], []
        limits = self._limits(engines[_MAIN[self.name]])
        seconds: dict[str, list[float]] = {name: [] for name in peers}
        reached: dict[str, list[float]] = {name: [] for name in limits}
        passes = 20 if self.name == "gpu" else 1
        for limit in limits.values():
            limit.rate(passes)
        for _ in range(self.repeats):
            for engine in engines.values():
                engine.round(self.sequences)
            for name, limit in limits.items():
                reached[name].append(limit.rate(passes))
            for name, peer in peers.items():
                took = _seconds(peer, self.of_peers)
                seconds[name].append(took * len(self.sequences) / len(self.of_peers))
        return self._table(engines, limits, reached, seconds)

    def _limits(self, engine: Engine) -> dict[str, benchlimits.Products]:
        """At the size of the engine's own batches."""
        tokens = int(np.median(engine.sizes))
        dtype = torch.bfloat16 if _MAIN[self.name] == "bfloat16" else torch.float32
        limits = {"matmul": benchlimits.Products(self.layers, tokens, dtype)}
        if self.name == "cpu" and benchlimits.has_packed():
            limits["packed"] = benchlimits.Products(self.layers, tokens, dtype, packed=True)
        return limits

    def _table(
        self,
        engines: dict[str, Engine],
        limits: dict[str, benchlimits.Products],
        reached: dict[str, list[float]],
        seconds: dict[str, list[float]],
    ) -> list[Row]:
        main, gpu, n = engines[_MAIN[self.name]], self.name == "gpu", len(self.sequences)
        unit, scale = ("TFLOP/s", 1e12) if gpu else ("GFLOP/s", 1e9)
        useful = self._useful(cut(self.sequences, main.encoder.tokenizer, main.encoder.cutting), main.encoder.tokenizer)
        rows = []
        for name, rates in reached.items():
            how = {
                "matmul": "torch.matmul over all layers of the model at the engine's usual batch",
                "packed": "oneDNN's product on packed weights over all layers, the fastest that this PyTorch offers here",
            }[name]
            note = f"{how}, {limits[name].tokens:,} tokens"
            rows.append(measured(f"{self.name}.limit.{name}", [rate / scale for rate in rates], unit, note=note))
        for precision, engine in engines.items():
            at = f"{self.name}.{precision}"
            rates = [useful["products"] / one for one in engine.windows]
            note = (
                "products of real tokens alone, [CLS] and [SEP] among them; those inside attention, "
                f"{100 * useful['attention'] / useful['products']:.1f} % more, are not counted"
            )
            rows.append(measured(f"{at}.rate", [n / one for one in engine.texts], "sequences/s"))
            rows.append(measured(f"{at}.tokens", [useful["tokens"] / one for one in engine.windows], "tokens/s"))
            rows.append(measured(f"{at}.useful", [rate / scale for rate in rates], unit, note=note))
            if precision == _MAIN[self.name]:
                least = {"matmul": 0.6 if gpu else 0.9, "packed": None}
                rows += [
                    measured(f"{at}.share_of_{name}", ratios(rates, limit), "", least=least[name])
                    for name, limit in reached.items()
                ]
                rows.append(measured(f"{at}.padding_share", [engine.padding], "", most=0.03 if gpu else None))
                rows += [self._over(at, name, engine, those) for name, those in seconds.items()]
            else:
                rows.append(measured(f"{at}.over_float32", ratios(main.texts, engine.texts), "×", least=1.3))
            rows.append(
                measured(f"{at}.startup", [engine.started], "s", note="from loading the model to the first vectors, once")
            )
        for name, those in seconds.items():
            rows.append(measured(f"{self.name}.{name}.rate", [n / one for one in those], "sequences/s", note=_PEERS[name]))
        return rows + self.checks + self.missing

    def _over(self, at: str, name: str, engine: Engine, those: list[float]) -> Row:
        least = {"padded": 8.0 if self.name == "gpu" else 1.8, "unpadded": None if self.name == "gpu" else 1.15}.get(name)
        return measured(f"{at}.over_{name}", ratios(those, engine.texts), "×", least=least)

    def _useful(self, windows: Windows, tokenizer: Tokenizer) -> dict[str, int]:
        sizes = windows.stop - windows.start + tokenizer.specials
        shape = self.checkpoint.config()
        attention = benchlimits.attention_operations(sizes.tolist(), shape.hidden_size, shape.num_hidden_layers)
        tokens = int(sizes.sum())
        return {"tokens": tokens, "products": tokens * benchlimits.operations(self.layers), "attention": attention}


_PEERS = {
    "padded": f"a transformers loop: batches of {BATCH} in file order, padded to their longest, float32, texts to mean vectors",
    "sorted": f"the same with sequences sorted by length, as sentence-transformers does it, batches of {BATCH}",
    "unpadded": (
        f"the scheme of the published DNABERT-2 code: batches of {BATCH} in file order, padding taken out but for attention, whose bias "
        "is made for each batch; written after its description, since that code itself does not load in transformers 5"
    ),
    "bert": "transformers' BertModel of the same width and depth, which has three quarters of the products: for orientation",
    "padded_bfloat16": f"the padded loop in bfloat16, batches of {BATCH} in file order: for orientation",
    "sentence_transformers": f"that library over the same module, batches of {BATCH} by falling length",
}


def _seconds(peer: Callable[[Sequence[str]], np.ndarray], sequences: Sequence[str]) -> float:
    began = time.perf_counter()
    peer(sequences)
    return time.perf_counter() - began


def device(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What torch knows of this machine. Raises UsageError where `model` names one that cannot be measured."""
    if settings["model"] is not None:
        find(settings["model"]).config()
    found: dict[str, Any] = {
        "onednn": torch.backends.mkldnn.is_available(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        one = torch.cuda.get_device_properties(0)
        found["gpu"] = f"{one.name}, {one.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return found


def fitting(settings: Mapping[str, Any]) -> list[str]:
    """Those of some sequences that a model takes in one window, for the peers know no windows."""
    found, sequences = find(settings["model"]), settings["sequences"]
    tokenizer, positions = found.tokenizer(), found.config().positions
    counts = np.diff(tokenizer.ragged(sequences).offsets)
    limit = min(WINDOW_TOKENS, positions or WINDOW_TOKENS) - tokenizer.specials
    kept = [one for one, count in zip(sequences, counts, strict=True) if count <= limit]
    if not kept:
        raise UsageError(
            f"none of the {len(sequences)} sequences fits into one window of model {settings['model']}: give shorter ones"
        )
    return kept
