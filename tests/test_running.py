"""What docs/running.md gives people to copy is of the form that systemd, Docker, Kubernetes and Airflow read."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import tomllib
from datetime import timedelta
from typing import Any

import pytest
import yaml

from audiencesync.cli.scaffold import COMPOSE, DOCKERFILE, MUST_EXIST
from audiencesync.destinations import registry
from audiencesync.model import Destination
from audiencesync.report.outcomes import ORDER
from audiencesync.schedule import parse_duration
from tests.documents import HOUSE, PAGES, blocks, manifests

RUNNING = PAGES["docs/running.md"]
LONGEST = timedelta(seconds=5) + max(kind.model_fields["timeout"].default
                                     for kind in (Destination, *registry().values()))
"""How long a service may take to end, as long as nobody sets a timeout."""


def units() -> dict[str, configparser.ConfigParser]:
    """The units of systemd by the name of their file."""
    found = {}
    for text in blocks("ini", RUNNING):
        name = re.match(r"# /etc/systemd/system/(\S+)\n", text)
        assert name, text
        parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",))
        parser.optionxform = str
        parser.read_string(text)
        found[name[1]] = parser
    return found


def of_kind(kind: str) -> dict[str, Any]:
    """The one manifest of a kind."""
    [found] = [one for one in manifests(RUNNING) if isinstance(one, dict) and one.get("kind") == kind]
    return found


def at(thing: Any, *path: str) -> Any:
    """What lies in a manifest behind these keys; of lists the first."""
    for key in path:
        thing = thing[key]
        if isinstance(thing, list) and thing and isinstance(thing[0], dict):
            [thing] = thing
    return thing


def test_every_unit_has_the_sections_of_its_kind() -> None:
    found = units()
    assert {name: one.sections() for name, one in found.items()} == {
        "audiencesync.service": ["Unit", "Service", "Install"], "audiencesync-due.service": ["Unit", "Service"],
        "audiencesync-due.timer": ["Unit", "Timer", "Install"]}


def test_the_service_s_unit_restarts_what_a_restart_can_help() -> None:
    service = units()["audiencesync.service"]["Service"]
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["WorkingDirectory"] == service["ReadWritePaths"]


@pytest.mark.parametrize("unit", ["audiencesync.service", "audiencesync-due.service"])
def test_a_unit_waits_longer_for_the_end_than_the_end_may_take(unit: str) -> None:
    assert timedelta(seconds=int(units()[unit]["Service"]["TimeoutStopSec"])) > LONGEST


def test_what_init_writes_for_a_container_is_what_the_documents_show() -> None:
    assert (HOUSE / "docs/Dockerfile").read_text(encoding="utf-8") == DOCKERFILE
    assert (HOUSE / "docs/compose.yml").read_text(encoding="utf-8") == COMPOSE


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each in one line."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", "")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def test_the_image_installs_extras_that_there_are() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [(name, extras)] = re.findall(r"/wheels/(\w+)-\*\.whl\)\[([\w,]+)\]", DOCKERFILE)
    assert name == project["name"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_the_image_runs_the_program_as_nobody_special_and_asks_only_whether_it_lives() -> None:
    told = dict(instructions())
    [uid] = re.findall(r"useradd --uid (\d+)", DOCKERFILE)
    assert told["USER"] == uid != "0"
    assert json.loads(told["ENTRYPOINT"]) == ["audiencesync"]
    listens = json.loads(told["CMD"])[-1].rpartition(":")[2]
    assert told["EXPOSE"] == listens
    asks = json.loads(told["HEALTHCHECK"].partition("CMD ")[2])
    assert f":{listens}/healthz'" in asks[-1]
    ast.parse(asks[-1])
    assert "ENV" not in told, "no secret gets into an image"


def test_the_files_that_the_image_takes_are_the_ones_of_a_project() -> None:
    taken = {source for word, rest in instructions() if word == "COPY"
             for source in [part for part in shlex.split(rest) if not part.startswith("--")][:-1]}
    assert taken == {"wheels/", "audiencesync.yml", "audiences/"}


def test_the_composed_container_keeps_its_state_on_its_volume() -> None:
    compose = yaml.safe_load(COMPOSE)
    service = compose["services"]["audiencesync"]
    [volume] = service["volumes"]
    name, _, folder = volume.partition(":")
    assert name in compose["volumes"]
    assert f"sqlite:///{folder}/" in service["environment"]["AUDIENCESYNC_STATE"]
    assert f"{folder}\n" in DOCKERFILE, "made by the image, so that the volume is its user's"
    assert parse_duration(service["stop_grace_period"]) > LONGEST
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert yaml.safe_load(MUST_EXIST) == {"state_must_exist": True}


def test_every_manifest_has_a_kind_and_only_one_of_each() -> None:
    made = [one for one in manifests(RUNNING) if isinstance(one, dict) and "apiVersion" in one]
    assert sorted(str(one["kind"]) for one in made) == ["CronJob", "Deployment", "Job", "Secret"]


def test_the_deployment_is_probed_where_it_listens() -> None:
    pod = at(of_kind("Deployment"), "spec", "template", "spec")
    container = at(pod, "containers")
    host, _, port = at(container, "args")[-1].rpartition(":")
    assert (host, int(port)) == ("0.0.0.0", at(container, "ports", "containerPort"))
    paths = {name: probe["httpGet"]["path"] for name, probe in container.items() if name.endswith("Probe")}
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert at(container, "livenessProbe", "httpGet", "port") == at(container, "ports", "name")
    assert timedelta(seconds=at(pod, "terminationGracePeriodSeconds")) > LONGEST


def test_the_cron_job_ends_by_itself_and_is_not_tried_again_in_vain() -> None:
    job = at(of_kind("CronJob"), "spec", "jobTemplate", "spec")
    pod = at(job, "template", "spec")
    words = at(pod, "containers", "args")
    longest = parse_duration(words[words.index("--max-duration") + 1])
    assert longest + timedelta(minutes=10) < timedelta(seconds=at(job, "activeDeadlineSeconds"))
    assert at(pod, "restartPolicy") == "Never", "which a podFailurePolicy wants"
    rules = job["podFailurePolicy"]["rules"]
    vain = {code for rule in rules if rule["action"] == "FailJob" for code in rule["onExitCodes"]["values"]}
    assert vain == set(map(int, re.findall(r"^\| (\d+) \| no:", RUNNING, re.MULTILINE)))


def test_every_exit_code_is_told_whether_it_is_worth_another_try() -> None:
    told = re.findall(r"^\| (\d+) \| ", RUNNING, re.MULTILINE)
    assert sorted(map(int, told)) == sorted(ORDER)


def test_the_image_s_user_is_the_one_of_the_pods() -> None:
    users = set(re.findall(r"runAsUser: (\d+)", RUNNING))
    assert users == set(re.findall(r"useradd --uid (\d+)", DOCKERFILE))


def test_the_program_of_airflow_is_python() -> None:
    [dag] = blocks("python", RUNNING)
    ast.parse(dag)
