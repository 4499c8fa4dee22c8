"""The development cloud is a real one, survives a restart and a crash, and leaves nothing running."""

import hashlib
import stat
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from os import environ
from pathlib import Path

import psutil
import pytest
import requests

from publisher.devcloud.cloud import DevCloud
from publisher.devcloud.config import DevCloudError
from publisher.devcloud.identity import USERS
from tests.devcloud_venv import devcloud_venv
from tests.patience import PATIENCE

pytestmark = pytest.mark.real

CONTENT = b"bits of an image" * 4096


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCloud]:
    cloud = DevCloud(tmp_path_factory.mktemp("clouds") / "cloud", devcloud_venv())
    cloud.up(say=print)
    yield cloud
    cloud.down()


def authenticate(cloud: DevCloud, user: str = "uploader") -> requests.Response:
    variables = cloud.env(user)
    domain = {"name": variables["OS_USER_DOMAIN_NAME"]}
    who = {"name": variables["OS_USERNAME"], "domain": domain, "password": variables["OS_PASSWORD"]}
    body = {
        "auth": {
            "identity": {"methods": ["password"], "password": {"user": who}},
            "scope": {"project": {"name": variables["OS_PROJECT_NAME"], "domain": domain}},
        }
    }
    return requests.post(f"{variables['OS_AUTH_URL']}/auth/tokens", json=body, timeout=30 * PATIENCE)


def as_user(cloud: DevCloud, user: str = "uploader") -> dict[str, str]:
    return {"X-Auth-Token": authenticate(cloud, user).headers["X-Subject-Token"]}


def register_image(cloud: DevCloud, headers: dict[str, str]) -> str:
    """Create a queued image and return its address."""
    body = {"name": "small", "disk_format": "raw", "container_format": "bare"}
    created = requests.post(f"{cloud.glance_url}/v2/images", json=body, headers=headers, timeout=30 * PATIENCE)
    assert created.status_code == 201
    return f"{cloud.glance_url}{created.json()['self']}"


def upload(address: str, headers: dict[str, str], content: bytes | Iterator[bytes] = CONTENT) -> int:
    """Upload the content and return the status of the answer."""
    binary = headers | {"Content-Type": "application/octet-stream"}
    return requests.put(f"{address}/file", data=content, headers=binary, timeout=60 * PATIENCE).status_code


def create_image(cloud: DevCloud, headers: dict[str, str]) -> str:
    """Create an active image with CONTENT and return its address."""
    address = register_image(cloud, headers)
    assert upload(address, headers) == 204
    return address


def seconds_of_a_token(cloud: DevCloud) -> int:
    token = authenticate(cloud).json()["token"]
    issued, expires = (datetime.fromisoformat(token[key]) for key in ("issued_at", "expires_at"))
    return round((expires - issued).total_seconds())


def processes_in(directory: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(directory):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("user", USERS)
def test_every_user_can_log_in_to_their_project(cloud: DevCloud, user: str) -> None:
    answer = authenticate(cloud, user)

    assert answer.status_code == 201
    token = answer.json()["token"]
    assert token["project"]["name"] == USERS[user].project
    assert {service["type"] for service in token["catalog"]} == {"identity", "image"}


def test_an_image_is_created_uploaded_and_deleted(cloud: DevCloud) -> None:
    headers = as_user(cloud)
    address = create_image(cloud, headers)

    image = requests.get(address, headers=headers, timeout=30 * PATIENCE).json()
    assert image["status"] == "active"
    assert image["size"] == len(CONTENT)
    assert image["os_hash_value"] == hashlib.sha512(CONTENT).hexdigest()
    assert requests.get(f"{address}/file", headers=headers, timeout=30 * PATIENCE).content == CONTENT
    assert requests.get(address, headers=as_user(cloud, "stranger"), timeout=30 * PATIENCE).status_code == 404

    assert requests.delete(address, headers=headers, timeout=30 * PATIENCE).status_code == 204
    assert requests.get(address, headers=headers, timeout=30 * PATIENCE).status_code == 404


def test_the_openstack_command_works_with_the_clouds_variables(cloud: DevCloud) -> None:
    command = [str(cloud.openstack()), "image", "list", "-f", "value", "-c", "Name"]
    listed = subprocess.run(command, env=environ | cloud.env(), check=True, capture_output=True, timeout=60 * PATIENCE)

    assert listed.returncode == 0


def test_a_restart_on_the_same_directory_keeps_the_data(cloud: DevCloud) -> None:
    headers = as_user(cloud)
    address = create_image(cloud, headers)

    cloud.down()
    assert not cloud.running()
    again = DevCloud(cloud.directory, cloud.venv)
    again.up()

    assert again.running()
    assert again.glance_url == cloud.glance_url
    assert requests.get(f"{address}/file", headers=headers, timeout=30 * PATIENCE).content == CONTENT


def test_up_leaves_a_running_cloud_alone(cloud: DevCloud) -> None:
    before = {process.pid for process in processes_in(cloud.directory)}
    cloud.up()

    assert {process.pid for process in processes_in(cloud.directory)} == before


def test_glance_comes_back_after_a_crash(cloud: DevCloud) -> None:
    headers = as_user(cloud)
    address = create_image(cloud, headers)

    cloud.kill_glance()
    assert not cloud.running()
    with pytest.raises(requests.ConnectionError):
        requests.get(address, headers=headers, timeout=30 * PATIENCE)

    cloud.start_glance()
    assert requests.get(address, headers=headers, timeout=30 * PATIENCE).json()["status"] == "active"


def test_uploads_at_the_same_time_all_succeed(cloud: DevCloud) -> None:
    headers = as_user(cloud)

    with ThreadPoolExecutor(8) as pool:
        addresses = list(pool.map(lambda _: create_image(cloud, headers), range(24)))

    for address in addresses:
        assert requests.delete(address, headers=headers, timeout=30 * PATIENCE).status_code == 204


def test_glance_lets_an_upload_end_before_it_stops(cloud: DevCloud) -> None:
    headers = as_user(cloud)
    address = register_image(cloud, headers)
    stopping = threading.Thread(target=cloud.stop_glance)

    def content() -> Iterator[bytes]:
        yield CONTENT
        stopping.start()
        log = cloud.directory / "glance" / "uwsgi.log"
        while b"graceful shutdown triggered" not in log.read_bytes()[before:]:
            stopping.join(0.05)
        yield CONTENT

    before = (cloud.directory / "glance" / "uwsgi.log").stat().st_size
    assert upload(address, headers, content()) == 204
    stopping.join()
    cloud.start_glance()
    assert requests.get(address, headers=headers, timeout=30 * PATIENCE).json()["size"] == 2 * len(CONTENT)


def test_options_and_the_lifetime_of_tokens_can_be_set(cloud: DevCloud) -> None:
    assert seconds_of_a_token(cloud) == 3600

    cloud.up(overrides={"DEFAULT": {"image_size_cap": "1000"}}, token_seconds=60)
    try:
        assert seconds_of_a_token(cloud) == 60
        headers = as_user(cloud)
        assert upload(register_image(cloud, headers), headers) == 413
    finally:
        cloud.up()


def test_a_glance_that_cannot_start_is_noticed_and_repaired(cloud: DevCloud) -> None:
    with pytest.raises(DevCloudError, match=r"stopped while it started: read .*uwsgi\.log"):
        cloud.up(overrides={"DEFAULT": {"enabled_backends": "fs:nonsense"}})

    cloud.up()
    assert cloud.running()


def test_files_of_the_cloud_are_accessible_only_to_their_owner(cloud: DevCloud) -> None:
    assert stat.S_IMODE(cloud.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((cloud.directory / "state.json").stat().st_mode) == 0o600
    with pytest.raises(DevCloudError, match="no user 'nobody'"):
        cloud.password("nobody")


def test_a_directory_with_other_files_is_refused(cloud: DevCloud, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()

    with pytest.raises(DevCloudError, match="holds something else"):
        DevCloud(tmp_path, cloud.venv).up()
    with pytest.raises(DevCloudError, match="start it with: publisher devcloud up"):
        _ = DevCloud(tmp_path, cloud.venv).keystone_url
    with pytest.raises(DevCloudError, match="not an environment for the development cloud"):
        DevCloud(tmp_path / "cloud", tmp_path).up()
    assert (tmp_path / "thesis.txt").exists()


def test_a_process_of_another_program_is_never_killed(cloud: DevCloud) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:  # noqa: S607
        try:
            cloud.stop_glance()
            (cloud.directory / "glance" / "uwsgi.pid").write_text(f"{other.pid}\n")
            cloud.kill_glance()
            cloud.stop_glance()

            assert other.poll() is None
        finally:
            other.kill()
    cloud.start_glance()


def test_down_leaves_no_process(cloud: DevCloud) -> None:
    cloud.up()
    assert processes_in(cloud.directory)

    cloud.down()

    assert processes_in(cloud.directory) == []
