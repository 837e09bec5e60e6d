"""The command ``transferlab``: run chapters, make and serve the book, ask where things stand."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

import click

from .errors import RefusedError, UserError, check, choose, plain
from .own import commands

ACCURACIES = ("accuracy", "validation_accuracy")
COUNT = click.IntRange(1)
JSON = click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")


class Group(click.Group):
    """A group that says what an unknown command may have meant, and what there is if none was named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        check(bool(args) or ctx.parent is None, "command", "none", f"must be one of {', '.join(self.commands)}")
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: click.Context, args: list[str]):
        choose("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="transferlab")
def cli() -> None:
    """Transfer learning, tested: run studies, judge claims, build the book; and train on images of your own."""


@cli.command()
@click.argument("chapter")
@click.option("--scale", default="cpu", show_default=True, help="smoke, cpu, gpu or paper.")
@click.option("--seeds", default=None, help="A block of seeds: 0-3, or 0,2,5. By default all that the scale has.")
@click.option("-p", "--parameter", multiple=True, metavar="NAME=VALUE", help="A parameter of the notebook.")
@click.option("--plan", is_flag=True, help="Count sources, runs and hours; start nothing.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...")
@click.option("--workers", type=COUNT, default=None, help="Trials at once; by default one a core, or one on a GPU.")
@click.option("--threads", type=COUNT, default=1, show_default=True, help="Threads of each worker.")
@click.option("--pack", type=COUNT, default=None, help="Trials trained together; by default what measures fastest.")
@click.option("--cluster", metavar="ADDRESS", help="A Dask scheduler, tcp://host:port, whose workers run the trials.")
@click.option("--wait", type=float, default=300, show_default=True, help="Seconds that it may be without workers.")
@click.option("--publish/--no-publish", default=True, help="Write the records into results/ when done (not at smoke).")
@click.option("--page/--no-page", default=True, help="Execute the notebook when done.")
@click.option("--key", default=None, help="Make this one trial again, whether it is published or not; publish nothing.")
def run(
    chapter, scale, seeds, parameter, plan, device, workers, threads, pack, cluster, wait, publish, page, key
) -> None:
    """Run the trials of CHAPTER that are not on record, publish them, and execute its notebook.

    Stop it with Ctrl-C at any time: the same command goes on.
    """
    from . import build, chapters, records, scales
    from .cores import cpu_workers
    from .lab import Lab
    from .publish import publish as write
    from .run.executors import cluster_slots, connected
    from .store import Published

    subject = chapters.chapter(chapter)
    values = subject.values(parameter)
    scale = scales.scale(values.pop("scale", scale))
    chosen = scales.seed_list(values.pop("seeds", scale.seeds if seeds is None else seeds))
    device, workers, mode = values.pop("device", device), values.pop("workers", workers), values.pop("run", "missing")
    trials = subject.shown(scale.name, chosen)

    def make_public() -> None:
        if publish and scale.name != "smoke":
            click.echo(f"published {write(subject, scale.name, lab)}", err=True)
            if left := [str(s) for s in chosen if s >= scale.seeds]:
                click.echo(f"not published: seeds {','.join(left)}; {scale.name} has {scale.seeds}, from 0", err=True)

    with connected(cluster) as client:
        lab = Lab(None, mode, device, workers, threads, Published(), client=client, pack=pack, wait=wait)
        if key:
            known = records.trials(subject, scale.name, lab)
            trials, before = [known[choose("key", key, known, listed=2)]], lab.published.get(key, {}).get("metrics", {})
            lab.published, lab.known, publish, page = {}, {}, False, False
        count = max(1, cluster_slots(client)) if client else workers or cpu_workers(threads)
        seeds = ",".join(map(str, chosen))
        click.echo(f"{chapter} at scale {scale.name}, seeds {seeds}: {lab.plan(trials).text(count)}", err=not plan)
        if plan:
            return
        try:
            table = lab.run(trials, rules=subject.fingerprints(scale.name))
        except RefusedError:
            make_public()
            raise
    bad = table[table["status"] != "ok"]
    if len(bad):
        asked = trials[bad.index[0]]
        first = f"{(lab.resolve(asked) or asked).label}: {bad['status'].iloc[0]}"
        click.echo(f"{len(bad)} of {len(table)} trials have no result; the first: {first}", err=True)
    if key and not len(bad):
        pairs = [f"{k} {table[k][0]:.5g} (published: {before.get(k)})" for k in ACCURACIES if k in table]
        click.echo(f"{trials[0].label}: {', '.join(pairs)}")
    make_public()
    if page:
        target = build.build_folder() / "runs" / scale.name / f"{chapter}.ipynb"
        given = values | {"scale": scale.name, "seeds": seeds, "run": mode, "device": device}
        seconds = build.execute(subject.path, target, given | ({"workers": workers} if workers else {}))
        click.echo(f"executed {target} ({seconds:.0f} s)", err=True)


@cli.command()
def build() -> None:
    """Execute every page that has changed and build the book."""
    from .build import build as make

    make(lambda line: click.echo(line, err=True))


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--open/--no-open", "show", default=True, help="Open the book in a browser.")
def serve(port: int, show: bool) -> None:
    """Serve the built book on this machine, and build it again whenever a page, a record or the code changes."""
    import functools
    import http.server
    import threading
    import webbrowser

    from .build import build_folder, rebuild

    folder = build_folder() / "html"
    check((folder / "index.html").is_file(), "book", folder, "is not built yet; build it with: transferlab build")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as e:
        raise UserError(f"port (={port}): cannot be used ({e.strerror}); choose another with --port") from e
    address = f"http://127.0.0.1:{server.server_port}"
    click.echo(f"the book is at {address} (Ctrl-C stops)")
    server.handle_error = lambda *_: None  # a browser that went away
    threading.Thread(target=rebuild, daemon=True).start()
    if show:  # beside the server: a browser in the terminal ends when it is left
        threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
    server.serve_forever()


@cli.command()
@click.argument("key")
def record(key: str) -> None:
    """Print the published record KEY as JSON: its trial, what came of it and where, and what makes it again."""
    from .records import record as find

    click.echo(json.dumps(find(key), indent=1))


@cli.command()
@JSON
def status(as_json: bool) -> None:
    """Say which chapters are published, stale or missing, and the command that mends each."""
    from . import chapters

    rows = [asdict(chapters.status(c, s)) for c in chapters.chapters().values() for s in chapters.PUBLISHED_SCALES]
    shown = ("chapter", "scale", "state", "seeds", "published", "missing", "stale", "command")
    _print(rows, as_json, shown, lambda r: tuple(len(r[c]) if c == "seeds" else r[c] for c in shown))


@cli.command()
@click.option("--scale", default=None, help="Only one scale.")
@click.option("--paper", default=None, help="Only one paper: finetuning, growing, treasures, imagenet or factors.")
@JSON
def claims(scale: str | None, paper: str | None, as_json: bool) -> None:
    """Print the scorecard: claim, scale, verdict, effect, interval, bar, p, n; each part of a claim has its line."""
    from . import chapters
    from .report.claims import as_objects, papers, scorecard

    if scale:
        choose("scale", scale, chapters.PUBLISHED_SCALES)
    if paper:
        choose("paper", paper, papers())
    card = scorecard(chapters.verdicts(scale))
    if paper:
        card = card[card["paper"] == paper]

    rows = as_objects(card)
    if as_json:
        _print(rows, True, (), tuple)
        return

    def lines(r: dict) -> list[dict]:
        """A claim of several parts has a line for each below its own."""
        return [r, *({"claim": "", **part} for part in r["parts"])] if len(r["parts"]) > 1 else [r]

    def line(r: dict) -> tuple:
        name = r["claim"] or f"  {r['part']}"
        around = f"[{r['interval'][0]:+.2f}, {r['interval'][1]:+.2f}]" if r["interval"] else ""
        number = "" if r["effect"] is None else f"{r['effect']:+.2f}"
        bar = "" if r["bar"] is None else f"{r['bar']:g}"
        p = "" if r["p"] is None else f"{r['p']:.3g}"
        return (name, r.get("scale") or "", r["verdict"], number, around, bar, p, r["n"] or "")

    head = ("claim", "scale", "verdict", "effect", "interval", "bar", "p", "n")
    _print([part for r in rows for part in lines(r)], False, head, line)


def _print(rows: list[dict], as_json: bool, head: tuple[str, ...], line: Callable[[dict], tuple]) -> None:
    """Print objects as JSON, or as a table with a line for each."""
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    table = [head, *(tuple(map(str, line(r))) for r in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in (head, tuple("-" * w for w in widths), *table[1:]):
        click.echo("  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip())


@cli.group(cls=Group)
def data() -> None:
    """Image sets: what there is, and adding your own."""


@data.command("list")
@JSON
def list_sets(as_json: bool) -> None:
    """List every pinned set."""
    from .specs import catalog

    rows = [{"name": n, **catalog.pinned(n)} for n in catalog.names() if not n.startswith("file:")]

    def line(r: dict) -> tuple:
        images = ", ".join(f"{split} {n:,}" for split, n in r["splits"].items())
        return plain(r["name"]), r["classes"], images, r["fingerprint"], plain("; ".join(catalog.notes(r)))

    _print(rows, as_json, ("name", "classes", "images", "fingerprint", "notes"), line)


@data.command()
@click.argument("name")
@click.option("--skip-unreadable", is_flag=True, help="Leave unreadable images out.")
@click.option("--image", metavar="COLUMN", help="Of Parquet files: the column of images.")
@click.option("--label", metavar="COLUMN", help="Of Parquet files: the column of labels.")
def pin(name: str, skip_unreadable: bool, **columns: str | None) -> None:
    """Check every image of NAME and note its fingerprint, so that trials can name it.

    NAME is folder:PATH, torchvision:SET, or a folder of Parquet files below $TRANSFERLAB_DATA; or file:WEIGHTS.
    """
    from .data.pinning import pin as pin_set
    from .specs import catalog

    entry = pin_set(name, skip_unreadable, {what: column for what, column in columns.items() if column})
    found = [f"fingerprint {entry['fingerprint']}"]
    if "splits" in entry:
        found.insert(0, f"{sum(entry['splits'].values()):,} images in {entry['classes']} classes")
    place = f"noted in {catalog.local_path(name)}"
    click.echo(plain(f"{name}: {', '.join(found)}; {'; '.join([*catalog.notes(entry), place])}"))


for command in (commands.look, commands.advise, commands.finetune, commands.predict):
    cli.add_command(command)
data.add_command(commands.sample)


def main() -> None:
    """Run the command: every error of the user's is one line and exit code 2."""
    try:
        sys.exit(cli(standalone_mode=False) or 0)
    except (UserError, click.UsageError, click.FileError) as e:
        message = e.format_message() if isinstance(e, click.ClickException) else str(e)
        click.echo(f"transferlab: {' '.join(message.split())}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ntransferlab: stopped; nothing measured is lost, and the same command goes on", err=True)
        sys.exit(130)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
