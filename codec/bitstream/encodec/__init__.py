"""The .ecdc format of the encodec package: header, arithmetic coder and language model."""
