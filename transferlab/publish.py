"""Write what a lab knows of a chapter into ``results/``. Nothing here imports torch."""

from pathlib import Path

from .chapters import Chapter
from .lab import Lab
from .store import FAILED, Published


def publish(subject: Chapter, scale: str, lab: Lab) -> Path:
    """Write the records of a chapter's design into ``results/``, beside what the file has by now, and return the file.

    Records that the present design does not want are left out, and so is what failed on this machine only.
    """
    lab.published = {**lab.published, **Published().read()}
    records = [lab.record(trial) for trial in lab.closure(subject.shown(scale))]
    told = [record for record in records if record and not record["status"].startswith(FAILED)]
    return Published().write(scale, subject.name, told)
