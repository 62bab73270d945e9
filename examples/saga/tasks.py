import durable


def _book(what, price, city, budget):
    if price > budget:
        raise durable.NonRetryable(f"the {what} in {city} costs {price}, and {budget} are left")
    return {"what": what, "city": city, "price": price}


def book_flight(city, budget):
    return _book("flight", 450, city, budget)


def book_hotel(city, budget):
    return _book("hotel", 320, city, budget)


def book_car(city, budget):
    return _book("car", 140, city, budget)


def undo(booking):
    print(f"undone: {booking['what']} in {booking['city']}")
    return booking["what"]
