def stair_routes(stairs: int, broken: list[int]) -> int:
    routes = [0, 0, 1]  # two places below the first stair spare a special case
    for stair in range(1, stairs + 1):
        routes.append(0 if stair in broken else sum(routes[-3:]))
    return routes[-1]
