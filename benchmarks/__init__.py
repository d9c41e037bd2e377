"""What is timed, side by side with peers; each module is one table: `python -m benchmarks.inference`."""
