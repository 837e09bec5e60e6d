"""Write `old_keys.xz`: for every published record the canonical JSON of its trial, for every published source that of
what it is.

Records hold no spec, only a key; so that keys can change, this was run once, with the code that made them.
"""

import lzma
from pathlib import Path

from transferlab.chapters import PUBLISHED_SCALES, chapters
from transferlab.lab import Lab
from transferlab.specs import Source, source_key
from transferlab.store import Published, Store


def lines() -> dict[str, str]:
    """Return canonical JSON by key."""
    found: dict[str, str] = {}
    networks = {path.stem for path in Store().shared.glob("*.safetensors")}
    for chapter in chapters().values():
        for scale in PUBLISHED_SCALES:
            if records := Published().read(scale, chapter.name):
                for t in Lab(run="never", published=records).closure(chapter.design(scale)):
                    if t.key in records:
                        found[t.key] = t.canonical
                    if isinstance(t.source, Source) and source_key(t) in networks:
                        about = f'"backbone":{t.backbone.canonical},"seed":{t.seed},"source":{t.source.canonical}'
                        found[source_key(t)] = f"{{{about}}}"
    return found


if __name__ == "__main__":
    text = "".join(f"{key} {spec}\n" for key, spec in sorted(lines().items()))
    Path(__file__).with_name("old_keys.xz").write_bytes(lzma.compress(text.encode()))
