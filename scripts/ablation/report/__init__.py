"""The report of an ablation: one HTML page and results.csv."""

from scripts.ablation.report.page import write_ablation_report

__all__ = ["write_ablation_report"]
