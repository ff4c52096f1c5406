"""The .ecdc format of the encodec package: header, segments, arithmetic coder and language model."""
