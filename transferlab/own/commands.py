"""Commands for a person's own images. What they do is imported when they are called, torch too."""

import json
import os
import sys
from pathlib import Path

import click

from ..errors import UserError, check, choose, plain
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


@click.command()
@click.argument("folder")
@click.option("--method", default="auto", show_default=True, help="auto, finetune, probe or grow.")
@click.option("--minutes", type=float, default=10, show_default=True, help="That it may take.")
@click.option("--network", help="A torchvision network, or own, the book's. By default mobilenet_v2.")
@click.option("--weights", metavar="FILE", help="Its weights; by default they are looked for, and downloaded.")
@click.option("--size", type=int, metavar="PX", help="Side of the images; by default 128, and 224 on a GPU.")
@click.option("--out", metavar="DIR", help="Where the results go; by default NAME-finetuned.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the splits and the training.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...")
@click.option("--skip-unreadable", is_flag=True, help="Leave unreadable images out.")
@click.option("--steps", type=int, help="Steps of each run, instead of what the time allows.")
@click.option("--rates", type=int, help="How many learning rates are tried, instead of what the time allows.")
def finetune(folder: str, out: str | None, **parameters) -> None:
    """Train a network on the images in FOLDER, a folder for each class, and write it with its evidence.

    Stop it with Ctrl-C at any time: the same command goes on.
    """
    place = Path(out or f"{Path(os.path.abspath(folder)).name}-finetuned")
    check(os.path.isdir(folder), "folder", folder, "there is no such folder")
    check(place.is_dir() or not place.exists(), "out", place, "is a file; name a folder with --out")
    from .exported import MODEL, read_about
    from .report import write
    from .tuner import FineTuner

    tuner = FineTuner(**parameters, verbose=True)
    if place.is_dir() and any(place.iterdir()):
        same = (place / MODEL).is_file() and read_about(place).get("made") == tuner.command(folder)
        check(same, "out", place, "exists, and is not of this command; name another folder with --out")
    tuner.fit(folder).save(place)
    try:
        report = write(place)
    except UserError as e:  # the page alone is missing
        click.echo(f"transferlab: {e}", err=True)
        report = place
    found = tuner.metrics_
    of = f"{found['n']} test images, mean over classes {100 * found['mean_class_accuracy']:.1f}%"
    click.echo(f"{100 * found['accuracy']:.1f}% of {of}; in {report}")


@click.command()
@click.argument("folder")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...")
@click.option("--skip-unreadable", is_flag=True, help="Leave unreadable images out.")
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def advise(folder: str, as_json: bool, **options) -> None:
    """Say what to do with the images in FOLDER, what to expect, and how good such advice was on measured tasks."""
    check(os.path.isdir(folder), "folder", folder, "there is no such folder")
    from .advice import advice, lines

    found = advice(folder, quiet=as_json, **options)
    for note in found["notes"]:
        click.echo(plain(note), err=True)
    click.echo(json.dumps(found, indent=1) if as_json else "\n".join(map(plain, lines(found))))


@click.command()
@click.argument("model", metavar="DIR")
@click.argument("images", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, with all probabilities.")
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="Classes of each image.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...")
def predict(model: str, images: tuple[str, ...], as_json: bool, top: int, device: str) -> None:
    """Tell the classes of IMAGES with the network in DIR: files, folders, or - for names on standard input.

    What cannot be read is named on standard error.
    """
    choose("device", device.partition(":")[0], ("auto", "cpu", "cuda", "mps"))
    from ..run.devices import pick_device
    from .exported import read_model, table

    network = read_model(Path(model), pick_device(device))
    objects, told = [], 0
    if not as_json:
        click.echo(table([("path", "class", "probability")]), nl=False)
    for place, chances in network.probabilities(_files(images)):
        if isinstance(chances, UserError):
            click.echo(f"transferlab: {' '.join(str(chances).split())}", err=True)
            continue
        told += 1
        order = (-chances).argsort(kind="stable")
        best = [(network.classes[c], float(chances[c])) for c in order[:top]]
        if as_json:
            every = dict(zip(network.classes, (round(float(p), 6) for p in chances), strict=True))
            objects.append({"path": place, "class": best[0][0], "probability": round(best[0][1], 6)})
            objects[-1]["probabilities"] = every
        else:
            click.echo(table([(place, name, f"{p:.6f}") for name, p in best]), nl=False)
    if as_json:
        click.echo(json.dumps(objects, indent=1))
    if not told:
        click.echo("transferlab: no image could be read", err=True)
        click.get_current_context().exit(1)


def _files(images: tuple[str, ...]):
    """Yield the files that are meant; of folders all pictures below them, and what else is there is counted."""
    from ..data.files import walk
    from ..data.opened import counted
    from ..specs.catalog import passed_over

    for image in images:
        if image == "-":
            yield from filter(None, (line.rstrip("\r\n") for line in sys.stdin))
        elif os.path.isdir(image):
            found = walk(image)
            found.passed["other suffixes"] += [file.path for file in found.tables]
            if words := passed_over(counted(found.passed)):
                click.echo(f"transferlab: {image}: {words}", err=True)
            yield from (file.place for file in found.pictures)
        else:
            yield image
