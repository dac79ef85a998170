"""The meter's half of the benchmark: grants without a database, on the core of the others."""

import asyncio
import os
import threading

from inference import grants
from portal.lib import env

if __name__ == "__main__":
    environment = env.read({"MODELPORT_HOME": os.environ["MODELPORT_HOME"]})
    environment.make_run_dir()
    socket = environment.meter_socket
    asyncio.run(
        grants.serve(socket, "postgresql:///none?host=/nonexistent", print, threading.Event())
    )
