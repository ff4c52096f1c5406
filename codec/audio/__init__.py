"""Audio in and out: the only way it enters or leaves, for training, commands, evaluation and tokens.

Files and pipes are read at any sampling rate and with any number of channels. There is one resampler and one rule for
channels, so a codec is given later what it was trained on.
"""

from codec.audio.channels import convert_channels
from codec.audio.files import (
    AUDIO_SUFFIXES,
    FoundFiles,
    Skipped,
    describe_skipped,
    error_text,
    find_audio,
    find_files,
    readable,
)
from codec.audio.levels import Levels
from codec.audio.manifest import ManifestError, ManifestLine, read_manifest
from codec.audio.pipe import AudioPipe, RawFormat, RawWriter, open_audio, wav_pipe_writer
from codec.audio.reader import AudioFile, AudioReader, read_header, read_range
from codec.audio.resampling import ResamplingFilter, StreamResampler, resample, resampled_length
from codec.audio.source import AudioFileError, AudioHeader, AudioSource
from codec.audio.writer import AudioSink, AudioWriter, write_audio, writing_audio

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioFile",
    "AudioFileError",
    "AudioHeader",
    "AudioPipe",
    "AudioReader",
    "AudioSink",
    "AudioSource",
    "AudioWriter",
    "FoundFiles",
    "Levels",
    "ManifestError",
    "ManifestLine",
    "RawFormat",
    "RawWriter",
    "ResamplingFilter",
    "Skipped",
    "StreamResampler",
    "convert_channels",
    "describe_skipped",
    "error_text",
    "find_audio",
    "find_files",
    "open_audio",
    "read_header",
    "read_manifest",
    "read_range",
    "readable",
    "resample",
    "resampled_length",
    "wav_pipe_writer",
    "write_audio",
    "writing_audio",
]
