"""From a configuration to objects: every short name that a configuration may use, and `build`."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from itertools import accumulate
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from codec.errors import CodecError, ConfigError, suggestion

if TYPE_CHECKING:
    from codec.models.codec import Codec

# The short names of every kind of part. Classes are imported when asked for: encoding a file loads only what it needs.
PARTS: dict[str, dict[str, str]] = {
    "encoder": {
        "fourier_encoder": "codec.models.fourier:FourierEncoder",
        "seanet_encoder": "codec.models.convnet_seanet:SEANetEncoder",
        "dac_encoder": "codec.models.convnet_dac:DACEncoder",
        "mimi_encoder": "codec.models.convnet_mimi:MimiEncoder",
        "hificodec_encoder": "codec.models.convnet_hificodec:HiFiCodecEncoder",
    },
    "decoder": {
        "fourier_decoder": "codec.models.fourier:FourierDecoder",
        "seanet_decoder": "codec.models.convnet_seanet:SEANetDecoder",
        "dac_decoder": "codec.models.convnet_dac:DACDecoder",
        "mimi_decoder": "codec.models.convnet_mimi:MimiDecoder",
        "hificodec_decoder": "codec.models.convnet_hificodec:HiFiCodecDecoder",
        "vocos_decoder": "codec.models.vocos:VocosDecoder",
    },
    "quantizer": {
        "vq": "codec.quantizers.vector:VQ",
        "rvq": "codec.quantizers.vector:RVQ",
        "grvq": "codec.quantizers.vector:GRVQ",
        "mcrvq": "codec.quantizers.vector:MCRVQ",
        "product": "codec.quantizers.vector:ProductVQ",
        "split_rvq": "codec.quantizers.split_rvq:SplitRVQ",
        "vaevq": "codec.quantizers.vaevq:VAEVQ",
        "fsq": "codec.quantizers.fsq:FSQ",
        "ifsq": "codec.quantizers.fsq:IFSQ",
        "residual_fsq": "codec.quantizers.fsq:ResidualFSQ",
        "lfq": "codec.quantizers.binary:LFQ",
        "bsq": "codec.quantizers.binary:BSQ",
        "bernoulli": "codec.quantizers.binary:Bernoulli",
        "lattice": "codec.quantizers.lattice:Lattice",
        "qlae": "codec.quantizers.lattice:QLAE",
        "pvq": "codec.quantizers.pvq:PVQ",
        "turboquant": "codec.quantizers.turboquant:TurboQuant",
    },
    "discriminator": {
        "mpd": "codec.discriminators.period:MultiPeriodDiscriminator",
        "msd": "codec.discriminators.scale:MultiScaleDiscriminator",
        "ms_stft": "codec.discriminators.stft:MultiScaleSTFTDiscriminator",
        "mrd": "codec.discriminators.stft:MultiResolutionDiscriminator",
        "multiband_stft": "codec.discriminators.stft:MultiBandSTFTDiscriminator",
    },
    "loss": {
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
    },
    # ours are not named in configurations
    "dataset": {},
    "callback": {},
    "logger": {},
}
# what a part of each kind must be a subclass of
BASES = {
    "encoder": "codec.models.parts:Encoder",
    "decoder": "codec.models.parts:Decoder",
    "quantizer": "codec.quantizers.base:Quantizer",
    "discriminator": "codec.discriminators.base:Discriminator",
    "loss": "torch.nn:Module",
    "dataset": "torch.utils.data:Dataset",
    "callback": "lightning:Callback",
    "logger": "lightning.pytorch.loggers:Logger",
}
ENTRY_POINTS = "codec.parts"

#: Which code outside this package a configuration may name: import paths, modules or packages; True is any.
Allow = bool | Collection[str]


def build(config: Mapping[str, Any], *, allow: Allow = ()) -> Codec:
    """Make the codec that `config` describes, with fresh weights.

    Args:
        config: `{"model": {"sample_rate", "channels", "encoder": {"name", ...}, "decoder": {"name", ...}},
            "quantizer": {"name", ...}}`. The quantizer's `dim` comes from the encoder, so it is not written
            twice. A model with `segments: {"length", "stride"}` codes its signal in pieces.
        allow: which code outside this package may be imported (see `resolve`).

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
    encoder = make("encoder", _section(model, "encoder", "the model"), allow=allow, channels=channels)
    spec = _section(config, "quantizer", "the configuration")
    quantizer = make("quantizer", spec, allow=allow, dim=encoder.dim)
    if quantizer.dim != encoder.dim:
        raise ConfigError(
            f"the encoder's dim is {encoder.dim} and the quantizer's is {quantizer.dim}: leave it out there"
        )
    decoder = make("decoder", _section(model, "decoder", "the model"), allow=allow, channels=channels)
    if "segments" not in model:
        return Codec(encoder, quantizer, decoder, sample_rate=rate, channels=channels)
    from codec.models.segments import SegmentedCodec

    segments = _section(model, "segments", "the model")
    length, stride = _positive(segments, "length", None), _positive(segments, "stride", None)
    return SegmentedCodec(
        encoder, quantizer, decoder, sample_rate=rate, channels=channels, length=length, stride=stride
    )


def make(kind: str, spec: Mapping[str, Any], *, allow: Allow = (), **given: Any) -> Any:
    """Make the part that `spec` names.

    Args:
        kind: a key of `PARTS`.
        spec: `name`, and the constructor's keywords.
        allow: which code outside this package may be imported (see `resolve`).
        **given: keywords known from elsewhere, used where the constructor takes them and `spec` is silent.

    Raises:
        ConfigError: the name or a keyword does not exist, a keyword is missing, or its value is refused.
    """
    settings = dict(spec)
    name = settings.pop("name", None)
    cls = resolve(kind, name, allow)
    takes = keywords(cls)
    for key in settings:
        if key not in takes:
            raise ConfigError(f"the {kind} {name!r} has no setting {key!r}; it has {', '.join(takes)}")
    settings = {key: value for key, value in given.items() if key in takes} | settings
    missing = [key for key, needed in takes.items() if needed and key not in settings]
    if missing:
        raise ConfigError(f"the {kind} {name!r} needs the setting {', '.join(missing)}")
    try:
        return cls(**settings)
    except CodecError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the {kind} {name!r} refuses its settings: {error}") from error


def resolve(kind: str, name: object, allow: Allow = ()) -> type:
    """The class that a name of the configuration stands for.

    Args:
        kind: a key of `PARTS`.
        name: a short name of this package; one that an installed package gives, an entry point `KIND.NAME` of the group
            `codec.parts`; or an import path, `my_package.my_module:MyClass`.
        allow: the import paths that may be followed: themselves, or modules or packages that hold them; True for any.
            This package's own are always followed. Nothing is imported for a path that is not allowed.

    Raises:
        ConfigError: there is no such name (those there are are listed), the path is not allowed or leads nowhere, or
            what stands there is no such part.
    """
    path = str(name)
    if isinstance(name, str) and ":" in name:
        module = path.partition(":")[0]
        within = {path, *accumulate(module.split("."), "{}.{}".format)}
        allowed = {allow} if isinstance(allow, str) else set(allow or ()) if allow is not True else within
        if within.isdisjoint({"codec", *allowed}):
            raise ConfigError(
                f"the {kind} {name!r} is code from outside this package, which is imported only where it is allowed: "
                f"load(..., allow=[{name!r}])"
            )
    else:
        known = PARTS[kind] if name in PARTS[kind] else PARTS[kind] | _installed(kind)
        if name not in known:
            hint = suggestion(path, known)
            raise ConfigError(
                f"there is no {kind} named {name!r}{hint}; there are {', '.join(known) or 'none'}"
            )
        path = known[path]
    cls = _import(path, f"the {kind} {name!r}")
    if not (isinstance(cls, type) and issubclass(cls, _import(BASES[kind], "its base"))):
        raise ConfigError(f"the {kind} {name!r} is no subclass of {BASES[kind]}")
    return cls


def _installed(kind: str) -> dict[str, str]:
    """Short name to import path of the parts that installed packages bring."""
    points = entry_points(group=ENTRY_POINTS)
    return {p.name.partition(".")[2]: p.value for p in points if p.name.partition(".")[0] == kind}


def _import(path: str, what: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{what} cannot be imported: {error}") from error


def keywords(cls: type) -> dict[str, bool]:
    """A constructor's keywords, those of `**choices: Unpack[...]` included; True where one is required."""
    found: dict[str, bool] = {}
    for key, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            # a class without a constructor of its own has that of nn.Module, whose keywords are of any type
            typed = get_args(get_type_hints(cls.__init__).get(key))  # type: ignore[misc]
            found |= dict.fromkeys(get_type_hints(typed[0]) if typed else (), False)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            found[key] = parameter.default is parameter.empty
    return found


def spelled_out(kind: str, spec: Mapping[str, Any], allow: Allow = ()) -> dict[str, Any]:
    """The settings of a part with the defaults of those that `spec` leaves out.

    Raises:
        ConfigError: its name does not exist.
    """
    takes = inspect.signature(resolve(kind, spec.get("name"), allow)).parameters
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
