"""The demo: hear, see and break a codec in the browser.

python demos/app.py        or        codec demo
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from matplotlib.figure import Figure

import codec

sys.path.insert(0, str(Path(__file__).parent))
import live_thread
import sound
from sound import Coded

CLIPS = Path(__file__).parents[1] / "tests" / "data"
FIRST_CLIP = "speech"
RUN_HINT = "Give the folder of a run: `python train.py` writes it to runs/NAME."
PLAYER = Path(__file__).with_name("player.js").read_text()
STYLE = """
.gradio-container { max-width: 1080px !important; margin: auto; }
#title h1 { margin-bottom: 0; }
#facts :is(div, table, tr) { border: 0 !important; }
#facts table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
#facts thead { display: none; }
#facts td { padding: .3rem .6rem .3rem 0; text-align: left; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
#facts td:first-child { white-space: nowrap; color: var(--body-text-color-subdued); width: 1%; padding-right: 1.4rem; }
footer { display: none !important; }
/* an iframe whose scheme is that of its page shows the ground through, and its page follows the switch */
iframe { color-scheme: light; }
.dark iframe { color-scheme: dark; }
"""
PLAYER_STYLE = """
.bar { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
button { padding: .45rem 1rem; border-radius: .5rem; border: 1px solid var(--border-color-primary);
  background: var(--button-secondary-background-fill); color: var(--body-text-color); cursor: pointer; }
button[aria-pressed="true"] { background: var(--color-accent); color: white; }
button:disabled { opacity: .4; cursor: default; }
input[type=range] { flex: 1 1 12rem; accent-color: var(--color-accent); }
.note { opacity: .75; font-size: .9rem; margin: .4rem 0 0; min-height: 1.3em; }
@media (max-width: 480px) { .bar { gap: .4rem; } button { padding: .4rem .7rem; } }
"""
PLAYER_HTML = """
<div class="bar">
  <button class="play" disabled>Play</button>
  <button class="side" data-side="a" aria-pressed="true">Original</button>
  <button class="side" data-side="b" aria-pressed="false">Decoded</button>
  <input class="seek" type="range" min="0" max="1000" value="0" aria-label="position">
  <span class="time">0.0 s</span>
</div>
<div class="bar" style="margin-top:.5rem">
  <button class="blind" aria-pressed="false">Blind test</button>
  <span class="ask" hidden>X is one of the two. <button class="x">Hear X</button>
    <button class="guess" data-side="a">X is the original</button>
    <button class="guess" data-side="b">X is the decoded</button></span>
</div>
<p class="note" role="status"></p>
<audio class="a" preload="auto"></audio><audio class="b" preload="auto"></audio>
"""


def guarded(function: Any) -> Any:
    """Errors that a visitor can cause, as a sentence on the page."""

    @contextmanager
    def sentences() -> Iterator[None]:
        try:
            yield
        except codec.CodecError as error:
            # where the file lies on the server is nobody's business
            sentence = re.sub(r"\S*/(?=[^/\s]+)", "", str(error))
            raise gr.Error(sentence, duration=12, title="That did not work") from None

    if inspect.isgeneratorfunction(function):

        @wraps(function)
        def steps(*arguments: Any) -> Any:
            with sentences():
                yield from function(*arguments)

        return steps

    @wraps(function)
    def once(*arguments: Any) -> Any:
        with sentences():
            return function(*arguments)

    return once


def show(coded: Coded, progress: gr.Progress) -> Iterator[tuple[Any, ...]]:
    """Everything of the first two tabs for an encoded sound: the sound first, then scores and pictures."""
    progress(0.5, desc="decoding")
    decoded, seconds = sound.decode(coded)
    original = coded.original
    model = sound.load(coded.model)
    sizes = model.quantizer.codebook_sizes
    length = coded.samples / coded.rate
    facts = {
        "bit rate": f"{8 * len(coded.tok) / length / 1000:.2f} kbps ({len(coded.tok)} bytes for {length:.2f} s)",
        "tokens": f"{len(coded.codes)} codebooks x {coded.codes.shape[1]} frames, {coded.codes.size / length:.0f}/s",
        "compression": f"1 : {2 * coded.samples / len(coded.tok):.0f} against 16-bit samples",
    }
    if original is not None:
        facts["encoding took"] = (
            f"{coded.encode_seconds:.2f} s ({length / coded.encode_seconds:.0f} x real time)"
        )
    facts["decoding took"] = f"{seconds:.2f} s ({length / seconds:.0f} x real time)"
    sounds = {"b": sound.data_url(decoded, coded.rate)}
    if original is not None:
        sounds["a"] = sound.data_url(original, coded.rate)
    numbers = [str(k + 1) for k in range(len(coded.codes))]
    # the page copies what it serves at each step; nothing of a visit stays behind
    with tempfile.TemporaryDirectory(prefix="codec-demo-") as name:
        folder = Path(name)
        (folder / "sound.tok").write_bytes(coded.tok)
        (folder / "decoded.wav").write_bytes(sound.wav(decoded, coded.rate))
        downloads = [
            gr.DownloadButton(value=str(folder / n), interactive=True) for n in ("sound.tok", "decoded.wav")
        ]
        yield coded, json.dumps(sounds), _table(facts), gr.skip(), *downloads, *(gr.skip(),) * 4
        progress(0.7, desc="scoring and drawing")
        if original is not None:
            facts |= sound.scores(original, decoded, coded.rate)
        yield (
            gr.skip(),
            gr.skip(),
            _table(facts),
            gr.Plot(value=sound.spectrograms(original, decoded, coded.rate), visible=True),
            gr.skip(),
            gr.skip(),
            sound.code_map(coded.codes, sizes),
            sound.usage(coded.codes, sizes),
            gr.CheckboxGroup(choices=numbers, value=numbers),
            gr.Slider(value=len(numbers)),
        )


def _table(facts: dict[str, str]) -> str:
    return "| what | value |\n|---|---|\n" + "\n".join(
        f"| {name} | {value} |" for name, value in facts.items()
    )


@guarded
def encode(path: str | None, model: str, codebooks: int, progress: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
    """Encode what was recorded, uploaded or picked."""
    if path is None:
        raise gr.Error(
            "Record something, upload a sound file, or pick one of the clips first.", title="No sound"
        )
    progress(0.1, desc="encoding")
    yield from show(sound.encode(path, model, int(codebooks)), progress)


@guarded
def drop(path: str | None, model: str, progress: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
    """Decode a token file."""
    if path is not None:
        progress(0.1, desc="reading")
        yield from show(sound.open_tok(path, model), progress)


@guarded
def click(coded: Coded | None, event: gr.SelectData) -> tuple[Any, Any]:
    """Hear and see one frame of the token map."""
    if coded is None:
        raise gr.Error("Encode a sound first.", title="No tokens")
    model = sound.load(coded.model)
    frames = coded.codes.shape[1]
    wide = max(1, 1000 // frames)
    frame = min(int(event.index[0]) // wide, frames - 1)
    audio = sound.decode_codes(coded, coded.codes)
    middle, half = (2 * frame + 1) * model.hop // 2, int(0.1 * model.sample_rate)
    piece = audio[max(0, middle - half) : middle + half]
    return (
        gr.Audio(value=(model.sample_rate, sound.pcm(piece)), visible=True),
        gr.Plot(value=sound.vectors(coded, frame), visible=True),
    )


@guarded
def mute(coded: Coded | None, chosen: list[str]) -> Any:
    """Decode some of the codebooks."""
    if coded is None:
        raise gr.Error("Encode a sound first.", title="No tokens")
    audio = sound.decode_codebooks(coded, [int(number) - 1 for number in chosen])
    return sound.load(coded.model).sample_rate, sound.pcm(audio)


@guarded
def break_it(
    coded: Coded | None, bit_errors: float, lost: float, codebooks: int, seed: int
) -> tuple[Any, str, Figure]:
    """Decode after a bad channel."""
    if coded is None:
        raise gr.Error("Encode a sound in the first tab, then break it here.", title="No tokens")
    rate = sound.load(coded.model).sample_rate
    codes, text = sound.damage(coded, bit_errors / 100, lost / 100, int(codebooks), int(seed))
    audio = sound.decode_codes(coded, codes)
    whole = sound.decode_codes(coded, coded.codes)
    return (rate, sound.pcm(audio)), text, sound.spectrograms(whole, audio, rate, ("sent", "received"))


def run_state(folder: str) -> tuple[Any, Any, str, Any]:
    """Curves, usage and the newest validation sound of a training run; what there is not yet takes no place."""
    losses, usage, text, audio = _read_run(folder)
    plots = [gr.Plot(value=figure, visible=figure is not None) for figure in (losses, usage)]
    return *plots, text, gr.Audio(value=audio, visible=audio is not None)


def _read_run(folder: str) -> tuple[Figure | None, Figure | None, str, Any]:
    log = Path(folder).expanduser() / "log.jsonl"
    if not folder:
        return None, None, RUN_HINT, None
    if not log.is_file():
        return None, None, f"There is no run in that folder. {RUN_HINT}", None
    rows = []
    for line in log.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # the last line may be half written
    train = [row for row in rows if row.get("kind") == "train"]
    valid = [row for row in rows if row.get("kind") == "valid"]
    if not train:
        return None, None, "The run has not written a row yet.", None
    last = train[-1]
    age = time.time() - log.stat().st_mtime
    text = f"step {last['step']}, {last.get('batches_per_second', 0):.2f} steps a second, last row {age:.0f} s ago"
    curves = sound.curves(train, valid, ["mel", "mel_distance", "loss", "adv", "disc", "commit"])
    return curves, sound.curves(train, valid, ["usage", "perplexity"]), text, sound.newest_audio(log.parent)


def page(models: list[str], live_url: str) -> gr.Blocks:
    """The whole page."""
    first = sound.load(models[0])
    prefixes = first.quantizer.prefixes
    clips = sorted(str(file) for file in CLIPS.glob("*.flac")) if CLIPS.is_dir() else []
    names = [(Path(clip).stem.replace("_", " "), clip) for clip in clips]
    ready = next((clip for clip in clips if Path(clip).stem == FIRST_CLIP), None)
    with gr.Blocks(title="codec", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        state = gr.State(None)
        gr.Markdown(
            "# Hear, see and break a codec\nA neural codec turns sound into a few hundred numbers a second and back."
            f" Sounds may be {sound.MOST_SECONDS:.0f} s long and {sound.MOST_MEGABYTES} MB large; they stay on this"
            " server for an hour at most.",
            elem_id="title",
        )
        with gr.Tab("Compare"):
            with gr.Row():
                with gr.Column(min_width=300):
                    source = gr.Audio(
                        ready,  # a visitor can press the button at once
                        sources=["upload", "microphone"],
                        type="filepath",
                        label="Your sound",
                        elem_id="source",
                    )
                    clip = gr.Dropdown(names, value=ready, label="or a clip", interactive=True)
                with gr.Column(min_width=300):
                    model = gr.Dropdown(models, value=models[0], label="Model")
                    codebooks = gr.Slider(
                        prefixes[0],
                        prefixes[-1],
                        prefixes[-1],
                        step=1,
                        label="Codebooks",
                        elem_id="codebooks",
                        info=f"each adds {first.bitrate(1) / 1000:g} kbps",
                    )
                    go = gr.Button("Encode and decode", variant="primary", elem_id="go")
                    token_file = gr.File(
                        label="or drop a .tok to decode it", type="filepath", height=170, elem_id="tokens"
                    )
            player = gr.HTML(
                value="{}",
                html_template=PLAYER_HTML,
                css_template=PLAYER_STYLE,
                js_on_load=PLAYER,
                elem_id="player",
            )
            with gr.Row():
                with gr.Column(min_width=300):
                    facts = gr.Markdown(elem_id="facts")
                with gr.Column(min_width=300):
                    get_tok = gr.DownloadButton(
                        "Download the tokens (.tok)", interactive=False, elem_id="get-tok"
                    )
                    get_wav = gr.DownloadButton(
                        "Download the decoded sound (.wav)", interactive=False, elem_id="get-wav"
                    )
            pictures = gr.Plot(label="Spectrograms", show_label=False, elem_id="pictures", visible=False)
        with gr.Tab("Tokens"):
            gr.Markdown(
                "One row a codebook, one column a frame, one colour a code."
                " Click a frame to hear it and to see its vectors."
            )
            token_map = gr.Image(
                label="Tokens over time",
                show_label=False,
                interactive=False,
                type="numpy",
                elem_id="map",
                buttons=[],
            )
            with gr.Row():
                frame_sound = gr.Audio(
                    label="That frame and its neighbours", interactive=False, autoplay=True, visible=False
                )
                frame_vectors = gr.Plot(label="Code vectors", show_label=False, visible=False)
            chosen = gr.CheckboxGroup([], label="Codebooks to decode", elem_id="chosen")
            partial = gr.Audio(label="Only these codebooks", interactive=False, elem_id="partial")
            histogram = gr.Plot(label="Usage", show_label=False)
        with gr.Tab("Break it"):
            with gr.Row():
                errors = gr.Slider(0, 20, 1, step=0.1, label="Bit errors, %", min_width=220, elem_id="errors")
                lost = gr.Slider(0, 50, 0, step=1, label="Frame loss, %", min_width=220)
                kept = gr.Slider(1, prefixes[-1], prefixes[-1], step=1, label="Codebooks kept", min_width=220)
                seed = gr.Number(0, label="Random seed", precision=0, minimum=0, min_width=220)
            damage_text = gr.Markdown(elem_id="damage")
            broken = gr.Audio(label="What arrives", interactive=False, elem_id="broken")
            broken_picture = gr.Plot(label="Sent, received, difference", show_label=False)
        with gr.Tab("Live"):
            gr.HTML(
                f'<iframe src="{live_url}" allow="microphone; autoplay" title="Live" '
                'style="width:100%;height:560px;border:0"></iframe>'
            )
        with gr.Tab("Train"):
            folder = gr.Textbox(label="Folder of a training run", placeholder="runs/default", elem_id="run")
            run_text = gr.Markdown(RUN_HINT)
            run_curves = gr.Plot(label="Losses", show_label=False, visible=False)
            run_usage = gr.Plot(label="Codebooks", show_label=False, visible=False)
            run_audio = gr.Audio(label="Newest validation sound", interactive=False, visible=False)
            timer = gr.Timer(10)
        shown = [state, player, facts, pictures, get_tok, get_wav, token_map, histogram, chosen, kept]
        clip.input(lambda path: path, clip, source, show_progress="hidden")
        gr.on(
            [go.click, codebooks.release], encode, [source, model, codebooks], shown, concurrency_id="codec"
        )
        token_file.upload(drop, [token_file, model], shown, concurrency_id="codec")
        token_map.select(click, state, [frame_sound, frame_vectors], concurrency_id="codec")
        chosen.input(mute, [state, chosen], partial, concurrency_id="codec")
        changes = [errors.release, lost.release, kept.release, seed.submit]
        gr.on(
            changes,
            break_it,
            [state, errors, lost, kept, seed],
            [broken, damage_text, broken_picture],
            concurrency_id="codec",
        )
        gr.on(
            [folder.submit, timer.tick],
            run_state,
            folder,
            [run_curves, run_usage, run_text, run_audio],
            show_progress="hidden",
        )
    return blocks.queue(default_concurrency_limit=2, max_size=64)


def launch(models: list[str], host: str = "127.0.0.1", port: int | None = None, **settings: Any) -> gr.Blocks:
    """Start the server; returns at once with `prevent_thread_lock=True`."""
    live_url = live_thread.start(sound.load(models[0]), host)
    blocks = page(models, live_url)
    # fonts of the system: a page on localhost should need nothing from elsewhere
    theme = gr.themes.Soft(
        primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    blocks.launch(
        server_name=host,
        server_port=port,
        theme=theme,
        css=STYLE,
        show_error=True,
        max_file_size=sound.MOST_MEGABYTES * 10**6,
        allowed_paths=[str(CLIPS)] if CLIPS.is_dir() else [],
        _frontend=False,  # its test of the page gives up after 3 s, and on a busy machine the server would not start
        **settings,
    )
    return blocks


def main(argv: list[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Hear, see and break a codec in the browser.")
    parser.add_argument("--model", action="append", help="name or path; may be given several times")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others in")
    parser.add_argument("--port", type=int)
    options = parser.parse_args(argv)
    launch(options.model or ["default"], options.host, options.port)


if __name__ == "__main__":
    main()
