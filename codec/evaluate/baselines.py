"""Baselines: the original, resampling, mu-law, Opus, Codec2, MP3 and AAC, and the models of the encodec package."""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
import time
import warnings
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from codec import assets, audio
from codec.errors import CodecError, ConfigError
from codec.evaluate.ogg import packet_bytes
from codec.evaluate.system import Coded, Program, System, number, sound_file
from codec.metrics.base import Signal

CODEC2_RATE = 8000
CODEC2_MODES = ("3200", "2400", "1600", "1400", "1300", "1200", "700C")
CODEC2_HEADER = 7  # bytes of a .c2 file before the frames


class Original(System):
    """The clip itself as 16-bit samples: the top of every scale, and a check of the whole chain."""

    spec = family = "original"

    def code(self, signal: Signal, rate: int) -> Coded:
        samples = np.clip(np.rint(signal * 32768), -32768, 32767)
        return Coded((samples / 32768).astype(np.float32), 2 * samples.size, 2 * samples.size + 44, 0.0, 0.0)


class Resample(System):
    """16-bit samples at a lower rate: what the loss of bandwidth alone costs."""

    family = "resample"

    def __init__(self, spec: str, rate: str) -> None:
        self.spec = spec
        self.rate = int(number(spec, rate, 1000, 192000))

    def code(self, signal: Signal, rate: int) -> Coded:
        started = time.perf_counter()
        small = Original().code(audio.resample(signal, rate, self.rate), self.rate)
        middle = time.perf_counter()
        back = audio.resample(small.audio, self.rate, rate)[: signal.size]
        done = time.perf_counter()
        return Coded(back, small.payload_bytes, small.container_bytes, middle - started, done - middle)


class MuLaw(System):
    """Logarithmic samples of 2 to 8 bits (8: like ITU-T G.711), at the rate of the evaluation."""

    family = "mulaw"

    def __init__(self, spec: str, bits: str = "8") -> None:
        self.spec = spec
        self.bits = int(number(spec, bits, 2, 8))

    def code(self, signal: Signal, rate: int) -> Coded:
        mu = 255.0
        started = time.perf_counter()
        clipped = np.clip(signal, -1, 1)
        levels = 2**self.bits - 1
        squeezed = np.sign(clipped) * np.log1p(mu * np.abs(clipped)) / math.log1p(mu)
        codes = np.rint((squeezed + 1) / 2 * levels)
        middle = time.perf_counter()
        value = codes / levels * 2 - 1
        back = (np.sign(value) * np.expm1(np.abs(value) * math.log1p(mu)) / mu).astype(np.float32)
        done = time.perf_counter()
        payload = -(-codes.size * self.bits // 8)
        return Coded(back, payload, payload + 44, middle - started, done - middle)


class Opus(Program, System):
    """Opus (RFC 6716) by opusenc and opusdec: variable rate, complexity 10, 20 ms frames, for speech up to 24 kHz."""

    family, programs, package = "opus", ("opusenc", "opusdec"), "opus-tools"

    def __init__(self, spec: str, kbps: str) -> None:
        self.spec = spec
        self.kbps = number(spec, kbps, 6, 256)

    def identity(self) -> str:
        """Its name and the encoder's version."""
        return f"{self.spec} {_first_line('opusenc', '--version')}"

    def code(self, signal: Signal, rate: int) -> Coded:
        with tempfile.TemporaryDirectory() as folder:
            source, coded, back = (os.path.join(folder, name) for name in ("in.wav", "a.opus", "out.wav"))
            Path(source).write_bytes(sound_file(signal, rate))
            tune = ["--speech"] if rate <= 24000 else []
            started = time.perf_counter()
            _run("opusenc", "--quiet", "--bitrate", f"{self.kbps:g}", *tune, "--padding", "0", source, coded)
            middle = time.perf_counter()
            _run("opusdec", "--quiet", "--no-dither", "--rate", str(rate), coded, back)
            done = time.perf_counter()
            content = Path(coded).read_bytes()
            # the first two packets are headers
            payload = sum(packet_bytes(content)[2:])
            return Coded(_read(back, rate), payload, len(content), middle - started, done - middle)


class Codec2(Program, System):
    """Codec2 by c2enc and c2dec: a vocoder at 8 kHz, so nothing above 4 kHz comes back."""

    family, programs, package = "codec2", ("c2enc", "c2dec"), "codec2"
    delayed, frame, parametric = True, 0.08, True

    def __init__(self, spec: str, mode: str) -> None:
        self.spec = spec
        self.mode = mode.upper()
        if self.mode not in CODEC2_MODES:
            raise ConfigError(f"Codec2 has no mode {mode!r}; it has {', '.join(CODEC2_MODES)}")

    def code(self, signal: Signal, rate: int) -> Coded:
        with tempfile.TemporaryDirectory() as folder:
            source, coded, back = (os.path.join(folder, name) for name in ("in.raw", "a.c2", "out.raw"))
            small = Original().code(audio.resample(signal, rate, CODEC2_RATE), CODEC2_RATE).audio
            # a last frame of silence, for the program drops what does not fill a frame
            np.pad(small * 32768, (0, 640)).astype("<i2").tofile(source)
            started = time.perf_counter()
            _run("c2enc", self.mode, source, coded)
            middle = time.perf_counter()
            _run("c2dec", self.mode, coded, back)
            done = time.perf_counter()
            decoded: Signal = np.fromfile(back, "<i2").astype(np.float32) / np.float32(32768)
            size = os.path.getsize(coded)
        audible = audio.resample(decoded, CODEC2_RATE, rate)
        share = signal.size / max(
            audible.size, signal.size
        )  # the silence that was added is no part of the clip
        payload = round((size - CODEC2_HEADER) * share)
        return Coded(audible, payload, payload + CODEC2_HEADER, middle - started, done - middle)


class Ffmpeg(Program, System):
    """MP3 (libmp3lame) and AAC (ffmpeg's own encoder) by ffmpeg."""

    programs, package = ("ffmpeg", "ffprobe"), "ffmpeg"
    delayed, frame = True, 0.15

    def __init__(self, spec: str, kbps: str, family: str) -> None:
        self.spec, self.family = spec, family
        self.kbps = number(spec, kbps, 8, 320)

    def identity(self) -> str:
        """Its name and the program's version."""
        return f"{self.spec} {_first_line('ffmpeg', '-version')}"

    def code(self, signal: Signal, rate: int) -> Coded:
        encoder, suffix = {"mp3": ("libmp3lame", "mp3"), "aac": ("aac", "m4a")}[self.family]
        quiet = ("ffmpeg", "-v", "error", "-y", "-threads", "1", "-i")
        with tempfile.TemporaryDirectory() as folder:
            source, coded, back = (os.path.join(folder, name) for name in ("in.wav", f"a.{suffix}", "b.wav"))
            Path(source).write_bytes(sound_file(signal, rate))
            started = time.perf_counter()
            _run(*quiet, source, "-c:a", encoder, "-b:a", f"{self.kbps:g}k", coded)
            middle = time.perf_counter()
            _run(*quiet, coded, "-ar", str(rate), "-ac", "1", back)
            done = time.perf_counter()
            sizes = _run("ffprobe", "-v", "error", "-show_entries", "packet=size", "-of", "csv=p=0", coded)
            payload = sum(int(line.strip(",")) for line in sizes.split())
            return Coded(_read(back, rate), payload, os.path.getsize(coded), middle - started, done - middle)


class Encodec(System):
    """EnCodec (Défossez et al., arXiv 2210.13438) by the encodec package, at 24 kHz, without its entropy coder."""

    family = "encodec"
    rates = (1.5, 3.0, 6.0, 12.0, 24.0)

    def __init__(self, spec: str, kbps: str) -> None:
        self.spec = spec
        self.kbps = number(spec, kbps, self.rates[0], self.rates[-1])
        if self.kbps not in self.rates:
            raise ConfigError(f"EnCodec has the rates {', '.join(f'{rate:g}' for rate in self.rates)} kbps")

    def identity(self) -> str:
        """Its name and the package's version."""
        return f"{self.spec} {version('encodec')}"

    def missing(self) -> str | None:
        """Whether the package is here and its weights can be had."""
        try:
            _encodec()
        except ConfigError as error:
            return str(error)
        except OSError as error:
            return (
                "the weights of encodec cannot be downloaded here "
                f"({getattr(error, 'reason', error)}): put encodec_24khz-d7cc33bc.th into torch's hub cache"
            )
        return None

    def code(self, signal: Signal, rate: int) -> Coded:

        import torch
        from encodec.compress import compress

        model = _encodec()
        model.set_target_bandwidth(self.kbps)
        small = torch.from_numpy(audio.resample(signal, rate, model.sample_rate))[None]
        started = time.perf_counter()
        with torch.no_grad():
            ((codes, scale),) = model.encode(small[None])
        middle = time.perf_counter()
        with torch.no_grad():
            decoded = model.decode([(codes, scale)])[0, 0, : small.shape[-1]].numpy()
        done = time.perf_counter()
        container = len(compress(model, small, use_lm=False))
        payload = -(-codes.shape[1] * codes.shape[2] * 10 // 8)
        return Coded(
            audio.resample(decoded, model.sample_rate, rate)[: signal.size],
            payload,
            container,
            middle - started,
            done - middle,
            codes[0].numpy(),
            (1024,) * codes.shape[1],
        )


BASELINE_KINDS = (Original, Resample, MuLaw, Opus, Codec2, Ffmpeg, Encodec)


@cache
def _encodec() -> Any:
    package = assets.optional("encodec", "encodec")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # its weight norm is the old one
        return package.EncodecModel.encodec_model_24khz().eval()


def _read(path: str, rate: int) -> Signal:
    samples, actual = audio.read(path)
    if actual != rate:
        raise CodecError(f"the decoder gave {actual} Hz instead of {rate}")
    return samples[0]


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        raise CodecError(f"{command[0]} did not finish within ten minutes") from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise CodecError(f"{command[0]} failed with {done.returncode}: {last[0]}")
    return done.stdout.decode(errors="replace")


@cache
def _first_line(*command: str) -> str:
    return _run(*command).splitlines()[0]
