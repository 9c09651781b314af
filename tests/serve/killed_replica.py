"""`python killed_replica.py`: kills one of two replicas behind HAProxy under load; prints what its clients got."""

import asyncio
import json
import os
import signal

from subjects import sound

from jobs.benchmarks.inference import bundle_or_preset
from jobs.benchmarks.serving_load import Load, Tally, find_replicas
from jobs.serve import APPLICATION, serving
from serve.app import ServeArgs


async def kill_under_load(url: str) -> Tally:
    load = Load(url, sound(7.0))
    asking = asyncio.create_task(load.closed(8.0, 16))
    await asyncio.sleep(3.0)
    os.kill(find_replicas(APPLICATION)[0], signal.SIGKILL)
    tally = await asking
    await load.close()
    return tally


def main() -> None:
    with (
        bundle_or_preset("quartznet5x5") as bundle,
        serving(ServeArgs(bundle=bundle, num_replicas=2, cpus_per_replica=0.5), port=0, haproxy=True) as url,
    ):
        print(json.dumps(asyncio.run(kill_under_load(url)).statuses))


if __name__ == "__main__":
    main()
