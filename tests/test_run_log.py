"""The run's log: one short line a pass, and the traceback of what ended the run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from compressor.core import Record
from compressor.run_log import describe_pass, log_to


def record(**metrics: object) -> Record:
    return Record("verify", {}, 12.34, False, metrics, ())


def test_a_pass_is_described_by_the_metrics_that_are_one_value() -> None:
    ladder = [{"from": "torch", "to": "fp32", "agreement": 1.0}] * 500
    line = describe_pass(record(ladder=ladder, agreement=0.998765432, bits=8, engine="ready", nested={"a": 1}, no=None))
    assert line == "verify: 12.3 s, agreement=0.9988, bits=8, engine=ready"


def test_a_cached_pass_says_so() -> None:
    assert describe_pass(Record("lower", {}, 1.0, True, {}, ())) == "lower: 1.0 s (cached)"


def test_no_line_is_longer_than_200_characters() -> None:
    line = describe_pass(record(**{f"metric_{i}": i / 7 for i in range(100)}))
    assert 150 < len(line) <= 200
    assert line.endswith(", …")
    assert describe_pass(record(text="x" * 1000)) == "verify: 12.3 s, …"


def test_the_log_holds_what_was_logged_and_what_ended_it(tmp_path: Path) -> None:
    logger = logging.getLogger("compressor.somewhere")

    def run() -> None:
        with log_to(tmp_path / "logs"):
            logger.info("%s", describe_pass(record(bits=8)))
            raise KeyError("surprise")

    with pytest.raises(KeyError):
        run()
    logger.info("after the run")
    text = (tmp_path / "logs" / "run.log").read_text()
    assert "INFO compressor.somewhere: verify: 12.3 s, bits=8\n" in text
    assert "KeyError: 'surprise'" in text
    assert "after the run" not in text
