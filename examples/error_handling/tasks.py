import durable


def book_flight(city):
    return f"flight to {city}"


@durable.function(max_attempts=3, backoff="50ms..1s")
def book_hotel(city, nights):
    """The line is bad: only the third try gets through."""
    if durable.attempt() < 3:
        raise ConnectionError(f"no answer (try {durable.attempt()})")
    return f"{nights} nights in {city}"


class SoldOut(ValueError):
    pass


@durable.function(retries=0)
def book_car(city):
    if city == "Venice":
        raise SoldOut(f"no cars in {city}")
    return f"car in {city}"


def cancel(booking):
    print(f"cancelled: {booking}")
