"""Sources, crops, batches and augmentation, on the recordings in tests/data and tiny copies of corpora."""

import inspect
import io
import json
import math
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codec import assets, audio
from codec.data.augment import AUGMENTATIONS, augmentations
from codec.data.corpora import CORPORA, corpus
from codec.data.dataset import CropDataset
from codec.data.loader import CropLoader
from codec.data.module import AudioData
from codec.data.recordings import Recording, probe
from codec.data.sources import find, fingerprint, hold_out, manifest, write_manifest
from codec.errors import AudioError, ConfigError

DATA = Path(__file__).parent / "data"
SMALL: dict[str, Any] = {
    "sample_rate": 16000,
    "channels": 1,
    "samples": 8000,
    "batch_size": 4,
    "num_workers": 0,
}


def tone(path: Path, seconds: float = 1.0, rate: int = 16000, channels: int = 1, level: float = 0.1) -> Path:
    """Writes noise that differs from path to path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    samples = np.random.default_rng(seed).standard_normal((channels, round(seconds * rate))) * level
    audio.write(path, samples.astype(np.float32), rate)
    return path


# recordings


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [
        ("speech.flac", 16000, 1),
        ("speech.flac", 24000, 1),
        ("ljspeech_22k.flac", 16000, 1),
        ("ljspeech_22k.flac", 24000, 2),
        ("music_48k_stereo.flac", 24000, 1),
        ("music_48k_stereo.flac", 44100, 2),
    ],
)
def test_a_crop_equals_that_part_of_the_converted_file(name: str, rate: int, channels: int) -> None:
    recording = probe(Recording(str(DATA / name), 0, 0))
    source, source_rate = audio.read(DATA / name)
    whole = audio.to_model(source, source_rate, rate, channels)[0][0]
    last = recording.length(rate) - rate
    for wish in (0, 1, 12345, last // 2, last):
        start = recording.aligned(wish, rate)
        assert 0 <= wish - start <= rate / 50
        crop = recording.crop(wish, rate, rate, channels)
        assert crop.dtype == np.float32
        np.testing.assert_allclose(crop, whole[:, start : start + rate], atol=1e-6)


def test_a_crop_beyond_the_end_is_an_error() -> None:
    recording = probe(Recording(str(DATA / "speech.flac"), 0, 0))
    with pytest.raises(AudioError, match="ends before"):
        recording.crop(recording.frames - 100, 200, 16000, 1)


# sources


def test_a_folder_tree_of_several_formats(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    tone(tmp_path / "deep" / "er" / "b.FLAC".lower(), rate=24000, channels=2)
    tone(tmp_path / "deep" / "c.ogg", seconds=2)
    tone(tmp_path / ".hidden.wav")
    (tmp_path / "notes.txt").write_text("not audio")
    (tmp_path / "broken.wav").write_text("not audio")
    found = find(tmp_path)
    facts = [(Path(r.path).name, r.sample_rate, r.channels, round(r.seconds, 3)) for r in found.train]
    assert facts == [("a.wav", 16000, 1, 1), ("c.ogg", 16000, 1, 2), ("b.flac", 24000, 2, 1)]
    assert list(found.skipped) == [str(tmp_path / "broken.wav")]
    assert "not a sound file" in found.skipped[str(tmp_path / "broken.wav")]


def test_manifests_with_splits_speakers_and_filters() -> None:
    found = find(DATA)
    assert (len(found.train), len(found.valid)) == (13, 4)
    assert not {r.speaker for r in found.train} & {r.speaker for r in found.valid}
    assert find(DATA / "train.jsonl").valid == found.valid
    music = find(DATA, {"kind": "music"})
    assert [Path(r.path).name for r in music.train + music.valid] == [
        "music_48k_stereo.flac",
        "guitar_48k_stereo.flac",
    ]
    assert len(find(DATA, {"sample_rate": [22050, 24000], "clean_licence": True}).train) == 2


def test_the_repository_s_manifests_are_true() -> None:
    for name in ("train", "valid"):
        for line in (DATA / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            info = audio.probe(DATA / row["path"])
            assert (info.sample_rate, info.channels, info.frames) == (
                row["sample_rate"],
                row["channels"],
                pytest.approx(row["seconds"] * row["sample_rate"], abs=3),
            )
            assert row["licence"] in ("CC BY 4.0", "CC0 1.0", "Public Domain")
            assert row["split"] == name
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 4_000_000


def test_a_written_manifest_gives_the_same_recordings(tmp_path: Path) -> None:
    recordings = find(DATA).train
    write_manifest(tmp_path / "list.jsonl", recordings)
    again, _ = manifest(tmp_path / "list.jsonl")
    assert fingerprint(again) == fingerprint(recordings)
    assert [r.speaker for r in again] == [r.speaker for r in recordings]


@pytest.mark.parametrize(
    ("lines", "filters", "message"),
    [
        ("{", None, "line 1 is not JSON"),
        ('{"path": "a.wav"}\n[1]', None, "line 2 has no path"),
        (
            '{"path": "gone.wav"}\n{"path": "a.wav"}',
            None,
            r"1 of 2 files are missing, the first is .*gone\.wav",
        ),
        ('{"path": "a.wav"}', {"kind": "speech"}, "no row has the key 'kind'"),
        ('{"path": "a.wav", "kind": "music"}', {"kind": "speech"}, "no recording passes the filters"),
        ("", None, "no recording"),
    ],
)
def test_bad_manifests(tmp_path: Path, lines: str, filters: dict[str, Any] | None, message: str) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / "list.jsonl").write_text(lines)
    with pytest.raises(ConfigError, match=message):
        find(tmp_path / "list.jsonl", filters)


def test_bad_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        find(tmp_path / "gone")
    with pytest.raises(ConfigError, match="holds no sound file"):
        find(tmp_path)
    tone(tmp_path / "a.wav")
    with pytest.raises(ConfigError, match=r"none of its 1 recordings passes .*data\.filters=null"):
        find(tmp_path, {"sample_rate": 8000})
    monkeypatch.setattr(assets, "root", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"give data\.root="):
        AudioData(**SMALL)


def test_a_folder_is_filtered_by_what_its_sound_tells(tmp_path: Path) -> None:
    for name, rate in (("a", 16000), ("b", 16000), ("c", 8000)):
        tone(tmp_path / f"{name}.wav", rate=rate)
    filters = {"sample_rate": [16000, 24000], "kind": "speech", "clean_licence": True}
    found = find(tmp_path, filters)
    assert [Path(r.path).name for r in found.train] == ["a.wav", "b.wav"]
    assert found.unchecked == ["kind", "clean_licence"]
    (note,) = AudioData(**SMALL | {"root": str(tmp_path), "filters": filters}).notes
    assert "kind, clean_licence cannot be checked without a .jsonl manifest" in note


def test_tar_shards_read_in_place(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-000.tar", "w") as tar:
        tar.add(DATA / "speech.flac", "k1.flac")
        facts = json.dumps({"speaker": "someone"}).encode()
        tar.addfile(_tarinfo("k1.json", len(facts)), io.BytesIO(facts))
        tar.add(DATA / "ljspeech_22k.flac", "k2.flac")
    recordings = find(tmp_path / "shard-000.tar").train
    assert [(r.member or ("",))[0] for r in recordings] == ["k1.flac", "k2.flac"]
    assert [r.speaker for r in recordings] == ["someone", None]
    plain = probe(Recording(str(DATA / "ljspeech_22k.flac"), 0, 0))
    for start in (0, 50000):
        np.testing.assert_array_equal(
            recordings[1].crop(start, 9000, 16000, 1), plain.crop(start, 9000, 16000, 1)
        )
    assert find(tmp_path).train == recordings
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ConfigError, match="not an uncompressed tar shard"):
        find(tmp_path / "bad.tar")
    found = find(tmp_path)  # among others it costs only itself
    assert found.train == recordings
    assert list(found.skipped) == [str(tmp_path / "bad.tar")]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('"frames": "151680"', 'line 1: frames is "151680", and should be a whole number'),
        ('"frames": -5', "line 1: frames is -5"),
        ('"frames": true', "line 1: frames is true"),
        ('"frames": 1.5', "line 1: frames is 1.5"),
        ('"frames": NaN', "line 1: frames is NaN"),
        ('"frames": 1e999', "line 1: frames is Infinity"),
        ('"sample_rate": "16000"', 'line 1: sample_rate is "16000"'),
        ('"sample_rate": 2000000000', "line 1: sample_rate is 2000000000"),
        ('"seconds": "3"', 'line 1: seconds is "3", and should be a positive number'),
        ('"speaker": [1]', "line 1: speaker is"),
        ('"text": {}', "line 1: text is"),
        ('"x": ' + "[" * 100000, "line 1 is not JSON"),
    ],
)
def test_values_of_a_manifest_are_checked(tmp_path: Path, row: str, words: str) -> None:
    tone(tmp_path / "a.wav")
    (tmp_path / "list.jsonl").write_text(f'{{"path": "a.wav", {row}}}\n')
    with pytest.raises(ConfigError) as caught:
        manifest(tmp_path / "list.jsonl")
    assert words in str(caught.value)


def test_a_manifest_may_begin_with_a_mark_and_name_the_line_with_a_bad_byte(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    row = b'{"path": "a.wav", "frames": 100.0, "sample_rate": 16000, "speaker": 7, "text": null}\n'
    (tmp_path / "list.jsonl").write_bytes(b"\xef\xbb\xbf" + row)
    (recording,), _ = manifest(tmp_path / "list.jsonl")
    assert (recording.frames, recording.speaker, recording.text) == (100, "7", None)
    (tmp_path / "list.jsonl").write_bytes(row + b'{"path": "\xe9.wav"}\n')
    with pytest.raises(ConfigError, match="line 2 is not JSON"):
        manifest(tmp_path / "list.jsonl")


def test_the_file_knows_its_rate_better_than_a_manifest(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    rate = probe(Recording(str(tmp_path / "a.wav"), 0, 0)).sample_rate
    (tmp_path / "list.jsonl").write_text(f'{{"path": "a.wav", "frames": 9000, "sample_rate": {rate + 1}}}\n')
    (recording,), _ = manifest(tmp_path / "list.jsonl")
    with pytest.raises(AudioError, match=f"has {rate} Hz, and its manifest says {rate + 1}"):
        recording.crop(0, 100, 16000, 1)


def test_names_that_are_not_utf8_train_and_travel_in_manifests(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    os.rename(tmp_path / "a.wav", os.fsencode(tmp_path) + b"/\xe9.wav")
    (recording,) = find(tmp_path).train
    write_manifest(tmp_path / "list.jsonl", [recording])
    (again,), _ = manifest(tmp_path / "list.jsonl")
    assert again.path == recording.path
    assert again.crop(0, 100, 16000, 1).shape == (1, 100)
    assert recording.name.encode() == os.fsencode(tmp_path) + b"/\\udce9.wav"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("root", ["x"]), ("batch_size", "abc"), ("batch_size", True), ("valid_seconds", "4")],
)
def test_settings_of_another_type_are_named(setting: str, value: object) -> None:
    settings = {"sample_rate": 16000, "channels": 1, "samples": 800, "batch_size": 2} | {setting: value}
    with pytest.raises(ConfigError, match=rf"data\.{setting} is .*, and should be a "):
        AudioData(**settings)


def _tarinfo(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


# corpora in miniature


def test_librispeech_and_libritts(tmp_path: Path) -> None:
    for home, suffix in (("LibriSpeech", "flac"), ("LibriTTS", "wav")):
        for split, speaker in (("train-clean-100", "19"), ("train-clean-360", "14"), ("dev-clean", "84")):
            tone(tmp_path / home / split / speaker / "198" / f"{speaker}-198-0000.{suffix}")
        found = corpus(home.lower(), tmp_path)
        assert [r.speaker for r in found.train] == ["19", "14"]
        assert [r.speaker for r in found.valid] == ["84"]
        assert [r.speaker for r in corpus(home.lower(), tmp_path / home, ["train-clean-360"]).train] == ["14"]
    with pytest.raises(ConfigError, match=r"librispeech is not complete at .*train-other-500"):
        corpus("librispeech", tmp_path, ["train-other-500"])


def test_vctk(tmp_path: Path) -> None:
    for speaker in ("p225", "p226", "p227"):
        for number in ("001", "002"):
            home = tmp_path / "VCTK-Corpus-0.92"
            tone(home / "wav48_silence_trimmed" / speaker / f"{speaker}_{number}_mic1.flac", rate=48000)
            tone(home / "wav48_silence_trimmed" / speaker / f"{speaker}_{number}_mic2.flac", rate=48000)
            (home / "txt" / speaker).mkdir(parents=True, exist_ok=True)
            (home / "txt" / speaker / f"{speaker}_{number}.txt").write_text("Please call Stella.")
    found = corpus("vctk", tmp_path)
    assert (len(found.train), len(found.valid)) == (4, 2)
    assert all("mic1" in r.path for r in found.train)
    assert len({r.speaker for r in found.valid}) == 1
    assert all("mic2" in r.path for r in corpus("vctk", tmp_path, ["mic2"]).train)


def test_ljspeech(tmp_path: Path) -> None:
    names = [f"LJ001-000{i}" for i in range(1, 4)]
    for name in names:
        tone(tmp_path / "LJSpeech-1.1" / "wavs" / f"{name}.wav", rate=22050)
    (tmp_path / "LJSpeech-1.1" / "metadata.csv").write_text("".join(f"{name}|Text|text\n" for name in names))
    found = corpus("ljspeech", tmp_path)
    assert sorted(Path(r.path).stem for r in found.train + found.valid) == names
    assert len(found.valid) == 1


def test_musdb(tmp_path: Path) -> None:
    for track in ("A - One", "B - Two", "Young Griffo - Pennies"):
        for stem in ("mixture", "vocals"):
            tone(tmp_path / "musdb18hq" / "train" / track / f"{stem}.wav", rate=44100, channels=2)
    found = corpus("musdb", tmp_path)
    assert [Path(r.path).parent.name for r in found.train] == ["A - One", "B - Two"]
    assert [Path(r.path).parent.name for r in found.valid] == ["Young Griffo - Pennies"]
    assert {Path(r.path).name for r in corpus("musdb", tmp_path, ["vocals"]).train} == {"vocals.wav"}


def test_corpora_that_are_not_there(tmp_path: Path) -> None:
    for name in ("librispeech", "libritts", "vctk", "ljspeech", "musdb"):
        with pytest.raises(ConfigError, match=f"{name} is not complete at"):
            corpus(name, tmp_path)
    with pytest.raises(ConfigError, match="unknown corpus 'timit'; known are librispeech"):
        corpus("timit", tmp_path)
    with pytest.raises(ConfigError, match=r"data\.root"):
        corpus("vctk", None)


# splits


def test_hold_out_keeps_speakers_apart_and_does_not_depend_on_the_place(tmp_path: Path) -> None:
    def clip(folder: str, i: int) -> Recording:
        return Recording(f"{folder}/corpus/s{i % 7}/{i}.wav", 16000, 16000, speaker=f"s{i % 7}")

    train, valid = hold_out([clip("/a", i) for i in range(70)])
    assert {r.speaker for r in valid}
    assert not {r.speaker for r in train} & {r.speaker for r in valid}
    assert len(train) + len(valid) == 70
    assert {r.speaker for r in hold_out([clip("/b/c", i) for i in range(70)])[1]} == {
        r.speaker for r in valid
    }
    one = [Recording("a.wav", 16000, 16000, speaker="x"), Recording("b.wav", 16000, 16000, speaker="x")]
    assert [len(part) for part in hold_out(one)] == [1, 1]
    assert hold_out(one[:1]) == (one[:1], one[:1])


# crops


def crops(recordings: list[Recording], **options: Any) -> CropDataset:
    return CropDataset(recordings, **({"sample_rate": 16000, "channels": 1, "length": 4000} | options))


def test_an_item_depends_on_seed_and_number_only() -> None:
    recordings = find(DATA).train
    first, second = crops(recordings, seed=3), crops(recordings, seed=3)
    second[99], second[7]
    a, b, other = first[5], second[5], crops(recordings, seed=4)[5]
    np.testing.assert_array_equal(a["audio"], b["audio"])
    assert (a["path"], a["start"]) == (b["path"], b["start"]) != (other["path"], other["start"])


def test_files_are_drawn_by_duration_and_starts_evenly(tmp_path: Path) -> None:
    recordings = find(tone(tmp_path / "short.wav", 1.0).parent).train
    recordings += find(tone(tmp_path / "long" / "long.wav", 4.0).parent).train
    items = [crops(recordings, length=1600)[i] for i in range(1500)]
    starts = [item["start"] for item in items if item["path"].endswith("long.wav")]
    assert len(starts) / len(items) == pytest.approx(0.8, abs=0.04)
    shares = np.histogram(starts, bins=5, range=(0, 4 * 16000 - 1600))[0] / len(starts)
    assert shares == pytest.approx([0.2] * 5, abs=0.05)
    assert max(starts) <= 4 * 16000 - 1600


def test_silence_is_avoided_but_never_loops(tmp_path: Path) -> None:
    quiet = np.zeros((1, 10 * 16000), np.float32)
    quiet[:, 4 * 16000 : 5 * 16000] = 0.1
    audio.write(tmp_path / "a.wav", quiet, 16000)
    recordings = find(tmp_path).train
    heard = [float(np.abs(crops(recordings, min_dbfs=-60)[i]["audio"]).max()) for i in range(60)]
    anyhow = [float(np.abs(crops(recordings, min_dbfs=-math.inf)[i]["audio"]).max()) for i in range(60)]
    assert np.mean(np.array(heard) > 0) > 2.5 * np.mean(np.array(anyhow) > 0)
    audio.write(tmp_path / "a.wav", np.zeros((1, 160000), np.float32), 16000)
    assert not crops(recordings)[0]["audio"].any()


def test_broken_files_are_replaced_and_reported(tmp_path: Path) -> None:
    good, bad = tone(tmp_path / "good.wav", 2), tone(tmp_path / "bad.flac", 2)
    recordings = find(tmp_path).train
    bad.write_bytes(bad.read_bytes()[:3000])
    items = [crops(recordings)[i] for i in range(20)]
    assert {item["path"] for item in items} == {str(good)}
    assert {name for item in items for name in item["skipped"]} == {str(bad)}
    with pytest.raises(AudioError, match="64 files in a row cannot be read"):
        crops([r for r in recordings if r.path == str(bad)])[0]


# batches


def loader(dataset: CropDataset, **options: Any) -> CropLoader:
    return CropLoader(dataset, **({"batch_size": 4, "steps": 5} | options))


def test_workers_processes_and_resuming_change_nothing() -> None:
    dataset = crops(find(DATA).train)
    plain = loader(dataset)
    epochs = [list(plain), list(plain)]
    assert [len(epoch) for epoch in epochs] == [5, 5]
    whole = torch.cat([batch["audio"] for epoch in epochs for batch in epoch])
    assert whole.shape == (40, 1, 4000)
    assert len({(p, s) for e in epochs for b in e for p, s in zip(b["path"], b["start"], strict=True)}) > 35

    two = loader(dataset, num_workers=2)
    assert torch.equal(torch.cat([batch["audio"] for _ in range(2) for batch in two]), whole)

    stopped = loader(dataset)
    for batch in stopped:
        last = batch
        if stopped.position == 3:
            break
    assert torch.equal(last["audio"], whole[8:12])
    resumed = loader(dataset)
    resumed.load_state_dict(stopped.state_dict())
    assert torch.equal(torch.cat([batch["audio"] for _ in range(2) for batch in resumed]), whole[12:])

    ranks = [list(loader(dataset, batch_size=2, rank=rank, world_size=2)) for rank in range(2)]
    together = torch.cat([torch.cat([a["audio"], b["audio"]]) for a, b in zip(*ranks, strict=True)])
    assert torch.equal(together, whole[:20])


# the module


def test_without_a_root_it_uses_the_repository_s_recordings_and_says_so() -> None:
    data = AudioData(**SMALL | {"sample_rate": 24000}, batches_per_epoch=2)
    batches = list(data.train_dataloader())
    assert len(batches) == data.batches_per_epoch == 2
    assert batches[0]["audio"].shape == (4, 1, 8000)
    assert set(batches[0]) == {"audio", "path", "start"}
    assert "recordings of the repository" in data.notes[0]
    assert "10 of 13 training files (77%) have a sample rate below the model's 24000 Hz" in data.notes[1]
    assert data.summary["speakers"] == 13
    clips = list(data.val_dataloader())
    assert clips[0]["audio"].shape == (3, 1, 96000)
    assert "speech.flac" in "".join(clips[0]["path"])
    assert torch.equal(clips[0]["audio"], next(iter(data.val_dataloader()))["audio"])


def test_the_position_survives_in_the_state() -> None:
    data = AudioData(**SMALL, batches_per_epoch=6)
    batches = [batch["audio"] for batch in data.train_dataloader()]
    again = iter(data.train_dataloader())
    assert torch.equal(next(again)["audio"], batches[0])
    state = data.state_dict()
    resumed = AudioData(**SMALL, batches_per_epoch=6)
    resumed.load_state_dict(state)
    assert torch.equal(next(iter(resumed.train_dataloader()))["audio"], batches[1])


def test_short_and_broken_files_are_listed(tmp_path: Path) -> None:
    for i in range(4):
        tone(tmp_path / f"long{i}.wav", 2)
    tone(tmp_path / "short.wav", 0.1)
    (tmp_path / "broken.wav").write_text("not audio")
    data = AudioData(str(tmp_path), **SMALL)
    head, *lines = data.report()
    assert head == "skipped 2 files:"
    assert any("short.wav: 0.10 s, shorter than a crop of 0.50 s" in line for line in lines)
    assert any("broken.wav: not a sound file" in line for line in lines)
    assert data.report(most=1)[-1] == "  and 1 more"
    with pytest.raises(ConfigError, match=r"all 5 training files are shorter than data\.samples=80000"):
        AudioData(str(tmp_path), **SMALL | {"samples": 80000})


def test_mixtures_keep_their_weights(tmp_path: Path) -> None:
    for kind, seconds in (("much", 8), ("little", 1)):
        for i in range(3):
            tone(tmp_path / kind / f"{i}.wav", seconds)
    sources = [{"root": str(tmp_path / "much"), "weight": 1}, {"root": str(tmp_path / "little"), "weight": 3}]
    data = AudioData(**SMALL, sources=sources)
    drawn = ["little" in data.dataset[i]["path"] for i in range(400)]
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.06)
    for bad, message in (({"weight": -1}, "weights"), ({"roof": 1}, "no setting roof")):
        with pytest.raises(ConfigError, match=message):
            AudioData(**SMALL, sources=[sources[0] | bad])


def test_a_row_can_be_heard_less(tmp_path: Path) -> None:
    rows = [
        {"path": tone(tmp_path / f"{name}.wav", 2).name, "weight": w} for name, w in (("a", 0.25), ("b", 1))
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = AudioData(str(tmp_path / "list.jsonl"), **SMALL, valid=str(tmp_path / "a.wav"))
    drawn = [data.dataset[i]["path"].endswith("a.wav") for i in range(400)]
    assert np.mean(drawn) == pytest.approx(0.2, abs=0.06)


def test_long_voices_can_be_heard_less(tmp_path: Path) -> None:
    for name, seconds in (("a", 8), ("b", 1), ("b2", 1)):
        tone(tmp_path / f"{name}.wav", seconds)
    rows = [Recording(str(tmp_path / f"{n}.wav"), 0, 0, speaker=n[0]) for n in ("a", "b", "b2")]
    write_manifest(tmp_path / "list.jsonl", [probe(row) for row in rows])
    for voices, share in ((1.0, 0.8), (0.5, 2 / 3), (0.0, 0.5)):
        data = AudioData(
            str(tmp_path / "list.jsonl"), **SMALL, voices=voices, valid=str(tmp_path / "list.jsonl")
        )
        drawn = [data.dataset[i]["path"].endswith("a.wav") for i in range(400)]
        assert np.mean(drawn) == pytest.approx(share, abs=0.07)
    with pytest.raises(ConfigError, match=r"data\.voices is 2"):
        AudioData(str(tmp_path / "list.jsonl"), **SMALL, voices=2.0)


def test_a_valid_set_of_its_own(tmp_path: Path) -> None:
    tone(tmp_path / "train" / "a.wav", 2)
    tone(tmp_path / "valid" / "v.wav", 3)
    data = AudioData(str(tmp_path / "train"), **SMALL, valid=str(tmp_path / "valid"))
    assert [Path(p).name for batch in data.val_dataloader() for p in batch["path"]] == ["v.wav"]
    alone = AudioData(str(tmp_path / "train"), **SMALL)
    assert "validation uses it too" in alone.notes[0]


# augmentation


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "reverb"])
def test_an_augmentation_changes_the_crop_the_same_way_each_time(tmp_path: Path, name: str) -> None:
    recordings = find(tone(tmp_path / "a.wav", rate=44100, channels=2).parent).train
    options = {"sample_rate": 44100, "channels": 2, "length": 30000}
    plain = crops(recordings, **options)[1]["audio"]
    change = augmentations([{"name": name, "p": 1.0}])
    first, second = (crops(recordings, augment=change, **options)[1]["audio"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == plain.shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert not np.allclose(first, plain, atol=1e-4)
    never = augmentations([{"name": name, "p": 0.0}])
    np.testing.assert_array_equal(crops(recordings, augment=never, **options)[1]["audio"], plain)


def test_what_the_augmentations_do() -> None:
    samples = np.random.default_rng(0).standard_normal((2, 44100)).astype(np.float32) * 0.1
    random = np.random.default_rng(1)
    quieter = AUGMENTATIONS["gain"](samples, 44100, random, low=-6, high=-6)
    np.testing.assert_allclose(quieter, samples * 10 ** (-6 / 20), rtol=1e-5)
    assert np.abs(AUGMENTATIONS["gain"](samples, 44100, random, low=60, high=60)).max() == pytest.approx(1)
    np.testing.assert_array_equal(AUGMENTATIONS["polarity"](samples, 44100, random), -samples)
    coloured = AUGMENTATIONS["equalise"](samples, 44100, random, depth=6)
    ratio = np.abs(np.fft.rfft(coloured[0])) / np.abs(np.fft.rfft(samples[0]))
    assert 10 ** (-6.1 / 20) < ratio.min() < ratio.max() < 10 ** (6.1 / 20)
    assert np.abs(np.diff(ratio[1000:])).max() < 0.01
    mono = samples[:1]
    np.testing.assert_array_equal(AUGMENTATIONS["channels"](mono, 44100, random), mono)
    dull = AUGMENTATIONS["bandwidth"](samples, 44100, random, rates=[8000])
    spectrum = np.abs(np.fft.rfft(dull * np.hanning(44100)))
    above = int(spectrum.shape[1] * 4200 / 22050)
    assert spectrum[:, above:].max() < 1e-3 * spectrum[:, :above].max()
    for extra in ({}, {"recordings": find(DATA, {"kind": "music"}).train}):
        noisy = AUGMENTATIONS["noise"](samples, 44100, random, low=20, high=20, **extra)
        snr = 10 * np.log10(np.mean(samples**2) / np.mean((noisy - samples) ** 2))
        assert snr == pytest.approx(20, abs=0.01)


def test_reverberation_keeps_level_and_direct_sound() -> None:
    pytest.importorskip("pyroomacoustics")
    click = np.zeros((1, 16000), np.float32)
    click[0, 1000] = 0.5
    wet = AUGMENTATIONS["reverb"](click, 16000, np.random.default_rng(0), rooms=2)
    assert int(np.abs(wet).argmax()) == 1000
    assert np.abs(wet[:, :1000]).max() < 1e-6
    assert np.mean(wet**2) == pytest.approx(np.mean(click**2), rel=1e-3)
    assert np.abs(wet[0, 2000:6000]).max() > 1e-4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "echo"}, "unknown augmentation 'echo'; known are gain"),
        ({"name": "gain", "loud": 1}, "gain has no setting loud"),
        ({"name": "gain", "p": 2}, "not a probability"),
    ],
)
def test_wrong_augmentations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        augmentations([config])


def test_the_configurations_name_only_settings_that_exist() -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    names = sorted(path.stem for path in (assets.root() / "conf" / "data").glob("*.yaml"))
    assert {"folder", "manifest", "webdataset", "mixture", "libritts", "librispeech", "vctk", "musdb"} <= set(
        names
    )
    settings = inspect.signature(AudioData).parameters.keys()
    with initialize_config_dir(str(assets.root() / "conf"), version_base="1.3"):
        for name in names:
            data = compose("config", overrides=[f"data={name}"]).data
            assert set(data) <= set(settings)
            assert data.corpus == (name if name in CORPORA else None)
            if name in (*CORPORA, "mixture"):
                with pytest.raises(ConfigError, match=r"give data\."):
                    AudioData(**OmegaConf.to_container(data), sample_rate=16000, channels=1)  # type: ignore[arg-type]
