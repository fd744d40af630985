"""A voice loop over WebSocket: browsers send their microphone, the codec's sound comes back; all share one model.

    python demos/live.py            then open http://localhost:8765

A client sends 16-bit mono PCM at the model's rate in binary messages of any size, and gets the decoded sound back in
the same form, frame by frame, `codec.delay` samples behind. A text message `{"codebooks": N}` changes its bit rate;
once a second the server tells it `{"kbps", "latency_ms", "clients"}`. Whoever sends what cannot be, or does not read
what is sent, is dropped with the reason, which is logged; the others hear nothing of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import numpy as np
import torch
from websockets.asyncio.server import Request, Response, Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import codec

PAGE = Path(__file__).with_name("live.html")
BACKLOG_SECONDS = 2.0  # a client that sends faster than time passes is cut off
DEAF_SECONDS = 1.0  # and so is one that does not take its sound; the others wait no longer
LONGEST_REASON = 123  # bytes that fit into a closing frame
log = logging.getLogger("codec.live")


@dataclass
class Client:
    """One connection: its row in the batch and the samples that wait."""

    socket: ServerConnection
    row: int
    codebooks: int
    waiting: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    arrived: float = 0.0  # when the newest samples came
    latency: float = 0.0  # seconds from there until the frame was sent, slowly averaged
    told: float = 0.0


class VoiceLoop:
    """Encodes and decodes all clients together, one frame of everyone who has one per tick.

    Args:
        model: a causal codec.
        rows: most clients at a time.
    """

    def __init__(self, model: codec.Codec, rows: int = 8) -> None:
        self.model = model
        self.encoder = codec.StreamEncoder(model, batch_size=rows)
        self.decoder = codec.StreamDecoder(model, batch_size=rows)
        self.rows = rows
        self.clients: dict[int, Client] = {}
        self.fresh: set[int] = set()  # rows that begin anew at the next tick, for now one may be under way
        self.work = asyncio.Event()

    async def handle(self, socket: ServerConnection) -> None:
        """Serve one connection until it closes."""
        free = [row for row in range(self.rows) if row not in self.clients]
        if not free:
            await self.drop(socket, 1013, f"all {self.rows} places are taken, try again later")
            return
        client = Client(socket, free[0], self.model.quantizer.prefixes[-1])
        self.fresh.add(client.row)
        self.clients[client.row] = client
        try:
            await socket.send(json.dumps({"sample_rate": self.model.sample_rate, **self.state(client)}))
            async for message in socket:
                problem = self.take(client, message)
                if problem:
                    await self.drop(socket, 1008, problem)
                    return
        except ConnectionClosed as closed:
            if (
                closed.sent is not None and not closed.rcvd_then_sent
            ):  # too large a message, or no sign of life
                log.warning("%s is dropped: %s", socket.remote_address, closed.sent)
        finally:
            del self.clients[client.row]

    async def drop(self, socket: ServerConnection, code: int, reason: str) -> None:
        """Close a connection and say why, to the client and in the log."""
        log.warning("%s is dropped: %s", socket.remote_address, reason)
        await socket.close(code, reason.encode()[:LONGEST_REASON].decode(errors="ignore"))

    def take(self, client: Client, message: str | bytes) -> str | None:
        """Use one message; returns what is wrong with it, or None."""
        if isinstance(message, str):
            return self.configure(client, message)
        if len(message) % 2:
            return "sound comes as 16-bit samples, and this message has an odd number of bytes"
        samples = np.frombuffer(message, "<i2").astype(np.float32) / 32768
        client.waiting = np.concatenate([client.waiting, samples])
        client.arrived = time.perf_counter()
        if len(client.waiting) > BACKLOG_SECONDS * self.model.sample_rate:
            return f"more than {BACKLOG_SECONDS:g} s of sound are waiting: send it as it is recorded"
        self.work.set()
        return None

    def configure(self, client: Client, message: str) -> str | None:
        """Set the number of codebooks from `{"codebooks": N}`."""
        legal = self.model.quantizer.prefixes
        try:
            number = json.loads(message)["codebooks"]
        except (ValueError, KeyError, TypeError, RecursionError):
            number = None
        if type(number) is not int or number not in legal:  # 4.0 and True are equal to whole numbers
            return f'settings look like {{"codebooks": N}} with N one of {", ".join(map(str, legal))}'
        client.codebooks = number
        return None

    def state(self, client: Client) -> dict[str, float]:
        """What a client is told."""
        return {
            "kbps": self.model.bitrate(client.codebooks) / 1000,
            "latency_ms": round(1000 * client.latency, 1),
            "clients": len(self.clients),
        }

    async def run(self) -> None:
        """Tick for ever: whoever has a whole frame is in the batch."""
        while True:
            await self.work.wait()
            self.work.clear()
            while ready := [c for c in self.clients.values() if len(c.waiting) >= self.model.hop]:
                if self.fresh:
                    rows = torch.tensor([row in self.fresh for row in range(self.rows)])
                    self.encoder.reset(rows)
                    self.decoder.reset(rows)
                    self.fresh.clear()
                frames = torch.zeros(self.rows, 1, self.model.hop)
                for client in ready:
                    frames[client.row, 0] = torch.from_numpy(client.waiting[: self.model.hop])
                    client.waiting = client.waiting[self.model.hop :]
                try:
                    await self.serve(ready, frames)
                except Exception:  # it costs a frame; who is to blame is found by serving each alone
                    log.exception("a frame of %d clients failed", len(ready))
                    await asyncio.gather(*(self.serve_alone(client, frames) for client in ready))

    async def serve(self, clients: list[Client], frames: torch.Tensor) -> None:
        """One frame of some clients, through the codec and back to them."""
        audio = await asyncio.to_thread(self.tick, frames, {c.row: c.codebooks for c in clients})
        pcm = (audio.clamp(-1, 1) * 32767).round().to(torch.int16).numpy().astype("<i2")
        await asyncio.gather(*(self.reply(client, pcm[client.row, 0].tobytes()) for client in clients))

    async def serve_alone(self, client: Client, frames: torch.Tensor) -> None:
        """One frame of one client, who is dropped if it fails again."""
        try:
            await self.serve([client], frames)
        except Exception as error:
            log.exception("the frame of %s failed", client.socket.remote_address)
            await self.drop(client.socket, 1011, f"your sound could not be coded ({type(error).__name__})")

    def tick(self, frames: torch.Tensor, codebooks: dict[int, int]) -> torch.Tensor:
        """One frame through the codec for the rows of `codebooks`: `(rows, 1, hop)` to the same."""
        active = torch.tensor([row in codebooks for row in range(self.rows)])
        codes = self.encoder.push(frames, active)
        audio = torch.zeros_like(frames)
        for number in set(codebooks.values()):
            chosen = torch.tensor([codebooks.get(row) == number for row in range(self.rows)])
            audio[chosen] = self.decoder.push(codes[:, :number], chosen)[chosen]
        return audio

    async def reply(self, client: Client, pcm: bytes) -> None:
        """Send a frame, and once a second the state."""
        now = time.perf_counter()
        client.latency += 0.1 * (now - client.arrived - client.latency)
        try:
            async with asyncio.timeout(DEAF_SECONDS):
                await client.socket.send(pcm)
                if now - client.told > 1:
                    client.told = now
                    await client.socket.send(json.dumps(self.state(client)))
        except ConnectionClosed:
            pass
        except TimeoutError:
            log.warning("%s is dropped: it does not read what it is sent", client.socket.remote_address)
            client.socket.transport.abort()  # closing politely would wait for it once more


def page(connection: ServerConnection, request: Request) -> Response | None:
    """Give the page to a browser; let WebSocket requests through."""
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return None
    if request.path != "/":
        return connection.respond(HTTPStatus.NOT_FOUND, "only / is here\n")
    response = connection.respond(HTTPStatus.OK, PAGE.read_text())
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    return response


@contextlib.asynccontextmanager
async def listening(
    model: codec.Codec, *, host: str = "localhost", port: int = 8765, rows: int = 8
) -> AsyncIterator[Server]:
    """A running server; `server.sockets` tells its port when `port` is 0."""
    loop = VoiceLoop(model, rows)
    ticking = asyncio.create_task(loop.run())
    ticking.add_done_callback(_report_end)
    try:
        # one second of sound at most in a message
        async with serve(
            loop.handle, host, port, process_request=page, max_size=2 * model.sample_rate
        ) as server:
            yield server
    finally:
        ticking.cancel()


def _report_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the voice loop has ended: nobody is served any more", exc_info=error)


async def main() -> None:
    """Serve until interrupted."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default", help="name or path of a causal model")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--clients", type=int, default=8, help="most at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)  # frames are small: handing them to threads costs more than it saves
    model = codec.load(options.model)
    async with listening(model, host=options.host, port=options.port, rows=options.clients) as server:
        print(f"http://{options.host}:{options.port}  (interrupt to stop)")
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
