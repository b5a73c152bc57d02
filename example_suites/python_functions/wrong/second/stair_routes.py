# Mistake: does not notice that the last stair is broken.
from functools import cache


def stair_routes(stairs, broken):
    @cache
    def routes_from(stair):
        if stair == stairs:
            return 1
        if stair > stairs or stair in broken:
            return 0
        return sum(routes_from(stair + step) for step in (1, 2, 3))

    return routes_from(0)
