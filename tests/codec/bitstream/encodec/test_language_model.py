"""The language model of the encodec package: equal probabilities, and invalid weights."""

from typing import Any

import pytest
import torch
from encodec.model import LMModel

from codec.bitstream.encodec.language_model import EncodecLM, LMState
from encodec_package import FRAME_RATES, language_models


@pytest.fixture(scope="module")
def lms() -> dict[str, tuple[LMModel, EncodecLM]]:
    return language_models()


# The segments of the 48 kHz model have 150 frames, fewer than its context.
@pytest.mark.parametrize(("name", "frames"), [("encodec_24khz", 266), ("encodec_48khz", 40)])
@torch.no_grad()
def test_probabilities_equal_the_package(lms: dict[str, Any], name: str, frames: int) -> None:
    theirs, ours = lms[name]
    context = int(3.5 * FRAME_RATES[name])
    codes = torch.randint(1024, (frames, 2))
    previous, state = None, None
    indices, their_state, offset = torch.zeros(1, 2, 1, dtype=torch.long), None, 0
    for frame in codes:
        got, state = ours(previous, 2, state)
        expected, their_state, offset = theirs(indices, their_state, offset)
        assert torch.equal(got, expected[0, :, :, 0])
        previous, indices = frame, 1 + frame.view(1, 2, 1)
    assert isinstance(state, LMState)
    assert [list(past.shape) for past in state.past] == [[1, min(frames + 1, context), 200]] * 5
    assert float(got.max()) > 0.01  # not uniform
