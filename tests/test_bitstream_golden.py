"""The golden files: read and written again byte for byte, and read by strangers.

The stranger is the reader that the Kaitai compiler generates from docs/tok.ksy, with the payloads decoded here in plain
Python after docs/tok-format.md: no line of codec.bitstream takes part in it.
"""

import hashlib
import importlib.util
import io
import itertools
import json
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from codec.bitstream import Gap, Header, Prior, TokReader, TokWriter

VECTORS = Path(__file__).parent / "vectors"
GENERATED = Path(__file__).parent / "generated" / "tok.py"
KSY = Path(__file__).parents[1] / "docs" / "tok.ksy"
DESCRIPTION = "6762b1acc34c32973f8d2e199e11691473665b6fe237c3d8608ef96738eb8be1"  # that GENERATED was made of
NAMES = sorted(path.stem for path in VECTORS.glob("*.tok"))


def load(name):
    """What is in the file (a dictionary), and the file's bytes."""
    return json.loads((VECTORS / f"{name}.json").read_text()), (VECTORS / f"{name}.tok").read_bytes()


def header_of(told):
    fields = told["header"] | {"codebook_sizes": tuple(told["header"]["codebook_sizes"])}
    return Header(**fields | {"fingerprint": bytes.fromhex(fields["fingerprint"])})


def prior_of(told):
    return Prior.from_bytes((VECTORS / told["prior"]).read_bytes()) if "prior" in told else None


def frames_of(pieces):
    """[frames as lists of codes, or None where lost]."""
    frames = []
    for piece in pieces:
        frames += (
            [None] * piece["lost"] if "lost" in piece else list(map(list, zip(*piece["codes"], strict=True)))
        )
    return frames


def test_there_are_golden_files():
    assert len(NAMES) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_golden_file_reads_as_told(name):
    told, data = load(name)
    reader = TokReader(io.BytesIO(data), prior=prior_of(told))
    frames = []
    for piece in reader:
        frames += [None] * piece.frames if isinstance(piece, Gap) else piece.T.tolist()
    assert reader.header == header_of(told)
    assert frames == frames_of(told["pieces"])
    assert reader.num_samples == told.get("num_samples", reader.header.num_samples)


@pytest.mark.parametrize("name", NAMES)
def test_golden_file_is_written_byte_for_byte(name):
    told, data = load(name)
    file = io.BytesIO()
    with TokWriter(file, header_of(told), prior=prior_of(told), **told["options"]) as writer:
        for piece in told["pieces"]:
            if "lost" in piece:
                writer.write_gap(piece["lost"])
            else:
                writer.write(np.array(piece["codes"]))
        writer.num_samples = told.get("num_samples", writer.num_samples)
    assert file.getvalue() == data


class PlainPrior:
    """Entropy tables, read after the specification."""

    def __init__(self, data):
        self.id = zlib.crc32(data)
        numbers, at = [], 5
        while len(numbers) < 2 or len(numbers) < numbers[0] + 2:
            value = shift = 0
            while True:
                byte, at = data[at], at + 1
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            numbers.append(value)
        sizes, dim = numbers[1:-1], numbers[-1]
        total = sum(sizes)

        def signed(first, width):
            return int.from_bytes(data[first : first + width], "little", signed=True)

        rows = [[signed(at + r * dim + d, 1) for d in range(dim)] for r in range(3 * total)]
        self.before, self.after, self.out = rows[:total], rows[total : 2 * total], rows[2 * total :]
        self.bias = [signed(at + 3 * total * dim + 2 * i, 2) for i in range(total)]
        self.first = [sum(sizes[:k]) for k in range(len(sizes))]
        self.sizes, self.dim = sizes, dim

    def weights(self, book, state):
        scores = []
        for row in range(self.first[book], self.first[book] + self.sizes[book]):
            product = sum(a * b for a, b in zip(self.out[row], state, strict=True))
            scores.append(product // 4 + self.bias[row])
        below = [score - max(scores) for score in scores]
        return [1 + (round(2 ** (16 + d % 256 / 256)) >> min(31, -(d // 256))) for d in below]


def plain_raw(payload, sizes, frames):
    bits = "".join(f"{byte:08b}" for byte in payload)
    widths = [(size - 1).bit_length() for size in sizes]
    at, out = 0, []
    for _ in range(frames):
        out.append([int(bits[(at := at + width) - width : at], 2) for width in widths])
    assert len(payload) == -(-at // 8)
    return out


def plain_entropy(payload, sizes, frames, streams, prior):
    told = int.from_bytes(payload[:4], "little")
    assert told == (prior.id if prior else 0)
    data = list(payload[4:]) + [0] * 8
    point, width, at = int.from_bytes(bytes(data[:8]), "big"), 2**64 - 1, 8
    seen = [[0] * size for size in sizes]
    out = []
    for t in range(frames):
        states = [[0] * prior.dim for _ in range(streams)] if prior else []
        for row, code in enumerate(out[-1] if prior and t else []):
            book, state = row // streams, states[row % streams]
            for d, value in enumerate(prior.before[prior.first[book] + code]):
                state[d] += value
        frame = []
        for row, size in enumerate(sizes):
            book = row // streams
            if prior:
                weights = prior.weights(book, states[row % streams])
                unit = sum(weights) // 4096
            else:
                weights, unit = [1024] * size, 1024
            weights = [w + unit * n for w, n in zip(weights, seen[row], strict=True)]
            sums = [0, *itertools.accumulate(weights)]
            ends = [sums[x] * (2**24 - size) // sums[-1] + x for x in range(size + 1)]
            width //= 2**24
            code = max(x for x in range(size) if ends[x] <= point // width)
            point -= ends[code] * width
            width *= ends[code + 1] - ends[code]
            if width < 2**32:
                more = bytes((data[at : at + 4] + [0] * 4)[:4])
                point, width, at = point * 2**32 + int.from_bytes(more, "big"), width * 2**32, at + 4
            seen[row][code] += 1
            frame.append(code)
            if prior:
                state = states[row % streams]
                for d, value in enumerate(prior.after[prior.first[book] + code]):
                    state[d] += value
        out.append(frame)
    return out


@pytest.fixture(scope="module")
def kaitai():
    pytest.importorskip(
        "kaitaistruct", reason="the Kaitai runtime (pip install kaitaistruct) is not installed"
    )
    spec = importlib.util.spec_from_file_location("generated_tok", GENERATED)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Tok


@pytest.mark.parametrize("name", NAMES)
def test_golden_file_is_read_by_the_generated_reader(name, kaitai):
    told, data = load(name)
    prior = PlainPrior((VECTORS / told["prior"]).read_bytes()) if "prior" in told else None
    tok = kaitai.from_bytes(data)
    header, expected = tok.header, told["header"]
    sizes = [run.size.value for run in header.runs for _ in range(run.count.value)]
    assert header.fingerprint.hex() == expected["fingerprint"]
    assert sizes == expected["codebook_sizes"]
    assert header.sample_rate.value == expected["sample_rate"]
    assert header.channels.value == expected["channels"]
    assert header.hop.value == expected["hop"]
    assert header.resampler == expected.get("resampler", 0)
    assert header.channel_policy.name == expected.get("channel_policy", "mix")
    assert header.model_sample_rate == expected.get("model_sample_rate", expected["sample_rate"])
    assert header.num_samples_plus_one.value == expected.get("num_samples", -1) + 1
    at = 5 + tok.len_header.len + tok.len_header.value
    assert tok.header_crc == zlib.crc32(data[:at])
    at += 4
    streams = header.channels.value if header.channel_policy.name == "split" else 1

    frames, starts, kinds = [], {}, []
    for record in tok.records:
        head = 2 + record.len_body.len
        body = head + 1 + record.len_body.value
        assert record.check == zlib.crc32(data[at : at + head]) & 0xFF
        assert record.crc == zlib.crc32(data[at : at + body])
        kind = record.kind.name
        kinds.append(kind)
        if kind in ("raw", "entropy", "lost"):
            count = record.body.num_frames.value
            assert record.body.first_frame.value == len(frames)
            starts[len(frames)] = at
            if kind == "lost":
                frames += [None] * count
            elif kind == "raw":
                frames += plain_raw(record.body.payload, sizes, count)
            else:
                frames += plain_entropy(record.body.payload, sizes, count, streams, prior)
        elif kind == "index":
            index_at, frame, offset = at, 0, 0
            for entry in record.body.entries:
                frame, offset = frame + entry.frame_step.value, offset + entry.offset_step.value
                assert starts[frame] == offset
        elif kind == "end":
            assert record.body.num_frames.value == len(frames)
            samples = told.get("num_samples", expected.get("num_samples", -1))
            assert record.body.num_samples_plus_one.value == samples + 1
            assert record.body.index_distance.value == (at - index_at if "index" in kinds else 0)
        at += body + 4
    assert at == len(data)
    assert frames == frames_of(told["pieces"])
    if name.startswith("entropy"):
        assert "entropy" in kinds
    if name == "split_live":
        assert kinds[-3:] == ["header_copy", "index", "end"]


def test_generated_reader_is_that_of_the_description(tmp_path):
    # the compiler is in neither PyPI nor Debian: where it is missing, a changed description still shows
    digest = hashlib.sha256(KSY.read_bytes()).hexdigest()
    assert digest == DESCRIPTION, (
        "run ksc -t python --outdir tests/generated docs/tok.ksy, then note the new digest here"
    )
    compiler = shutil.which("kaitai-struct-compiler") or shutil.which("ksc")
    if compiler:
        subprocess.run([compiler, "-t", "python", "--outdir", tmp_path, KSY], check=True, capture_output=True)
        assert (tmp_path / "tok.py").read_text() == GENERATED.read_text()
