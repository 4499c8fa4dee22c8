"""A real Keystone (v3) and Glance on loopback, for development, demonstrations and tests."""

import fcntl
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

from publisher.devcloud import config, databases, environment
from publisher.devcloud.config import HOST, DevCloudError, Sections
from publisher.devcloud.identity import ADMIN, SERVICE_USER, USERS, Identity
from publisher.devcloud.servers import PortTakenError, Server, free_port, glance_server, keystone_server

_CREATION_ATTEMPTS = 3
_NO_OVERRIDES: Sections = MappingProxyType({})


@dataclass(frozen=True)
class CloudState:
    """The part of a cloud that persists between starts, in `state.json`: its address, ports and passwords.

    `complete`: its creation has finished.
    """

    keystone_port: int
    glance_port: int
    passwords: Mapping[str, str]
    complete: bool = False
    host: str = HOST

    @classmethod
    def new(cls, host: str = HOST) -> "CloudState":
        """Return a state with free ports of this address and random passwords."""
        keystone_port = free_port(host)
        glance_port = free_port(host)
        while glance_port == keystone_port:
            glance_port = free_port(host)
        passwords = {name: secrets.token_urlsafe(18) for name in (*USERS, SERVICE_USER)}
        return cls(keystone_port, glance_port, passwords, host=host)

    @classmethod
    def load(cls, path: Path) -> "CloudState | None":
        """Return the saved state, or None. Raises DevCloudError if the file is invalid."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise DevCloudError(f"{path} is damaged ({error}): remove {path.parent}") from error

    def save(self, path: Path) -> None:
        """Replace the file atomically. Only its owner can read it."""
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump(asdict(self), out, indent=1)
        fresh.replace(path)


def _say_nothing(words: str) -> None:
    """Ignore progress messages."""


class DevCloud:
    """A cloud whose data, logs and process ids are in one directory with mode 0700.

    It outlives the process that started it: any DevCloud with the same directory can stop or use it. Its users are
    those of `publisher.devcloud.identity.USERS`. Methods raise DevCloudError.
    """

    def __init__(self, directory: Path, venv: Path) -> None:
        self.directory = directory.resolve()
        self.venv = venv.absolute()

    def up(
        self,
        *,
        say: Callable[[str], None] = _say_nothing,
        overrides: Sections = _NO_OVERRIDES,
        token_seconds: int = 3600,
        host: str = config.HOST,
    ) -> None:
        """Start the cloud and wait until it answers. Does nothing if it is running already.

        The first call installs the environment (a minute or two) if it is missing, and creates the cloud (8 s). Later
        starts take 3 s and find all data unchanged. `overrides` are additional options for glance-api.conf, and
        `token_seconds` is the lifetime of tokens. A server whose options have changed is restarted. `host` is the
        address that a new cloud listens on and that its catalog names.
        """
        if not sys.platform.startswith("linux"):
            raise DevCloudError("the development cloud needs Linux (its processes are known by /proc)")
        self._make_directory()
        with self._alone():
            environment.install(self.venv, say)
            state = self._load()
            if state is None or not state.complete:
                say(f"Creating a cloud in {self.directory}")
                state = self._create(overrides, token_seconds, host)
            else:
                self._resume(state, overrides, token_seconds)
            say(f"Keystone {self.keystone_url}/v3, Glance {self.glance_url}")

    def install(self, *, say: Callable[[str], None] = _say_nothing) -> None:
        """Install the environment that `up` needs, if it is missing."""
        environment.install(self.venv, say)

    def down(self) -> None:
        """Stop both servers if they run. The data stays. Uploads in progress get half a minute to end."""
        if self._load() is None:
            return
        with self._alone():
            self.stop_glance()
            self.stop_keystone()

    def running(self) -> bool:
        """Return whether both servers run."""
        state = self._load()
        return state is not None and all(server.running() for server in self._servers(state))

    @property
    def keystone_url(self) -> str:
        """Keystone's root, without /v3."""
        return self._keystone().url

    @property
    def glance_url(self) -> str:
        """Glance's root, without /v2."""
        return self._glance().url

    def password(self, user: str = "uploader") -> str:
        """Return the password of one of `USERS`, which is random for each cloud."""
        try:
            return self._state().passwords[user]
        except KeyError:
            raise DevCloudError(f"there is no user {user!r}: there are {', '.join(USERS)}") from None

    def env(self, user: str = "uploader") -> dict[str, str]:
        """Return the OS_… variables that let the `openstack` command or an SDK work as this user."""
        password = self.password(user)
        who = USERS[user]
        return {
            "OS_AUTH_URL": f"{self.keystone_url}/v3",
            "OS_IDENTITY_API_VERSION": "3",
            "OS_IMAGE_API_VERSION": "2",
            "OS_REGION_NAME": config.REGION,
            "OS_INTERFACE": "public",
            "OS_USERNAME": who.name,
            "OS_PASSWORD": password,
            "OS_USER_DOMAIN_NAME": who.domain,
            "OS_PROJECT_NAME": who.project,
            "OS_PROJECT_DOMAIN_NAME": who.domain,
        }

    def openstack(self) -> Path:
        """Return the path of the `openstack` command."""
        return self.venv / "bin" / "openstack"

    def start_keystone(self) -> None:
        """Start Keystone if it is not running, and wait until it answers."""
        _start(self._keystone())

    def stop_keystone(self) -> None:
        """Stop Keystone."""
        self._keystone().stop()

    def start_glance(self) -> None:
        """Start Glance with the options of the last `up` if it is not running, and wait until it answers."""
        _start(self._glance())

    def stop_glance(self) -> None:
        """Stop Glance. Uploads in progress get half a minute to end."""
        self._glance().stop()

    def kill_glance(self) -> None:
        """Kill Glance's processes, as a crash would. This aborts uploads in progress."""
        self._glance().kill()

    def _create(self, overrides: Sections, token_seconds: int, host: str) -> CloudState:
        """Create a cloud. Tries again with other ports if somebody has taken ours in the meantime."""
        for attempt in range(_CREATION_ATTEMPTS):
            state = CloudState.new(host)
            try:
                self._create_on(state, overrides, token_seconds)
            except BaseException as error:
                for server in self._servers(state):
                    server.kill()
                if not isinstance(error, PortTakenError) or attempt == _CREATION_ATTEMPTS - 1:
                    raise
            else:
                break
        return state

    def _create_on(self, state: CloudState, overrides: Sections, token_seconds: int) -> None:
        keystone, glance = self._servers(state)
        for server in (keystone, glance):
            server.kill()  # left by an earlier attempt whose process was killed
            shutil.rmtree(server.home, ignore_errors=True)
        state.save(self._state_file)
        self._configure(state, overrides, token_seconds)
        self._make_databases(state)
        keystone.start()
        glance.start()
        keystone.wait()
        identity = Identity(state.host, state.keystone_port, state.passwords[ADMIN.name])
        identity.populate(state.passwords, image_url=glance.url)
        glance.wait()
        replace(state, complete=True).save(self._state_file)

    def _make_databases(self, state: CloudState) -> None:
        keystone, glance = self._servers(state)
        databases.make_tables({"keystone": keystone.home, "glance": glance.home}, self.venv)
        password = state.passwords[ADMIN.name]
        databases.make_entries(keystone.home, self.venv, url=keystone.url, admin_password=password)

    def _resume(self, state: CloudState, overrides: Sections, token_seconds: int) -> None:
        servers = self._servers(state)
        changes = self._configure(state, overrides, token_seconds)
        for server, changed in zip(servers, changes, strict=True):
            if changed:
                server.stop()
            server.start()
        for server in servers:
            server.wait()

    def _configure(self, state: CloudState, overrides: Sections, token_seconds: int) -> tuple[bool, bool]:
        """Write the configurations. Return for Keystone and for Glance whether it has changed."""
        keystone, glance = self._servers(state)
        glance_sections = config.glance(
            glance.home,
            venv=self.venv,
            url=glance.url,
            keystone_url=keystone.url,
            password=state.passwords[SERVICE_USER],
        )
        return (
            config.write_keystone(
                keystone.home, config.keystone(keystone.home, url=keystone.url, token_seconds=token_seconds)
            ),
            config.write_glance(glance.home, self.venv, config.merged(glance_sections, overrides)),
        )

    def _servers(self, state: CloudState) -> tuple[Server, Server]:
        return (
            keystone_server(self.directory / "keystone", self.venv, state.keystone_port, host=state.host),
            glance_server(self.directory / "glance", self.venv, state.glance_port, host=state.host),
        )

    def _keystone(self) -> Server:
        return self._servers(self._state())[0]

    def _glance(self) -> Server:
        return self._servers(self._state())[1]

    @property
    def _state_file(self) -> Path:
        return self.directory / "state.json"

    def _load(self) -> CloudState | None:
        return CloudState.load(self._state_file)

    def _state(self) -> CloudState:
        state = self._load()
        if state is None:
            raise DevCloudError(
                f"there is no cloud in {self.directory} yet; start it with: publisher devcloud up"
                " (or name the installation that has one with PUBLISHER_DATA_DIR)"
            )
        return state

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DevCloudError(f"cannot make {self.directory}: {error.strerror}") from error
        ours = {self._state_file.name, self._lock_file.name}
        present = {entry.name for entry in self.directory.iterdir()}
        if present and not present & ours:
            raise DevCloudError(f"{self.directory} holds something else: name a new directory")
        self.directory.chmod(0o700)

    @property
    def _lock_file(self) -> Path:
        return self.directory / "devcloud.lock"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let only one process at a time start or stop the cloud; others wait."""
        with self._lock_file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _start(server: Server) -> None:
    server.start()
    server.wait()
