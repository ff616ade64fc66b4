"""What Ray Train runs in every worker of an alignment: global batches, gathered negatives, early stopping, checkpoints.

A global batch depends on the seed, the epoch and the subjects alone. Each worker projects its part of it, all parts are gathered with
their gradients, and gradients are summed: neither the loss nor what is learned depends on how many workers there are.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import torch
from ray import train
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed

from dnafeat.align.encoder import Letters, SubjectEncoder, encoding, subject_encoder
from dnafeat.align.model import Alignment, batches, dev_loss, gather, losses
from dnafeat.encoder.source import Source
from dnafeat.training.callbacks import Events, Reports
from dnafeat.training.checkpoints import BEST, RESULTS, known, report

_NOW, _OPTIMISER, _STATE = "trained.safetensors", "optimiser.pt", "state.json"
TUNED = "tuned."
"""Before the names of an encoder's tensors among those that were trained."""
_CLIP = 1.0
_EPOCHS_BETWEEN = 5


@dataclass(frozen=True, kw_only=True)
class AlignData:
    """Prepared vectors of training and dev rows.

    Attributes
    ----------
    dna, partner : mapping of str to np.ndarray, shape=(n, width), float32
        Of `train` and of `dev`.
    same : mapping of str to np.ndarray, shape=(n, kinds), int64
        Rows that are equal in any column are not told apart.
    tuning : Tuning | None
        Where the DNA vectors are made in the loop, by an encoder that learns.
    """

    dna: Mapping[str, np.ndarray]
    partner: Mapping[str, np.ndarray]
    same: Mapping[str, np.ndarray]
    tuning: Tuning | None = None


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What makes DNA vectors of letters.

    Attributes
    ----------
    letters : Letters
    rows : mapping of str to np.ndarray
        Rows of `letters` on each side.
    mean, gain : np.ndarray, shape=(hidden_size,)
        Of the z-scores, as they were fitted on the stored vectors.
    rate : float
        Peak learning rate of what is tuned.
    """

    letters: Letters
    rows: Mapping[str, np.ndarray]
    mean: np.ndarray
    gain: np.ndarray
    rate: float


def align_worker(job: dict[str, Any]) -> None:
    """Trains, or goes on from the run's last checkpoint."""
    torch.set_num_threads(job["threads"])
    context = train.get_context()
    with tempfile.TemporaryDirectory(prefix="dnafeat-") as scratch:
        data: AlignData = ray.get(job["data"])
        torch.manual_seed(job["settings"]["seed"])
        encoder = None
        if data.tuning is not None:
            source = Source.find(encoding(job["config"]), job["pins"])
            encoder = subject_encoder(source, job["config"], data.tuning.letters)
        run = _Run(job["settings"], data, context.get_world_rank(), context.get_world_size(), encoder)
        before = train.get_checkpoint()
        if before is not None:
            folder = Path(before.to_directory(str(Path(scratch) / "before")))
            if (folder / RESULTS).is_file():
                report(folder if run.rank == 0 else None, {"finished": 1})
                return
            run.load(folder)
        # Callbacks of transformers' Trainer, which need no more of it than how far the run is.
        reports: Any = Reports(job["progress"])
        events: Any = Events(job["events"] or str(Path(scratch) / "events"))
        began = time.monotonic()
        while not run.over:
            run.step()
            state = SimpleNamespace(global_step=run.done, max_steps=run.steps, is_world_process_zero=run.rank == 0)
            asked = SimpleNamespace(should_save=False, should_evaluate=False)
            reports.on_step_end(None, state, asked)
            evaluated = run.done % run.every == 0 or run.done == run.steps
            if evaluated:
                run.evaluate()
            for row in run.fresh():
                for one in (reports, events):
                    one.on_log(None, state, None, row)
            if evaluated or asked.should_save:
                folder = Path(scratch) / f"checkpoint-{run.done}"
                if run.rank == 0:
                    run.save(folder)
                report(folder if run.rank == 0 else None, {"step": run.done})
        folder = Path(scratch) / "final"
        if run.rank == 0:
            folder.mkdir()
            save_file(run.best_state, folder / BEST)
            (folder / RESULTS).write_text(json.dumps(run.results() | {"seconds": round(time.monotonic() - began, 3)}))
        report(folder if run.rank == 0 else None, {"finished": 1})


class _Run:
    """A model between two steps, with all that a checkpoint holds."""

    def __init__(
        self, settings: Mapping[str, Any], data: AlignData, rank: int, world: int, encoder: SubjectEncoder | None = None
    ) -> None:
        self.settings, self.rank, self.world = settings, rank, world
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # The same weights on every worker.
        torch.manual_seed(settings["seed"])
        widths = data.dna["train"].shape[1], data.partner["train"].shape[1]
        self.model = Alignment(*widths, settings["dropout"], settings["temperature"]).to(self.device)
        self.data = {
            side: tuple(torch.tensor(part[side]).to(self.device) for part in (data.dna, data.partner, data.same))
            for side in ("train", "dev")
        }
        self.tuning = data.tuning
        self.encoder = None if encoder is None else encoder.to(self.device)
        self.count = len(data.dna["train"])
        self.per_epoch = len(batches(self.count, settings["batch_size"], 0, 0))
        self.steps: int = settings["steps"] or settings["epochs"] * self.per_epoch
        self.every = min(settings["eval_steps"] or _EPOCHS_BETWEEN * self.per_epoch, self.steps)
        decayed = [value for value in self.model.parameters() if value.ndim > 1]
        others = [value for value in self.model.parameters() if value.ndim <= 1]
        peak = settings["learning_rate"]
        parts: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": settings["weight_decay"], "peak": peak},
            {"params": others, "weight_decay": 0.0, "peak": peak},
        ]
        if self.tuning is not None:
            parts.append({"params": list(self._tuned().values()), "weight_decay": 0.0, "peak": self.tuning.rate})
        self.trainable = [value for part in parts for value in part["params"]]
        self.optimiser = torch.optim.AdamW(parts, lr=peak)
        self.done = 0
        self.best: dict[str, Any] = {"value": None, "step": 0, "worse_since": 0}
        self.best_state = self._state()
        self.history: list[dict[str, float | None]] = []
        self._told = 0

    @property
    def over(self) -> bool:
        patience = self.settings["patience"]
        return self.done >= self.steps or bool(patience and self.best["worse_since"] >= patience)

    def step(self) -> None:
        epoch, number = divmod(self.done, self.per_epoch)
        batch = batches(self.count, self.settings["batch_size"], self.settings["seed"], epoch)[number]
        parts = np.array_split(np.arange(len(batch)), self.world)
        places = torch.from_numpy(parts[self.rank]).to(self.device)
        own = torch.from_numpy(batch[parts[self.rank]]).to(self.device)
        # What a step draws follows from seed, step and rank alone: a run that goes on draws as it would have.
        drawn = np.random.SeedSequence([self.settings["seed"], self.done, self.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(drawn[0]))
        share = self._share()
        for group in self.optimiser.param_groups:
            group["lr"] = share * group["peak"]
        self.model.train()
        _, partner, same = self.data["train"]
        x, y = self.model(self._dna("train", batch[parts[self.rank]]), partner[own])
        sizes = [len(part) for part in parts]
        everybody = gather(x, sizes), gather(y, sizes)
        each = losses((x, y), everybody, places, same[torch.from_numpy(batch).to(self.device)], self.model.log_scale)
        # Weighted by the global count: summed over workers, this is the mean over the batch.
        loss = each.sum() / len(batch)
        self.optimiser.zero_grad()
        loss.backward()
        total = loss.detach()
        if self.world > 1:
            # A worker without rows has no gradient for what makes vectors of them.
            gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in self.trainable]
            flat = torch.cat([one.ravel() for one in gradients] + [total.ravel()])
            distributed.all_reduce(flat)
            for one, part in zip(self.trainable, flat[:-1].split([one.numel() for one in gradients]), strict=True):
                one.grad = part.view_as(one).clone()
            total = flat[-1]
        torch.nn.utils.clip_grad_norm_(self.trainable, _CLIP)
        self.optimiser.step()
        self.model.clamp()
        self.done += 1
        self.history.append(
            {"step": self.done, "loss": known(float(total)), "learning_rate": share * self.settings["learning_rate"]}
        )

    def _dna(self, side: str, rows: np.ndarray) -> Tensor:
        """The prepared DNA vectors of some rows of a side: those that are stored, or made here of their sequences."""
        if self.tuning is None or self.encoder is None:
            return self.data[side][0][torch.from_numpy(rows).to(self.device)]
        mean, gain = (torch.from_numpy(one).float().to(self.device) for one in (self.tuning.mean, self.tuning.gain))
        return (self.encoder(self.tuning.rows[side][rows]) - mean) * gain

    def _tuned(self) -> dict[str, Tensor]:
        """What is trained of the encoder, by name."""
        named = () if self.encoder is None else self.encoder.encoder.named_parameters()
        return {name: value for name, value in named if value.requires_grad}

    def _share(self) -> float:
        """Of the peak learning rate: rising to it, then falling to nothing in a straight line."""
        warm = min(self.settings["warmup_steps"], self.steps // 10)
        share = (self.done + 1) / warm if self.done < warm else (self.steps - self.done) / max(1, self.steps - warm)
        return float(share)

    def evaluate(self) -> None:
        # One worker's number decides for all.
        _, partner, same = self.data["dev"]
        with torch.no_grad():
            dna = self._dna("dev", np.arange(len(partner)))
        value = torch.tensor(dev_loss(self.model, dna, partner, same), dtype=torch.float64, device=self.device)
        if self.world > 1:
            distributed.broadcast(value, 0)
        loss = float(value)
        if np.isfinite(loss) and (self.best["value"] is None or loss < self.best["value"]):
            self.best = {"value": loss, "step": self.done, "worse_since": 0}
            self.best_state = self._state()
        else:
            self.best["worse_since"] += 1
        temperature = float(torch.exp(-self.model.log_scale.detach()))
        self.history.append({"step": self.done, "eval_loss": known(loss), "eval_temperature": temperature})

    def fresh(self) -> list[dict[str, float]]:
        """What was written into the history since this was asked last."""
        rows, self._told = self.history[self._told :], len(self.history)
        return [{name: value for name, value in row.items() if value is not None and name != "step"} for row in rows]

    def results(self) -> dict[str, Any]:
        return {
            "steps": self.done,
            "best_step": self.best["step"],
            "dev_loss": self.best["value"],
            "workers": self.world,
            "device": "CPU" if self.device.type == "cpu" else torch.cuda.get_device_name(),
            "history": self.history,
        }

    def _state(self) -> dict[str, Tensor]:
        whole = {**self.model.state_dict(), **{f"{TUNED}{name}": value for name, value in self._tuned().items()}}
        return {name: value.detach().cpu().clone().contiguous() for name, value in whole.items()}

    def save(self, folder: Path) -> None:
        folder.mkdir()
        save_file(self._state(), folder / _NOW)
        save_file(self.best_state, folder / BEST)
        torch.save(self.optimiser.state_dict(), folder / _OPTIMISER)
        state = {"done": self.done, "best": self.best, "history": self.history}
        (folder / _STATE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        own, tuned = split_state(load_file(folder / _NOW))
        self.model.load_state_dict(own)
        with torch.no_grad():
            for name, value in self._tuned().items():
                value.copy_(tuned[name])
        self.best_state = load_file(folder / BEST)
        self.optimiser.load_state_dict(torch.load(folder / _OPTIMISER, map_location=self.device, weights_only=True))
        state = json.loads((folder / _STATE).read_text())
        self.done, self.best, self.history = state["done"], state["best"], state["history"]
        self._told = len(self.history)


def split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the projectors, and those of the encoder that was tuned."""
    own = {name: value for name, value in state.items() if not name.startswith(TUNED)}
    return own, {name.removeprefix(TUNED): value for name, value in state.items() if name.startswith(TUNED)}
