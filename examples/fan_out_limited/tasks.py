import time


def fetch(page):
    time.sleep(0.02)
    if page % 10 == 7:
        raise ValueError(f"page {page} is gone")
    return 100 + page
