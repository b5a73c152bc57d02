# Mistake: builds in rounds; what becomes possible within a round has to wait for the next.
from graphlib import CycleError, TopologicalSorter


def build_order(needs):
    sorter = TopologicalSorter(needs)
    try:
        sorter.prepare()
    except CycleError:
        return None
    order = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return order
