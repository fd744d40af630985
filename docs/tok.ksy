meta:
  id: tok
  title: Neural audio codec tokens, version 1
  file-extension: tok
  endian: le
  bit-endian: be
  license: MIT
doc: |
  Tokens of a neural audio codec: a header, chunks of packed codes that decode alone, an optional seek index and an
  end record. docs/tok-format.md is the specification; this file describes a whole, undamaged .tok. The checksums are
  parsed, not verified.
seq:
  - id: head
    type: head
  - id: records
    type: record
    repeat: until
    repeat-until: _.kind == record_kind::end
instances:
  header:
    value: head.header
enums:
  channel_policy:
    0: mix
    1: split
    2: joint
  record_kind:
    0: raw
    1: entropy
    2: lost
    3: header_copy
    4: index
    5: end
types:
  varint_group:
    seq:
      - id: has_next
        type: b1
      - id: value
        type: b7
  varint:
    doc: Little-endian base 128, at most nine bytes; only the last one has its high bit clear.
    seq:
      - id: groups
        type: varint_group
        repeat: until
        repeat-until: not _.has_next
    instances:
      len:
        value: groups.size
      value:
        doc: Multiplied, for shifts are 32 bits wide in JavaScript; exact there up to 2^53.
        value: >-
          (groups[0].value
          + (len > 1 ? groups[1].value * 128 : 0)
          + (len > 2 ? groups[2].value * 16384 : 0)
          + (len > 3 ? groups[3].value * 2097152 : 0)
          + (len > 4 ? groups[4].value * 268435456 : 0)
          + (len > 5 ? groups[5].value * 34359738368 : 0)
          + (len > 6 ? groups[6].value * 4398046511104 : 0)
          + (len > 7 ? groups[7].value * 562949953421312 : 0)
          + (len > 8 ? groups[8].value * 72057594037927936 : 0)).as<u8>
  head:
    seq:
      - id: magic
        contents: [0x89, TOK]
      - id: version
        type: u1
        valid: 1
      - id: len_header
        type: varint
      - id: header
        type: header
        size: len_header.value
      - id: crc
        type: u4
        doc: CRC-32 of all bytes before it.
  header:
    seq:
      - id: channel_policy
        type: u1
        enum: channel_policy
      - id: fingerprint
        size: 8
      - id: sample_rate
        type: varint
      - id: channels
        type: varint
      - id: resampler
        type: u1
      - id: model_sample_rate_or_zero
        type: varint
      - id: hop
        type: varint
      - id: num_codebooks
        type: varint
      - id: runs
        type: 'codebook_run(_index == 0 ? 0 : runs[_index - 1].until_here)'
        repeat: until
        repeat-until: _.until_here >= num_codebooks.value
      - id: num_samples_plus_one
        type: varint
      - id: later_fields
        size-eos: true
    instances:
      model_sample_rate:
        value: 'model_sample_rate_or_zero.value == 0 ? sample_rate.value : model_sample_rate_or_zero.value'
  codebook_run:
    params:
      - id: before
        type: s8
    seq:
      - id: count
        type: varint
      - id: size
        type: varint
    instances:
      until_here:
        value: before + count.value
  record:
    seq:
      - id: sync
        type: u1
        valid: 0xf5
      - id: sync_low
        type: b4
        valid: 0xa
      - id: kind
        type: b4
        enum: record_kind
      - id: len_body
        type: varint
      - id: check
        type: u1
        doc: Low byte of the CRC-32 of the record's bytes before it.
      - id: body
        size: len_body.value
        type:
          switch-on: kind
          cases:
            record_kind::raw: chunk
            record_kind::entropy: chunk
            record_kind::lost: lost
            record_kind::header_copy: head
            record_kind::index: index
            record_kind::end: end
      - id: crc
        type: u4
        doc: CRC-32 of the record's bytes before it.
  chunk:
    seq:
      - id: first_frame
        type: varint
      - id: num_frames
        type: varint
      - id: payload
        size-eos: true
  lost:
    seq:
      - id: first_frame
        type: varint
      - id: num_frames
        type: varint
  index:
    seq:
      - id: num_entries
        type: varint
      - id: entries
        type: index_entry
        repeat: expr
        repeat-expr: num_entries.value
  index_entry:
    doc: The step from the entry before; the first one counts from frame 0 and byte 0.
    seq:
      - id: frame_step
        type: varint
      - id: offset_step
        type: varint
  end:
    seq:
      - id: num_frames
        type: varint
      - id: num_samples_plus_one
        type: varint
      - id: index_distance
        type: varint
