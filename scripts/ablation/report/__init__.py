"""The report page of an ablation."""
