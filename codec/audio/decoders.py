"""The two libraries that decode sound: libsndfile where it gives every sample, FFmpeg's (through PyAV) for the rest."""

from collections import deque
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from codec.audio.containers import Facts, View
from codec.errors import AudioError

Block = NDArray[np.float32]

_DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,au,caf,dsf,eac3,flac,loas,matroska,mov,mp3,ogg,rm,tak,tta,voc,w64,wav,wv,xwma"
)
_PREROLL = (
    64  # packets of MPEG audio that are decoded before a place: its frames borrow bits from those before
)
_FAR = 2000  # packets, about a minute: what is nearer is decoded on the way
_OPUS_PREROLL = 0.08  # seconds, RFC 7845, 4.6


class NotSound(Exception):
    """The decoder does not know the format; its argument says more."""


class SndFile(soundfile.SoundFile):
    """Keeps soundfile from seeking after each read to where it is: slow in FLAC, fatal in unknown length."""

    def seekable(self) -> bool:
        return False


class SndfileDecoder:
    """libsndfile.

    Raises:
        NotSound: not a format or coding that it reads.
    """

    damaged = declared = 0

    def __init__(self, view: View, facts: Facts) -> None:
        self._view, self._facts = view, facts
        self._open()
        frames = self._file.frames
        self.frames = frames if frames < 1 << 62 else None
        self.sample_rate, self.channels = self._file.samplerate, self._file.channels
        self.format, self.subtype = self._file.format, self._file.subtype
        self._clock = 48000 if self.subtype == "OPUS" else self.sample_rate
        last = facts.last_sample
        if last is not None and abs(last * self.sample_rate - frames * self._clock) > self._clock:
            self._file.close()
            raise NotSound("begins within a broadcast, where libsndfile cannot seek")

    def _open(self) -> None:
        self._view.seek(0)
        try:
            self._file = SndFile(self._view)
        except (soundfile.LibsndfileError, TypeError) as error:
            raise NotSound(str(error)) from None
        self.position = 0

    def seek(self, frame: int) -> None:
        target = frame
        if self.format == "OGG":
            # where libsndfile goes in Ogg depends on where it was, and in the last page it is always wrong
            self._reopen()
            target = min(frame, self._facts.last_page * self.sample_rate // self._clock)
            target = max(0, target - round(_OPUS_PREROLL * self.sample_rate) * (self.subtype == "OPUS"))
        try:
            self._file.seek(target)
            self.position = target
        except soundfile.LibsndfileError:  # a coding that can only be read through
            if frame < self.position:
                self._reopen()
        while self.position < frame and len(self.read(min(1 << 16, frame - self.position))):
            pass

    def count(self) -> int:
        """Reads to the end."""
        while len(self.read(1 << 16)):
            pass
        return self.position

    def _reopen(self) -> None:
        self._file.close()
        self._open()

    def read(self, frames: int) -> Block:
        """Up to so many frames `(n, C)`."""
        block: Block = self._file.read(frames, dtype="float32", always_2d=True)
        self.position += len(block)
        return block

    def close(self) -> None:
        self._file.close()


class AvDecoder:
    """FFmpeg's libraries, restricted to formats of sound, which open no other file.

    A damaged packet is passed over, as players do, and counted in `damaged`. Places in MPEG audio are found by counting
    packets, so behind damage they may be a packet off; all other formats are read through.

    Raises:
        NotSound: no sound in it that can be decoded.
        AudioError: while reading, the sample rate or the number of channels changes, or the end is missing.
    """

    frames = None  # only reading tells
    sample_rate: int
    channels: int
    _container: Any
    _stream: Any

    def __init__(self, view: View, facts: Facts) -> None:
        import av  # here because it takes a moment, and most files do not need it

        av.logging.set_level(None)
        self._av, self._view = av, view
        self._open()
        self.format = self._container.format.name.split(",")[0].upper()
        self.subtype = self._stream.codec_context.codec.name.upper()
        # samples that must be there, for tables and counts are no estimates; priming and rounding are not missed
        self.declared = max(0, facts.counted - 4) * self._stream.codec_context.frame_size
        if self.format == "MOV" and self._stream.duration:
            self.declared = round(self.sample_rate * (self._stream.duration * self._stream.time_base - 0.1))

    def _open(self) -> None:
        self._view.seek(0)
        options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"}
        try:
            self._container = self._av.open(self._view, options=options, metadata_errors="replace")
        except (self._av.FFmpegError, ValueError, OSError) as error:
            raise NotSound(str(error)) from None
        self.position = self.damaged = self._ready = 0
        self._kind: tuple[int, int] | None = None
        self._waiting: deque[Block] = deque()
        if self._container.streams.audio:
            self._stream = self._container.streams.audio[0]
            self._packets = self._container.demux(self._stream)
            self._fill(1)
        if self._kind is None:
            self.close()
            raise NotSound("no sound in it can be decoded")
        self.sample_rate, self.channels = self._kind

    def seek(self, frame: int) -> None:
        if frame < self.position:
            self.close()
            self._open()
        self._pass_over(frame)
        while self.position < frame and len(self.read(min(1 << 16, frame - self.position))):
            pass

    def count(self) -> int:
        """Goes to the end; a short file is decoded for it, so that damaged packets do not count."""
        self._pass_over(1 << 62)
        if self.position < _FAR * self._stream.codec_context.frame_size:
            self.close()
            self._open()
        while len(self.read(1 << 16)):
            pass
        return self.position

    def read(self, frames: int) -> Block:
        """Up to so many frames `(n, C)`."""
        self._fill(frames)
        taken = []
        while frames and self._waiting:
            block = self._waiting.popleft()
            if len(block) > frames:
                self._waiting.appendleft(block[frames:])
                block = block[:frames]
            taken.append(block)
            frames -= len(block)
        out = np.concatenate(taken) if taken else np.zeros((0, self.channels), np.float32)
        self._ready -= len(out)
        self.position += len(out)
        return out

    def close(self) -> None:
        self._container.close()

    def _fill(self, frames: int) -> None:
        """Decodes until so many frames wait, or all there are."""
        while self._ready < frames and (packet := self._next()) is not None:
            self._decode(packet)

    def _next(self) -> Any:
        """The next packet, or None at the end."""
        try:
            return next(self._packets, None)
        except (self._av.FFmpegError, OSError):
            self.damaged += 1
            return None

    def _decode(self, packet: Any) -> None:
        try:
            frames = packet.decode()
        except (self._av.FFmpegError, ValueError):
            self.damaged += 1
            return
        for frame in frames:
            kind = frame.sample_rate, frame.layout.nb_channels
            if self._kind not in (None, kind):
                hertz, channels = kind
                raise AudioError(f"goes on with {hertz} Hz and {channels} channels: make a file of each part")
            self._kind = kind
            samples = frame.to_ndarray()
            samples = samples.T if frame.format.is_planar else samples.reshape(-1, kind[1])
            if samples.dtype.kind == "u":
                samples = (samples.astype(np.float32) - 128) / 128
            elif samples.dtype.kind == "i":
                samples = samples / 2.0 ** (8 * samples.dtype.itemsize - 1)
            self._waiting.append(samples.astype(np.float32))
            self._ready += len(samples)

    def _pass_over(self, frame: int) -> None:
        """Goes near a frame that is far away without decoding what lies between, in MPEG audio."""
        step = self._stream.codec_context.frame_size
        if self._container.format.name != "mp3" or not step or frame - self.position < _FAR * step:
            return
        end, passed = self.position + self._ready, 0
        recent: deque[Any] = deque(maxlen=_PREROLL)
        while end < frame and (packet := self._next()) is not None:
            recent.append(packet)
            passed += 1
            end += step * _has_samples(packet)
        begin = 0
        if passed > _PREROLL:  # else nothing has left the queue
            self._stream.codec_context.flush_buffers()
            begin, damaged = _PREROLL // 2, self.damaged
            for packet in list(recent)[:begin]:  # the first ones lack what they borrow
                self._decode(packet)
            self.damaged = damaged
            self._waiting.clear()
            self._ready = 0
            self.position = end - step * sum(map(_has_samples, list(recent)[begin:]))
        for packet in list(recent)[begin:]:
            self._decode(packet)


def _has_samples(packet: Any) -> bool:
    """Not so the empty packet at the end, nor the header that joined files bring into the middle of an MP3."""
    start = bytes(packet)[:256]
    return bool(start) and b"Xing" not in start and b"Info" not in start
