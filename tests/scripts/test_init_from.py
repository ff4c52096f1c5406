"""Starting from the weights of another run: which parts are loaded, and that resuming does not need that run."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hydra.utils import instantiate

from codec import Codec
from codec.checkpoint_file import read_averaged_codec
from codec.cli import main
from codec.model_file import fingerprint, inference_state, load_model
from codec.training import CheckpointStore, Trainer, load_checkpoint
from encodec_weights import encodec_model, fill_codebooks
from scripts.composition import open_run
from scripts.errors import describe_error
from tiny_command import ROOT, TINY, composed
from tiny_run import differences


def train(runs: Path, *overrides: str, steps: int = 3) -> None:
    with open_run(composed("train", *TINY, f"runs_folder={runs}", f"trainer.max_steps={steps}", *overrides)) as trainer:
        trainer.run()


def first_state(runs: Path, *overrides: str) -> dict[str, Any]:
    """The state of a new run before its first step."""
    network = any(item.startswith("codec=seanet_istft") for item in overrides)  # it has other settings
    tiny = [item for item in TINY if not (network and item.startswith("codec.network."))]
    with open_run(composed("train", *tiny, f"runs_folder={runs}", "name=fresh", *overrides)) as trainer:
        return trainer.state_dict()


def refusal(runs: Path, *overrides: str) -> str:
    with pytest.raises(ValueError, match="init_from") as caught:
        first_state(runs, *overrides)
    line = describe_error(caught.value)
    assert "\n" not in line
    assert not (runs / "fresh" / "config.yaml").exists()
    return line


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose best checkpoint is not its newest."""
    runs = tmp_path_factory.mktemp("origin")
    train(runs, "name=origin", "trainer.validate_every=3", "trainer.checkpoint_every=1", "checkpoints.keep_last=9")
    store = CheckpointStore(runs / "origin" / "checkpoints")
    first = load_checkpoint(store.paths()[1])
    store.best_path.unlink()
    shutil.copy(store.paths()[1], store.best_path)
    assert first.step == 1
    return runs / "origin"


def test_only_weights_are_loaded(origin: Path, tmp_path: Path) -> None:
    taken = first_state(tmp_path, f"init_from={origin}", "seed=5")
    newest = load_checkpoint(origin).state
    assert newest["step"] == 3
    for part in ("codec", "average", "adversarial"):
        assert differences(taken[part], newest[part]) == []
    fresh = first_state(tmp_path / "plain", "seed=5")
    for part in ("optimizer", "adversarial_optimizer", "balancer", "step", "seconds", "skipped"):
        assert differences(taken[part], fresh[part]) == [], part
    for part in ("codec", "average", "adversarial"):
        assert differences(taken[part], fresh[part]) != []
    assert bool(taken["codec"]["quantizer.is_initialized"])
    text = (tmp_path / "fresh" / "log.txt").read_text()
    assert f"starts with the weights of {origin} at step 3" in text


def test_a_checkpoint_file_can_be_given(origin: Path, tmp_path: Path) -> None:
    best = origin / "checkpoints" / "best.pt"
    taken = first_state(tmp_path, f"init_from={best}")
    assert differences(taken["codec"], load_checkpoint(best).state["codec"]) == []
    assert differences(taken["codec"], load_checkpoint(origin).state["codec"]) != []


def test_commands_accept_a_checkpoint_as_a_model(
    origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = load_model(origin / "model.safetensors")
    newest = read_averaged_codec(origin / "checkpoints" / "step_0000003.pt")
    assert fingerprint(newest) == fingerprint(saved)
    assert not newest.training
    best = str(origin / "checkpoints" / "best.pt")
    files = [str(tmp_path / name) for name in ("in.wav", "out.ecdc", "back.wav")]
    soundfile.write(files[0], audio_of_clips()[0, 0, :12_000].numpy(), 24_000)
    assert main(["encode", files[0], "-o", files[1], "--model", best]) == 0
    assert main(["decode", files[1], "-f", "-o", files[2], "--model", best]) == 0
    assert main(["export", str(tmp_path / "half"), "--to", "half", "--model", best]) == 0
    capsys.readouterr()
    assert main(["info", best]) == 0
    expected = fingerprint(read_averaged_codec(Path(best)))
    assert expected in capsys.readouterr().out
    assert expected != fingerprint(saved)
    assert main(["decode", files[1], "-f", "-o", files[2], "--model", str(origin)]) == 1, "the model of another step"
    assert expected in capsys.readouterr().err


def test_commands_refuse_what_is_not_a_checkpoint(
    origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path) -> str:
        assert main(["info", str(path)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "expected a run's folder, a file, or bundled" in refused(tmp_path / "nowhere.pt")
    corrupt = tmp_path / "corrupt.pt"
    corrupt.write_bytes((origin / "checkpoints" / "best.pt").read_bytes()[:-100])
    assert "corrupt.pt cannot be read" in refused(corrupt)
    state = load_checkpoint(origin).state
    store = CheckpointStore(tmp_path)
    for step, change in enumerate(({"average": {}}, {"codec_config": state["codec_config"] | {"filters": 4}})):
        assert f"{step}.pt does not hold the codec of a run: " in refused(store.save(step, state | change))


def test_a_resumed_run_does_not_need_the_other_run(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(origin, copy)
    settings = ("name=tuned", f"init_from={copy}")
    train(tmp_path / "whole", *settings)
    step = Trainer.train_step

    def stop(trainer: Trainer, audio: torch.Tensor) -> dict[str, torch.Tensor]:
        if trainer.step == 2:
            raise KeyboardInterrupt
        return step(trainer, audio)

    monkeypatch.setattr(Trainer, "train_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, *settings)
    monkeypatch.undo()
    shutil.rmtree(copy)
    train(tmp_path, *settings)
    states = [load_checkpoint(runs / "tuned").state for runs in (tmp_path / "whole", tmp_path)]
    assert [state.pop("seconds") > 0 for state in states] == [True, True]
    assert differences(*states) == []
    assert "resumed at step 2" in (tmp_path / "tuned" / "log.txt").read_text()


def test_a_discriminator_in_only_one_of_the_runs(origin: Path, tmp_path: Path) -> None:
    without = tuple(item for item in TINY if not item.startswith(("discriminator.", "+losses.terms.tonality")))
    plain = [*without, f"runs_folder={tmp_path}", "discriminator=none", "losses=reconstruction"]
    with open_run(composed("train", *plain, "name=plain", f"init_from={origin}", "trainer.max_steps=1")) as trainer:
        assert differences(trainer.codec.state_dict(), load_checkpoint(origin).state["codec"]) == []
        trainer.run()
    taken = first_state(tmp_path, f"init_from={tmp_path / 'plain'}")
    assert differences(taken["codec"], load_checkpoint(tmp_path / "plain").state["codec"]) == []
    assert differences(taken["adversarial"], first_state(tmp_path / "new")["adversarial"]) == []


def test_another_architecture_is_refused_in_one_line(origin: Path, tmp_path: Path) -> None:
    start = f"init_from={origin}"
    line = refusal(tmp_path, start, "codec.network.filters=4", "codec.network.causal=false")
    assert line.startswith(f"{start}: the codec there has another architecture: ")
    for difference in ("network.filters is 2 there and 4 here", "network.causal is True there and False here"):
        assert difference in line
    line = refusal(tmp_path, start, "discriminator.filters=4")
    assert line.startswith(f"{start}: the discriminator there has another architecture: ")
    assert line.endswith("weight is [2, 2, 3, 9] there and [4, 2, 3, 9] here")
    line = refusal(tmp_path, start, "discriminator.windows=[64]")
    assert "there and missing here" in line


# The encoder of the run there, with another decoder.
OTHER_DECODER = (
    "codec=seanet_istft", "codec.network.encoder.filters=2", "codec.network.encoder.strides=[10,16]",
    "codec.network.encoder.latent_dim=8", "codec.network.decoder.hop_samples=160",
    "codec.network.decoder.decoder_window_samples=320", "codec.network.decoder.decoder_width=6",
    "codec.network.decoder.decoder_depth=1", "codec.network.decoder.decoder_look_ahead=1",
)  # fmt: skip


def parts_of(state: dict[str, Any], *parts: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name.split(".")[0] in parts}


def test_parts_are_loaded_beside_another_decoder(origin: Path, tmp_path: Path) -> None:
    parts, start = "init_from_parts=[encoder,quantizer]", f"init_from={origin}"
    taken = first_state(tmp_path, *OTHER_DECODER, start, parts)
    averaged = dict(read_averaged_codec(origin / "checkpoints" / "step_0000003.pt").state_dict())
    loaded = parts_of(taken["codec"], "encoder", "quantizer")
    assert differences(loaded, parts_of(averaged, "encoder", "quantizer")) == []
    fresh = first_state(tmp_path / "plain", *OTHER_DECODER)
    assert differences(parts_of(taken["codec"], "decoder"), parts_of(fresh["codec"], "decoder")) == []
    assert differences(taken["adversarial"], fresh["adversarial"]) == []
    average = {name.removeprefix("module."): value for name, value in taken["average"].items()}
    assert int(average.pop("n_averaged")) == 0
    assert differences(average, taken["codec"]) == []
    text = (tmp_path / "fresh" / "log.txt").read_text()
    assert f"starts with encoder, quantizer of {origin} at step 3; the rest is random" in text


@pytest.mark.parametrize("parts", [(), ("init_from_parts=[encoder,quantizer,decoder]",)], ids=["all", "codec"])
def test_a_frozen_encoder_and_quantizer_keep_the_codes_to_the_bit(
    origin: Path, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    before = read_averaged_codec(origin / "checkpoints" / "step_0000003.pt")
    train(tmp_path, "name=tuned", f"init_from={origin}", "trainer.freeze=[encoder,quantizer]", *parts)
    after = load_model(tmp_path / "tuned" / "model.safetensors")
    assert torch.equal(after.encode(audio_of_clips(), 24_000), before.encode(audio_of_clips(), 24_000))
    states = [
        {k: v for k, v in inference_state(each).items() if not k.startswith("decoder.")} for each in (before, after)
    ]
    assert differences(*states) == []
    names = dict(before.decoder.named_parameters())
    assert any(not torch.equal(value, names[name]) for name, value in after.decoder.named_parameters())


def test_parts_without_trained_weights_cannot_be_frozen(origin: Path, tmp_path: Path) -> None:
    for settings, message in (
        (
            ("trainer.freeze=[encoder]", "trainer.init=random"),
            "random weights in the encoder: set init_from to load it",
        ),
        (
            ("trainer.freeze=[quantizer]", "trainer.freeze_encoder_at=1.0"),
            "random weights in the quantizer: set init_from",
        ),
        (
            (f"init_from={origin}", "init_from_parts=[encoder]", "trainer.freeze=[encoder,quantizer]"),
            "random weights in the quantizer: set init_from_parts to load it",
        ),
    ):
        assert message in refusal(tmp_path, *settings)


def test_the_discriminator_is_a_part_as_well(origin: Path, tmp_path: Path) -> None:
    start = (f"init_from={origin}", "init_from_parts=[discriminator]")
    taken = first_state(tmp_path, *start)
    assert differences(taken["adversarial"], load_checkpoint(origin).state["adversarial"]) == []
    assert differences(taken["codec"], first_state(tmp_path / "plain")["codec"]) == []
    without = ("discriminator=none", "losses=reconstruction")
    tiny = [item for item in TINY if not item.startswith(("discriminator.", "+losses.terms.tonality"))]
    settings = composed("train", *tiny, *without, *start, f"runs_folder={tmp_path}", "name=none")
    with pytest.raises(ValueError, match="there is no discriminator here"), open_run(settings):
        pass


def test_parts_that_do_not_fit_are_refused_in_one_line(origin: Path, tmp_path: Path) -> None:
    start = f"init_from={origin}"
    line = refusal(tmp_path, *OTHER_DECODER, start, "init_from_parts=[encoder,decoder]")
    assert line.startswith(f"{start}: the decoder there has another architecture: decoder.name is SEANet there and ")
    line = refusal(
        tmp_path, *OTHER_DECODER, start, "init_from_parts=[encoder]", "codec.network.encoder.padding=reflect"
    )
    assert line == (
        f"{start}: the encoder there has another architecture: encoder.padding is constant there and reflect here"
    )
    line = refusal(tmp_path, start, "init_from_parts=[quantizer]", "codec.quantizer.num_codebooks=5")
    assert "the quantizer there has another architecture: quantizer.num_codebooks is 4 there and 5 here" in line
    for parts in ("[]", "[vocoder]"):
        assert "expected at least one of the parts encoder, quantizer, " in refusal(
            tmp_path, start, f"init_from_parts={parts}"
        )
    assert "set init_from as well" in refusal(tmp_path, "init_from_parts=[encoder]")


def audio_of_clips() -> torch.Tensor:
    """One second of each of four clips. Shape: -> [1, 1, T]."""
    clips = sorted((ROOT / "data" / "clips" / "train").rglob("*.flac"))[:4]
    assert len(clips) == 4
    read = [soundfile.read(clip, 24_000, dtype="float32", always_2d=True)[0].mean(1) for clip in clips]
    return torch.from_numpy(np.concatenate(read))[None, None]


# A tiny version of the encodec package's 24 kHz model. Its weights are imported with `codec import` and fine-tuned.
IMPORTED = ("codec=encodec_24khz", "codec.bandwidths_kbps=[1.2,2.4]")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds only a model.safetensors, with codebooks that fit the latents of the clips."""
    folder = tmp_path_factory.mktemp("imported")
    codec: Codec = instantiate(composed("train", *TINY, *IMPORTED).codec, _convert_="all")
    reference = encodec_model(codec.config)
    fill_codebooks(reference, audio_of_clips())
    torch.save(reference.state_dict(), folder / "encodec.th")
    assert main(["import", str(folder / "encodec.th"), str(folder / "model")]) == 0
    assert load_model(folder / "model" / "model.safetensors").config == codec.config
    return folder / "model"


def test_an_imported_model_can_be_given(imported: Path, tmp_path: Path) -> None:
    codec = load_model(imported / "model.safetensors")
    for number, start in enumerate((imported, imported / "model.safetensors")):
        taken = first_state(tmp_path / str(number), *IMPORTED, f"init_from={start}")
        assert differences(taken["codec"], dict(codec.state_dict())) == []
        assert bool(taken["codec"]["quantizer.is_initialized"]), "k-means would put other codes in their place"
        average = {name.removeprefix("module."): value for name, value in taken["average"].items()}
        assert int(average.pop("n_averaged")) == 1
        assert differences(average, dict(codec.state_dict())) == []
        fresh = first_state(tmp_path / f"plain{number}", *IMPORTED)
        assert differences(taken["adversarial"], fresh["adversarial"]) == []
        text = (tmp_path / str(number) / "fresh" / "log.txt").read_text()
        assert f"starts with the weights of the model {start} ({fingerprint(codec)})" in text
        assert "the discriminator starts with random weights" in text


@torch.no_grad()
def quantization_error(codec: Codec, embed: torch.Tensor) -> float:
    """Mean squared quantization error of the clips' latents with these codebooks."""
    latent = codec.encode_latent(audio_of_clips())
    codec.quantizer.embed.copy_(embed)
    return float((latent - codec.quantizer.decode(codec.quantizer.encode(latent))).square().mean())


def test_fine_tuning_an_imported_model_keeps_its_codebooks_useful(imported: Path, tmp_path: Path) -> None:
    before = load_model(imported / "model.safetensors")
    old = before.quantizer.embed.clone()
    train(tmp_path, "name=tuned", *IMPORTED, f"init_from={imported}", steps=4)
    after = load_checkpoint(tmp_path / "tuned").state
    new = after["codec"]["quantizer.embed"]
    assert (new != old).flatten(1).any(dim=1).all(), "every book learns"
    # The encoder and the codebooks change together. Wrong codebook statistics would give 1000 times this error.
    # Eight seeds of the random model: 0.4 to 2.2 times.
    assert quantization_error(before, new) < 20 * quantization_error(before, old)
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()]
    untrained, *_, last = [line["speech/mel_distance"] for line in lines if line["split"] == "validation"]
    assert abs(last - untrained) < 0.1 * untrained
    assert load_model(tmp_path / "tuned" / "model.safetensors").config == before.config


def test_an_imported_model_of_another_architecture_or_a_damaged_one(imported: Path, tmp_path: Path) -> None:
    line = refusal(tmp_path, *IMPORTED, f"init_from={imported}", "codec.network.skip=identity")
    assert line.endswith("network.skip is conv there and identity here")
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes((imported / "model.safetensors").read_bytes()[:-100])
    assert "corrupt.safetensors is corrupt" in refusal(tmp_path, *IMPORTED, f"init_from={corrupt}")


def test_other_bandwidths_are_accepted(origin: Path, tmp_path: Path) -> None:
    taken = first_state(tmp_path, f"init_from={origin}", "codec.bandwidths_kbps=[2.4]")
    assert taken["codec_config"]["bandwidths_kbps"] == [2.4]


def test_no_checkpoint_or_a_damaged_one_is_refused_in_one_line(origin: Path, tmp_path: Path) -> None:
    line = refusal(tmp_path, f"init_from={tmp_path / 'nowhere'}")
    assert line.startswith(f"init_from={tmp_path / 'nowhere'}: expected a run's folder with checkpoints")
    assert line.endswith(f"got {tmp_path / 'nowhere'}")
    corrupt = tmp_path / "corrupt.pt"
    corrupt.write_bytes((origin / "checkpoints" / "best.pt").read_bytes()[:-100])
    assert "corrupt.pt cannot be read" in refusal(tmp_path, f"init_from={corrupt}")


def test_pca_does_not_replace_loaded_weights(origin: Path, tmp_path: Path) -> None:
    settings = composed(
        "train", *TINY, f"runs_folder={tmp_path}", "name=fresh", f"init_from={origin}", "trainer.init=pca",
        "trainer.max_steps=1", "optimizer.codec.lr=0.0",
    )  # fmt: skip
    with open_run(settings) as trainer:
        trainer.run()
        state = trainer.codec.state_dict()
    taken = load_checkpoint(origin).state["codec"]
    weights = [name for name in taken if not name.startswith("quantizer")]
    assert differences({k: state[k] for k in weights}, {k: taken[k] for k in weights}) == []
