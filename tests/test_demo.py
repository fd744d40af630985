"""The demo in a real browser: upload, encode, switch, download, drop, break; and what it does with bad guests."""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
import tempfile
import time
import wave
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import codec
from tests.conftest import SPEECH

pytest.importorskip("gradio", reason="the demo's dependencies are not installed")
pytest.importorskip("websockets", reason="the demo's dependencies are not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "demos"))
import app
import sound

LOADED = "#source #waveform, #source canvas, #source audio"  # a sound is there
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[str]:
    """The page on a free port, with a small model."""
    blocks = app.launch([str(tiny_model)], port=_free_port(), prevent_thread_lock=True, quiet=True)
    yield blocks.local_url
    blocks.close()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def browser(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium on the page; `downloads` is where its files go."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "no-first-run",
        "window-size=1200,1600",
        "autoplay-policy=no-user-gesture-required",
    ):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.downloads = downloads
    driver.get(server)
    wait(lambda: driver.find_elements("css selector", LOADED))
    yield driver
    driver.quit()


def wait(ready: Callable[[], Any], seconds: float = 60) -> Any:
    """What `ready` gives once it gives something."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, "nothing happened on the page"
        time.sleep(0.1)
    return found


def upload(browser: Any, place: str, path: Path) -> None:
    for clear in browser.find_elements("css selector", f"{place} [aria-label=Clear]"):
        clear.click()
    wait(lambda: browser.find_elements("css selector", f"{place} input[type=file]"))
    browser.find_element("css selector", f"{place} input[type=file]").send_keys(str(path))


def decoded(browser: Any) -> str:
    """The decoded sound inside the page."""
    audio = browser.find_element("css selector", "#player audio.b")
    return audio.get_attribute("src") or ""


def samples(url: str) -> tuple[int, np.ndarray]:
    with wave.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) as file:
        return file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768


def scored(browser: Any) -> None:
    """The sound comes first; wait for the rest, for what is being made covers what lies below."""
    wait(lambda: "STOI" in browser.find_element("id", "facts").text)


def go(browser: Any) -> None:
    wait(lambda: browser.find_element("id", "go").is_enabled())
    browser.find_element("id", "go").click()


def test_a_visit(browser: Any) -> None:
    upload(browser, "#source", SPEECH)
    wait(lambda: browser.find_elements("css selector", LOADED))
    go(browser)
    first = wait(lambda: decoded(browser))
    rate, audio = samples(first)
    assert rate == 16000
    assert len(audio) == 158608
    assert np.sqrt(np.mean(audio**2)) > 1e-3
    duration = "return document.querySelector('#player audio.b').duration"
    assert abs(wait(lambda: browser.execute_script(duration)) - len(audio) / rate) < 0.05
    assert "kbps" in browser.find_element("id", "facts").text
    scored(browser)

    # play, and switch while it plays
    browser.find_element("css selector", "#player .play").click()
    place = "return document.querySelector('#player audio.a').currentTime"
    wait(lambda: browser.execute_script(place) > 0.2)
    browser.find_element("css selector", "#player [data-side=b]").click()
    wait(lambda: browser.execute_script(place.replace("audio.a", "audio.b")) > 0.2)
    assert browser.execute_script("return document.querySelector('#player audio.a').paused")
    browser.find_element("css selector", "#player .play").click()

    # fewer codebooks: another sound
    number = browser.find_element("css selector", "#codebooks input[type=number]")
    browser.execute_script(
        "const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;"
        "set.call(arguments[0], 1); arguments[0].dispatchEvent(new Event('input', {bubbles: true}));",
        number,
    )
    go(browser)
    second = wait(lambda: decoded(browser) not in ("", first) and decoded(browser))
    assert len(samples(second)[1]) == len(audio)
    scored(browser)

    # the tokens come back as the same sound
    browser.find_element("id", "get-tok").click()
    tok = wait(lambda: list(browser.downloads.glob("*.tok")))[0]
    header, codes = codec.read_tok(tok)
    assert codes.shape == (1, -(-len(audio) // 320))
    assert header.num_samples == len(audio)
    upload(browser, "#tokens", tok)
    wait(lambda: "no original" in browser.find_element("id", "player").text)
    assert np.array_equal(samples(decoded(browser))[1], samples(second)[1])

    # and break
    browser.execute_script(
        "[...document.querySelectorAll('button[role=tab]')]"
        ".filter(e => e.innerText.trim() == 'Break it').at(-1).click()"
    )
    slider = wait(lambda: browser.find_element("css selector", "#errors input[type=range]"))
    browser.execute_script(
        "const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;"
        "set.call(arguments[0], 10);"
        "for (const kind of ['input', 'change', 'pointerup'])"
        "  arguments[0].dispatchEvent(new Event(kind, {bubbles: true}));",
        slider,
    )
    wait(lambda: "bits flipped" in browser.find_element("id", "damage").text)
    assert not browser.find_element("id", "damage").text.startswith("0 bits")
    wait(lambda: browser.find_elements("css selector", "#broken audio, #broken canvas, #broken #waveform"))


@pytest.mark.parametrize("kind", ["zip", "text", "long"])
def test_bad_sounds_get_a_sentence(kind: str, tmp_path: Path, tiny_model: Path) -> None:
    path = bad_sound(kind, tmp_path)
    with pytest.raises(codec.CodecError, match="s long" if kind == "long" else "not a sound file"):
        sound.encode(str(path), str(tiny_model), 1)


def bad_sound(kind: str, folder: Path) -> Path:
    path = folder / "sound.wav"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../../escape.txt", "no")
    elif kind == "text":
        path.write_text("hello")
    else:
        path.write_bytes(sound.wav(np.zeros(61 * 8000), 8000))
    return path


def test_hostile_guests_get_a_sentence_on_the_page(browser: Any, tmp_path: Path) -> None:
    def told() -> str:
        return browser.execute_script("return document.body.innerText")

    browser.refresh()
    wait(lambda: browser.find_elements("css selector", "#tokens input[type=file]"))
    path = tmp_path / "bad.tok"
    path.write_bytes(b"\x00" * 500)
    upload(browser, "#tokens", path)
    wait(lambda: "does not begin with" in told())
    assert "/tmp" not in told()
    upload(browser, "#source", bad_sound("zip", tmp_path))
    time.sleep(1)
    go(browser)
    wait(lambda: "not a sound file" in told())


def test_a_name_with_path_parts_stays_inside_the_temporary_folder(server: str, tmp_path: Path) -> None:
    import urllib.request

    boundary = "x" * 20
    name = "../../../escape-of-the-demo.wav"
    body = (
        (
            f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
            "Content-Type: audio/wav\r\n\r\n"
        ).encode()
        + sound.wav(np.zeros(800), 8000)
        + f"\r\n--{boundary}--\r\n".encode()
    )
    request = urllib.request.Request(
        f"{server.rstrip('/')}/gradio_api/upload",
        body,
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    (path,) = json.loads(urllib.request.urlopen(request).read())
    assert Path(tempfile.gettempdir()).resolve() in Path(path).resolve().parents
    assert Path(path).name == "escape-of-the-demo.wav"


def test_ten_visitors_are_all_served(server: str, tiny_model: Path) -> None:
    from gradio_client import Client, handle_file

    def visit(_: int) -> Any:
        client = Client(server, verbose=False, download_files=False)
        return client.predict(handle_file(str(SPEECH)), str(tiny_model), 2, api_name="/encode")

    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(visit, range(10)))
    assert all("kbps" in str(result) for result in results)


def test_damage_hits_as_many_bits_as_asked(tiny_model: Path) -> None:
    coded = sound.encode(str(SPEECH), str(tiny_model), 4)
    same, _ = sound.damage(coded, 0.0, 0.0, 4)
    assert np.array_equal(same, coded.codes)
    assert sound.damage(coded, 0.0, 0.0, 12)[0].shape == coded.codes.shape  # more than there are
    codes, text = sound.damage(coded, 0.05, 0.2, 3)
    assert codes.shape == (3, coded.codes.shape[1])
    assert codes.max() < 64
    flipped = int(text.split()[0])
    assert 0.03 < flipped / (3 * 6 * codes.shape[1]) < 0.07
    assert not np.array_equal(codes, coded.codes[:3])


def test_all_codebooks_together_are_the_whole(tiny_model: Path) -> None:
    coded = sound.encode(str(SPEECH), str(tiny_model), 4)
    whole = sound.decode_codes(coded, coded.codes)
    assert np.abs(sound.decode_codebooks(coded, [0, 1, 2, 3]) - whole).max() < 1e-5
    assert np.abs(sound.decode_codebooks(coded, [0, 2]) - whole).max() > 1e-3
