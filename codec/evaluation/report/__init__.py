"""The report page of a training run: scores, charts, audio samples, diagnostics and advice.

The modules are imported one by one, because training reads diagnostics and scores and must not load matplotlib.
"""
