# Mistake: the edges of the grid are walls.
MOVES = {"N": (-1, 0), "E": (0, 1), "S": (1, 0), "W": (0, -1)}


def drive(grid, commands):
    row, column, facing = 0, 0, "E"
    for command in commands:
        if command == "R":
            facing = "ESWN"["NESW".index(facing)]
        elif command == "L":
            facing = "WNES"["NESW".index(facing)]
        else:
            down, right = row + MOVES[facing][0], column + MOVES[facing][1]
            if 0 <= down < len(grid) and 0 <= right < len(grid[0]) and grid[down][right] != "#":
                row, column = down, right
    return [row, column, facing]
