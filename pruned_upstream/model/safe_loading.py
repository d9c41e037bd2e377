"""What torch's safe loader may build besides tensors and plain containers, and for how long."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def allowed_by_torch(*classes: type) -> AbstractContextManager:
    """torch's safe loader reads these classes too, for a while.

    At its end torch's own context forgets all that it was given, also what was allowed before: so it is given the rest.
    """
    known = torch.serialization.get_safe_globals()
    return torch.serialization.safe_globals([cls for cls in classes if cls not in known])
