"""The service against its own OpenAPI document: requests are generated from it, and each answer must conform to it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from publisher.core.cloud_check import CheckResult, Explored, Place
from publisher.core.settings import Settings
from publisher.store import Store
from publisher.store.database import checks, reading
from tests.servers.redis import redis_server
from tests.service import JSON, PASSWORDS, XML, Service, json_body, real_server, serving
from tests.unit.intake.contract import Belongings

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
)
SECONDS = 1500
"""Timeout of one run. On an idle machine with two cores, each takes less than 10 seconds."""

RUNS = {
    # Trying every value of each element takes minutes for the largest bodies. test_http_elements.py covers those.
    "coverage": (
        *("--phases", "coverage", "--exclude-path-regex", "pimages$|accounts|withdraw$"),
        *("--exclude-operation-id", "post_users_uid_appliances_aid_images"),
    ),
    "fuzzing": ("--phases", "fuzzing", "--max-examples", "5"),
    "examples": ("--phases", "examples"),
}


def fill(service: Service) -> None:
    """Create root's objects. The document's examples name some: image 7 and its ticket 1, account 3, key 2."""
    body = json_body(image=7)
    assert service.post("users/root/appliances/4/pimages", body, content_type=JSON).status == 201
    for _ in range(3):
        Belongings.make(service, "root")


@contextmanager
def checks_answered(settings: Settings) -> Iterator[None]:
    """Answer checks in place of a worker: without one, a preflight or a test of an account is a 503."""
    store, stop = Store.open(settings), threading.Event()
    place = Place("8ac0", "demo")
    result = CheckResult(True, "signed in", explored=Explored.of(projects=[place], regions=[place], networks=[place]))

    def answer() -> None:
        while not stop.wait(0.05):
            with reading(store.engine) as connection:
                waiting = connection.scalars(select(checks.c.id).where(checks.c.state == "waiting")).all()
            for each in filter(None, map(store.checks.claim, waiting)):
                store.checks.finish(each, result)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        store.close()


@pytest.mark.real
@pytest.mark.parametrize(("run", "accept"), [("coverage", JSON), ("fuzzing", JSON), ("examples", XML)])
def test_every_answer_conforms_to_the_document(run: str, accept: str, filled_template: Path, tmp_path: Path) -> None:
    shutil.copyfile(filled_template, tmp_path / "publisher.db")
    with serving(tmp_path) as service:
        fill(service)
    with (
        redis_server() as redis,
        real_server(tmp_path, broker_url=redis.url) as process,
        checks_answered(Settings(data_dir=tmp_path)),
    ):
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "run"),
                f"http://127.0.0.1:{process.port}/api/openapi.json",
                *("--auth", f"root:{PASSWORDS['root']}", "--header", f"Accept: {accept}"),
                *("--checks", ",".join(CHECKS), *RUNS[run], "--generation-deterministic", "--no-color"),
                *("--request-timeout", "300", "--warnings", "off", "--continue-on-failure"),
            ],
            cwd=tmp_path,  # Schemathesis writes its findings here
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
