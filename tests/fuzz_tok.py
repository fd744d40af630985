"""Fuzzes the .tok reader: only TokError may come out, quickly, and without much memory.

    python tests/fuzz_tok.py --runs 1000000

Guided by coverage where atheris is installed (pip install atheris), else by chance. Half of the mutated files get right
checksums again, or no mutation would ever come past them. A finding ends the run with the bytes of the file. A file
gets no more than 64 MiB of memory, touched or not.
"""

import argparse
import io
import random
import resource
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from codec.bitstream import Gap, Header, Prior, TokError, TokReader, TokWriter
from codec.bitstream.entropy import EntropyCoder
from codec.bitstream.records import ENTROPY, get_varint, put_record

SLOW = 5.0  # seconds of processor time for one file
GROWTH = 64 << 20  # bytes that the process may grow
PRIOR = Prior((300, 7), *np.full((3, 307, 2), 3, np.int8), np.zeros(307, np.int16))


def seeds() -> list[bytes]:
    """Small files of every kind: raw, live with an index, split, with gaps, entropy coded with a prior and without."""
    rng = np.random.default_rng(0)
    plain = Header(b"12345678", 16000, 1, 320, (300, 7), num_samples=1280)
    split = Header(b"12345678", 44100, 2, 320, (300, 300, 7, 7), None, 16000, "split")
    files = []
    for header, per_chunk, frames in ((plain, 2, 4), (split, 1, 17)):
        file = io.BytesIO()
        with TokWriter(file, header, frames_per_chunk=per_chunk) as writer:
            writer.write(rng.integers(0, 7, (len(header.codebook_sizes), frames)))
            writer.write_gap(3)
        files.append(file.getvalue())
    for header, prior in ((plain, None), (split, PRIOR)):
        file = io.BytesIO()
        with TokWriter(file, header) as writer:
            coder = EntropyCoder(header.codebook_sizes, header.streams, prior)
            for first in (0, 4):
                payload = coder.encode(rng.integers(0, 7, (len(header.codebook_sizes), 4)))
                writer.put_chunk(put_record(ENTROPY, bytes((first, 4)) + payload), 4)
        files.append(file.getvalue())
    return files


def read_every_way(data: bytes) -> None:
    """Anything but a TokError, and any code outside its codebook, is a finding."""
    began = time.process_time()
    for errors in ("strict", "skip"):
        try:
            reader = TokReader(io.BytesIO(data), errors=errors, prior=PRIOR)
        except TokError:
            continue
        reader.find_end()
        for pieces in (reader.seek_frames(5, 7), iter(reader)):
            try:
                at = None
                for piece in pieces:
                    if isinstance(piece, Gap):
                        assert piece.frames > 0, "an empty gap"
                        assert at in (None, piece.start), "a gap in the wrong place"
                        at = piece.start + piece.frames
                    else:
                        assert (piece >= 0).all(), "a negative code"
                        assert (piece.max(axis=1) < reader.header.codebook_sizes).all(), (
                            "a code outside its codebook"
                        )
                        at = None if at is None else at + piece.shape[1]
            except TokError:
                pass
        samples = reader.num_samples
        assert samples is None or samples >= 0, "a negative number of samples"
    spent = time.process_time() - began
    assert spent < SLOW, f"{spent:.1f} s for {len(data)} bytes"


def in_little_memory(data: bytes) -> None:
    """Read a file where every allocation fails that makes the process grow by more than `GROWTH`, touched or not."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GROWTH, hard))
    try:
        read_every_way(data)
    finally:
        # the fuzzer's own corpus grows
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def reseal(data: bytes) -> bytes:
    """Gives the header and every record that can be followed their right checksums."""
    out = bytearray(data)
    try:
        size, at = get_varint(out, 5)
        at += size
        out[at : at + 4] = zlib.crc32(out[:at]).to_bytes(4, "little")
        at += 4
        while at < len(out):
            size, head = get_varint(out, at + 2)
            out[head] = zlib.crc32(out[at:head]) & 0xFF
            end = head + 1 + size
            if end + 4 > len(out):
                break
            out[end : end + 4] = zlib.crc32(out[at:end]).to_bytes(4, "little")
            at = end + 4
    except IndexError:
        pass
    return bytes(out)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few random changes."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0xF5, *range(0xA0, 0xA6)))
        elif kind == 2:
            del out[at : at + rng.randint(1, 20)]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randint(1, 9))
        else:
            out[at:at] = out[rng.randrange(len(out) + 1) :][: rng.randint(1, 40)]
    return bytes(out)


def by_chance(runs: int, seed: int) -> None:
    """Mutations of the seeds, one after the other."""
    rng = random.Random(seed)
    files = seeds()
    for _ in range(runs):
        data = mutate(rng.choice(files), rng)
        data = reseal(data) if rng.random() < 0.5 else data
        try:
            in_little_memory(data)
        except Exception:
            print(f"finding: {data.hex()}", file=sys.stderr)
            raise


def by_coverage(runs: int, seed: int) -> None:
    """The same mutations mixed with those of libFuzzer, kept where they reach new code."""
    import atheris

    for name, module in list(sys.modules.items()):
        if name.startswith("codec.bitstream."):
            for value in vars(module).values():
                if getattr(value, "__module__", None) == name and callable(value):
                    _instrument(atheris, value)

    def mutator(data: bytes, most: int, step: int) -> bytes:
        rng = random.Random(step)
        changed = mutate(data, rng) if rng.random() < 0.5 else atheris.Mutate(data, most)
        return (reseal(changed) if rng.random() < 0.5 else changed)[:most]

    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(seeds()):
            (Path(folder) / str(number)).write_bytes(data)
        limits = [f"-runs={runs}", f"-seed={seed}", "-max_len=1000", "-timeout=20", "-rss_limit_mb=1000"]
        atheris.Setup([sys.argv[0], *limits, folder], in_little_memory, custom_mutator=mutator)
        atheris.Fuzz()


def _instrument(atheris: object, value: object) -> None:
    """Coverage for a function, or for the methods of a class."""
    if isinstance(value, type):
        for method in vars(value).values():
            if callable(method) and hasattr(method, "__code__"):
                atheris.instrument_func(method)
    elif hasattr(value, "__code__"):
        atheris.instrument_func(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--by-chance", action="store_true", help="without atheris, even where it is installed"
    )
    options = parser.parse_args()
    for data in seeds():
        read_every_way(data)
    guided = not options.by_chance
    if guided:
        try:
            import atheris  # noqa: F401
        except ImportError:
            guided = False
    began = time.monotonic()
    (by_coverage if guided else by_chance)(options.runs, options.seed)
    print(f"{options.runs} files in {time.monotonic() - began:.0f} s, no finding")


if __name__ == "__main__":
    main()
