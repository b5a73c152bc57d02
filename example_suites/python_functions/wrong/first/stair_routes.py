# Mistake: counts which steps are taken, not in which order.
def stair_routes(stairs, broken):
    routes = [1] + [0] * stairs
    for step in (1, 2, 3):
        for stair in range(step, stairs + 1):
            if stair not in broken:
                routes[stair] += routes[stair - step]
    return routes[stairs]
