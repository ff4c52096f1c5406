"""The page of an ablation in Chromium: looks, keys, sound, sorting and the blind test."""

import csv
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scipy.stats import binomtest

from ablation_inputs import CLIPS, STRATEGIES, fail, make_ablation
from browser import CHROMIUM, Browser
from scripts.ablation.report import write_ablation_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

COLUMNS = ["trial", "time", "mode", "random_seed", "clip", "training_seed", "a", "b", "x", "answer", "correct"]
PLAYED = """window.played = []; Playback.prototype.play = function () {
    window.played.push(this.buffers.get(this.version)); }"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_ablation(tmp_path_factory.mktemp("ablation") / "a <b> & c", settings={"default": {}}, seconds=2.5)
    return write_ablation_report(folder)


@pytest.fixture
def browser(chromium_tab: Browser, page: Path) -> Iterator[Browser]:
    """The page, newly loaded and without votes. The test fails if the console shows an error or warning."""
    chromium_tab.problems.clear()
    chromium_tab.show(page, 1280, "light")
    chromium_tab.requests.clear()  # the page before, of another test, may have asked for itself until now
    yield chromium_tab
    chromium_tab.run("localStorage.clear(); sessionStorage.clear()")
    assert chromium_tab.problems == []


def click(browser: Browser, selector: str) -> None:
    browser.run(f"document.querySelector({json.dumps(selector)}).click()")


def choose(browser: Browser, name: str, value: str) -> None:
    field = f"document.getElementById('trial').elements[{json.dumps(name)}]"
    browser.run(f"{field}.value = {json.dumps(value)}")
    browser.run("document.getElementById('trial').dispatchEvent(new Event('change'))")


def vote(browser: Browser, answers: str) -> None:
    for answer in answers:
        click(browser, f"[data-answer={answer}]")


def exported(browser: Browser, folder: Path) -> list[dict[str, str]]:
    browser.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    click(browser, "#export")
    until = time.monotonic() + 60
    while not (folder / "votes.csv").exists():
        assert time.monotonic() < until, "no votes.csv was downloaded"
        browser.run("0")
        time.sleep(0.05)
    with open(folder / "votes.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == COLUMNS
    return rows


def text(browser: Browser, selector: str) -> str:
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).textContent"))


def drawn(browser: Browser) -> None:
    browser.wait("player.root.dataset.ready !== undefined && document.querySelector('.plot svg')")


def test_the_page_suits_every_width_and_colour_scheme(browser: Browser, page: Path) -> None:
    backgrounds = set()
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            browser.show(page, width, scheme)
            browser.wait("document.querySelector('.plot svg')")
            browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
            assert browser.run("Math.max(document.documentElement.scrollWidth, innerWidth)") == width
            assert browser.unnamed_controls() == []
            backgrounds.add((scheme, browser.run("getComputedStyle(document.body).backgroundColor")))
    assert len(backgrounds) == 2
    assert browser.run("document.title") == "a <b> & c"
    external = [url for url in browser.requests if not url.startswith("data:") and url != page.as_uri()]
    assert external == []


def test_every_strategy_is_a_switch_of_one_player(browser: Browser) -> None:
    drawn(browser)
    versions = ["reference", "weighted_sum", "encodec", "pcgrad"]
    assert browser.run("[...player.clip.versions.keys()]") == versions
    durations = browser.run(
        "Promise.all(player.clips.map((clip) => clip.ready()))"
        ".then((all) => all.flatMap((buffers) => [...buffers.values()].map((buffer) => buffer.duration)))"
    )
    assert durations == pytest.approx([2.5] * (2 * len(CLIPS) * len(versions)), abs=1e-3)  # both seeds
    assert browser.run("[...document.querySelectorAll('canvas')].every((canvas) => canvas.width > 300)")
    width = browser.run("document.querySelector('.picture').getBoundingClientRect().width")
    assert width > 240  # wide enough to seek
    browser.press(" ")
    browser.wait("player.playback.position > 0.05")
    for key, version in (("3", "encodec"), ("a", "reference"), ("b", "encodec"), ("4", "pcgrad")):
        before = browser.run("player.playback.position")
        browser.press(key)
        assert browser.run("player.playback.version") == version
        assert browser.run("player.playback.position") >= before  # it plays on
    browser.press(" ")


def test_short_samples_can_be_played_and_seeked(chromium_tab: Browser, tmp_path: Path) -> None:
    folder = make_ablation(tmp_path / "run", seeds=(0,), settings={"default": {}}, seconds=0.2)
    chromium_tab.show(write_ablation_report(folder), 1280, "light")
    drawn(chromium_tab)
    chromium_tab.run("player.playback.setLoop(false)")
    chromium_tab.click(".clip .start")
    chromium_tab.wait("player.playback.playing")
    chromium_tab.wait("!player.playback.playing && player.playback.position === 0")  # it has ended
    chromium_tab.run("player.seek(player.clips[1], 0.1)")
    chromium_tab.wait("player.playback.position === 0.1")
    assert chromium_tab.run("document.querySelectorAll('.picture canvas').length") == len(CLIPS) * 4


def test_the_verdict_and_the_scatter_are_at_the_top(browser: Browser) -> None:
    assert "pcgrad" in text(browser, ".verdict")
    browser.wait("document.querySelector('.scatter circle')")
    assert browser.run("document.querySelectorAll('.scatter circle').length") == 2 * len(STRATEGIES)
    assert browser.run("[...document.querySelectorAll('.scatter .name')].map((e) => e.textContent).sort()") == sorted(
        2 * STRATEGIES  # for music and for speech
    )
    order = "['.verdict', '.scatter', '#listen', '#blind'].map((each) => document.querySelector(each))"
    tops = browser.run(f"{order}.map((each) => each.getBoundingClientRect().top)")
    assert tops == sorted(tops)


def test_one_seed_is_shown_at_a_time(browser: Browser) -> None:
    def visible() -> list[str]:
        clips = "[...document.querySelectorAll('.clip')].filter((clip) => clip.checkVisibility())"
        return browser.run(f"{clips}.map((clip) => clip.dataset.seed)")

    assert visible() == ["0"] * len(CLIPS)
    browser.run("document.getElementById('seed').value = '1'")
    browser.run("document.getElementById('seed').dispatchEvent(new Event('change'))")
    assert visible() == ["1"] * len(CLIPS)
    assert browser.run("player.clip.element.dataset.seed") == "1"


def test_a_click_on_a_heading_sorts_and_a_second_click_reverses(browser: Browser) -> None:
    def column(index: int) -> list[str]:
        cells = f"[...document.querySelector('.sortable').tBodies[0].rows].map((row) => row.cells[{index}].textContent)"
        return browser.run(cells)

    def head(index: int) -> str:
        return f".sortable thead tr:last-child th:nth-child({index + 1}) button"

    assert column(0) == ["weighted_sum", "encodec", "pcgrad"]
    click(browser, head(0))
    assert column(0) == ["encodec", "pcgrad", "weighted_sum"]
    click(browser, head(2))  # SI-SDR increases in this order
    assert column(0) == ["encodec", "pcgrad", "weighted_sum"]
    assert browser.run("document.querySelectorAll('.sortable')[0].querySelectorAll('[aria-sort]').length") == 1
    click(browser, head(2))
    assert column(0) == ["weighted_sum", "pcgrad", "encodec"]
    assert browser.run("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"


def test_a_row_without_a_value_is_last_in_both_orders(chromium_tab: Browser, tmp_path: Path) -> None:
    folder = make_ablation(tmp_path / "run", seeds=(0,), settings={"default": {}})
    fail(folder / "runs" / "encodec.default.seed0", "the loss l1 is NaN at step 3")
    chromium_tab.show(write_ablation_report(folder), 1280, "light")
    for column, _ in itertools.product((2, 3), range(2)):
        click(chromium_tab, f".sortable thead th:nth-child({column}) button")
        rows = "[...document.querySelector('.sortable').tBodies[0].rows].map((row) => row.cells[0].textContent)"
        assert chromium_tab.run(rows)[-1] == "encodec"


def test_votes_are_counted_stored_and_exported(browser: Browser, page: Path, tmp_path: Path) -> None:
    vote(browser, "aababbaba")
    browser.open(page)  # votes survive a reload
    votes = exported(browser, tmp_path)
    assert [row["answer"] for row in votes] == list("aababbaba")
    assert [row["trial"] for row in votes] == [str(i) for i in range(1, 10)]
    for row in votes:
        assert row["mode"] == "abx"
        assert row["clip"] in CLIPS
        assert row["training_seed"] in ("0", "1")
        assert {row["a"], row["b"]} < set(STRATEGIES)
        assert row["correct"] == str(int(row["x"] == row["answer"]))
    correct = sum(row["correct"] == "1" for row in votes)
    p = binomtest(correct, 9, alternative="greater").pvalue
    summary = text(browser, "#summary")
    assert f"A/B/X: 9 trials, {correct} correct" in summary
    assert f"{p:.3f}" in summary
    assert "Preferences: 0" in summary
    by_pair = browser.run("[...document.querySelectorAll('#pairs tr')].map((row) => Number(row.cells[1].textContent))")
    assert sum(by_pair) == 9

    browser.run("window.confirm = () => true")
    click(browser, "#clear")
    assert "A/B/X: 0 trials" in text(browser, "#summary")
    assert browser.run("JSON.parse(localStorage.getItem('blind test of a <b> & c'))") == []


def test_x_plays_the_same_audio_as_its_strategy(browser: Browser, tmp_path: Path) -> None:
    """A listener who compares the audio is always right."""
    browser.run(PLAYED)
    for _ in range(6):
        browser.run("window.played.length = 0")
        for count, which in enumerate("abx", 1):
            click(browser, f"[data-play={which}]")
            browser.wait(f"window.played.length === {count}")
        assert browser.run("played[0] !== played[1] && (played[2] === played[0] || played[2] === played[1])")
        vote(browser, "a" if browser.run("played[2] === played[0]") else "b")
    assert {row["correct"] for row in exported(browser, tmp_path)} == {"1"}
    assert text(browser, "#status").startswith("Correct.")


def test_a_b_and_x_share_one_position(browser: Browser) -> None:
    drawn(browser)
    click(browser, "[data-play=a]")
    browser.wait("document.querySelector('[data-play=a]').getAttribute('aria-pressed') === 'true'")
    blind = "Playback.all.at(-1)"  # after those of the player and of the MUSHRA test
    browser.wait(f"{blind}.position > 0.05")
    before = browser.run(f"{blind}.position")
    click(browser, "[data-play=x]")
    browser.wait("document.querySelector('[data-play=x]').getAttribute('aria-pressed') === 'true'")
    assert browser.run(f"{blind}.position") >= before
    browser.press(" ")  # it stops the test
    browser.wait(f"!{blind}.playing")
    click(browser, "[data-play=a]")
    browser.wait(f"{blind}.playing")
    click(browser, ".player .play")  # the player takes over
    browser.wait(f"player.playback.playing && !{blind}.playing")
    click(browser, "[data-play=b]")
    browser.wait(f"!player.playback.playing && {blind}.playing")
    click(browser, "[data-play=stop]")
    assert browser.run("!Playback.anyPlaying")


def test_the_preference_mode_plays_the_reference(browser: Browser, tmp_path: Path) -> None:
    browser.run(PLAYED)
    click(browser, "[name=mode][value=preference]")
    assert text(browser, "#question") == "Closer to the reference is"
    click(browser, "[data-play=x]")
    browser.wait("window.played.length === 1")
    all_buffers = "Promise.all(player.clips.map((clip) => clip.ready()))"
    assert browser.run(f"{all_buffers}.then((all) => all.some((buffers) => buffers.get('reference') === played[0]))")
    vote(browser, "ab")
    rows = exported(browser, tmp_path)
    assert [(row["mode"], row["x"], row["answer"], row["correct"]) for row in rows] == [
        ("preference", "", "a", ""),
        ("preference", "", "b", ""),
    ]
    assert "Preferences: 2" in text(browser, "#summary")


def test_a_random_seed_repeats_the_trials(browser: Browser, tmp_path: Path) -> None:
    drawn = []
    for seed, folder in (("listener 7", "first"), ("listener 7", "second"), ("8", "third")):
        browser.run("localStorage.clear()")
        browser.open(Path(browser.run("decodeURIComponent(location.pathname)")))
        choose(browser, "seed", seed)
        vote(browser, "aaaaaaaaaaaa")
        rows = exported(browser, tmp_path / folder)
        assert {row["random_seed"] for row in rows} == {seed}
        drawn.append([(row["clip"], row["training_seed"], row["a"], row["b"], row["x"]) for row in rows])
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert len(set(drawn[0])) > 6
    assert {x for *_, x in drawn[0]} == {"a", "b"}


def test_trials_can_be_restricted_to_a_pair_and_a_clip(browser: Browser, tmp_path: Path) -> None:
    choose(browser, "first", "encodec")
    choose(browser, "second", "pcgrad")
    choose(browser, "clip", "speech-b")
    choose(browser, "seed", "listener 7")
    vote(browser, "aaaaaaaa")
    rows = exported(browser, tmp_path)
    assert {(row["clip"], *sorted((row["a"], row["b"]))) for row in rows} == {("speech-b", "encodec", "pcgrad")}
    assert {row["a"] for row in rows} == {"encodec", "pcgrad"}  # either may be A
    choose(browser, "second", "encodec")
    assert "Choose two different strategies" in text(browser, "#status")
    assert browser.run("[...document.querySelectorAll('#trial button')].every((button) => button.disabled)")


def test_the_binomial_test_equals_scipys(browser: Browser) -> None:
    for k, n in [(0, 1), (1, 1), (3, 9), (9, 9), (60, 100), (500, 2000), (1600, 3000)]:
        one, two = browser.run(f"[atLeast({k}, {n}), twoSided({k}, {n})]")
        assert one == pytest.approx(binomtest(k, n, alternative="greater").pvalue, rel=1e-9, abs=1e-300)
        assert two == pytest.approx(binomtest(k, n).pvalue, rel=1e-9)


def test_the_page_prints_without_players(browser: Browser) -> None:
    browser.send("Emulation.setEmulatedMedia", media="print")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    controls = "[...document.querySelectorAll('audio, .bar, .start, #trial')]"
    assert browser.run(f"{controls}.length > 10 && {controls}.every((control) => !control.checkVisibility())")
    assert browser.run("[...document.querySelectorAll('main details')].every((details) => details.open)")
    browser.send("Emulation.setEmulatedMedia", media="")


def test_a_page_without_runs_logs_no_errors(chromium_tab: Browser, tmp_path: Path) -> None:
    chromium_tab.problems.clear()
    chromium_tab.show(write_ablation_report(tmp_path), 390, "dark")
    assert "No run has finished yet." in text(chromium_tab, "header")
    assert chromium_tab.problems == []
