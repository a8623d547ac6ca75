"""Fetches a file with tftpy: python3 tftpy_get.py HOST FILE TO [BLKSIZE]

It knows IPv4, blksize and tsize.
"""

import sys

import tftpy

host, file, to = sys.argv[1:4]
options = {"blksize": int(sys.argv[4]), "tsize": 0} if len(sys.argv) > 4 else {}
tftpy.TftpClient(host, 69, options).download(file, to)
