"""Compose files, the helm chart and the systemd unit say what the tools that read them accept."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import HelmError
from helm_python.chart import Chart, lint

from era import __version__
from era.config import VARIABLES
from tests.deploy.scripts import COMPILER, ROOT, run

CHART = ROOT / "deploy/helm/era"
THREE_NODES = ROOT / "deploy/compose/three-nodes.yml"
UNIT = ROOT / "deploy/systemd/era.service"
KUBERNETES = ("1.33", "1.37")
GIVEN: dict[str, Any] = {
    "apiKey": "key",
    "secretKey": "secret",
    "database": {"url": "postgresql://era:p@db/era"},
    "blobs": {"url": "s3://files/era", "env": {"AWS_REGION": "eu-central-1"}},
}
FROM_ELSEWHERE = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"}
RIGHTS = {"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"}


def tool(name: str) -> Path:
    return Path(sys.executable).parent / name


# --- helm ------------------------------------------------------------------------------------------


def rendered(**values: Any) -> list[dict[str, Any]]:
    """The objects that the chart makes, in release `box` of namespace `code`."""
    texts = Chart.load(CHART).render(values, name="box", namespace="code")
    manifests = (text for name, text in texts.items() if name.endswith(".yaml"))
    return [found for text in manifests for found in yaml.safe_load_all(text) if found]


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


CASES: dict[str, dict[str, Any]] = {
    "three nodes": GIVEN,
    "named rights": GIVEN | {"rights": "named"},
    "one node": {"replicas": 1, "apiKey": "key"},
    "a secret of one's own": {"existingSecret": "mine", "replicas": 5},
    "an ingress": GIVEN
    | {"ingress": {"enabled": True, "host": "era.example.com", "tlsSecret": "t", "className": "n"}},
    "everything": GIVEN
    | {
        "env": {"ERA_MAX_CONCURRENT_RUNS": 8, "ERA_TRUST_PROXY": True},
        "nodeSelector": {"pool": "code"},
        "tolerations": [{"key": "code", "operator": "Exists"}],
        "podAnnotations": {"a": "b"},
        "storage": {"className": "fast", "size": "1Gi"},
        "affinity": {"nodeAffinity": {}},
    },
}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", CASES)
def test_what_the_chart_makes_is_valid(case: str, version: str) -> None:
    for found in rendered(**CASES[case]):
        kubernetes_validate.validate(found, version, strict=True)


def test_the_chart_is_without_complaints() -> None:
    report = lint(CHART, GIVEN, strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


def test_the_chart_has_the_version_of_the_service() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (__version__, __version__)


def test_an_object_that_is_wrong_would_be_noticed() -> None:
    stateful = one(rendered(**GIVEN), "StatefulSet")
    stateful["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(stateful, KUBERNETES[0], strict=True)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"apiKey": "k"}, "database.url"),
        (GIVEN | {"blobs": {"url": ""}}, "blobs.url"),
        (GIVEN | {"secretKey": ""}, "secretKey"),
        (GIVEN | {"apiKey": ""}, "apiKey"),
        (GIVEN | {"database": {"url": "mysql://x"}}, "database"),
        (GIVEN | {"rights": "some"}, "rights"),
        (GIVEN | {"replica": 3}, "replica"),
        (GIVEN | {"ingress": {"enabled": True}}, "ingress.host"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], word: str) -> None:
    with pytest.raises(HelmError, match=re.escape(word)):
        rendered(**values)


def test_nodes_know_each_other_and_share_their_stores() -> None:
    objects = rendered(**GIVEN)
    stateful = one(objects, "StatefulSet")
    pod = stateful["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    headless = next(s for s in objects if s["kind"] == "Service" and s["spec"].get("clusterIP"))
    name = headless["metadata"]["name"]
    assert stateful["spec"]["serviceName"] == name
    assert env["ERA_NODE_URL"] == f"http://$(POD_NAME).{name}.code.svc:8787"
    secret = one(objects, "Secret")
    assert secret["stringData"]["ERA_DATABASE_URL"] == GIVEN["database"]["url"]
    assert container["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    known = {*VARIABLES, "AWS_REGION", "POD_NAME"}
    assert {*env, *secret["stringData"]} <= known
    assert pod["automountServiceAccountToken"] is False


def test_the_chart_names_each_right_with_its_reason() -> None:
    context = one(rendered(**GIVEN, rights="named"), "StatefulSet")["spec"]["template"]["spec"]
    security = context["containers"][0]["securityContext"]
    assert set(security["capabilities"]["add"]) == RIGHTS
    assert security["seccompProfile"] == {"type": "Unconfined"}
    assert (security["procMount"], context["hostUsers"]) == ("Unmasked", False)
    assert "privileged" not in security
    text = (CHART / "templates/statefulset.yaml").read_text()
    for right in RIGHTS:
        assert re.search(rf"- {right} +# \w+", text)


# --- compose ---------------------------------------------------------------------------------------


def accepted(*files: Path) -> subprocess.CompletedProcess[str]:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    return run([tool("check-jsonschema"), *schema, *files], env={"HOME": "/tmp"})


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    assert run([COMPILER, "--output", folder]).returncode == 0
    return folder


def test_compose_files_fit_the_schema(one_node: Path, tmp_path: Path) -> None:
    done = accepted(one_node / "docker-compose.yml", THREE_NODES)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((one_node / "docker-compose.yml").read_text().replace("cap_add", "caps"))
    assert accepted(wrong).returncode == 1


def test_one_node_has_what_is_promised(one_node: Path) -> None:
    service = yaml.safe_load((one_node / "docker-compose.yml").read_text())["services"]["era"]
    assert service["ports"][0].endswith(":8787:8787")
    assert "era-state:/var/lib/era" in service["volumes"]
    assert service["restart"] == "unless-stopped"
    assert service["mem_limit"]
    assert set(service["cap_add"]) == RIGHTS
    assert "privileged" not in service


def test_three_nodes_differ_in_name_and_volume_only() -> None:
    services = yaml.safe_load(THREE_NODES.read_text())["services"]
    nodes = {name: each for name, each in services.items() if name.startswith("era-")}
    assert set(nodes) == {"era-1", "era-2", "era-3"}
    for name, node in nodes.items():
        assert node["environment"].pop("ERA_NODE_URL") == f"http://{name}:8787"
        assert node["volumes"].pop(0) == f"{name}:/var/lib/era"
        own = {variable for variable in node["environment"] if variable.startswith("ERA_")}
        assert own <= set(VARIABLES)
    assert nodes["era-1"] == nodes["era-2"] == nodes["era-3"]
    assert {"database", "objects", "balancer"} <= set(services)
    assert set(services["database"]["environment"]) == FROM_ELSEWHERE


def test_the_dockerfile_is_without_complaints(one_node: Path) -> None:
    ignored = ["--ignore", "DL3008"]  # versions are those of the release
    done = run([tool("hadolint"), *ignored, one_node / "Dockerfile"])
    assert done.returncode == 0, done.stdout


# --- systemd ---------------------------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_delegates_what_the_engine_needs() -> None:
    settings = unit()
    assert set(settings["Delegate"][0].split()) >= {"cpu", "memory", "pids"}
    assert settings["OOMPolicy"] == ["continue"], "a box out of memory must not end the service"
    assert settings["KillMode"] == ["mixed"]
    assert settings["StateDirectoryMode"] == ["0700"]
    for spoils in ("RestrictNamespaces", "SystemCallFilter", "ProtectControlGroups"):
        assert spoils not in settings


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if not (analyze := Path("/usr/bin/systemd-analyze")).exists():
        pytest.skip("no systemd here")
    known = tmp_path / "era.service"
    known.write_text(UNIT.read_text().replace("/opt/era/current/bin/era", "/bin/true"))
    done = run([analyze, "verify", "--man=no", "--recursive-errors=no", known])
    assert (done.returncode, done.stderr) == (0, "")
    known.write_text(known.read_text().replace("KillMode=mixed", "KillMood=mixed"))
    assert "KillMood" in run([analyze, "verify", "--man=no", known]).stderr
