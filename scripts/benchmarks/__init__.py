"""The comparisons that benchmark.py offers; the only code that runs the reference itself."""
