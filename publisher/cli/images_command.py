"""`publisher images` and `appliances`: manage registered images, and the appliances that group them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from publisher.cli.command import (
    Installation,
    Json,
    Yes,
    complete_images,
    complete_users,
    confirm,
    err,
    examples,
    iso,
    mebibytes,
    open_installation,
    open_store,
    print_json,
    print_table,
    read_settings,
    say,
    terminated_in_order,
    whole_number,
)
from publisher.core.errors import NotFound
from publisher.core.uris import ID_MAX

if TYPE_CHECKING:
    from publisher.core.image import Checksums, Image
    from publisher.store import Appliance

commands = typer.Typer()
app = typer.Typer(help="Manage registered images.", no_args_is_help=True)
commands.add_typer(app, name="images")

FIRST_APPLIANCE = 1
"""The appliance of images for which none is named. The first such image creates it."""

Format = Annotated[
    str | None, typer.Option("--format", help="Format of the image, such as qcow2. The file's content must match.")
]
Id = Annotated[
    int,
    typer.Argument(
        parser=whole_number(),
        help="Number of the image.",
        autocompletion=complete_images,
    ),
]
Link = Annotated[bool, typer.Option("--link", help="Hard-link the file into the image root instead of copying it.")]


@app.command(epilog=examples("images add disk.qcow2", "images add disk.img --appliance 4 --format raw --link"))
def add(
    file: Annotated[Path, typer.Argument(help="Disk image to register: qcow2, raw, vmdk, vdi, vhd or ISO.")],
    appliance: Annotated[
        int,
        typer.Option(
            parser=whole_number(), metavar="NUMBER", help="Appliance of the image. It is created if it does not exist."
        ),
    ] = FIRST_APPLIANCE,
    user: Annotated[str, typer.Option(help="User who owns the image.", autocompletion=complete_users)] = "root",
    id: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(), metavar="NUMBER", help="Number of the image (default: the next free number)."
        ),
    ] = None,
    format: Format = None,
    name: Annotated[str | None, typer.Option(help="Name of the image (default: the file's name).")] = None,
    link: Link = False,
    md5: Annotated[
        str | None, typer.Option(help="Expected MD5 of the file, or of the disk image compressed in it.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Expected SHA-256 of the file, or of the disk image compressed in it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register a disk image, so that it can be published.

    The file is copied into the image root, unless it is there already.
    A compressed file (gz, xz, zst, bz2) is unpacked into the image root.
    """
    from publisher.core.image import checksum

    given = {"md5": md5, "sha256": sha256}
    expected = tuple(checksum(name, text, f"--{name}") for name, text in given.items() if text is not None)

    with open_installation() as installation, terminated_in_order():
        image = register_file(
            installation,
            file,
            owner=user,
            appliance_id=appliance,
            id=id,
            format=format,
            name=name,
            link=link,
            expected=expected,
        )
    if as_json:
        print_json(image_json(image))
    else:
        say(f"Image {image.id}: {image.name}, {image.format}, {mebibytes(image.size)}, sha256 {image.sha256}")
    warn(image)


@app.command("list", epilog=examples("images list", "images list --user anna --json"))
def list_(
    user: Annotated[
        str | None, typer.Option(help="Show only images of this user.", autocompletion=complete_users)
    ] = None,
    appliance: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(),
            metavar="NUMBER",
            help="Show only images of this appliance.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List images."""
    with open_store(read_settings()) as store:
        images = store.images.list(owner=user, appliance_id=appliance)
    if as_json:
        print_json({"images": [image_json(image) for image in images]})
        return
    rows = [
        [str(each.id), each.owner, str(each.appliance_id), each.name, each.format, mebibytes(each.size), each.location]
        for each in images
    ]
    print_table(["Id", "User", "Appliance", "Name", "Format", "Size", "Location"], rows)
    for image in images:
        warn(image)


@app.command(epilog=examples("images show 7", "images show 7 --json"))
def show(id: Id, as_json: Json = False) -> None:
    """Show an image."""
    with open_installation() as installation:
        image = find_image(installation, id)
    if as_json:
        print_json(image_json(image))
        return
    lines = {
        "Image": f"{image.id} of {image.owner}, appliance {image.appliance_id}",
        "Name": image.name,
        "State": image.state.value,
        "Format": image.format,
        "Size": f"{mebibytes(image.size)} ({image.size} bytes)",
        "Disk": f"{mebibytes(image.virtual_size)}",
        "MD5": image.md5,
        "SHA-256": image.sha256,
        "File": image.location,
        "Created": iso(image.created),
    }
    for label, value in lines.items():
        if value:
            say(f"{label:<9} {value}")


@app.command(epilog=examples("images delete 7", "images delete 7 --yes"))
def delete(id: Id, yes: Yes = False, as_json: Json = False) -> None:
    """Delete an image, and its file if the service created it. Published copies stay in the clouds."""
    with open_installation() as installation:
        image = find_image(installation, id)
        confirm(f"Delete image {id}, '{image.name}' of {image.owner}?", yes=yes)
        delete_image(installation, image)
    if as_json:
        print_json({"deleted": [id]})
    else:
        say(f"Deleted image {id}")


def register_file(
    installation: Installation,
    file: Path,
    *,
    owner: str,
    appliance_id: int,
    id: int | None = None,
    format: str | None = None,
    name: str | None = None,
    link: bool = False,
    expected: Checksums = (),
    check: Callable[[str | None], None] = lambda _: None,
) -> Image:
    """Register a file as `image_files.register` does, and show the progress.

    `check` gets Glance's objection to the disk image before it is registered, and may raise.
    """
    from publisher.files.image_writer import UnpackLimits
    from publisher.services.image_files import register

    settings = installation.settings
    with _hashing(file) as on_progress:
        return register(
            installation.store,
            settings.images,
            file,
            owner=owner,
            appliance_id=appliance_id,
            id=id,
            format=format,
            name=name,
            link=link,
            expected=expected,
            limits=UnpackLimits.of(settings),
            virtual_size_max=settings.virtual_size_max,
            on_found=lambda disk: check(disk.glance_objection),
            on_progress=on_progress,
        )


def delete_image(installation: Installation, image: Image) -> None:
    """Delete an image, and its file if the service created it. Raises `NotFound`, or `Conflict` if it is in use."""
    from publisher.services import image_files

    image_files.delete(installation.store, installation.settings.images, image.owner, image.appliance_id, image.id)


def find_image(installation: Installation, id: int) -> Image:
    """Return the image with that number. Raises `NotFound`."""
    image = installation.store.images.get(id) if id <= ID_MAX else None
    if image is None:
        raise NotFound(f"there is no image {id}; see: publisher images list")
    return image


def image_json(image: Image) -> dict[str, Any]:
    from publisher.core.image import image_uri

    return {
        "id": image.id,
        "uri": image_uri(image.owner, image.appliance_id, image.id),
        "owner": image.owner,
        "appliance_id": image.appliance_id,
        "name": image.name,
        "format": image.format,
        "disk_format": image.disk_format,
        "size_bytes": image.size,
        "virtual_size_bytes": image.virtual_size,
        "md5": image.md5,
        "sha256": image.sha256,
        "sha512": image.sha512,
        "location": image.location,
        "warning": image.warning,
        "created": iso(image.created),
    }


def warn(image: Image) -> None:
    """Print an image's warnings to the standard error, if it has any."""
    if image.warning:
        say(f"Image {image.id}: {image.warning}", console=err)
    if image.glance_objection:
        say(f"Image {image.id} cannot be published to OpenStack: {image.glance_objection}", console=err)


@contextmanager
def _hashing(file: Path) -> Iterator[Callable[[int], None]]:
    """Show a progress bar for what `register` reads of the file, if the standard error is a terminal."""
    total = file.stat().st_size if file.is_file() else 0
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), DownloadColumn(binary_units=True)
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(f"Registering {escape(file.name)}", total=total)
        yield lambda count: bar.advance(task, count)


# Appliances ---------------------------------------------------------------------------------------

appliances_app = typer.Typer(help="Manage appliances, which group images.", no_args_is_help=True)
commands.add_typer(appliances_app, name="appliances")

ApplianceOwner = Annotated[str, typer.Option(help="User who owns the appliance.", autocompletion=complete_users)]
ApplianceId = Annotated[int, typer.Argument(parser=whole_number(), help="Number of the appliance.")]


@appliances_app.command(
    "add", epilog=examples("appliances add --name web", 'appliances add 4 --user anna --distribution "Debian 12"')
)
def add_appliance(
    id: Annotated[
        int | None,
        typer.Argument(
            parser=whole_number(),
            help="Number of the appliance (default: the user's next free number).",
        ),
    ] = None,
    user: ApplianceOwner = "root",
    name: Annotated[str | None, typer.Option(help="Name of the appliance (default: appliance-NUMBER).")] = None,
    version: Annotated[str, typer.Option(help="Version of the appliance.")] = "1",
    distribution: Annotated[str, typer.Option(help="Operating system, such as 'Debian 12'.")] = "unknown",
    architecture: Annotated[str, typer.Option(help="Processor architecture.")] = "x86_64",
    description: Annotated[str, typer.Option(help="Description of the appliance.")] = "",
    as_json: Json = False,
) -> None:
    """Add an appliance.

    This is optional: the first image of an appliance creates it, without a description.
    """
    with open_store(read_settings()) as store:
        appliance = store.appliances.add(
            user,
            id=id,
            name=name,
            version=version,
            description=description,
            distribution=distribution,
            architecture=architecture,
        )
    if as_json:
        print_json(_appliance_json(appliance, 0))
    else:
        say(f"Added the appliance '{appliance.name}' of {appliance.owner}, number {appliance.id}")


@appliances_app.command("list", epilog=examples("appliances list --user anna"))
def list_appliances(
    user: Annotated[
        str | None, typer.Option(help="Show only appliances of this user.", autocompletion=complete_users)
    ] = None,
    as_json: Json = False,
) -> None:
    """List appliances and the total size of their images."""
    with open_store(read_settings()) as store:
        found = store.appliances.list(user)
        contents = {owner: store.appliances.contents(owner) for owner in {each.owner for each in found}}
    sized = [(each, contents[each.owner][each.id].size if each.id in contents[each.owner] else 0) for each in found]
    if as_json:
        print_json({"appliances": [_appliance_json(appliance, size) for appliance, size in sized]})
        return
    rows = [
        [str(each.id), each.owner, each.name, each.version, each.distribution, each.architecture, mebibytes(size)]
        for each, size in sized
    ]
    print_table(["Id", "User", "Name", "Version", "Distribution", "Architecture", "Images"], rows)


@appliances_app.command("remove", epilog=examples("appliances remove 4 --user anna"))
def remove_appliance(id: ApplianceId, user: ApplianceOwner = "root", yes: Yes = False) -> None:
    """Remove an appliance that has no images and no tickets."""
    with open_store(read_settings()) as store:
        if store.appliances.find(user, id) is None:
            raise NotFound(f"{user} has no appliance {id}; see: publisher appliances list")
        confirm(f"Remove the appliance {id} of {user}?", yes=yes)
        store.appliances.remove(user, id)
    say(f"Removed the appliance {id} of {user}")


def _appliance_json(appliance: Appliance, size: int) -> dict[str, Any]:
    from publisher.core.image import appliance_uri

    return {
        "id": appliance.id,
        "uri": appliance_uri(appliance.owner, appliance.id),
        "owner": appliance.owner,
        "name": appliance.name,
        "version": appliance.version,
        "description": appliance.description,
        "distribution": appliance.distribution,
        "architecture": appliance.architecture,
        "images_bytes": size,
        "created": iso(appliance.created),
    }
