"""The page of an ablation in Chromium: images, players, sorting and the blind test work."""

import csv
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scipy.stats import binomtest

from ablation_inputs import CLIPS, STRATEGIES, fail, make_ablation
from browser import CHROMIUM, Browser, chromium
from scripts.ablation.report import write_ablation_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

COLUMNS = ["trial", "time", "mode", "random_seed", "clip", "training_seed", "a", "b", "x", "answer", "correct"]
PLAYERS = "[...document.querySelectorAll('audio')]"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_ablation(tmp_path_factory.mktemp("ablation") / "a <b> & c", settings={"default": {}}, seconds=2.5)
    return write_ablation_report(folder)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(started: Browser, page: Path) -> Iterator[Browser]:
    """The page, newly loaded and without votes. The test fails if the console shows an error or warning."""
    started.open(page)
    started.run("localStorage.clear()")
    started.open(page)
    started.problems.clear()
    started.requests.clear()
    yield started
    assert started.problems == []


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


def test_the_page_makes_no_requests_and_logs_no_errors(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("document.title") == "a <b> & c"
    external = [url for url in browser.requests if not url.startswith("data:") and url != page.as_uri()]
    assert external == []


def test_images_are_decoded_and_samples_can_be_played(browser: Browser) -> None:
    shown = len(CLIPS) * (1 + len(STRATEGIES))
    assert browser.run("document.images.length") == 2 * shown  # both seeds
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    browser.wait(f"{PLAYERS}.every((audio) => audio.readyState > 0)")
    durations = browser.run(f"{PLAYERS}.map((audio) => audio.duration)")
    assert durations == pytest.approx([2.5] * (2 * shown), abs=1e-3)
    assert browser.run(f"{PLAYERS}.every((audio) => audio.controls && audio.getAttribute('aria-label'))")

    first, second = f"{PLAYERS}[0]", f"{PLAYERS}[1]"
    browser.run(f"{first}.play()")
    browser.wait(f"{first}.currentTime > 0")
    browser.run(f"{second}.play()")
    browser.wait(f"{first}.paused && {second}.currentTime > 0")  # one at a time


def test_short_samples_can_be_played_and_seeked(started: Browser, tmp_path: Path) -> None:
    started.open(
        write_ablation_report(make_ablation(tmp_path / "run", seeds=(0,), settings={"default": {}}, seconds=0.2))
    )
    started.wait(f"{PLAYERS}.every((audio) => audio.readyState > 0)")
    started.run(f"{PLAYERS}[0].play()")
    started.wait(f"{PLAYERS}[0].ended")
    started.run(f"{PLAYERS}[1].currentTime = 0.1")
    started.wait(f"!{PLAYERS}[1].seeking")
    assert started.run(f"{PLAYERS}[1].currentTime") == pytest.approx(0.1)
    assert started.run(f"{PLAYERS}.every((audio) => audio.error === null)")


def test_one_seed_is_shown_at_a_time(browser: Browser) -> None:
    def visible() -> list[str]:
        clips = "[...document.querySelectorAll('section.clip')].filter((clip) => clip.checkVisibility())"
        return browser.run(f"{clips}.map((clip) => clip.dataset.seed)")

    assert visible() == ["0"] * len(CLIPS)
    browser.run("document.getElementById('seed').value = '1'")
    browser.run("document.getElementById('seed').dispatchEvent(new Event('change'))")
    assert visible() == ["1"] * len(CLIPS)


def test_a_click_on_a_heading_sorts_and_a_second_click_reverses(browser: Browser) -> None:
    def column(index: int) -> list[str]:
        cells = f"[...document.querySelector('.sortable').tBodies[0].rows].map((row) => row.cells[{index}].textContent)"
        return browser.run(cells)

    def head(index: int) -> str:
        return f".sortable thead tr:last-child th:nth-child({index + 1}) button"

    assert column(0) == ["weighted_sum", "encodec", "pcgrad"]
    click(browser, head(0))
    assert column(0) == ["encodec", "pcgrad", "weighted_sum"]
    click(browser, head(1))  # SI-SDR increases in this order
    assert column(0) == ["encodec", "pcgrad", "weighted_sum"]
    assert browser.run("document.querySelectorAll('.sortable')[0].querySelectorAll('[aria-sort]').length") == 1
    click(browser, head(1))
    assert column(0) == ["weighted_sum", "pcgrad", "encodec"]
    assert browser.run("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"


def test_a_row_without_a_value_is_last_in_both_orders(started: Browser, tmp_path: Path) -> None:
    folder = make_ablation(tmp_path / "run", seeds=(0,), settings={"default": {}})
    fail(folder / "runs" / "encodec.default.seed0", "the loss l1 is NaN at step 3")
    started.open(write_ablation_report(folder))
    for column, _ in itertools.product((2, 3), range(2)):
        click(started, f".sortable thead th:nth-child({column}) button")
        rows = "[...document.querySelector('.sortable').tBodies[0].rows].map((row) => row.cells[0].textContent)"
        assert started.run(rows)[-1] == "encodec"


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
    browser.run("window.played = []; HTMLMediaElement.prototype.play = function () { window.played.push(this.src); }")
    for _ in range(6):
        for which in "abx":
            click(browser, f"[data-play={which}]")
        a, b, x = browser.run("window.played.splice(0)")
        assert a != b
        vote(browser, "a" if x == a else "b")
    assert {row["correct"] for row in exported(browser, tmp_path)} == {"1"}
    assert text(browser, "#status").startswith("Correct.")


def test_the_preference_mode_plays_the_reference(browser: Browser, tmp_path: Path) -> None:
    browser.run("window.played = []; HTMLMediaElement.prototype.play = function () { window.played.push(this.src); }")
    click(browser, "[name=mode][value=preference]")
    assert text(browser, "#question") == "Closer to the reference is"
    click(browser, "[data-play=x]")
    assert browser.run("[...document.querySelectorAll('[data-reference]')].some((a) => a.src === window.played[0])")
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


def test_the_page_follows_the_color_scheme_and_prints_without_players(browser: Browser) -> None:
    def background() -> str:
        return str(browser.run("getComputedStyle(document.body).backgroundColor"))

    def scheme(name: str) -> None:
        browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    scheme("light")
    light = background()
    scheme("dark")
    assert background() != light
    scheme("light")
    browser.send("Emulation.setEmulatedMedia", media="print")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run(f"{PLAYERS}.every((audio) => !audio.checkVisibility())")
    assert browser.run("[...document.querySelectorAll('main > details')].every((details) => details.open)")
    browser.send("Emulation.setEmulatedMedia", media="")


def test_a_page_without_runs_logs_no_errors(started: Browser, tmp_path: Path) -> None:
    started.problems.clear()
    started.open(write_ablation_report(tmp_path))
    assert "No run has finished yet." in text(started, "header")
    assert started.problems == []
