"""Benchmarks; bash scripts/bench.sh runs them. Each prints medians and can write all figures as JSON."""
