"""The report page of a training run: scores, curves, samples and diagnostics."""
