"""Audio input and output: files, pipes and resampling."""
