"""Output and exit code of `publisher sweep`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from publisher.core.settings import Settings
from publisher.core.vault import Vault
from publisher.store import Store
from tests.unit.workers.leftovers import ticket_that_left
from workers import sweeper


@pytest.fixture
def vault(sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vault:
    monkeypatch.setenv("PUBLISHER_DATA_DIR", str(tmp_path))
    return Vault.from_file(Settings(data_dir=tmp_path).key_file)


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--json"], ["--dry-run", "--json"]], ids=" ".join)
def test_sweep_fails_and_names_the_account_that_it_could_not_search(
    sqlite_store: Store,
    vault: Vault,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep", *options])
    assert sweeper.main() == 0, "nothing was made anywhere"
    account = {"login": "refuse", "keystoneUrl": "http://cloud.example.com"}
    ticket_that_left(sqlite_store, vault, "unreachable", account=account, target={"keystoneProject": "p"})
    for _ in range(2):
        capsys.readouterr()
        assert sweeper.main() == 1, "also at the second time: who asks wants to know"
        said = capsys.readouterr()
        where = "memory account refuse p http://cloud.example.com"
        assert said.err == f"Error: could not list the images of: {where}\n"
        assert "refused the login" in said.out
