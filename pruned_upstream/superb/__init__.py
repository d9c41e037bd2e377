"""The ten SUPERB tasks: running them, scoring them, comparing and submitting the result."""
