"""Attacks that stay: mutated files of every format, kills at random moments, pairs of launches, full disks.

A short form runs with the suite (`test_hostile.py`). The long one is a command:

    PYTHONPATH=tests python -m hostile --files 10000 --kills 100
"""
