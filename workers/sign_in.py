"""Sign in once with a stored account, and report what works. Runs as `publisher accounts test`.

`python -m workers.sign_in [--target ELEMENT=VALUE]… [--json] USER ACCOUNT`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace

from sqlalchemy.exc import SQLAlchemyError

from publisher.core.closed_pipe import no_outcome, quiet_end
from publisher.core.cloud_check import Explored
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
    explored: Explored | None = None


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
    seen = Explored()
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
            seen = check.explored or seen
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
            "checks": [{"name": each.name, "ok": each.ok, "message": each.message} for each in checks],
            **asdict(seen),
        }
        sys.stdout.write(json.dumps(result) + "\n")
    return int(not ok)


def tried(
    account: StoredAccount, target: Mapping[str, str], settings: Settings, deployment: str
) -> Iterator[SignInCheck]:
    """Try the steps in order and yield their results. Stops at the first that fails."""
    platform = platform_of(account.platform)
    where = next(iter(platform.account_addresses(account.fields).values()), account.platform)
    explored = Explored()
    cloud: CloudPublisher | None = None

    def arguments() -> tuple[Account, Target, Timeouts, OutboundPolicy]:
        vault = Vault.from_file(settings.key_file, production=settings.production)
        opened = Account(account.platform, account.fields, vault.open(account.sealed_secrets))
        return (
            opened,
            Target(account.platform, dict(target)),
            Timeouts(settings.connect_timeout_seconds, settings.call_timeout_seconds, settings.verify_seconds),
            OutboundPolicy.of(settings).for_account(opened),
        )

    def explore() -> str:
        nonlocal explored
        explored = plugin(account.platform).explore(*arguments())
        return f"signed in to {where} as '{platform.signs_in_as(account.fields)}'"

    def look() -> str:
        nonlocal cloud
        cloud = plugin(account.platform).connect(*arguments())
        found = len(cloud.tagged(deployment))
        return f"the cloud lists {found} {'image' if found == 1 else 'images'} of this installation"

    try:
        check = _check("sign in", explore)
        yield replace(check, explored=explored)
        if not check.ok:
            return
        for kind in ("projects", "regions", "networks"):
            if places := explored.places(kind):
                yield SignInCheck(kind, True, f"the account can see {', '.join(each.name for each in places)}")
        # With several projects, only the target says in which one to look.
        named = any(target.get(element) for element, kind in platform.explored.items() if kind == "projects")
        if named or len(explored.projects) <= 1:
            yield _check("images", look)
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
