"""Recipes, data and the one loop that pruning, distillation, pre-training and finetuning share."""
