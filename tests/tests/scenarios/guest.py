"""What runs in the containers of the scenarios: a server that says who it is and whom it sees, and clients of it."""
import encodings.idna
import http.client
import http.server
import os
import signal
import socket
import socketserver
import sys
import threading
import time

LARGE = bytes(range(251)) * 40_000
ERRORS = {socket.EAI_NONAME: "NONAME", socket.EAI_NODATA: "NODATA", socket.EAI_AGAIN: "AGAIN", socket.EAI_FAIL: "FAIL"}


class Handler(http.server.BaseHTTPRequestHandler):
    # A connection stands for more than one request.
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        told = f"{socket.gethostname()} {self.client_address[0]}\n".encode()
        body = LARGE if self.path == "/large" else told
        if self.path == "/eat":
            # More than its container may have.
            body = b"".join(bytes([number]) * 2**20 for number in range(256))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words):
        pass


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


def serve():
    # As programs do that have nothing to finish; without it, the first process of a container does not end.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Server(("", 80), Handler).serve_forever()


def large():
    sys.stdout.buffer.write(LARGE)


def get(connection, path="/"):
    connection.request("GET", path)
    return connection.getresponse().read()


def ask(host, count):
    for _ in range(int(count)):
        connection = http.client.HTTPConnection(host, timeout=5)
        print(get(connection).decode().strip())
        connection.close()


def names(*asked):
    """In the words of lookup.c."""
    for name in asked:
        for label, family in ("any", socket.AF_UNSPEC), ("inet", socket.AF_INET), ("inet6", socket.AF_INET6):
            try:
                found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
                said = " ".join(entry[4][0] for entry in found)
            except socket.gaierror as error:
                said = ERRORS.get(error.errno, "OTHER")
            print(name, label, said)


def watch(host, how):
    """Asks until there is a file /stop: six at a time, or on one connection that stands."""
    for _ in range(6 if how == "anew" else 1):
        threading.Thread(target=watch_one, args=(host, how == "standing")).start()


def watch_one(host, standing):
    """A line for each answer, with the time at which it was asked for."""
    connection = None
    while not os.path.exists("/stop"):
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            if connection is None or not standing:
                connection = http.client.HTTPConnection(host, timeout=1)
                connection.connect()
                # Else http.client would open another one unseen.
                connection.auto_open = 0
            said = get(connection).decode().strip()
            if not standing:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            said = f"failed {error!r}"
        # At once, as others write there, too.
        os.write(1, f"{began:.3f} {said}\n".encode())
        time.sleep(0.005)


def files():
    """What a root file system needs for this program to run in it."""
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    here = os.path.realpath(__file__)
    print(sys.executable, *sorted({path for path in loaded if path and os.path.realpath(path) != here}), sep="\n")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
