"""The teacher: a model file that was read, its task, its preprocessing, and the data that fits it."""

from compressor.teacher._load import load_teacher
from compressor.teacher._network import sample_sizes
from compressor.teacher._of_plan import teacher_of
from compressor.teacher._teacher import Teacher

__all__ = ["Teacher", "load_teacher", "sample_sizes", "teacher_of"]
