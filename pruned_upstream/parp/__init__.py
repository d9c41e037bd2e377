"""PARP and its baselines: unstructured magnitude pruning inside a finetuning run (Lai et al., NeurIPS 2021)."""
