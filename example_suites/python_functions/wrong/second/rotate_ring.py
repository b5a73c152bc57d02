# Mistake: turns the wrong way.
def rotate_ring(grid, turns):
    bottom, right = len(grid) - 1, len(grid[0]) - 1
    if bottom == 0 or right == 0:
        ring = [(row, column) for row in range(bottom + 1) for column in range(right + 1)]
    else:
        ring = [(0, column) for column in range(right)]
        ring += [(row, right) for row in range(bottom)]
        ring += [(bottom, column) for column in range(right, 0, -1)]
        ring += [(row, 0) for row in range(bottom, 0, -1)]
    numbers = [grid[row][column] for row, column in ring]
    for place, (row, column) in enumerate(ring):
        grid[row][column] = numbers[(place + turns) % len(ring)]
    return grid
