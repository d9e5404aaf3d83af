import sys
import urllib.request

order = urllib.request.Request(sys.argv[1], b'{"quantity":1}', {"Content-Type": "application/json"})
with urllib.request.urlopen(order) as answer:
    print(answer.read().decode())
