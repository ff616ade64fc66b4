"""What people see of a run while it runs."""

from __future__ import annotations

from dnafeat.cluster.board import TOKENISING, Queue


def test_shards_are_counted_where_they_are_also_when_they_are_begun_again() -> None:
    queue = Queue(3)
    assert queue.counts == {"waiting": 3, "tokenising": 0, "waiting for an encoder": 0, "encoding": 0, "done": 0}
    for shard in ("a", "b"):
        queue.begin(TOKENISING + shard)
    queue.begin(TOKENISING + "a")
    assert queue.counts == {"waiting": 1, "tokenising": 2, "waiting for an encoder": 0, "encoding": 0, "done": 0}
    for shard in ("a", "b"):
        queue.finish(TOKENISING + shard)
    queue.begin("a")
    assert queue.counts == {"waiting": 1, "tokenising": 0, "waiting for an encoder": 1, "encoding": 1, "done": 0}
    queue.begin("a")
    queue.finish("a")
    assert queue.counts == {"waiting": 1, "tokenising": 0, "waiting for an encoder": 1, "encoding": 0, "done": 1}
    # What came of it was lost with its node.
    queue.begin(TOKENISING + "a")
    assert queue.counts == {"waiting": 1, "tokenising": 1, "waiting for an encoder": 1, "encoding": 0, "done": 0}
