"""The losses of a training, one a file; a profile names each by the file's name.

A loss's module imports nothing of torch at module level: a whole plan is checked before torch is loaded.
"""

from compressor.losses._loss import NEEDS, Adapting, Learned, Loss, Outputs, Shapes
from compressor.losses._objective import Objective, objective

__all__ = ["NEEDS", "Adapting", "Learned", "Loss", "Objective", "Outputs", "Shapes", "objective"]
