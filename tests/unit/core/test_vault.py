"""Stored secrets are sealed with a key that only this installation has."""

import logging
import multiprocessing
import os
import stat
from base64 import urlsafe_b64encode
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from publisher.core.errors import ConfigurationError
from publisher.core.vault import Vault
from tests.patience import PATIENCE

SECRETS = {"password": "pässword", "token": ""}


def test_sealed_secrets_can_be_opened(tmp_path: Path) -> None:
    vault = Vault.from_file(tmp_path / "key")
    sealed = vault.seal(SECRETS)
    assert vault.open(sealed) == SECRETS
    assert b"password" not in sealed
    assert Vault.from_file(tmp_path / "key").open(sealed) == SECRETS


def test_new_key_file_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Vault.from_file(tmp_path / "new" / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["key"]


def test_new_key_causes_a_warning_only_in_production(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Vault.from_file(tmp_path / "trial")
        assert not caplog.records
        Vault.from_file(tmp_path / "production", production=True)
        assert "Generated a new secret key" in caplog.text
        caplog.clear()
        Vault.from_file(tmp_path / "production", production=True)
        assert not caplog.records
    assert (tmp_path / "production").read_text().strip() not in caplog.text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o601])
def test_key_file_accessible_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    Vault.from_file(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Vault.from_file(tmp_path / "key")


def test_read_only_key_file_is_accepted(tmp_path: Path) -> None:
    Vault.from_file(tmp_path / "key")
    (tmp_path / "key").chmod(0o400)
    Vault.from_file(tmp_path / "key")


def key_file(path: Path, *lines: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n", b"short", b"A" * 44, urlsafe_b64encode(b"k" * 32) + b"\nrubbish"],
    ids=["empty", "blank", "short", "no key", "one of two"],
)
def test_file_without_a_valid_key_is_refused_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigurationError, match="no valid Fernet key") as raised:
        Vault.from_file(key_file(tmp_path / "key", content))
    assert str(content) not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("kind", ["binary", "directory"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "directory":
        (tmp_path / "key").mkdir(mode=0o700)
    else:
        key_file(tmp_path / "key", b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Vault.from_file(tmp_path / "key")


def test_a_rotated_vault_opens_old_secrets_and_seals_with_the_new_key(tmp_path: Path) -> None:
    old, new = Fernet.generate_key(), Fernet.generate_key()
    sealed_before = Vault.from_file(key_file(tmp_path / "old", old)).seal(SECRETS)
    rotated = Vault.from_file(key_file(tmp_path / "rotated", new, old))
    assert rotated.open(sealed_before) == SECRETS
    sealed_after = rotated.seal(SECRETS)
    only_new = Vault.from_file(key_file(tmp_path / "new", new))
    assert only_new.open(sealed_after) == SECRETS
    with pytest.raises(ConfigurationError, match="a key that this worker does not have"):
        only_new.open(sealed_before)


@pytest.mark.parametrize("sealed", [b"", b"rubbish"])
def test_invalid_sealed_data_is_refused(tmp_path: Path, sealed: bytes) -> None:
    with pytest.raises(ConfigurationError):
        Vault.from_file(tmp_path / "key").open(sealed)


def _seal_when_told(
    path: Path, go: "multiprocessing.synchronize.Barrier", results: "multiprocessing.Queue[bytes]"
) -> None:
    go.wait(30 * PATIENCE)
    results.put(Vault.from_file(path).seal(SECRETS))


@pytest.mark.long
def test_processes_that_create_the_key_at_once_share_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for round_ in range(5):
        path = tmp_path / str(round_) / "key"
        go, results = context.Barrier(4), context.Queue()
        processes = [context.Process(target=_seal_when_told, args=(path, go, results)) for _ in range(4)]
        for process in processes:
            process.start()
        sealed = [results.get(timeout=30 * PATIENCE) for _ in processes]
        for process in processes:
            process.join(30 * PATIENCE)
        results.close()
        vault = Vault.from_file(path)
        assert [vault.open(each) for each in sealed] == [SECRETS] * 4
        assert [each.name for each in path.parent.iterdir()] == ["key"]


def test_mac_depends_on_purpose_text_and_key(tmp_path: Path) -> None:
    vault = Vault.from_file(tmp_path / "key")
    code = vault.mac("download", "image 7")
    assert len(code) == 43
    assert Vault.from_file(tmp_path / "key").mac("download", "image 7") == code
    others = [vault.mac("download", "image 8"), vault.mac("upload", "image 7"), vault.mac("downloa", "dimage 7")]
    (tmp_path / "key").write_text(Fernet.generate_key().decode() + "\n" + (tmp_path / "key").read_text())
    others.append(Vault.from_file(tmp_path / "key").mac("download", "image 7"))
    assert len({code, *others}) == 5


@pytest.mark.parametrize(("mode", "refused"), [(0o400, False), (0o440, False), (0o444, True), (0o460, True)])
def test_key_file_of_another_owner_may_be_readable_by_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, refused: bool
) -> None:
    file = tmp_path / "key"
    Vault.from_file(file)
    file.chmod(mode)
    monkeypatch.setattr("os.geteuid", lambda: file.stat().st_uid + 1)

    if refused:
        with pytest.raises(ConfigurationError, match="read by others"):
            Vault.from_file(file)
    else:
        Vault.from_file(file)


def test_key_rotation_works_while_processes_run() -> None:
    """In each step of docs/operations.md, processes with the old or the new file open each other's sealed secrets."""
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    steps = [[old], [old, new], [new, old]]
    for before, after in pairwise(steps):
        for sealer in (before, after):
            sealed = Vault(sealer).seal({"password": "hunter2"})
            assert all(Vault(opener).open(sealed) == {"password": "hunter2"} for opener in (before, after))

    assert Vault([new]).open(Vault([new, old]).seal({"password": "x"})) == {"password": "x"}
    with pytest.raises(ConfigurationError):
        # Secrets sealed before the second step need the old line.
        Vault([new]).open(Vault([old, new]).seal({"password": "x"}))
