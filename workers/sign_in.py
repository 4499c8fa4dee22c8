"""Sign in once with a stored account, and report what works. Runs as `publisher accounts test`.

`python -m workers.sign_in [--target ELEMENT=VALUE]… [--json] USER ACCOUNT`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.closed_pipe import no_outcome, quiet_end
from publisher.core.errors import NotFound, PublisherError
from publisher.core.settings import Settings
from publisher.core.ticket import Account, Target
from publisher.core.vault import Vault
from publisher.outbound.policy import OutboundPolicy
from publisher.platforms.platform import platform_of
from publisher.store import Store, StoredAccount
from workers.clouds import plugin
from workers.clouds.base import CloudPublisher, Timeouts


@dataclass(frozen=True, slots=True)
class SignInCheck:
    """One step that was tried. `message` says what works, or what is wrong and how to fix it."""

    name: str
    ok: bool
    message: str


def main() -> int:
    """Run the command and return its exit code: 0 if all steps work, else 1."""
    parser = argparse.ArgumentParser(
        prog="publisher accounts test", description="Sign in to the cloud with a stored account and show what works."
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="ELEMENT=VALUE",
        help="element of the API that says where to sign in; can be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("user", help="user who owns the account")
    parser.add_argument("account", help="name of the account")
    options = parser.parse_args()
    checks = []
    try:
        settings = Settings.from_environment()
        store = Store.open(settings)
        store.check_schema()
        account = store.accounts.find(options.user, name=options.account)
        if account is None:
            raise NotFound(f"{options.user} has no account '{options.account}'")
        target = dict(each.split("=", 1) for each in options.target)
        for check in tried(account, target, settings, store.deployment):
            checks.append(check)
            if not options.json:
                sys.stdout.write(f"{'works ' if check.ok else 'FAILED'}  {check.name}: {check.message}\n")
    except (PublisherError, SQLAlchemyError) as error:
        reason = str(error) if isinstance(error, PublisherError) else f"the database: {type(error).__name__}"
        sys.stderr.write(f"Error: {reason}\n")
        return 1
    ok = all(each.ok for each in checks)
    if options.json:
        result = {
            "ok": ok,
            "account": options.account,
            "user": options.user,
            "checks": [asdict(each) for each in checks],
        }
        sys.stdout.write(json.dumps(result) + "\n")
    return int(not ok)


def tried(
    account: StoredAccount, target: Mapping[str, str], settings: Settings, deployment: str
) -> Iterator[SignInCheck]:
    """Try the steps in order and yield their results. Stops at the first that fails."""
    where = account.fields.get("keystoneUrl") or account.platform
    cloud: CloudPublisher | None = None

    def connect() -> str:
        nonlocal cloud
        vault = Vault.from_file(settings.key_file, production=settings.production)
        opened = Account(account.platform, account.fields, vault.open(account.sealed_secrets))
        cloud = plugin(account.platform).connect(
            opened,
            Target(account.platform, dict(target)),
            Timeouts(settings.connect_timeout_seconds, settings.call_timeout_seconds, settings.verify_seconds),
            OutboundPolicy.of(settings).for_account(opened),
        )
        return f"signed in to {where} as '{platform_of(account.platform).signs_in_as(account.fields)}'"

    def look() -> str:
        assert cloud is not None  # noqa: S101  # it is only called after `connect`
        found = len(cloud.tagged(deployment))
        return f"the cloud lists {found} {'image' if found == 1 else 'images'} of this installation"

    try:
        for name, step in (("sign in", connect), ("images", look)):
            check = _check(name, step)
            yield check
            if not check.ok:
                return
    finally:
        if cloud is not None:
            cloud.close()


def _check(name: str, step: Callable[[], str]) -> SignInCheck:
    try:
        return SignInCheck(name, True, step())
    except PublisherError as error:
        return SignInCheck(name, False, str(error))
    except Exception as error:  # a mistake in a plugin, or a plugin that cannot be loaded
        return SignInCheck(name, False, f"an unexpected error in the plugin: {type(error).__name__}")


if __name__ == "__main__":
    with quiet_end(), no_outcome():
        code = main()
        sys.stdout.flush()
    sys.exit(code)
