"""The memory of a stream: owned by the stream, handed to the modules, never stored in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codec.errors import CodecError

if TYPE_CHECKING:
    from codec.nn.signal import SignalStatistics


class StreamState:
    """Histories of every stateful module of one batch of streams.

    Modules read with `get` and write with `put`; each uses itself as the key, so one model serves any number
    of streams and a failed stream takes its memory with it.

    Args:
        batch_size: number of parallel streams B.
        device: where the histories live.
        dtype: their floating point type.

    Attributes:
        active: `(B,)` bool or None (all). Rows set False keep their histories untouched by `put`.
        last: what is pushed now ends the stream: modules that hold samples back give them out.
        statistics: of the whole signal, for networks that normalize over it; None in a live stream.
    """

    def __init__(
        self, batch_size: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.dtype = dtype
        self.active: Tensor | None = None
        self.last = False
        self.statistics: SignalStatistics | None = None
        self._store: dict[Any, Tensor] = {}
        self._held: dict[Any, Tensor] = {}

    def get(self, key: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """The tensor last put under `key`, or zeros `(B, *shape)` at first use."""
        if key not in self._store:
            self._store[key] = torch.zeros(
                self.batch_size, *shape, device=self.device, dtype=dtype or self.dtype
            )
        return self._store[key]

    def put(self, key: Any, value: Tensor) -> None:
        """Store `value` `(B, ...)`; rows that are not active keep what they had."""
        if value.requires_grad:
            value = value.detach()
        if self.active is not None:
            old = self._store.get(key)
            if old is None or old.shape != value.shape:
                old = torch.zeros_like(value)
            rows = self.active.view(-1, *[1] * (value.dim() - 1))
            value = torch.where(rows, value, old)
        # a view of the caller's buffer would keep the whole chunk alive and follow its later changes
        self._store[key] = value.clone()

    def take(self, key: Any) -> Tensor | None:
        """What was held back under `key`, or None; the stream no longer has it."""
        return self._held.pop(key, None)

    def hold(self, key: Any, value: Tensor) -> None:
        """Hold `value` `(B, ..., n)` back, any n: for modules whose output lags their input.

        Raises:
            CodecError: only some rows are active; the streams of a network that looks ahead move together.
        """
        if self.active is not None:
            raise CodecError("streams of a codec that looks ahead cannot stop and go one by one")
        self._held[key] = value.detach().clone()

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget everything, or only the streams where `rows` `(B,)` is True.

        Raises:
            CodecError: only some rows, in a network that looks ahead.
        """
        if rows is None:
            self._store.clear()
            self._held.clear()
            self.last = False
            return
        if self._held:
            raise CodecError("streams of a codec that looks ahead cannot start one by one")
        for key, value in self._store.items():
            self._store[key] = value.masked_fill(rows.view(-1, *[1] * (value.dim() - 1)), 0)

    def clone(self) -> StreamState:
        """An independent copy: both can go on from here."""
        other = StreamState(self.batch_size, self.device, self.dtype)
        other.active = None if self.active is None else self.active.clone()
        other.last = self.last
        other.statistics = self.statistics
        other._store = {key: value.clone() for key, value in self._store.items()}
        other._held = {key: value.clone() for key, value in self._held.items()}
        return other

    def nbytes(self) -> int:
        """Bytes held by all histories."""
        kept = [*self._store.values(), *self._held.values()]
        return sum(value.numel() * value.element_size() for value in kept)
