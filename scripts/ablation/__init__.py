"""The ablation grid: its runs, progress display and report page."""
