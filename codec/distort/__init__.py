"""What happens to codes on their way: one set of channels for evaluation and demo."""

from codec.distort.channel import CHANNELS, TokenChannel, flip_bits, repeat_last

__all__ = ["CHANNELS", "TokenChannel", "flip_bits", "repeat_last"]
