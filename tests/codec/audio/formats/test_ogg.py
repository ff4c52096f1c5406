"""Ogg files that are joined or cut, and FLAC in Ogg."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audio_bytes import encoded, noise, read_in_all_ways
from codec.audio import AudioFileError, open_audio, read_range, resample
from codec.audio.decoders import open_decoder

A = {sub: encoded(noise(90_000, 2), "OGG", sub, 48_000) for sub in ("VORBIS", "OPUS")}
B = {sub: encoded(noise(70_000, 2, seed=4), "OGG", sub, 48_000) for sub in A}
MONO = {sub: encoded(noise(10_000, 1, seed=5), "OGG", sub, 24_000) for sub in A}


FLAC = encoded(noise(50_000, 2, seed=6), "FLAC", rate=48_000)


def page(number: int, flags: int, packet: bytes) -> bytes:
    """A page with one packet of less than 65 kB. Its checksum is left out, because it is not checked."""
    lacing = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
    head = b"OggS\0" + bytes([flags]) + bytes(8) + (7).to_bytes(4, "little") + number.to_bytes(4, "little") + bytes(4)
    return head + bytes([len(lacing)]) + lacing + packet


def ogg_flac(flac: bytes, packet_bytes: int = 3000) -> bytes:
    """FLAC in Ogg, see RFC 9639, section 10.1. Packets are frames there, here they are pieces of any size."""
    first = b"\x7fFLAC\1\0\0\1" + flac[:42]
    packets = [first, *(flac[at : at + packet_bytes] for at in range(42, len(flac), packet_bytes))]
    flags = [2, *[0] * (len(packets) - 2), 4]
    return b"".join(
        page(number, flag, packet) for number, (flag, packet) in enumerate(zip(flags, packets, strict=True))
    )


def test_flac_in_ogg_is_read(tmp_path: Path) -> None:
    whole = decoded(FLAC)
    without_total = (int.from_bytes(FLAC[18:26], "big") >> 36 << 36).to_bytes(8, "big")
    for data, expected in (
        (ogg_flac(FLAC), whole),
        (ogg_flac(FLAC[:18] + without_total + FLAC[26:]), whole),
        (ogg_flac(FLAC) * 2, np.concatenate([whole, whole])),
        (b"ID3\3\0\0\0\0\1\0" + bytes(128) + ogg_flac(FLAC, 50_000), whole),
    ):
        samples, notes = read_in_all_ways(tmp_path / "a.oga", data)
        np.testing.assert_array_equal(samples, expected)
        assert notes == []


def test_flac_in_ogg_whose_end_is_missing_is_read_to_its_last_frame(tmp_path: Path) -> None:
    data = ogg_flac(FLAC)
    for cut in (len(data) // 2, data.rfind(b"OggS"), len(data) - 20):
        samples, notes = read_in_all_ways(tmp_path / "a.oga", data[:cut])
        assert 20_000 < len(samples) < 50_000
        np.testing.assert_array_equal(samples, decoded(FLAC)[: len(samples)])
        assert len(notes) == 1
        assert f"The end of the stream is missing: it ends after {len(samples)} samples" in notes[0]


def decoded(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]


@pytest.mark.parametrize("sub", A)
def test_joined_files_are_read_one_after_the_other(tmp_path: Path, sub: str) -> None:
    for links in ([A], [A, B], [A, A], [B, A, B]):  # also streams of one number
        data = [link[sub] for link in links]
        samples, notes = read_in_all_ways(tmp_path / "a.ogg", b"".join(data))
        np.testing.assert_array_equal(samples, np.concatenate([decoded(link) for link in data]))
        assert notes == []


@pytest.mark.parametrize("sub", A)
def test_another_rate_and_other_channels_are_converted_to_those_of_the_first(tmp_path: Path, sub: str) -> None:
    samples, notes = read_in_all_ways(tmp_path / "a.ogg", A[sub] + MONO[sub])
    rate = soundfile.info(io.BytesIO(MONO[sub])).samplerate  # libsndfile decodes Opus at the rate it was made from
    second = resample(torch.from_numpy(decoded(MONO[sub]).T), rate, 48_000).expand(2, -1).T
    np.testing.assert_allclose(samples[90_000:], second.numpy(), rtol=0, atol=2e-6)
    np.testing.assert_array_equal(samples[:90_000], decoded(A[sub]))
    assert len(notes) == 1
    assert f"Stream 2 of 2 has 1 channels at {rate} Hz." in notes[0]


def test_channels_that_cannot_be_converted_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.ogg").write_bytes(encoded(noise(5000, 6), "OGG", rate=48_000) + A["VORBIS"])
    with pytest.raises(AudioFileError, match=r"a\.ogg: stream 2 of 2 has 2 channels, the first 6"):
        open_audio(tmp_path / "a.ogg")


@pytest.mark.parametrize("sub", A)
def test_a_missing_end_is_said(tmp_path: Path, sub: str) -> None:
    data, whole = A[sub], decoded(A[sub])
    last = data.rfind(b"OggS")
    cuts = {last: "no page is marked as its last", len(data) - 20: "its last page is cut", last * 2 // 3: "is cut"}
    for cut, said in cuts.items():
        samples, notes = read_in_all_ways(tmp_path / "a.ogg", data[:cut])
        assert 20_000 < len(samples) < 90_000
        np.testing.assert_allclose(samples, whole[: len(samples)], rtol=0, atol=2e-6)
        assert len(notes) == 1
        assert notes[0].startswith("The end of the stream is missing: ")
        assert said in notes[0]


@pytest.mark.parametrize("sub", A)
def test_a_missing_end_of_one_of_joined_streams_is_said(tmp_path: Path, sub: str) -> None:
    half = A[sub][: len(A[sub]) * 2 // 3]
    for data, number in ((half + B[sub], 1), (B[sub] + half, 2)):
        samples, notes = read_in_all_ways(tmp_path / "a.ogg", data)
        assert 90_000 < len(samples) < 150_000
        assert notes == [f"The end of stream {number} of 2 is missing: its last page is cut."]


def test_a_stream_without_audio_is_said(tmp_path: Path) -> None:
    samples, notes = read_in_all_ways(tmp_path / "a.ogg", A["OPUS"][:1000] + B["OPUS"])
    np.testing.assert_array_equal(samples, decoded(B["OPUS"]))
    assert notes[0] == "The end of stream 1 of 2 is missing: its last page is cut."
    assert notes[1].startswith("Stream 1 of 2 is not read: not audio")


def test_bytes_behind_the_last_page_are_no_stream(tmp_path: Path) -> None:
    samples, notes = read_in_all_ways(tmp_path / "a.ogg", A["VORBIS"] + b"TAG" + bytes(125))
    assert (len(samples), notes) == (90_000, [])


@pytest.mark.parametrize("sub", A)
def test_six_channels_are_mixed_in_their_own_order(tmp_path: Path, sub: str) -> None:
    tone = 0.3 * np.sin(np.arange(24_000) * 2 * np.pi * 440 / 48_000)
    for channel, sides in enumerate([(1, 0), (1, 1), (0, 1), (1, 0), (0, 1)]):  # FL FC FR BL BR; LFE is left out
        audio = np.zeros((24_000, 6))
        audio[:, channel] = tone
        (tmp_path / "a.ogg").write_bytes(encoded(audio, "OGG", sub, 48_000))
        mixed = read_range(tmp_path / "a.ogg", 48_000, 2, 8000, 16_000)
        level = mixed.square().mean(1).sqrt()
        assert [bool(value > 0.03) for value in level] == [bool(side) for side in sides]


@pytest.mark.parametrize("links", [1, 2])
def test_parts_of_the_last_page_equal_the_whole(links: int) -> None:
    """libvorbis is off by up to 128 samples after a seek into a last page whose end is trimmed."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(links):
        buffer = io.BytesIO()
        soundfile.write(buffer, 0.3 * rng.standard_normal(30_000 + 17 * number), 24_000, format="OGG", subtype="VORBIS")
        files.append(buffer.getvalue())
    decoder = open_decoder(io.BytesIO(b"".join(files)), "x.ogg", None)
    whole = decoder.decode(0, decoder.frames).copy()
    assert len(whole) == sum(30_000 + 17 * number for number in range(links))
    for start in range(0, len(whole), 701):
        np.testing.assert_array_equal(decoder.decode(start, len(whole)), whole[start:])
