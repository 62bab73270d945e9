"""What the workflows of the differential suite call; the engine's side of the suite answers the same."""


def echo(value):
    return value


def add(a, b):
    return a + b


def double(value):
    return 2 * value


def fail(message):
    raise ValueError(message)


def missing(key):
    raise KeyError(key)


def words(text):
    return text.split()


def options(a, *, b=2):
    return [a, b]
