"""What the demo computes: coding, pictures, damage. Plain functions over arrays, without a page."""

from __future__ import annotations

import base64
import io
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

import codec
import codec.audio
from codec import metrics
from codec.bitstream.pack import code_bits
from codec.distort import flip_bits, repeat_last
from codec.metrics import Unscorable
from codec.nn.spectrogram import decibels

matplotlib.use("Agg")
# no ground and grey ink: the same picture is at home on a light page and on a dark one
INK = "#868e9c"
matplotlib.rcParams |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none")
matplotlib.rcParams |= dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
)
MOST_SECONDS = 60.0
MOST_MEGABYTES = 30


@dataclass(frozen=True)
class Coded:
    """One encoded sound of one visitor.

    Attributes:
        model: its name.
        original: `(N,)` float32 at the source's rate, None when a token file was dropped.
        rate: of `original` and of what is decoded, Hz.
        codes: `(K, T)`, of the first channel.
        tok: the token file.
        samples: of the source.
        encode_seconds: what encoding took.
    """

    model: str
    original: np.ndarray | None
    rate: int
    codes: np.ndarray
    tok: bytes
    samples: int
    encode_seconds: float


@lru_cache(maxsize=4)
def load(model: str) -> codec.Codec:
    """The model, loaded once."""
    return codec.load(model)


def encode(path: str, model: str, codebooks: int) -> Coded:
    """Encode a sound file.

    Raises:
        codec.CodecError: not a sound file, or longer than a minute.
    """
    import soundfile

    loaded = load(model)
    with _readable(path), soundfile.SoundFile(path) as file:
        if file.frames > MOST_SECONDS * file.samplerate:
            raise codec.CodecError(
                f"the recording is {file.frames / file.samplerate:.0f} s long, and the demo takes"
                f" {MOST_SECONDS:.0f} s: cut it, or use codec encode, which takes any length"
            )
        original, rate = file.read(dtype="float32", always_2d=True).mean(axis=1), file.samplerate
    with tempfile.TemporaryDirectory(prefix="codec-demo-") as folder:
        target = Path(folder) / "sound.tok"
        start = time.perf_counter()
        codec.encode_file(path, target, loaded, num_codebooks=codebooks)
        seconds = time.perf_counter() - start
        header, codes = codec.read_tok(target)
        return Coded(model, original, rate, codes, target.read_bytes(), header.num_samples or 0, seconds)


def open_tok(path: str, model: str) -> Coded:
    """Take a token file that was dropped.

    Raises:
        codec.CodecError: damaged, of another model, or longer than a minute.
    """
    header, codes = codec.read_tok(path)
    samples = header.num_samples or 0
    if samples > MOST_SECONDS * header.sample_rate:
        raise codec.CodecError(f"the tokens last longer than the {MOST_SECONDS:.0f} s that the demo takes")
    # the rows of split channels alternate
    first = codes[:: header.streams]
    return Coded(model, None, header.sample_rate, first, Path(path).read_bytes(), samples, 0.0)


def decode(coded: Coded) -> tuple[np.ndarray, float]:
    """Samples `(N,)` at the source's rate, and the seconds that decoding took."""
    import soundfile

    target = io.BytesIO()
    start = time.perf_counter()
    codec.decode_file(io.BytesIO(coded.tok), target, load(coded.model), format="wav")
    seconds = time.perf_counter() - start
    target.seek(0)
    audio, _ = soundfile.read(target, dtype="float32", always_2d=True)
    return audio.mean(axis=1), seconds


@torch.inference_mode()
def decode_codebooks(coded: Coded, chosen: list[int]) -> np.ndarray:
    """Samples at the model's rate of the chosen codebooks only: each adds its step from prefix to prefix."""
    model = load(coded.model)
    codes = torch.from_numpy(coded.codes)[None].long()
    total = torch.zeros(1, model.quantizer.dim, codes.shape[-1])
    before = torch.zeros_like(total)
    for count in (n for n in model.quantizer.prefixes if n <= codes.shape[1]):
        upto = model.quantizer.decode(codes[:, :count])
        if count - 1 in chosen:
            total += upto - before
        before = upto
    return model.decode_latent(total, codes.shape[1])[0, 0].numpy()


@torch.inference_mode()
def decode_codes(coded: Coded, codes: np.ndarray) -> np.ndarray:
    """Samples at the model's rate of changed codes `(K, T)`."""
    return load(coded.model).decode(torch.from_numpy(codes)[None].long())[0, 0].numpy()


def damage(
    coded: Coded, bit_errors: float, lost: float, codebooks: int, seed: int = 0
) -> tuple[np.ndarray, str]:
    """Codes after a bad channel, and what happened in words.

    Args:
        coded: the encoded sound.
        bit_errors: share of the packed bits that flip.
        lost: share of the frames that never arrive; the last good one is repeated.
        codebooks: how many are kept.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    codes, sizes = coded.codes[:codebooks], load(coded.model).quantizer.codebook_sizes[:codebooks]
    codebooks, frames = codes.shape  # no more than were sent
    flips = random.random(frames * sum(code_bits(sizes))) < bit_errors
    lost_frames = random.random(frames) < lost
    lost_frames[:1] = False  # something must be there to repeat
    text = (
        f"{flips.sum()} bits flipped, {lost_frames.sum()} of {frames} frames lost, {codebooks} codebooks kept"
    )
    return repeat_last(flip_bits(codes, sizes, flips.astype(np.uint8)), lost_frames), text


def scores(original: np.ndarray, decoded: np.ndarray, rate: int) -> dict[str, str]:
    """PESQ and STOI as text; a dash and the reason where a score cannot be had."""
    found = {}
    for label, name in (("PESQ", "pesq_wb"), ("STOI", "stoi")):
        metric = metrics.get(name)
        if why := metric.missing():
            found[label] = f"– ({why})"
            continue
        try:
            found[label] = f"{metric(decoded[: original.size], original, rate):.3f}"
        except Unscorable as reason:
            found[label] = f"– ({reason})"
    return found


def wav(audio: np.ndarray, rate: int) -> bytes:
    """A 16-bit mono WAV file."""
    target = io.BytesIO()
    codec.audio.write(target, audio[None], rate, format="wav")
    return target.getvalue()


def data_url(audio: np.ndarray, rate: int) -> str:
    """The sound inside the page, so that no file of a visitor lies where another could ask for it."""
    return "data:audio/wav;base64," + base64.b64encode(wav(audio, rate)).decode()


def spectrograms(
    original: np.ndarray | None,
    decoded: np.ndarray,
    rate: int,
    names: tuple[str, str] = ("original", "decoded"),
) -> Figure:
    """Original, decoded and their difference in dB, one above the other."""
    rows = [(names[1], _decibels(decoded, rate))]
    if original is not None:
        first = _decibels(original, rate)
        count = min(first.shape[1], rows[0][1].shape[1])
        rows = [(names[0], first), *rows, ("difference", rows[0][1][:, :count] - first[:, :count])]
    figure = _figure(9, 1.9 * len(rows))
    for place, (name, picture) in enumerate(rows):
        axes = figure.add_subplot(len(rows), 1, place + 1)
        difference = name == "difference"
        image = axes.imshow(
            picture,
            origin="lower",
            aspect="auto",
            cmap="RdBu_r" if difference else "magma",
            vmin=-30 if difference else -90,
            vmax=30 if difference else 0,
            extent=(0, len(decoded) / rate, 0, rate / 2000),
        )
        axes.set_ylabel("kHz")
        axes.set_title(name, loc="left", fontsize=10)
        figure.colorbar(image, ax=axes, label="dB", pad=0.01)
    axes.set_xlabel("seconds")
    return figure


def code_map(codes: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Picture `(height, width, 3)` uint8 of codes `(K, T)`: one row a codebook, one colour a code."""
    share = codes / np.array(sizes[: len(codes)])[:, None]
    colours = matplotlib.colormaps["twilight"](share)[..., :3]
    picture = (colours * 255).astype(np.uint8)
    tall, wide = max(1, 288 // len(codes)), max(1, 1000 // codes.shape[1])
    return picture.repeat(tall, 0).repeat(wide, 1)


def usage(codes: np.ndarray, sizes: tuple[int, ...]) -> Figure:
    """Different codes used by each codebook."""
    figure = _figure(9, 2.4)
    axes = figure.add_subplot()
    used = [len(np.unique(row)) for row in codes]
    axes.bar(range(1, len(used) + 1), used, color="#5b6ee1")
    axes.axhline(min(codes.shape[1], sizes[0]), color="#888", linewidth=1, linestyle=":")
    axes.set_xticks(range(1, len(used) + 1))
    axes.set_xlabel("codebook")
    axes.set_ylabel("different codes")
    axes.set_title(f"of {codes.shape[1]} frames (dotted: all different)", loc="left", fontsize=10)
    return figure


@torch.inference_mode()
def vectors(coded: Coded, frame: int) -> Figure:
    """What each codebook adds to the latent of a frame."""
    model = load(coded.model)
    codes = torch.from_numpy(coded.codes[:, frame : frame + 1])[None].long()
    prefixes = [n for n in model.quantizer.prefixes if n <= codes.shape[1]]
    sums = torch.stack([model.quantizer.decode(codes[:, :n])[0, :, 0] for n in prefixes])
    steps = torch.diff(sums, dim=0, prepend=torch.zeros_like(sums[:1])).numpy()
    figure = _figure(6, 3)
    axes = figure.add_subplot()
    peak = float(np.abs(steps).max()) or 1.0
    image = axes.imshow(steps, aspect="auto", cmap="RdBu_r", vmin=-peak, vmax=peak)
    axes.set_yticks(range(len(prefixes)), [str(n) for n in prefixes])
    axes.set_ylabel("codebook")
    axes.set_xlabel("latent dimension")
    axes.set_title(
        f"code vectors of frame {frame}: {', '.join(map(str, coded.codes[:, frame]))}",
        loc="left",
        fontsize=10,
    )
    figure.colorbar(image, ax=axes, pad=0.01)
    return figure


def _decibels(audio: np.ndarray, rate: int) -> np.ndarray:
    length = 2 ** round(np.log2(0.032 * rate))
    return decibels(torch.from_numpy(audio), length, length // 4).numpy()


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", dpi=110)


class _readable:
    """Turns the sound library's errors into a sentence."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        import soundfile

        if isinstance(error, soundfile.SoundFileError):
            raise codec.CodecError(
                "this is not a sound file that can be read: use WAV, FLAC, OGG or MP3"
            ) from None


def pcm(audio: np.ndarray) -> np.ndarray:
    """16-bit samples, clipped: the page would scale anything else to full level."""
    return np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)


def curves(train: list[dict], valid: list[dict], names: list[str]) -> Figure:
    """Named values of a run's log over its steps, one picture each."""
    known = [name for name in names if any(name in row for row in (*train, *valid))]
    columns = min(3, max(1, len(known)))
    rows = -(-len(known) // columns) or 1
    figure = _figure(9, 2.3 * rows)
    for place, name in enumerate(known):
        axes = figure.add_subplot(rows, columns, place + 1)
        for part, style in ((train, "-"), (valid, "o-")):
            points = [(row["step"], row[name]) for row in part if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, markersize=3, linewidth=1)
        axes.set_title(name, loc="left", fontsize=10)
        axes.grid(alpha=0.2)
    return figure


def newest_audio(folder: Path) -> tuple[int, np.ndarray] | None:
    """The last decoded validation sound that a run wrote for TensorBoard."""
    import soundfile
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not list(folder.glob("events.out.tfevents.*")):
        return None
    events = EventAccumulator(
        str(folder), size_guidance={"audio": 1, "images": 1, "scalars": 1, "tensors": 1}
    )
    events.Reload()
    tags = [tag for tag in events.Tags()["audio"] if "decoded" in tag]
    if not tags:
        return None
    audio, rate = soundfile.read(io.BytesIO(events.Audio(tags[0])[-1].encoded_audio_string), dtype="float32")
    return rate, pcm(audio)
