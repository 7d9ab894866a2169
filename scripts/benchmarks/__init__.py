"""The comparisons of benchmark.py, with the peers that they run."""
