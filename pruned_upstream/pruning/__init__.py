"""Structured pruning: gates that learn what to keep, the size they are held to, and the cut."""
