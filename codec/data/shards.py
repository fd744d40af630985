"""Tar shards in the webdataset layout, read in place: the shard is indexed once, a crop then costs one seek.

Sequential reading, which the webdataset library does, would tie the order of training to the shards; local shards need
no more than the offsets that `tarfile` knows, and keep crops random and reproducible.
"""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

from codec import audio
from codec.data.recordings import Recording, facts_of
from codec.errors import ConfigError


def members(shard: Path) -> tuple[list[Recording], dict[str, str]]:
    """Sound files in an uncompressed tar; a .json member of the same key may carry `speaker` and `split`.

    Returns:
        the recordings, and the .json members that cannot be used with the reason.

    Raises:
        ConfigError: not a tar, a cut one, or a compressed one.
    """
    sounds: list[tuple[str, int, int]] = []
    facts: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, suffix = os.path.splitext(member.name)
                if not member.isfile():
                    continue
                if suffix.lower() in audio.SUFFIXES:
                    sounds.append((member.name, member.offset_data, member.size))
                elif suffix == ".json" and (data := tar.extractfile(member)) is not None:
                    try:
                        facts[key] = facts_of(json.load(data))
                    except (ValueError, RecursionError) as error:
                        skipped[audio.name_of(f"{shard}!{member.name}")] = f"not used ({error})"
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        raise ConfigError(f"{shard}: not an uncompressed tar shard, or a cut one ({error})") from None
    found = []
    for name, offset, size in sounds:
        fact = facts.get(os.path.splitext(name)[0], {})
        found.append(
            Recording(str(shard), 0, 0, 1, fact.get("speaker"), fact.get("split"), (name, offset, size))
        )
    return found, skipped
