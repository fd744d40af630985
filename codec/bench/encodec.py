"""EnCodec at 24 kHz here and in the package `encodec`: the same weights, in turn in one process."""

from __future__ import annotations

import statistics
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from codec import assets
from codec.bench.speed import fresh
from codec.bench.timing import Work, in_turn, ratios
from codec.checkpoint import load
from codec.convert import import_weights
from codec.ops.threads import threads

NUM_CODEBOOKS, RATE = 8, 24000  # 6 kbps
_OURS = """
import sys, torch
from codec import checkpoint
torch.set_num_threads(1)
codec = checkpoint.load(sys.argv[1])
signal = 0.1 * torch.randn(1, 1, int(sys.argv[2]))
codes = list(codec.encoder_stream(num_codebooks=8).run(signal.split(24000, -1)))
for piece in codec.decoder_stream().run(codes):
    pass
"""
_THEIRS = """
import sys, torch
from encodec import EncodecModel
torch.set_num_threads(1)
model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
model.load_state_dict(torch.load(sys.argv[1]))
model.set_target_bandwidth(6.0)
with torch.no_grad():
    model.decode(model.encode(0.1 * torch.randn(1, 1, int(sys.argv[2]))))
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """One length, both ways, one thread.

    Attributes:
        seconds: of sound.
        what: encode or decode.
        ours: median seconds it took here.
        theirs: median seconds it took the package.
        ratios: theirs over ours, round by round.
        same: codes that agree, of all; of decoding, whether no sample differs by more than 1e-4.
    """

    seconds: float
    what: str
    ours: float
    theirs: float
    ratios: tuple[float, ...]
    same: float

    @property
    def ratio(self) -> float:
        """Median of the ratios: how many times faster it is here."""
        return statistics.median(self.ratios)


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak resident memory in MB of a fresh process that encodes and decodes so many seconds, here and there."""

    seconds: float
    ours: float
    theirs: float


def compare(lengths: Sequence[float] = (10.0, 60.0), *, rounds: int = 5) -> Iterator[Pair | Memory]:
    """Encode and decode noise of each length at 6 kbps here and in the package.

    Args:
        lengths: in seconds.
        rounds: that count; one before them warms up.

    Raises:
        ConfigError: the package is not installed or does not load.
    """
    package = assets.optional("encodec", "encodec")
    with tempfile.TemporaryDirectory() as folder, threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's form of weight norm
        torch.manual_seed(0)
        model = package.EncodecModel.encodec_model_24khz(pretrained=False).eval()
        for layer in model.quantizer.vq.layers:  # empty until training
            layer._codebook.inited.fill_(1)
            layer._codebook.embed.normal_().mul_(0.3)
        model.set_target_bandwidth(6.0)
        theirs, ours = Path(folder) / "encodec.th", Path(folder) / "encodec.safetensors"
        torch.save(model.state_dict(), theirs)
        import_weights("encodec", str(theirs), ours)
        codec = load(ours)
        for seconds in lengths:
            samples = round(seconds * RATE)
            audio = 0.1 * torch.randn(1, 1, samples)

            def encode_here(audio: Tensor = audio) -> Tensor:
                stream = codec.encoder_stream(num_codebooks=NUM_CODEBOOKS)
                return torch.cat(list(stream.run(audio.split(RATE, -1))), -1)

            with torch.no_grad():
                codes, [(reference, _)] = encode_here(), model.encode(audio)

                def decode_here(codes: Tensor = reference) -> Tensor:
                    blocks = codec.decoder_stream().run(codes.split(RATE // codec.hop, -1))
                    return torch.cat(list(blocks), -1)

                def decode_there(codes: Tensor = reference) -> Tensor:
                    return model.decode([(codes, None)])

                same = float((codes == reference).double().mean())
                yield _race(seconds, "encode", encode_here, partial(model.encode, audio), rounds, same)
                worst = float((decode_here() - decode_there()[..., :samples]).abs().max())
                yield _race(seconds, "decode", decode_here, decode_there, rounds, float(worst <= 1e-4))
            sides = ((_OURS, ours), (_THEIRS, theirs))
            yield Memory(seconds, *(fresh(script, str(path), str(samples))[0] for script, path in sides))


def _race(seconds: float, what: str, here: Work, there: Work, rounds: int, same: float) -> Pair:
    spent = in_turn({"here": here, "there": there}, rounds)
    ours, theirs = spent["here"], spent["there"]
    return Pair(seconds, what, statistics.median(ours), statistics.median(theirs), ratios(theirs, ours), same)
