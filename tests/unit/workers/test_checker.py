"""A worker makes the checks that callers wait for: preflights and tests of accounts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import workers.checker
from publisher.core.cloud_check import CheckKind, CheckResult, Explored, Place
from publisher.core.errors import InvalidRequest, PermanentCloudError, Reason, TransientCloudError
from publisher.core.image import Image
from publisher.core.settings import Settings
from publisher.core.ticket import Account, Target
from publisher.core.vault import Vault
from publisher.outbound.policy import OutboundPolicy
from publisher.store import NewCheck, Store
from tests.patience import PATIENCE
from tests.records import OWNER, add_image, add_owner
from tests.unit.workers.runner.scripted_cloud import SECRET, Script, scripted
from workers.checker import Checker
from workers.clouds.base import CloudPublisher, Timeouts

SEEN = Explored.of(projects=[Place("8ac0", "demo")])


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def cloud(script: Script, monkeypatch: pytest.MonkeyPatch) -> type[CloudPublisher]:
    """A cloud that follows the script, and can be explored."""

    class Explorable(scripted(script)):  # type: ignore[misc]
        platform: ClassVar[str] = "explorable"

        @classmethod
        def explore(
            cls,
            account: Account,
            target: Target,
            timeouts: Timeouts,
            policy: OutboundPolicy,
            check: Callable[[], None] = lambda: None,
        ) -> Explored:
            script.secrets.append(account.secrets)
            script.step("explore")
            return SEEN

        def check_creation(self, image: Image) -> None:
            script.step("check_creation")

    monkeypatch.setattr(workers.checker, "plugin", lambda platform: Explorable)
    return Explorable


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def vault(settings: Settings) -> Vault:
    return Vault.from_file(settings.key_file)


@pytest.fixture
def image(sqlite_store: Store, settings: Settings) -> Image:
    return add_image(sqlite_store, settings.images, b"an image")


@pytest.fixture
def checker(sqlite_store: Store, vault: Vault, settings: Settings, cloud: type[CloudPublisher]) -> Checker:
    return Checker(sqlite_store, vault, settings, worker="a")


@pytest.fixture(autouse=True)
def _no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert SECRET not in caplog.text


def add(store: Store, vault: Vault, kind: CheckKind = CheckKind.PREFLIGHT, image_id: int | None = 1) -> int:
    if store.users.get(OWNER) is None:
        add_owner(store)
    sealed = vault.seal({"password": SECRET})
    return store.checks.add(NewCheck(kind, OWNER, "memory", {"login": "joe"}, sealed, {}, image_id=image_id))


def checked(store: Store, checker: Checker, id: int) -> CheckResult:
    """Run a check, and return its result as a caller gets it."""
    result = checker.run(id)
    assert result is not None
    assert store.checks.results([id]) == {id: result}
    return result


def test_a_preflight_runs_both_checks_and_creates_nothing(
    sqlite_store: Store, vault: Vault, checker: Checker, image: Image, script: Script
) -> None:
    result = checked(sqlite_store, checker, add(sqlite_store, vault, image_id=image.id))
    assert result.ok
    assert script.asked == ["connect", "check", "check_creation"]
    assert script.secrets == [{"password": SECRET}]
    assert (script.images, script.closed) == ({}, 1)


@pytest.mark.parametrize("step", ["connect", "check", "check_creation"])
@pytest.mark.parametrize(
    ("error", "element", "transient"),
    [
        (InvalidRequest("is taken", field="displayName"), "displayName", False),
        (PermanentCloudError("the login was refused", reason=Reason.CREDENTIALS), None, False),
        (TransientCloudError("it does not answer", reason=Reason.CONNECTION), None, True),
    ],
)
def test_what_the_cloud_refuses_is_the_result(
    sqlite_store: Store,
    vault: Vault,
    checker: Checker,
    image: Image,
    script: Script,
    step: str,
    error: InvalidRequest | PermanentCloudError,
    element: str | None,
    transient: bool,
) -> None:
    script.fail(step, error)
    result = checked(sqlite_store, checker, add(sqlite_store, vault, image_id=image.id))
    assert result == CheckResult(False, str(error), element, error.reason, transient)


def test_a_kept_sign_in_that_fails_is_tried_anew(
    sqlite_store: Store, vault: Vault, checker: Checker, image: Image, script: Script
) -> None:
    script.kept = True

    def fail_while_kept() -> None:
        if script.kept:
            raise PermanentCloudError("the catalog has changed")

    script.on["check"] = fail_while_kept
    assert checked(sqlite_store, checker, add(sqlite_store, vault, image_id=image.id)).ok
    assert script.asked == ["connect", "check", "connect", "check", "check_creation"]


def test_a_secret_that_the_cloud_repeats_is_hidden(
    sqlite_store: Store, vault: Vault, checker: Checker, image: Image, script: Script
) -> None:
    script.fail("connect", PermanentCloudError(f"the password {SECRET} is wrong"))
    result = checked(sqlite_store, checker, add(sqlite_store, vault, image_id=image.id))
    assert result.words == "the password *** is wrong"


def test_a_mistake_in_a_plugin_is_the_result(
    sqlite_store: Store, vault: Vault, checker: Checker, image: Image, script: Script
) -> None:
    script.fail("check", ZeroDivisionError())
    result = checked(sqlite_store, checker, add(sqlite_store, vault, image_id=image.id))
    assert (result.ok, result.reason) == (False, Reason.INTERNAL)


@pytest.mark.long
def test_a_cloud_that_does_not_answer_in_time_is_left(
    sqlite_store: Store,
    vault: Vault,
    checker: Checker,
    image: Image,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers.checker, "CHECK_SECONDS_MAX", workers.checker._ANSWER_SECONDS + 0.5)
    released = threading.Event()

    def hang() -> None:
        released.wait(60 * PATIENCE)

    script.on["connect"] = hang
    try:
        result = checked(sqlite_store, checker, add(sqlite_store, vault, image_id=image.id))
    finally:
        released.set()
    assert (result.ok, result.transient) == (False, True)
    assert "did not answer in time" in result.words


def test_an_image_whose_file_is_missing_is_refused(
    sqlite_store: Store, vault: Vault, checker: Checker, settings: Settings, image: Image, script: Script
) -> None:
    (settings.images / image.location).unlink()
    result = checked(sqlite_store, checker, add(sqlite_store, vault, image_id=image.id))
    assert (result.ok, result.reason) == (False, Reason.IMAGE_FILE)
    assert script.asked == []


def test_a_test_of_an_account_signs_in_and_lists_what_it_sees(
    sqlite_store: Store, vault: Vault, checker: Checker, script: Script
) -> None:
    result = checked(sqlite_store, checker, add(sqlite_store, vault, CheckKind.ACCOUNT, None))
    assert (result.ok, result.explored) == (True, SEEN)
    assert result.words.endswith("as joe")
    assert (script.asked, script.secrets) == (["explore"], [{"password": SECRET}])


def test_a_cloud_that_lists_nothing_is_signed_in_to(
    sqlite_store: Store, vault: Vault, checker: Checker, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = scripted(script)
    monkeypatch.setattr(workers.checker, "plugin", lambda platform: plain)
    result = checked(sqlite_store, checker, add(sqlite_store, vault, CheckKind.ACCOUNT, None))
    assert (result.ok, result.explored) == (True, Explored())
    assert (script.asked, script.closed) == (["connect"], 1)


def test_second_delivery_is_ignored(sqlite_store: Store, vault: Vault, checker: Checker, image: Image) -> None:
    id = add(sqlite_store, vault, image_id=image.id)
    assert checker.run(id) is not None
    assert checker.run(id) is None
    assert checker.run(id + 1) is None


def test_a_worker_with_another_key_says_so(
    sqlite_store: Store, tmp_path: Path, checker: Checker, image: Image, script: Script
) -> None:
    other = Vault.from_file(tmp_path / "another.key")
    result = checked(sqlite_store, checker, add(sqlite_store, other, image_id=image.id))
    assert (result.ok, result.reason) == (False, Reason.CONFIGURATION)
    assert script.asked == []
