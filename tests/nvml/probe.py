"""Reads cases from stdin, opens and reads the watched device in each, prints what came.

A case is {"wanted": ..., "env": {...}, "reads": n}. It runs where LD_LIBRARY_PATH finds the
stand-in: the real binding loads it.
"""

import json
import logging
import os
import sys

import torch

from vae_dist.telemetry.choose import open_device


class Kept(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def run(case: dict) -> dict:
    kept = Kept()
    logger = logging.getLogger("vae_dist.telemetry")
    logger.handlers = [kept]
    logger.propagate = False
    os.environ.update(case.get("env", {}))
    try:
        device = open_device(case.get("wanted", "auto"), torch.device("cpu"))
        records = [device.read() for _ in range(case.get("reads", 1))]
        device.close()
        result = {"index": device.index, "uuid": device.uuid, "card": device.card}
        result |= {"name": device.name, "records": records, "error": None}
    except ValueError as error:
        result = {"error": str(error)}
    finally:
        for name in case.get("env", {}):
            del os.environ[name]
    return result | {"warnings": kept.messages}


print(json.dumps([run(case) for case in json.load(sys.stdin)]))
