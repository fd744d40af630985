"""Codec halves that work at the frame rate: Fourier analysis, ConvNeXt blocks, inverse Fourier synthesis.

After Vocos (Siuzdak, arXiv 2306.00814) and ConvNeXt (Liu et al., arXiv 2201.03545), made causal: no layer runs at
the sample rate, so a second of audio costs a few hundred million multiply-adds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.errors import ConfigError
from codec.models.parts import Decoder, Encoder
from codec.nn.activations import gelu_tanh
from codec.nn.functional import without_autocast
from codec.nn.layer import Layer, Span, StreamSequential
from codec.nn.linear import Linear, linear
from codec.nn.state import StreamState

FRAMES_AT_A_TIME = 1024  # whose windows are in memory together


class CausalConvNeXtBlock(Layer):
    """Depthwise convolution over the past, then a two-layer perceptron per frame, added to the input.

    Args:
        dim: channels C.
        hidden: width inside the perceptron.
        kernel_size: frames seen, the present one included.
        scale: initial gain of the residual branch.
    """

    def __init__(self, dim: int, hidden: int, *, kernel_size: int = 7, scale: float = 1.0) -> None:
        super().__init__()
        self.history = kernel_size - 1
        self.depthwise = nn.Parameter(torch.empty(kernel_size, dim))
        self.norm = nn.LayerNorm(dim)
        self.expand = Linear(dim, hidden)
        self.contract = Linear(hidden, dim)
        self.gain = nn.Parameter(torch.full((dim,), scale))
        nn.init.normal_(self.depthwise, std=kernel_size**-0.5)
        nn.init.zeros_(self.expand.bias)
        nn.init.zeros_(self.contract.bias)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, T, C)` to `(B, T, C)`."""
        past = F.pad(x, (0, 0, self.history, 0)) if state is None else state.join(self, x, self.history, 1)
        y = _depthwise(past, self.depthwise)
        norm, expand, contract = self.norm, self.expand, self.contract
        # not by calls of the modules, which cost a streamed frame more than the arithmetic
        y = torch.layer_norm(y, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        y = gelu_tanh(linear(y, expand.weight, expand.bias))
        return torch.addcmul(x, self.gain, linear(y, contract.weight, contract.bias))

    def span(self, first: float, last: float) -> Span:
        """The frame and its history."""
        return first - self.history, last


class FourierEncoder(Encoder):
    """Waveform to latent: compressed short-time spectrum, a linear map of it, and what ConvNeXt stages add to that.

    Args:
        dim: latent width D.
        stages: per stage `{dim, hidden, depth, stride}`; `stride` merges that many frames before the stage.
        frame: samples between spectra; hop = frame * product of the strides.
        window: samples of the analysis window; it ends with the newest sample, so nothing is looked ahead.
        kernel_size: frames that each block's convolution spans.
        channels: audio channels.
        compression: spectra are scaled to magnitude ** compression, which brings loud and soft sounds to one range.
    """

    causal = True
    analysis: Tensor

    def __init__(
        self,
        dim: int,
        stages: Sequence[dict[str, int]],
        *,
        frame: int = 160,
        window: int = 640,
        kernel_size: int = 7,
        channels: int = 1,
        compression: float = 0.5,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.channels = channels
        self.frame = frame
        self.window = window
        self.compression = compression
        self.strides = [stage.get("stride", 1) for stage in stages]
        self.ratio = math.prod(self.strides)
        self.hop = frame * self.ratio
        self.register_buffer("analysis", _dft(window), persistent=False)
        width = channels * 2 * (window // 2 + 1)
        self.linear = Linear(width * self.ratio, dim)
        depth = sum(stage["depth"] for stage in stages)
        self.merge = nn.ModuleList()
        self.stages = nn.ModuleList()
        for stage, stride in zip(stages, self.strides, strict=True):
            self.merge.append(Linear(width * stride, stage["dim"]))
            self.stages.append(_blocks(stage, kernel_size, 1 / depth))
            width = stage["dim"]
        self.norm = nn.LayerNorm(width)
        self.project = Linear(width, dim)
        nn.init.zeros_(self.project.weight)  # training starts from the linear map

    def forward(self, audio: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)`, N a multiple of the hop, to `(B, D, N / hop)`."""
        if audio.shape[-1] == 0:
            return audio.new_zeros(audio.shape[0], self.dim, 0)
        x = self.spectrum(audio, state)
        z = self.linear(_group(x, self.ratio))
        for stride, merge, blocks in zip(self.strides, self.merge, self.stages, strict=True):
            x = merge(_group(x, stride))
            x = blocks(x, state)
        return (z + self.project(self.norm(x))).transpose(1, 2)

    def span(self, first: float, last: float) -> Span:
        """The samples that frames `first` to `last` depend on."""
        for stride, blocks in zip(reversed(self.strides), reversed(self.stages), strict=True):
            first, last = blocks.span(first, last)  # type: ignore[operator]
            first, last = first * stride, (last + 1) * stride - 1
        return first * self.frame - (self.window - self.frame), (last + 1) * self.frame - 1

    @torch.no_grad()
    def initialise(self, audio: Tensor, decoder: Decoder) -> None:
        """Set both linear maps to the Karhunen-Loeve transform of the compressed spectra of `audio` `(B, C, N)`.

        The pair is then a classical transform codec, from which training goes on: the codebooks have something to
        code and speech is there from the first step. Latents get a mean variance of 1.
        """
        whole = audio.shape[-1] // self.hop * self.hop
        x = _group(self.spectrum(audio[..., :whole]), self.ratio).flatten(0, 1).double()
        mean = x.mean(0)
        x = x - mean
        basis = torch.linalg.eigh(x.t() @ x / len(x)).eigenvectors.flip(1)[:, : self.dim]
        gain = (x @ basis).square().mean().rsqrt()
        self.linear.weight.copy_(gain * basis.t())
        self.linear.bias.copy_(-gain * (mean @ basis))
        if isinstance(decoder, FourierDecoder):
            decoder.linear.weight.copy_(basis / gain)
            decoder.linear.bias.copy_(mean)

    def spectrum(self, audio: Tensor, state: StreamState | None = None) -> Tensor:
        """Compressed spectra `(B, N / frame, C * 2 * bins)`, real parts before imaginary ones, of `(B, C, N)`."""
        past = self.window - self.frame
        if state is None:
            audio = F.pad(audio, (past, 0))
        else:
            audio = state.join(self, audio, past, -1)
        with without_autocast(audio.device):
            frames = audio.float().unfold(-1, self.window, self.frame)  # (B, C, T, window)
            spectrum = _scale(linear(frames, self.analysis), self.compression - 1)
        return spectrum.transpose(1, 2).flatten(2)


class FourierDecoder(Decoder):
    """Latent to waveform: a linear map to compressed spectra, corrected by ConvNeXt stages, and inverse transforms.

    A frame's window reaches `window - frame` samples past the frame, so the output lags the input by `delay` samples:
    with the default delay no window has to foretell sound that the encoder has not seen.

    Args:
        dim: latent width D.
        stages: per stage `{dim, hidden, depth, stride}`; `stride` splits every frame into that many after the stage.
        frame: samples between the overlapping windows.
        window: samples of the synthesis window, a multiple of `frame`.
        delay: samples that the output lags; `window - frame` by default.
        kernel_size: frames that each block's convolution spans.
        channels: audio channels.
        compression: as in the encoder; undone here.

    Raises:
        ConfigError: the window is not a multiple of the frame.
    """

    causal = True
    synthesis: Tensor

    def __init__(
        self,
        dim: int,
        stages: Sequence[dict[str, int]],
        *,
        frame: int = 160,
        window: int = 640,
        delay: int | None = None,
        kernel_size: int = 7,
        channels: int = 1,
        compression: float = 0.5,
    ) -> None:
        super().__init__()
        if window % frame:
            raise ConfigError(f"the window of {window} samples is not a multiple of the frame of {frame}")
        self.dim = dim
        self.frame = frame
        self.window = window
        self.channels = channels
        self.compression = compression
        self.delay = window - frame if delay is None else delay
        self.strides = [stage.get("stride", 1) for stage in stages]
        self.ratio = math.prod(self.strides)
        self.hop = frame * self.ratio
        self.register_buffer("synthesis", _inverse_dft(window, frame), persistent=False)
        bins = window // 2 + 1
        self.linear = Linear(dim, self.ratio * channels * 2 * bins)
        depth = sum(stage["depth"] for stage in stages)
        self.embed = Linear(dim, stages[0]["dim"])
        self.stages = nn.ModuleList()
        self.split = nn.ModuleList()
        for stage, after in zip(stages, [*stages[1:], stages[-1]], strict=True):
            self.stages.append(_blocks(stage, kernel_size, 1 / depth))
            stride = stage.get("stride", 1)
            same = stride == 1 and after["dim"] == stage["dim"]
            self.split.append(nn.Identity() if same else Linear(stage["dim"], after["dim"] * stride))
        self.norm = nn.LayerNorm(stages[-1]["dim"])
        self.head = Linear(stages[-1]["dim"], channels * 3 * bins)
        nn.init.zeros_(self.head.weight)  # training starts from the linear map
        nn.init.zeros_(self.head.bias)

    def forward(self, z: Tensor, state: StreamState | None = None, bitrate: Tensor | None = None) -> Tensor:
        """`(B, D, T)` to `(B, C, T * hop)`, lagging by `delay` samples."""
        if z.shape[-1] == 0:
            return z.new_zeros(z.shape[0], self.channels, 0)
        z = z.transpose(1, 2)
        start = _ungroup(self.linear(z), self.ratio)
        x = self.embed(z)
        for stride, blocks, split in zip(self.strides, self.stages, self.split, strict=True):
            x = blocks(x, state)
            x = _ungroup(split(x), stride)
        x = self.head(self.norm(x))
        with without_autocast(x.device):
            shape = (*x.shape[:2], self.channels, -1)
            gain, real, imag = x.float().view(shape).chunk(3, dim=-1)
            spectrum = start.float().view(shape) + torch.cat([real, imag], dim=-1)
            spectrum = spectrum * gain.clamp(max=3.0).exp().repeat(1, 1, 1, 2)
            spectrum = _scale(spectrum, 1 / self.compression - 1)
            frames = linear(spectrum, self.synthesis)  # (B, T, C, window)
            return self._overlap(frames.transpose(1, 2), state)

    def span(self, first: float, last: float) -> Span:
        """The frames that samples `first` to `last` of the lagging output depend on."""
        first, last = first // self.frame - (self.window // self.frame - 1), last // self.frame
        for stride, blocks in zip(reversed(self.strides), reversed(self.stages), strict=True):
            first, last = blocks.span(first // stride, last // stride)  # type: ignore[operator]
        return first, last

    def _overlap(self, frames: Tensor, state: StreamState | None) -> Tensor:
        """Add overlapping windows `(B, C, T, window)` to `(B, C, T * frame)`."""
        batch, channels, count, _ = frames.shape
        overlap = self.window // self.frame
        past = overlap - 1
        if state is None:
            frames = F.pad(frames, (0, 0, past, 0))
        else:
            frames = state.join(self, frames, past, 2)
        parts = frames.view(batch, channels, count + past, overlap, self.frame)
        out = parts[:, :, past:, 0]
        for k in range(1, overlap):
            out = out + parts[:, :, past - k : past - k + count, k]
        return out.reshape(batch, channels, count * self.frame)


def _blocks(stage: dict[str, int], kernel_size: int, scale: float) -> StreamSequential:
    blocks = [
        CausalConvNeXtBlock(stage["dim"], stage["hidden"], kernel_size=kernel_size, scale=scale)
        for _ in range(stage["depth"])
    ]
    return StreamSequential(*blocks)


def _group(x: Tensor, count: int) -> Tensor:
    """Put `count` frames side by side: `(B, T, C)` to `(B, T / count, count * C)`."""
    return x.reshape(x.shape[0], x.shape[1] // count, count * x.shape[2])


def _ungroup(x: Tensor, count: int) -> Tensor:
    """Undo `_group`: `(B, T, C)` to `(B, T * count, C / count)`."""
    return x.reshape(x.shape[0], x.shape[1] * count, x.shape[2] // count)


def _scale(spectrum: Tensor, exponent: float) -> Tensor:
    """Multiply complex values `(..., 2 * bins)` by their magnitude ** exponent."""
    real, imag = spectrum.chunk(2, dim=-1)
    power = real.square() + imag.square() + 1e-9
    # exp of log, for `pow` treats the last few elements of a tensor differently from the others
    gain = (power.log() * (exponent / 2)).exp()
    return torch.cat([real * gain, imag * gain], dim=-1)


def _depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """Per-channel convolution of `(B, T + k - 1, C)` with `(k, C)`: `(B, T, C)`."""
    taps, channels = weight.shape
    if torch.is_grad_enabled():
        kernel = weight.t().view(channels, 1, 1, taps)
        return (
            F.conv2d(x.transpose(1, 2).unsqueeze(2), kernel.to(x.dtype), groups=channels)
            .squeeze(2)
            .transpose(1, 2)
        )
    # all taps of a frame in one order, however many frames there are
    parts = []
    for start in range(0, x.shape[1] - taps + 1, FRAMES_AT_A_TIME):
        near = x[:, start : start + FRAMES_AT_A_TIME + taps - 1]
        step = near.stride(1)
        windows = near.as_strided(
            (len(x), near.shape[1] - taps + 1, taps, channels), (x.stride(0), step, step, 1)
        )
        parts.append((windows * weight).sum(2))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _hann(window: int) -> Tensor:
    return torch.hann_window(window, periodic=True, dtype=torch.float64)


def _dft(window: int) -> Tensor:
    """Weight `(2 * bins, window)` of the windowed real DFT, orthonormal up to the window."""
    n = torch.arange(window, dtype=torch.float64)
    k = torch.arange(window // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi * n[:, None] * k[None, :] / window
    basis = torch.cat([angle.cos(), -angle.sin()], dim=1) / math.sqrt(window)
    return (basis * _hann(window)[:, None]).float().t().contiguous()


def _inverse_dft(window: int, frame: int) -> Tensor:
    """Weight `(window, 2 * bins)` of the inverse of `_dft`, windowed so that overlapping frames add to the signal."""
    n = torch.arange(window, dtype=torch.float64)
    k = torch.arange(window // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi * k[:, None] * n[None, :] / window
    weight = torch.full((window // 2 + 1, 1), 2.0, dtype=torch.float64)
    weight[0] = weight[-1] = 1.0
    basis = torch.cat([weight * angle.cos(), -weight * angle.sin()], dim=0) / math.sqrt(window)
    hann = _hann(window)
    total = hann.square().view(-1, frame).sum(0).repeat(window // frame)
    return (basis * (hann / total)).float().t().contiguous()
