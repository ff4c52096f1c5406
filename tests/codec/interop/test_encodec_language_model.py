"""Reading the language model of the encodec package: invalid weights."""

from pathlib import Path

import pytest
import torch

from codec.bitstream.encodec.header import PACKAGE_CONFIGS
from codec.interop.encodec import read_encodec_lm
from encodec_package import language_models


def test_invalid_state_dicts_are_refused(tmp_path: Path) -> None:
    state = language_models()["encodec_48khz"][0].state_dict()
    torch.save(state | {"transformer.norm_in.bias": torch.full((200,), float("nan"))}, tmp_path / "nan.th")
    with pytest.raises(ValueError, match=r"transformer\.norm_in\.bias holds a number that is not finite"):
        read_encodec_lm(tmp_path / "nan.th", PACKAGE_CONFIGS["encodec_48khz"])
    torch.save([1], tmp_path / "list.th")
    with pytest.raises(ValueError, match="expected a state dict of tensors"):
        read_encodec_lm(tmp_path / "list.th", PACKAGE_CONFIGS["encodec_48khz"])
