# Mistake: goes round a single row twice.
def rotate_ring(grid, turns):
    bottom, right = len(grid) - 1, len(grid[0]) - 1
    ring = [(0, column) for column in range(right)]
    ring += [(row, right) for row in range(bottom)]
    ring += [(bottom, column) for column in range(right, 0, -1)]
    ring += [(row, 0) for row in range(bottom, 0, -1)]
    numbers = [grid[row][column] for row, column in ring]
    for place, (row, column) in enumerate(ring):
        grid[row][column] = numbers[(place - turns) % len(ring)]
    return grid
