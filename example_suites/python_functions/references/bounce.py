def bounce(width: int, height: int, steps: int) -> list[int]:
    def position(size: int) -> int:
        if size == 1:
            return 0
        last = size - 1
        return last - abs(last - steps % (2 * last))

    return [position(width), position(height)]
