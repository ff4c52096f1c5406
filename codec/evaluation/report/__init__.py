"""The pages of training runs: a report per run with sounds, scores, charts and advice, and the list of all runs.

Python collects what a page shows. The scripts in `assets` draw spectrograms and charts in the browser and play.
"""
