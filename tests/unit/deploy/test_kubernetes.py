"""The Kubernetes manifests are valid and confined, and scale on the ticket store's numbers."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from sqlalchemy import text

from publisher.core.settings import Settings
from publisher.store import Store
from publisher.store.database import reading
from tests.records import add_ticket
from tests.servers import missing
from tests.unit.cli.test_help import COMMANDS
from tests.unit.deploy.files import DEPLOY, unknown_variables

DIRECTORY = DEPLOY / "kubernetes"
VERSION = "1.31"
KUSTOMIZATION = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())
DOCUMENTS: dict[str, dict[str, Any]] = {
    f"{document['kind']} {document['metadata']['name']}": document
    for file in sorted(DIRECTORY.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for document in yaml.safe_load_all(file.read_text())
}
OWN = {name: each for name, each in DOCUMENTS.items() if not each["apiVersion"].startswith("keda.sh/")}
PODS = {name: each["spec"]["template"]["spec"] for name, each in OWN.items() if "template" in each.get("spec", {})}

KEDA = {
    "TriggerAuthentication": {
        "type": "object",
        "required": ["secretTargetRef"],
        "additionalProperties": False,
        "properties": {
            "secretTargetRef": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["parameter", "name", "key"],
                    "additionalProperties": False,
                    "properties": {key: {"type": "string"} for key in ("parameter", "name", "key")},
                },
            }
        },
    },
    "ScaledObject": {
        "type": "object",
        "required": ["scaleTargetRef", "triggers"],
        "additionalProperties": False,
        "properties": {
            "scaleTargetRef": {"type": "object", "required": ["name"]},
            **{key: {"type": "integer"} for key in ("minReplicaCount", "maxReplicaCount", "pollingInterval")},
            "fallback": {
                "type": "object",
                "required": ["failureThreshold", "replicas"],
                "additionalProperties": False,
                "properties": {key: {"type": "integer"} for key in ("failureThreshold", "replicas")},
            },
            "advanced": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"horizontalPodAutoscalerConfig": {"type": "object"}},
            },
            "triggers": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["type", "metadata", "authenticationRef"],
                    "additionalProperties": False,
                    "properties": {
                        "type": {"const": "postgresql"},
                        "metadata": {
                            "type": "object",
                            "required": ["query", "targetQueryValue"],
                            # All values in a trigger's metadata are text.
                            "additionalProperties": {"type": "string"},
                        },
                        "authenticationRef": {"type": "object", "required": ["name"]},
                    },
                },
            },
        },
    },
}
"""The parts of KEDA's resources (keda.sh/v1alpha1) that the manifests use, as KEDA documents them."""


@pytest.mark.parametrize("name", OWN)
def test_kubernetes_schema_accepts_each_manifest(name: str) -> None:
    kubernetes_validate.validate(OWN[name], VERSION, strict=True)


@pytest.mark.parametrize("name", sorted(DOCUMENTS.keys() - OWN.keys()))
def test_keda_resource_follows_the_documented_schema(name: str) -> None:
    document = DOCUMENTS[name]
    assert document["apiVersion"] == "keda.sh/v1alpha1"
    jsonschema.validate(document["spec"], KEDA[document["kind"]])


def test_kubernetes_schema_accepts_the_autoscaler_config() -> None:
    advanced = DOCUMENTS["ScaledObject worker"]["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
    spec = {"maxReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "worker"}, **advanced}
    scaler = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "spec": spec}
    kubernetes_validate.validate(scaler, VERSION, strict=True)


def test_every_file_except_the_example_is_applied() -> None:
    files = {file.name for file in DIRECTORY.glob("*.yaml")}
    assert files - set(KUSTOMIZATION["resources"]) == {"kustomization.yaml", "secrets.example.yaml"}
    assert all(each["metadata"].get("namespace", "publisher") == KUSTOMIZATION["namespace"] for each in OWN.values())


@pytest.mark.parametrize("name", PODS)
def test_each_pod_is_confined(name: str) -> None:
    pod = PODS[name]
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert container["args"][0] in COMMANDS
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert {"/tmp", "/var/lib/publisher"} <= writable
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    if name.startswith("Deployment"):
        assert container["livenessProbe"]
        assert container["readinessProbe"]


def test_every_secret_file_is_in_the_secret() -> None:
    secret = DOCUMENTS["Secret publisher"]["stringData"]
    named = set(DOCUMENTS["ConfigMap publisher"]["data"].values())
    named |= {each["value"] for pod in PODS.values() for each in pod["containers"][0].get("env", [])}
    files = {value.rpartition("/")[2] for value in named if value.startswith("/run/secrets/publisher/")}
    assert files == set(secret)
    (reference,) = DOCUMENTS["TriggerAuthentication store"]["spec"]["secretTargetRef"]
    assert reference["key"] in secret


def test_grace_period_is_long_enough_for_a_drain() -> None:
    drain = DOCUMENTS["ConfigMap publisher"]["data"]["PUBLISHER_DRAIN_SECONDS"]
    assert PODS["Deployment worker"]["terminationGracePeriodSeconds"] >= float(drain) + 15


def test_every_variable_is_a_known_setting() -> None:
    for file in DIRECTORY.glob("*.yaml"):
        assert unknown_variables(file.read_text()) == set(), file.name


def trigger() -> dict[str, str]:
    (only,) = DOCUMENTS["ScaledObject worker"]["spec"]["triggers"]
    metadata: dict[str, str] = only["metadata"]
    return metadata


def test_autoscaler_target_equals_the_worker_concurrency() -> None:
    assert trigger()["targetQueryValue"] == str(Settings().worker_concurrency)
    assert "replicas" not in DOCUMENTS["Deployment worker"]["spec"]


@pytest.mark.real
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_autoscaler_query_counts_waiting_and_claimed_tickets(store: Store) -> None:
    waiting, working, ended, later = (add_ticket(store).id for _ in range(4))
    for each in (working, later):
        claim = store.leases.claim(each, "a-worker", 60)
        assert claim
        if each == later:
            store.leases.retry(claim, delay_seconds=600, error="not now")
    store.tickets.request_cancel(ended)

    with reading(store.engine) as connection:
        assert connection.execute(text(trigger()["query"])).scalar_one() == len({waiting, working})


def test_kustomize_builds_the_manifests() -> None:
    program = shutil.which("kubectl") or missing("kubectl")
    built = subprocess.run([program, "kustomize", DIRECTORY], capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    images = {
        container["image"]
        for document in yaml.safe_load_all(built.stdout)
        for container in document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    }
    (image,) = KUSTOMIZATION["images"]
    assert images == {f"{image['newName']}:{image['newTag']}"}
