"""Timing and statistics."""

import gc
from collections.abc import Callable

import numpy as np
import pytest

from compressor.bench.statistics import ratio, summarise
from compressor.bench.timing import Blocks, TimingConfig, interleave
from compressor.bundle import runner as bundled


class Clock:
    """A clock that only runners move, so that no test depends on this machine's speed."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def runner(self, name: str, milliseconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += round(milliseconds * 1e6)
            self.calls.append(name)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(bundled, "perf_counter", lambda: clock.now / 1e9)
    return clock


def silent(message: str, done: int, total: int) -> None:
    pass


def take(
    clock: Clock, *, blocks: int = 6, inferences: int = 4, seed: int = 0, seconds: float = 30.0, warmup: int = 10
) -> dict[str, Blocks]:
    runners = {"a": clock.runner("a", 2.0), "b": clock.runner("b", 1.0)}
    return interleave(runners, TimingConfig(blocks, inferences, seed, seconds), warmup=warmup, progress=silent)


# -- timing -----------------------------------------------------------------------------------


def test_every_runner_gets_the_same_blocks_in_milliseconds(clock: Clock) -> None:
    taken = take(clock)
    assert taken["a"] == ((2.0,) * 4,) * 6
    assert taken["b"] == ((1.0,) * 4,) * 6


def test_turns_are_consecutive_and_their_order_is_random_but_seeded(clock: Clock) -> None:
    def orders(seed: int) -> list[str]:
        clock.calls.clear()
        take(clock, blocks=16, seed=seed)
        timed = "".join(clock.calls[20:])
        blocks = [timed[i : i + 8] for i in range(0, len(timed), 8)]
        assert set(blocks) == {"aaaabbbb", "bbbbaaaa"}
        return blocks

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)


def test_a_warm_up_goes_first_and_stays_within_its_share_of_the_time(clock: Clock) -> None:
    take(clock, warmup=10)
    assert "".join(clock.calls[:20]) == "a" * 10 + "b" * 10
    clock.calls.clear()
    take(clock, warmup=10, seconds=0.01)  # 1 ms each, but never fewer than two
    assert "".join(clock.calls[:4]) == "aabb"


@pytest.mark.parametrize(
    ("seconds", "blocks", "inferences"),
    [(30, 24, 20), (0.72, 24, 10), (0.288, 24, 4), (0.12, 10, 4), (0.001, 5, 4)],
)
def test_too_little_time_cuts_inferences_then_blocks(
    clock: Clock, seconds: float, blocks: int, inferences: int
) -> None:
    taken = take(clock, blocks=24, inferences=20, seconds=seconds)["a"]  # a round takes 3 ms
    assert (len(taken), len(taken[0])) == (blocks, inferences)


def test_less_than_the_floor_is_kept_as_asked(clock: Clock) -> None:
    taken = take(clock, blocks=2, inferences=1, seconds=0.001)["a"]
    assert (len(taken), len(taken[0])) == (2, 1)


def test_no_garbage_is_collected_while_timing_and_it_is_on_again_after() -> None:
    seen: list[bool] = []
    interleave({"a": lambda: seen.append(gc.isenabled())}, TimingConfig(5, 4), warmup=2, progress=silent)
    assert not any(seen[2:])
    assert gc.isenabled()

    def broken(message: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interleave({"a": lambda: None}, TimingConfig(5, 4), progress=broken)
    assert gc.isenabled()


def test_progress_counts_the_blocks() -> None:
    seen: list[tuple[int, int]] = []
    interleave(
        {"a": lambda: None}, TimingConfig(5, 4), progress=lambda message, done, total: seen.append((done, total))
    )
    assert seen == [(i, 5) for i in range(6)]


# -- statistics -------------------------------------------------------------------------------


def blocks_of(samples: int) -> Blocks:
    return (tuple(float(i) for i in range(1, samples + 1)),)


@pytest.mark.parametrize(
    ("samples", "p90", "p99"),
    [(43, None, None), (44, 40.0, None), (458, 413.0, None), (459, 414.0, 455.0)],
)
def test_a_percentile_wants_enough_samples(samples: int, p90: float | None, p99: float | None) -> None:
    latency = summarise(blocks_of(samples), threads=2)
    assert (latency.p90, latency.p99) == (p90, p99)
    assert (latency.samples, latency.threads, latency.estimated) == (samples, 2, False)
    assert latency.median == (samples + 1) / 2
    assert latency.raw == blocks_of(samples)


def test_the_ratio_cancels_what_both_share() -> None:
    drift = np.linspace(1, 3, 15)
    baseline = tuple((3.0 * d,) * 4 for d in drift)
    candidate = tuple((2.0 * d,) * 4 for d in drift)
    median, (low, high) = ratio(baseline, candidate, seed=0)
    assert median == pytest.approx(1.5)
    assert (low, high) == pytest.approx((1.5, 1.5))


def test_the_interval_holds_the_truth_and_is_seeded() -> None:
    def noisy(scale: float, seed: int) -> Blocks:
        noise = np.random.default_rng(seed).lognormal(0, 0.1, (24, 20))
        return tuple(map(tuple, (scale * noise).tolist()))

    median, (low, high) = ratio(noisy(2.0, 0), noisy(1.0, 1), seed=3)
    assert low <= median <= high
    assert low < 2.0 < high
    assert (median, (low, high)) == ratio(noisy(2.0, 0), noisy(1.0, 1), seed=3)


def test_one_outlier_in_a_block_moves_nothing() -> None:
    calm = ((1.0, 1.0, 1.0),) * 9
    disturbed = (*calm[:8], (1.0, 1.0, 500.0))
    assert ratio(calm, disturbed, seed=0) == (1.0, (1.0, 1.0))
