"""Damaged sound files, manifests and shards: only errors of ours, bounded memory, no hang.

python tests/fuzz_input.py [INPUTS] [SEED]     makes its own sound files with ffmpeg and changes them
"""

from __future__ import annotations

import faulthandler
import io
import json
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

from codec import audio
from codec.data import sources
from codec.errors import CodecError

SECONDS_EACH = 60  # after which an input counts as a hang
MEGABYTES = 400  # that the process may grow by
FRAMES = 1 << 22  # read of a file at most

# what ffmpeg makes of a tone: suffix -> its options
SOUNDS = {
    "wav": "",
    "f32.wav": "-c:a pcm_f32le",
    "u8.wav": "-c:a pcm_u8",
    "ima.wav": "-c:a adpcm_ima_wav",
    "gsm.wav": "-ar 8000 -c:a libgsm_ms",
    "mp3.wav": "-c:a libmp3lame",
    "rf64.wav": "-rf64 always",
    "w64": "",
    "aiff": "",
    "au": "",
    "caf": "",
    "flac": "",
    "ogg": "-c:a libvorbis",
    "opus": "-ar 48000",
    "flac.oga": "-c:a flac -f ogg",
    "spx": "-ar 16000 -c:a libspeex -f ogg",
    "mp3": "",
    "noxing.mp3": "-q:a 4 -write_xing 0 -id3v2_version 0",
    "mp2": "",
    "aac": "",
    "m4a": "",
    "alac.m4a": "-c:a alac",
    "webm": "-ar 48000",
    "mka": "-c:a libvorbis",
    "wma": "",
    "wv": "",
    "tta": "",
    "ac3": "-ar 48000",
    "voc": "",
}


def sounds(folder: Path, seconds: float = 0.25) -> dict[str, bytes]:
    """The bytes of one small file of each kind."""
    found = {}
    for suffix, options in SOUNDS.items():
        path = folder / f"tone.{suffix}"
        tone = f"sine=frequency=300:sample_rate=44100:duration={seconds}"
        command = [
            "ffmpeg",
            "-v",
            "error",
            "-nostdin",
            "-y",
            "-f",
            "lavfi",
            "-i",
            tone,
            *options.split(),
            str(path),
        ]
        subprocess.run(command, check=True, timeout=60)
        found[suffix] = path.read_bytes()
    return found


def damaged(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A changed copy; half of the changes are among the first 200 bytes, where the headers are."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8, 30))):
        if not out:
            break
        at = chance.randrange(min(len(out), 200) if chance.random() < 0.5 else len(out))
        match chance.randrange(9):
            case 0 | 1:
                out[at] = chance.randrange(256)
            case 2:
                out[at] ^= 1 << chance.randrange(8)
            case 3:
                width = chance.choice((2, 4, 8))
                number = chance.choice((0, 1, -1, 1 << (8 * width - 1), (1 << (8 * width - 1)) - 1, len(out)))
                out[at : at + width] = (number % (1 << 8 * width)).to_bytes(
                    width, chance.choice(("little", "big"))
                )
            case 4:
                del out[at:]
            case 5:
                del out[at : at + chance.randrange(1, 100)]
            case 6:
                out[at:at] = chance.randbytes(chance.randrange(1, 100))
            case 7:
                out[at:at] = out[: chance.randrange(len(out))]
            case 8:
                other = chance.choice(others)
                first = chance.randrange(len(other))
                out[at : at + chance.randrange(4000)] = other[first : first + chance.randrange(1, 4000)]
    return bytes(out)


def read_sound(data: bytes, chance: random.Random) -> str:
    """In every way; what became of it in a word."""
    try:
        with audio.Reader(io.BytesIO(data)) as reader:
            done = 0
            for block in reader.blocks():
                done += block.shape[1]
                if done > FRAMES:
                    return "long"
            place = chance.randrange(done + 1)
            reader.seek(place)
            reader.read(1000)
        with audio.Reader(io.BytesIO(data)) as reader:
            assert reader.count() == done
        return "read"
    except CodecError:
        return "refused"


ROW = {
    "path": "tone.wav",
    "frames": 11025,
    "seconds": 0.25,
    "sample_rate": 44100,
    "channels": 1,
    "speaker": "a",
}
NUMBERS = ("1", "-1", "0", "1e999", "NaN", "-Infinity", "1.5", "9" * 400)
VALUES = (*NUMBERS, "true", "null", '"4"', "[]", "{}", '"\\ud800"', '"\\u0000"')


def manifest(chance: random.Random, others: list[bytes]) -> bytes:
    """Some rows, of which some are damaged."""
    lines = []
    for _ in range(chance.randrange(1, 4)):
        line = json.dumps(ROW).encode()
        if chance.random() < 0.5:
            key = chance.choice(list(ROW))
            line = line.replace(json.dumps(ROW[key]).encode(), chance.choice(VALUES).encode())
        if chance.random() < 0.3:
            line = damaged(line, others, chance)
        if chance.random() < 0.02:
            line = b"[" * 100000
        lines.append(line)
    return b"\n".join(lines)


def shard(chance: random.Random, sound: bytes, others: list[bytes]) -> bytes:
    """A tar of a sound and its JSON, damaged."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=chance.choice((0, 1, 2))) as tar:
        for name, data in (("a.wav", sound), ("a.json", chance.choice(VALUES).encode()), ("b.wav", sound)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return damaged(file.getvalue(), others, chance)


def find(path: Path, content: bytes) -> str:
    """Of a manifest or a shard; crops are read of what is found."""
    path.write_bytes(content)
    try:
        found = sources.find(path)
        for recording in found.train[:3]:
            if recording.length(16000) >= 100:
                recording.crop(0, 100, 16000, 1)
        return "read"
    except CodecError:
        return "refused"


def fuzz(inputs: int, seed: int, folder: Path) -> Counter[str]:
    """Tries so many inputs, three in four of them sound files; returns what became of them."""
    kinds = sounds(folder)
    pool = list(kinds.values())
    outcomes: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(inputs):
        chance = random.Random(f"{seed}-{number}")
        faulthandler.dump_traceback_later(SECONDS_EACH, exit=True)
        start = time.monotonic()
        what = chance.choice([*kinds] * 3 + ["manifest", "shard"] * (len(kinds) // 2))
        try:
            if what == "manifest":
                outcome = find(folder / "list.jsonl", manifest(chance, pool))
            elif what == "shard":
                outcome = find(folder / "shard.tar", shard(chance, kinds["wav"], pool))
            else:
                outcome = read_sound(damaged(kinds[what], pool, chance), chance)
        except BaseException:
            print(f"input {number} of seed {seed} ({what})", file=sys.stderr)
            raise
        outcomes[f"{'sound' if what in kinds else what} {outcome}"] += 1
        outcomes["slowest, ms"] = max(outcomes["slowest, ms"], round(1000 * (time.monotonic() - start)))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        assert grown < MEGABYTES, f"input {number} of seed {seed} ({what}): grew by {grown} MB"
        outcomes["grown, MB"] = grown
    faulthandler.cancel_dump_traceback_later()
    return outcomes


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as place:
        for name, value in sorted(fuzz(*(arguments + [1000, 0][len(arguments) :]), Path(place)).items()):
            print(f"{name:20} {value}")
