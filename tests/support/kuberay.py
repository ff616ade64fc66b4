"""What KubeRay and Kubernetes accept of a RayCronJob, offline.

Fields, types and values are those of KubeRay 1.7.0, noted from its docs/reference/api.md (commit 97509c3a7216cf3440af381646560a1885afb53b);
which of them are required, from ray-operator/apis/ray/v1; how a quantity is written, from helm-chart/kuberay-operator/crds. Objects that
the manifest does not use are let through whole. What stands in a pod is checked by the schemas of Kubernetes in `kubernetes-validate`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import kubernetes_validate

KUBERNETES = "1.33"
Schema = dict[str, Any]

_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?(\d+(\.\d*)?|\.\d+))?")


def check(resource: Any) -> None:
    """Raises jsonschema.ValidationError where the API server of Kubernetes or KubeRay's CRD would refuse a resource."""
    if resource.get("kind") == "RayCronJob":
        _VALIDATOR.validate(resource)
    else:
        _check_by_kubernetes(json.dumps(resource))


@functools.cache  # the schemas are read from the disk each time
def _check_by_kubernetes(resource: str) -> None:
    kubernetes_validate.validate(json.loads(resource), KUBERNETES, strict=True)


def _within(validator: Any, wrapped: Callable[[Any], Any], value: Any, schema: Schema) -> Iterator[jsonschema.ValidationError]:
    """The keyword `kubernetes`: the value, as a part of a resource that Kubernetes itself has."""
    try:
        check(wrapped(value))
    except jsonschema.ValidationError as error:
        yield jsonschema.ValidationError(error.message)
        return
    # Kubernetes' own schemas take any text for a quantity.
    for container in value.get("spec", {}).get("containers", []) if isinstance(value, dict) else []:
        resources = container.get("resources", {})
        for name, amount in (resources.get("limits", {}) | resources.get("requests", {})).items():
            if not _QUANTITY.fullmatch(str(amount)):
                yield jsonschema.ValidationError(f"{name}: {amount!r} is no quantity")


def _fields(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def _template(value: Any) -> Any:
    return {"apiVersion": "v1", "kind": "PodTemplate", "template": value}


def _of_container(field: str) -> Schema:
    return {"kubernetes": lambda value: _template({"spec": {"containers": [{"name": "ray", field: value}]}})}


_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_MAP: Schema = {"type": "object", "additionalProperties": _TEXT}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SHARE: Schema = {"type": "number"}
_OTHER: Schema = {"type": "object"}
_POD: Schema = {"kubernetes": _template}

_AUTOSCALER_OPTIONS = _fields(
    resources=_of_container("resources"),
    image=_TEXT,
    imagePullPolicy=_of_container("imagePullPolicy"),
    securityContext=_of_container("securityContext"),
    idleTimeoutSeconds=_COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]},
    env=_of_container("env"),
    envFrom=_of_container("envFrom"),
    volumeMounts=_of_container("volumeMounts"),
    command=_TEXTS,
    args=_TEXTS,
)
_HEAD_GROUP = _fields(
    "template",
    template=_POD,
    headService=_OTHER,
    enableIngress=_FLAG,
    ingressOptions=_OTHER,
    resources=_MAP,
    labels=_MAP,
    rayStartParams=_MAP,
    serviceType=_TEXT,
)
_WORKER_GROUP = _fields(
    *("groupName", "minReplicas", "maxReplicas", "template"),
    suspend=_FLAG,
    groupName=_TEXT,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    idleTimeoutSeconds=_COUNT,
    priority={"type": "integer"},
    resources=_MAP,
    labels=_MAP,
    rayStartParams=_MAP,
    template=_POD,
    scaleStrategy=_fields(workersToDelete=_TEXTS),
    numOfHosts=_COUNT,
)
_RAY_CLUSTER = _fields(
    "headGroupSpec",
    upgradeStrategy=_OTHER,
    authOptions=_fields(enableK8sTokenAuth=_FLAG, secretName=_TEXT, mode={"enum": ["disabled", "token"]}),
    suspend=_FLAG,
    managedBy=_TEXT,
    autoscalerOptions=_AUTOSCALER_OPTIONS,
    headServiceAnnotations=_MAP,
    enableInTreeAutoscaling=_FLAG,
    gcsFaultToleranceOptions=_OTHER,
    historyServerOptions=_OTHER,
    networkPolicy=_OTHER,
    tlsOptions=_OTHER,
    headGroupSpec=_HEAD_GROUP,
    rayVersion=_TEXT,
    workerGroupSpecs={"type": "array", "items": _WORKER_GROUP},
)
_RAY_JOB = _fields(
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=_COUNT,
    rayClusterSpec=_RAY_CLUSTER,
    submitterPodTemplate=_POD,
    metadata=_MAP,
    clusterSelector=_MAP,
    submitterConfig=_fields(backoffLimit=_COUNT),
    managedBy=_TEXT,
    deletionStrategy=_OTHER,
    entrypoint=_TEXT,
    runtimeEnvYAML=_TEXT,
    jobId=_TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypointResources=_TEXT,
    entrypointNumCpus=_SHARE,
    entrypointNumGpus=_SHARE,
    ttlSecondsAfterFinished=_COUNT,
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=_FLAG,
    suspend=_FLAG,
)
_RAY_CRON_JOB = _fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCronJob"},
    metadata={"kubernetes": lambda value: {"apiVersion": "v1", "kind": "ConfigMap", "metadata": value}},
    spec=_fields(
        *("jobTemplate", "schedule"),
        jobTemplate=_RAY_JOB,
        schedule=_TEXT,
        timeZone={"type": "string", "minLength": 1},
        suspend=_FLAG,
    ),
)
_VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"kubernetes": _within})(_RAY_CRON_JOB)
