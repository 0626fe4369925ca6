"""The losses of a training, one a file: a profile names each by the file's name.

A loss's module stays light to import (nothing of torch at module level), so that a whole plan is
checked in its first second.
"""

from compressor.losses._loss import NEEDS, Adapting, Loss, Outputs, Shapes
from compressor.losses._objective import Objective, objective

__all__ = ["NEEDS", "Adapting", "Loss", "Objective", "Outputs", "Shapes", "objective"]
