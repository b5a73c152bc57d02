DIRECTIONS = "NESW"
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


def drive(grid: list[str], commands: str) -> list:
    row = column = 0
    facing = DIRECTIONS.index("E")
    for command in commands:
        if command == "F":
            down, right = MOVES[facing]
            ahead = ((row + down) % len(grid), (column + right) % len(grid[0]))
            if grid[ahead[0]][ahead[1]] != "#":
                row, column = ahead
        else:
            facing = (facing + (1 if command == "R" else -1)) % 4
    return [row, column, DIRECTIONS[facing]]
