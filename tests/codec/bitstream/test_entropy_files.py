"""Entropy coding from the command line, and the file of the model it may need."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file, save_file

from codec.bitstream.entropy.coders import SYNC_FRAMES
from codec.bitstream.entropy.model_file import ENTROPY_NAME, EntropyFileError, EntropyModel
from codec.bitstream.entropy.network import CodeTransformer, EntropyConfig
from codec.bitstream.reader import BitstreamReader
from codec.cli import main
from codec.coding.file_codec import FileCodec
from codec.model import Codec
from coding_inputs import KINDS, TINY, save_tiny, tiny_codec
from entropy_inputs import CODEC, SMALL, by_rule, codes_of, made_up

SIZE = EntropyConfig(TINY["codebooks"], TINY["codebook_size"], 20, dim=16, layers=1, heads=2, hidden=16)
CODINGS = ("fixed", "adaptive", "transformer")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each with an entropy model beside the codec's."""
    folder = tmp_path_factory.mktemp("runs")
    found = {kind: save_tiny(kind, folder) for kind in KINDS}
    for kind, run in found.items():
        EntropyModel.of(made_up(SIZE), tiny_codec(kind).fingerprint()).save(Path(run) / ENTROPY_NAME)
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line on stderr of a command that must exit with 1."""

    def failing(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error.strip()

    return failing


def write_noise(path: str, seconds: float, sample_rate: int = 24_000, channels: int = 1) -> None:
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * sample_rate), channels))
    soundfile.write(path, audio.astype(np.float32), sample_rate, subtype="FLOAT")


def header_of(path: str) -> dict[str, object]:
    data = Path(path).read_bytes()
    header: dict[str, object] = json.loads(data[9 : 9 + struct.unpack(">I", data[5:9])[0]])
    return header


@pytest.mark.parametrize(("kind", "seconds"), [("causal", 7.0), ("segments", 0.8), ("whole", 1.0)])
def test_all_codings_decode_to_the_same_audio(runs: dict[str, str], here: Path, kind: str, seconds: float) -> None:
    config = tiny_codec(kind).config
    write_noise("in.wav", seconds, config.sample_rate, config.channels)
    heard = {}
    for coding in CODINGS:
        assert main(["encode", "in.wav", "out.ecdc", "--coding", coding, "--checkpoint", runs[kind]]) == 0
        assert main(["decode", "out.ecdc", "back.wav", "--checkpoint", runs[kind]]) == 0
        assert header_of("out.ecdc")["coding"] == coding
        heard[coding] = Path("back.wav").read_bytes()
    assert heard["fixed"] == heard["adaptive"] == heard["transformer"]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("kind", ["causal", "causal_no_lstm", "segments", "whole"])
def test_a_part_decodes_to_what_the_whole_has_there(
    runs: dict[str, str], here: Path, monkeypatch: pytest.MonkeyPatch, kind: str, coding: str
) -> None:
    """With sync points every 75 frames: three blocks of a stream, one segment of half a second."""
    monkeypatch.setitem(SYNC_FRAMES, coding, 75)
    config = tiny_codec(kind).config
    write_noise("in.wav", 2.3 if config.causal else 1.6, config.sample_rate, config.channels)
    options = ["--coding", coding, "--checkpoint", runs[kind]] + (["--block-frames", "25"] if config.causal else [])
    assert main(["encode", "in.wav", "out.ecdc", *options]) == 0
    assert main(["decode", "out.ecdc", "whole.wav", "--checkpoint", runs[kind]]) == 0
    whole = soundfile.read("whole.wav")[0]
    for start in (0.2, 2.2) if config.causal else (0.2, 1.3):
        part = ["--start", str(start), "--duration", "0.1", "--checkpoint", runs[kind]]
        assert main(["decode", "out.ecdc", "part.wav", *part]) == 0
        first = round(start * config.sample_rate)
        want = whole[first : first + round(0.1 * config.sample_rate)]
        np.testing.assert_allclose(soundfile.read("part.wav")[0], want, rtol=0, atol=2**-14)


def test_the_default_is_the_best_that_there_is(runs: dict[str, str], here: Path) -> None:
    write_noise("in.wav", 0.5)
    plain = here / "plain"
    plain.mkdir()
    tiny_codec("causal").save(plain / "model.safetensors")
    for run, options, coding in [
        (runs["causal"], [], "transformer"),
        (str(plain), [], "adaptive"),
        (str(plain), ["--entropy", f"{runs['causal']}/{ENTROPY_NAME}"], "transformer"),
        (runs["causal"], ["--block-frames", "2"], "fixed"),
        (runs["causal"], ["--block-frames", "2", "--coding", "adaptive"], "adaptive"),
    ]:
        assert main(["encode", "in.wav", "out.ecdc", "--checkpoint", run, *options]) == 0
        assert header_of("out.ecdc")["coding"] == coding
        assert main(["decode", "out.ecdc", "back.wav", "--checkpoint", runs["causal"]]) == 0


@pytest.mark.parametrize(
    ("options", "sync_blocks"),
    [
        (["--coding", "fixed"], 1),
        (["--coding", "adaptive"], 8),
        (["--coding", "transformer"], 2),
        (["--block-frames", "4"], 128),
        (["--block-frames", "3000", "--coding", "adaptive"], 1),
    ],
)
def test_the_sync_distance_stands_in_the_header(
    runs: dict[str, str], here: Path, options: list[str], sync_blocks: int
) -> None:
    write_noise("in.wav", 0.5)
    assert main(["encode", "in.wav", "out.ecdc", "--checkpoint", runs["causal"], *options]) == 0
    assert header_of("out.ecdc")["sync_blocks"] == sync_blocks


def test_an_entropy_model_that_is_missing_or_another_is_named(
    runs: dict[str, str], here: Path, fails: Callable[..., str]
) -> None:
    write_noise("in.wav", 0.5)
    run = runs["causal"]
    assert main(["encode", "in.wav", "out.ecdc", "--checkpoint", run]) == 0
    mine = str(header_of("out.ecdc")["entropy_model"])
    plain = here / "plain"
    plain.mkdir()
    codec = tiny_codec("causal")
    codec.save(plain / "model.safetensors")
    decode = ["decode", "out.ecdc", "back.wav", "--checkpoint", str(plain)]
    missing = f"codec: out.ecdc needs the entropy model {mine}: no entropy model at {plain}/{ENTROPY_NAME}"
    assert fails(*decode) == missing
    assert main([*decode, "--entropy", f"{run}/{ENTROPY_NAME}"]) == 0

    other = EntropyModel.of(made_up(SIZE, seed=1), codec.fingerprint())
    other.save(plain / ENTROPY_NAME)
    error = fails(*decode)
    assert error == f"codec: out.ecdc was encoded with entropy model {mine}, but {plain}/{ENTROPY_NAME} is " + (
        other.fingerprint
    )
    foreign = EntropyModel.of(made_up(SIZE), CODEC)
    foreign.save(plain / ENTROPY_NAME)
    belongs = f"{plain}/{ENTROPY_NAME} belongs to codec {CODEC}, not to {codec.fingerprint()}"
    assert belongs in fails(*decode)
    assert belongs in fails("encode", "in.wav", "new.ecdc", "--checkpoint", str(plain))
    (plain / ENTROPY_NAME).write_bytes(b"\x00" * 50)
    assert "is damaged or no safetensors file" in fails(*decode)
    (plain / ENTROPY_NAME).unlink()
    error = fails("encode", "in.wav", "new.ecdc", "--coding", "transformer", "--checkpoint", str(plain))
    assert error == f"codec: no entropy model at {plain}/{ENTROPY_NAME}"
    assert not Path("new.ecdc").exists()
    # The other codings do not ask for it.
    assert main(["encode", "in.wav", "out.ecdc", "--checkpoint", str(plain)]) == 0
    assert main(decode) == 0


def test_info_says_what_the_coding_saves(runs: dict[str, str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write("silence.wav", np.zeros(240_000), 24_000)
    model = ["--checkpoint", runs["causal"]]
    for coding, said in (("fixed", "coding              fixed\n"), ("adaptive", "% less than fixed\n")):
        assert main(["encode", "silence.wav", "out.ecdc", "--coding", coding, *model]) == 0
        capsys.readouterr()
        assert main(["info", "out.ecdc"]) == 0
        assert said in capsys.readouterr().out
    write_noise("short.wav", 0.01)
    assert main(["encode", "short.wav", "out.ecdc", *model]) == 0
    capsys.readouterr()
    assert main(["info", "out.ecdc"]) == 0
    out = capsys.readouterr().out
    assert f"transformer with entropy model {header_of('out.ecdc')['entropy_model']}: " in out
    assert "% more than fixed" in out  # the words of the range coder


def test_a_signal_in_one_piece_takes_several_blocks(runs: dict[str, str], here: Path) -> None:
    write_noise("in.wav", 7.5)
    assert main(["encode", "in.wav", "out.ecdc", "--coding", "fixed", "--checkpoint", runs["whole"]]) == 0
    with Path("out.ecdc").open("rb") as file:
        blocks = list(BitstreamReader(file, "out.ecdc").stored_blocks())
    assert [block.frames for block in blocks] == [512, 51]


@pytest.mark.parametrize("frames", [0, -1, 4097])
def test_blocks_of_impossible_sizes_are_refused(
    runs: dict[str, str], here: Path, fails: Callable[..., str], frames: int
) -> None:
    write_noise("in.wav", 0.5)
    error = fails("encode", "in.wav", "out.ecdc", "--block-frames", str(frames), "--checkpoint", runs["causal"])
    assert error == f"codec: blocks of {frames} frames cannot be made: 1 to 4096 are possible"


def test_segments_too_long_for_a_block_are_refused(here: Path) -> None:
    write_noise("in.wav", 0.1)
    codec = Codec(tiny_codec("segments", segment_seconds=60.0).config).eval()
    with pytest.raises(ValueError, match="blocks of 9000 frames cannot be made: 1 to 4096 are possible"):
        FileCodec(codec).encode(Path("in.wav"), Path("out.ecdc"), 4.8)


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    model = EntropyModel.of(made_up(), CODEC)
    for name in ("a", "b"):
        model.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = EntropyModel.load(tmp_path / "a")
    assert (back.fingerprint, back.codec, back.config) == (model.fingerprint, CODEC, SMALL)
    for name, (values, bits) in model.tables.items():
        np.testing.assert_array_equal(back.tables[name].values, values)
        assert back.tables[name].bits == bits


def test_the_fingerprint_tells_models_apart() -> None:
    model = by_rule()
    changed = {name: table._replace(values=table.values.copy()) for name, table in model.tables.items()}
    changed["head"].values[2, 3, 4] += 1
    finer = model.tables | {"head": model.tables["head"]._replace(bits=3)}
    wider = EntropyConfig(**(SMALL.to_dict() | {"context_frames": 10}))
    others = [
        EntropyModel(SMALL, changed, CODEC),
        EntropyModel(SMALL, finer, CODEC),
        EntropyModel(SMALL, model.tables, "f" * 16),
        by_rule(wider),
    ]
    assert len({model.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert by_rule().fingerprint == model.fingerprint


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 300.0, 0.0])
def test_weights_of_any_size_are_rounded_to_sixteen_bits(scale: float) -> None:
    network = made_up()
    with torch.no_grad():
        network.head *= scale
    table = EntropyModel.of(network, CODEC).tables["head"]
    assert table.values.dtype == np.int16
    assert 0 <= table.bits <= 24
    want = network.head.transpose(1, 2).detach().numpy() / np.log(2)
    np.testing.assert_allclose(table.values / 2.0**table.bits, want, rtol=0, atol=0.51 * 2.0**-table.bits)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t, d: t.pop("book"), "book"),
        (lambda t, d: t.update(more=t["book"]) or d["bits"].update(more=3), "tables more are missing or too many"),
        (lambda t, d: t.update(book=t["book"].astype(np.int32)), r"book must be int16 \(3, 16\), got int32 \(3, 16\)"),
        (lambda t, d: t.update(bias=t["bias"][:2]), r"bias must be int32 \(3, 16\), got int32 \(2, 16\)"),
        (lambda t, d: d["bits"].update(head=25), "head has 25 bits after the point, 0 to 24 are possible"),
        (lambda t, d: d["bits"].update(head=-1), "head has -1 bits"),
        (lambda t, d: d["config"].update(dim=1 << 20), "dim must be a whole number from 1 to 1024, got '1048576'"),
        (lambda t, d: d["config"].update(heads=3), "dim 16 must be a multiple of heads, 3"),
        (lambda t, d: d["config"].update(layers=True), "layers must be a whole number"),
        (lambda t, d: d["config"].update(mood="blue"), "mood"),
        (lambda t, d: d.pop("codec"), "codec"),
        (lambda t, d: d.update(bits=[]), "does not fit its own config"),
    ],
)
def test_files_that_contradict_themselves_are_refused(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray], dict[str, dict[str, int]]], object], sentence: str
) -> None:
    path = tmp_path / ENTROPY_NAME
    model = by_rule()
    model.save(path)
    tables, description = load_file(path), json.loads(model._description())
    change(tables, description)
    save_file(tables, path, metadata={"entropy": json.dumps(description)})
    with pytest.raises(EntropyFileError, match=sentence):
        EntropyModel.load(path)


def test_other_safetensors_are_no_entropy_model(tmp_path: Path) -> None:
    tiny_codec("causal").save(tmp_path / "model.safetensors")
    with pytest.raises(EntropyFileError, match="describes no entropy model"):
        EntropyModel.load(tmp_path / "model.safetensors")


def test_codes_of_all_books_fit_the_largest_network_that_is_allowed() -> None:
    """Shapes only: the check of a file's tables makes no weights."""
    config = EntropyConfig(1024, 1 << 16, 1 << 13, dim=1024, layers=64, heads=64, hidden=1 << 13)
    with torch.device("meta"):
        network = CodeTransformer(config)
    assert sum(parameter.numel() for parameter in network.parameters()) > 1 << 36
    assert codes_of(2, 3).shape == (2, 3)
