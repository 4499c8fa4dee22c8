"""`publisher publish`: publish one image to one cloud, in the same way as a request to the intake."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from publisher.cli import lifetime_options, openstack_login
from publisher.cli.accounts_command import find_account
from publisher.cli.command import (
    CLOUD_VARIABLE,
    Installation,
    Json,
    ask_password,
    complete_images,
    complete_users,
    err,
    examples,
    open_installation,
    out,
    password_from_stdin,
    print_json,
    say,
    terminated_in_order,
    whole_number,
)
from publisher.cli.images_command import FIRST_APPLIANCE, Format, Link, delete_image, find_image, register_file, warn
from publisher.cli.lifetime_options import Expires, Keep, Lineage, Older
from publisher.cli.openstack_login import (
    ACCOUNT,
    TARGET,
    CaBundle,
    Interface,
    KeystoneVersion,
    Project,
    ProjectDomain,
    Region,
    Tenant,
    UserDomain,
    read_bundle,
)
from publisher.cli.preflights import require_preflight
from publisher.cli.tickets_command import Timeout, Wait, find_ticket, ticket_json, watch
from publisher.core.closed_pipe import no_outcome
from publisher.core.errors import Conflict, InvalidRequest, NotFound
from publisher.core.image_attributes import VISIBILITIES

if TYPE_CHECKING:
    from publisher.services.publishing import Accepted, PublishRequest

commands = typer.Typer()

FIRST_USER = "root"
_OF_THE_ACCOUNT = (
    *("keystone_url", "glance_url", "login", "password_stdin", "user_domain", "interface", "keystone_version"),
    "ca_bundle",
)
"""Options that a stored account replaces."""
_OPTIONS = {
    "credAccount.keystoneUrl": "--keystone-url or OS_AUTH_URL",
    "credAccount.glanceUrl": "--glance-url",
    "credAccount.login": "--login or OS_USERNAME",
    "credAccount.password": CLOUD_VARIABLE,
    "credAccount.userDomain": "--user-domain or OS_USER_DOMAIN_NAME",
    "credAccount.interface": "--interface or OS_INTERFACE",
    "credAccount.keystoneVersion": "--keystone-version or OS_IDENTITY_API_VERSION",
    "keystoneDomain": "--domain or OS_PROJECT_DOMAIN_NAME",
    "keystoneProject": "--project or OS_PROJECT_NAME",
    "tenantName": "--tenant or OS_TENANT_NAME",
    "displayName": "--name",
    "nameTemplate": "--name-template",
    "hidden": "--hidden",
    "minDisk": "--min-disk",
    "minRam": "--min-ram",
    "protected": "--protected",
    "visibility": "--visibility",
    **lifetime_options.OPTIONS,
}
"""The options and variables that set the elements of a request."""
_LISTS = {"properties": "--property", "tags": "--tag", "sharedWith": "--share"}
"""The options that set the items of a list, by the name of the list."""
ATTRIBUTES = "Image attributes"
_NUMBER_MAX = (1 << 31) - 1


@commands.command(
    epilog=examples(
        'publish disk.qcow2 --name "My image" --wait',
        "publish 7 --project demo --domain Default --region RegionOne",
        "publish 7 --account production --project demo --preflight --wait",
        "publish 7 --property os_distro=debian --tag golden --min-disk 20 --share web",
        'publish 7 --name-template "{name}-{version}-{date}"',
        "publish 7 --account production --lineage web --older withdraw --keep 2",
        "publish 7 --wait --timeout 3600 --json < password --password-stdin",
    )
)
def publish(
    context: typer.Context,
    image: Annotated[
        str,
        typer.Argument(
            help="Number of a registered image, or a file to register first.", autocompletion=complete_images
        ),
    ],
    user: Annotated[
        str | None,
        typer.Option(
            help=f"User who owns the image (default: the image's owner; for a file: {FIRST_USER}).",
            autocompletion=complete_users,
        ),
    ] = None,
    appliance: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(),
            metavar="NUMBER",
            help=f"Appliance of the image (default: the image's appliance; for a file: {FIRST_APPLIANCE}).",
        ),
    ] = None,
    stored: Annotated[
        str | None,
        typer.Option(
            "--account",
            metavar="NAME",
            help="Name of a stored account to use. The OS_… variables are then ignored.",
            rich_help_panel=ACCOUNT,
        ),
    ] = None,
    platform: Annotated[str, typer.Option(help="Platform to publish to.", rich_help_panel=ACCOUNT)] = "openstack",
    keystone_url: Annotated[
        str | None, typer.Option(envvar="OS_AUTH_URL", help="Keystone's URL.", rich_help_panel=ACCOUNT)
    ] = None,
    glance_url: Annotated[
        str | None,
        typer.Option(help="Glance's URL (default: from Keystone's catalog).", rich_help_panel=ACCOUNT),
    ] = None,
    login: Annotated[
        str | None, typer.Option(envvar="OS_USERNAME", help="Login name in the cloud.", rich_help_panel=ACCOUNT)
    ] = None,
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin",
            help="Read the password from the first line of standard input. Otherwise it comes from"
            f" {CLOUD_VARIABLE} or a prompt.",
            rich_help_panel=ACCOUNT,
        ),
    ] = False,
    project: Project = None,
    domain: ProjectDomain = None,
    user_domain: UserDomain = None,
    tenant: Tenant = None,
    region: Region = None,
    interface: Interface = None,
    keystone_version: KeystoneVersion = None,
    public: Annotated[
        bool,
        typer.Option("--public", help="Make the image visible to all projects of the cloud.", rich_help_panel=TARGET),
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the image in the cloud (default: its own name).", rich_help_panel=TARGET)
    ] = None,
    name_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="Template of that name, such as {name}-{version}-{date} (default: the account's).",
            rich_help_panel=TARGET,
        ),
    ] = None,
    property: Annotated[
        list[str] | None,
        typer.Option(
            "--property", metavar="NAME=VALUE", help="Property of the image. Repeatable.", rich_help_panel=ATTRIBUTES
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="TAG", help="Tag of the image. Repeatable.", rich_help_panel=ATTRIBUTES),
    ] = None,
    visibility: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(VISIBILITIES),
            help="Who can see the image (default: private; shared with --share).",
            rich_help_panel=ATTRIBUTES,
        ),
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(
            "--share",
            metavar="PROJECT",
            help="Name or id of a project to share the image with. Repeatable.",
            rich_help_panel=ATTRIBUTES,
        ),
    ] = None,
    hidden: Annotated[
        bool,
        typer.Option("--hidden", help="Leave the image out of ordinary lists of images.", rich_help_panel=ATTRIBUTES),
    ] = False,
    protected: Annotated[
        bool,
        typer.Option(
            "--protected",
            help="Protect the published image: the cloud does not delete it until the protection is lifted.",
            rich_help_panel=ATTRIBUTES,
        ),
    ] = False,
    min_disk: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(0, _NUMBER_MAX),
            metavar="GIB",
            help="Minimum disk size of a server (default: the size of the image's disk).",
            rich_help_panel=ATTRIBUTES,
        ),
    ] = None,
    min_ram: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(0, _NUMBER_MAX),
            metavar="MIB",
            help="Minimum memory of a server.",
            rich_help_panel=ATTRIBUTES,
        ),
    ] = None,
    expires: Expires = None,
    lineage: Lineage = None,
    older: Older = None,
    keep: Keep = None,
    ca_bundle: CaBundle = None,
    format: Format = None,
    link: Link = False,
    preflight: Annotated[
        bool,
        typer.Option(
            "--preflight",
            help="First have a worker ask the cloud whether it would accept the image. If not, there is no ticket.",
        ),
    ] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Publish an image to a cloud.

    Without --account, missing values come from the OS_… variables of the openstack command.
    Exit codes with --wait: 0 published, 1 failed, 3 cancelled, 4 not ended within --timeout.
    """
    with_variables = stored is None
    target = _given(
        keystoneProject=openstack_login.project(context) if with_variables else _typed(context, "project"),
        keystoneDomain=domain if with_variables else _typed(context, "domain"),
        tenantName=tenant if with_variables else _typed(context, "tenant"),
        publishLocation=region if with_variables else _typed(context, "region"),
        displayName=name,
        nameTemplate=name_template,
        visibility=visibility,
    )
    if public or not visibility:
        target["publicImage"] = public
    target |= _attributes(
        properties=[_property(each) for each in property or ()],
        tags=tag,
        sharedWith=share,
        hidden=hidden or None,
        protected=protected or None,
        minDisk=min_disk,
        minRam=min_ram,
    )
    from publisher.services.publishing import PublishRequest

    with open_installation() as installation, no_outcome(when=wait), _naming_options():
        found = find_image(installation, int(image)) if image.isdecimal() else None
        owner = user or (found.owner if found else FIRST_USER)
        request = PublishRequest(
            owner=owner,
            appliance_id=appliance or (found.appliance_id if found else FIRST_APPLIANCE),
            image_id=found.id if found else 0,
            platform=platform,
            target=target,
            **lifetime_options.lifetime(expires, lineage, older, keep),
        )
        if stored:
            request = _with_stored(installation, context, request, stored)
        else:
            account = _given(
                keystoneUrl=keystone_url,
                glanceUrl=glance_url,
                login=login,
                userDomain=openstack_login.user_domain(context),
                interface=openstack_login.interface(interface),
                keystoneVersion=openstack_login.version(keystone_version),
            )
            request = replace(
                request,
                account=account | (read_bundle(ca_bundle) if ca_bundle else {}),
                secrets={"password": _password(password_stdin, login)},
            )
        with terminated_in_order():
            if found is None:
                accepted = _register_and_accept(
                    installation, Path(image), request, format=format, link=link, preflight=preflight
                )
            else:
                accepted = _accept(installation, request, preflight=preflight)
        ticket = accepted.ticket
        if not as_json:
            say(f"Ticket {ticket.id}: '{ticket.name}' to {ticket.platform}; see: publisher status {ticket.id}")
        code = watch(installation, ticket.id, console=err if as_json else out, timeout_seconds=timeout) if wait else 0
        if as_json:
            print_json(ticket_json(find_ticket(installation, ticket.id)))
    raise typer.Exit(code)


@contextmanager
def _naming_options() -> Iterator[None]:
    """Add to an error about an element of the request the option that sets it."""
    try:
        yield
    except InvalidRequest as error:
        field = error.field or ""
        option = _OPTIONS.get(field) or _LISTS.get(field.partition("[")[0])
        if option is None:
            raise
        raise InvalidRequest(f"{error}; it is given by {option}") from None


def _given(**values: str | None) -> dict[str, Any]:
    """Leave out the values that are not given: an empty variable is the same as none."""
    return {name: value for name, value in values.items() if value}


def _attributes(**values: Any) -> dict[str, Any]:
    """Leave out the attributes that are not given."""
    return {name: value for name, value in values.items() if value not in (None, [])}


def _property(given: str) -> dict[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise InvalidRequest(f"'{given}' has no value; write NAME=VALUE", field="--property")
    return {"name": name, "value": value}


def _password(stdin: bool, login: str | None) -> str:
    if stdin:
        return password_from_stdin()
    return os.environ.get(CLOUD_VARIABLE) or ask_password(
        f"Password of {login or 'the cloud account'}",
        instead=f"set {CLOUD_VARIABLE}, or use --password-stdin",
    )


def _typed(context: typer.Context, option: str) -> str | None:
    """Return an option's value only if the command line itself sets it: variables may be about another cloud."""
    value: str | None = context.params[option]
    return value if openstack_login.is_from_command_line(context, option) else None


def _with_stored(
    installation: Installation, context: typer.Context, request: PublishRequest, name: str
) -> PublishRequest:
    """Return the request with a stored account of its owner.

    Raises `NotFound`, or `InvalidRequest` for an option that contradicts the account.
    """
    account = find_account(installation, request.owner, name)
    for option in _OF_THE_ACCOUNT:
        if openstack_login.is_from_command_line(context, option):
            flag = f"--{option.replace('_', '-')}"
            raise InvalidRequest(f"{flag}: the account '{account.name}' has its own; leave out {flag} or --account")
    if openstack_login.is_from_command_line(context, "platform") and request.platform != account.platform:
        raise InvalidRequest(f"--platform: '{account.name}' is an account of {account.platform}; leave out --platform")
    return replace(request, platform=account.platform).using(account)


def _register_and_accept(
    installation: Installation,
    file: Path,
    request: PublishRequest,
    *,
    format: str | None,
    link: bool,
    preflight: bool,
) -> Accepted:
    """Register a file and accept its request. If that fails, the image is removed again."""
    from publisher.platforms.platform import check_request, platform_of

    if not file.exists():
        raise InvalidRequest("is neither the number of an image nor a file", field=str(file))
    # Checked first, so that a mistake in the request leaves no registered image behind.
    secrets = request.secrets or request.sealed_names
    check_request(request.platform, request.account, secrets, request.target)
    image = register_file(
        installation,
        file,
        owner=request.owner,
        appliance_id=request.appliance_id,
        format=format,
        link=link,
        check=lambda objection: platform_of(request.platform).check_image(file.name, objection),
    )
    warn(image)
    try:
        return _accept(installation, replace(request, image_id=image.id), preflight=preflight)
    except BaseException:
        # If an interrupt arrived just after the commit, there is a ticket nevertheless, and the image stays.
        with contextlib.suppress(Conflict, NotFound):
            delete_image(installation, image)
        raise


def _accept(installation: Installation, request: PublishRequest, *, preflight: bool) -> Accepted:
    """Commit the ticket and wake a worker. With `preflight`, only if the cloud would accept the image."""
    from publisher.core.asking import alone
    from publisher.services.publishing import publish

    if preflight:
        require_preflight(installation, request)
    vault, policy = installation.vault, installation.policy
    return alone(publish(installation.store, vault, lambda: request, policy=policy, wake=installation.wake))
