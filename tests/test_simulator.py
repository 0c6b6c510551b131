"""Two thousand worlds: whatever the network, the clock and the crashes do, what was promised holds."""

import pytest

from tests.simulator import play

WORLDS = 2000
AT_ONCE = 50


@pytest.mark.parametrize("first", range(0, WORLDS, AT_ONCE))
def test_no_world_breaks_a_promise(first):
    """I1 to I5 and I10 under lost, refused, unanswered, late and repeated requests, crashes, freezes, two workers."""
    broken = {}
    for seed in range(first, first + AT_ONCE):
        try:
            faults = play(seed)
        except AssertionError as error:
            faults = [str(error)]
        if faults:
            broken[seed] = faults[:3]

    assert not broken, "\n".join(f"seed {seed}: {faults}" for seed, faults in broken.items())


@pytest.mark.soak
@pytest.mark.parametrize("first", range(100_000, 120_000, AT_ONCE))
def test_no_world_breaks_a_promise_in_the_long_run(first):
    """Ten times as many worlds."""
    test_no_world_breaks_a_promise(first)
