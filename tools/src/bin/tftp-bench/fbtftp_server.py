# The static server of fbtftp's README, with its name resolved within the root.
import os
import sys

from fbtftp.base_handler import BaseHandler, ResponseData
from fbtftp.base_server import BaseServer


class FileResponseData(ResponseData):
    def __init__(self, path):
        self._size = os.stat(path).st_size
        self._reader = open(path, "rb")

    def read(self, n):
        return self._reader.read(n)

    def size(self):
        return self._size

    def close(self):
        self._reader.close()


class StaticHandler(BaseHandler):
    def __init__(self, server_addr, peer, path, options, root, stats_callback):
        self._root = root
        super().__init__(server_addr, peer, path, options, stats_callback)

    def get_response_data(self):
        return FileResponseData(os.path.join(self._root, self._path))


class StaticServer(BaseServer):
    def __init__(self, address, port, root):
        self._root = root
        super().__init__(address, port, retries=3, timeout=5)

    def get_handler(self, server_addr, peer, path, options):
        return StaticHandler(server_addr, peer, path, options, self._root, lambda stats: None)


StaticServer(sys.argv[1], int(sys.argv[2]), sys.argv[3]).run()
