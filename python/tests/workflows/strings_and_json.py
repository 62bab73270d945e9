import json
import re
from tasks import words


async def main():
    found = await words("one  two three")
    return json.loads(json.dumps({"n": len(found), "r": re.sub("o", "0", found[0]), "j": "-".join(found)}))
