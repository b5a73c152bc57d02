# Mistake: turns right for `L` too.
MOVES = {"N": (-1, 0), "E": (0, 1), "S": (1, 0), "W": (0, -1)}


def drive(grid, commands):
    row, column, facing = 0, 0, "E"
    for command in commands:
        if command in "LR":
            facing = "ESWN"["NESW".index(facing)]
        else:
            down = (row + MOVES[facing][0]) % len(grid)
            right = (column + MOVES[facing][1]) % len(grid[0])
            if grid[down][right] != "#":
                row, column = down, right
    return [row, column, facing]
