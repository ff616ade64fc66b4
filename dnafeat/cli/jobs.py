"""Commands that run on Ray."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

from dnafeat.align.config import AlignConfig, ApplyConfig
from dnafeat.bench.config import BenchmarkConfig
from dnafeat.cli.options import given
from dnafeat.embed.config import EmbedConfig, NightlyConfig
from dnafeat.finetune.config import FinetuneConfig, PredictConfig
from dnafeat.join.config import JoinConfig
from dnafeat.partners.config import PartnerConfig
from dnafeat.pretrain.config import PretrainConfig
from dnafeat.project.config import FitProjectorConfig, ProjectConfig

T = TypeVar("T")


def _on_ray(job: Callable[[], T]) -> T:
    """Runs a job and leaves the Ray it started.

    Ray tells of workers that died on standard output, and from a thread: what a script reads there is the summary alone.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            return job()
        finally:
            # A small join does without Ray, which then need not be installed.
            if "ray" in sys.modules:
                from dnafeat.cluster.session import stop_ray

                stop_ray()


def run_embed(options: argparse.Namespace) -> int:
    from dnafeat.embed.job import embed
    from dnafeat.embed.run import describe_run

    config = EmbedConfig.load(options.config, given(options, EmbedConfig))
    summary = _on_ray(lambda: embed(config))
    if options.json:
        print(json.dumps(asdict(summary)))
    else:
        print(describe_run(summary))
    return 0


def run_nightly(options: argparse.Namespace) -> int:
    from dnafeat.embed.nightly import describe_channel, nightly
    from dnafeat.embed.run import describe_run

    config = NightlyConfig.load(options.config, given(options, NightlyConfig))
    night = _on_ray(lambda: nightly(config))
    print(json.dumps(asdict(night)) if options.json else f"{describe_run(night)}\n{describe_channel(night)}")
    return 0


def run_finetune(options: argparse.Namespace) -> int:
    from dnafeat.finetune.job import finetune, format_result

    config = FinetuneConfig.load(options.config, given(options, FinetuneConfig))
    about = _on_ray(lambda: finetune(config, say=print))
    print(json.dumps(about) if options.json else format_result(about, config.output))
    return 0


def run_predict(options: argparse.Namespace) -> int:
    from dnafeat.finetune.predict import format_summary, predict

    config = PredictConfig.load(options.config, given(options, PredictConfig))
    summary = _on_ray(lambda: predict(config))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def run_pretrain(options: argparse.Namespace) -> int:
    from dnafeat.pretrain.job import format_result, pretrain

    config = PretrainConfig.load(options.config, given(options, PretrainConfig))
    summary = _on_ray(lambda: pretrain(config, say=print))
    print(json.dumps(summary) if options.json else format_result(summary, config.output))
    return 0


def run_join(options: argparse.Namespace) -> int:
    from dnafeat.join.job import join
    from dnafeat.join.summary import format_summary

    config = JoinConfig.load(options.config, given(options, JoinConfig))
    summary = _on_ray(lambda: join(config))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def run_fit_projector(options: argparse.Namespace) -> int:
    from dnafeat.project.fit import fit_projector, format_summary

    config = FitProjectorConfig.load(options.config, given(options, FitProjectorConfig))
    summary = _on_ray(lambda: fit_projector(config))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def run_project(options: argparse.Namespace) -> int:
    from dnafeat.project.job import format_summary, project

    config = ProjectConfig.load(options.config, given(options, ProjectConfig))
    summary = _on_ray(lambda: project(config))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def run_align(options: argparse.Namespace) -> int:
    from dnafeat.align.job import align, format_result

    config = AlignConfig.load(options.config, given(options, AlignConfig))
    about = _on_ray(lambda: align(config, say=print))
    print(json.dumps(about) if options.json else format_result(about, config.output))
    return 0


def run_align_apply(options: argparse.Namespace) -> int:
    from dnafeat.align.apply import apply, format_applied

    applied = apply(ApplyConfig.load(options.config, given(options, ApplyConfig)))
    print(json.dumps(applied.to_dict()) if options.json else format_applied(applied))
    return 0


def run_partner(options: argparse.Namespace) -> int:
    from dnafeat.partners.job import format_summary, partner

    summary = partner(PartnerConfig.load(options.config, given(options, PartnerConfig)))
    print(json.dumps(asdict(summary)) if options.json else format_summary(summary))
    return 0


def run_benchmark(options: argparse.Namespace) -> int:
    from dnafeat.bench.job import benchmark, format_table
    from dnafeat.bench.rows import to_json

    config = BenchmarkConfig.load(options.config, given(options, BenchmarkConfig))
    rows = benchmark(config)
    print(to_json(rows) if options.json else format_table(rows, config))
    return 0
