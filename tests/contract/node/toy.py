"""The toy engine of the node's tests, as text: it is run as the tenant by the node's Python."""

ENGINE = r"""
import os, signal, socket, sys, time
mode = sys.argv[1]
if mode == "crash":
    sys.exit(3)
if mode == "child":
    if os.fork() == 0:
        os.setsid()
        time.sleep(3600)
with open("log/starts", "a") as log:
    log.write("%d %s\n" % (os.getpid(), os.environ["GREETING"]))
open("config/engine.cfg").read(), open("certs/key.pem").read()
if mode == "plain":
    time.sleep(3600)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = socket.socket(socket.AF_UNIX)
if os.path.exists("run/control.sock"):
    os.unlink("run/control.sock")
server.bind("run/control.sock")
server.listen(5)
while True:
    server.accept()[0].close()
"""
