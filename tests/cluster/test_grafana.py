"""The dashboard asks for what dnafeat and the installed Ray count, under the names they are served by. No Grafana is talked to."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray

from dnafeat.cluster.observe import METERS, Job

DASHBOARD = Path(__file__).parents[2] / "jobs" / "grafana.json"
MODULES = Path(ray.__file__).parent / "dashboard" / "modules"
# What is served of a meter has `ray_` before its name and one of these after it.
SUFFIXES = {"Counter": ("_total",), "Histogram": ("_bucket", "_sum", "_count"), "Gauge": ("",)}
OWN = {f"ray_{name}{suffix}": name for name, (kind, _, _) in METERS.items() for suffix in SUFFIXES[kind]}
TAGS = Job()._tagged({}).keys()
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"short", "s", "bytes", "Bps", "percentunit"}
TIMES = {"__range", "__interval", "__interval_ms", "__rate_interval"}  # which Grafana fills in


@functools.cache
def of_ray() -> set[str]:
    """The metrics that Ray's own dashboards ask for, and those its agent has of a node."""
    panels = "".join(file.read_text() for file in (MODULES / "metrics" / "dashboards").glob("*_panels.py"))
    gauges = re.findall(r'"(\w+)": Gauge\(', (MODULES / "reporter" / "reporter_agent.py").read_text())
    return {*re.findall(r"\b(?:ray|autoscaler)_\w+(?=\{\{)", panels), *(f"ray_{name}" for name in gauges)}


def metrics(expression: str) -> set[str]:
    """The words of a PromQL expression that are no functions, labels, durations or operators."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\bby \([^)]*\)|\$\w+", "", expression)
    return set(re.findall(r"\b[a-zA-Z_]\w*\b(?!\s*\()", bare)) - {"or", "offset"}


def grouped(expression: str) -> set[str]:
    """The labels that are left of an expression's series."""
    return set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))))


def selected(expression: str) -> set[str]:
    """The labels by which an expression takes some series and leaves others."""
    return set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", " ".join(re.findall(r"\{([^}]*)\}", expression))))


def check_layout(panels: Any) -> None:
    assert len({panel["id"] for panel in panels}) == len(panels), "an id stands twice"
    places = [panel["gridPos"] for panel in panels]
    assert all(0 <= place["x"] <= place["x"] + place["w"] <= 24 for place in places), "a panel leaves the grid"
    cells = {(place["x"] + x, place["y"] + y) for place in places for x in range(place["w"]) for y in range(place["h"])}
    assert len(cells) == sum(place["w"] * place["h"] for place in places), "panels overlap"


def check_variables(variables: Any) -> None:
    assert [variable["name"] for variable in variables] == ["datasource", *TAGS], "other variables than tags"
    assert (variables[0]["type"], variables[0]["query"]) == ("datasource", "prometheus")
    for variable in variables[1:]:
        query = variable["query"]["query"]
        assert re.fullmatch(rf"label_values\(.+, {variable['name']}\)", query), "a variable without values"
        assert selected(query) <= {"__name__", *TAGS}, "no meter has such a tag"
        assert variable["definition"] == query
        # A run without a source has no such label at all.
        assert (variable["datasource"], variable["allValue"]) == (PROMETHEUS, ".*"), "All leaves something out"


def check_target(target: Any) -> set[str]:
    """Returns the meters it shows."""
    expression = target["expr"]
    asked = metrics(expression)
    own = {OWN[name] for name in asked & OWN.keys()}
    assert asked, "it asks for nothing"
    assert asked <= OWN.keys() | of_ray(), f"nobody serves {asked - OWN.keys() - of_ray()}"
    assert set(re.findall(r"\$(\w+)", expression)) <= TIMES | TAGS, "unknown variable"
    assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= grouped(expression), (
        "the legend names a label that is gone"
    )
    assert target["datasource"] == PROMETHEUS
    if own:
        labels = {*TAGS, "le", *(tag for name in own for tag in METERS[name][2])}
        assert grouped(expression) | selected(expression) <= labels, "no meter has such a tag"
        heeded = re.findall(r"ray_dnafeat_\w+\{" + ", ".join(rf'{tag}=~"\${tag}"' for tag in TAGS), expression)
        assert len(heeded) == expression.count("ray_dnafeat_"), "it does not heed the variables"
    return own


def check(dashboard: Any) -> None:
    """Raises where a part of the dashboard would be misplaced, empty or unexplained."""
    check_layout(dashboard["panels"])
    check_variables(dashboard["templating"]["list"])
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    for panel in panels:
        assert re.fullmatch(r"[A-Z][^.]+\.", panel["description"]), "a description is one sentence"
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, "no unit"
        assert panel["datasource"] == PROMETHEUS
        assert panel["targets"], "it asks for nothing"
    shown = set().union(*(check_target(target) for panel in panels for target in panel["targets"]))
    assert shown == METERS.keys(), f"no panel shows {METERS.keys() - shown}"


def test_every_panel_asks_for_what_is_served_and_every_meter_has_a_panel() -> None:
    check(json.loads(DASHBOARD.read_text()))


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ('"id": 3,', '"id": 2,', "an id stands twice"),
        ('"x": 16, "y": 34, "w": 8', '"x": 16, "y": 34, "w": 9', "leaves the grid"),
        ('"x": 8, "y": 17', '"x": 7, "y": 17', "overlap"),
        ('"name": "task"', '"name": "job"', "other variables than tags"),
        (", source)", ", sauce)", "a variable without values"),
        ('"allValue": ".*"', '"allValue": ".+"', "All leaves something out"),
        ('task=~\\"$task\\"}, source)', 'job=~\\"$task\\"}, source)', "no meter has such a tag"),
        ('"unit": "Bps"', '"unit": "bps/s"', "no unit"),
        ("begun again after their worker died", "begun again. Their worker died", "one sentence"),
        ("ray_dnafeat_tokens_total", "ray_dnafeat_tokens", "nobody serves"),
        ("ray_dnafeat_encode_seconds_bucket", "ray_dnafeat_encode_seconds_total", "nobody serves"),
        ("ray_dnafeat_shards", "ray_dnafeat_shards_total", "nobody serves"),
        ("ray_dnafeat_rejected_total", "ray_dnafeat_refused_total", "nobody serves"),
        ("ray_dnafeat_written_bytes_total", "ray_dnafeat_tokens_total", "no panel shows"),
        ("ray_node_mem_used", "ray_node_mem_use", "nobody serves"),
        ("autoscaler_pending_nodes", "ray_autoscaler_pending_nodes", "nobody serves"),
        ("$__range", "$__ranges", "unknown variable"),
        ("by (what)", "by (why)", "gone"),
        ("by (le)", "by (what)", "no meter has such a tag"),
        ('source=~\\"$source\\"', 'sauce=~\\"$source\\"', "no meter has such a tag"),
        (', source=~\\"$source\\"}', "}", "does not heed"),
    ],
)
def test_a_mistake_in_the_dashboard_is_noticed(right: str, wrong: str, complaint: str) -> None:
    text = json.dumps(json.loads(DASHBOARD.read_text()))
    assert right in text
    with pytest.raises(AssertionError, match=complaint):
        check(json.loads(text.replace(right, wrong)))
