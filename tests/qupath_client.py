"""Stands for wsi-seg where scripts for QuPath call it: hands a request to the test, and its answer back.

python -I -S qupath_client.py SOCKET qupath --request
"""

import json
import socket
import sys

if sys.argv[2:] != ["qupath", "--request"]:
    sys.exit(f"not as scripts call wsi-seg: {sys.argv[2:]}")
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    connection.sendall(sys.stdin.buffer.read())
    connection.shutdown(socket.SHUT_WR)
    answer = b""
    while piece := connection.recv(2**16):
        answer += piece
head, _, content = answer.partition(b"\n")
code, said = json.loads(head)
sys.stderr.write(said)
sys.stdout.buffer.write(content)
sys.exit(code)
