"""The study checks itself: what must hold of any measurement of this program, whatever it measured.

A check that found nothing to look at says so; it never counts as passed.
"""

from check import Check
from checks_loss import (
    base_loss,
    first_loss,
    floor,
    parity,
    quality_gain,
    quality_own,
    quality_parity,
    skipped,
    supervised,
)
from checks_speed import fsdp_memory, memory_parts, physics, rates, repeats, same_bits
from facts import Facts

ALL = (
    first_loss,
    base_loss,
    floor,
    supervised,
    parity,
    quality_gain,
    quality_parity,
    quality_own,
    fsdp_memory,
    memory_parts,
    same_bits,
    rates,
    physics,
    skipped,
    repeats,
)


def run_all(facts: Facts) -> list[Check]:
    return [check(facts) for check in ALL]
