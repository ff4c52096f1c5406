"""Entropy model files: rounding, fingerprints, and invalid files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from codec.bitstream.entropy.model_file import ENTROPY_NAME, EntropyFileError, EntropyModel
from codec.bitstream.entropy.network import CodeTransformer, EntropyConfig
from codec.model_file import save_model
from coding_inputs import tiny_codec
from entropy_inputs import CODEC_FINGERPRINT, SMALL, computed_model, random_network


def test_a_saved_model_is_loaded_unchanged(tmp_path: Path) -> None:
    model = EntropyModel.from_network(random_network(), CODEC_FINGERPRINT)
    for name in ("a", "b"):
        model.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = EntropyModel.load(tmp_path / "a")
    assert (back.fingerprint, back.codec_fingerprint, back.config) == (model.fingerprint, CODEC_FINGERPRINT, SMALL)
    for name, (values, bits) in model.tables.items():
        np.testing.assert_array_equal(back.tables[name].values, values)
        assert back.tables[name].bits == bits


def test_the_fingerprint_depends_on_the_whole_content() -> None:
    model = computed_model()
    changed = {name: table._replace(values=table.values.copy()) for name, table in model.tables.items()}
    changed["head"].values[2, 3, 4] += 1
    finer = model.tables | {"head": model.tables["head"]._replace(bits=3)}
    wider = EntropyConfig(**(SMALL.to_dict() | {"context_frames": 10}))
    others = [
        EntropyModel(SMALL, changed, CODEC_FINGERPRINT),
        EntropyModel(SMALL, finer, CODEC_FINGERPRINT),
        EntropyModel(SMALL, model.tables, "f" * 16),
        computed_model(wider),
    ]
    assert len({model.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert computed_model().fingerprint == model.fingerprint


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 300.0, 0.0])
def test_weights_of_any_size_are_rounded_to_sixteen_bits(scale: float) -> None:
    network = random_network()
    with torch.no_grad():
        network.head *= scale
    table = EntropyModel.from_network(network, CODEC_FINGERPRINT).tables["head"]
    assert table.values.dtype == np.int16
    assert 0 <= table.bits <= 24
    want = network.head.transpose(1, 2).detach().numpy() / np.log(2)
    np.testing.assert_allclose(table.values / 2.0**table.bits, want, rtol=0, atol=0.51 * 2.0**-table.bits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, d: t.pop("codebook"), "codebook"),
        (lambda t, d: t.update(more=t["codebook"]) or d["bits"].update(more=3), "tables more are missing or unknown"),
        (
            lambda t, d: t.update(codebook=t["codebook"].astype(np.int32)),
            r"codebook must be int16 .*, got int32",
        ),
        (lambda t, d: t.update(bias=t["bias"][:2]), r"bias must be int32 \(3, 16\), got int32 \(2, 16\)"),
        (lambda t, d: d["bits"].update(head=25), "head must have 0 to 24 bits after the binary point, got 25"),
        (lambda t, d: d["bits"].update(head=-1), "head must have 0 to 24 bits .* got -1"),
        (lambda t, d: d["config"].update(dim=1 << 20), "dim must be a whole number from 1 to 1024, got '1048576'"),
        (lambda t, d: d["config"].update(heads=3), "dim must be a multiple of heads .3. and at most 192, got 16"),
        (lambda t, d: d["config"].update(layers=True), "layers must be a whole number"),
        (lambda t, d: d["config"].update(mood="blue"), "mood"),
        (lambda t, d: d.pop("codec"), "codec"),
        (lambda t, d: d.update(bits=[]), "does not match its own config"),
    ],
)
def test_files_that_contradict_themselves_are_refused(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray], dict[str, dict[str, int]]], object], message: str
) -> None:
    path = tmp_path / ENTROPY_NAME
    model = computed_model()
    model.save(path)
    tables, description = load_file(path), json.loads(model._description())
    change(tables, description)
    save_file(tables, path, metadata={"entropy": json.dumps(description)})
    with pytest.raises(EntropyFileError, match=message):
        EntropyModel.load(path)


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    save_model(tiny_codec("causal"), tmp_path / "model.safetensors")
    with pytest.raises(EntropyFileError, match="is not an entropy model"):
        EntropyModel.load(tmp_path / "model.safetensors")


def test_the_largest_valid_config_is_checked_without_allocating_its_weights() -> None:
    config = EntropyConfig(1024, 1 << 16, 1 << 13, dim=1024, layers=64, heads=64, hidden=1 << 13)
    with torch.device("meta"):
        network = CodeTransformer(config)
    assert sum(parameter.numel() for parameter in network.parameters()) > 1 << 36
