import sys

import requests

answer = requests.post(sys.argv[1], data='{"quantity":1}', headers={"Content-Type": "application/json"})
answer.raise_for_status()
print(answer.text)
