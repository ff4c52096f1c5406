"""What libsndfile reads wrongly or not at all: headers without a length, MP3 frames, joined and truncated streams.

Each module finds out what a file really contains. libsndfile then decodes the file, or a `View` of it with a correct
header.
"""

from codec.audio.formats.flac import inspect_flac
from codec.audio.formats.mpeg import MpegFrames
from codec.audio.formats.ogg import inspect_ogg
from codec.audio.formats.sizes import inspect_au, inspect_caf, inspect_nist
from codec.audio.formats.view import View
from codec.audio.formats.wav import WavHeader, inspect_wav, read_wav_header

__all__ = [
    "MpegFrames",
    "View",
    "WavHeader",
    "inspect_au",
    "inspect_caf",
    "inspect_flac",
    "inspect_nist",
    "inspect_ogg",
    "inspect_wav",
    "read_wav_header",
]
