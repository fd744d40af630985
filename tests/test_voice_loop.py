"""The voice loop: several clients on loopback, each of whom hears what a file would give."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import codec
from tests.conftest import SPEECH

websockets = pytest.importorskip("websockets", reason="the demo's dependencies are not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "demos"))
import live  # noqa: E402
from websockets.asyncio.client import connect  # noqa: E402


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> codec.Codec:
    return codec.load(str(tiny_model))


def pieces(count: int, samples: int = 8000) -> list[np.ndarray]:
    audio, _ = soundfile.read(SPEECH, dtype="int16", frames=count * samples)
    return list(audio.reshape(count, samples))


async def talk(port: int, pcm: np.ndarray, chunk: int, codebooks: int, frames: int) -> np.ndarray:
    """Send in pieces of `chunk` samples, then wait for `frames` frames."""
    heard: list[np.ndarray] = []
    async with connect(f"ws://localhost:{port}") as socket:
        hello = json.loads(await socket.recv())
        assert hello["sample_rate"] == 16000
        await socket.send(json.dumps({"codebooks": codebooks}))
        for start in range(0, len(pcm), chunk):
            await socket.send(pcm[start : start + chunk].tobytes())
        while len(heard) < frames:
            message = await asyncio.wait_for(socket.recv(), 20)
            if isinstance(message, bytes):
                heard.append(np.frombuffer(message, "<i2"))
    return np.concatenate(heard)


def test_clients_at_once_hear_what_files_give(model: codec.Codec) -> None:
    sounds, chunks, codebooks = pieces(3), [100, 777, 3200], [4, 2, 4]

    async def scene() -> list[np.ndarray]:
        async with live.listening(model, port=0, rows=4) as server:
            port = server.sockets[0].getsockname()[1]
            jobs = zip(sounds, chunks, codebooks, strict=True)
            return await asyncio.gather(
                *(talk(port, pcm, chunk, codebook, 25) for pcm, chunk, codebook in jobs)
            )

    for heard, pcm, codebook in zip(asyncio.run(scene()), sounds, codebooks, strict=True):
        with torch.inference_mode():
            codes = model.encode(
                torch.from_numpy(pcm / np.float32(32768))[None, None], num_codebooks=codebook
            )
            whole = model.decode(codes)[0, 0].clamp(-1, 1).numpy()
        expected = np.round(whole * 32767)[: 8000 - model.delay]
        assert np.abs(heard[model.delay :] - expected).max() <= 1


def test_a_place_is_used_again_and_begins_anew(model: codec.Codec) -> None:
    first, second = pieces(2, 3200)

    async def scene() -> tuple[np.ndarray, np.ndarray]:
        async with live.listening(model, port=0, rows=1) as server:
            port = server.sockets[0].getsockname()[1]
            await talk(port, second, 320, 4, 10)
            again = await talk(port, first, 320, 4, 10)
        async with live.listening(model, port=0, rows=1) as server:
            return again, await talk(server.sockets[0].getsockname()[1], first, 320, 4, 10)

    again, fresh = asyncio.run(scene())
    assert np.array_equal(again, fresh)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"abc", "odd number"),
        ("{}", "codebooks"),
        ("no json", "codebooks"),
        ('{"codebooks": 99}', "one of 1"),
        ('{"codebooks": 4.0}', "one of 1"),
        ('{"codebooks": true}', "one of 1"),
        ('{"codebooks": [4]}', "one of 1"),
        ("[" * 20000, "codebooks"),
        (bytes(2 * 16000), None),
    ],
)
def test_bad_messages_get_a_reason_and_the_others_go_on(
    model: codec.Codec, message: str | bytes, reason: str | None
) -> None:
    async def scene() -> str | None:
        async with live.listening(model, port=0, rows=2) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://localhost:{port}") as socket:
                await socket.recv()
                await socket.send(message)
                if reason is None:
                    assert isinstance(await asyncio.wait_for(socket.recv(), 20), bytes)
                    return None
                with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                    await asyncio.wait_for(socket.recv(), 20)
            heard = await talk(port, pieces(1)[0][:640], 640, 4, 2)
            assert len(heard) == 640
            return closed.value.rcvd.reason if closed.value.rcvd else None

    found = asyncio.run(scene())
    assert reason is None or (found is not None and reason in found)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What the server logs, whatever other tests have made of the process's loggers."""
    logger = logging.Logger("live")
    logger.addHandler(caplog.handler)
    monkeypatch.setattr(live, "log", logger)
    return caplog


def test_a_message_that_is_too_large_is_logged(model: codec.Codec, logged: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with live.listening(model, port=0, rows=1) as server:
            async with connect(f"ws://localhost:{server.sockets[0].getsockname()[1]}") as socket:
                await socket.recv()
                await socket.send(bytes(2 * 16000 + 2))
                with pytest.raises(websockets.exceptions.ConnectionClosed):
                    await asyncio.wait_for(socket.recv(), 20)
            await asyncio.sleep(0.1)

    asyncio.run(scene())
    assert "is dropped: 1009" in logged.text


def test_a_full_house_says_so_and_the_page_is_there(model: codec.Codec) -> None:
    async def scene() -> tuple[str, str]:
        async with live.listening(model, port=0, rows=1) as server:
            port = server.sockets[0].getsockname()[1]
            url = f"http://localhost:{port}/"
            body = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
            async with connect(f"ws://localhost:{port}") as one:
                await one.recv()
                async with connect(f"ws://localhost:{port}") as two:
                    with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                        await two.recv()
            assert closed.value.rcvd is not None
            return body, closed.value.rcvd.reason

    body, reason = asyncio.run(scene())
    assert "<title>Voice loop</title>" in body
    assert "places are taken" in reason


def test_a_frame_that_fails_costs_one_client_and_is_logged(
    model: codec.Codec, logged: pytest.LogCaptureFixture
) -> None:
    tick = live.VoiceLoop.tick

    def failing(self: live.VoiceLoop, frames: torch.Tensor, codebooks: dict[int, int]) -> torch.Tensor:
        if 2 in codebooks.values():
            raise RuntimeError("as if the odd one broke the codec")
        return tick(self, frames, codebooks)

    async def scene() -> tuple[int, str]:
        async with live.listening(model, port=0, rows=2) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://localhost:{port}") as odd:
                await odd.recv()
                await odd.send('{"codebooks": 2}')
                good = asyncio.create_task(talk(port, pieces(1)[0], 320, 4, 25))
                await asyncio.sleep(0.05)
                await odd.send(bytes(640))
                with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                    await asyncio.wait_for(odd.recv(), 20)
                heard = await good
            return len(heard), closed.value.rcvd.reason if closed.value.rcvd else ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live.VoiceLoop, "tick", failing)
        assert asyncio.run(scene()) == (8000, "your sound could not be coded (RuntimeError)")
    assert "is dropped: your sound could not be coded" in logged.text


def test_who_does_not_listen_is_dropped_and_the_others_hear_all(
    model: codec.Codec, logged: pytest.LogCaptureFixture
) -> None:
    class Deaf:
        remote_address = ("nowhere", 1)
        aborted = False

        async def send(self, message: object) -> None:
            await asyncio.sleep(1000)

        @property
        def transport(self) -> Deaf:
            return self

        def abort(self) -> None:
            self.aborted = True

    async def scene() -> bool:
        loop, socket = live.VoiceLoop(model, rows=1), Deaf()
        await asyncio.wait_for(loop.reply(live.Client(socket, 0, 4), bytes(640)), 5)
        return socket.aborted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "DEAF_SECONDS", 0.05)
        assert asyncio.run(scene())
    assert "does not read" in logged.text
