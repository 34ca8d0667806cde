"""The sum does not depend on being told of every chunk: calls are cut while their chunk is being stored."""

import asyncio

import pytest

from fedhe.he.params import DEFAULT_PARAMS
from fedhe.he.seal_sums import SealSums
from fedhe.server import aggregator, places
from fedhe.server.aggregator import Aggregator, Listener
from fedhe.server.blobs import BlobStore
from fedhe.server.summing import SumTask

SITES = ("A", "B", "C")
CHUNKS = 3
TASK = SumTask("job", 1, 1, SITES, CHUNKS, DEFAULT_PARAMS, b"k" * 16, b"c" * 32, 0)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("told", [(), ("A",), SITES])
def test_a_released_sum_is_made_of_all_chunks_that_are_stored(tmp_path, monkeypatch, told):
    monkeypatch.setattr(aggregator, "sum_chunk", lambda _task, index, *_: b"sum of chunk %d" % index)
    blobs, finished = BlobStore(tmp_path), []

    async def run():
        done = asyncio.Event()

        async def end(task, info):
            finished.append((task, info.chunks))
            done.set()

        summing = Aggregator(blobs, Listener(end, None, None), SealSums(DEFAULT_PARAMS, 2), workers=2)
        summing.start(TASK)
        for site in SITES:
            for index in range(CHUNKS):
                blobs.put(places.update("job", 1, 1, site), index, f"{site} {index}".encode())
                if site in told:
                    summing.chunk_arrived("job", 1, 1, site, index)
        await asyncio.sleep(0)
        summing.release("job")
        await done.wait()
        await summing.close()

    asyncio.run(run())
    assert finished == [(TASK, CHUNKS)]
    assert blobs.get(places.sum_("job", 1, 1), 2)[0] == b"sum of chunk 2"
