"""Augmentations that codecs train with: plain functions of a crop, its rate, random numbers and a few settings.

The changed crop is both input and target, so a codec learns to code what it hears, not to clean it. All are off unless
a configuration lists them: ``data.augment=[{name: gain, low: -12, high: 6}, {name: polarity}]``.
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from codec import assets, audio
from codec.data.dataset import Augment
from codec.data.recordings import Recording
from codec.data.sources import find
from codec.errors import AudioError, ConfigError

Audio = audio.Audio


def gain(samples: Audio, rate: int, random: Generator, *, low: float = -12.0, high: float = 6.0) -> Audio:
    """Random change of level in dB, limited so that nothing clips that did not before."""
    peak = max(float(np.abs(samples).max()), 1e-9)
    return samples * np.float32(min(10 ** (random.uniform(low, high) / 20), max(1.0, 1 / peak)))


def polarity(samples: Audio, rate: int, random: Generator) -> Audio:
    """Turns the wave upside down: inaudible, and a codec should not care."""
    return -samples


def channels(samples: Audio, rate: int, random: Generator) -> Audio:
    """For stereo: swaps left and right, or draws a width from mono (0) to the original (1)."""
    if samples.shape[0] != 2:
        return samples
    if random.random() < 0.5:
        return np.ascontiguousarray(samples[::-1])
    middle = samples.mean(axis=0, keepdims=True)
    return middle + np.float32(random.random()) * (samples - middle)


def equalise(
    samples: Audio, rate: int, random: Generator, *, depth: float = 4.0, knots: int = 5, lowest: float = 100.0
) -> Audio:
    """Colours the sound as another microphone or room would, limited so that nothing clips that did not before.

    The response runs smoothly through `knots` random gains of at most `depth` dB up or down, spread over the octaves
    from `lowest` Hz to half the rate.
    """
    gains = random.uniform(-depth, depth, knots)
    frequencies = np.fft.rfftfreq(samples.shape[-1], 1 / rate)
    octaves = np.log2(np.maximum(frequencies, lowest) / lowest)
    curve = np.interp(octaves, np.linspace(0, np.log2(rate / 2 / lowest), knots), gains)
    changed = np.fft.irfft(np.fft.rfft(samples) * 10 ** (curve / 20), samples.shape[-1])
    peak, allowed = float(np.abs(changed).max()), max(1.0, float(np.abs(samples).max()))
    return (changed * min(1.0, allowed / max(peak, 1e-9))).astype(np.float32)


def bandwidth(
    samples: Audio, rate: int, random: Generator, *, rates: Sequence[int] = (8000, 11025, 16000, 22050)
) -> Audio:
    """Takes away what a recording at a lower rate, drawn from those below the model's, would not have."""
    lower = [r for r in rates if r < rate]
    if not lower:
        return samples
    low, plan = audio.to_model(samples, rate, int(random.choice(lower)), samples.shape[0])
    return audio.from_model(low, plan, samples.shape[1])


def noise(
    samples: Audio,
    rate: int,
    random: Generator,
    *,
    low: float = 10.0,
    high: float = 40.0,
    recordings: Sequence[Recording] = (),
) -> Audio:
    """Adds noise at a random signal-to-noise ratio in dB: of recordings, or Gaussian between white and brown."""
    added = _recorded(samples, rate, random, recordings) if recordings else _coloured(samples, random)
    power, added_power = float(np.mean(np.square(samples))), float(np.mean(np.square(added)))
    if min(power, added_power) < 1e-10:
        return samples
    return samples + added * np.float32(
        np.sqrt(power / added_power) * 10 ** (-random.uniform(low, high) / 20)
    )


def _coloured(samples: Audio, random: Generator) -> Audio:
    spectrum = np.fft.rfft(random.standard_normal(samples.shape))
    slope = np.maximum(np.arange(spectrum.shape[-1]), 1.0) ** -random.uniform(0, 1)
    return np.fft.irfft(spectrum * slope, samples.shape[-1]).astype(np.float32)


def _recorded(samples: Audio, rate: int, random: Generator, recordings: Sequence[Recording]) -> Audio:
    recording = recordings[int(random.integers(len(recordings)))]
    whole = recording.length(rate)
    length = min(samples.shape[1], whole)
    start = int(random.integers(0, whole - length, endpoint=True))
    try:
        piece = recording.crop(start, length, rate, samples.shape[0])
    except AudioError:
        return np.zeros_like(samples)
    return np.tile(piece, (1, -(-samples.shape[1] // length)))[:, : samples.shape[1]]


def reverb(
    samples: Audio,
    rate: int,
    random: Generator,
    *,
    rooms: int = 64,
    low: float = 0.15,
    high: float = 0.7,
    mix: float = 1.0,
) -> Audio:
    """Puts the source into one of `rooms` simulated rooms (image source method of pyroomacoustics), level unchanged.

    Each room is simulated once per worker; its RT60 lies between `low` and `high` seconds; `mix` from 0 to 1 scales
    the reflections against the direct sound.
    """
    response = _response(int(random.integers(rooms)), rate, low, high).copy()
    response[1:] *= mix
    size = 1 << (samples.shape[1] + len(response) - 2).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[:, : samples.shape[1]]
    level = np.sqrt(np.mean(np.square(samples)) / max(float(np.mean(np.square(wet))), 1e-20))
    return (wet * level).astype(np.float32)


@functools.lru_cache(maxsize=1024)
def _response(number: int, rate: int, low: float, high: float) -> NDArray[np.float64]:
    """Impulse response of a room from the direct sound on, which is its first sample and 1."""
    import pyroomacoustics

    random = np.random.default_rng(number)
    while True:  # a small room cannot ring long nor a large one briefly: draw again
        size = random.uniform([3, 3, 2.4], [8, 8, 4])
        try:
            absorption, order = pyroomacoustics.inverse_sabine(random.uniform(low, high), size)
            break
        except ValueError:
            continue
    material = pyroomacoustics.Material(absorption)
    room = pyroomacoustics.ShoeBox(size, fs=rate, materials=material, max_order=min(order, 20))
    room.add_source(size * random.uniform(0.2, 0.8, 3))
    room.add_microphone(size * random.uniform(0.2, 0.8, 3))
    room.compute_rir()
    response = np.asarray(room.rir[0][0], np.float64)
    direct = int(np.argmax(np.abs(response)))
    return response[direct:] / response[direct]


AUGMENTATIONS: dict[str, Callable[..., Audio]] = {
    "gain": gain,
    "polarity": polarity,
    "channels": channels,
    "equalise": equalise,
    "bandwidth": bandwidth,
    "noise": noise,
    "reverb": reverb,
}


def augmentations(configs: Sequence[Mapping[str, Any]]) -> list[Augment]:
    """Builds the listed augmentations.

    Args:
        configs: each a `name` of `AUGMENTATIONS`, its settings, and `p`, the probability that it acts (default 0.5);
            `noise` takes `root` and `filters` of noise recordings.

    Raises:
        ConfigError: unknown name or setting, a probability outside [0, 1], or a library that is not installed.
    """
    return [_one(config) for config in configs]


def _one(config: Mapping[str, Any]) -> Augment:
    settings = dict(config)
    name, p = settings.pop("name", None), settings.pop("p", 0.5)
    if name not in AUGMENTATIONS:
        raise ConfigError(f"unknown augmentation {name!r}; known are {', '.join(AUGMENTATIONS)}")
    if not 0 <= p <= 1:
        raise ConfigError(f"augmentation {name}: p is {p}, not a probability")
    if name == "reverb" and importlib.util.find_spec("pyroomacoustics") is None:
        raise ConfigError(f"augmentation reverb needs pyroomacoustics: {assets.install('augment')}")
    if name == "noise" and "root" in settings:
        settings["recordings"] = find(settings.pop("root"), settings.pop("filters", None)).train
    unknown = settings.keys() - inspect.signature(AUGMENTATIONS[name]).parameters.keys()
    if unknown:
        raise ConfigError(f"augmentation {name} has no setting {', '.join(sorted(unknown))}")
    return functools.partial(_perhaps, functools.partial(AUGMENTATIONS[name], **settings), p)


def _perhaps(change: Augment, p: float, samples: Audio, rate: int, random: Generator) -> Audio:
    return change(samples, rate, random) if random.random() < p else samples
