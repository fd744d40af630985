"""Where recordings come from: folders, .jsonl manifests, tar shards, named corpora, and the few in the repository."""

import codecs
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codec import assets, audio
from codec.data.recordings import Recording, facts_of, probe
from codec.errors import AudioError, ConfigError
from codec.system import atomic_write

Filters = Mapping[str, Any]
Recordings = list[Recording]
_FROM_SOUND = ("sample_rate", "channels", "frames", "seconds")  # what filters can ask without a manifest


@dataclass(slots=True)
class Found:
    """The recordings of a source, by split, the unusable files with the reason, and the filters that it ignores."""

    train: list[Recording] = field(default_factory=list)
    valid: list[Recording] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)


def find(root: str | os.PathLike[str], filters: Filters | None = None) -> Found:
    """Finds the recordings under a path; what has no split of its own is all in `train`.

    Args:
        root: a folder tree of sound files; a folder with `train.jsonl` (and `valid.jsonl`); a .jsonl manifest; a .tar
            shard or a folder of shards.
        filters: key -> value or list of values that a manifest's row must have, e.g. ``{"kind": "speech"}``; without a
            manifest, those of sample_rate, channels, frames and seconds count, and the others are `unchecked`.

    Raises:
        ConfigError: the path does not exist, holds no sound, or the manifest is wrong or names missing files.
    """
    path = Path(root)
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder (data.root)")
    if path.is_file() and path.suffix == ".jsonl":
        beside = path.with_name("valid.jsonl")
        paths = [path, beside] if path.name == "train.jsonl" and beside.exists() else [path]
        return _manifests(paths, filters)
    if path.is_dir() and (path / "train.jsonl").is_file():
        return find(path / "train.jsonl", filters)
    found = Found()
    if path.is_dir():
        recordings, found.skipped = _walk(path)
    elif path.suffix.lower() == ".tar":
        recordings, found.skipped = _members(path)
    else:
        recordings = [Recording(str(path), 0, 0)]
    found.train, unreadable = probe_all(recordings)
    found.skipped |= unreadable
    if not found.train:
        raise ConfigError(
            f"{path}: holds no sound file that can be read ({', '.join(audio.SUFFIXES)}, or .tar shards)"
        )
    return filtered(found, filters, str(path))


def filtered(found: Found, filters: Filters | None, name: str) -> Found:
    """Without the recordings that do not pass, by what their sound tells; the other filters become `unchecked`.

    Args:
        found: of a source without a manifest.
        filters: as in `find`.
        name: of the source, for the error.

    Raises:
        ConfigError: none passes.
    """
    known = {key: value for key, value in (filters or {}).items() if key in _FROM_SOUND}
    found.unchecked = [key for key in filters or {} if key not in known]
    splits = (found.train, found.valid)
    found.train, found.valid = (
        [r for r in split if _passes({key: getattr(r, key) for key in known}, known)] for split in splits
    )
    if not found.train:
        raise ConfigError(
            f"{name}: none of its {len(splits[0])} recordings passes data.filters={known}; data.filters=null takes all"
        )
    return found


def _walk(folder: Path) -> tuple[list[Recording], dict[str, str]]:
    """Sound files and the members of shards, in a stable order; the top folder is no speaker, so none is claimed."""
    walk = audio.walk(folder, (*audio.SUFFIXES, ".tar"))
    found: list[Recording] = []
    skipped = {audio.name_of(path): why for path, why in walk.left_out.items()}
    for path in walk.files:
        if not path.lower().endswith(".tar"):
            found.append(Recording(path, 0, 0))
            continue
        try:
            inside, bad = _members(Path(path))
        except ConfigError as error:
            skipped[audio.name_of(path)] = str(error).removeprefix(f"{path}: ")
        else:
            found += inside
            skipped |= bad
    return found, skipped


def _members(shard: Path) -> tuple[list[Recording], dict[str, str]]:
    from codec.data.shards import members  # only shards need tarfile

    return members(shard)


def probe_all(recordings: Iterable[Recording]) -> tuple[list[Recording], dict[str, str]]:
    """Reads the headers of those that lack them, eight at a time; broken ones come back with the reason."""

    def header(recording: Recording) -> Recording | tuple[str, str]:
        try:
            return recording if recording.frames else probe(recording)
        except AudioError as error:
            return recording.name, str(error).removeprefix(f"{recording.name}: ")

    good, bad = [], {}
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(header, recordings):
            if isinstance(result, Recording):
                good.append(result)
            else:
                bad[result[0]] = result[1]
    return good, bad


def _manifests(paths: Sequence[Path], filters: Filters | None) -> Found:
    found = Found()
    for path in paths:
        recordings, skipped = manifest(path, filters)
        default = "valid" if path.name == "valid.jsonl" else "train"
        for recording in recordings:
            split = recording.split or default
            if split in ("train", "valid"):
                (found.train if split == "train" else found.valid).append(recording)
        found.skipped |= skipped
    if not found.train and not found.valid:
        raise ConfigError(
            f"{paths[0]}: no recording" + (f" passes the filters {dict(filters)}" if filters else "")
        )
    return found


def manifest(
    path: str | os.PathLike[str], filters: Filters | None = None
) -> tuple[list[Recording], dict[str, str]]:
    """Reads a manifest: a JSON object a line with `path`, relative to the manifest, and whatever else is known.

    `seconds` or `frames`, with `sample_rate` and `channels`, save opening every file; `speaker`, `split`, `text` and
    `weight` are used where there are any; `filters` may ask for these and other keys.

    Returns:
        the recordings that pass the filters, and the unreadable ones with the reason.

    Raises:
        ConfigError: not JSON, a row without a path or with a value that cannot be, a filter on a key that no row has,
            missing files.
    """
    path = Path(path)
    rows = list(_rows(path))
    for key in filters or {}:
        if not any(key in row for row, _ in rows):
            raise ConfigError(f"{path}: no row has the key {key!r} of data.filters")
    recordings = [_recording(facts, path.parent) for row, facts in rows if _passes(row, filters or {})]
    missing = [recording.path for recording in recordings if not os.path.exists(recording.path)]
    if missing:
        raise ConfigError(
            f"{path}: {len(missing)} of {len(recordings)} files are missing, the first is {missing[0]}"
        )
    return probe_all(recordings)


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row of a manifest as it is, and what was understood of it."""
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                text = line.removeprefix(codecs.BOM_UTF8).strip()
                if not text:
                    continue
                try:
                    row = json.loads(text.decode())
                except (ValueError, RecursionError):
                    raise ConfigError(f"{path}: line {number} is not JSON") from None
                if not isinstance(row, dict) or not row.get("path"):
                    raise ConfigError(f"{path}: line {number} has no path")
                try:
                    facts = facts_of(row)
                except ValueError as error:
                    raise ConfigError(f"{path}: line {number}: {error}") from None
                yield row, facts
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def _passes(row: Mapping[str, Any], filters: Filters) -> bool:
    for key, wanted in filters.items():
        values = wanted if isinstance(wanted, Iterable) and not isinstance(wanted, str) else [wanted]
        if row.get(key) not in values:
            return False
    return True


def _recording(facts: Mapping[str, Any], folder: Path) -> Recording:
    rate, frames = facts.get("sample_rate", 0), facts.get("frames", 0)
    if not frames and rate and "seconds" in facts:
        frames = max(0, int((facts["seconds"] - 0.001) * rate))  # seconds are rounded: stay inside the file
    return Recording(
        os.path.join(folder, facts["path"]),
        frames if rate else 0,
        rate,
        facts.get("channels", 1),
        facts.get("speaker"),
        facts.get("split"),
        text=facts.get("text"),
        weight=float(facts.get("weight", 1.0)),
    )


def write_manifest(path: str | os.PathLike[str], recordings: Iterable[Recording]) -> None:
    """Writes recordings as a manifest that `find` reads without opening a sound file.

    Raises:
        ConfigError: a recording lies in a shard.
    """
    folder = os.path.dirname(os.path.abspath(path))
    lines = []
    for r in recordings:
        if r.member:
            raise ConfigError(f"{r.name}: a manifest cannot point into a shard")
        row: dict[str, Any] = {
            "path": os.path.relpath(r.path, folder),
            "frames": r.frames,
            "seconds": round(r.seconds, 4),
        }
        row |= {"sample_rate": r.sample_rate, "channels": r.channels, "speaker": r.speaker, "split": r.split}
        row["text"] = r.text
        lines.append(
            json.dumps({key: value for key, value in row.items() if value is not None}, ensure_ascii=False)
            + "\n"
        )
    with atomic_write(path) as file:
        file.write("".join(lines).encode(errors="backslashreplace"))  # JSON's own escape of what is no UTF-8


def builtin() -> Path:
    """Folder of the recordings that a checkout carries.

    Raises:
        ConfigError: an installed package does not carry them.
    """
    folder = assets.root() / "tests" / "data"
    if not (folder / "train.jsonl").is_file():
        raise ConfigError(
            "give data.root=/folder/with/audio: only a checkout of the repository carries recordings to train on"
        )
    return folder


def hold_out(
    recordings: Sequence[Recording], share: float = 0.02, most: float = 300.0
) -> tuple[Recordings, Recordings]:
    """Splits off validation recordings, always the same ones: whole speakers, or files if there are not two speakers.

    Args:
        recordings: all of them.
        share: of the duration that goes to validation, rounded up to a speaker or file.
        most: seconds that go there at most, rounded up likewise.

    Returns:
        train and valid; a single file is in both.
    """
    speakers = {r.speaker for r in recordings}
    places = _places(recordings)
    keys = [
        place if len(speakers) < 2 else r.speaker or place
        for r, place in zip(recordings, places, strict=True)
    ]
    seconds: dict[str, float] = {}
    for key, recording in zip(keys, recordings, strict=True):
        seconds[key] = seconds.get(key, 0.0) + recording.seconds
    order = sorted(seconds, key=lambda key: hashlib.sha256(key.encode()).digest())
    if len(order) < 2:
        return list(recordings), list(recordings)
    left = min(most, share * sum(seconds.values()))
    held: set[str] = set()
    for key in order[:-1]:
        if left > 0:
            held.add(key)
            left -= seconds[key]
    pairs = list(zip(keys, recordings, strict=True))
    return [r for key, r in pairs if key not in held], [r for key, r in pairs if key in held]


def _places(recordings: Sequence[Recording]) -> list[str]:
    """Where recordings are within their corpus, wherever that lies."""
    base = (
        os.path.commonpath([os.path.dirname(os.path.abspath(r.path)) for r in recordings])
        if recordings
        else ""
    )
    return [os.path.relpath(r.path, base) + (f"!{r.member[0]}" if r.member else "") for r in recordings]


def fingerprint(recordings: Sequence[Recording]) -> str:
    """Hash of places within the corpus, lengths and rates, for receipts."""
    places = _places(recordings)
    rows = sorted((place, r.frames, r.sample_rate) for place, r in zip(places, recordings, strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
