"""A call without auth code, in Python."""
import os
import urllib.request

api = os.environ.get("ORDERS_API", "http://127.0.0.1:8080")
with urllib.request.urlopen(api + "/orders", timeout=30) as answer:
    print(answer.read().decode(), end="")
