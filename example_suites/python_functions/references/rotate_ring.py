def rotate_ring(grid: list[list[int]], turns: int) -> list[list[int]]:
    bottom, right = len(grid) - 1, len(grid[0]) - 1
    if bottom == 0 or right == 0:
        ring = [(row, column) for row in range(bottom + 1) for column in range(right + 1)]
    else:
        ring = [(0, column) for column in range(right)]
        ring += [(row, right) for row in range(bottom)]
        ring += [(bottom, column) for column in range(right, 0, -1)]
        ring += [(row, 0) for row in range(bottom, 0, -1)]
    result = [list(row) for row in grid]
    for place, (row, column) in enumerate(ring):
        to_row, to_column = ring[(place + turns) % len(ring)]
        result[to_row][to_column] = grid[row][column]
    return result
