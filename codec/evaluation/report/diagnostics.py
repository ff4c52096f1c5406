"""Whether the logged figures of a run are where they should be: the ranges, and a sentence for each that is not.

The training loop reads every line as it is logged, the report reads the log; both get the same sentences.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

__all__ = ["DIVERGENCE", "Diagnostics"]

Record = Mapping[str, Any]

DIVERGENCE = "divergence"

# What lasts for fewer lines is no rule.
_LINES = 5
# A loss at this multiple of the lowest median it has had since its task last changed is rising, and has diverged if
# it stays there for so many lines; what has fallen by a factor of ten may rise a little more. Lines of a single step
# vary by a factor of 1.4, and with these numbers one run in a thousand would stay above by chance.
_RISE, _RISING_LINES, _FLOOR, _MEDIAN_LINES = 3.0, 5, 0.1, 10
# One line is enough at this multiple (a mean over the line's steps: a single step was higher still), and for an output
# at this root mean square; at the second it has to last. No audio is above 1.
_EXPLOSION, _LOUDEST, _LOUD = 100.0, 30.0, 1.0
# Gradients vary more than losses do: a quiet batch or a new loss changes their length tenfold.
_GRADIENT_RISE = 100.0
# The held-out clips are the same every time, so their mel distance hardly wavers; twice in a row is for good.
_MEL_RISE, _MEL_SLACK, _MEL_TIMES = 1.5, 0.05, 2
# Codes in effective use, as a share of a book, on average over the books: trained ones have 30 to 90 %. A single book
# may fall to 6 % before its codes are revived, and is dead with two codes, or 0.5 % of them.
_COLLAPSED, _DEAD_CODES, _DEAD = 0.05, 2.0, 0.005
_BOOKS_STEPS = 300  # a code that nothing uses is revived after about 230 steps
# A discriminator that knows nothing has a loss of 2 (hinge) or 0.5 (least squares), a good one about half of that. Its
# logits of real and of coded audio are 0.1 to 1 apart, and both hinges rest at 2: beyond that they run away.
_WON_LOSS, _WON_GAP, _WON_LINES, _WON_STEPS = 0.05, 3.0, 10, 100
_WORSE_THAN_NOTHING = 2.5
_GAP, _GAP_STEPS = 0.05, 500  # a discriminator that learns has passed this gap after so many steps
_SILENT = 0.5  # share of segments without sound; the sampler avoids them where it can
# Share of the time spent waiting for batches above which the reading, not the training, sets the pace.
_LOADER_BOUND, _LOADING_LINES = 0.3, 20
_WORTH_SECONDS = 30  # of training: in less there is little to gain

# Two rise when the discriminator gets better. Tonality is bounded, and near 0 until the decoder writes treble.
_MAY_RISE = ("loss/adversarial", "loss/feature_matching", "loss/tonality")


class Diagnostics:
    """Reads the lines of a run's log in their order; `active` says what is out of range since the last one.

    `active` holds a sentence for each of `divergence`, `silence`, `collapse`, `dead codebooks`, `discriminator won`,
    `discriminator unstable`, `discriminator learns nothing` and `loading`; of a corpus of silence only that, which
    explains the rest.
    """

    def __init__(self) -> None:
        self.active: dict[str, str] = {}
        self._sound: list[dict[str, float]] = []  # the newest lines whose figures were in range
        self._references: dict[str, float] = {}  # what losses and scores are compared with
        self._judged: list[list[float]] = []  # of the newest lines: the discriminator's loss, the codec's, the gap
        self._marks: dict[str, float] = {}  # steps at which books and discriminator took part first; the widest gap
        self._silent: list[float] = []
        self._books: list[list[float]] = []
        self._rising = self._worse = 0
        self._shares: list[float] | None = None  # of this session: how fast it reads is no matter of the run's state

    @property
    def suspicious(self) -> bool:
        """Whether the newest figures may be those of a divergence that has only begun."""
        return self._rising > 0 or self._worse > 0

    def update(self, record: Record) -> None:
        """Takes a line of either split; values that are not finite may be null."""
        if record["split"] == "validation":
            self._read_scores(record)
            return
        if record["split"] != "train":
            return
        self.active = {name: text for name, text in self.active.items() if name == DIVERGENCE}
        self._read_levels(record)
        if "silence" in self.active:
            return
        self._read_losses(record)
        self._read_books(record)
        self._read_discriminator(record)
        self._read_loading(record)

    def state_dict(self) -> dict[str, Any]:
        """Primitives only; without what depends on the machine."""
        return {
            "sound": [dict(line) for line in self._sound],
            "references": dict(self._references),
            "judged": [list(line) for line in self._judged],
            "marks": dict(self._marks),
            "silent": list(self._silent),
            "books": [list(line) for line in self._books],
            "rising": self._rising,
            "worse": self._worse,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name, value in state.items():
            setattr(self, f"_{name}", value)
        self.active = {}

    # ------------------------------------------------------------------------------------------ divergence

    def _read_losses(self, record: Record) -> None:
        # Losses begin anew where the task changes: with quantized latents, with a discriminator.
        for mark, present in (("books", "codebook/0/perplexity"), ("discriminator", "loss/adversarial")):
            if present in record and mark not in self._marks:
                self._marks[mark] = float(record["step"])
                self._sound = []
                kept = ("untrained/", "mel/")
                self._references = {k: v for k, v in self._references.items() if k.startswith(kept)}
        line = {k: _number(record[k]) for k in record if k.startswith("loss/") and k not in _MAY_RISE}
        excess = [phrase for name, value in line.items() if (phrase := self._excess(name, value, _RISE))]
        exploded = [phrase for name, value in line.items() if (phrase := self._excess(name, value, _EXPLOSION))]
        level = _number(record.get("rms/estimate", 0.0))
        loud = f"the output is {_times(level)} as loud as full scale"
        excess += [loud] if level > _LOUD else []
        exploded += [loud] if level > _LOUDEST else []
        if "gradient_norm" in record:
            line["gradient_norm"] = _number(record["gradient_norm"])
            usual = [old["gradient_norm"] for old in self._sound if "gradient_norm" in old]
            if len(usual) == _MEDIAN_LINES and line["gradient_norm"] > _GRADIENT_RISE * median(usual) > 0:
                excess.append(f"the gradient is {_times(line['gradient_norm'] / median(usual))} as long as before")
        excess = excess or exploded
        self._rising = self._rising + 1 if excess else 0
        if exploded or self._rising >= _RISING_LINES:
            self._diverges(record, exploded or excess)
        if not excess:
            self._is_over()
            self._sound = [*self._sound, line][-_MEDIAN_LINES:]
            if len(self._sound) == _MEDIAN_LINES:
                for name in line.keys() - {"gradient_norm"}:
                    now = median(old.get(name, math.inf) for old in self._sound)
                    # A loss in decibels passes through zero, where every value is a multiple of the last.
                    floor = _FLOOR * self._references.setdefault(f"first/{name}", now)
                    lowest = self._references.get(f"lowest/{name}", math.inf)
                    self._references[f"lowest/{name}"] = max(min(lowest, now), floor)

    def _excess(self, name: str, value: float, factor: float) -> str:
        """A phrase if a loss is above so many times what it is compared with."""
        lowest = self._references.get(f"lowest/{name}", math.inf)
        if lowest == math.inf and factor >= _EXPLOSION:
            lowest = self._references.get(f"untrained/{name}", math.inf)  # other audio: good for large factors only
        name = name.removeprefix("loss/")
        if not math.isfinite(value):
            return f"{name} is not finite"
        return f"{name} is {_times(value / lowest)} what it was" if lowest > 0 and value > factor * lowest else ""

    def _read_scores(self, record: Record) -> None:
        for key in record:
            if key.startswith("all/") and key.endswith("_loss"):
                name = f"untrained/loss/{key[len('all/') : -len('_loss')]}"
                self._references.setdefault(name, _number(record[key]))
        if "all/mel_distance" not in record:
            return
        quantized = "quantized" if "codebook/0/perplexity" in record else "as they are"  # how latents reach the decoder
        mel = _number(record["all/mel_distance"])
        best = self._references.get(f"mel/{quantized}", math.inf)
        self._references[f"mel/{quantized}"] = min(best, mel)
        self._worse = self._worse + 1 if mel > _MEL_RISE * best + _MEL_SLACK else 0
        if self._worse >= _MEL_TIMES:
            self._diverges(record, [f"the held-out mel distance is {mel:.3g}, and was {best:.3g}"])
        self._is_over()

    def _diverges(self, record: Record, phrases: Sequence[str]) -> None:
        self.active[DIVERGENCE] = (
            f"Training diverges: at step {record['step']} {phrases[0]}; lower optimizer.codec.lr, lengthen "
            "trainer.lr_schedule.warmup_fraction or set trainer.gradient_clip_norm."
        )

    def _is_over(self) -> None:
        if not self._rising and self._worse < _MEL_TIMES:
            self.active.pop(DIVERGENCE, None)

    # ------------------------------------------------------------------------------------------ the other signs

    def _read_levels(self, record: Record) -> None:
        if "silent_fraction" not in record:
            return
        self._silent = [*self._silent, _number(record["silent_fraction"])][-_LINES:]
        share = median(self._silent)
        if len(self._silent) == _LINES and share > _SILENT:
            self.active["silence"] = (
                f"{100 * share:.0f} % of the training segments are silent (below -60 dB): give data.root a folder with "
                "sound in it, and look for empty channels."
            )

    def _read_books(self, record: Record) -> None:
        size = record.get("codebook_size")
        uses: list[float] = []
        while f"codebook/{len(uses)}/perplexity" in record:
            uses.append(_number(record[f"codebook/{len(uses)}/perplexity"]))
        if not uses or not size:
            return
        self._books = [*self._books, uses][-_LINES:]
        if len(self._books) < _LINES or record["step"] - self._marks["books"] < _BOOKS_STEPS:
            return
        highest = [max(line[k] for line in self._books) for k in range(len(uses))]
        mean = sum(highest) / len(highest)
        if mean - 1 < _COLLAPSED * (size - 1):
            self.active["collapse"] = (
                f"The codebooks have collapsed: {mean:.1f} of {size} codes are in effective use (mean over books); "
                "raise trainer.codebooks.start_fraction so that the encoder is trained first, or codec.revive_below."
            )
            return
        dead = [str(k + 1) for k, codes in enumerate(highest) if codes < max(_DEAD_CODES, _DEAD * size)]
        if dead:
            self.active["dead codebooks"] = (
                f"{'Codebook' if len(dead) == 1 else 'Codebooks'} {', '.join(dead)} of {len(highest)} "
                f"{'is' if len(dead) == 1 else 'are'} dead: almost every frame gets the same code, so those bits say "
                "nothing; raise codec.revive_below, or lower codec.config.codebooks."
            )

    def _read_discriminator(self, record: Record) -> None:
        wanted = ("discriminator/loss", "loss/adversarial", "discriminator/real", "discriminator/fake")
        if any(name not in record for name in wanted):
            return
        loss, adversarial, real, fake = (_number(record[name]) for name in wanted)
        self._judged = [*self._judged, [loss, adversarial, abs(real - fake)]][-_WON_LINES:]
        first = self._marks.setdefault("judged", float(record["step"]))
        if len(self._judged) < _LINES:
            return
        gap = median(line[2] for line in self._judged[-_LINES:])
        self._marks["gap"] = max(gap, self._marks.get("gap", 0.0))
        steps = record["step"] - first
        if steps >= _WON_STEPS and self._unstable():
            losses, gaps = ([line[i] for line in self._judged] for i in (0, 2))
            self.active["discriminator unstable"] = (
                f"The discriminator is unstable: in {len(losses)} lines of the log its loss was {min(losses):.2g} to "
                f"{max(losses):.2g}, where 2 is that of one that knows nothing, and its logits of real and coded audio "
                f"up to {max(gaps):.2g} apart; lower optimizer.discriminator.lr."
            )
        elif steps >= _WON_STEPS and self._won():
            loss, adversarial, gap = (median(line[i] for line in self._judged) for i in range(3))
            self.active["discriminator won"] = (
                f"The discriminator has outrun the codec: its loss is {loss:.2g}, its logits of real and coded audio "
                f"are {gap:.2g} apart, and the codec's adversarial loss stays at {adversarial:.2g}; lower "
                "optimizer.discriminator.lr or adversarial.update_probability, or raise adversarial.start_fraction."
            )
        elif self._marks["gap"] < _GAP and steps >= _GAP_STEPS:
            self.active["discriminator learns nothing"] = (
                f"The discriminator learns nothing: after {steps:.0f} steps its logits of real and coded audio differ "
                f"by {gap:.2g}; raise optimizer.discriminator.lr or adversarial.update_probability."
            )

    def _won(self) -> bool:
        if len(self._judged) < _WON_LINES:
            return False
        loss, gap = (median(line[i] for line in self._judged) for i in (0, 2))
        if loss >= _WON_LOSS and gap <= _WON_GAP:
            return False
        half = len(self._judged) // 2
        before, now = (median(line[1] for line in part) for part in (self._judged[:half], self._judged[half:]))
        return now > 0.9 * before

    def _unstable(self) -> bool:
        losses, gaps = ([line[i] for line in self._judged] for i in (0, 2))
        return max(losses) > _WORSE_THAN_NOTHING and max(gaps) > _WON_GAP

    def _read_loading(self, record: Record) -> None:
        if "data_wait_fraction" not in record:
            return
        if self._shares is None:  # the first line waits for the readers to start
            self._shares = []
            return
        self._shares = [*self._shares, _number(record["data_wait_fraction"])][-_LOADING_LINES:]
        share = median(self._shares)
        worth = _number(record.get("seconds", math.inf)) >= _WORTH_SECONDS
        if worth and len(self._shares) >= _LINES and share > _LOADER_BOUND:
            self.active["loading"] = (
                f"{100 * share:.0f} % of the time went into waiting for data: raise data.num_workers, or put the audio "
                "on a faster disk."
            )


def _number(value: Any) -> float:
    """Infinity for what is not a number: out of every range."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.inf


def _times(ratio: float) -> str:
    return f"{f'{ratio:.2g}' if ratio < 10 else f'{ratio:,.0f}' if ratio < 1e6 else f'{ratio:.0e}'} times"
