"""A background process whose answers show what the transport does: `echo.py [--idle S] [--stuck S] SOCKET LOCK`."""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from residents import until

from colbertz.errors import UserError
from colbertz.resident.process import become
from colbertz.resident.server import Call, Limits
from colbertz.resident.wire import Message


class Echo:
    """Answers with what it was asked, or does what the request says."""

    def answer(self, call: Call) -> Message:
        request = call.request
        if "touch" in request:
            Path(request["touch"]).touch()
        if "progress" in request:
            for done in range(request["progress"]):
                call.progress(done, request["progress"], "files")
        match call.action:
            case "die":
                os._exit(1)
            case "refuse":
                raise UserError("no such field: colour")
            case "bug":
                raise ZeroDivisionError("division by zero")
            case "wait":  # until the client has gone, which it tells by a file
                call.cancelled.wait()
                Path(request["cancelled"]).touch()
            case "until":
                until(Path(request["file"]).exists)
            case "hang":
                time.sleep(3600)
        return {
            "request": request,
            "wait_s": call.wait_s,
            "pid": os.getpid(),
            "session": os.getsid(0),
            "cwd": str(Path.cwd()),
            "streams": [str(Path(f"/proc/self/fd/{number}").readlink()) for number in (0, 1)],
        }

    def facts(self) -> Message:
        return {"folders": ["/somewhere"]}

    def is_busy(self) -> bool:
        return False

    def stop(self) -> None:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--idle", type=float, default=60)
    parser.add_argument("--stuck", type=float, default=60)
    parser.add_argument("--look", type=float, default=5)
    parser.add_argument("socket")
    parser.add_argument("lock")
    args = parser.parse_args()
    become(Path(args.socket), Path(args.lock), Echo, Limits(args.idle, args.stuck, args.look))
    sys.exit(0)
