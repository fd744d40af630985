"""The memory of a stream: owned by the stream, handed to the layers, never stored in them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from codec.errors import CodecError


class StreamState:
    """Histories of every layer of one batch of streams, each under the layer's name in the network.

    Layers read with `get` and write with `put`, so one model serves any number of streams and a failed stream takes
    its memory with it.

    Args:
        network: whose layers the histories belong to.
        batch_size: number of parallel streams B.
        device: where the histories live.
        dtype: their floating point type.

    Attributes:
        active: `(B,)` bool or None (all). Rows set False keep their histories untouched by `put`.
        last: what is pushed now ends the stream: layers that hold samples back give them out.
        measuring: norms over the whole signal take note of what they hear, see `codec.nn.signal`.
    """

    def __init__(
        self,
        network: nn.Module,
        batch_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch_size < 1:
            raise CodecError(f"a batch of streams has at least one, not {batch_size}")
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.dtype = dtype
        self.active: Tensor | None = None
        self.last = False
        self.measuring = False
        self._names = {layer: name for name, layer in network.named_modules()}
        self._kept: dict[str, Tensor] = {}
        self._held: dict[str, Tensor] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing has been remembered yet."""
        return not self._kept and not self._held

    def get(
        self, layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype | None = None, name: str = "past"
    ) -> Tensor:
        """What `layer` last put under `name`, or zeros `(B, *shape)` at first use."""
        key = f"{self._names[layer]}.{name}"
        value = self._kept.get(key)
        if value is None:
            value = torch.zeros(self.batch_size, *shape, device=self.device, dtype=dtype or self.dtype)
            self._kept[key] = value
        return value

    def join(self, layer: nn.Module, x: Tensor, length: int, dim: int, name: str = "past") -> Tensor:
        """`x` behind the `length` values before it along `dim`, zeros at first; its own last ones are remembered."""
        key = f"{self._names[layer]}.{name}"
        past = self._kept.get(key)
        if past is None:
            past = torch.zeros_like(x.narrow(dim, 0, 1)).repeat_interleave(length, dim)
        joined = torch.cat([past, x], dim=dim)
        last = joined.narrow(dim, joined.shape[dim] - length, length)
        if self.active is None and joined.shape[dim] < 2 * length and not joined.requires_grad:
            self._kept[key] = last  # a view of what belongs to nobody else and is hardly longer
        else:
            self.put(layer, last, name)
        return joined

    def find(self, layer: nn.Module, name: str) -> Tensor | None:
        """What `layer` last put under `name`, or None."""
        return self._kept.get(f"{self._names[layer]}.{name}")

    def put(self, layer: nn.Module, value: Tensor, name: str = "past") -> None:
        """Store `value` `(B, ...)`; rows that are not active keep what they had."""
        key = f"{self._names[layer]}.{name}"
        if self.active is not None:
            old = self._kept.get(key)
            if old is None or old.shape != value.shape:
                old = torch.zeros_like(value)
            value = torch.where(self.active.view(-1, *[1] * (value.dim() - 1)), value, old)
        # a view of the caller's buffer would keep the whole chunk alive and follow its later changes
        self._kept[key] = value.detach().clone()

    def take(self, layer: nn.Module, name: str = "held") -> Tensor | None:
        """What was held back under `name`, or None; the stream no longer has it."""
        return self._held.pop(f"{self._names[layer]}.{name}", None)

    def hold(self, layer: nn.Module, value: Tensor, name: str = "held") -> None:
        """Hold `value` `(B, ..., n)` back, any n: for layers whose output lags their input.

        Raises:
            CodecError: only some rows are active; the streams of a network that looks ahead move together.
        """
        if self.active is not None:
            raise CodecError("streams of a codec that looks ahead cannot stop and go one by one")
        self._held[f"{self._names[layer]}.{name}"] = value.detach().clone()

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget everything, or only the streams where `rows` `(B,)` is True.

        Raises:
            CodecError: only some rows, in a network that looks ahead.
        """
        if rows is None:
            self._kept.clear()
            self._held.clear()
            self.last = False
            return
        if self._held:
            raise CodecError("streams of a codec that looks ahead cannot start one by one")
        for key, value in self._kept.items():
            self._kept[key] = value.masked_fill(rows.view(-1, *[1] * (value.dim() - 1)), 0)

    def clone(self) -> StreamState:
        """An independent copy: both can go on from here."""
        other = object.__new__(StreamState)
        other.__dict__ = self.__dict__ | {
            "active": None if self.active is None else self.active.clone(),
            "_kept": {key: value.clone() for key, value in self._kept.items()},
            "_held": {key: value.clone() for key, value in self._held.items()},
        }
        return other

    def state_dict(self) -> dict[str, Tensor]:
        """All histories by name: what another process needs to go on from here."""
        kept = {f"kept.{key}": value.clone() for key, value in self._kept.items()}
        return kept | {f"held.{key}": value.clone() for key, value in self._held.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave, for the same network.

        Raises:
            CodecError: it names a layer that the network does not have, or is of another number of streams.
        """
        names = set(self._names.values())
        stores: dict[str, dict[str, Tensor]] = {"kept": {}, "held": {}}
        for key, value in state.items():
            store, _, path = key.partition(".")
            if store not in stores or path.rpartition(".")[0] not in names:
                raise CodecError(
                    f"the state of this stream is of another codec: here is no layer for {key!r}"
                )
            if len(value) != self.batch_size:
                raise CodecError(f"this state is of {len(value)} streams, and here are {self.batch_size}")
            stores[store][path] = value.to(self.device, copy=True)
        self._kept, self._held = stores["kept"], stores["held"]

    def nbytes(self) -> int:
        """Bytes held by all histories."""
        kept = [*self._kept.values(), *self._held.values()]
        return sum(value.numel() * value.element_size() for value in kept)
