"""A real Glance whose users sign in to a Keystone v2.0."""

import shutil
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from publisher.devcloud import config, databases
from publisher.devcloud.servers import Server, free_port, glance_server
from tests.keystone_v2 import KeystoneV2Stub

_FILTER = Path(__file__).with_name("keystone_v2_filter.py")
_PASTE_INI = "glance-api-paste-v2.ini"
_SHIPPED_CHECK = "paste.filter_factory = keystonemiddleware.auth_token:filter_factory\n"


class GlanceBehindV2:
    """A context manager: the environment's Glance in `directory`, with a KeystoneV2Stub as `keystone`.

    Glance is used as shipped, except for the pipeline stage that checks tokens.
    """

    def __init__(
        self,
        directory: Path,
        venv: Path,
        *,
        users: Mapping[str, str],
        tenants: Collection[str],
    ) -> None:
        self._venv = venv.absolute()
        self.home = directory.resolve() / "glance"
        self.glance: Server = glance_server(self.home, self._venv, free_port(), python_path=self.home)
        self.keystone = KeystoneV2Stub(self.glance.url, users=users, tenants=tenants)
        self._undo = ExitStack()

    @property
    def auth_url(self) -> str:
        """Keystone's URL with /v2.0."""
        return f"{self.keystone.url}/v2.0"

    def __enter__(self) -> Self:
        with self._undo:
            self._undo.enter_context(self.keystone)
            self._configure()
            databases.make_tables({"glance": self.home}, self._venv)
            self._undo.callback(self.glance.stop)
            self.glance.start()
            self.glance.wait()
            self._undo = self._undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _configure(self) -> None:
        sections = config.glance(
            self.home,
            venv=self._venv,
            url=self.glance.url,
            keystone_url=self.keystone.url,
            password="unused",
        )
        paste_ini = self.home / _PASTE_INI
        pipeline = {"paste_deploy": {"flavor": "keystone", "config_file": str(paste_ini)}}
        config.write_glance(self.home, self._venv, config.merged(sections, pipeline))
        shutil.copyfile(_FILTER, self.home / _FILTER.name)
        shipped = (self.home / "glance-api-paste.ini").read_text()
        assert shipped.count(_SHIPPED_CHECK) == 1
        ours = (
            f"paste.filter_factory = {_FILTER.stem}:filter_factory\n"
            f"identity_url = {self.keystone.url}\n"
            f"service_token = {self.keystone.service_token}\n"
        )
        changed = shipped.replace(_SHIPPED_CHECK, ours).replace("delay_auth_decision = true\n", "")
        paste_ini.write_text(changed)
