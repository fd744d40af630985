"""From a configuration to objects: every short name that a configuration may use, and `build`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from codec.errors import CodecError, ConfigError

if TYPE_CHECKING:
    from codec.models.codec import Codec

# Classes are named by text and imported when asked for, so that encoding a file loads only what it needs.
PARTS: dict[str, str] = {
    # encoders and decoders
    "fourier_encoder": "codec.models.fourier:FourierEncoder",
    "fourier_decoder": "codec.models.fourier:FourierDecoder",
    "seanet_encoder": "codec.models.convnet_seanet:SEANetEncoder",
    "seanet_decoder": "codec.models.convnet_seanet:SEANetDecoder",
    "dac_encoder": "codec.models.convnet_dac:DACEncoder",
    "dac_decoder": "codec.models.convnet_dac:DACDecoder",
    "mimi_encoder": "codec.models.convnet_mimi:MimiEncoder",
    "mimi_decoder": "codec.models.convnet_mimi:MimiDecoder",
    "hificodec_encoder": "codec.models.convnet_hificodec:HiFiCodecEncoder",
    "hificodec_decoder": "codec.models.convnet_hificodec:HiFiCodecDecoder",
    "vocos_decoder": "codec.models.vocos:VocosDecoder",
    # quantizers
    "vq": "codec.quantizers.vq:VQ",
    "rvq": "codec.quantizers.rvq:RVQ",
    "grvq": "codec.quantizers.grvq:GRVQ",
    "mcrvq": "codec.quantizers.mcrvq:MCRVQ",
    "product": "codec.quantizers.product:ProductVQ",
    "split_rvq": "codec.quantizers.splitrvq:SplitRVQ",
    "vaevq": "codec.quantizers.vaevq:VAEVQ",
    "fsq": "codec.quantizers.fsq:FSQ",
    "ifsq": "codec.quantizers.fsq:IFSQ",
    "residual_fsq": "codec.quantizers.rfsq:ResidualFSQ",
    "lfq": "codec.quantizers.binary:LFQ",
    "bsq": "codec.quantizers.binary:BSQ",
    "bernoulli": "codec.quantizers.binary:Bernoulli",
    "lattice": "codec.quantizers.lattice:Lattice",
    "qlae": "codec.quantizers.lattice:QLAE",
    "pvq": "codec.quantizers.pvq:PVQ",
    "turboquant": "codec.quantizers.turboquant:TurboQuant",
    # discriminators
    "mpd": "codec.discriminators.period:MultiPeriodDiscriminator",
    "msd": "codec.discriminators.scale:MultiScaleDiscriminator",
    "ms_stft": "codec.discriminators.stft:MultiScaleSTFTDiscriminator",
    "mrd": "codec.discriminators.stft:MultiResolutionDiscriminator",
    "multiband_stft": "codec.discriminators.stft:MultiBandSTFTDiscriminator",
    # losses
    "log_mel": "codec.losses.spectral:LogMelLoss",
    "soundstream_mel": "codec.losses.spectral:SoundStreamMelLoss",
    "stft": "codec.losses.spectral:STFTLoss",
    "complex_stft": "codec.losses.spectral:ComplexSTFTLoss",
    "waveform": "codec.losses.waveform:WaveformLoss",
    "si_sdr": "codec.losses.waveform:SISDRLoss",
    "lsgan": "codec.losses.adversarial:LeastSquaresLoss",
    "hinge": "codec.losses.adversarial:HingeLoss",
    "feature_sum": "codec.losses.adversarial:FeatureLoss",
    "feature_normalized": "codec.losses.adversarial:NormalizedFeatureLoss",
    "semantic_teacher": "codec.losses.teacher:SemanticTeacher",
}

# where the classes that may fill a place of the configuration live
PLACES = {
    "encoder": "codec.models.",
    "decoder": "codec.models.",
    "quantizer": "codec.quantizers.",
    "discriminator": "codec.discriminators.",
    "loss": "codec.losses.",
}


def build(config: Mapping[str, Any]) -> Codec:
    """Make the codec that `config` describes, with fresh weights.

    Args:
        config: `{"model": {"sample_rate", "channels", "encoder": {"name", ...}, "decoder": {"name", ...}},
            "quantizer": {"name", ...}}`. The quantizer's `dim` comes from the encoder, so it is not written
            twice. A model with `segments: {"length", "stride"}` codes its signal in pieces.

    Returns:
        A codec in training mode on the CPU.

    Raises:
        ConfigError: a name or a setting does not exist, one is missing, or the parts do not fit together.
    """
    from codec.models.codec import Codec

    model = _section(config, "model", "the configuration")
    known = {"sample_rate", "channels", "encoder", "decoder", "segments"}
    for key in model:
        if key not in known:
            raise ConfigError(f"the model has no setting {key!r}; it has {', '.join(sorted(known))}")
    rate, channels = _positive(model, "sample_rate", None), _positive(model, "channels", 1)
    encoder = make("encoder", _section(model, "encoder", "the model"), channels=channels)
    quantizer = make("quantizer", _section(config, "quantizer", "the configuration"), dim=encoder.dim)
    if quantizer.dim != encoder.dim:
        raise ConfigError(
            f"the encoder's dim is {encoder.dim} and the quantizer's is {quantizer.dim}: leave it out there"
        )
    decoder = make("decoder", _section(model, "decoder", "the model"), channels=channels)
    if "segments" not in model:
        return Codec(encoder, quantizer, decoder, sample_rate=rate, channels=channels)
    from codec.models.segments import SegmentedCodec

    segments = _section(model, "segments", "the model")
    length, stride = _positive(segments, "length", None), _positive(segments, "stride", None)
    return SegmentedCodec(
        encoder, quantizer, decoder, sample_rate=rate, channels=channels, length=length, stride=stride
    )


def make(place: str, spec: Mapping[str, Any], **given: Any) -> Any:
    """Make the part that `spec` names.

    Args:
        place: what it is for, a key of `PLACES`.
        spec: `name`, and the constructor's keywords.
        **given: keywords known from elsewhere, used where the constructor takes them and `spec` is silent.

    Raises:
        ConfigError: the name or a keyword does not exist, a keyword is missing, or its value is refused.
    """
    settings = dict(spec)
    name = settings.pop("name", None)
    cls = part(place, name)
    takes = keywords(cls)
    for key in settings:
        if key not in takes:
            raise ConfigError(f"the {place} {name!r} has no setting {key!r}; it has {', '.join(takes)}")
    settings = {key: value for key, value in given.items() if key in takes} | settings
    missing = [key for key, needed in takes.items() if needed and key not in settings]
    if missing:
        raise ConfigError(f"the {place} {name!r} needs the setting {', '.join(missing)}")
    try:
        return cls(**settings)
    except CodecError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the {place} {name!r} refuses its settings: {error}") from error


def part(place: str, name: object) -> Any:
    """The class that the short name stands for.

    Raises:
        ConfigError: there is no such name for this place; lists those there are.
    """
    options = [key for key, path in PARTS.items() if path.startswith(PLACES[place])]
    if name not in options:
        close = difflib.get_close_matches(str(name), options, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"there is no {place} named {name!r}{hint}; there are {', '.join(options)}")
    module, _, attribute = PARTS[str(name)].partition(":")
    return getattr(import_module(module), attribute)


def keywords(cls: type) -> dict[str, bool]:
    """A constructor's keywords, those of `**choices: Unpack[...]` included; True where one is required."""
    found: dict[str, bool] = {}
    for key, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            # a class without a constructor of its own has that of nn.Module, whose keywords are of any type
            typed = get_args(get_type_hints(cls.__init__)[key])  # type: ignore[misc]
            found |= dict.fromkeys(get_type_hints(typed[0]) if typed else (), False)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            found[key] = parameter.default is parameter.empty
    return found


def spelled_out(place: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a part with the defaults of those that `spec` leaves out.

    Raises:
        ConfigError: its name does not exist.
    """
    takes = inspect.signature(part(place, spec.get("name"))).parameters
    defaults = {key: one.default for key, one in takes.items() if one.default is not one.empty}
    return defaults | dict(spec)


def _section(config: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = config.get(key)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} has no section {key!r}")
    return value


def _positive(model: Mapping[str, Any], key: str, default: int | None) -> int:
    value = model.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"the model's {key} must be a positive whole number, not {value!r}")
    return value
