"""The MUSHRA test of the report in Chromium: hidden reference, anchor, order, ratings, keys, looks, and the CSV."""

import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from browser import CHROMIUM, Browser
from codec.evaluation.report.page import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

RATE = 16_000
CLIPS = ("music", "speech", "words")
SYSTEMS = {"now, step 200", "step 100", "Opus", "hidden reference", "anchor, 3.5 kHz"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of noise in four versions."""
    run = tmp_path_factory.mktemp("runs") / "a <b> & c"
    (run / "samples").mkdir(parents=True)
    for seed, clip in enumerate(CLIPS):
        audio = np.random.default_rng(seed).normal(size=RATE)
        for kind, level in (("reference", 0.2), ("step0000100", 0.05), ("step0000200", 0.1)):
            soundfile.write(run / "samples" / f"{clip}.{kind}.wav", level * audio, RATE)
    (run / "config.yaml").write_text("validation: {bandwidth_kbps: 6.0}", encoding="utf-8")
    return write_report(run)


@pytest.fixture
def tab(chromium_tab: Browser, report: Path) -> Iterator[Browser]:
    """The report, newly opened; nothing may be wrong on the console at the end."""
    chromium_tab.problems.clear()
    chromium_tab.requests.clear()
    opened(chromium_tab, report)
    yield chromium_tab
    chromium_tab.run("localStorage.clear(); sessionStorage.clear()")
    assert chromium_tab.problems == []


def opened(tab: Browser, report: Path, width: int = 1280, scheme: str = "light") -> None:
    tab.show(report, width, scheme)
    tab.run("document.getElementById('mushra').open = true")


def sounds(tab: Browser) -> dict[str, str]:
    """System -> letter, in the clip that is shown."""
    return {each["system"]: each["letter"] for each in tab.run("mushra.sounds")}


def rate(tab: Browser, scores: dict[str, int]) -> None:
    """Moves the sliders of the clip that is shown; scores by system."""
    for system, letter in sounds(tab).items():
        slider = f"document.querySelector('#mushra li:nth-child({ord(letter) - 64}) input')"
        tab.run(f"{slider}.value = {scores[system]}; {slider}.dispatchEvent(new Event('input'))")


def disabled(tab: Browser, name: str) -> bool:
    return bool(tab.run(f"document.querySelector('#mushra .{name}').disabled"))


def test_ratings_survive_a_reload_and_are_exported(tab: Browser, report: Path, tmp_path: Path) -> None:
    given = {"now, step 200": 61, "Opus": 70, "step 100": 40, "hidden reference": 100, "anchor, 3.5 kHz": 20}
    assert disabled(tab, "back")
    shown = []
    for number in range(len(CLIPS)):
        assert set(sounds(tab)) == SYSTEMS
        assert disabled(tab, "next")
        rate(tab, given | {"hidden reference": 80 if number == 1 else 100})
        hint = "No sound has 100" in tab.run("document.querySelector('.place').textContent")
        assert hint == (number == 1)
        shown.append(tab.run("mushra.clip.name"))
        if number < len(CLIPS) - 1:
            tab.click("#mushra .next")
        if number == 0:
            opened(tab, report)
            assert tab.run("mushra.number") == 1  # the first clip that is not rated
    assert "All clips are rated." in tab.run("document.querySelector('.place').textContent")
    assert sorted(shown) == sorted(CLIPS)
    assert disabled(tab, "next")
    screening = "document.querySelector('.screening').textContent"
    assert "Listener 1 gave the hidden reference less than 90 in 1 of 3 clips" in tab.run(screening)
    tab.run("mushra.form.elements.listener.value = 'anna'; mushra.begin()")
    rate(tab, given)
    assert "Listener anna gave the hidden reference less than 90 in 0 of 1 clips" in tab.run(screening)
    tab.run("mushra.ratings = mushra.ratings.filter((one) => one.listener === '1')")
    tab.run("mushra.form.elements.listener.value = '1'; mushra.begin()")
    cells = "[...document.querySelectorAll('#mushra tbody tr')].map((row) => [...row.cells].map((c) => c.textContent))"
    assert tab.run(cells) == [
        ["hidden reference", "3", "93.3", "100.0"],
        ["Opus", "3", "70.0", "70.0"],
        ["now, step 200", "3", "61.0", "61.0"],
        ["step 100", "3", "40.0", "40.0"],
        ["anchor, 3.5 kHz", "3", "20.0", "20.0"],
    ]
    tab.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    tab.run("document.querySelector('#mushra .export').click()")
    until = time.monotonic() + 60
    while not (tmp_path / "mushra.csv").exists():
        assert time.monotonic() < until, "no mushra.csv was downloaded"
        tab.run("0")
        time.sleep(0.05)
    with (tmp_path / "mushra.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["listener", "time", "trial", "clip", "training_seed", "sound", "system", "score"]
    assert {(row["clip"], row["system"]) for row in rows} == {(clip, system) for clip in CLIPS for system in SYSTEMS}
    assert {row["trial"] for row in rows if row["clip"] == shown[1]} == {"2"}
    assert [row["score"] for row in rows if row["system"] == "hidden reference"] == ["100", "80", "100"]
    tab.run("window.confirm = () => true; document.querySelector('#mushra .clear').click()")
    assert tab.run("mushra.ratings.length") == 0
    assert tab.run("mushra.number") == 0


def test_the_listener_determines_the_order(tab: Browser) -> None:
    def orders(listener: str) -> list[object]:
        tab.run(f"mushra.form.elements.listener.value = {listener!r}")
        tab.run("mushra.form.elements.listener.dispatchEvent(new Event('change'))")
        clips = tab.run("mushra.trials.map((clip) => clip.name)")
        return [clips, tab.run("mushra.trials.map((clip) => mushra.soundsOf(clip).map((sound) => sound.system))")]

    first, again = orders("anna"), orders("anna")
    assert first == again
    several = [orders(f"listener {number}") for number in range(20)]
    assert len({str(each[0]) for each in several}) > 3
    assert len({str(each[1]) for each in several}) > 10


def test_a_letter_plays_its_version_and_the_hidden_reference_is_the_reference(tab: Browser) -> None:
    tab.run("document.querySelector('#mushra .reference').click()")
    tab.wait("mushra.playback.playing")
    assert tab.run("document.querySelector('#mushra .reference').getAttribute('aria-pressed')") == "true"
    for system, key in (("hidden reference", "reference"), ("now, step 200", "now"), ("step 100", "earlier")):
        tab.run(f"document.querySelector('#mushra [data-sound={sounds(tab)[system]}]').click()")
        tab.wait(f"mushra.playback.version === '{sounds(tab)[system]}'")
        heard = "mushra.playback.buffers.get(mushra.playback.version)"
        assert tab.run(f"mushra.clip.ready().then((buffers) => buffers.get('{key}') === {heard})")
    assert tab.run("document.querySelectorAll('#mushra [aria-pressed=true]').length") == 1
    tab.run("document.activeElement.blur()")
    tab.press(" ")  # it stops the test, and does not start the player, whose versions have names
    assert tab.run("!Playback.anyPlaying")
    tab.run("document.querySelector('#mushra .reference').click()")
    tab.wait("mushra.playback.playing")
    tab.click("#mushra .stop")
    assert tab.run("!Playback.anyPlaying")


def test_the_anchor_has_nothing_above_its_cutoff_and_is_aligned(tab: Browser) -> None:
    """BS.1534-3: at most 0.1 dB of ripple up to 3.5 kHz, at least 25 dB less from 4 kHz and 50 dB from 4.5 kHz."""
    pair = tab.run(
        "mushra.clip.ready().then((buffers) => lowPass(buffers.get('reference')).then((anchor) => "
        "[buffers.get('reference'), anchor].map((buffer) => [...buffer.getChannelData(0)])))"
    )
    reference, anchor = (np.array(samples) for samples in pair)
    assert reference.shape == anchor.shape == (RATE,)
    inner = slice(500, -500)
    spectra = [np.abs(np.fft.rfft(np.hanning(RATE - 1000) * audio[inner])) for audio in (reference, anchor)]
    hertz = np.fft.rfftfreq(RATE - 1000, 1 / RATE)
    low = hertz < 3450
    assert np.abs(20 * np.log10(spectra[1][low] / spectra[0][low])).max() < 0.1
    for start, least in ((4000, 25), (4500, 50)):
        high = hertz > start
        assert 10 * np.log10((spectra[0][high] ** 2).sum() / (spectra[1][high] ** 2).sum()) > least


def test_keys_alone_suffice(tab: Browser) -> None:
    tab.run("document.querySelector('#mushra .reference').focus()")
    tab.press(" ")
    tab.wait("mushra.playback.version === 'reference' && mushra.playback.playing")
    for _ in range(3):  # stop, the letter, its slider
        tab.press("Tab")
    assert tab.run("document.activeElement.getAttribute('aria-valuetext')") == "not rated"
    tab.press("ArrowRight")
    assert tab.run("document.activeElement.getAttribute('aria-valuetext')") == "51, fair"
    tab.press(" ")
    tab.wait("mushra.playback.version === 'A' && mushra.playback.playing")
    tab.press("Tab")
    tab.press("Tab")
    tab.press("Enter")  # rates the value of the slider
    assert tab.run("document.activeElement.getAttribute('aria-valuetext')") == "50, fair"
    assert [each["score"] for each in tab.run("mushra.ratings")] == [51, 50]


def test_the_test_suits_every_width_and_colour_scheme(tab: Browser, report: Path) -> None:
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            opened(tab, report, width, scheme)
            assert tab.run("document.documentElement.scrollWidth <= innerWidth")
            assert tab.unnamed_controls() == []
            assert tab.run("document.querySelector('#mushra input[type=range]').getBoundingClientRect().width") > 200
    assert [url for url in tab.requests if not url.startswith(("data:", "file:"))] == []
