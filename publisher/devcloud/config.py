"""The configuration of Keystone and Glance in the development cloud (files, environment variables), and its error.

The files contain only what differs from the servers' own defaults. A value must not contain a line break; `$` begins a
reference to another option.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

Sections = Mapping[str, Mapping[str, str]]

HOST = "127.0.0.1"
REGION = "RegionOne"

_MIB = 1 << 20


class DevCloudError(Exception):
    """The development cloud cannot do it; the message says what to do and which log file to read."""


def database(home: Path) -> Path:
    """Return the SQLite file of the service in `home`."""
    return home / "database.sqlite"


def keystone(home: Path, *, url: str, token_seconds: int) -> Sections:
    """Return `keystone.conf`: Fernet tokens valid for `token_seconds`; all keys and files below `home`."""
    return {
        "DEFAULT": {"log_file": str(home / "keystone.log"), "public_endpoint": url},
        "database": {"connection": _connection(home)},
        "token": {"provider": "fernet", "expiration": str(token_seconds)},
        "fernet_tokens": {"key_repository": str(home / "fernet-keys")},
        # By default, receipts and credentials go to /etc.
        "fernet_receipts": {"key_repository": str(home / "receipt-keys")},
        "credential": {"key_repository": str(home / "credential-keys")},
        # Without a cache, each request reads the token's user, project and roles again: some 30 statements. With a
        # single process, a cache in memory is enough.
        "cache": {"enabled": "true", "backend": "dogpile.cache.memory"},
        # The default of 12 costs half a second of CPU for each login. These passwords are random and long.
        "identity": {"password_hash_rounds": "4"},
        "oslo_policy": {"policy_file": str(home / "policy.yaml")},
    }


def glance(home: Path, *, venv: Path, url: str, keystone_url: str, password: str) -> Sections:
    """Return `glance-api.conf`: images in files below `home`; the Keystone at `keystone_url` checks tokens.

    `password` is that of the service user `glance`.
    """
    service_user = {
        "auth_type": "password",
        "auth_url": f"{keystone_url}/v3",
        "username": "glance",
        "password": password,
        "user_domain_name": "Default",
    }
    return {
        "DEFAULT": {
            "log_file": str(home / "glance.log"),
            "public_endpoint": url,
            "worker_self_reference_url": url,
            "enabled_backends": "fs:file",
            "enabled_import_methods": "[glance-direct,web-download,copy-image]",
            "use_keystone_limits": "false",
        },
        "database": {"connection": _connection(home)},
        "keystone_authtoken": {
            **service_user,
            "www_authenticate_uri": f"{keystone_url}/v3",
            "project_name": "service",
            "project_domain_name": "Default",
            "service_token_roles_required": "true",
        },
        "paste_deploy": {"flavor": "keystone", "config_file": str(home / "glance-api-paste.ini")},
        "glance_store": {"default_backend": "fs"},
        "fs": {
            "filesystem_store_datadir": str(home / "images"),
            # With the default of 64 KiB an upload takes 1.4 times as long.
            "filesystem_store_chunk_size": str(_MIB),
        },
        "os_glance_staging_store": {"filesystem_store_datadir": str(home / "staging")},
        "os_glance_tasks_store": {"filesystem_store_datadir": str(home / "tasks")},
        "oslo_concurrency": {"lock_path": str(home / "locks")},
        "oslo_policy": {"policy_file": str(home / "policy.yaml")},
        # Glance reads this only if DEFAULT.use_keystone_limits is true.
        "oslo_limit": {
            **service_user,
            "system_scope": "all",
            "endpoint_service_type": "image",
            "endpoint_interface": "public",
            "endpoint_region_name": REGION,
        },
        # Under uWSGI, sys.executable is uWSGI itself.
        "wsgi": {"python_interpreter": str(venv / "bin" / "python")},
        # Lets web-download fetch from a server on loopback. The brackets are syntax.
        "import_filtering_opts": {"allowed_ports": "[]", "allowed_hosts": f"[{HOST}]"},
    }


def write_keystone(home: Path, sections: Sections) -> bool:
    """Create Keystone's directory and configuration. Return whether the configuration is new or changed."""
    _directories(home, "fernet-keys", "receipt-keys", "credential-keys")
    (home / "policy.yaml").write_text("{}\n")
    return _write_ini(home / "keystone.conf", sections)


def write_glance(home: Path, venv: Path, sections: Sections) -> bool:
    """Create Glance's directory and configuration. Return whether the configuration is new or changed."""
    _directories(home, "images", "staging", "tasks", "locks")
    (home / "policy.yaml").write_text("{}\n")
    shutil.copyfile(venv / "etc" / "glance" / "glance-api-paste.ini", home / "glance-api-paste.ini")
    return _write_ini(home / "glance-api.conf", sections)


def merged(sections: Sections, overrides: Sections) -> Sections:
    """Return the sections with the keys of `overrides` added or replaced."""
    names = {**sections, **overrides}
    return {name: {**sections.get(name, {}), **overrides.get(name, {})} for name in names}


def process_environment(venv: Path) -> dict[str, str]:
    """Return the variables for the cloud's processes: ours, without proxies and settings of Python or OpenStack."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OS_", "PYTHON", "UWSGI_")) and not name.lower().endswith("_proxy")
    }
    path = os.environ.get("PATH", os.defpath)
    return inherited | {
        "PATH": f"{venv / 'bin'}{os.pathsep}{path}",
        "PYTHONWARNINGS": "ignore",
        "no_proxy": "127.0.0.1",
    }


def _connection(home: Path) -> str:
    return f"sqlite:///{database(home)}?timeout=60"


def _directories(home: Path, *names: str) -> None:
    for place in (home, *(home / name for name in names)):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)


def _write_ini(path: Path, sections: Sections) -> bool:
    lines: list[str] = []
    for name, options in sections.items():
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in options.items()), ""]
    text = "\n".join(lines)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return True
