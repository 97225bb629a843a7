"""``--part``: which share of some work is this task's, as in a Slurm array."""

from __future__ import annotations


class PartOf:
    """The rule of a field that says NUMBER/COUNT; see `data_pipeline.checks`."""

    def fault(self, value: str) -> str | None:
        """What is wrong with a value, or None."""
        task, _, tasks = value.partition("/")
        if task.isdecimal() and tasks.isdecimal() and int(task) < int(tasks):
            return None
        return "give NUMBER/COUNT, as 0/8 to 7/8"


def part_of(value: str) -> tuple[int, int]:
    """This task's number, from 0, and how many there are, of a value that was checked."""
    task, _, tasks = value.partition("/")
    return int(task), int(tasks)
