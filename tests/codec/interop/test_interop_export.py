"""`codec export --to transformers`: transformers loads it, and computes what the codec computes."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file

from codec import Codec, CodecConfig
from codec.cli import main
from codec.interop import ForeignModelError, export_transformers, read_foreign
from codec.interop.transformers import check_expressible
from codec.model_file import fingerprint, make_codec, save_model
from codec_inputs import flat, seanet_codec, seanet_config
from encodec_weights import TINY, assert_ties, randomize, transformers_model

SEGMENTED: dict[str, Any] = {
    "channels": 2, "causal": False, "norm": "time_group_norm", "normalize": True, "segment_seconds": 0.5,
    "overlap": 0.1,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "causal": {},
    "audiocraft": {"channels": 2, "skip": "identity", "padding": "constant", "causal": False},
    "layers": {"residual_layers": 2, "dilation_base": 3, "compress": 1, "lstm_layers": 1, "kernel_size": 5},
    # Like starter_seanet. transformers always has an LSTM, so the export adds one with zero weights.
    "no_lstm": {"lstm_layers": 0, "skip": "identity", "padding": "constant"},
    "relu": {"lstm_layers": 0, "skip": "identity", "padding": "constant", "activation": "relu"},
    "relu_conv": {"lstm_layers": 0, "residual_layers": 2, "activation": "relu"},
    "segments": SEGMENTED,
    # Segments of 102 samples, whole frames of 6; every 60 samples the next.
    "overlapping": SEGMENTED | {"segment_seconds": 0.17, "overlap": 0.41},
    "no_overlap": SEGMENTED | {"normalize": False, "overlap": 0.0},
    # 601 / 6 frames per second, rounded up; bandwidths out of order.
    "odd_rate": {"sample_rate": 601, "normalize": True, "bandwidths_kbps": (1.616, 0.404)},
}


@torch.no_grad()
def codec_of(**changes: Any) -> Codec:
    codec = seanet_codec(**TINY | changes).eval()
    randomize(codec)
    codec.quantizer.initialize(codec.encoder(0.3 * torch.randn(1, codec.config.channels, 1200))[0].t())
    return codec


def loaded(folder: Path) -> tuple[Any, Any]:
    """Model and processor, loaded by transformers."""
    from transformers import AutoProcessor, EncodecModel

    return EncodecModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_transformers_computes_the_same(kind: str, tmp_path: Path) -> None:
    codec = codec_of(**KINDS[kind])
    save_model(codec, tmp_path / "model.safetensors")
    arguments = ["export", str(tmp_path / "out"), "--to", "transformers", "--model", str(tmp_path)]
    assert main(arguments) == 0
    model, processor = loaded(tmp_path / "out")
    generator = np.random.default_rng(0)
    # A batch of unequal lengths, none of them a multiple of the hop: the processor pads, and masks.
    shapes = [(samples,) if codec.config.channels == 1 else (2, samples) for samples in (599, 401)]
    clips = [generator.uniform(-0.3, 0.3, shape).astype(np.float32) for shape in shapes]
    inputs = processor(raw_audio=clips, sampling_rate=codec.config.sample_rate, return_tensors="pt")
    audio, mask = inputs["input_values"], inputs["padding_mask"]
    assert mask.sum(-1).flatten().tolist() == [599, 401]
    used: set[int] = set()
    for bandwidth in codec.config.bandwidths_kbps:
        theirs, ours = model.encode(audio, mask, bandwidth), codec.encode_segments(audio, bandwidth)
        for place, (segment, codes) in enumerate(zip(ours, theirs.audio_codes, strict=True)):
            frames = segment.codes.shape[-1]
            if not torch.equal(segment.codes, codes[..., :frames]):
                assert len(ours) == 1
                assert_ties(codec.encode_latent(audio), codec.quantizer.embed, segment.codes, codes[..., :frames])
                ours[place] = segment._replace(codes=codes[..., :frames])
            used |= set(codes.flatten().tolist())
        assert theirs.audio_codes.shape[-1] - frames == theirs.last_frame_pad_length
        expected = model.decode(**theirs, padding_mask=mask).audio_values
        torch.testing.assert_close(codec.decode_segments(ours, expected.shape[-1]), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(audio, mask, bandwidth).audio_values, expected, rtol=0, atol=1e-5)
    assert len(used) >= 8


@pytest.mark.parametrize("samples", [1, 5, 6, 601])
@torch.no_grad()
def test_any_length_without_a_processor(samples: int, tmp_path: Path) -> None:
    codec = codec_of()
    export_transformers(codec, tmp_path)
    model, _ = loaded(tmp_path)
    audio = torch.randn(2, 1, samples)
    (ours,) = codec.encode_segments(audio, 1.6)
    theirs = model.encode(audio, bandwidth=1.6)
    assert torch.equal(ours.codes, theirs.audio_codes[0])
    torch.testing.assert_close(
        codec.decode_segments([ours], samples), model(audio, bandwidth=1.6).audio_values, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "odd_rate" and "relu" not in kind])
def test_export_and_import_give_the_same_model(kind: str, tmp_path: Path) -> None:
    codec = codec_of(**KINDS[kind])
    export_transformers(codec, tmp_path)
    assert fingerprint(read_foreign(tmp_path).codec) == fingerprint(codec)


def test_the_order_of_bandwidths_is_all_that_export_and_import_change(tmp_path: Path) -> None:
    codec = codec_of(**KINDS["odd_rate"])
    export_transformers(codec, tmp_path)
    again = read_foreign(tmp_path).codec
    assert again.config.bandwidths_kbps == (0.404, 1.616)
    ordered = make_codec(replace(codec.config, bandwidths_kbps=(0.404, 1.616)).to_dict())
    ordered.load_state_dict(codec.state_dict())
    assert fingerprint(again) == fingerprint(ordered)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["relu", "relu_conv"])
def test_export_and_import_change_the_scale_of_the_activations(kind: str, tmp_path: Path) -> None:
    codec = codec_of(**KINDS[kind])
    export_transformers(codec, tmp_path)
    again = read_foreign(tmp_path).codec
    ours, theirs = vars(flat(codec.config)), vars(flat(again.config))
    assert theirs == ours | {"activation": "elu"}
    assert ours["activation"] == "relu", "the codec itself is unchanged"
    audio = 0.3 * torch.randn(1, 1, 600)
    torch.testing.assert_close(again.encode_latent(audio), codec.encode_latent(audio), rtol=0, atol=1e-5)
    # Without the scale the outputs differ.
    other = make_codec(again.config.to_dict()).eval()
    other.load_state_dict(codec.state_dict())
    assert (other.encode_latent(audio) - codec.encode_latent(audio)).abs().max() > 0.01


def test_transformers_knows_all_weights_and_settings(tmp_path: Path) -> None:
    """No weight is missing or unexpected, and every setting is known."""
    from transformers import EncodecConfig, EncodecFeatureExtractor, EncodecModel

    codec = codec_of(**SEGMENTED)
    export_transformers(codec, tmp_path)
    _, report = EncodecModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings.keys() - {"torch_dtype"} <= EncodecConfig().to_dict().keys()
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert settings.keys() <= EncodecFeatureExtractor().to_dict().keys()


@torch.no_grad()
def test_an_lstm_with_zero_weights_is_the_identity(tmp_path: Path) -> None:
    codec = codec_of(lstm_layers=0)
    export_transformers(codec, tmp_path)
    model, _ = loaded(tmp_path)
    latent = torch.randn(1, 16, 50)
    assert torch.equal(model.decoder.layers[1](latent), latent)
    # With one weight that is not zero the import keeps the LSTM.
    state = load_file(tmp_path / "model.safetensors")
    state["decoder.layers.1.lstm.bias_ih_l0"][-1] = 1e-3
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert vars(flat(read_foreign(tmp_path).codec.config)) == vars(flat(codec.config)) | {"lstm_layers": 1}


# What transformers cannot express


def check_nothing(model: Any, config: CodecConfig) -> None:
    """No check: making the model fails."""


def check_activation(model: Any, config: CodecConfig) -> None:
    assert not any(isinstance(layer, torch.nn.ELU) for layer in model.modules())


def check_codebooks(model: Any, config: CodecConfig) -> None:
    assert model.quantizer.num_quantizers == config.num_codebooks


def check_lowest_rate(model: Any, config: CodecConfig) -> None:
    books = model.quantizer.get_num_quantizers_for_bandwidth(config.bandwidths_kbps[0])
    assert books == config.codebooks_for(config.bandwidths_kbps[0])


def check_it_runs(model: Any, config: CodecConfig) -> None:
    """On audio as its processor pads it."""
    segment, stride = model.config.chunk_length, model.config.chunk_stride
    audio = torch.randn(1, config.channels, 3 * stride + segment)
    model(audio, bandwidth=config.bandwidths_kbps[0])


@pytest.mark.parametrize(
    ("changes", "message", "check"),
    [
        ({"norm": "none"}, "norm is none", check_nothing),
        ({"activation": "relu"}, "activation is relu, and with an LSTM", check_activation),
        (
            {"activation": "relu"} | SEGMENTED | {"lstm_layers": 0},
            "activation is relu, and with group norms",
            check_activation,
        ),
        ({"bandwidths_kbps": ()}, "bandwidths_kbps is empty", check_nothing),
        ({"bandwidths_kbps": (0.4, 0.8)}, "num_codebooks is 4, .* 2 for 0.8 kbps", check_codebooks),
        (
            {"bandwidths_kbps": (0.7999999, 1.6)},
            "rounds the 2 codebooks of 0.7999999 kbps down to 1",
            check_lowest_rate,
        ),
        (SEGMENTED | {"overlap": 0.51}, "overlap is 0.51", check_it_runs),
        (
            SEGMENTED | {"segment_seconds": 0.167, "overlap": 0.36},
            "a segment of 100 samples is decoded to 102, which reaches past the end of the last segment, 64 \\+ 36",
            check_it_runs,
        ),
    ],
    ids=["no_norm", "relu_lstm", "relu_norm", "no_rate", "codebooks", "rounding", "overlap", "odd_segment"],
)
@torch.no_grad()
def test_what_transformers_cannot_express_is_refused(
    changes: dict[str, Any], message: str, check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers' own code fails with these settings, or makes another model."""
    config = seanet_config(**TINY | changes)
    with pytest.raises(ForeignModelError, match=message):
        check_expressible(config)
    save_model(make_codec(config.to_dict()), tmp_path / "model.safetensors")
    assert main(["export", str(tmp_path / "out"), "--to", "transformers", "--model", str(tmp_path)]) == 1
    assert re.fullmatch(
        f"codec: transformers' EncodecModel cannot express this codec: .*{message}.*\n", capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises((AssertionError, ValueError, RuntimeError, IndexError, StrictDataclassError)):
        check(transformers_model(config), config)


@pytest.mark.parametrize("role", ["network", "quantizer"])
def test_a_codec_of_other_parts_is_refused(role: str) -> None:
    config = replace(seanet_config(**TINY), **{role: {"name": "Own"}})
    with pytest.raises(ForeignModelError, match=r"expected a SEANet and a ResidualVectorQuantizer, got .*Own"):
        check_expressible(config)


def test_snake_activations_are_refused() -> None:
    with pytest.raises(ForeignModelError, match="activation is snake, expected elu or relu"):
        check_expressible(seanet_config(**TINY | {"activation": "snake"}))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.33, 0.5])
def test_segments_that_are_not_refused_run(overlap: float) -> None:
    config = seanet_config(**TINY | SEGMENTED | {"segment_seconds": 0.167, "overlap": overlap})
    check_expressible(config)
    check_it_runs(transformers_model(config), config)


# The model card


TABLES = "### speech, 5 clips\n\n| | kbit/s | PESQ ↑ |\n| --- | ---: | ---: |\n| opus 6 | 5.60 | 1.57 ± 0.20 |\n"


def run_folder(folder: Path) -> Codec:
    """A run folder with the files of training and evaluation."""
    codec = codec_of()
    save_model(codec, folder / "model.safetensors")
    settings = {
        "seed": 3,
        "init_from": "runs/other",
        "data": {"corpus": {"_target_": "data.corpora.folder", "root": "/audio", "source_weights": None}},
        "losses": {"weights": {"l1": 0.1, "mel": 2}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    records = [
        {"split": "train", "step": 10, "loss/l1": 0.5},
        {
            "split": "validation",
            "step": 10,
            "speech/mel_distance": 0.7512345,
            "speech/si_sdr_db": None,
            "codebook/dead": 0.1,
        },
        {"split": "train", "step": 20, "loss/l1": 0.4},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "evaluation.md").write_text(TABLES, encoding="utf-8")
    return codec


def test_the_card_shows_training_and_scores_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    codec = run_folder(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "out", "--to", "transformers", "--licence", "cc-by-4.0", "--model", "runs/mine"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "license": "cc-by-4.0",
        "library_name": "transformers",
        "tags": ["audio", "neural-codec", "encodec"],
    }
    for fact in (
        f"`{fingerprint(codec)}`",
        "- data: target `data.corpora.folder`, root `/audio`\n",
        "- losses and their weights: l1 `0.1`, mel `2`\n",
        "- seed: 3\n- initial weights: `runs/other`\n- steps: 20\n",
        "- last validation, at step 10: speech/mel_distance `0.7512`\n",
        f"## Scores\n\n{TABLES}",
        "Licence: cc-by-4.0.",
    ):
        assert fact in card


def test_the_card_of_a_model_without_a_run(tmp_path: Path) -> None:
    codec = codec_of()
    save_model(codec, tmp_path / "alone.safetensors")
    run_folder(tmp_path)  # of another model
    arguments = [str(tmp_path / "out"), "--to", "transformers", "--model", str(tmp_path / "alone.safetensors")]
    assert main(["export", *arguments]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Licence: not stated." in card
    assert "license" not in yaml.safe_load(card.split("---")[1])
    assert "## Training" not in card
    assert "## Scores" not in card


@pytest.mark.parametrize("kind", ["causal", "segments"])
def test_the_code_on_the_card_runs(kind: str, tmp_path: Path) -> None:
    codec = codec_of(**KINDS[kind])
    export_transformers(codec, tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("PATH", str(tmp_path)), names)
    assert names["decoded"].shape[:2] == (1, codec.config.channels)
    assert names["encoded"].audio_codes.shape[2] == codec.config.num_codebooks


def test_a_readme_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ForeignModelError, match=r"holds a README.md that was not exported from here"):
        export_transformers(codec_of(), tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("README.md", "mine")]


def test_exporting_again_replaces_the_files_and_no_others(tmp_path: Path) -> None:
    export_transformers(codec_of(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    codec = codec_of(causal=False)
    export_transformers(codec, tmp_path)
    assert fingerprint(read_foreign(tmp_path).codec) == fingerprint(codec)
    names = {"README.md", "config.json", "model.safetensors", "notes.txt", "preprocessor_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
