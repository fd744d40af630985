"""The golden files: read and written again byte for byte, and read by strangers.

The strangers are the readers that the Kaitai compiler generates from docs/tok.ksy for Python and JavaScript, with the
payloads decoded here in plain Python after docs/tok-format.md: no line of codec.bitstream takes part in it. The
compiler comes from npm; KAITAI names the folder that holds its node_modules.
"""

import hashlib
import importlib.util
import io
import itertools
import json
import os
import re
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
DESCRIPTION = "12bfe1204e8ba113ef29831a21187fbfc4ed8cd5ba7e9bc9afcadc87965c9925"  # that GENERATED was made of
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
    """[frames as lists of codes, and numbers for so many lost ones]."""
    frames = []
    for piece in pieces:
        frames += [piece["lost"]] if "lost" in piece else list(map(list, zip(*piece["codes"], strict=True)))
    return frames


def test_there_are_golden_files():
    assert len(NAMES) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_golden_file_reads_as_told(name):
    told, data = load(name)
    reader = TokReader(io.BytesIO(data), prior=prior_of(told))
    frames = []
    for piece in reader:
        frames += [piece.frames] if isinstance(piece, Gap) else piece.T.tolist()
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

    def weights(self, codebook, state):
        scores = []
        for row in range(self.first[codebook], self.first[codebook] + self.sizes[codebook]):
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
            codebook, state = row // streams, states[row % streams]
            for d, value in enumerate(prior.before[prior.first[codebook] + code]):
                state[d] += value
        frame = []
        for row, size in enumerate(sizes):
            codebook = row // streams
            if prior:
                weights = prior.weights(codebook, states[row % streams])
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
                for d, value in enumerate(prior.after[prior.first[codebook] + code]):
                    state[d] += value
        out.append(frame)
    return out


KINDS = ("raw", "entropy", "lost", "header_copy", "index", "end")


def plain(value):
    """What a generated Python reader holds, as the one for JavaScript tells it: numbers and bytes as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return list(map(plain, value))
    if isinstance(value, int) or hasattr(value, "name"):
        return str(getattr(value, "value", value))
    if hasattr(value, "groups"):
        return {"value": plain(value.value), "len": plain(value.len)}
    properties = [name for name, entry in vars(type(value)).items() if isinstance(entry, property)]
    names = [name for name in [*vars(value), *properties] if not name.startswith("_")]
    return {name: plain(getattr(value, name)) for name in names}


def snake(value):
    """The same with the names of Python."""
    if isinstance(value, list):
        return list(map(snake, value))
    if not isinstance(value, dict):
        return value
    return {re.sub("([A-Z])", lambda m: "_" + m[0].lower(), name): snake(v) for name, v in value.items()}


def node(*arguments):
    """What tests/kaitai.js prints."""
    if "KAITAI" not in os.environ or shutil.which("node") is None:
        pytest.skip("the Kaitai compiler is not installed: see .ci/run, which sets KAITAI")
    script = Path(__file__).with_name("kaitai.js")
    command = ["node", script, os.environ["KAITAI"], KSY, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module", params=["python", "javascript"])
def told_by_strangers(request):
    """Name of a golden file -> what the generated reader finds in it."""
    files = [VECTORS / f"{name}.tok" for name in NAMES]
    if request.param == "javascript":
        return dict(zip(NAMES, map(snake, json.loads(node("read", *files))), strict=True))
    pytest.importorskip(
        "kaitaistruct", reason="the Kaitai runtime (pip install kaitaistruct) is not installed"
    )
    spec = importlib.util.spec_from_file_location("generated_tok", GENERATED)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {file.stem: plain(module.Tok.from_bytes(file.read_bytes())) for file in files}


def number(found):
    """Of a varint or a plain number."""
    return int(found["value"] if isinstance(found, dict) else found)


def check_head(head, expected):
    header = head["header"]
    assert header["fingerprint"] == expected["fingerprint"]
    assert [number(run["size"]) for run in header["runs"] for _ in range(number(run["count"]))] == expected[
        "codebook_sizes"
    ]
    for name in ("sample_rate", "channels", "hop"):
        assert number(header[name]) == expected[name]
    assert number(header["resampler"]) == expected.get("resampler", 0)
    assert ("mix", "split", "joint")[number(header["channel_policy"])] == expected.get(
        "channel_policy", "mix"
    )
    assert number(header["model_sample_rate"]) == expected.get("model_sample_rate", expected["sample_rate"])
    assert number(header["num_samples_plus_one"]) == expected.get("num_samples", -1) + 1


@pytest.mark.parametrize("name", NAMES)
def test_golden_file_is_read_by_the_generated_reader(name, told_by_strangers):
    told, data = load(name)
    prior = PlainPrior((VECTORS / told["prior"]).read_bytes()) if "prior" in told else None
    tok, expected = told_by_strangers[name], told["header"]
    check_head(tok["head"], expected)
    sizes = expected["codebook_sizes"]
    samples = told.get("num_samples", expected.get("num_samples", -1))
    length = tok["head"]["len_header"]
    at = 5 + int(length["len"]) + int(length["value"])
    assert number(tok["head"]["crc"]) == zlib.crc32(data[:at])
    at += 4
    streams = expected["channels"] if expected.get("channel_policy") == "split" else 1

    frames, starts, kinds, due = [], {}, [], 0
    for record in tok["records"]:
        head = 2 + int(record["len_body"]["len"])
        total = head + 1 + number(record["len_body"])
        assert number(record["check"]) == zlib.crc32(data[at : at + head]) & 0xFF
        assert number(record["crc"]) == zlib.crc32(data[at : at + total])
        kind, body = KINDS[int(record["kind"])], record["body"]
        kinds.append(kind)
        if kind in ("raw", "entropy", "lost"):
            count = number(body["num_frames"])
            assert number(body["first_frame"]) == due
            starts[due] = at
            due += count
            if kind == "lost":
                frames.append(count)
            elif kind == "raw":
                frames += plain_raw(bytes.fromhex(body["payload"]), sizes, count)
            else:
                frames += plain_entropy(bytes.fromhex(body["payload"]), sizes, count, streams, prior)
        elif kind == "header_copy":
            check_head(body, expected | ({"num_samples": samples} if samples >= 0 else {}))
        elif kind == "index":
            index_at, frame, offset = at, 0, 0
            for entry in body["entries"]:
                frame, offset = frame + number(entry["frame_step"]), offset + number(entry["offset_step"])
                assert starts[frame] == offset
        elif kind == "end":
            assert number(body["num_frames"]) == due
            assert number(body["num_samples_plus_one"]) == samples + 1
            assert number(body["index_distance"]) == (at - index_at if "index" in kinds else 0)
        at += total + 4
    assert at == len(data)
    assert frames == frames_of(told["pieces"])
    if name.startswith("entropy"):
        assert "entropy" in kinds
    if name in ("split_live", "large"):
        assert kinds[-3:] == ["header_copy", "index", "end"]


def test_the_large_golden_file_goes_beyond_31_bits_wherever_the_format_does():
    told, _ = load("large")
    frames = [piece["lost"] for piece in told["pieces"] if "lost" in piece]
    sizes = told["header"]["codebook_sizes"]
    assert sum(frames) > 2**31
    assert told["header"]["num_samples"] > 2**32
    assert told["header"]["sample_rate"] == 2**31
    assert max(sizes) == 2**32
    assert told["pieces"][0]["codes"][0][0] == 2**32 - 1


def test_generated_reader_is_that_of_the_description():
    # without the compiler a changed description still shows
    digest = hashlib.sha256(KSY.read_bytes()).hexdigest()
    assert digest == DESCRIPTION, (
        "run node tests/kaitai.js FOLDER docs/tok.ksy compile python > tests/generated/tok.py, note the new digest here"
    )
    if "KAITAI" in os.environ:
        assert node("compile", "python") == GENERATED.read_text()
