# Mistake: the ball comes in again on the other side.
def bounce(width, height, steps):
    return [steps % width, steps % height]
