"""Random streams: one independent seed for every (seed of a trial, purpose)."""

import hashlib


def stream(seed: int, purpose: str) -> int:
    """Return a 63-bit seed that depends on both arguments and on nothing else."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{purpose}".encode()).digest()[:8], "big") >> 1
