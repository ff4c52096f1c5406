"""The report and the list of runs in Chromium: looks, keys, sound, spectrograms and curves, without console errors."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from browser import CHROMIUM, Browser
from codec.evaluation.report.index import write_index
from codec.evaluation.report.page import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

RATE = 8000
SIZES = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips in four versions of different level, and curves of 30 records."""
    run = tmp_path_factory.mktemp("runs") / "a <b> & c"
    (run / "samples").mkdir(parents=True)
    (run / "config.yaml").write_text("validation: {bandwidth_kbps: 6.0}\ntrainer: {max_steps: 300}\n", encoding="utf-8")
    for clip, hertz in (("music", 1000), ("speech", 3000)):
        audio = np.sin(2 * np.pi * hertz * np.arange(3 * RATE) / RATE)
        for kind, level in (("reference", 0.5), ("step0000100", 0.125), ("step0000200", 0.25)):
            soundfile.write(run / "samples" / f"{clip}.{kind}.wav", level * audio, RATE)
    records: list[dict[str, object]] = [
        {
            "split": "validation",
            "step": step,
            "music/si_sdr_db": step / 9,
            "speech/si_sdr_db": 1.0,
            "music/mel_distance": 1,
        }
        for step in (0, 100, 200)
    ]
    for step in range(10, 310, 10):
        shares = {"share/l1": 0.25, "share/mel": 0.75, "codebook/0/perplexity": 9.0, "loss/mel": float(step % 40)}
        records.append({"split": "train", "step": step, "loss/l1": float(step), **shares})
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run / "metrics.jsonl").write_text(text, encoding="utf-8")
    write_report(run)
    write_index(run.parent)
    return write_report(run)  # now with a link to the list


@pytest.fixture
def tab(chromium_tab: Browser, report: Path) -> Iterator[Browser]:
    """The report at desktop width, newly opened and drawn; nothing may be wrong on the console at the end."""
    chromium_tab.problems.clear()
    chromium_tab.requests.clear()
    chromium_tab.show(report, *SIZES[0])
    drawn(chromium_tab)
    yield chromium_tab
    chromium_tab.run("sessionStorage.clear()")
    assert chromium_tab.problems == []


def drawn(tab: Browser) -> None:
    tab.wait("player.root.dataset.ready !== undefined && document.querySelector('.plot svg')")


def selected(tab: Browser) -> list[str]:
    return tab.run("[...document.querySelectorAll('[role=radio][aria-checked=true]')].map((e) => e.dataset.version)")


def test_the_pages_suit_every_width_and_colour_scheme(tab: Browser, report: Path) -> None:
    backgrounds = set()
    for width, scheme in SIZES:
        for page in (report, report.parents[1] / "index.html"):
            tab.show(page, width, scheme)
            if page == report:
                drawn(tab)
            tab.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
            assert tab.run("Math.max(document.documentElement.scrollWidth, innerWidth)") == width, (page.name, width)
            assert tab.unnamed_controls() == []
            backgrounds.add((scheme, tab.run("getComputedStyle(document.body).backgroundColor")))
    assert len(backgrounds) == 2
    assert tab.run("document.querySelector('a').getAttribute('href')") == "a%20%3Cb%3E%20%26%20c/report.html"
    tab.click("a")
    tab.wait("document.title === 'a <b> & c' && document.readyState === 'complete'")
    assert [url for url in tab.requests if not url.startswith(("data:", "file:"))] == []


def test_on_a_phone_one_version_is_seen_at_a_time(tab: Browser, report: Path) -> None:
    def visible() -> list[str]:
        figures = "[...document.querySelectorAll('.clip figure')].filter((figure) => figure.checkVisibility())"
        return tab.run(f"{figures}.map((figure) => figure.dataset.version)")

    assert visible() == ["reference", "now", "earlier", "opus"] * 2
    tab.show(report, *SIZES[2])
    drawn(tab)
    tab.click("[data-version=earlier][role=radio]")
    assert visible() == ["earlier"] * 2
    picture = tab.run("document.querySelector('.selected .picture').getBoundingClientRect().width")
    assert picture > 340  # wide enough to seek


def test_keys_switch_versions_and_play(tab: Browser) -> None:
    assert selected(tab) == ["reference"]
    for key, version in zip("3ab4ab12", ["earlier", "reference", "earlier", "opus", "reference", "opus", "reference",
                                         "now"], strict=True):  # fmt: skip
        tab.press(key)
        assert selected(tab) == [version]
    tab.press(" ")
    tab.wait("player.playback.playing && player.playback.position > 0.05")
    assert tab.run("document.querySelector('.bar .play').textContent") == "Pause"
    tab.press(" ")
    assert not tab.run("Boolean(player.playback.playing)")
    stopped = tab.run("player.playback.position")
    assert 0 < stopped < 3
    # By Tab alone: the play button, the chosen version with its arrows, the boxes, and the position in a clip.
    tab.run("document.querySelector('.bar .play').focus()")
    tab.press("Tab")
    tab.press("ArrowRight")
    assert selected(tab) == ["earlier"]
    tab.press(" ")  # on a version it plays
    tab.wait("player.playback.playing")
    tab.press(" ")
    tab.press("Tab")
    tab.press(" ")  # on a box it is the box's
    assert not tab.run("document.querySelector('.loop').checked || player.playback.playing")
    tab.run("document.querySelectorAll('.track')[1].focus()")
    tab.press("End")
    tab.press("ArrowLeft")
    tab.wait("document.activeElement.getAttribute('aria-valuenow') === '2.75'")
    assert tab.run("player.clip.name") == "speech"
    assert tab.run("document.activeElement.getAttribute('aria-valuetext')") == "2.75 of 3.00 seconds, step 100"


def test_versions_share_one_position_and_a_switch_has_no_gap(tab: Browser) -> None:
    """Rendered offline: the sound follows the level of the chosen version, and its phase is never interrupted."""
    switched = """(async () => {
        const buffers = await player.clips[0].ready(), context = new OfflineAudioContext(1, 8000, 8000);
        const playback = new Playback(), live = Playback.context;
        Playback.context = Object.assign(context, { resume: () => {} });
        playback.load(buffers);
        playback.seek(1);
        playback.select("reference");
        context.suspend(0.5).then(() => { playback.select("now"); context.resumeRendering(); });
        context.resumeRendering = () => OfflineAudioContext.prototype.resume.call(context);
        playback.start();
        const sound = (await context.startRendering()).getChannelData(0);
        Playback.context = live;
        Playback.all.pop();
        return [...sound];
    })()"""
    sound = np.array(tab.run(switched))
    time = np.arange(len(sound)) / RATE
    start = round(0.02 * RATE)  # the delay of a start
    expected = np.sin(2 * np.pi * 1000 * (time - start / RATE + 1))
    level = np.where(time < 0.5, 0.5, 0.25)
    steady = (time > 0.03) & ((time < 0.5) | (time > 0.55))
    assert np.abs(sound - level * expected)[steady].max() < 2e-3
    assert np.abs(sound[:start]).max() == 0
    assert (np.abs(sound) <= 0.5 * np.abs(expected) + 2e-3)[start:].all()  # while it fades, too


def test_a_click_on_a_spectrogram_chooses_version_and_position(tab: Browser) -> None:
    tab.click(".clip:last-child [data-version=opus] .picture", 0.25)
    tab.wait("player.playback.playing")
    assert selected(tab) == ["opus"]
    assert tab.run("player.clip.name") == "speech"
    tab.run("player.playback.stop()")
    assert 0.74 <= tab.run("player.playback.offset") < 2
    tab.wait("parseFloat(document.querySelector('.clip:last-child .selected i').style.left) >= 24")
    tab.run("player.playback.seek(1.5)")
    heads = "[...document.querySelectorAll('.clip:last-child i')].map((head) => head.style.left)"
    tab.wait(f"{heads}.every((left) => left === '50%')")  # in all versions
    tab.click(".clip .start")
    tab.wait("player.clip.name === 'music' && player.playback.playing")
    tab.run("player.playback.stop()")


def test_a_sine_is_one_line_at_its_frequency_and_level(tab: Browser) -> None:
    sine = "Float32Array.from({length: 24000}, (_, i) => Math.sin(2 * Math.PI * 3000 * i / 24000))"
    columns, middle = tab.run(
        f"(() => {{ const s = spectrogram({sine}, 24000); return [s.columns, "
        "[...s.decibels.slice(200 * 256, 201 * 256)]]; })()"
    )
    assert columns == 400
    assert np.argmax(middle) == pytest.approx(256 * 3000 / 12000, abs=1.01)
    assert max(middle) == pytest.approx(0, abs=0.1)
    assert np.median(middle) < -60
    for rate, samples in ((8000, 1), (48000, 399), (192000, 30)):
        shape = f"spectrogram(new Float32Array({samples}), {rate})"
        assert tab.run(f"{shape}.decibels.length / {shape}.columns") == 256
    noise = np.random.default_rng(0).normal(size=64)
    numbers = f"const re = Float64Array.from({noise.tolist()}), im = new Float64Array(64);"
    real, imaginary = tab.run(f"(() => {{ {numbers} fft(re, im); return [[...re], [...im]]; }})()")
    assert np.allclose(np.array(real) + 1j * np.array(imaginary), np.fft.fft(noise))


def test_the_difference_view_shows_what_is_missing(tab: Browser) -> None:
    """`now` has half the level of the reference: 6 dB are missing at 1 kHz, which is blue."""
    tab.press("d")
    tab.wait("document.querySelector('.difference').checked")
    pixel = """(version, row) => { const canvas = document.querySelector(`.clip [data-version=${version}] canvas`);
        const copy = new OffscreenCanvas(400, 256).getContext("2d", { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        return [...copy.getImageData(200, row, 1, 1).data].slice(0, 3); }"""
    row = 255 - 256 * 1000 // 4000
    red, _, blue = tab.run(f"({pixel})('now', {row})")
    assert blue == pytest.approx(255 * 6.02 / 30, abs=4)
    assert red < blue / 3
    assert max(tab.run(f"({pixel})('now', 20)")) <= 1  # nothing differs there
    before = tab.run(f"({pixel})('reference', {row})")
    tab.press("d")
    assert tab.run(f"({pixel})('reference', {row})") == before  # the reference is never a difference
    assert tab.run(f"({pixel})('now', {row})")[0] > 100  # the spectrogram again
    tab.press("d")
    tab.open(Path(tab.run("decodeURIComponent(location.pathname)")))
    drawn(tab)
    assert tab.run("document.querySelector('.difference').checked")  # kept over a reload


def test_curves_have_values_under_the_pointer_and_adjustable_smoothing(tab: Browser) -> None:
    figures = "[...document.querySelectorAll('figure[data-chart]')]"
    figure = f"{figures}.find((each) => each.querySelector('figcaption').textContent === 'mel')"
    hover = f"""(() => {{ const plot = {figure}.querySelector(".plot"), box = plot.getBoundingClientRect();
        const at = {{ clientX: box.left + 46 + 0.52 * (box.width - 56), clientY: box.top + 20 }};
        plot.dispatchEvent(new PointerEvent("pointermove", at));
        return plot.querySelector(".tip").innerText; }})()"""
    slider = "document.getElementById('smoothing')"
    set_to = f"{slider}.value = WEIGHT; {slider}.dispatchEvent(new Event('input'))"
    tab.run(set_to.replace("WEIGHT", "0"))
    assert tab.run(hover).split() == ["step", "160", "mel", "0"]
    assert tab.run(f"{figure}.querySelectorAll('path').length") == 1
    tab.run(set_to.replace("WEIGHT", "0.5"))
    values = [float(step % 40) for step in range(10, 310, 10)]
    weights = 0.5 ** np.arange(16)[::-1]
    mean = float(np.dot(weights, values[:16]) / weights.sum())
    number = tab.run(f"shortNumber({mean})")
    assert tab.run(hover).split() == ["step", "160", "mel", number, "(0)"]
    assert tab.run(f"{figure}.querySelectorAll('path').length") == 2
    labels = tab.run(f"{figure}.querySelector('.plot').getAttribute('aria-label')")
    assert re.fullmatch("Chart: mel; latest mel 20", labels)
    tab.run("document.querySelector('.plot').dispatchEvent(new PointerEvent('pointerleave'))")
    kinds = set(
        tab.run("charts.filter((chart) => chart.svg.querySelector('path, rect, circle')).map((c) => c.data.kind)")
    )
    assert kinds == {"line", "area", "bar"}
    assert tab.run("logTicks(0.001, 100)") == pytest.approx([1e-3, 1e-1, 10])
    assert (
        tab.run("linearTicks(0, 1)") == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
        or len(tab.run("linearTicks(0, 1)")) <= 5
    )


def test_a_silent_run_is_told_from_a_running_one(tab: Browser, tmp_path: Path) -> None:
    for name, age in (("busy", 60), ("killed", 7200)):
        (tmp_path / name).mkdir()
        updated = tab.run(f"Date.now() / 1000 - {age}")
        (tmp_path / name / "status.json").write_text(json.dumps({"state": "running", "updated": updated}))
    tab.open(write_index(tmp_path))
    states = tab.run("[...document.querySelectorAll('tbody .state')].map((state) => state.innerText)")
    ages = tab.run("[...document.querySelectorAll('tbody time')].map((time) => time.innerText)")
    assert (states, ages) == (["running", "no sign of life"], ["1 minute ago", "2 hours ago"])
    tab.click("thead th:first-child button")
    tab.click("thead th:first-child button")
    assert tab.run("document.querySelector('tbody th').innerText") == "killed"
    notes = []
    for name in ("busy", "killed"):
        tab.open(write_report(tmp_path / name))
        notes.append(tab.run("document.querySelector('.running-note').innerText"))
    assert ["Training is running" in note for note in notes] == [True, False]
