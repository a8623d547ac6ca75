"""Fetches a file with the TFTP client of scapy: python3 scapy_get.py HOST FILE TO

It makes every packet itself, and knows IPv4, blocks of 512 bytes, no options, and at most 65535 blocks.
"""

import socket
import sys

from scapy.config import conf
from scapy.layers.tftp import TFTP_read
from scapy.supersocket import L3RawSocket

host, file, to = sys.argv[1:]
# What is sent to the loopback must come by the kernel's own way.
conf.L3socket = L3RawSocket
# Without a socket at its port the kernel would answer for it that nobody is there.
ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ours.bind(("", 0))
got = TFTP_read(file, host, sport=ours.getsockname()[1]).run()
with open(to, "wb") as out:
    out.write(got)
