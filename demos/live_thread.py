"""The voice loop of `live.py` in a thread beside another server."""

from __future__ import annotations

import asyncio
import threading

import live

import codec


def start(model: codec.Codec, host: str) -> str:
    """Start it on a free port; returns the address of its page."""
    ready: list[int] = []
    up = threading.Event()

    async def serve() -> None:
        async with live.listening(model, host=host, port=0) as server:
            ready.append(server.sockets[0].getsockname()[1])
            up.set()
            await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True, name="voice loop").start()
    up.wait(10)
    name = "localhost" if host in ("127.0.0.1", "0.0.0.0") else host
    return f"http://{name}:{ready[0]}/"
