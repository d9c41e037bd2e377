"""Many runs of one recipe: every combination of the values that are varied, each in a folder of its own.

    SWEEP/
      README.md            what each file is, and how the sweep goes on
      report.html          tables, plots, and the way to each run's own page
      target-0.5_seed-0/   a point: the run folder, named after what is varied; `superb/` in it holds its scores
      jobs/                logs of submitit
      results.csv          one line per point
      results.yaml         the same, and means over seeds
      times.json           milliseconds of each shape, all measured in turn on the machine that collects
      trade_off*.png       quality against size and time (PARP: against sparsity), error bars over seeds

A finished point is never run again, one that was interrupted goes on, and one that fails does not stop the others.
"""

from .grid import Axis, Scoring, Sweep, plan
from .running import Outcome, run_sweep

__all__ = ["Axis", "Outcome", "Scoring", "Sweep", "plan", "run_sweep"]
