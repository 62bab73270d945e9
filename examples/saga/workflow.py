"""A trip is booked step by step. What fails, or is cancelled, undoes what was done, in reverse order."""

import durable
from tasks import book_car, book_flight, book_hotel, undo


async def main(city: str = "Lisbon", budget: int = 1000):
    done = []
    try:
        for book in (book_flight, book_hotel, book_car):
            booking = await book(city, budget)
            done.append(booking)
            budget -= booking["price"]
            durable.set_status({"booked": len(done), "left": budget})
    except BaseException as error:  # Cancelled too: durable cancel ID
        undone = [await undo(booking) for booking in reversed(done)]
        if isinstance(error, durable.Cancelled):
            raise
        return {"status": "undone", "why": str(error), "undone": undone}
    return {"status": "booked", "bookings": done, "left": budget}
