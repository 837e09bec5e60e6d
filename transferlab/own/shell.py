"""Commands that look at a person's images, and that draw some. What they do is imported when they are called."""

import json
from pathlib import Path

import click

from ..errors import check, plain
from ..paths import write_atomically


@click.command()
@click.argument("folder")
@click.option("--html", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write a page, too.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def look(folder: str, html: Path | None, as_json: bool) -> None:
    """Say what images FOLDER holds, class by class, what is damaged or there twice, and what to do about it."""
    from .look import NAMED, overview
    from .page import page

    check(html is None or html.absolute().parent.is_dir(), "html", html, "the folder of this file must be there")
    found = overview(folder)
    if as_json:
        click.echo(json.dumps(found.about, indent=1))
    else:
        text = page("look.text.jinja", about=found.about, shown=[*found.about["classes"].items()][:NAMED])
        click.echo("\n".join(plain(line) for line in text.splitlines() if line))
    if html:
        write_atomically(html, page("look.jinja", **found._asdict()))
        click.echo(plain(f"page: {html}"), err=True)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def sample(folder: Path) -> None:
    """Write a few drawn pictures in class folders into DIR, to try things on without a network."""
    from .sample import sample as draw

    count = draw(folder)
    click.echo(plain(f"{folder}: {count} drawn images; look at them with: transferlab look {folder}"))
