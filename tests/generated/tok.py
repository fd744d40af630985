# This is a generated file! Please edit source .ksy file and use kaitai-struct-compiler to rebuild
# type: ignore

import kaitaistruct
from kaitaistruct import KaitaiStruct, KaitaiStream, BytesIO
from enum import IntEnum


if getattr(kaitaistruct, 'API_VERSION', (0, 9)) < (0, 11):
    raise Exception("Incompatible Kaitai Struct Python API: 0.11 or later is required, but you have %s" % (kaitaistruct.__version__))

class Tok(KaitaiStruct):
    """Tokens of a neural audio codec: a header, chunks of packed codes that decode alone, an optional seek index and an
    end record. docs/tok-format.md is the specification; this file describes a whole, undamaged .tok. The checksums are
    parsed, not verified.
    """

    class ChannelPolicy(IntEnum):
        mix = 0
        split = 1
        joint = 2

    class RecordKind(IntEnum):
        raw = 0
        entropy = 1
        lost = 2
        header_copy = 3
        index = 4
        end = 5
    def __init__(self, _io, _parent=None, _root=None):
        super(Tok, self).__init__(_io)
        self._parent = _parent
        self._root = _root or self
        self._read()

    def _read(self):
        self.head = Tok.Head(self._io, self, self._root)
        self.records = []
        i = 0
        while True:
            _ = Tok.Record(self._io, self, self._root)
            self.records.append(_)
            if _.kind == Tok.RecordKind.end:
                break
            i += 1


    def _fetch_instances(self):
        pass
        self.head._fetch_instances()
        for i in range(len(self.records)):
            pass
            self.records[i]._fetch_instances()


    class Chunk(KaitaiStruct):
        def __init__(self, _io, _parent=None, _root=None):
            super(Tok.Chunk, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.first_frame = Tok.Varint(self._io, self, self._root)
            self.num_frames = Tok.Varint(self._io, self, self._root)
            self.payload = self._io.read_bytes_full()


        def _fetch_instances(self):
            pass
            self.first_frame._fetch_instances()
            self.num_frames._fetch_instances()


    class CodebookRun(KaitaiStruct):
        def __init__(self, before, _io, _parent=None, _root=None):
            super(Tok.CodebookRun, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self.before = before
            self._read()

        def _read(self):
            self.count = Tok.Varint(self._io, self, self._root)
            self.size = Tok.Varint(self._io, self, self._root)


        def _fetch_instances(self):
            pass
            self.count._fetch_instances()
            self.size._fetch_instances()

        @property
        def until_here(self):
            if hasattr(self, '_m_until_here'):
                return self._m_until_here

            self._m_until_here = self.before + self.count.value
            return getattr(self, '_m_until_here', None)


    class End(KaitaiStruct):
        def __init__(self, _io, _parent=None, _root=None):
            super(Tok.End, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.num_frames = Tok.Varint(self._io, self, self._root)
            self.num_samples_plus_one = Tok.Varint(self._io, self, self._root)
            self.index_distance = Tok.Varint(self._io, self, self._root)


        def _fetch_instances(self):
            pass
            self.num_frames._fetch_instances()
            self.num_samples_plus_one._fetch_instances()
            self.index_distance._fetch_instances()


    class Head(KaitaiStruct):
        def __init__(self, _io, _parent=None, _root=None):
            super(Tok.Head, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.magic = self._io.read_bytes(4)
            if not self.magic == b"\x89\x54\x4F\x4B":
                raise kaitaistruct.ValidationNotEqualError(b"\x89\x54\x4F\x4B", self.magic, self._io, u"/types/head/seq/0")
            self.version = self._io.read_u1()
            if not self.version == 1:
                raise kaitaistruct.ValidationNotEqualError(1, self.version, self._io, u"/types/head/seq/1")
            self.len_header = Tok.Varint(self._io, self, self._root)
            self._raw_header = self._io.read_bytes(self.len_header.value)
            _io__raw_header = KaitaiStream(BytesIO(self._raw_header))
            self.header = Tok.Header(_io__raw_header, self, self._root)
            self.crc = self._io.read_u4le()


        def _fetch_instances(self):
            pass
            self.len_header._fetch_instances()
            self.header._fetch_instances()


    class Header(KaitaiStruct):
        def __init__(self, _io, _parent=None, _root=None):
            super(Tok.Header, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.channel_policy = KaitaiStream.resolve_enum(Tok.ChannelPolicy, self._io.read_u1())
            self.fingerprint = self._io.read_bytes(8)
            self.sample_rate = Tok.Varint(self._io, self, self._root)
            self.channels = Tok.Varint(self._io, self, self._root)
            self.resampler = self._io.read_u1()
            self.model_sample_rate_or_zero = Tok.Varint(self._io, self, self._root)
            self.hop = Tok.Varint(self._io, self, self._root)
            self.num_codebooks = Tok.Varint(self._io, self, self._root)
            self.runs = []
            i = 0
            while True:
                _ = Tok.CodebookRun((0 if i == 0 else self.runs[i - 1].until_here), self._io, self, self._root)
                self.runs.append(_)
                if _.until_here >= self.num_codebooks.value:
                    break
                i += 1
            self.num_samples_plus_one = Tok.Varint(self._io, self, self._root)
            self.later_fields = self._io.read_bytes_full()


        def _fetch_instances(self):
            pass
            self.sample_rate._fetch_instances()
            self.channels._fetch_instances()
            self.model_sample_rate_or_zero._fetch_instances()
            self.hop._fetch_instances()
            self.num_codebooks._fetch_instances()
            for i in range(len(self.runs)):
                pass
                self.runs[i]._fetch_instances()

            self.num_samples_plus_one._fetch_instances()

        @property
        def model_sample_rate(self):
            if hasattr(self, '_m_model_sample_rate'):
                return self._m_model_sample_rate

            self._m_model_sample_rate = (self.sample_rate.value if self.model_sample_rate_or_zero.value == 0 else self.model_sample_rate_or_zero.value)
            return getattr(self, '_m_model_sample_rate', None)


    class Index(KaitaiStruct):
        def __init__(self, _io, _parent=None, _root=None):
            super(Tok.Index, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.num_entries = Tok.Varint(self._io, self, self._root)
            self.entries = []
            for i in range(self.num_entries.value):
                self.entries.append(Tok.IndexEntry(self._io, self, self._root))



        def _fetch_instances(self):
            pass
            self.num_entries._fetch_instances()
            for i in range(len(self.entries)):
                pass
                self.entries[i]._fetch_instances()



    class IndexEntry(KaitaiStruct):
        """The step from the entry before; the first one counts from frame 0 and byte 0."""
        def __init__(self, _io, _parent=None, _root=None):
            super(Tok.IndexEntry, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.frame_step = Tok.Varint(self._io, self, self._root)
            self.offset_step = Tok.Varint(self._io, self, self._root)


        def _fetch_instances(self):
            pass
            self.frame_step._fetch_instances()
            self.offset_step._fetch_instances()


    class Lost(KaitaiStruct):
        def __init__(self, _io, _parent=None, _root=None):
            super(Tok.Lost, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.first_frame = Tok.Varint(self._io, self, self._root)
            self.num_frames = Tok.Varint(self._io, self, self._root)


        def _fetch_instances(self):
            pass
            self.first_frame._fetch_instances()
            self.num_frames._fetch_instances()


    class Record(KaitaiStruct):
        def __init__(self, _io, _parent=None, _root=None):
            super(Tok.Record, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.sync = self._io.read_u1()
            if not self.sync == 245:
                raise kaitaistruct.ValidationNotEqualError(245, self.sync, self._io, u"/types/record/seq/0")
            self.sync_low = self._io.read_bits_int_be(4)
            if not self.sync_low == 10:
                raise kaitaistruct.ValidationNotEqualError(10, self.sync_low, self._io, u"/types/record/seq/1")
            self.kind = KaitaiStream.resolve_enum(Tok.RecordKind, self._io.read_bits_int_be(4))
            self.len_body = Tok.Varint(self._io, self, self._root)
            self.check = self._io.read_u1()
            _on = self.kind
            if _on == Tok.RecordKind.end:
                pass
                self._raw_body = self._io.read_bytes(self.len_body.value)
                _io__raw_body = KaitaiStream(BytesIO(self._raw_body))
                self.body = Tok.End(_io__raw_body, self, self._root)
            elif _on == Tok.RecordKind.entropy:
                pass
                self._raw_body = self._io.read_bytes(self.len_body.value)
                _io__raw_body = KaitaiStream(BytesIO(self._raw_body))
                self.body = Tok.Chunk(_io__raw_body, self, self._root)
            elif _on == Tok.RecordKind.header_copy:
                pass
                self._raw_body = self._io.read_bytes(self.len_body.value)
                _io__raw_body = KaitaiStream(BytesIO(self._raw_body))
                self.body = Tok.Head(_io__raw_body, self, self._root)
            elif _on == Tok.RecordKind.index:
                pass
                self._raw_body = self._io.read_bytes(self.len_body.value)
                _io__raw_body = KaitaiStream(BytesIO(self._raw_body))
                self.body = Tok.Index(_io__raw_body, self, self._root)
            elif _on == Tok.RecordKind.lost:
                pass
                self._raw_body = self._io.read_bytes(self.len_body.value)
                _io__raw_body = KaitaiStream(BytesIO(self._raw_body))
                self.body = Tok.Lost(_io__raw_body, self, self._root)
            elif _on == Tok.RecordKind.raw:
                pass
                self._raw_body = self._io.read_bytes(self.len_body.value)
                _io__raw_body = KaitaiStream(BytesIO(self._raw_body))
                self.body = Tok.Chunk(_io__raw_body, self, self._root)
            else:
                pass
                self.body = self._io.read_bytes(self.len_body.value)
            self.crc = self._io.read_u4le()


        def _fetch_instances(self):
            pass
            self.len_body._fetch_instances()
            _on = self.kind
            if _on == Tok.RecordKind.end:
                pass
                self.body._fetch_instances()
            elif _on == Tok.RecordKind.entropy:
                pass
                self.body._fetch_instances()
            elif _on == Tok.RecordKind.header_copy:
                pass
                self.body._fetch_instances()
            elif _on == Tok.RecordKind.index:
                pass
                self.body._fetch_instances()
            elif _on == Tok.RecordKind.lost:
                pass
                self.body._fetch_instances()
            elif _on == Tok.RecordKind.raw:
                pass
                self.body._fetch_instances()
            else:
                pass


    class Varint(KaitaiStruct):
        """Little-endian base 128, at most nine bytes; only the last one has its high bit clear."""
        def __init__(self, _io, _parent=None, _root=None):
            super(Tok.Varint, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.groups = []
            i = 0
            while True:
                _ = Tok.VarintGroup(self._io, self, self._root)
                self.groups.append(_)
                if (not (_.has_next)):
                    break
                i += 1


        def _fetch_instances(self):
            pass
            for i in range(len(self.groups)):
                pass
                self.groups[i]._fetch_instances()


        @property
        def len(self):
            if hasattr(self, '_m_len'):
                return self._m_len

            self._m_len = len(self.groups)
            return getattr(self, '_m_len', None)

        @property
        def value(self):
            """Multiplied, for shifts are 32 bits wide in JavaScript; exact there up to 2^53."""
            if hasattr(self, '_m_value'):
                return self._m_value

            self._m_value = ((((((((self.groups[0].value + (self.groups[1].value * 128 if self.len > 1 else 0)) + (self.groups[2].value * 16384 if self.len > 2 else 0)) + (self.groups[3].value * 2097152 if self.len > 3 else 0)) + (self.groups[4].value * 268435456 if self.len > 4 else 0)) + (self.groups[5].value * 34359738368 if self.len > 5 else 0)) + (self.groups[6].value * 4398046511104 if self.len > 6 else 0)) + (self.groups[7].value * 562949953421312 if self.len > 7 else 0)) + (self.groups[8].value * 72057594037927936 if self.len > 8 else 0))
            return getattr(self, '_m_value', None)


    class VarintGroup(KaitaiStruct):
        def __init__(self, _io, _parent=None, _root=None):
            super(Tok.VarintGroup, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.has_next = self._io.read_bits_int_be(1) != 0
            self.value = self._io.read_bits_int_be(7)


        def _fetch_instances(self):
            pass


    @property
    def header(self):
        if hasattr(self, '_m_header'):
            return self._m_header

        self._m_header = self.head.header
        return getattr(self, '_m_header', None)


