"""Preflights and tests of accounts against a real Keystone and Glance, with a real worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from publisher.core.image import Image
from publisher.devcloud.cloud import DevCloud
from publisher.store.database import checks, reading
from tests.cloud_administration import PASSWORD, Administrator
from tests.clouds import Glance, publish_body
from tests.patience import PATIENCE
from tests.servers.redis import RedisServer, redis_server
from tests.servers.silent import silent_server
from tests.stack import Answer, Stack, until

pytestmark = pytest.mark.real

MIB = 1 << 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[Stack]:
    with Stack.in_directory(tmp_path_factory.mktemp("preflight"), redis.url) as running:
        yield running


@pytest.fixture
def image(stack: Stack, tmp_path: Path) -> Image:
    file = tmp_path / "small.raw"
    file.write_bytes(os.urandom(MIB))
    return stack.add_image(file)


@pytest.fixture
def administrator(devcloud: DevCloud) -> Iterator[Administrator]:
    with Administrator.of(devcloud) as administrator:
        yield administrator


def body(cloud: DevCloud, image: Image, **changes: Any) -> dict[str, Any]:
    return publish_body(cloud, f"users/root/appliances/4/images/{image.id}", **changes)


def preflight(stack: Stack, body: dict[str, Any]) -> Answer:
    path = "users/root/appliances/4/pimages?preflight=true"
    return stack.call("POST", path, json.dumps(body).encode(), content_type="application/json")


def refused(stack: Stack, glance: Glance, body: dict[str, Any]) -> str:
    """Check that a preflight fails without a ticket and without an image, and return its message."""
    tickets, images = count(stack), len(glance.images())
    answer = preflight(stack, body)
    assert answer.status == 400, answer.body
    error = answer.json["localizedErrorMsg"]
    assert error["messageId"] == "PreflightFailed"
    assert (count(stack), len(glance.images())) == (tickets, images)
    assert body["credAccount"]["password"] not in error["message"]
    return str(error["message"])


def count(stack: Stack) -> int:
    return len(stack.store.tickets.several(range(1, 1000)))


def published(stack: Stack, answer: Answer) -> dict[str, Any]:
    assert answer.status == 201, answer.body
    ticket: dict[str, Any] = answer.json
    assert stack.wait(ticket)["complete"]
    return ticket


def test_an_image_that_passes_is_published(stack: Stack, image: Image, devcloud: DevCloud, glance: Glance) -> None:
    ticket = published(stack, preflight(stack, body(devcloud, image)))
    assert len(glance.images(ticket)) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"account__password": "wrong-password"}, "credAccount.login, credAccount.password"),
        ({"keystoneProject": "nix"}, "no project 'nix'"),
        ({"publishLocation": "Elsewhere", "account__glanceUrl": None}, "region 'Elsewhere'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_element_is_named(
    stack: Stack, image: Image, devcloud: DevCloud, glance: Glance, changes: dict[str, Any], words: str
) -> None:
    assert words in refused(stack, glance, body(devcloud, image, **changes))


def test_a_missing_right_to_make_images_public_is_reported(
    stack: Stack, image: Image, devcloud: DevCloud, glance: Glance
) -> None:
    # There must be an image whose id Glance can refuse.
    published(stack, preflight(stack, body(devcloud, image)))
    assert refused(stack, glance, body(devcloud, image, publicImage=True)).startswith("publicImage: ")


def test_a_missing_right_to_create_images_is_reported(
    stack: Stack, image: Image, devcloud: DevCloud, glance: Glance, administrator: Administrator
) -> None:
    """A reader sees the project's images and cannot create any."""
    domain = administrator.domain()
    project = administrator.project(domain["id"])
    member, reader = administrator.user(domain["id"], project), administrator.user(domain["id"])
    (role,) = administrator.call("GET", "/roles?name=reader")["roles"]
    administrator.call("PUT", f"/projects/{project['id']}/users/{reader['id']}/roles/{role['id']}")
    where = {"keystoneDomain": domain["name"], "keystoneProject": project["name"], "account__password": PASSWORD}
    published(stack, preflight(stack, body(devcloud, image, account__login=member["name"], **where)))
    words = refused(stack, glance, body(devcloud, image, account__login=reader["name"], **where))
    assert "403" in words
    assert "no role that allows this in this project" in words


def test_a_taken_name_is_refused_only_if_the_request_says_so(
    stack: Stack, image: Image, devcloud: DevCloud, glance: Glance
) -> None:
    name = {"displayName": "web: v1"}
    first = published(stack, preflight(stack, body(devcloud, image, ifNameTaken="refuse", **name)))
    assert refused(stack, glance, body(devcloud, image, ifNameTaken="refuse", **name)).startswith("displayName: ")
    # The same without a preflight: the ticket fails before the first byte.
    ticket = stack.publish(body(devcloud, image, ifNameTaken="refuse", **name))
    status = stack.wait(ticket)
    assert (status["error"], "displayName: " in status["errorMessage"]) == (True, True), status
    assert glance.images(ticket) == []
    published(stack, preflight(stack, body(devcloud, image, **name)))
    assert len(glance.images(first)) == 1


@pytest.mark.long
def test_the_command_line_asks_first(stack: Stack, image: Image, devcloud: DevCloud) -> None:
    command = [str(Path(sys.executable).with_name("publisher")), "publish", str(image.id), "--preflight", "--wait"]
    environment = os.environ | stack.settings.environment() | devcloud.env()
    limit = 60 * PATIENCE
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    assert done.returncode == 0, done.stderr
    tickets = count(stack)
    wrong = environment | {"OS_PASSWORD": "wrong-password"}
    refused = subprocess.run(command, env=wrong, capture_output=True, text=True, timeout=limit, check=False)
    assert refused.returncode == 2, refused.stderr
    assert "no ticket was created" in refused.stderr
    assert "wrong-password" not in refused.stdout + refused.stderr
    assert count(stack) == tickets


def test_a_cloud_that_does_not_answer_is_a_503(stack: Stack, image: Image, devcloud: DevCloud, glance: Glance) -> None:
    tickets = count(stack)
    answer = preflight(stack, body(devcloud, image, account__keystoneUrl="http://127.0.0.1:9"))
    assert (answer.status, "refused" in answer.body.decode()) == (503, True), answer.body
    assert answer.headers["Retry-After"]
    assert count(stack) == tickets


@pytest.mark.long
def test_a_worker_that_is_killed_in_the_middle_leaves_nothing(devcloud: DevCloud, tmp_path: Path) -> None:
    """The caller gets an answer, the secrets are erased, and another worker does not repeat the check."""
    with (
        silent_server() as port,
        redis_server() as redis,  # with the other tests' Redis, their worker would get some of the messages
        Stack.in_directory(tmp_path / "killed", redis.url) as killed,
        ThreadPoolExecutor(1) as pool,
    ):
        file = tmp_path / "killed.raw"
        file.write_bytes(os.urandom(MIB))
        silent = body(devcloud, killed.add_image(file), account__keystoneUrl=f"http://127.0.0.1:{port}/v3")
        answer = pool.submit(preflight, killed, silent)
        until(lambda: states(killed) == ["running"], 60)
        killed.workers[0].kill()
        killed.add_worker()
        assert answer.result(60 * PATIENCE).status == 503
        assert (count(killed), states(killed)) == (0, [])


@pytest.mark.long
def test_without_a_worker_the_answer_is_a_503(devcloud: DevCloud, redis: RedisServer, tmp_path: Path) -> None:
    with Stack.in_directory(tmp_path / "alone", redis.url, workers=0) as alone:
        file = tmp_path / "small.raw"
        file.write_bytes(os.urandom(MIB))
        answer = preflight(alone, body(devcloud, alone.add_image(file)))
        assert (answer.status, "no worker has answered" in answer.body.decode()) == (503, True)
        assert (count(alone), states(alone)) == (0, [])


def states(stack: Stack) -> list[str]:
    with reading(stack.store.engine) as connection:
        return [row.state for row in connection.execute(select(checks.c.state))]


# Accounts -----------------------------------------------------------------------------------------------------------


def stored(stack: Stack, cloud: DevCloud, name: str, **changes: str) -> str:
    """Store an account and return its URI."""
    account = body(cloud, IMAGELESS, **changes)["credAccount"] | {"name": name}
    account["userDomain"] = cloud.env()["OS_USER_DOMAIN_NAME"]
    sent = json.dumps(account).encode()
    answer = stack.call("POST", "users/root/accounts", sent, content_type="application/json")
    assert answer.status == 201, answer.body
    return str(answer.json["uri"])


IMAGELESS = Image(1, "root", 4, "none", "raw", "raw", 0, 0, "", "", "", "", 0.0)


def test_an_account_lists_its_projects_and_regions(stack: Stack, devcloud: DevCloud) -> None:
    answer = stack.call("POST", f"{stored(stack, devcloud, 'good')}/test")
    assert answer.status == 200, answer.body
    found = answer.json
    assert found["ok"], found
    assert devcloud.env()["OS_PROJECT_NAME"] in [each["name"] for each in found["projects"]["project"]]
    assert "RegionOne" in [each["id"] for each in found["regions"]["region"]]


def test_an_account_with_a_wrong_password_says_so(stack: Stack, devcloud: DevCloud) -> None:
    answer = stack.call("POST", f"{stored(stack, devcloud, 'bad', account__password='wrong-password')}/test")
    assert (answer.status, answer.json["ok"], answer.json["reasonCode"]) == (200, False, "credentials")
    assert "credAccount.password" in answer.json["message"]
    assert "wrong-password" not in answer.body.decode()
