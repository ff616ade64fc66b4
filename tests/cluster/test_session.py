"""The files that start machines hold to what Ray, EC2, systemd, KubeRay and Kubernetes accept. None of them is talked to."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import json
import operator
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.model
import botocore.session
import botocore.validate
import click
import jsonschema
import kuberay
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager import config as ray_settings
from ray.scripts import scripts

from dnafeat.cli.commands import BY_NAME
from dnafeat.cli.options import given
from dnafeat.cli.parser import parser_of
from dnafeat.embed.config import NightlyConfig
from dnafeat.errors import UsageError

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster.yaml"
NIGHT = ROOT / "jobs" / "kuberay.yaml"
# What the checks below raise.
REFUSED = (jsonschema.ValidationError, AssertionError, KeyError, ValueError, UsageError, click.UsageError, SystemExit)


@functools.cache
def ec2() -> botocore.session.Session:
    return botocore.session.Session()


@functools.cache
def run_instances() -> botocore.model.StructureShape:
    return ec2().get_service_model("ec2").operation_model("RunInstances").input_shape


def unknown_values(value: Any, shape: Any) -> Iterator[str]:
    """Texts that are not among those that EC2 lists, which botocore leaves to the server."""
    if shape.type_name == "structure":
        for name, part in value.items():
            yield from unknown_values(part, shape.members[name])
    elif shape.type_name == "list":
        for part in value:
            yield from unknown_values(part, shape.member)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{value} is no {shape.name}"


def check_cluster(cluster: Any) -> None:
    """Raises where Ray would not take the file, or EC2 not start a machine of it."""
    validate_config(prepare_config(copy.deepcopy(cluster)))
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    provider = cluster["provider"]
    # Ray lets through what it does not know here.
    assert provider.keys() <= schema["properties"]["provider"]["properties"].keys()
    assert provider["region"] in ec2().get_available_regions("ec2")
    assert all(re.fullmatch(provider["region"] + "[a-f]", zone) for zone in provider["availability_zone"].split(","))
    for name, node in cluster["available_node_types"].items():
        request = {"MinCount": 1, "MaxCount": 1, "ImageId": "ami-0", **node["node_config"]}
        report = botocore.validate.ParamValidator().validate(request, run_instances())
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert not list(unknown_values(request, run_instances())), name
        assert "InstanceType" in request, f"{name} names no machine"
        assert node["resources"].keys() <= {"CPU", "GPU"}, name
    assert all((ROOT / file).exists() for file in files_on_the_nodes(cluster))


HOME = "/home/ubuntu/dnafeat"


def files_on_the_nodes(cluster: Any) -> list[str]:
    """What the commands name of the repository, parts of which are mounted on the nodes."""
    mounts = cluster["file_mounts"]
    assert all(remote == f"{HOME}/{local}" and local not in ("", ".") for remote, local in mounts.items())
    names = re.findall(r"(?:~|/home/ubuntu)/dnafeat(?:/([\w./-]+))?", "\n".join(commands(cluster)))
    assert "constraints.txt" in names
    assert all(name.partition("/")[0] in ("", *mounts.values()) for name in names)
    return [*names, *mounts.values()]


def commands(cluster: Any) -> list[str]:
    return [command for key, value in cluster.items() if key.endswith("_commands") for command in value]


def units(cluster: Any) -> dict[str, str]:
    found = re.findall(
        r"tee /etc/systemd/system/(\S+) > /dev/null <<'(\w+)'\n(.*?\n)\2\n", "\n".join(commands(cluster)), re.DOTALL
    )
    return {name: text for name, _, text in found}


def parse_ray(command: str, arguments: list[str]) -> None:
    """Raises where `ray start` or `ray stop` has no such flag. Runs nothing."""
    getattr(scripts, command).make_context(command, arguments)


def night_of(words: list[str], files: dict[str, Path], home: str) -> NightlyConfig:
    """The configuration that a night's command comes to, run in the folder `home` of a machine that has these files."""
    python, script, *arguments = words
    assert python == "python"
    assert files[str(Path(home, script))] == ROOT / "jobs" / "nightly.py"
    options = parser_of(BY_NAME["nightly"]).parse_args(arguments)
    return NightlyConfig.load(str(files[str(Path(home, options.config))]), given(options, NightlyConfig))


def autoscaling(cluster: Any) -> dict[str, Any]:
    """What Ray's autoscaler makes of a RayCluster's spec."""
    return _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "night", "namespace": "default"}, "spec": cluster})


def check_night(documents: Any) -> NightlyConfig:
    """Raises where Kubernetes, KubeRay or Ray would refuse the manifest, or where its parts do not fit together."""
    for document in documents:
        kuberay.check(document)
    account, config, night = documents
    job = night["spec"]["jobTemplate"]
    cluster = job["rayClusterSpec"]
    autoscaling(cluster)
    assert account["metadata"]["annotations"].keys() == {"eks.amazonaws.com/role-arn"}
    machines = run_instances().members["InstanceType"].enum
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        parse_ray("start", [f"--{name}={value}" for name, value in group["rayStartParams"].items()])
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        scraped = group["template"]["metadata"]["annotations"]
        assert scraped.keys() == {"prometheus.io/scrape", "prometheus.io/port", "karpenter.sh/do-not-disrupt"}
        assert scraped["prometheus.io/port"] == group["rayStartParams"]["metrics-export-port"] == str(ports["metrics"])
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        assert pod["nodeSelector"].keys() == {"karpenter.sh/capacity-type", "node.kubernetes.io/instance-type"}
        assert pod["nodeSelector"]["karpenter.sh/capacity-type"] in ("spot", "on-demand")
        assert pod["nodeSelector"]["node.kubernetes.io/instance-type"] in machines
        limits = container["resources"]["limits"].keys()
        assert {"cpu", "memory", "ephemeral-storage"} <= limits <= {"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"}
    for variable in cluster["autoscalerOptions"]["env"]:
        assert f'"{variable["name"]}"' in inspect.getsource(ray_settings), "Ray reads it no more"
    head = cluster["headGroupSpec"]["template"]["spec"]
    [container], [volume] = head["containers"], head["volumes"]
    [mount] = container["volumeMounts"]
    assert {"gcs-server", "dashboard"} <= {port["name"] for port in container["ports"]}
    assert (mount["name"], volume["configMap"]["name"]) == (volume["name"], config["metadata"]["name"])
    # As the submitter's shell reads it.
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {job['entrypoint']}"], capture_output=True, text=True, check=True)
    [image] = re.findall(r"WORKDIR (\S+)", NIGHT.read_text())
    [(name, text)] = config["data"].items()
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        files = {f"{image}/jobs/nightly.py": ROOT / "jobs" / "nightly.py", f"{mount['mountPath']}/{name}": Path(file.name)}
        return night_of(words.stdout.splitlines(), files, "/")


def keys(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The way to every key of a document, but for those that anybody may choose."""
    if isinstance(value, dict):
        for key, part in value.items():
            if path[-1:] not in [("labels",), ("available_node_types",)]:
                yield (*path, key)
            yield from keys(part, (*path, key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from keys(part, (*path, number))


def changed(document: Any, path: tuple, value: Any) -> Any:
    """A copy of a document with another value at a place, or without it (None)."""
    document = json.loads(json.dumps(document))
    parent = functools.reduce(operator.getitem, path[:-1], document)
    if value is None:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return document


def unnoticed(check: Callable[[Any], Any], document: Any) -> list[tuple]:
    """The keys that may lack their last letter and still pass the check."""
    passed = []
    for path in keys(document):
        parent = functools.reduce(operator.getitem, path[:-1], document)
        misspelt = {name[:-1] if name == path[-1] else name: value for name, value in parent.items()}
        with contextlib.suppress(*REFUSED):
            check(changed(document, path[:-1], misspelt) if path[:-1] else misspelt)
            passed.append(path)
    return passed


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text())


@pytest.fixture
def night() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(NIGHT.read_text()))


def test_ray_takes_the_cluster_file_and_ec2_starts_a_machine_of_each_kind(cluster: dict[str, Any]) -> None:
    check_cluster(cluster)


def test_every_key_of_the_cluster_file_is_refused_when_it_lacks_a_letter(cluster: dict[str, Any]) -> None:
    assert unnoticed(check_cluster, cluster) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("head_node_type",), "haed"),
        (("max_workers",), "16"),
        (("provider", "region"), "eu-centrall-1"),
        (("provider", "availability_zone"), "eu-central-1a,eu-west-1b"),
        (("available_node_types", "cpu", "max_workers"), "8"),
        (("available_node_types", "cpu", "resources"), None),
        (("available_node_types", "cpu", "node_config", "InstanceType"), None),
        (("available_node_types", "gpu-spot", "node_config", "InstanceType"), "g6.2xlage"),
        (("available_node_types", "gpu-spot", "node_config", "InstanceMarketOptions"), "spot"),
        (("available_node_types", "gpu-spot", "node_config", "InstanceMarketOptions", "MarketType"), "spott"),
        (("available_node_types", "head", "node_config", "IamInstanceProfile"), "dnafeat"),
        (("available_node_types", "head", "node_config", "BlockDeviceMappings"), {"DeviceName": "/dev/sda1"}),
        (("available_node_types", "head", "node_config", "BlockDeviceMappings", 0, "Ebs", "VolumeSize"), "100"),
        (("available_node_types", "head", "node_config", "BlockDeviceMappings", 0, "Ebs", "VolumeType"), "gp33"),
        (("file_mounts",), {"/home/ubuntu/other": "dnafeat"}),
        (("file_mounts",), {"/home/ubuntu/dnafeat": "."}),
        (("file_mounts", "/home/ubuntu/dnafeat/constraints.txt"), None),
        (("setup_commands",), ["pip install --constraint ~/dnafeat/constraint.txt"]),
    ],
)
def test_a_wrong_value_in_the_cluster_file_is_refused(cluster: dict[str, Any], path: tuple, value: Any) -> None:
    with pytest.raises(REFUSED):
        check_cluster(changed(cluster, path, value))


def test_the_shell_reads_every_command_of_the_cluster_file(cluster: dict[str, Any]) -> None:
    for command in [*commands(cluster), *re.findall(r"/bin/sh -c '(.*)'", units(cluster)["dnafeat-alert.service"])]:
        # Of a text that never ends bash says so and goes on.
        assert subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=True).stderr == ""


def test_ray_has_every_flag_that_the_cluster_file_gives_it(cluster: dict[str, Any]) -> None:
    calls = re.findall(r"venv/bin/ray (start|stop)(.*)", "\n".join(commands(cluster)))
    assert [name for name, _ in calls] == ["stop", "start"] * 2
    for name, flags in calls:
        parse_ray(name, shlex.split(flags))
        with pytest.raises(click.NoSuchOption):
            parse_ray(name, [*shlex.split(flags), "--haed"])


def test_uv_installs_extras_that_the_project_has(cluster: dict[str, Any]) -> None:
    [extra] = re.findall(r"'/home/ubuntu/dnafeat\[(\w+)]'", "\n".join(commands(cluster)))
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
@pytest.mark.parametrize(
    ("right", "wrong"), [("", ""), ("OnCalendar", "OnCalender"), ("02:00:00 UTC", "02:00:00 CTU"), ("Exec", "Exek")]
)
def test_systemd_takes_the_units_of_the_night_and_no_misspelt_ones(
    cluster: dict[str, Any], tmp_path: Path, right: str, wrong: str
) -> None:
    for name, text in units(cluster).items():
        (tmp_path / name).write_text(text.replace("/home/ubuntu/venv/bin/python", sys.executable).replace(right, wrong))
    said = subprocess.run(["systemd-analyze", "verify", *tmp_path.iterdir()], capture_output=True, text=True).stderr
    assert ("dnafeat-" in said) == (wrong != ""), said


def test_the_units_of_the_night_name_each_other(cluster: dict[str, Any]) -> None:
    files = units(cluster)
    named = re.findall(r"OnFailure=(\S+)", files["dnafeat-night.service"])
    named += re.findall(r"systemctl enable --now (\S+)", "\n".join(commands(cluster)))
    assert {"dnafeat-night.service", *named} == files.keys()


def test_the_timer_sends_a_night_that_its_configuration_allows(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    unit = units(cluster)["dnafeat-night.service"]
    [home], [line] = re.findall(r"WorkingDirectory=(.*)", unit), re.findall(r"ExecStart=(.*)", unit)
    sent: list[list[str]] = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("dnafeat.embed.submit.submit", lambda command, **options: sent.append(command))
    monkeypatch.setattr(sys, "argv", shlex.split(line)[1:])
    assert "jobs/submit.py" in sys.argv
    with pytest.raises(SystemExit) as end:
        runpy.run_path("jobs/submit.py", run_name="__main__")
    assert end.value.code == 0
    assert "jobs" in cluster["file_mounts"].values()
    files = {f"{HOME}/jobs/{name}": ROOT / "jobs" / name for name in ("nightly.py", "nightly.yaml")}
    assert night_of(sent[0], files, home).embed.run_id is None


def test_kubernetes_kuberay_and_ray_take_the_manifest_of_the_night(night: list[dict[str, Any]]) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", check_night(night).embed.run_id or "")


def test_every_key_of_the_manifest_is_refused_when_it_lacks_a_letter(night: list[dict[str, Any]]) -> None:
    assert unnoticed(check_night, night) == []


JOB = (2, "spec", "jobTemplate")
RAY = (*JOB, "rayClusterSpec")
HEAD = (*RAY, "headGroupSpec", "template", "spec")
GPU = (*RAY, "workerGroupSpecs", 1)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((2, "apiVersion"), "ray.io/v1alpha1"),
        ((2, "metadata", "name"), ["dnafeat-night"]),
        ((2, "spec", "schedule"), None),
        ((2, "spec", "concurrencyPolicy"), "Forbid"),
        ((*JOB, "backoffLimit"), "2"),
        ((*JOB, "activeDeadlineSeconds"), 0),
        ((*JOB, "submissionMode"), "K8sjobMode"),
        ((*JOB, "entrypoint"), "python /opt/dnafeat/jobs/nigthly.py --config /etc/dnafeat/nightly.yaml"),
        ((*JOB, "entrypoint"), "python /opt/dnafeat/jobs/nightly.py --config /etc/dnafeat/nightly.yml"),
        ((*JOB, "entrypoint"), "python /opt/dnafeat/jobs/nightly.py --config /etc/dnafeat/nightly.yaml --runid $(date -u +%F)"),
        ((1, "data", "nightly.yaml"), "sources: [a.fa]\nstore: s3://bucket/store\nchanel: production\n"),
        ((*RAY, "authOptions", "mode"), "tokens"),
        ((*RAY, "autoscalerOptions", "version"), "v3"),
        ((*RAY, "autoscalerOptions", "upscalingMode"), "Fast"),
        ((*RAY, "autoscalerOptions", "env", 0, "value"), 900),
        ((*RAY, "headGroupSpec", "rayStartParams"), {"num-cpus": 0}),
        ((*HEAD, "serviceAccountName"), "default"),
        ((*HEAD, "containers", 0, "ports", 0, "containerPort"), "6379"),
        ((*HEAD, "volumes", 0, "configMap", "name"), "dnafeat"),
        ((*GPU, "maxReplicas"), None),
        ((*GPU, "priority"), "10"),
        ((*GPU, "template", "spec", "tolerations"), {"key": "nvidia.com/gpu"}),
        ((*GPU, "template", "spec", "containers", 0, "resources", "limits", "memory"), "26 GB"),
        ((*GPU, "template", "spec", "nodeSelector", "node.kubernetes.io/instance-type"), "g6.2xlage"),
    ],
)
def test_a_wrong_value_in_the_manifest_is_refused(night: list[dict[str, Any]], path: tuple, value: Any) -> None:
    with pytest.raises(REFUSED):
        check_night(changed(night, path, value))


def test_the_groups_of_the_manifest_start_from_nothing_and_hold_as_many_encoders_as_the_night_asks_for(
    night: list[dict[str, Any]],
) -> None:
    spec = night[2]["spec"]["jobTemplate"]["rayClusterSpec"]
    groups = autoscaling(spec)["available_node_types"]
    assert groups["headgroup"]["resources"]["CPU"] == 0
    assert all(group["min_workers"] == 0 for group in groups.values())
    encoders = [name for name, group in groups.items() if group["resources"].get("GPU") == 1]
    assert [groups[name]["priority"] for name in encoders] == [10, 0]
    assert check_night(night).embed.actors.num_actors == sum(groups[name]["max_workers"] for name in encoders)
    assert f"ray=={spec['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_every_attempt_of_a_night_ends_on_its_own_day(night: list[dict[str, Any]]) -> None:
    spec = night[2]["spec"]
    job = spec["jobTemplate"]
    minute, hour, *rest = spec["schedule"].split()
    assert rest == ["*", "*", "*"]
    assert zoneinfo.ZoneInfo(spec["timeZone"]).key.endswith("UTC")
    last = int(hour) * 3600 + int(minute) * 60 + (1 + job["backoffLimit"]) * job["activeDeadlineSeconds"]
    assert last < 24 * 3600
