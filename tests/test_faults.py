"""The quick part of the scoreboard: no try ends silently wrong, in a hang, in a traceback, or with bytes lost.

`python tests/faults` makes the whole of it. Here every kind is a test; its failures show the try that did not survive.
"""
import os

import pandas as pd
import pytest
from faults.board import BytesLost, Kind, SilentlyWrong, try_kind
from faults.kinds import KINDS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
BAD = ["silent_wrong", "hangs", "tracebacks", "bytes_lost"]


@pytest.mark.takes(8)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.quick], ids=lambda kind: kind.name.replace(" ", "_"))
def test_every_try_survives(kind):
    row, complaints = try_kind(kind, quick=True)
    assert not complaints, "\n\n".join(complaints)
    assert row["survived"] == kind.quick


def test_what_does_not_survive_is_counted_by_what_became_of_it():
    def attempt(scene, rng, i, folder):
        if i == 0:
            raise SilentlyWrong("another result")
        if i == 1:
            raise BytesLost(7, "thesis.txt")
        if i == 2:
            raise KeyError("a traceback")
        if i == 3:
            os._exit(3)
        while i == 4:
            pass
        return "right"
    row, complaints = try_kind(Kind("bad", "nothing", 7, 7, attempt, limit=2.))
    assert [row[name] for name in BAD] == [1, 1, 2, 7]
    assert row["survived"] == 2
    assert len(complaints) == 5
