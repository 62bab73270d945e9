"""Book a trip. What cannot be booked undoes what was."""

from tasks import book_car, book_flight, book_hotel, cancel


async def main(city: str = "Lisbon", nights: int = 3):
    booked = []
    try:
        booked.append(await book_flight(city))
        booked.append(await book_hotel(city, nights))
        booked.append(await book_car(city))
    except ValueError as error:
        for booking in reversed(booked):
            await cancel(booking)
        return {"status": "cancelled", "why": str(error), "undone": len(booked)}
    return {"status": "booked", "bookings": booked}
