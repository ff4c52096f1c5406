"""The ablation of balancing strategies: the grid of runs, one run, the progress display and the report."""
