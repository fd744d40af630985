"""Transformer layers whose attention reaches over a bounded window, exact in any chunking.

As in Mimi (Défossez et al., arXiv 2410.00037): pre-norm, rotary positions (Su et al., arXiv 2104.09864), LayerScale.
With frames ahead in the window the layers look both ways, and in a stream lag by those frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.errors import ConfigError
from codec.nn.activations import gelu
from codec.nn.layer import Layer, Span
from codec.nn.linear import Linear, exact
from codec.nn.padded import align
from codec.nn.state import StreamState

QUERIES = 64  # at a time; each has its own copy of the keys in its window


class Attention(Layer):
    """Every frame attends to itself, the `window - 1` frames before it and the `ahead` frames after it.

    Args:
        dim: channels C.
        heads: number of heads; each has C / heads channels, an even number.
        window: frames in reach, the own one included, those ahead not.
        ahead: frames after the own one in reach.

    Raises:
        ConfigError: the heads do not divide the channels evenly.
    """

    def __init__(self, dim: int, heads: int, window: int, ahead: int = 0) -> None:
        super().__init__()
        if dim % (2 * heads):
            raise ConfigError(f"{dim} channels cannot be divided among {heads} heads with rotary positions")
        self.heads, self.window, self.ahead = heads, window, ahead
        self.into = Linear(dim, 3 * dim, bias=False)
        self.out = Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, T, C)` to `(B, T, C)`; in a stream, to the frames whose window is complete by now."""
        batch, frames, dim = x.shape
        past = self.window - 1
        # how many frames of the stream went before, row by row, for rows may start at different times
        if state is None:
            before = x.new_zeros(batch, 2, past, dim)
            seen = torch.zeros(batch, dtype=torch.int64, device=x.device)
        else:
            before = state.get(self, (2, past, dim), x.dtype)
            seen = state.get(self, (), torch.int64, "seen")
        query, key, value = self.into(x).chunk(3, dim=-1)
        positions = seen[:, None] + torch.arange(frames, device=x.device)
        query, key = self._rotate(query, positions), self._rotate(key, positions)
        both = torch.cat([before, torch.stack([key, value], dim=1)], dim=2)  # (B, 2, past + T, C)
        end = seen + frames
        if self.ahead:
            query, both, seen = self._wait(query, both, seen, state)
        if state is not None:
            # behind what the next frame to come out needs
            state.put(self, both[:, :, query.shape[1] : query.shape[1] + past])
            state.put(self, end, "seen")
        attend = self._by_window if exact(x) else self._at_once
        return self.out(attend(query, both, seen, end))

    def span(self, first: float, last: float) -> Span:
        """The frames in the window."""
        return first - (self.window - 1), last + self.ahead

    def _wait(
        self, query: Tensor, both: Tensor, seen: Tensor, state: StreamState | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the frames that are complete; the others wait in the stream."""
        waiting = None if state is None else state.take(self, "query")
        if waiting is not None:
            query, seen = torch.cat([waiting, query], dim=1), seen - waiting.shape[1]
            past, later = self.window - 1, state.take(self, "later")  # type: ignore[union-attr]
            both = torch.cat([both[:, :, :past], later, both[:, :, past:]], dim=2)  # type: ignore[list-item]
        if state is None or state.last:
            return query, F.pad(both, (0, 0, 0, self.ahead)), seen
        ready = max(0, query.shape[1] - self.ahead)
        state.hold(self, query[:, ready:], "query")
        state.hold(self, both[:, :, ready + self.window - 1 :], "later")
        return query[:, :ready], both, seen

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn pairs of channels `(B, T, C)` by angles that grow with the position `(B, T)`."""
        half = x.shape[-1] // self.heads // 2
        # in 64 bits, for a stream of hours has positions that 32 bits could not turn precisely
        rate = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
        angle = torch.remainder(positions[..., None].double() * rate, 2 * torch.pi).float()[:, :, None]
        cos, sin = angle.cos(), angle.sin()  # (B, T, 1, half)
        a, b = x.float().unflatten(-1, (self.heads, 2, half)).unbind(-2)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-2).flatten(-3).to(x.dtype)

    def _at_once(self, query: Tensor, both: Tensor, seen: Tensor, end: Tensor) -> Tensor:
        """Frames `(B, T, C)` of queries, keys and values, of which `seen` came before and there are `end` in all."""
        frames, past = query.shape[1], self.window - 1
        q = query.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = both.unflatten(-1, (self.heads, -1)).transpose(2, 3).unbind(1)
        t = torch.arange(frames, device=query.device)[:, None]
        s = torch.arange(both.shape[2], device=query.device)
        mask = (s >= t) & (s <= t + past + self.ahead)
        mask = mask & (s >= past - seen[:, None, None]) & (s < past + (end - seen)[:, None, None])
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])
        return y.transpose(1, 2).flatten(2)

    def _by_window(self, query: Tensor, both: Tensor, seen: Tensor, end: Tensor) -> Tensor:
        """The same by products of one shape for every query, so that its sums take one order."""
        frames, width = query.shape[1], query.shape[2] // self.heads
        span = self.window + self.ahead
        parts = [query[:, :0]]
        for first in range(0, frames, QUERIES):
            q = query[:, first : first + QUERIES].unflatten(-1, (self.heads, 1, width))  # (B, t, H, 1, d)
            near = both[:, :, first : first + q.shape[1] + span - 1].unfold(2, span, 1)
            # copies of one layout, for products of views take other paths in other batches
            k, v = (
                part.contiguous() for part in near.unflatten(3, (self.heads, width)).unbind(1)
            )  # (B, t, H, d, span)
            score = torch.matmul(q * width**-0.5, k)  # (B, t, H, 1, span)
            t = torch.arange(first, first + q.shape[1], device=q.device)
            place = torch.arange(1 - self.window, self.ahead + 1, device=q.device)
            place = place + (seen[:, None] + t)[..., None]  # (B, t, span), in the stream
            nobody = (place < 0) | (place >= end[:, None, None])
            score = score.masked_fill(nobody[:, :, None, None], float("-inf"))
            parts.append(torch.matmul(score.softmax(-1), v.transpose(-1, -2)).flatten(2))
        return torch.cat(parts, dim=1)


class TransformerLayer(Layer):
    """Attention and a two-layer perceptron, each normalized before and scaled down after.

    Args:
        dim: channels C.
        heads: of the attention.
        hidden: width inside the perceptron.
        window: frames in reach of the attention.
        ahead: further frames in its reach, after the own one.
        scale: initial LayerScale gain.
    """

    def __init__(
        self, dim: int, heads: int, hidden: int, window: int, ahead: int = 0, scale: float = 0.01
    ) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, window, ahead)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.expand = Linear(dim, hidden, bias=False)
        self.contract = Linear(hidden, dim, bias=False)
        self.gain1 = nn.Parameter(torch.full((dim,), scale))
        self.gain2 = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, T, C)` to `(B, T, C)`."""
        y = self.attention(self.norm1(x), state)
        if self.attention.ahead:
            x, y = (
                part.transpose(1, 2) for part in align(self, [x.transpose(1, 2), y.transpose(1, 2)], state)
            )
        x = x + self.gain1 * y
        return x + self.gain2 * self.contract(gelu(self.expand(self.norm2(x))))

    def span(self, first: float, last: float) -> Span:
        """The frames in the attention's window."""
        return self.attention.span(first, last)


class Transformer(Layer):
    """Layers of windowed attention over the frames of a latent.

    Args:
        dim: channels C.
        layers: how many.
        heads: of each attention.
        hidden: width inside the perceptrons; 4 C by default.
        window: frames in reach of each layer, the own one included.
        ahead: further frames in reach of each layer, after the own one; 0 is causal.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 8,
        heads: int = 8,
        hidden: int | None = None,
        window: int = 250,
        ahead: int = 0,
    ) -> None:
        super().__init__()
        self.ahead = ahead
        self.layers = nn.ModuleList(
            TransformerLayer(dim, heads, hidden or 4 * dim, window, ahead) for _ in range(layers)
        )

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, T)` to `(B, C, T)`."""
        if x.shape[-1] == 0 and not self.ahead:
            return x
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = layer(x, state)
        return x.transpose(1, 2)

    def span(self, first: float, last: float) -> Span:
        """Through the layers, from the last to the first."""
        for layer in self.layers:
            first, last = layer.span(first, last)  # type: ignore[operator]
        return first, last
