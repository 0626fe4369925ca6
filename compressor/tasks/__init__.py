"""What a network is for, a task a file: its data, metric, export, losses, report and parity.

The contract is `compressor.core.Task`; besides it, every task has ``fits``, by which `find_task` chooses.
"""

from compressor.tasks._evidence import Evidence
from compressor.tasks._find import agreement_task, find_task, profile_for
from compressor.tasks._user_metric import METRIC, with_metric

__all__ = ["METRIC", "Evidence", "agreement_task", "find_task", "profile_for", "with_metric"]
