# Mistake: the ball rests for one step at each edge.
def bounce(width, height, steps):
    def position(size):
        place = steps % (2 * size)
        return min(place, 2 * size - 1 - place)

    return [position(width), position(height)]
