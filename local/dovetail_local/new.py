"""`dovetail new NAME`: a folder with a service that publishes and one that consumes, ready for the local servers."""

import re
from pathlib import Path
from typing import Annotated

import typer

_TEMPLATE = Path(__file__).with_name("new_project")
# The name in the template -> in the project. Python under its own name would be part of this package.
_FILES = {
    "dovetail.toml": "dovetail.toml",
    "shop.py.txt": "shop.py",
    "README.md": "README.md",
    "gitignore": ".gitignore",
}
# A plain folder name: it also stands in a heading and in what is to be typed next.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project's folder.")],
    directory: Annotated[
        Path, typer.Option("--dir", help="Where to make it.", envvar="DOVETAIL_NEW_DIR", file_okay=False)
    ] = Path(),
) -> None:
    """Make a small project: configuration, a service that publishes, one that consumes, and the commands in order."""
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(f"{name!r} is not a name: letters, digits, dot, dash and underscore are allowed")
    project = directory / name
    try:
        written = _write(project, name)
    except OSError as error:
        reason = "exists already" if isinstance(error, FileExistsError) else (error.strerror or "cannot be written")
        typer.echo(f"dovetail new: {error.filename}: {reason.lower()}; next: dovetail new another-name", err=True)
        raise typer.Exit(1) from None
    for path in written:
        typer.echo(f"wrote {path}", err=True)
    typer.echo(f"next: cd {project}; dovetail local up    (README.md has the rest)", err=True)


def _write(project: Path, name: str) -> list[Path]:
    """Write every file or, where one is there already, none. Raises FileExistsError with that file's name."""
    targets = {project / target: (_TEMPLATE / source).read_text("utf-8") for source, target in _FILES.items()}
    for path in targets:
        if path.exists() or path.is_symlink():
            raise FileExistsError(17, "exists already", str(path))
    project.mkdir(parents=True, exist_ok=True)
    for path, text in targets.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(text.replace("PROJECT", name))
    return list(targets)
