"""The process that owns exiftool: `python -m sidecar_faces.sidecar.exiftool_child PROGRAM`.

pyexiftool waits for ever where its program dies or stops, and ties the program's life to the thread that
started it. Here that is the only thread of a process that can be killed. One JSON line comes in (a list of
arguments, fixed names only), one goes out; the first line out tells the process id and the version, or what
went wrong.
"""

from __future__ import annotations

import json
import sys

import exiftool


def main(program: str) -> None:
    """Serve until standard input ends."""
    tool = exiftool.ExifTool(executable=program, common_args=[], config_file="", encoding="utf-8")
    try:
        tool.run()
        pid = tool._process.pid  # pyexiftool tells it nowhere else
        _say({"pid": pid, "version": tool.version})
    except Exception as error:  # whatever it is, the parent says it
        _say({"error": str(error) or type(error).__name__})
        return
    for line in sys.stdin:
        tool.execute(*json.loads(line))
        _say({"status": tool.last_status, "stderr": tool.last_stderr[:2000]})
    tool.terminate()


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
